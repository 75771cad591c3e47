"""The commands of docs/replay.md do what the page says: they are executed, in order, and their output is compared.

A line of a `text` block has to occur in the output of the `sh` block before it, white space aside, unless it holds a
figure that depends on the machine (a decimal fraction) or an ellipsis.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.move37.conftest import ROOT, Cli

pytestmark = pytest.mark.campaign

PAGE = ROOT / "docs" / "replay.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MACHINE = re.compile(r"\d\.\d|…")
_PROGRAM = ".venv/bin/move37 "


@dataclass(frozen=True)
class Step:
    """Commands that belong together, and the lines they are said to print."""

    commands: list[str]
    lines: list[str]


def steps() -> list[Step]:
    found: list[Step] = []
    page = PAGE.read_text(encoding="utf-8")
    end = 0
    for block in _BLOCK.finditer(page):
        kind, text = block.groups()
        if kind == "sh":
            found.append(Step(text.replace("\\\n", " ").splitlines(), []))
            end = block.end()
        elif kind == "text" and page[end : block.start()].strip() == "":  # the output of the commands just above
            found[-1].lines.extend(line for line in text.splitlines() if not _MACHINE.search(line))
    return found


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.thorough
def test_every_command_of_the_page_does_what_the_page_says(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "runs")
    assert [len(step.commands) for step in steps()] == [1, 1, 1, 1, 1, 1, 2]
    for step in steps():
        output = ""
        for line in step.commands:
            command, _, remark = line.partition("  # exit code ")
            assert command.startswith(_PROGRAM)
            done = cli(*shlex.split(command.removeprefix(_PROGRAM)), expect=int(remark or 0))
            output += done.stdout + done.stderr
        assert step.lines
        printed = [squeezed(line) for line in output.splitlines()]
        for expected in step.lines:
            assert any(squeezed(expected) in line for line in printed), f"{expected!r} is not in:\n{output}"
