"""Compiles a program's text in an interpreter of its own, with bounded memory and time, and runs none of it.

The bytecode of a short text can be huge: every `try ... finally` within another doubles it, nineteen of them take more
than a gigabyte and hold the interpreter's lock for seconds. The child has an empty environment and no site packages; it
gets the text and answers with the compiler's complaint.
"""

import json
import subprocess
import sys
from dataclasses import dataclass

from evaluator.errors import CompilerUnavailable

TIMEOUT_S = 10.0  # with start-up; `RLIMIT_CPU` ends the compiler itself earlier

# "ready" tells a child that could not start from one that the text has ended. An outer limit that is tighter stays.
_CHILD = """
import os, resource, sys
for name, most in (("AS", 1 << 30), ("CPU", 5), ("CORE", 0)):
    which = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(which)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    try:
        resource.setrlimit(which, (most, most))
    except (ValueError, OSError):
        pass  # not every system has every limit; the host's timeout remains
text = sys.stdin.buffer.read().decode("utf-8")
os.write(1, b"ready")
answer = b"null"
try:
    compile(text, "<program>", "exec", dont_inherit=True)
except MemoryError:
    os._exit(1)
except (SyntaxError, ValueError, RecursionError) as error:
    import json
    of_syntax = isinstance(error, SyntaxError)
    said = error.msg if of_syntax else str(error) or type(error).__name__
    answer = json.dumps({"said": said, "line": error.lineno if of_syntax else None}).encode()
os.write(1, answer)
os._exit(0)
"""


@dataclass(frozen=True)
class Complaint:
    """Why a text does not compile, without a full stop, and the line it concerns."""

    said: str
    line: int | None = None


TOO_COSTLY = Complaint("it takes too much memory or time to compile")


def complaint(text: str) -> Complaint | None:
    """What the compiler has against `text`, None if it compiles.

    Raises:
        CompilerUnavailable: the child interpreter did not start.
    """
    command = (sys.executable, "-I", "-S", "-W", "ignore", "-c", _CHILD)
    try:
        done = subprocess.run(
            command, input=text.encode("utf-8"), capture_output=True, timeout=TIMEOUT_S, env={}, check=False
        )
    except OSError as error:
        raise CompilerUnavailable(str(error)) from error
    except subprocess.TimeoutExpired as error:
        if not error.stdout:
            raise CompilerUnavailable(f"not ready after {TIMEOUT_S:g} s") from error
        return TOO_COSTLY
    if not done.stdout.startswith(b"ready"):
        why = done.stderr.decode("utf-8", "backslashreplace").strip()[-300:]
        raise CompilerUnavailable(why or f"exit status {done.returncode}")
    if done.returncode != 0:
        return TOO_COSTLY
    answer = json.loads(done.stdout.removeprefix(b"ready"))
    return None if answer is None else Complaint(answer["said"], answer["line"])
