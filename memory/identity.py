"""Which programs are the same text: level L0 of the identity ladder, and the literature's hash beside it.

Notable, against the published "hash of the source without whitespace":
- L0 keeps what Python keeps: indentation structure, the borders of tokens, the contents of strings. `return` inside
  or after a loop, `"a b"` and `"ab"`, `not a` and `nota` differ.
- L0 drops what Python drops: comments, blank lines, spacing between tokens, width and kind of the indentation, line
  continuations, kind of line ending.
- Tokens are never made: finding 2,500 of them takes a millisecond. Strings and comments, which are few, are cut out
  one by one. Of the rest NumPy decides for all blanks at once which of them hold two tokens apart; the others go.
- What is here is the definition. `text_scan.c` says the same of what programs usually are, five times as fast, where
  it could be compiled (`memory.compiled`).
Texts with equal keys have equal tokens. The reverse holds but for layouts that no formatter writes: no blank between a
word and the number or quote before or behind it (`1if x`, `return"x"`); a blank between two dots, or between operators
that follow each other in no program (`* /`).
Not covered: renamed variables, quote style, docstrings, reordered definitions. Those are levels L1 to L3.
"""

import logging
import re
from functools import cache
from hashlib import md5, sha256

from memory.compiled import REMEDY, TextScanner, Unsure

TEXT_PREFIX = "t3-"  # a change of the algorithm changes the prefix: keys of different algorithms never meet
EXACT_PREFIX = "x1-"

logger = logging.getLogger(__name__)

_BYTE_ORDER_MARK = "\ufeff"
_TRIPLE = ('"""', "'''")
_F_STRING = ("f", "F", "r", "R")  # what stands before its quotes
_LINES_OF_STRING = re.compile(r"(?:[^\\\n]|\\[\s\S])*+")
_LINE_OF_BACKSLASH = re.compile(r"\n[ \t]*+\\\n")
_LAST_BLANKS = re.compile(rb"(?<![ \t])[ \t]++(?=\n)")
_INNER_BLANKS = re.compile(rb"(?<=[^ \t\n])[ \t]++")
_WORD_OR_DOT = frozenset({*b"_.", *range(128, 256), *(c for c in range(128) if chr(c).isalnum())})
_TAB, _STEP = 8, 4  # columns

# What stands directly beside a blank decides whether it stays: if the upper half of the character on its left and the
# lower half of the one on its right share a bit. The bits: 1 words, and a quote behind a word, which may be a prefix;
# 2 dots and digits, and the e and j that numbers end in; 4 operators that `=` makes longer; 8 other pairs (`**`, `->`).
_DOTS, _E_OR_J = 2, 0x13
_SIDES = {b"_": 0x11, b"0123456789": 0x33, b"eEjJ": _E_OR_J, b".": 0x22, b"\"'": 0x01}
_SIDES |= {b"=": 0x44, b":+%&|^@!": 0x40, b"*/<>": 0xC8, b"-": 0xC0}
_KINDS = bytes(
    next((side for characters, side in _SIDES.items() if c in characters), 0x11 * (c > 127 or chr(c).isalnum()))
    for c in range(256)
)

_ERROR = 2
_ORDINARY = bytes({*range(32, 256)} - {*b"()[]{}$?`\\\x7f"})
_STEPS = bytes(1 if c in b"([{" else 255 if c in b")]}" else 0 if c == 10 else _ERROR for c in range(256))


def l0(source: str) -> str:
    """The identity of a program's text: equal for texts with the same tokens and the same indentation structure.

    What does not tokenize (tabs that Python refuses included, and a few oddities: form feeds, NUL, a byte order mark
    inside, a line that holds only a backslash or is the last and ends in one, an f-string that uses its own quotes
    within a field, brackets 128 deep) gets a hash of its exact characters under another prefix; such texts are equal
    only to themselves.
    """
    canonical = _fast_canonical(source)
    if canonical is None:
        return EXACT_PREFIX + _digest(source.encode("utf-8", "surrogatepass"))
    return TEXT_PREFIX + _digest(canonical)


