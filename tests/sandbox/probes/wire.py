"""Probes that say wrong things to the host: malformed, unasked for, too late, too much, in somebody else's name."""

from __future__ import annotations

from dataclasses import replace

from sandbox.logs import shown
from tests.sandbox.probes.probe import COMPLETED, SMALL, Check, Conversation, Evidence, Probe, failed


def _no_reply(evidence: Evidence) -> None:
    assert evidence.outcome.replies == ()


def _one_reply(evidence: Evidence) -> None:
    assert len(evidence.outcome.replies) == 1


def _at_most_one_reply(evidence: Evidence) -> None:
    assert len(evidence.outcome.replies) <= 1


def _plain(evidence: Evidence) -> None:
    said = evidence.outcome.log + evidence.outcome.message
    assert shown(said) == said
    assert "\\xff" in evidence.outcome.log


def _nothing_early(evidence: Evidence) -> None:
    assert evidence.found["early"] == ""


def _late(evidence: Evidence) -> None:
    assert evidence.outcome.replies == ()
    assert not evidence.outcome.completed


def _says(
    name: str,
    number: str,
    tries: str,
    stops: str,
    program: str,
    *,
    reason: tuple[str, ...] = ("protocol",),
    check: Check = _no_reply,
    conversation: Conversation = "control",
    timeout_s: float = 5.0,
    fast: bool = False,
) -> Probe:
    return Probe(
        name,
        number,
        tries,
        stops,
        program,
        failed(*reason),
        check,
        conversation=conversation,
        timeout_s=timeout_s,
        pure=True,
        fast=fast,
    )


_STRICT = "control messages are strict JSON: unique keys, finite numbers, bounded size, depth and integers"
_EXACT = "names, types and shapes of a reply are known in advance; safetensors, nothing that can execute or unpack"

