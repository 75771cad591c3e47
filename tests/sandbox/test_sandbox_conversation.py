"""The conversation driver against workers that say anything, at any time, in any pieces."""

import asyncio
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator.phases import PROGRESS_PER_PHASE, Phase
from evaluator.wire import ArraySpec, Frame, FrameKind, arrays, control, encode_frame
from sandbox.conversation import FRAMES_WAITING_CAP, Ending, converse, describe_exit
from sandbox.errors import ProtocolMismatch
from sandbox.protocol import Job, JobOutcome, Limits, OutcomeKind
from tests.sandbox.scripted import HELLO, TRAIN, Scripted, done, message

PREDICT = Phase("predict", (control({"type": "go"}),), (ArraySpec("logits", "float32", (2, 3)),), 0.3)
LOGITS = {"logits": np.arange(6, dtype=np.float32).reshape(2, 3)}
LIMITS = Limits(start_timeout_s=0.3, log_bytes=64)


async def play(worker, phases=(TRAIN,), **settings):
    return await converse(worker, Job("j", tuple(phases), LIMITS), provenance={"level": "scripted"}, **settings)


async def test_a_job_whose_phases_are_all_answered_has_completed():
    worker = Scripted(message(HELLO), [done(), encode_frame(arrays(LOGITS))], Ending(0), log=b"hi\x1b[31m\xff")
    outcome = await play(worker, (TRAIN, PREDICT))
    assert (outcome.kind, outcome.reason, outcome.exit_code) == (OutcomeKind.COMPLETED, "ok", 0)
    assert outcome.replies[0]["parameters"] == 7
    np.testing.assert_array_equal(outcome.replies[1]["logits"], LOGITS["logits"])
    assert len(outcome.phase_wall_s) == 2
    assert outcome.log == "hi[31m\\xff"
    assert outcome.provenance == {"level": "scripted", "hello": HELLO}
    assert outcome.peak_memory_bytes == 1000


async def test_a_worker_that_stays_after_its_last_answer_has_completed_too(monkeypatch):
    monkeypatch.setattr("sandbox.conversation.EXIT_GRACE_S", 0.05)
    outcome = await play(Scripted(message(HELLO), [done()]))
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.COMPLETED, None)


async def test_another_protocol_version_is_our_fault_and_raises():
    with pytest.raises(ProtocolMismatch, match="move37 sandbox build"):
        await play(Scripted(message({"type": "hello", "protocol": 99})))


@pytest.mark.parametrize(
    ("answer", "ending", "reason"),
    [
        pytest.param(b"", Ending(0), "exception", id="exit 0 is not success"),
        pytest.param(b"", Ending(-11), "exception", id="killed by a signal"),
        pytest.param(b"", Ending(137, out_of_memory=True), "out_of_memory", id="the memory limit"),
        pytest.param(done()[:-3], Ending(0), "exception", id="an answer that breaks off"),
        pytest.param(b"garbage " * 4, None, "protocol", id="garbage"),
        pytest.param(struct.pack("<IQ", 3, 1 << 40), None, "protocol", id="an array without end"),
        pytest.param(struct.pack("<IQ", 1, 1 << 20), None, "protocol", id="a message above the cap"),
        pytest.param(encode_frame(arrays(LOGITS)), None, "protocol", id="arrays where none were asked for"),
        pytest.param(encode_frame(Frame(FrameKind.PROGRAM, b"x")), None, "protocol", id="a program"),
        pytest.param(done("predict"), None, "protocol", id="the answer of another phase"),
        pytest.param(message({"type": "hello"}), None, "protocol", id="a second greeting"),
        pytest.param(encode_frame(Frame(FrameKind.CONTROL, b'{"a":NaN}')), None, "protocol", id="not a number"),
        pytest.param(message({"type": "failed", "reason": "ok"}), None, "protocol", id="a failure we do not know"),
        pytest.param(message({"type": "progress", "phase": "train"}), None, "protocol", id="progress of nothing"),
        pytest.param(b"", None, "timeout", id="silence"),
    ],
)
async def test_what_a_candidate_does_is_named_and_never_raised(answer, ending, reason):
    outcome = await play(Scripted(message(HELLO), [answer], ending))
    assert (outcome.kind, outcome.reason) == (OutcomeKind.CANDIDATE_FAILED, reason)
    assert "'train'" in outcome.message
    assert outcome.replies == ()


