"""Which programs are the same text: level L0 of the identity ladder, and the literature's hash beside it.

Notable, against the published "hash of the source without whitespace":
- L0 keeps what Python keeps: indentation structure, the borders of tokens, the contents of strings. `return` inside
  or after a loop, `"a b"` and `"ab"`, `not a` and `nota` differ.
- L0 drops what Python drops: comments, blank lines, spacing between tokens, width and kind of the indentation, line
  continuations, kind of line ending.
- One compiled pattern finds the tokens (the standard tokenizer needs five times as long); tests compare the two.
Not covered: renamed variables, quote style, docstrings, reordered definitions. Those are levels L1 to L3.
"""

import re
from hashlib import blake2b, md5

TEXT_PREFIX = "t1-"  # a change of the algorithm changes the prefix: keys of different algorithms never meet
EXACT_PREFIX = "x1-"

_SKIPPED = r"[ \t]*+(?:(?:\\\n|#[^\n]*+)[ \t]*+)*+"
_STRING = (
    r"(?:[rRbBuUfF]|[bBfF][rR]|[rR][bBfF])?+"
    r"(?:'''(?:[^'\\]|\\[\s\S]|'(?!''))*+'''|\"\"\"(?:[^\"\\]|\\[\s\S]|\"(?!\"\"))*+\"\"\""
    r"|'(?:[^'\\\n]|\\[\s\S])*+'|\"(?:[^\"\\\n]|\\[\s\S])*+\")"
)
# A quote that opens no string is an error: it takes the rest with it, or every further quote would scan to the end.
_UNCLOSED = r"['\"][\s\S]*+"
_DIGITS = r"[0-9](?:_?[0-9])*+"
_EXPONENT = rf"[eE][-+]?{_DIGITS}"
_NUMBER = (
    rf"(?:(?:{_DIGITS}\.(?:{_DIGITS})?+|\.{_DIGITS})(?:{_EXPONENT})?+[jJ]?+|{_DIGITS}(?:{_EXPONENT}[jJ]?+|[jJ])"
    r"|0[xX](?:_?[0-9a-fA-F])++|0[bB](?:_?[01])++|0[oO](?:_?[0-7])++|0(?:_?0)*+|[1-9](?:_?[0-9])*+)"
)
_OPERATOR = (
    r"\.\.\.|\*\*=?|//=?|>>=?|<<=?|->|:=|!=|[-+*/%&|^@=<>]="
    r"|[-+*/%&|^~@=<>()\[\]{},:;]|\.(?![0-9])"
)
# A name directly followed by a quote may be the prefix of a string, so it is tried again after strings and numbers.
# The last alternative takes any single character: an error, found afterwards by `_ERROR`.
_PATTERN = rf"{_SKIPPED}([^\W\d]\w*+(?!['\"])|{_OPERATOR}|\n[ \t]*+|{_STRING}|{_NUMBER}|\w++|{_UNCLOSED}|[^ \t])"
_TOKEN = re.compile(_PATTERN)
_ASCII_TOKEN = re.compile(_PATTERN, re.ASCII)  # a tenth faster
_ERROR = re.compile("\x00[^\\w\n\\-+*/%&|\\^~@=<>()\\[\\]{},:;.](?=\x00)")
_F_STRING = re.compile("\x00(?:[fF][rR]?|[rR][fF])(['\"][^\x00]*)")
_LINE_OF_BACKSLASH = re.compile(r"\n[ \t]*\\\n")
_TAB = 8


def l0(source: str) -> str:
    """The identity of a program's text: equal for texts with the same tokens and the same indentation structure.

    What does not tokenize (and a few oddities: form feeds, NUL, a byte order mark inside, a line that holds only a
    backslash, an f-string that uses its own quotes within a field) gets a hash of its exact characters under another
    prefix; such texts are equal only to themselves.
    """
    tokens = _canonical(source)
    if tokens is None:
        return EXACT_PREFIX + _digest(source)
    return TEXT_PREFIX + _digest(tokens)


def literal_hash(source: str) -> str:
    """MD5 of the source without any whitespace: what the literature calls the whitespace-normalised hash.

    Stored for comparison only; it merges programs that differ.
    Source: `uuid4` in ab/nn/util/Util.py of nn-dataset (LEMUR), `md5(re.sub("\\s", "", source))`.
    """
    return md5("".join(source.split()).encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


def _canonical(source: str) -> str | None:
    """Tokens joined by NUL, logical lines by two NULs, each line led by its depth of indentation."""
    text = source.removeprefix("\ufeff")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = f"\n{text}\n"
    if "\x00" in text or "\f" in text or ("\\\n" in text and _LINE_OF_BACKSLASH.search(text)):
        return None
    tokens = (_ASCII_TOKEN if text.isascii() else _TOKEN).findall(text)
    if tokens[-1][0] in "'\"" and tokens[-1].endswith("\n"):  # no closed string ends in a newline
        return None
    joined = "\x00" + "\x00".join(tokens) + "\x00"
    if _ERROR.search(joined) or _has_nested_quotes(joined):
        return None
    return _logical_lines(joined)


def _logical_lines(joined: str) -> str | None:
    # A token that begins with a bracket is one. Its kind is the parser's business, so all count alike.
    flat = (
        joined.replace("\x00[", "\x00(").replace("\x00{", "\x00(").replace("\x00]", "\x00)").replace("\x00}", "\x00)")
    )
    lines: list[str] = []
    widths = [0]
    pending = 0  # open brackets
    for physical, bracketed in zip(joined.split("\x00\n"), flat.split("\x00\n"), strict=True):
        blanks, _, body = physical.partition("\x00")
        if not body:
            continue
        if pending:
            lines.append(body)
        else:
            width = len(blanks) if "\t" not in blanks else _width(blanks)
            if width > widths[-1]:
                widths.append(width)
            elif width < widths[-1]:
                while width < widths[-1]:
                    widths.pop()
                if width != widths[-1]:
                    return None
            lines.append(f"\x00{len(widths)}\x00{body}")
        if "(" in bracketed or ")" in bracketed:
            pending += bracketed.count("\x00(") - bracketed.count("\x00)")
            if pending < 0:
                return None
    return None if pending else "\x00".join(lines)


def _width(blanks: str) -> int:
    """Columns of an indentation with tabs, as Python's tokenizer counts them."""
    width = 0
    for blank in blanks:
        width = (width // _TAB + 1) * _TAB if blank == "\t" else width + 1
    return width


def _has_nested_quotes(joined: str) -> bool:
    """Whether an f-string ends within a field: then Python >= 3.12 reads the text differently than the pattern."""
    return any(
        body.replace("{{", "").count("{") != body.replace("}}", "").count("}") for body in _F_STRING.findall(joined)
    )
