"""Text that a model or a program wrote, made safe for a terminal."""

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

STYLES = {"completed": "green", "rejected": "red", "duplicate": "bright_black", "failed": "yellow", "open": "cyan"}


def plain(text: object) -> str:
    """Control characters and direction overrides shown as their code points; tabs and newlines stay."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", str(text))


def score(value: float | None) -> str:
    """A score with three decimals, or a dash."""
    return f"{value:.3f}" if value is not None else "–"