@pytest.mark.parametrize(
    ("opening", "ending", "reason"),
    [
        pytest.param(b"", Ending(1), "start", id="ended before greeting"),
        pytest.param(b"", None, "start", id="never greeted"),
        pytest.param(done(), None, "start", id="no greeting"),
        pytest.param(ConnectionResetError("engine gone"), None, "lost", id="broken connection"),
        pytest.param(message(HELLO), Ending(None, lost="engine restarted"), "lost", id="lost by its engine"),
    ],
)
async def test_what_goes_wrong_on_our_side_is_not_blamed_on_the_candidate(opening, ending, reason):
    outcome = await play(Scripted(opening, (), ending))
    assert (outcome.kind, outcome.reason) == (OutcomeKind.INFRASTRUCTURE_FAILED, reason)


async def test_the_worker_s_own_report_of_a_failure_is_passed_on():
    failed = {"type": "failed", "phase": "train", "reason": "diverged", "message": "loss is NaN\x07", "line": 3}
    outcome = await play(Scripted(message(HELLO), [message({**failed, "traceback": "Traceback"})], Ending(1)))
    assert (outcome.reason, outcome.message, outcome.line) == ("diverged", "loss is NaN", 3)
    assert "Traceback" in outcome.log


@pytest.mark.parametrize(("line", "kept"), [(65536, 65536), (65537, None), (0, None), (-3, None), (True, None)])
async def test_a_line_that_no_program_has_is_dropped(line, kept):
    failed = {"type": "failed", "phase": "train", "reason": "diverged", "message": "no", "line": line}
    outcome = await play(Scripted(message(HELLO), [message(failed)], Ending(1)))
    assert (outcome.reason, outcome.line) == ("diverged", kept)


async def test_a_failure_that_was_told_before_the_pipe_broke_is_still_heard():
    failed = {"type": "failed", "phase": "train", "reason": "out_of_memory", "message": "no", "line": None}

    class Deaf(Scripted):
        async def send(self, data):
            self._say(message(failed))
            raise BrokenPipeError

    outcome = await play(Deaf(message(HELLO)))
    assert (outcome.reason, outcome.message) == ("out_of_memory", "no")


async def test_answering_before_being_asked_is_refused():
    outcome = await play(Scripted(message(HELLO), [done() + done("predict")]), (TRAIN, PREDICT))
    assert (outcome.reason, len(outcome.replies)) == ("protocol", 1)


async def test_arrays_cannot_be_sent_before_their_inputs_were():
    outcome = await play(Scripted(message(HELLO), [done() + encode_frame(arrays(LOGITS))]), (TRAIN, PREDICT))
    assert outcome.reason == "protocol"


async def test_arrays_of_another_shape_are_refused():
    wrong = encode_frame(arrays({"logits": np.zeros((3, 2), np.float32)}))
    outcome = await play(Scripted(message(HELLO), [wrong]), (PREDICT,))
    assert outcome.reason == "protocol"


async def test_progress_is_forwarded_up_to_its_cap():
    one = {"type": "progress", "phase": "train", "step": 1, "steps": 2, "loss": 0.5, "smuggled": "x"}
    seen = []
    flood = message(one) * (PROGRESS_PER_PHASE + 1)
    outcome = await play(Scripted(message(HELLO), [flood + done()]), on_progress=seen.append)
    assert outcome.reason == "output_limit"
    assert seen == [{"phase": "train", "step": 1, "steps": 2, "loss": 0.5}] * PROGRESS_PER_PHASE