def literal_hash(source: str) -> str:
    """MD5 of the source without any whitespace: what the literature calls the whitespace-normalised hash.

    Stored for comparison only; it merges programs that differ.
    Source: `uuid4` in ab/nn/util/Util.py of nn-dataset (LEMUR), `md5(re.sub("\\s", "", source))`.
    """
    return md5("".join(source.split()).encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


@cache
def scanner() -> TextScanner | None:
    """The compiled scanner; None, and said once, where it was not built: keys are the same without it."""
    try:
        return TextScanner(_KINDS)
    except OSError as error:
        logger.warning("hashes of texts are made by NumPy, which is slower: %s; %s", error, REMEDY)
        return None


def _fast_canonical(source: str) -> bytes | memoryview | None:
    compiled = scanner()
    if compiled is None:
        return _canonical(source)
    try:
        return compiled.canonical(source)
    except Unsure:
        return _canonical(source)


def _digest(content: bytes | memoryview) -> str:
    # The first 160 bits. Where processors have instructions for SHA-256 it is faster than BLAKE2.
    return sha256(content).hexdigest()[:40]


def _canonical(source: str) -> bytes | None:
    """Code without needless blanks, indentation of each line, strings; None for what does not tokenize."""
    text = f"{source.removeprefix(_BYTE_ORDER_MARK)}\n"
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\x00" in text:
        return None
    cut = _without_strings(text)
    if cut is None:
        return None
    code, strings = cut
    if "\\" in code:
        if _LINE_OF_BACKSLASH.search(code) or code.rstrip().endswith("\\"):
            return None
        code = code.replace("\\\n", " ")
    if not code.isascii() and not all(("_" + character).isidentifier() for character in set(code) if character > "~"):
        return None
    joined = _joined(code.encode())
    if joined is None:
        return None
    # No part holds a NUL but the indentation, whose length follows from the number of lines in the code.
    return b"\0".join((*joined, "\0".join(strings).encode("utf-8", "surrogatepass")))


def _without_strings(text: str) -> tuple[str, list[str]] | None:
    """The code between line ends, where every string leaves its last quote; and the strings. None: one is open."""
    import numpy as np  # here, because commands that ask for no identity start faster without it

    # One byte per character, so that places are the same; `"`, `#` and `'` lie close together.
    characters = np.frombuffer(text.encode("latin-1", "replace"), np.uint8)
    pieces, strings = ["\n\n"], []
    find, first, after = text.find, 0, 0  # a piece begins at `first`, what was found last ends at `after`
    backslashes = "\\" in text
    for start in ((characters - 34) < 6).nonzero()[0].tolist():
        if start < after:
            continue
        sign = text[start]
        if sign == "#":
            piece = text[first:start].rstrip(" \t")
            if backslashes and piece.endswith("\\"):  # without the comment it would continue the line
                return None
            pieces.append(piece)
            first = after = find("\n", start)
        elif sign in "\"'":
            quote = text[start : start + 3]
            if quote not in _TRIPLE:
                quote = sign
            begin = start + len(quote)
            end = find(quote, begin)
            while backslashes and end > 0 and _is_escaped(text, begin, end):
                end = find(quote, end + 1)
            if end < 0:
                return None
            after = end + len(quote)
            string = text[start:after]
            if quote is sign and "\n" in string and not _LINES_OF_STRING.fullmatch(string):
                return None
            pieces.append(text[first:start])
            if pieces[-1][-1:] in _F_STRING and _has_nested_quotes(pieces[-1], string):
                return None
            strings.append(string)
            first = after - 1
    pieces.append(text[first:])
    return "".join(pieces), strings


def _is_escaped(text: str, begin: int, end: int) -> bool:
    """Whether an odd number of backslashes stands before `end`."""
    at = end
    while at > begin and text[at - 1] == "\\":
        at -= 1
    return (end - at) % 2 == 1


def _has_nested_quotes(before: str, string: str) -> bool:
    """Whether an f-string ends within a field: then Python >= 3.12 reads the text differently than this module."""
    if "f" not in before[-2:].lower():
        return False
    return string.replace("{{", "").count("{") != string.replace("}}", "").count("}")


def _joined(code: bytes) -> tuple[bytes, bytes] | None:
    """Logical lines without needless blanks, and the indentation of each; None where something is no token."""
    import numpy as np

    flat = code.replace(b"\t", b" ")
    small = flat.translate(_STEPS, _ORDINARY)  # only brackets, line ends and errors
    if _ERROR in small or (b"!" in flat and flat.count(b"!") != flat.count(b"!=")):
        return None
    steps = np.frombuffer(small, np.int8)
    open_brackets = steps.cumsum(dtype=np.int8)
    reached = open_brackets.tobytes()
    if reached[-1] or b"\xff" in reached or b"\x80" in reached:  # -1: never opened; -128: one more than fits
        return None

    # Of every line that is not empty: the line end before it, its first character that is not blank, its line end.
    characters = np.frombuffer(flat, np.uint8)
    blank, line_end = characters == 32, characters == 10
    void = blank | line_end
    ends = line_end.nonzero()[0]
    filled = (ends[1:] - ends[:-1]) > 1
    depths = open_brackets[steps == 0][:-1][filled]
    begins, ends = ends[:-1][filled], ends[1:][filled]
    firsts = (((blank[1:-1] & void[:-2]) | line_end[1:-1]) > void[2:]).nonzero()[0] + 2
    if len(firsts) != len(begins) or b"\1" in (blank[:-1] & line_end[1:]).tobytes():
        # Lines that end in blanks or have two in a row within: from here on there are none.
        return _joined(_INNER_BLANKS.sub(b" ", _LAST_BLANKS.sub(b"", code)))
    if not len(begins):
        return b"", b""

    kinds = np.frombuffer(flat.translate(_KINDS), np.uint8)
    left = kinds >> 4
    near_blanks = (kinds[1:-2] == _E_OR_J) & (void[2:-1] | void[3:])
    behind_digits = (left[:-3] >> 1) & near_blanks.view(np.uint8)
    if any(_splits_exponent(flat, at + 1) for at in behind_digits.view(bool).nonzero()[0].tolist()):
        return None
    joints = left[:-2] & kinds[2:]
    changed = (joints > 0) & blank[1:-1]
    for at in ((joints == _DOTS) & blank[1:-1]).nonzero()[0].tolist():
        changed[at] = _is_beside_number(flat, at, at + 2)
    changed |= line_end[1:-1] & line_end[2:]
    out = characters[1:-1] - changed.view(np.uint8)  # blanks that stay become 31; ends of empty lines become tabs
    inside = depths.nonzero()[0]
    if len(inside):
        before, behind = ends[inside - 1] - 1, firsts[inside]
        joints = left[before] & kinds[behind]
        held = joints > 0
        for at in (joints == _DOTS).nonzero()[0].tolist():
            held[at] = _is_beside_number(flat, int(before[at]), int(behind[at]))
        out[begins[inside] - 1] = 32 - held
        logical = depths == 0
        begins, firsts = begins[logical], firsts[logical]
    widths = firsts - begins - 1
    steps_in = widths[1:] - widths[:-1]
    if b"\t" in code or widths[0] or np.bitwise_or.reduce(widths) % _STEP or steps_in.max(initial=0) > _STEP:
        found = _depths(
            [code[begin + 1 : first] for begin, first in zip(begins.tolist(), firsts.tolist(), strict=True)]
        )
        if found is None:
            return None
        widths = np.array(found) * _STEP
    return out.tobytes().translate(None, b" \t").strip(b"\n"), widths.astype("<i4").tobytes()


def _is_beside_number(code: bytes, before: int, behind: int) -> bool:
    """Whether a dot and its neighbour may belong to a number; a dot behind a name, or before one, does not."""
    dot = code[before] == ord(".")
    if dot and code[behind] not in b"eEjJ":
        return True
    start = before - dot
    while code[start] in _WORD_OR_DOT and code[start] != ord("."):
        start -= 1
    return code[start + 1 : start + 2].isdigit()


def _splits_exponent(code: bytes, at: int) -> bool:
    """Whether the `e` at this place ends a number that blanks hold apart from what looks like its exponent."""
    behind = code[at + 1 : at + 3]
    if code[at] not in b"eE" or (behind[0] not in b" \n" and not (behind[0] in b"+-" and behind[1] in b" \n")):
        return False
    start = at
    while code[start - 1] in _WORD_OR_DOT:
        start -= 1
    *before, last = code[start : at + 1].split(b".")
    if before and last in b"eE":
        last = before[-1]
    return last[:1].isdigit() and (bool(before) or last[:2] not in (b"0x", b"0X"))


def _depths(indentations: list[bytes]) -> list[int] | None:
    """How deep lines are nested, with any indentation; None where Python refuses it."""
    depths: list[int] = []
    widths, characters = [0], [0]  # of the blocks that are open: Python compares both, with tabs of 8 and of 1
    for blanks in indentations:
        width = len(blanks) if b"\t" not in blanks else _width(blanks)
        if width > widths[-1] and len(blanks) > characters[-1]:
            widths.append(width)
            characters.append(len(blanks))
        else:
            while width < widths[-1]:
                widths.pop()
                characters.pop()
            if width != widths[-1] or len(blanks) != characters[-1]:
                return None
        depths.append(len(widths) - 1)
    return depths


def _width(blanks: bytes) -> int:
    """Columns of an indentation with tabs, as Python's tokenizer counts them."""
    width = 0
    for blank in blanks:
        width = (width // _TAB + 1) * _TAB if blank == 9 else width + 1
    return width
