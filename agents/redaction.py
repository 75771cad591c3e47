"""Takes API keys out of text, however the text spells them.

A key comes back from servers and proxies as it was sent, percent-encoded, with JSON or HTML escapes, or in base64 (a
basic `Authorization` header). Letter case is ignored: a key in another case is still mostly the key.

Not covered: a key that was cut in pieces, masked in its middle, hashed or encrypted; texts that only look like keys
(`agents.wire.redactor` removes those too, from messages, where a false alarm damages nothing).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

REDACTED = "[key]"
# Below this a key is a placeholder for a server that checks none ("ollama", "none"), and may be a word of the text.
SECRET_MIN_CHARS = 16
# Below this the part of a base64 text that a key alone decides is too short to be told from other text.
_BASE64_MIN_CHARS = 8


def scrubber(*secrets: str | None, at_least: int = SECRET_MIN_CHARS) -> Callable[[str], str]:
    """A function that replaces every secret of `at_least` characters in a text by `[key]`, in all spellings."""
    patterns = [_spellings(secret) for secret in secrets if secret and len(secret) >= at_least]
    if not patterns:
        return lambda text: text
    anywhere = re.compile("|".join(patterns), re.IGNORECASE)
    return lambda text: anywhere.sub(REDACTED, text)


def scrubbed(value: Any, scrub: Callable[[str], str]) -> Any:
    """JSON data with every text in it, keys of objects included, scrubbed."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {scrub(str(key)): scrubbed(item, scrub) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [scrubbed(item, scrub) for item in value]
    return value


def _spellings(secret: str) -> str:
    plain = "".join(_character(character) for character in secret)
    return "|".join([plain, *(re.escape(core) for core in _base64_cores(secret.encode("utf-8", "surrogatepass")))])


def _character(character: str) -> str:
    r"""One character: itself, `%41`, `%2541`, `\u0041`, `\x41`, `&#65;`, `&#x41;`; escaped any number of times."""
    code = ord(character)
    percent = "".join(f"%(?:25)*{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
    forms = [rf"\\*{re.escape(character)}", percent, rf"&(?:amp;)*#(?:0*{code}|x0*{code:x});"]
    if code < 0x10000:
        forms.append(rf"\\+u{code:04x}")
    if code < 0x100:
        forms.append(rf"\\+x{code:02x}")
    if character in _NAMED:
        forms.append(rf"&(?:amp;)*{_NAMED[character]};")
    return f"(?:{'|'.join(forms)})"


_NAMED = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos", "+": "plus", "/": "sol", "=": "equals"}


def _base64_cores(secret: bytes) -> Iterator[str]:
    """For each of the three alignments, the characters of a base64 text that the secret alone decides.

    Up to one character at either end also depends on what stands beside the secret, and stays.
    """
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret).decode().rstrip("=")
        first = -(-before * 8 // 6)
        last = (before + len(secret)) * 8 // 6
        core = encoded[first:last]
        if len(core) < _BASE64_MIN_CHARS:
            continue
        yield core
        if {"+", "/"} & set(core):
            yield core.replace("+", "-").replace("/", "_")
