"""Tests of what runs the operating guides: `python3 -m unittest discover tests/tour`."""

import contextlib
import io
import pathlib
import tempfile
import unittest

import guides

PAGE = """# A guide

<!-- guide
lab: anew
first: zoneq lab kill east
at: west east
with: 10.0.0.4:7501 = 127.0.0.1:7584
after: zoneq lab start east
-->
```sh
# A remark.
zoneq region failover --force
zoneq cluster add 4 \\
    --peer 10.0.0.4:7501
zoneq region status
```

<!-- guide: file day.trace -->
```
0s 20ms - up
```

<!-- guide: not run, it never ends -->
```sh
zoneq serve
```
"""


class Reading(unittest.TestCase):
    def test_a_page_is_read(self):
        blocks, files = guides.read(PAGE)
        self.assertEqual(files, {"day.trace": "0s 20ms - up\n"})
        first, second = blocks
        self.assertTrue(first.begins_anew)
        self.assertEqual(second.left_out, "it never ends")
        self.assertEqual(
            list(guides.steps(first)),
            [
                "zoneq lab kill east",
                "ZONEQ_ENDPOINT=west zoneq region failover --force",
                "ZONEQ_ENDPOINT=east zoneq cluster add 4 --peer 127.0.0.1:7584",
                "ZONEQ_ENDPOINT=east zoneq region status",
                "zoneq lab start east",
            ],
        )

    def test_a_block_that_nobody_runs_is_found(self):
        with self.assertRaisesRegex(ValueError, "line 4: the block has no comment"):
            guides.read("# A guide\n\nWords.\n```sh\nzoneq nothing\n```\n")

    def test_a_comment_that_says_something_else_is_found(self):
        with self.assertRaisesRegex(ValueError, "says 'then: zoneq"):
            guides.read("<!-- guide\nthen: zoneq lab down\n-->\n```sh\nzoneq\n```\n")


class Running(unittest.TestCase):
    def failing(self, page):
        """What a page says that is run with a program of its own in the place of zoneq."""
        with tempfile.TemporaryDirectory() as folder:
            program = pathlib.Path(folder) / "zoneq"
            program.write_text('#!/bin/sh\necho "asked $*"\n[ "$1" != bad ]\n', encoding="utf-8")
            program.chmod(0o755)
            path = pathlib.Path(folder) / "page.md"
            path.write_text(page, encoding="utf-8")
            with contextlib.redirect_stdout(io.StringIO()):
                return guides.run(path, folder, 20)

    def test_a_command_that_fails_is_told_with_what_it_printed(self):
        page = "<!-- guide\n-->\n```sh\nzoneq good\nzoneq bad luck\n```\n"
        told = self.failing(page)
        self.assertIn("page.md line 3: `zoneq bad luck` exited with 1", told)
        self.assertIn("asked bad luck", told)

    def test_a_page_whose_commands_work_is_fine(self):
        self.assertIsNone(self.failing("<!-- guide\n-->\n```sh\nzoneq good\n```\n"))


if __name__ == "__main__":
    unittest.main()
