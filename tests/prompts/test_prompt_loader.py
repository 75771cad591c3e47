"""Templates and their holes, identity, and the quotation of foreign text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts import loader
from prompts.errors import HoleMismatch, TemplateMissing
from prompts.loader import PACKAGED, Prompts, fence, inline, number, signed, values


@pytest.fixture
def own(tmp_path: Path) -> Prompts:
    (tmp_path / "greeting.md.j2").write_text('Hello {{ name }}.\n{% include "coda.md.j2" %}\n')
    (tmp_path / "coda.md.j2").write_text("Yours, {{ sender.title }}")
    return Prompts(tmp_path)


def test_renders_and_ends_in_one_newline(own: Prompts) -> None:
    rendered = own.render("greeting.md.j2", name="Ada", sender={"title": "Dr B"})
    assert rendered.text == "Hello Ada.\nYours, Dr B\n"


def test_missing_and_unused_are_both_errors(own: Prompts) -> None:
    with pytest.raises(HoleMismatch) as caught:
        own.render("greeting.md.j2", name="Ada", extra=1)
    assert caught.value.missing == ("sender",)
    assert caught.value.unused == ("extra",)
    assert "greeting.md.j2" in str(caught.value)


def test_missing_attribute_is_an_error(own: Prompts) -> None:
    with pytest.raises(HoleMismatch, match="title"):
        own.render("greeting.md.j2", name="Ada", sender={})


def test_unknown_template(own: Prompts) -> None:
    with pytest.raises(TemplateMissing, match=r"nothing\.md\.j2"):
        own.render("nothing.md.j2")


def test_hash_follows_content_and_includes(tmp_path: Path) -> None:
    hashes = []
    for coda in ("Yours {{ a }}", "Yours {{ a }}", "Bye {{ a }}"):
        (tmp_path / "one.md.j2").write_text('Hi\n{% include "coda.md.j2" %}')
        (tmp_path / "coda.md.j2").write_text(coda)
        hashes.append(Prompts(tmp_path).render("one.md.j2", a=1).template_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_own_template_comes_before_the_packaged(tmp_path: Path) -> None:
    (tmp_path / "corrective.md.j2").write_text("{{ why }} {{ asked }}")
    assert Prompts(tmp_path).render("corrective.md.j2", why="a", asked="b").text == "a b\n"
    assert Prompts().render("corrective.md.j2", why="a", asked="b").text != "a b\n"


def test_every_packaged_template_parses() -> None:
    prompts = Prompts()
    for path in sorted(PACKAGED.glob("*.md.j2")):
        assert prompts._environment.get_template(path.name) is not None


@given(st.text(alphabet=st.sampled_from("`~ab\n#| "), max_size=200))
def test_nothing_ends_its_own_fence(body: str) -> None:
    lines = fence(body).split("\n")
    marks = re.match("`+", lines[0])
    assert marks is not None
    assert lines[-1] == marks[0]
    assert all(not line.lstrip().startswith(marks[0]) for line in lines[1:-1])


def test_fence_cuts_the_middle_and_says_so() -> None:
    shown = fence("start" + "x" * 10_000 + "end", cap=1000)
    assert "start" in shown
    assert "end" in shown
    assert "9008 characters cut" in shown
    assert len(shown) < 1200


@given(st.text(max_size=500))
def test_plain_text_on_a_line_is_what_going_through_it_gives(text: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loader, "_PLAIN", re.compile("(?!)"))
        whole = inline(text, 80)
    assert inline(text, 80) == whole


@given(st.text())
def test_inline_is_one_short_printable_line(text: str) -> None:
    line = inline(text, 80)
    assert len(line) <= 80
    assert len(line.splitlines()) <= 1
    assert "```" not in line
    assert "|" not in line


def test_numbers_say_what_is_missing() -> None:
    assert number(None) == "not measured"
    assert number(0.12345) == "0.123"
    assert signed(-0.0625) == "-0.062"
    assert values({"a": [0.1, 0.25]}, "a") == "0.100, 0.250"
    assert values({}, "a") == "-"
