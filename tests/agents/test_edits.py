"""Search/replace edits: read strictly, found once or refused, and nothing else of the program is touched."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agents import coder
from agents.edits import MOST_EDITS, Edit, apply, read_edits
from agents.errors import ReplyMalformed
from evaluator import catalogue

PARENT = catalogue.source("short_convolution")


def block(*pairs: tuple[str, str]) -> str:
    return "\n".join(f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE" for old, new in pairs)


def reply(*pairs: tuple[str, str]) -> str:
    return f"A small change.\n\n```edit\n{block(*pairs)}\n```\n"


def unique_line(source: str) -> str:
    lines = source.split("\n")
    return next(line for line in lines if line.strip() and lines.count(line) == 1)


def test_an_edit_changes_its_lines_and_nothing_else() -> None:
    line = unique_line(PARENT)
    written = coder.parse(reply((line, f"{line}\n# new")), of=PARENT)
    assert written == coder.Written(PARENT.replace(line, f"{line}\n# new", 1), "edit")


def test_a_whole_program_is_always_accepted() -> None:
    written = coder.parse("```python\nx = 1\n```", of=PARENT)
    assert written == coder.Written("x = 1\n", "whole")


def test_edits_are_refused_where_none_were_asked_for() -> None:
    with pytest.raises(ReplyMalformed, match="not python"):
        coder.parse(reply((unique_line(PARENT), "x")))


SOURCE = "a = 1\nb = 2\n\nif a:\n    c = 3\n    c = 3\nd = 4\n"


@pytest.mark.parametrize(("pairs", "why"), [
    ([("e = 5", "e = 6")], "is not in the program (it begins 'e = 5')"),
    ([("    c = 3", "c")], "occurs 2 times"),
    ([("c = 3", "c")], "is not in the program"),  # another indentation is another line
    ([("a = 1\nb = 2", "x"), ("b = 2", "y")], "overlap"),
    ([("", "x")], "searches for nothing"),
    ([("a = 1", "a = 1")], "leave the program as it was"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_its_reason(pairs: list[tuple[str, str]], why: str) -> None:
    with pytest.raises(ReplyMalformed) as refused:
        coder.parse(reply(*pairs), of=SOURCE)
    assert why in refused.value.why


@pytest.mark.parametrize(("body", "why"), [
    ("", "holds no edit"),
    ("a = 1", "no such line belongs"),
    ("<<<<<<< SEARCH\na = 1\n=======\nb", "not closed"),
    ("<<<<<<< SEARCH\na = 1\n>>>>>>> REPLACE", "no such line belongs"),
    ("<<<<<<< SEARCH\n<<<<<<< SEARCH\n=======\n>>>>>>> REPLACE", "no such line belongs"),
    (block(*[("a = 1", "b")] * (MOST_EDITS + 1)), "are a new program"),
])  # fmt: skip
def test_a_block_that_is_no_list_of_edits_is_refused(body: str, why: str) -> None:
    with pytest.raises(ReplyMalformed) as refused:
        read_edits("raw", body)
    assert why in refused.value.why


def test_order_does_not_matter_and_deleting_is_possible() -> None:
    one, two = Edit(("a = 1",), ()), Edit(("d = 4",), ("d = 5", "e = 6"))
    expected = SOURCE.replace("a = 1\n", "").replace("d = 4\n", "d = 5\ne = 6\n")
    assert apply("", SOURCE, [one, two]) == apply("", SOURCE, [two, one]) == expected


lines = st.lists(st.text(alphabet="ab =\t'\"", max_size=6).filter(lambda t: t.strip()), min_size=1, max_size=12)


@given(lines, st.data())
def test_one_edit_of_a_unique_line_is_a_replacement(program: list[str], data: st.DataObject) -> None:
    stripped = [line.rstrip() for line in program]
    at = data.draw(st.integers(0, len(program) - 1))
    assume(stripped.count(stripped[at]) == 1)
    new = data.draw(lines)
    made = apply("", "\n".join(program) + "\n", [Edit((stripped[at],), tuple(new))])
    assert made == "\n".join([*program[:at], *new, *program[at + 1 :]]) + "\n"


@given(st.text(max_size=300))
def test_no_reply_breaks_the_reading(text: str) -> None:
    for body in (text, f"<<<<<<< SEARCH\n{text}\n=======\n{text}\n>>>>>>> REPLACE"):
        try:
            written = coder.parse(f"```edit\n{body}\n```", of=SOURCE)
        except ReplyMalformed:
            continue
        assert written.source.endswith("\n")
