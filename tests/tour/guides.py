#!/usr/bin/env python3
"""Runs the commands of the operating guides, each page against a lab of its own.

Every ```sh block of a page in docs/operating has a comment right before it, which the reader of
the page does not see:

    <!-- guide
    first: zoneq lab kill east
    at: west
    after: zoneq lab start east
    -->

`first` and `after` are commands that make the situation in which the guide is read, and end it; as
many as needed, in order. `at` names the region of the lab that is asked: one for all commands of
the block, or one for each. `with: 10.0.0.4:7501 = 127.0.0.1:7584` writes what this machine has in
the place of what the page shows. `lab: anew` begins with a new lab. `<!-- guide: not run, WHY -->`
says why a block cannot be run on one machine; that is printed. A block without a comment is a
failure. A block of another kind with `<!-- guide: file NAME -->` is laid into the folder in which
the commands run.

A page's lab is started by `zoneq lab up --detach` and ended when the page is over. All commands of
a page run in one shell, in a folder of their own; one that exits non-zero is a failure. The shell
knows `another_node ID ZONE [LOST]`: it starts a node that is no member yet, for region `east` of
the lab, at the ports 7480 and 7580 plus its id; node LOST is not among its peers.

    guides.py [--bin FOLDER] [--timeout SECONDS] [PAGE ...]

Exit codes: 0 all ran, 1 something did not, 64 usage.
"""

import argparse
import dataclasses
import pathlib
import re
import sys
import tempfile
import time

import check

GUIDES = check.ROOT / "docs" / "operating"
KEYS = ("first", "at", "after", "with", "lab")
# A node beside those of the lab, by the arguments of the first of them.
ANOTHER_NODE = r"""
another_node() {
    python3 - "$1" "$2" "${3:-}" <<'PYTHON'
import json, subprocess, sys
number, zone, lost = sys.argv[1:]
arguments = json.load(open("zoneq-lab/lab.json"))["nodes"][0]["args"]
own = {
    "--node-id": number,
    "--zone": zone,
    "--data-dir": f"another-{number}",
    "--grpc-listen": f"127.0.0.1:{7480 + int(number)}",
    "--peer-listen": f"127.0.0.1:{7580 + int(number)}",
    "--metrics-listen": f"127.0.0.1:{7680 + int(number)}",
}
peers = arguments[arguments.index("--peers") + 1].split(",")
own["--peers"] = ",".join(it for it in peers if it.partition("=")[0] != lost)
named = [own.get(before, it) for before, it in zip([""] + arguments, arguments)]
log = open(f"another-{number}.log", "w")
subprocess.Popen(["zoneq", *named], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
PYTHON
}
"""


@dataclasses.dataclass
class Block:
    """Commands of a guide, and the situation they are for."""

    line: int
    commands: list
    at: list = dataclasses.field(default_factory=list)
    first: list = dataclasses.field(default_factory=list)
    after: list = dataclasses.field(default_factory=list)
    # What the page shows, and what stands for it here.
    instead: list = dataclasses.field(default_factory=list)
    begins_anew: bool = False
    # Why it is not run.
    left_out: str = ""


def situation(comment, number):
    """What a comment says: (name of a file, a block without commands)."""
    block = Block(number, [])
    words = comment.strip()
    if words.startswith(": file "):
        return words.removeprefix(": file ").strip(), block
    if words.startswith(": not run, "):
        block.left_out = words.removeprefix(": not run, ").strip()
        return None, block
    for line in filter(str.strip, words.split("\n")):
        key, colon, value = line.strip().partition(": ")
        if key not in KEYS or not colon:
            raise ValueError(f"line {number}: a comment for guides says {line!r}")
        if key == "at":
            block.at = value.split()
        elif key == "with":
            block.instead.append(tuple(value.split(" = ", 1)))
        elif key == "lab":
            block.begins_anew = True
        else:
            getattr(block, key).append(value)
    return None, block


def whole(lines):
    """Commands, each with the lines it goes on in; remarks left out."""
    commands, begun = [], ""
    for line in lines:
        line = line.strip()
        if not begun and (not line or line.startswith("#")):
            continue
        begun += line
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        commands.append(begun)
        begun = ""
    return commands


def read(text):
    """The blocks of a page, and the files that it shows: name to text."""
    blocks, files = [], {}
    comment = r"<!-- guide(?P<words>(?:(?!-->).)*)-->\n"
    fence = rf"^(?:{comment})?```(?P<kind>\w*)\n(?P<body>.*?)^```$"
    for found in re.finditer(fence, text, re.M | re.S):
        line = text.count("\n", 0, found.start("body"))
        if found["words"] is None:
            if found["kind"] == "sh":
                raise ValueError(f"line {line}: the block has no comment that says how it is run")
            continue
        name, block = situation(found["words"], line)
        if name:
            files[name] = found["body"]
            continue
        block.commands = whole(found["body"].split("\n"))
        blocks.append(block)
    return blocks, files


def steps(block):
    """The commands as they are typed, with the region that each is asked of."""
    sides = block.at or [""]
    for command in block.first:
        yield command
    for number, command in enumerate(block.commands):
        side = sides[min(number, len(sides) - 1)]
        for shown, here in block.instead:
            command = command.replace(shown, here)
        yield f"ZONEQ_ENDPOINT={side} {command}" if side else command
    for command in block.after:
        yield command


def run(page, bin_folder, timeout):
    """Runs a page: what went wrong, or None."""
    blocks, files = read(page.read_text(encoding="utf-8"))
    for block in blocks:
        if block.left_out:
            print(f"{page.name}:{block.line}: not run: {block.left_out}", flush=True)
    asked = [block for block in blocks if not block.left_out]
    if not asked:
        return None
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (pathlib.Path(folder) / name).write_text(text, encoding="utf-8")
        shell = check.Shell(folder, bin_folder)
        try:
            shell.run(ANOTHER_NODE, timeout)
            for number, block in enumerate(asked):
                again = ["zoneq lab down", "rm -rf zoneq-lab"] if block.begins_anew else []
                up = [*again, "zoneq lab up --detach"] if block.begins_anew or not number else []
                for command in [*up, *steps(block)]:
                    print(f"{page.name}:{block.line}: {command}", flush=True)
                    printed, code = shell.run(command, timeout)
                    if code != 0:
                        how = "did not end in time" if code is None else f"exited with {code}"
                        said = "\n".join(f"    {line}" for line in printed)
                        return f"{page.name} line {block.line}: `{command}` {how}:\n{said}"
            return None
        finally:
            shell.run("zoneq lab down", timeout)
            shell.close()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", help="folder to put first in PATH")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for one command")
    parser.add_argument("pages", nargs="*", type=pathlib.Path, help="default: all guides")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as end:
        return 64 if end.code else 0
    begun = time.monotonic()
    pages = options.pages or sorted(GUIDES.glob("*.md"))
    for page in pages:
        try:
            problem = run(page, options.bin, options.timeout)
        except ValueError as error:
            problem = f"{page}: {error}"
        if problem:
            print(problem)
            return 1
    print(f"guides: {len(pages)} pages ran, in {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
