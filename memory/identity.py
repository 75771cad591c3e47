"""Which programs are the same text: level L0 of the identity ladder, and the literature's hash beside it.

Notable, against the published "hash of the source without whitespace":
- L0 keeps what Python keeps: indentation structure, the borders of tokens, the contents of strings. `return` inside
  or after a loop, `"a b"` and `"ab"`, `not a` and `nota` differ.
- L0 drops what Python drops: comments, blank lines, spacing between tokens, width and kind of the indentation, line
  continuations, kind of line ending.
- One compiled pattern finds the tokens (the standard tokenizer needs five times as long); tests compare the two.
- What stands between blank lines is remembered with its tokens: programs of a campaign share most of their functions,
  and finding one takes a twentieth of reading it anew. The key does not depend on what is remembered.
Not covered: renamed variables, quote style, docstrings, reordered definitions. Those are levels L1 to L3.
"""

import re
from hashlib import md5, sha256

TEXT_PREFIX = "t2-"  # a change of the algorithm changes the prefix: keys of different algorithms never meet
EXACT_PREFIX = "x1-"

_SKIPPED = r"[ \t]*+(?:(?:\\\n|#[^\n]*+)[ \t]*+)*+"
_STRING = (
    r"(?:[rRbBuUfF]|[bBfF][rR]|[rR][bBfF])?+"
    r"(?:'''(?:[^'\\]|\\[\s\S]|'(?!''))*+'''|\"\"\"(?:[^\"\\]|\\[\s\S]|\"(?!\"\"))*+\"\"\""
    r"|'(?!'')(?:[^'\\\n]|\\[\s\S])*+'|\"(?!\"\")(?:[^\"\\\n]|\\[\s\S])*+\")"
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

_Block = tuple[str, int, int]  # canonical text, columns of its first and of its last logical line
_STEP = 4  # columns of indentation in programs that are read block by block; others are read as a whole
_OPEN: _Block = ("", -1, -1)  # a string or bracket goes on behind the block
_IRREGULAR: _Block = ("", 1 << 30, 0)  # can only be judged, or refused, as a part of the whole
_BETWEEN_DEFINITIONS, _WITHIN_DEFINITIONS = "\n\n\n", "\n\n"  # two levels: most blocks are found at the first
_MOST_JOINED = 16  # blank lines within one string or bracket
_LONGEST_BLOCK, _MOST_BLOCKS = 12_000, 4_000  # characters, blocks: some 10 MB, and 150 MB at the very most
_known: dict[str, _Block] = {}


def l0(source: str) -> str:
    """The identity of a program's text: equal for texts with the same tokens and the same indentation structure.

    What does not tokenize (tabs that Python refuses included, and a few oddities: form feeds, NUL, a byte order mark
    inside, a line that holds only a backslash, an f-string that uses its own quotes within a field) gets a hash of its
    exact characters under another prefix; such texts are equal only to themselves.
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
    # The first 160 bits. Where processors have instructions for SHA-256 it is faster than BLAKE2.
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _canonical(source: str) -> str | None:
    """Tokens joined by NUL, logical lines by two NULs, each line led by its depth of indentation."""
    text = source.removeprefix("\ufeff")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    canonical, first, _ = _by_blocks(text, _BETWEEN_DEFINITIONS)
    return _whole(text) if first < 0 or first > _STEP else canonical


def _by_blocks(text: str, border: str) -> _Block:
    """The canonical text of the blocks between borders, where those that are remembered need not be read."""
    blocks = text.split(border)
    try:
        read = list(map(_known.__getitem__, blocks))
    except KeyError:
        read = []
    if not read or _OPEN in read:
        read = _read_blocks(blocks, border)
    pieces: list[str] = []
    start = last = 0
    for piece, first, end in read:
        if piece:
            if pieces and first > last + _STEP:
                return _IRREGULAR
            start = start if pieces else first
            pieces.append(piece)
            last = end
        elif first:
            return _OPEN if first < 0 else _IRREGULAR
    return "\x00".join(pieces), start, last


def _read_blocks(blocks: list[str], border: str) -> list[_Block]:
    """The blocks, joined where a string or a bracket goes on; an open one at the end if that does not help."""
    read: list[_Block] = []
    block, joined = "", 0
    for part in blocks:
        block = f"{block}{border}{part}" if joined else part
        found = _known.get(block) or _read_block(block, border)
        if found is not _OPEN:
            read.append(found)
            joined = 0
        elif joined == _MOST_JOINED:
            break
        else:
            joined += 1
    return [*read, _OPEN] if joined else read


def _read_block(block: str, border: str) -> _Block:
    """A block's canonical text. Where a block is complete, its tokens depend on nothing before or behind it."""
    if block.endswith("\\"):
        found = _OPEN
    elif border == _BETWEEN_DEFINITIONS:
        found = _by_blocks(block, _WITHIN_DEFINITIONS)
    else:
        tokens = _tokens(block)
        found = _IRREGULAR if tokens is None else _regular(tokens) if tokens else _OPEN
    if len(block) <= _LONGEST_BLOCK:
        if len(_known) >= _MOST_BLOCKS:
            _known.clear()
        _known[block] = found
    return found


def _regular(tokens: str) -> _Block:
    """Depth is the column divided by the step, if no line goes in by more than one."""
    lines, pending = _logical_lines(tokens)
    if pending:
        return _OPEN if pending > 0 else _IRREGULAR
    pieces: list[str] = []
    widths: list[int] = []
    for blanks, body in lines:
        if blanks is None:
            pieces.append(body)
            continue
        width = len(blanks)
        if "\t" in blanks or width % _STEP or (widths and width > widths[-1] + _STEP):
            return _IRREGULAR
        widths.append(width)
        pieces.append(f"\x00{width // _STEP + 1}\x00{body}")
    return ("\x00".join(pieces), widths[0], widths[-1]) if widths else ("", 0, 0)


def _whole(text: str) -> str | None:
    """The canonical text of a program with any indentation; None where Python's tokenizer refuses it."""
    tokens = _tokens(text)
    if not tokens:
        return None
    lines, pending = _logical_lines(tokens)
    if pending:
        return None
    pieces: list[str] = []
    widths, characters = [0], [0]  # of the blocks that are open: Python compares both, with tabs of 8 and of 1
    for blanks, body in lines:
        if blanks is None:
            pieces.append(body)
            continue
        width = len(blanks) if "\t" not in blanks else _width(blanks)
        if width > widths[-1] and len(blanks) > characters[-1]:
            widths.append(width)
            characters.append(len(blanks))
        else:
            while width < widths[-1]:
                widths.pop()
                characters.pop()
            if width != widths[-1] or len(blanks) != characters[-1]:
                return None
        pieces.append(f"\x00{len(widths)}\x00{body}")
    return "\x00".join(pieces)


def _tokens(text: str) -> str | None:
    """Tokens between NULs, line ends with the blanks behind them included. Empty: a string is open; None: an error."""
    text = f"\n{text}\n"
    if "\x00" in text or "\f" in text or ("\\\n" in text and _LINE_OF_BACKSLASH.search(text)):
        return None
    tokens = (_ASCII_TOKEN if text.isascii() else _TOKEN).findall(text)
    if tokens[-1][0] in "'\"" and tokens[-1].endswith("\n"):  # no closed string ends in a newline
        return ""
    joined = "\x00" + "\x00".join(tokens) + "\x00"
    return None if _ERROR.search(joined) or _has_nested_quotes(joined) else joined


def _logical_lines(joined: str) -> tuple[list[tuple[str | None, str]], int]:
    """Physical lines that are not blank: indentation (None within brackets) and tokens; and brackets left open.

    A bracket that nothing opened counts as -1 and ends the reading.
    """
    # A token that begins with a bracket is one. Its kind is the parser's business, so all count alike.
    flat = (
        joined.replace("\x00[", "\x00(").replace("\x00{", "\x00(").replace("\x00]", "\x00)").replace("\x00}", "\x00)")
    )
    lines: list[tuple[str | None, str]] = []
    pending = 0
    for physical, bracketed in zip(joined.split("\x00\n"), flat.split("\x00\n"), strict=True):
        blanks, _, body = physical.partition("\x00")
        if not body:
            continue
        lines.append((None if pending else blanks, body))
        if "(" in bracketed or ")" in bracketed:
            pending += bracketed.count("\x00(") - bracketed.count("\x00)")
            if pending < 0:
                return lines, -1
    return lines, pending


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
