"""No key survives, whatever is around it and however it is spelt."""

from __future__ import annotations

import base64
import html
import json
import string
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.redaction import SECRET_MIN_CHARS, scrubbed, scrubber
from agents.wire import redactor

KEYS = st.one_of(
    st.text(string.ascii_letters + string.digits + "-_", min_size=SECRET_MIN_CHARS, max_size=80),
    st.text(string.ascii_letters + string.digits + "-_.~+/=:&<>\"'\\%", min_size=SECRET_MIN_CHARS, max_size=60),
)
AROUND = st.text(max_size=40)


def json_escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


def wholly_percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def unicode_escaped(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda key: key,
    "upper case": str.upper,
    "header": lambda key: f"authorization: Bearer {key}",
    "repr": repr,
    "json": json_escaped,
    "json twice": lambda key: json_escaped(json_escaped(key)),
    "unicode escapes": unicode_escaped,
    "unicode escapes in json": lambda key: json_escaped(unicode_escaped(key)),
    "percent": lambda key: urllib.parse.quote(key, safe=""),
    "percent, all": wholly_percent,
    "percent twice": lambda key: urllib.parse.quote(wholly_percent(key)),
    "html": html.escape,
    "html numbers": lambda key: "".join(f"&#{ord(character)};" for character in key),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(key=KEYS, before=AROUND, after=AROUND)
def test_no_spelling_of_the_key_survives(spelling: str, key: str, before: str, after: str) -> None:
    spelt = SPELLINGS[spelling](key)
    for clean in (scrubber(key), redactor(key)):
        shown = clean(f"{before}{spelt}{after}")
        assert spelt not in shown
        assert key not in shown


@given(key=KEYS, before=st.binary(max_size=9), after=st.binary(max_size=9), urlsafe=st.booleans())
def test_base64_of_the_key_among_other_things_cannot_be_decoded(
    key: str, before: bytes, after: bytes, urlsafe: bool
) -> None:
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    header = encode(before + key.encode() + after).decode()
    shown = scrubber(key)(f"authorization: Basic {header}")
    assert "[key]" in shown
    left = shown.removeprefix("authorization: Basic ").replace("[key]", "")
    assert len(left) <= (len(before) + len(after)) * 4 // 3 + 10


def test_a_placeholder_is_a_word_and_stays() -> None:
    """Servers that check no key get "ollama", "none" or "EMPTY" as one: a program may hold these words."""
    text = "ollama serves local models; none is EMPTY"
    assert scrubber("ollama", "local", "none", "EMPTY", None, "")(text) == text
    assert "ollama" not in redactor("ollama")(text)  # a message may lose a word


def test_names_in_programs_are_no_keys() -> None:
    program = "key_padding_mask = None\nhf_model_name = sk_learn_thing\n"
    assert scrubber("sk-0123456789abcdefghij")(program) == program


def test_data_is_scrubbed_at_any_depth() -> None:
    key = "sk-0123456789abcdefghij"
    data = {"a": [{"b": f"x{key}"}, 3, None], key: {"c": (key,)}}
    assert key not in json.dumps(scrubbed(data, scrubber(key)))
    assert scrubbed(data, scrubber(key))["a"][1:] == [3, None]
