"""The wire between host and sandbox: length-prefixed frames, strict JSON control messages, safetensors arrays.

A frame is `kind u32 LE | length u64 LE | payload`. Everything here is sans-io: bytes in, frames out.
Notable: the length is judged against the cap of its kind before a byte of payload is kept, the cap for arrays is known
exactly in advance (the host knows names, dtypes and shapes of what it asked for), and nothing is ever unpickled.
Not covered: transport, time limits, who sends what when (`evaluator.phases`).
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, NoReturn

import numpy as np

from evaluator.errors import WireError

CONTROL_CAP = 64 * 1024
PROGRAM_CAP = 256 * 1024
# Names, dtypes, shapes and padding of a safetensors header; our messages carry at most a few dozen arrays.
ARRAYS_HEADER_CAP = 16 * 1024

_HEADER = struct.Struct("<IQ")
_MAX_DEPTH = 16
_INT64 = 1 << 63

DType = Literal["float32", "int64", "int32", "uint16", "uint8"]
_SAFETENSORS_DTYPE: dict[str, str] = {"float32": "F32", "int64": "I64", "int32": "I32", "uint16": "U16", "uint8": "U8"}
_ITEM_BYTES: dict[str, int] = {"float32": 4, "int64": 8, "int32": 4, "uint16": 2, "uint8": 1}


class FrameKind(IntEnum):
    """What a frame's payload is."""

    CONTROL = 1
    PROGRAM = 2
    ARRAYS = 3


@dataclass(frozen=True)
class Frame:
    """One message, either way."""

    kind: FrameKind
    payload: bytes


@dataclass(frozen=True)
class ArraySpec:
    """An array that one side expects: nothing else is accepted in its place."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


def arrays_cap(specs: Sequence[ArraySpec]) -> int:
    """The largest honest ARRAYS payload that carries `specs`."""
    return ARRAYS_HEADER_CAP + sum(spec.nbytes for spec in specs)


def encode_frame(frame: Frame) -> bytes:
    """The bytes of one frame."""
    return _HEADER.pack(frame.kind, len(frame.payload)) + frame.payload


class FrameReader:
    """Incremental decoder. `arrays_cap` may be set between frames, since each reply has its own exact size.

    Raises:
        WireError: unknown kind, or a length above the cap of its kind. The reader then stays broken: what follows a bad
            header cannot be trusted to be aligned.
    """

    def __init__(self, *, arrays_cap: int) -> None:
        self.arrays_cap = arrays_cap
        self._buffer = bytearray()
        self._broken: str | None = None

    @property
    def partial(self) -> bool:
        """True when the stream would end in the middle of a frame."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        if self._broken is not None:
            raise WireError(self._broken)
        self._buffer += data
        frames: list[Frame] = []
        start = 0
        while (end := self._frame_end(start)) is not None:
            kind = FrameKind(_HEADER.unpack_from(self._buffer, start)[0])
            frames.append(Frame(kind, bytes(memoryview(self._buffer)[start + _HEADER.size : end])))
            start = end
        del self._buffer[:start]
        return frames

    def _frame_end(self, start: int) -> int | None:
        """Where the frame that begins at `start` ends, None while it is incomplete."""
        if len(self._buffer) - start < _HEADER.size:
            return None
        kind, length = _HEADER.unpack_from(self._buffer, start)
        if kind not in (FrameKind.CONTROL, FrameKind.PROGRAM, FrameKind.ARRAYS):
            self._break(f"unknown frame kind {kind}")
        cap = self._cap(FrameKind(kind))
        if length > cap:
            self._break(f"{FrameKind(kind).name} frame announces {length} bytes, the cap is {cap}")
        end = start + _HEADER.size + int(length)
        return end if len(self._buffer) >= end else None

    def _cap(self, kind: FrameKind) -> int:
        return {FrameKind.CONTROL: CONTROL_CAP, FrameKind.PROGRAM: PROGRAM_CAP}.get(kind, self.arrays_cap)

    def _break(self, why: str) -> NoReturn:
        self._broken = why
        self._buffer.clear()
        raise WireError(why)


