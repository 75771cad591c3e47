"""Replies as models write them: good, sloppy and hostile."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import analyst, coder, researcher
from agents.errors import ReplyMalformed

GOOD: dict[str, Any] = {
    "title": "A title",
    "mechanism": "Because.\nAnd so.",
    "change": "add X",
    "design": "every layer: X",
    "predictions": [{"task": "recall", "direction": "up", "size": 0.2}],
    "refuted_by": "recall not rising",
    "ablation": "Remove the convolution: recall falls back.",
    "knowledge": [],
}


def reply(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


@pytest.mark.parametrize(
    "text",
    [
        reply(),
        f"```json\n{reply()}\n```",
        f"Here it is.\n\n```\n{reply()}\n```\nDone.",
        f"~~~json\n{reply()}\n~~~",
        f"Sure: {reply()}",
        f"<think>{{'not': 'this'}}</think>\n{reply()}",
        json.dumps(GOOD, indent=2).replace("\n", "\r\n"),
    ],
)
def test_one_object_is_read(text: str) -> None:
    assert researcher.parse(text).title == "A title"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("   \n", "empty"),
        ("<think>only thoughts</think>", "empty"),
        ("I cannot help with that.", "no JSON object"),
        (reply()[:-5], "does not parse"),
        (f"```json\n{reply()}\n", "not closed"),
        (f"```json\n{reply()}\n```\n```json\n{reply()}\n```", "2 JSON blocks"),
        (reply() + reply(), "more text in braces"),
        ('{"title": "a", "title": "b"}', "twice"),
        (reply().replace("0.2", "NaN"), "NaN"),
        (reply().replace("0.2", "1e999"), "finite"),
        (reply().replace("0.2", '"0.2"'), "valid number"),
        (reply().replace("0.2", "true"), "valid number"),
        (reply().replace("0.2", "1.5"), "less than or equal to 1"),
        (reply(score=1.0), "Extra inputs"),
        (reply(title="x" * 81), "80 characters"),
        (reply(title="red \u001b[31m"), "U+001B"),
        (reply(title="evil \u202e txt"), "U+202E"),
        (reply(title="half \ud800"), "unicode"),
        (reply(title="two\nlines"), "U+000A"),
        (reply(title=" "), "empty"),
        (reply(predictions=[]), "at least 1"),
        (reply(predictions=GOOD["predictions"] * 2), "two predictions"),
        ("[" * 100_000, "characters"),
        ('{"a":' * 9_000, "does not parse"),
        (reply(mechanism="m" * 70_000), "at most"),
        ("[1, 2]", "no JSON object"),
    ],
)
def test_anything_else_is_malformed_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(ReplyMalformed) as caught:
        researcher.parse(text)
    assert why in caught.value.why
    assert caught.value.raw == text


def test_truncated_reply_is_malformed_even_if_it_parses() -> None:
    with pytest.raises(ReplyMalformed, match="token limit"):
        researcher.parse(reply(), finish_reason="length")
    with pytest.raises(ReplyMalformed, match="token limit"):
        coder.parse("```python\nx = 1\n```", finish_reason="length")


def test_predictions_for_tasks_that_are_not_measured() -> None:
    with pytest.raises(ReplyMalformed, match="recall"):
        researcher.parse(reply(), tasks=("mqar",))
    assert researcher.parse(reply(), tasks=("recall", "mqar")).predictions[0].task == "recall"


def test_analysis_effect_may_be_negative_and_an_integer() -> None:
    body = {
        "summary": "s",
        "prediction_held": "no",
        "lesson": {"claim": "c", "change": "x", "effect": -1},
        "next_test": "n",
    }
    assert analyst.parse(json.dumps(body)).lesson.effect == -1
    with pytest.raises(ReplyMalformed, match="prediction_held"):
        analyst.parse(json.dumps({**body, "prediction_held": "maybe"}))


def test_program_with_shorter_fences_inside() -> None:
    program = '"""Doc.\n\n```\ninner\n```\n"""\nx = 1\n'
    assert coder.parse(f"The program.\n\n````python\n{program}````\n").source == program


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def build_mixer(): ...", "no fenced"),
        ("```python\nx = 1\n", "not closed"),
        ("```python\nx = 1\n```\n```python\ny = 2\n```", "2 fenced blocks"),
        ("```bash\nrm -rf /\n```", "not python"),
        ("```python\n\n```", "empty"),
        (f"```python\n{'x = 1 # ' + 'y' * 300_000}\n```", "bytes"),
        ("```python\nx = '\ud800'\n```", "not valid text"),
    ],
)
def test_program_replies_that_are_malformed(text: str, why: str) -> None:
    with pytest.raises(ReplyMalformed) as caught:
        coder.parse(text)
    assert why in caught.value.why


@given(st.text(max_size=400))
def test_no_text_breaks_the_parsers(text: str) -> None:
    for parse in (researcher.parse, coder.parse, analyst.parse):
        with contextlib.suppress(ReplyMalformed):
            parse(text)


@given(st.text(alphabet=st.sampled_from('{}[]"`:,\\ntrue01.e'), max_size=200))
def test_no_almost_json_breaks_the_parsers(text: str) -> None:
    with pytest.raises(ReplyMalformed):
        researcher.parse(f"```json\n{text}\n```")
