"""The wire survives any cutting of the stream, and refuses everything that is not exactly what was agreed."""

import json
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save

from evaluator.errors import WireError
from evaluator.wire import (
    CONTROL_CAP,
    PROGRAM_CAP,
    ArraySpec,
    Frame,
    FrameKind,
    FrameReader,
    arrays,
    arrays_cap,
    control,
    encode_frame,
    read_arrays,
    read_control,
)

frames = st.builds(Frame, st.sampled_from(FrameKind), st.binary(max_size=300))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdef", max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(frames, max_size=6), st.data())
def test_frames_survive_any_cutting_of_the_stream(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(encode_frame(frame) for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader(arrays_cap=300)
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += reader.feed(stream[start:end])
    assert received == sent
    assert not reader.partial


def test_a_reader_knows_that_a_frame_is_incomplete() -> None:
    reader = FrameReader(arrays_cap=0)
    assert reader.feed(encode_frame(control({"a": 1}))[:-1]) == []
    assert reader.partial


@pytest.mark.parametrize(
    ("kind", "length"),
    [(0, 1), (4, 1), (2**32 - 1, 0), (1, CONTROL_CAP + 1), (2, PROGRAM_CAP + 1), (3, 101), (3, 2**64 - 1)],
)
def test_a_bad_header_breaks_the_reader_for_good(kind: int, length: int) -> None:
    reader = FrameReader(arrays_cap=100)
    with pytest.raises(WireError):
        reader.feed(struct.pack("<IQ", kind, length))
    with pytest.raises(WireError):
        reader.feed(encode_frame(control({})))


def test_the_cap_for_arrays_can_be_set_between_frames() -> None:
    reader = FrameReader(arrays_cap=4)
    frame = Frame(FrameKind.ARRAYS, b"12345")
    reader.arrays_cap = 5
    assert reader.feed(encode_frame(frame)) == [frame]


@given(st.dictionaries(st.text("abcdef", max_size=6), json_values, max_size=5))
def test_control_messages_round_trip(message: dict[str, object]) -> None:
    assert read_control(control(message).payload) == message


@given(st.binary(max_size=200))
def test_reading_noise_is_a_wire_error_or_an_object(payload: bytes) -> None:
    with suppress(WireError):
        assert isinstance(read_control(payload), dict)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[1]",
        b"1",
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":9223372036854775808}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\\ud800"}',
        b'{"\\udfff":1}',
        b'{"a":"\xff"}',
        b'{"a":1} x',
        b'{"a":' + b"[" * 30 + b"]" * 30 + b"}",
        b'{"a":' + b"[" * 20000 + b"]" * 20000 + b"}",
        json.dumps({"a": "x" * CONTROL_CAP}).encode(),
    ],
)
def test_control_messages_that_are_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        read_control(payload)


@pytest.mark.parametrize(
    "message", [{"a": float("nan")}, {"a": float("inf")}, {"a": object()}, {"a": "x" * CONTROL_CAP}]
)
def test_control_messages_that_are_not_sent(message: dict[str, object]) -> None:
    with pytest.raises(WireError):
        control(message)


@settings(max_examples=40)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.int64, np.int32, np.uint16, np.uint8]),
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0),
    )
)
def test_arrays_round_trip(value: np.ndarray) -> None:
    spec = ArraySpec("x", value.dtype.name, value.shape)
    frame = arrays({"x": value})
    assert len(frame.payload) <= arrays_cap([spec])
    np.testing.assert_array_equal(read_arrays(frame.payload, [spec])["x"], value)


def test_arrays_must_be_exactly_those_asked_for() -> None:
    value = np.zeros((2, 3), dtype=np.float32)
    payload = arrays({"x": value}).payload
    for wrong in (
        [ArraySpec("y", "float32", (2, 3))],
        [ArraySpec("x", "int32", (2, 3))],
        [ArraySpec("x", "float32", (3, 2))],
        [ArraySpec("x", "float32", (2, 3)), ArraySpec("y", "float32", (1,))],
        [],
    ):
        with pytest.raises(WireError):
            read_arrays(payload, wrong)


def test_arrays_of_other_dtypes_are_refused_both_ways() -> None:
    with pytest.raises(WireError):
        arrays({"x": np.zeros(3, dtype=np.float64)})
    with pytest.raises(WireError):
        read_arrays(save({"x": np.zeros(3, dtype=np.float64)}), [ArraySpec("x", "float32", (3,))])


@given(st.binary(max_size=300))
def test_reading_noise_as_arrays_is_a_wire_error(payload: bytes) -> None:
    with pytest.raises(WireError):
        read_arrays(payload, [ArraySpec("x", "float32", (3,))])


@given(st.integers(0, 200), st.integers(0, 255))
def test_one_changed_byte_never_does_worse_than_a_wire_error(position: int, value: int) -> None:
    spec = ArraySpec("logits", "float32", (4, 5))
    payload = bytearray(arrays({"logits": np.ones((4, 5), dtype=np.float32)}).payload)
    payload[position % len(payload)] = value
    with suppress(WireError):
        assert read_arrays(bytes(payload), [spec])["logits"].shape == (4, 5)