def control(message: Mapping[str, Any]) -> Frame:
    """A CONTROL frame: canonical JSON, finite numbers only.

    Raises:
        WireError: the message cannot be written as strict JSON of at most `CONTROL_CAP` bytes.
    """
    try:
        text = json.dumps(message, sort_keys=True, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"a control message is not strict JSON: {error}") from error
    payload = text.encode("ascii")
    if len(payload) > CONTROL_CAP:
        raise WireError(f"a control message takes {len(payload)} bytes, the cap is {CONTROL_CAP}: shorten its texts")
    return Frame(FrameKind.CONTROL, payload)


def read_control(payload: bytes) -> dict[str, Any]:
    """The object in a CONTROL payload.

    Raises:
        WireError: not UTF-8, not one JSON object, a duplicate key, NaN/Infinity or a number beyond float or int64,
            a lone surrogate, nesting deeper than 16, or larger than `CONTROL_CAP`.
    """
    if len(payload) > CONTROL_CAP:
        raise WireError(f"a control message of {len(payload)} bytes, the cap is {CONTROL_CAP}")
    try:
        value = json.loads(
            payload.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=_finite_float,
            parse_int=_bounded_int,
        )
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise WireError(f"a control message is not strict JSON: {error}") from error
    if not isinstance(value, dict):
        raise WireError(f"a control message must be a JSON object, not {type(value).__name__}")
    _check_value(value, _MAX_DEPTH)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise WireError("a control message repeats a key")
    return found


def _no_constant(name: str) -> NoReturn:
    raise WireError(f"a control message holds {name}")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise WireError("a control message holds a number too large for a float")
    return value


def _bounded_int(text: str) -> int:
    value = int(text) if len(text) <= 20 else _INT64
    if not -_INT64 <= value < _INT64:
        raise WireError("a control message holds an integer beyond 64 bits")
    return value


def _check_value(value: object, depth: int) -> None:
    if depth == 0:
        raise WireError(f"a control message nests deeper than {_MAX_DEPTH}")
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            _check_value(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, depth - 1)


def _check_text(text: str) -> None:
    # A lone surrogate passes json.loads and breaks the first database or file it is written to.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise WireError("a control message holds a lone surrogate") from error


def arrays(values: Mapping[str, np.ndarray]) -> Frame:
    """An ARRAYS frame (safetensors) of arrays of the types that `DType` names."""
    from safetensors.numpy import save

    for name, value in values.items():
        if value.dtype.name not in _SAFETENSORS_DTYPE:
            raise WireError(f"array {name!r} is {value.dtype}; the wire carries {', '.join(_SAFETENSORS_DTYPE)}")
    payload = save({name: np.ascontiguousarray(value) for name, value in values.items()})
    return Frame(FrameKind.ARRAYS, payload)


def read_arrays(payload: bytes, specs: Sequence[ArraySpec]) -> dict[str, np.ndarray]:
    """The arrays of an ARRAYS payload, exactly those of `specs`. Finiteness is for the caller to judge.

    Raises:
        WireError: not safetensors, larger than the specs allow, or another set of names, dtypes or shapes.
    """
    from safetensors import SafetensorError, deserialize

    cap = arrays_cap(specs)
    if len(payload) > cap:
        raise WireError(f"arrays of {len(payload)} bytes, the cap is {cap}")
    try:
        found: dict[str, Any] = dict(deserialize(payload))  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as error:
        raise WireError(f"arrays are not safetensors: {error}") from error
    if set(found) != {spec.name for spec in specs}:
        raise WireError(f"{len(found)} arrays that are not those asked for: {', '.join(s.name for s in specs)}")
    return {spec.name: _as_array(found[spec.name], spec) for spec in specs}


def _as_array(entry: Mapping[str, Any], spec: ArraySpec) -> np.ndarray:
    dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
    if dtype != _SAFETENSORS_DTYPE[spec.dtype] or shape != spec.shape:
        raise WireError(f"array {spec.name!r} is {dtype} {shape}, expected {spec.dtype} {spec.shape}")
    return np.frombuffer(entry["data"], dtype=np.dtype(spec.dtype).newbyteorder("<")).reshape(spec.shape)
