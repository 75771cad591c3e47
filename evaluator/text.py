"""What a program or its container says, made fit to be stored and shown. No torch here."""

import re

from evaluator.phases import MESSAGE_CAP

# C0 and C1 control characters but tab and newline; the bidirectional overrides that reorder shown text.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
LAST_LINE = 64 * 1024  # a program of `static_gate.MAX_PROGRAM_BYTES` has no more lines


def printable(text: str) -> str:
    """Text that survives databases and terminals: no lone surrogates, "?" for what is in `CONTROL`."""
    return CONTROL.sub("?", text.encode("utf-8", "backslashreplace").decode("utf-8"))


def bounded_message(text: str) -> str:
    """At most `MESSAGE_CAP` characters of `text`, printable."""
    return printable(text[:MESSAGE_CAP])[:MESSAGE_CAP]


def quoted(value: object) -> str:
    """A short glimpse of something unexpected, for an error message."""
    shown = ascii(value)
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


def line_number(value: object) -> int | None:
    """`value` if it can be a line of a program."""
    return value if type(value) is int and 1 <= value <= LAST_LINE else None