async def test_a_flood_of_messages_is_cut_off():
    flood = message({"type": "x"}) * (FRAMES_WAITING_CAP + 1)
    outcome = await play(Scripted(message(HELLO), [flood]))
    assert outcome.reason in ("output_limit", "protocol")


async def test_the_job_s_own_deadline_is_kept():
    slow = Phase("train", TRAIN.send, None, 60.0)
    outcome = await play(Scripted(message(HELLO), [b""]), (slow,), deadline_s=0.1)
    assert (outcome.kind, outcome.reason) == (OutcomeKind.CANDIDATE_FAILED, "timeout")
    assert outcome.wall_s < 5


async def test_a_defect_of_a_backend_is_not_mistaken_for_a_candidate_s_end():
    worker = Scripted(ZeroDivisionError("defect"))
    with pytest.raises(ZeroDivisionError):
        await play(worker)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.text()),
    lambda inner: (
        st.dictionaries(st.sampled_from(["type", "phase", "reason", "line"]) | st.text(), inner) | st.lists(inner)
    ),
    max_leaves=8,
)
hostile = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda kind, length, rest: struct.pack("<IQ", kind, length) + rest,
        st.integers(0, 5),
        st.integers(0, 1 << 63),
        st.binary(max_size=50),
    ),
    json_values.map(lambda value: encode_frame(Frame(FrameKind.CONTROL, json.dumps(value).encode()))),
    st.sampled_from([done(), done("predict"), encode_frame(arrays(LOGITS)), message(HELLO)]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(hostile, max_size=4), st.sampled_from([Ending(0), Ending(1), Ending(-9)]))
def test_no_stream_of_bytes_makes_the_driver_raise_or_hang(pieces, ending):
    async def run() -> JobOutcome:
        worker = Scripted(message(HELLO), [b"".join(pieces)], ending)
        return await play(worker, (TRAIN, PREDICT))

    outcome = asyncio.run(run())
    assert outcome.kind in (OutcomeKind.CANDIDATE_FAILED, OutcomeKind.COMPLETED)
    assert outcome.completed == (len(outcome.replies) == 2)
    assert outcome.wall_s < 5


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with code 0"),
        (3, "exited with code 3"),
        (-9, "was killed by SIGKILL"),
        (139, "was killed by SIGSEGV"),
    ],
)
def test_exit_codes_are_put_into_words(code, words):
    assert describe_exit(code) == words


@pytest.mark.parametrize(
    ("needs", "hello", "said"),
    [
        ({"accelerator": True}, HELLO | {"accelerator": ""}, "needs a GPU"),
        ({"accelerator": True}, HELLO, "needs a GPU"),
        ({"task": "sorting"}, HELLO | {"tasks": ["recall"]}, "no task 'sorting'"),
        ({"task": "recall"}, HELLO, "no task 'recall'"),
    ],
)
async def test_a_worker_that_lacks_what_the_job_needs_is_our_fault_and_sees_no_program(needs, hello, said):
    worker = Scripted(message(hello), [done()])
    outcome = await converse(worker, Job("j", (TRAIN,), LIMITS, **needs), provenance={})
    assert (outcome.kind, outcome.reason) == (OutcomeKind.INFRASTRUCTURE_FAILED, "start")
    assert said in outcome.message
    assert worker._answers  # nothing was sent, so nothing was answered


async def test_a_worker_that_has_what_the_job_needs_gets_it():
    worker = Scripted(message(HELLO | {"accelerator": "a card", "tasks": ["recall"]}), [done()], Ending(0))
    outcome = await converse(worker, Job("j", (TRAIN,), LIMITS, task="recall", accelerator=True), provenance={})
    assert outcome.completed


async def test_what_is_printed_last_is_in_the_log_although_it_comes_late():
    class Late(Scripted):
        async def pump(self, on_output, on_log):
            await super().pump(on_output, on_log)
            await asyncio.sleep(0.05)
            on_log(b"last words")

    outcome = await play(Late(message(HELLO), [b"garbage " * 4], Ending(1)))
    assert outcome.reason == "protocol"
    assert outcome.log.endswith("last words")
