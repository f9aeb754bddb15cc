#!/usr/bin/env python3
"""Runs the README's tour and compares what is printed with what the README shows.

The tour is every ```console block under the heading "Five-minute tour". In a block, a line that
begins with "$ " is a command (it goes on while lines end with a backslash) and the lines up to
the next command are what it prints, standard error included. All commands run in one shell, in
order, so that `cd`, variables and background jobs carry over. A command that exits non-zero is a
failure; a tour that wants to show one ends it with `; echo "exit code $?"`.

What differs from run to run is compared by kind: message ids, pop receipts, times of day and
durations match any other of their kind, whatever the README shows. Beyond that the README may
write <n> for a number, <id>, <time>, <receipt>, an ellipsis (…) for any text inside a line, and
a line of one ellipsis for any number of lines. Runs of spaces count as one; lines of a table's
border may have any length.

    check.py [--readme FILE] [--bin FOLDER] [--timeout SECONDS] [--cleanup COMMAND] [--record]

--record runs the tour and writes what was printed into the README instead of comparing.
Exit codes: 0 all equal, 1 something differs, 64 usage.
"""

import argparse
import dataclasses
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADING = "Five-minute tour"

# What differs between runs, most specific first: kind, pattern.
KINDS = [
    ("<id>", r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"),
    ("<time>", r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?"),
    ("<receipt>", r"\br[0-9a-f]+-[0-9a-f]+\b"),
    ("<duration>", r"\b\d+(\.\d+)? ?(us|µs|ms|s|min|h)\b"),
]
ANY = {
    "<n>": r"[0-9][0-9,._]*",
    "<id>": "<id>",
    "<time>": "(<time>|<duration>)",
    "<receipt>": "<receipt>",
    "<duration>": "<duration>",
    "…": ".*",
}
BORDER = re.compile(r"[-+|=─━═╌┄┆│╞╡╪╤╧┌┐└┘├┤┬┴┼ ]{4,}")


@dataclasses.dataclass
class Step:
    """One command of the tour."""

    line: int
    command: str
    expected: list
    # Lines of the README (from 0) that hold what is expected.
    span: tuple


def extract(text):
    """The steps of the tour, in order."""
    steps, in_tour, in_block, level = [], False, False, 0
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        heading = re.match(r"(#+) (.*)", line)
        if not in_block and heading:
            depth = len(heading.group(1))
            if heading.group(2).strip() == HEADING:
                in_tour, level = True, depth
            elif in_tour and depth <= level:
                in_tour = False
        elif in_tour and not in_block and line.strip() == "```console":
            in_block = True
        elif in_block and line.strip() == "```":
            in_block = False
        elif in_block and line.startswith("$ "):
            start, command = at, line[2:]
            while command.endswith("\\"):
                at += 1
                command = command[:-1] + lines[at].strip()
            end = at + 1
            while not lines[end].startswith("$ ") and lines[end].strip() != "```":
                end += 1
            steps.append(Step(start + 1, command, lines[at + 1 : end], (at + 1, end)))
            at = end - 1
        elif in_block and line.strip():
            raise ValueError(f"line {at + 1}: a console block begins with a command: {line}")
        at += 1
    if in_block:
        raise ValueError("the last console block is not closed")
    return steps


def normal(line):
    """A line with what differs between runs replaced by its kind."""
    line = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).rstrip()
    if BORDER.fullmatch(line):
        return "<border>"
    for kind, pattern in KINDS:
        line = re.sub(pattern, kind, line)
    return re.sub(r"\s+", " ", line)


def pattern(line):
    """A regular expression for a line of the README."""
    tokens = re.split("(" + "|".join(map(re.escape, ANY)) + ")", normal(line))
    return "".join(ANY.get(token, re.escape(token)) for token in tokens)


def matches(expected, actual):
    """Whether the lines printed are those expected."""
    wanted = [line for line in expected if line.strip()]
    printed = [normal(line) for line in actual if line.strip()]

    # reach: how many printed lines may have been matched so far.
    reach = {0}
    for line in wanted:
        if line.strip() == "…":
            reach = set(range(min(reach), len(printed) + 1)) if reach else set()
            continue
        want = re.compile(pattern(line))
        reach = {n + 1 for n in reach if n < len(printed) and want.fullmatch(printed[n])}
    return len(printed) in reach


class Shell:
    """One bash that runs commands in order and says how each ended."""

    def __init__(self, cwd, bin_folder):
        env = dict(os.environ, TERM="dumb", NO_COLOR="1", COLUMNS="120")
        if bin_folder:
            env["PATH"] = f"{pathlib.Path(bin_folder).resolve()}{os.pathsep}{env['PATH']}"
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.lines = queue.Queue(maxsize=100_000)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def run(self, command, timeout):
        """(lines printed, exit code); the code is None when the time ran out or bash ended."""
        mark = f"end-of-command-{uuid.uuid4().hex}"
        # The command reads nothing of what is still to be run.
        self.process.stdin.write(f"{{ {command}\n}} </dev/null; printf '\\n%s %s\\n' {mark} $?\n")
        self.process.stdin.flush()
        printed, end = [], time.monotonic() + timeout
        while True:
            try:
                line = self.lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return printed, None
            if line is None:
                return printed, None
            if line.startswith(mark):
                if printed and not printed[-1]:
                    printed.pop()
                return printed, int(line.split()[1])
            printed.append(line)

    def close(self):
        """Ends the shell and what it still runs in its own process group."""
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process.stdin.close()
        # What the tour left running may hold the other end open: then it stays with the reader.
        self.reader.join(timeout=1)
        if not self.reader.is_alive():
            self.process.stdout.close()


def difference(step, printed, code):
    """What went wrong with a step, for a person; None when nothing did."""
    if code is None:
        problem = "did not end in time, or ended the shell"
    elif code != 0:
        problem = f"exited with {code}"
    elif not matches(step.expected, printed):
        problem = "printed something else"
    else:
        return None
    show = lambda lines: "\n".join(f"    {line}" for line in lines) or "    (nothing)"
    return (
        f"README line {step.line}: `{step.command}` {problem}\n"
        f"  the README shows:\n{show(step.expected)}\n  it printed:\n{show(printed)}"
    )


def run(steps, cwd, bin_folder, timeout, compare=True, took=None):
    """Runs the steps up to the first that fails: (what each printed, what went wrong). How many
    seconds each took is added to `took`, but for builds: those are another machine's."""
    shell, outputs = Shell(cwd, bin_folder), []
    try:
        for step in steps:
            print(f"$ {step.command}", flush=True)
            begun = time.monotonic()
            printed, code = shell.run(step.command, timeout)
            if took is not None and not step.command.startswith("cargo "):
                took.append(time.monotonic() - begun)
            outputs.append(printed)
            problem = difference(step, printed, code)
            if problem and (compare or code != 0):
                return outputs, problem
        return outputs, None
    finally:
        shell.close()


def record(text, steps, outputs):
    """The README with what was printed in the place of what was expected."""
    lines = text.split("\n")
    for step, printed in reversed(list(zip(steps, outputs))):
        kept = step.expected if matches(step.expected, printed) and step.expected else printed
        lines[step.span[0] : step.span[1]] = kept
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--readme", type=pathlib.Path, default=ROOT / "README.md")
    parser.add_argument("--bin", help="folder to put first in PATH")
    parser.add_argument("--cwd", default=str(ROOT), help="where the commands run")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one command")
    parser.add_argument("--within", type=float, default=300, help="seconds for all but builds")
    parser.add_argument("--cleanup", help="command to run after a tour that failed")
    parser.add_argument("--record", action="store_true", help="write the output to the README")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as end:
        return 64 if end.code else 0
    text = options.readme.read_text(encoding="utf-8")
    try:
        steps = extract(text)
    except ValueError as problem:
        print(f"{options.readme}: {problem}")
        return 1
    if not steps:
        print(f"{options.readme}: no console block under the heading {HEADING!r}")
        return 1
    took = []
    compare = not options.record
    outputs, problem = run(steps, options.cwd, options.bin, options.timeout, compare, took)
    if not problem and sum(took) > options.within:
        problem = f"the tour took {sum(took):.0f} s, and may take {options.within:.0f}"
    if problem:
        print(problem)
        if options.cleanup:
            path = f"{options.bin}{os.pathsep}{os.environ['PATH']}" if options.bin else None
            env = dict(os.environ, PATH=path) if path else None
            subprocess.run(["bash", "-c", options.cleanup], cwd=options.cwd, env=env, check=False)
        return 1
    if options.record:
        options.readme.write_text(record(text, steps, outputs), encoding="utf-8")
    how = "" if options.record else " as the README prints"
    print(f"tour: {len(steps)} commands ran{how}, in {sum(took):.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
