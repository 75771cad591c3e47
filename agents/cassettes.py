"""Cassettes: exchanges with a model in a file, recorded at our own port and found again by what was asked.

A file of JSON lines: a head, then one line per exchange with its key, its request and its completion. The key is the
content hash of model, messages, schema and seed, so a prompt that differs by one byte is another request.

* record: a request that is on the cassette is answered from it, any other is asked and written down before it is
  returned. So a recording that was interrupted goes on where it stopped, and nothing is paid for twice;
* replay: only what is on the cassette is answered; anything else is a `CassetteMiss`, which shows the nearest request
  that was recorded and what differs. There is no model behind it: no key, no network, no cost.

Notable: each line is written at once and flushed to the disk; a last line without its end was never answered from, and
is cut off when the recording goes on. A recording is held by one process. Secrets are taken out of what is written and
of what is returned alike, so a replay gives what the recording gave, to the byte. What failed is not recorded.

Not covered: trusting it. Whoever can write the file decides what the "model" says: programs from a cassette run in real
isolation, whatever model recorded them.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from agents.contexts import Message
from agents.differences import first_difference, lines_in_common, short_diff
from agents.errors import CassetteInvalid, CassetteMiss
from agents.gateway import ChatModel, Completion, ModelKind, request_key
from agents.redaction import scrubbed, scrubber
from agents.wire import Usage

CassetteMode = Literal["record", "replay", "off"]
VERSION = 1
_HEAD = b'{"cassette": '


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, as far as it is part of the key."""

    model: str
    messages: tuple[Message, ...]
    schema: str | None
    seed: int | None

    @property
    def key(self) -> str:
        """Its content hash."""
        return request_key(self.messages, model=self.model, schema_name=self.schema, seed=self.seed)


def encode(key: str, request: Request, completion: Completion) -> bytes:
    """One line of a cassette, in ASCII, with its line feed. The floats of a completion are finite."""
    record = {"key": key, "request": asdict(request), "completion": asdict(completion)}
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> tuple[str, Request, Completion]:
    """What `encode` wrote.

    Raises:
        ValueError: it is no such line. The message says why, without repeating it.
    """
    try:
        record = json.loads(line)
        request, completion = dict(record["request"]), dict(record["completion"])
        messages = tuple(Message(message["role"], message["content"]) for message in request.pop("messages"))
        usage = Usage(**completion.pop("usage"))
        asked, answer = Request(messages=messages, **request), Completion(usage=usage, **completion)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it is not an exchange ({type(error).__name__})") from None
    texts = (
        record["key"],
        asked.model,
        answer.text,
        answer.model,
        answer.finish_reason,
        *(m.content for m in messages),
    )
    numbers = (usage.prompt_tokens, usage.completion_tokens, answer.latency_s)
    sound = (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int | float) for number in numbers)
        and isinstance(answer.raw, dict)
        and isinstance(answer.cost_usd, float | int | None)
    )
    if not sound:
        raise ValueError("a field of it is of another type")
    return record["key"], asked, answer


