"""Cassettes: what was recorded comes back to the byte, what was not is refused with the nearest, no key is written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agents.cassettes import Cassette, CassetteModel, Request, decode, encode
from agents.contexts import Message
from agents.errors import CassetteInvalid, CassetteMiss, ModelUnavailable
from agents.gateway import Completion, ModelKind
from agents.replies import Hypothesis
from agents.wire import Usage

KEY = "sk-planted-0123456789abcdef"
MESSAGES = (Message("system", "contract\nline two"), Message("user", "propose\nsomething"))

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
COUNTS = st.integers(0, 2**40)
REQUESTS = st.builds(
    Request,
    model=st.text(),
    messages=st.lists(
        st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=st.text()), max_size=4
    ).map(tuple),
    schema=st.none() | st.text(),
    seed=st.none() | st.integers(0, 2**31),
)
COMPLETIONS = st.builds(
    Completion,
    text=st.text()
    | st.sampled_from(["\u2028\u2029\x00\x85", "\ud800", "a\r\nb\rc", '{"usage": {"prompt_tokens": 1}}']),
    model=st.text(),
    usage=st.builds(Usage, COUNTS, COUNTS, st.booleans()),
    latency_s=st.floats(0, 1e6),
    finish_reason=st.text(),
    cost_usd=st.none() | st.floats(0, 1e6),
    raw=st.dictionaries(st.text(), PLAIN, max_size=4),
)


class Counting:
    """Answers every call differently."""

    kind: ModelKind = "language-model"
    name = "m"

    def __init__(self, says: str = "reply") -> None:
        self.says = says
        self.calls = 0

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        seed: int | None = None,
        deadline_s: float,
    ) -> Completion:
        self.calls += 1
        await asyncio.sleep(0)
        raw: dict[str, Any] = {"id": f"id-{self.calls}", "usage": {"prompt_tokens": 3}, "echo": f"Bearer {KEY}"}
        return Completion(f"{self.says} {self.calls}", self.name, Usage(3, 4), 0.25, "stop", 1e-6 / 3, raw)

    async def close(self) -> None:
        pass


@given(request=REQUESTS, completion=COMPLETIONS)
def test_a_line_says_what_was_written(request: Request, completion: Completion) -> None:
    line = encode(request.key, request, completion)
    assert decode(line) == (request.key, request, completion)
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert encode(*decode(line)) == line


@given(line=st.binary(max_size=60) | PLAIN.map(lambda value: json.dumps(value).encode()))
def test_any_other_line_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


async def test_a_recording_replays_to_the_byte_without_a_model(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "c.jsonl"
    inner = Counting()
    recorder = CassetteModel(Cassette.opened(path, {"salt": "s"}), inner)
    seeds = (1, 2, None)
    recorded = [await recorder.complete(MESSAGES, schema=Hypothesis, seed=seed, deadline_s=5) for seed in seeds]
    assert (recorder.name, recorder.kind, inner.calls) == ("m", "language-model", 3)
    await recorder.close()
    content = path.read_bytes()
    player = CassetteModel(Cassette.read(path), None, name="m")
    assert player.kind == "replay"
    replayed = [await player.complete(MESSAGES, schema=Hypothesis, seed=seed, deadline_s=5) for seed in seeds]
    await player.close()
    assert replayed == recorded
    assert path.read_bytes() == content
    assert Cassette.read(path).labels == {"salt": "s"}
    assert Cassette.read(path).models == ["m"]


async def test_a_recording_goes_on_where_it_stopped_and_asks_for_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    first = CassetteModel(Cassette.opened(path), Counting("first"))
    before = await first.complete(MESSAGES, seed=1, deadline_s=5)
    await first.close()
    with path.open("ab") as file:
        file.write(b'{"key": "killed while wri')
    again = Counting("second")
    second = CassetteModel(Cassette.opened(path, {"salt": "another"}), again)
    assert await second.complete(MESSAGES, seed=1, deadline_s=5) == before
    assert (await second.complete(MESSAGES, seed=2, deadline_s=5)).text == "second 1"
    await second.close()
    assert again.calls == 1
    assert Cassette.read(path).labels == {}
    assert len(Cassette.read(path)) == 2


async def test_one_request_asked_twice_at_the_same_time_has_one_reply(tmp_path: Path) -> None:
    model = CassetteModel(Cassette.opened(tmp_path / "c"), Counting())
    both = await asyncio.gather(*(model.complete(MESSAGES, seed=1, deadline_s=5) for _ in range(2)))
    assert both[0] == both[1]
    await model.close()
    assert len(Cassette.read(tmp_path / "c")) == 1


async def test_a_miss_shows_the_nearest_request_and_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    recorder = CassetteModel(Cassette.opened(path), Counting())
    await recorder.complete((Message("user", "something else\nentirely"),), seed=7, deadline_s=5)
    await recorder.complete(MESSAGES, schema=Hypothesis, seed=1, deadline_s=5)
    await recorder.close()
    player = CassetteModel(Cassette.read(path), None, name="other")
    changed = (MESSAGES[0], Message("user", "propose\nsomething new"))
    with pytest.raises(CassetteMiss) as caught:
        await player.complete(changed, seed=2, deadline_s=5)
    said = str(caught.value)
    assert "nearest of its 2 is number 2" in said
    assert "model: recorded 'm', asked 'other'" in said
    assert "schema: recorded 'Hypothesis', asked None" in said
    assert "seed: recorded 1, asked 2" in said
    assert "-something\n" in said
    assert "+something new" in said
    with pytest.raises(CassetteMiss, match=r"number 1, which differs in[\s\S]*the text, from character 0"):
        await player.complete(MESSAGES, seed=7, deadline_s=5)  # the same seed is the same question


async def test_an_empty_cassette_says_so(tmp_path: Path) -> None:
    Cassette.opened(tmp_path / "c").close()
    with pytest.raises(CassetteMiss, match="holds no exchange"):
        await CassetteModel(Cassette.read(tmp_path / "c"), None, name="m").complete(MESSAGES, deadline_s=5)


async def test_no_key_is_written_or_shown(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    recorder = CassetteModel(Cassette.opened(path), Counting(f"you sent {KEY}"), secrets=[KEY, None])
    prompt = (Message("user", f"my key is {KEY}, is it not?"),)
    completion = await recorder.complete(prompt, seed=1, deadline_s=5)
    assert completion.text == "you sent [key] 1"
    assert completion.raw["echo"] == "Bearer [key]"
    await recorder.close()
    assert KEY.encode() not in path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0
    player = CassetteModel(Cassette.read(path), None, name="m", secrets=[KEY])
    assert await player.complete(prompt, seed=1, deadline_s=5) == completion
    with pytest.raises(CassetteMiss) as caught:
        await player.complete((Message("user", f"another prompt with {KEY}"),), seed=2, deadline_s=5)
    assert KEY not in str(caught.value)


async def test_what_fails_is_not_recorded(tmp_path: Path) -> None:
    class Failing(Counting):
        async def complete(self, *args: Any, **kwargs: Any) -> Completion:
            raise ModelUnavailable("down")

    model = CassetteModel(Cassette.opened(tmp_path / "c"), Failing())
    with pytest.raises(ModelUnavailable):
        await model.complete(MESSAGES, deadline_s=5)
    await model.close()
    assert len(Cassette.read(tmp_path / "c")) == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"my thesis", "not a cassette"),
        (b"my thesis\n", "not a cassette"),
        (b'{"cassette": 2}\n', "version 2"),
        (b'{"cassette": 1}\n{"key": 1}\n', "line 2"),
        (b'{"cassette": 1}\n[[[[\n', "line 2"),
    ],
)
def test_a_foreign_or_damaged_file_is_refused_and_left_alone(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "c"
    path.write_bytes(content)
    for opened in (Cassette.read, Cassette.opened):
        with pytest.raises(CassetteInvalid, match=says):
            opened(path)
    assert path.read_bytes() == content


def test_a_cassette_is_recorded_by_one_at_a_time(tmp_path: Path) -> None:
    first = Cassette.opened(tmp_path / "c")
    with pytest.raises(CassetteInvalid, match="another process"):
        Cassette.opened(tmp_path / "c")
    first.close()
    first.close()
    Cassette.opened(tmp_path / "c").close()


def test_what_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(CassetteInvalid, match="--cassette-mode record"):
        Cassette.read(tmp_path / "none")
    with pytest.raises(CassetteInvalid, match="cannot be written"):
        Cassette.opened(tmp_path)


async def test_a_cassette_that_is_only_read_is_not_written(tmp_path: Path) -> None:
    Cassette.opened(tmp_path / "c").close()
    cassette = Cassette.read(tmp_path / "c")
    completion = await Counting().complete(MESSAGES, deadline_s=1)
    with pytest.raises(ValueError, match="not being recorded"):
        cassette.add(Request("m", MESSAGES, None, None), completion, key="k")