WIRE = (
    _says(
        "pickle for an answer",
        "13",
        "sends a pickle that runs a command when it is loaded",
        _EXACT,
        """
        import os, pickle
        class Bomb:
            def __reduce__(self): return os.system, (f"touch /tmp/{asked['token']}",)
        put(frame(3, pickle.dumps({"logits": Bomb()})))
        """,
        conversation="arrays",
        fast=True,
    ),
    _says(
        "pickle for a message",
        "own",
        "sends a pickle as a control message",
        _STRICT,
        """
        import os, pickle
        class Bomb:
            def __reduce__(self): return os.system, (f"touch /tmp/{asked['token']}",)
        put(frame(1, pickle.dumps(Bomb())))
        """,
    ),
    _says(
        "zip bomb",
        "14",
        "sends 8 KB that unpack to 8 MB, as an .npz",
        _EXACT,
        """
        import io, zipfile
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file: file.writestr("logits.npy", bytes(8 << 20))
        put(frame(3, archive.getvalue()))
        """,
        conversation="arrays",
    ),
    _says(
        "evil JSON",
        "23",
        "sends NaN and Infinity",
        _STRICT,
        """put(frame(1, b'{"type":"done","phase":"only","a":NaN,"b":-Infinity}'))""",
        fast=True,
    ),
    _says(
        "number too large",
        "own",
        "sends 1e999, which reads as infinity",
        _STRICT,
        """put(frame(1, b'{"type":"done","phase":"only","a":1e999}'))""",
    ),
    _says(
        "integer of 5,000 digits",
        "own",
        "sends an integer that takes long to read",
        _STRICT,
        """put(frame(1, b'{"type":"done","phase":"only","a":' + b"9" * 5000 + b"}"))""",
    ),
    _says(
        "key twice",
        "own",
        "sends an object whose type is given twice",
        _STRICT,
        """put(frame(1, b'{"type":"failed","phase":"only","type":"done"}'))""",
    ),
    _says(
        "nesting bomb",
        "own",
        "sends brackets 30,000 deep",
        _STRICT,
        """put(frame(1, b'{"type":"done","phase":"only","a":' + b"[" * 30_000 + b"]" * 30_000 + b"}"))""",
    ),
    _says(
        "half a character",
        "own",
        "sends a lone surrogate, which breaks databases, and bytes that are no UTF-8",
        _STRICT,
        r"""put(frame(1, b'{"type":"done","phase":"only","a":"\\ud800"}'))""",
    ),
    Probe(
        "terminal codes",
        "24",
        "prints and reports escape sequences, control characters, reordering marks and bytes that are no UTF-8",
        "what comes out is decoded with escapes, and stripped of control characters",
        r"""
        import os
        evil = "\x1b[2J\x1b]0;title\x07 \x9b31m \u202eabc \x00 \x08".encode() + b"\xff\xfe"
        for _ in range(200): os.write(2, evil)
        send({"type": "failed", "phase": "only", "reason": "exception", "line": 1,
              "message": "\x1b[31mred\x07\u202e", "traceback": "\x1b]8;;http://x\x1b\\ click"})
        """,
        failed("exception"),
        _plain,
        pure=True,
        fast=True,
    ),
    _says(
        "path for a name",
        "25",
        "names its array ../../etc/passwd",
        _EXACT,
        """put(frame(3, tensors({"../../etc/passwd": ("F32", [4, 8], bytes(128))})))""",
        conversation="arrays",
    ),
    _says(
        "archive that leaves its directory",
        "own",
        "sends a tar with members above and outside the directory it would be unpacked in",
        _EXACT,
        """
        import io, tarfile
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as file:
            for name in ("../../" + asked["token"], "/tmp/" + asked["token"]):
                member = tarfile.TarInfo(name)
                member.size = 4
                file.addfile(member, io.BytesIO(b"evil"))
        put(frame(3, archive.getvalue()))
        """,
        conversation="arrays",
    ),
    _says(
        "answer exchanged",
        "33",
        "sends a second answer right behind the first, to replace it while it is read",
        "the first answer is what counts; whoever speaks before being asked breaks the protocol",
        """
        put(message({"type": "done", "phase": "only", "found": {"true": 1}})
            + message({"type": "done", "phase": "second", "found": {"true": 2}}))
        receive()
        """,
        check=_one_reply,
        conversation="two",
    ),
    _says(
        "frame of 2^63 bytes",
        "own",
        "announces more than any memory holds",
        "a length is judged against the cap of its kind before a byte is kept",
        """put(struct.pack("<IQ", 3, 1 << 63) + b"x" * 1000)""",
        conversation="arrays",
        fast=True,
    ),
    _says(
        "arrays nobody asked for",
        "own",
        "sends 64 MB of arrays where a message is due",
        "the cap of arrays is zero unless arrays are due",
        """put(struct.pack("<IQ", 3, 64 << 20))
for _ in range(64): put(bytes(1 << 20))""",
    ),
    _says(
        "wrong type",
        "own",
        "answers in float64 what was asked for in float32",
        _EXACT,
        """put(frame(3, tensors({"logits": ("F64", [4, 8], bytes(256))})))""",
        conversation="arrays",
        fast=True,
    ),
    _says(
        "wrong shape",
        "own",
        "answers with an array of another shape and the right size",
        _EXACT,
        """put(frame(3, tensors({"logits": ("F32", [8, 4], bytes(128))})))""",
        conversation="arrays",
    ),
    _says(
        "one array too many",
        "own",
        "smuggles an array along",
        _EXACT,
        """put(frame(3, tensors({"logits": ("F32", [4, 8], bytes(128)), "score": ("F32", [1], bytes(4))})))""",
        conversation="arrays",
    ),
    _says(
        "header that lies",
        "own",
        "announces a safetensors header longer than the frame",
        _EXACT,
        """put(frame(3, struct.pack("<Q", 1 << 60) + bytes(200)))""",
        conversation="arrays",
    ),
    _says(
        "half a frame",
        "own",
        "sends half of a valid frame and then nothing",
        "the deadline is for the last byte of a reply",
        """
        import time
        put(frame(3, tensors({"logits": ("F32", [4, 8], bytes(128))}))[:100])
        while True: time.sleep(1)
        """,
        reason=("timeout",),
        conversation="arrays",
        timeout_s=0.4,
    ),
    _says(
        "right answer, too late",
        "own",
        "sends a valid answer after the deadline, while it is being ended",
        "what comes after the deadline is drained and dropped",
        """
        import time
        time.sleep(0.38)
        for _ in range(10_000): put(frame(3, tensors({"logits": ("F32", [4, 8], bytes(128))})))
        """,
        reason=("timeout", "output_limit"),
        check=_late,
        conversation="arrays",
        timeout_s=0.3,
    ),
    _says(
        "a hundred thousand messages",
        "own",
        "sends 100,000 valid progress messages",
        "a phase may send a few dozen; the rest are not queued",
        """
        one = message({"type": "progress", "phase": "only", "step": 1, "steps": 2, "loss": 0.5})
        for _ in range(1000): put(one * 100)
        """,
        reason=("output_limit",),
        fast=True,
    ),
    _says(
        "a hundred thousand empty frames",
        "own",
        "sends 100,000 frames without a payload",
        "a phase may send a few dozen; the rest are not queued",
        """for _ in range(1000): put(frame(1, b"") * 100)""",
        reason=("output_limit", "protocol"),
    ),
    _says(
        "noise on the wire",
        "own",
        "writes 64 MB of noise to the protocol's channel",
        "the first bad header ends the conversation; the rest is drained and dropped",
        """for _ in range(64): put(b"noise..." * (1 << 17))""",
    ),
    _says(
        "forged score on every file descriptor",
        "own",
        "writes a finished job with a perfect score to every open file",
        "nothing that a worker says is a score; whoever speaks before being asked breaks the protocol",
        """
        perfect = message({"type": "done", "phase": "only", "score": 1.0, "accuracy": 1.0})
        perfect += message({"type": "done", "phase": "second", "score": 1.0, "status": "ok"})
        perfect += frame(3, tensors({"logits": ("F32", [4, 8], bytes(128))}))
        for number in range(64):
            try: os.write(number, perfect)
            except OSError: pass
        """,
        check=_at_most_one_reply,
        conversation="two",
    ),
    _says(
        "our failure, it says",
        "own",
        "reports a failure with the name of one of the infrastructure's, to be tried again and again",
        "a worker may give only a candidate's reasons",
        """send({"type": "failed", "phase": "only", "reason": "lost", "message": "engine", "line": None})""",
    ),
    _says(
        "another greeting",
        "own",
        "greets again, with another version of the protocol, to make the host stop",
        "after the greeting nothing that a worker says is the infrastructure's failure",
        """send({"type": "hello", "protocol": 99})""",
    ),
    Probe(
        "reads ahead",
        "own",
        "looks for the inputs of the next phase before it has answered this one",
        "a phase's inputs are sent when the phase before it has been answered",
        """
        import os, time
        os.set_blocking(listening, False)
        time.sleep(0.3)
        try: early = os.read(listening, 1 << 20).decode("latin-1")
        except BlockingIOError: early = ""
        os.set_blocking(listening, True)
        send({"type": "done", "phase": "only", "found": {"early": early}})
        receive()
        send({"type": "done", "phase": "second"})
        os._exit(0)
        """,
        check=_nothing_early,
        conversation="two",
        pure=True,
    ),
    _says(
        "never reads",
        "own",
        "does not read the 8 MB it is sent",
        "writing has a deadline, and the job has one",
        """
        import time
        send({"type": "done", "phase": "only"})
        while True: time.sleep(1)
        """,
        reason=("timeout",),
        check=_one_reply,
        conversation="deaf",
        timeout_s=0.2,
    ),
    _says(
        "hangs up",
        "own",
        "closes every file it has and goes on working",
        "the end of the stream is never success; the deadline and SIGKILL",
        """
        import os
        os.closerange(0, 256)
        while True: pass
        """,
        reason=("timeout", "protocol"),
        timeout_s=0.5,
    ),
    Probe(
        "log of escapes",
        "own",
        "prints 16 MB of bytes that each take four characters to show",
        "the log is bounded in bytes before it is decoded",
        r"""
        import os
        for _ in range(16): os.write(1, b"\xff" * (1 << 20))
        """,
        COMPLETED | failed("timeout"),
        _plain,
        limits=replace(SMALL, log_bytes=16 << 10),
        pure=True,
    ),
)