class Cassette:
    """A cassette file in memory: exchanges by key, in the order in which they were recorded.

    `labels` are short texts that were given when it was made (what a replay has to know beside the exchanges).
    """

    def __init__(self, path: Path, labels: Mapping[str, str], descriptor: int | None = None) -> None:
        self.path = path
        self.labels = dict(labels)
        self._exchanges: dict[str, tuple[Request, Completion]] = {}
        self._descriptor = descriptor

    @classmethod
    def read(cls, path: Path) -> Cassette:
        """The cassette at `path`, to be replayed.

        Raises:
            CassetteInvalid: it is not there, cannot be read, or is damaged before its last line.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CassetteInvalid(
                f"the cassette {path} cannot be read ({error.strerror}): record one with --cassette-mode record"
            ) from None
        cassette, _ = cls._loaded(path, content, None)
        return cassette

    @classmethod
    def opened(cls, path: Path, labels: Mapping[str, str] | None = None) -> Cassette:
        """The cassette at `path`, to be recorded on: a new one with these labels, or the one there with its own.

        Raises:
            CassetteInvalid: it cannot be written, is damaged before its last line, or another process records on it.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CassetteInvalid(f"the cassette {path} cannot be written: {error.strerror}") from None
        try:
            return cls._locked(path, descriptor, labels or {})
        except BlockingIOError:
            os.close(descriptor)
            raise CassetteInvalid(f"the cassette {path} is being recorded by another process") from None
        except OSError as error:
            os.close(descriptor)
            raise CassetteInvalid(f"the cassette {path} cannot be written: {error.strerror}") from None
        except CassetteInvalid:
            os.close(descriptor)
            raise

    @classmethod
    def _locked(cls, path: Path, descriptor: int, labels: Mapping[str, str]) -> Cassette:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        content = path.read_bytes()
        if not content or (b"\n" not in content and content.startswith(_HEAD)):  # new, or its head was never finished
            os.ftruncate(descriptor, 0)
            content = json.dumps({"cassette": VERSION, "labels": dict(labels)}).encode("ascii") + b"\n"
            _append(descriptor, content)
        cassette, whole = cls._loaded(path, content, descriptor)
        os.ftruncate(descriptor, whole)
        return cassette

    @classmethod
    def _loaded(cls, path: Path, content: bytes, descriptor: int | None) -> tuple[Cassette, int]:
        """The cassette and the length of its whole lines."""
        whole = content.rfind(b"\n") + 1
        head, *lines = content[:whole].split(b"\n")[:-1] or [b""]
        cassette = cls(path, _labels(path, head), descriptor)
        for number, line in enumerate(lines, start=2):
            try:
                key, request, completion = decode(line)
            except ValueError as error:
                raise CassetteInvalid(f"line {number} of the cassette {path} cannot be read: {error}") from None
            cassette._exchanges[key] = (request, completion)
        return cassette, whole

    def __len__(self) -> int:
        return len(self._exchanges)

    @property
    def models(self) -> list[str]:
        """The names of the models that it answers for."""
        return sorted({request.model for request, _ in self._exchanges.values()})

    def find(self, request: Request) -> Completion | None:
        """The recorded completion of this very request."""
        found = self._exchanges.get(request.key)
        return None if found is None else found[1]

    def add(self, request: Request, completion: Completion, *, key: str) -> None:
        """Writes an exchange down, for good. `key` is that of the request before secrets were taken out of it.

        Raises:
            OSError: it cannot be written.
        """
        if self._descriptor is None:
            raise ValueError(f"the cassette {self.path} is not being recorded")
        _append(self._descriptor, encode(key, request, completion))
        self._exchanges[key] = (request, completion)

    def missing(self, request: Request) -> str:
        """What was asked, against the nearest request that was recorded, for a person.

        A call's seed is made of its place in a campaign, so the same seed means the same question; without it, the one
        with the most lines in common is shown.
        """
        requests = [recorded for recorded, _ in self._exchanges.values()]
        if not requests:
            return f"the cassette {self.path} holds no exchange"
        asked = _text(request)
        nearest = next((r for r in requests if r.seed is not None and r.seed == request.seed), None)
        if nearest is None:
            nearest = max(requests, key=lambda r: lines_in_common(_text(r), asked))
        recorded = _text(nearest)
        place = next(number for number, r in enumerate(requests, start=1) if r is nearest)
        differs = [
            f"  {name}: recorded {before!r}, asked {now!r}"
            for name in ("model", "schema", "seed")
            if (before := getattr(nearest, name)) != (now := getattr(request, name))
        ]
        if recorded != asked:
            diff = short_diff(recorded, asked) or "  white space only"
            differs.append(f"  the text, from character {first_difference(recorded, asked)}:\n{diff}")
        shown = "\n".join(differs) or "  the roles of the messages"
        return (
            f"the cassette {self.path} holds no reply to this request; nearest of its {len(requests)} is number "
            f"{place}, which differs in\n{shown}"
        )

    def close(self) -> None:
        """Lets go of the file. Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class CassetteModel:
    """A model behind a cassette: `model` is asked for what is not on it; without a model nothing is.

    Args:
        name: Of the model that is replayed; that of `model`, if there is one.
        secrets: Taken out of everything that is written or returned.
    """

    def __init__(
        self, cassette: Cassette, model: ChatModel | None, *, name: str = "", secrets: Sequence[str | None] = ()
    ) -> None:
        self._cassette = cassette
        self._model = model
        self._name = name if model is None else model.name
        self._scrub = scrubber(*secrets)

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> ModelKind:
        """Never "grammar": a file can be edited."""
        return "replay" if self._model is None or self._model.kind == "grammar" else self._model.kind

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        seed: int | None = None,
        deadline_s: float,
    ) -> Completion:
        """See `ChatModel.complete`.

        Raises:
            CassetteMiss: it is a replay, and this was not recorded.
            CassetteInvalid: the completion cannot be written down; it is lost.
        """
        request = Request(self._name, tuple(messages), None if schema is None else schema.__name__, seed)
        recorded = self._cassette.find(request)
        if recorded is not None:
            return recorded
        if self._model is None:
            raise CassetteMiss(self._cassette.missing(_without_secrets(request, self._scrub)))
        completion = await self._model.complete(messages, schema=schema, seed=seed, deadline_s=deadline_s)
        clean = _clean(completion, self._scrub)
        recorded = self._cassette.find(request)
        if recorded is not None:  # meanwhile, by the same request: one reply each, or a replay would differ
            return recorded
        try:
            self._cassette.add(_without_secrets(request, self._scrub), clean, key=request.key)
        except OSError as error:
            raise CassetteInvalid(f"the cassette {self._cassette.path} cannot be written: {error.strerror}") from None
        return clean

    async def close(self) -> None:
        self._cassette.close()
        if self._model is not None:
            await self._model.close()


def _labels(path: Path, head: bytes) -> dict[str, str]:
    try:
        fields = json.loads(head)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or "cassette" not in fields:
        raise CassetteInvalid(f"{path} is not a cassette")
    if fields["cassette"] != VERSION:
        raise CassetteInvalid(f"the cassette {path} is of version {fields['cassette']!r}; version {VERSION} is read")
    labels = fields.get("labels", {})
    return {str(name): str(text) for name, text in labels.items()} if isinstance(labels, dict) else {}


def _append(descriptor: int, line: bytes) -> None:
    written = 0
    while written < len(line):
        written += os.write(descriptor, line[written:])
    os.fsync(descriptor)


def _text(request: Request) -> str:
    return "\n".join(message.content for message in request.messages)


def _without_secrets(request: Request, scrub: Callable[[str], str]) -> Request:
    return replace(request, messages=tuple(Message(m.role, scrub(m.content)) for m in request.messages))


def _clean(completion: Completion, scrub: Callable[[str], str]) -> Completion:
    """As it will be read back: plain JSON data without secrets."""
    raw: dict[str, Any] = json.loads(json.dumps(scrubbed(completion.raw, scrub)))
    return replace(
        completion,
        text=scrub(completion.text),
        model=scrub(completion.model),
        finish_reason=scrub(completion.finish_reason),
        raw=raw,
    )
