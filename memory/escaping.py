"""Text of any content, in a form that every database stores.

NUL (refused by PostgreSQL) and lone surrogates (not UTF-8) are escaped, reversibly. Nothing here needs a database.
"""

import re

_ESCAPE = "\x1a"
_NEEDS_ESCAPE = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a([0-9a-f]{4})")


def escape(text: str) -> str:
    """`text` with NUL, lone surrogates and the escape character itself written as U+001A and four hex digits."""
    return _NEEDS_ESCAPE.sub(lambda found: f"{_ESCAPE}{ord(found[0]):04x}", text)


def unescape(text: str) -> str:
    """The inverse of `escape`."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) if _ESCAPE in text else text
