"""Tests of the tour's checker: `python3 -m unittest discover tests/tour`."""

import contextlib
import io
import pathlib
import tempfile
import unittest

import check

README = """# Sample

```console
$ echo not in the tour
```

## Five-minute tour

Words.

```console
$ echo one; \\
    echo two
one
two
$ X=carried
```

### A part

```console
$ echo "$X 0a000000-8000-0000-8000-000000000001 at 2026-11-25T08:00:00Z"
carried 00000000-8000-0000-8000-0000000000ff at 2020-01-01T00:00:00.123Z
$ printf 'a\\nb\\nc\\n'
a
…
c
```

## After

```console
$ exit 9
```
"""


def tour(text, *arguments):
    """(exit code, what was printed) of the checker on a README."""
    with tempfile.TemporaryDirectory() as folder:
        readme = pathlib.Path(folder) / "README.md"
        readme.write_text(text, encoding="utf-8")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = check.main(["--readme", str(readme), "--cwd", folder, *arguments])
        return code, out.getvalue(), readme.read_text(encoding="utf-8")


def one(command, expected):
    return f"## Five-minute tour\n\n```console\n$ {command}\n{expected}\n```\n"


class Extract(unittest.TestCase):
    def test_only_the_tour_is_taken_and_continued_lines_are_joined(self):
        commands = [step.command for step in check.extract(README)]
        self.assertEqual(len(commands), 4)
        self.assertEqual(commands[0], "echo one; echo two")

    def test_a_block_must_begin_with_a_command(self):
        with self.assertRaises(ValueError):
            check.extract("## Five-minute tour\n```console\nno command\n```\n")


class Matches(unittest.TestCase):
    def equal(self, expected, actual):
        self.assertTrue(check.matches(expected, actual), (expected, actual))

    def differ(self, expected, actual):
        self.assertFalse(check.matches(expected, actual), (expected, actual))

    def test_placeholders_stand_for_their_kind_only(self):
        self.equal(["pid <n>, <id>"], ["pid 4711, 0a000000-8000-0000-8000-000000000001"])
        self.equal(["took <time>"], ["took 12.5 ms"])
        self.equal(["at <time>"], ["at 2026-11-25 08:00:00"])
        self.equal(["receipt r1-2f"], ["receipt r0-9"])
        self.differ(["pid <n>"], ["pid none"])
        self.differ(["id <id>"], ["id 12"])

    def test_other_words_and_numbers_must_be_equal(self):
        self.differ(["3 zones"], ["2 zones"])
        self.differ(["a"], ["a", "b"])
        self.differ(["a", "b"], ["a"])
        self.differ([], ["a"])

    def test_spaces_and_borders_of_tables_may_differ(self):
        self.equal(["| z1  | leader |", "+-----+----+"], ["| z1 |   leader |", "+----+--------+"])

    def test_an_ellipsis_is_any_text_and_any_lines(self):
        self.equal(["a … z"], ["a b c z"])
        self.equal(["a", "…", "z"], ["a", "z"])
        self.equal(["a", "…", "z"], ["a", "z", "y", "z"])
        self.differ(["a", "…", "z"], ["a", "y"])


class Tour(unittest.TestCase):
    def test_a_tour_that_runs_as_printed_passes(self):
        code, out, _ = tour(README)
        self.assertEqual(code, 0, out)
        self.assertIn("4 commands ran as the README prints", out)

    def test_a_tour_that_takes_longer_than_it_may_fails(self):
        code, out, _ = tour(one("sleep 0.2", ""), "--within", "0.1")
        self.assertEqual(code, 1)
        self.assertIn("and may take 0", out)
        code, out, _ = tour(one("cargo() { sleep 0.2; }", "$ cargo build"), "--within", "0.1")
        self.assertEqual(code, 0, out)

    def test_other_output_is_shown_beside_the_expected(self):
        code, out, _ = tour(one("echo two", "one"))
        self.assertEqual(code, 1)
        self.assertIn("printed something else", out)
        self.assertIn("    one", out)
        self.assertIn("    two", out)

    def test_a_failed_command_fails_the_tour_even_when_recording(self):
        for arguments in [(), ("--record",)]:
            code, out, _ = tour(one("false", ""), *arguments)
            self.assertEqual(code, 1)
            self.assertIn("exited with 1", out)

    def test_a_shown_exit_code_is_output(self):
        self.assertEqual(tour(one('(exit 2); echo "exit code $?"', "exit code 2"))[0], 0)

    def test_a_command_that_never_ends_is_cut_off_and_cleaned_up_after(self):
        code, out, _ = tour(one("sleep 60", ""), "--timeout", "0.2", "--cleanup", "touch cleaned")
        self.assertEqual(code, 1)
        self.assertIn("did not end in time", out)

    def test_recording_writes_what_was_printed_and_then_passes(self):
        code, _, text = tour(one("echo two; echo three", "one"), "--record")
        self.assertEqual(code, 0)
        self.assertIn("$ echo two; echo three\ntwo\nthree\n```", text)
        self.assertEqual(tour(text)[0], 0)

    def test_recording_keeps_lines_that_already_match(self):
        _, _, text = tour(one("echo pid 4711", "pid <n>"), "--record")
        self.assertIn("\npid <n>\n", text)

    def test_a_readme_without_a_tour_is_refused(self):
        self.assertEqual(tour("# Nothing\n")[0], 1)


if __name__ == "__main__":
    unittest.main()
