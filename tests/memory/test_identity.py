"""L0 and the literature's hash: what they tell apart, against Python's own tokenizer, and how long they take."""

import io
import time
import tokenize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory import identity
from memory.identity import EXACT_PREFIX, TEXT_PREFIX, l0, literal_hash

SOURCE = '''
import torch
from torch import nn


class Mixer(nn.Module):
    """A mixer  with  two spaces."""

    def __init__(self, d_model: int, *, scale: float = 1.5e-3) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.zeros(d_model)) for _ in range(0x10)]  # sixteen
        )

    def forward(self, x):
        total = x
        for weight in self.weights:
            if not isinstance(weight, str) and weight is not None:
                total = total + weight * x ** 2
        return total


def build_mixer(d_model, layer_index, n_layers):
    name = f"layer {layer_index:>2} of {n_layers}" \\
        r"\\d" b"" .decode()
    return Mixer(d_model)
'''

SAME = {
    "comments": SOURCE.replace("  # sixteen", "# 16").replace("class", "# a class\nclass", 1),
    "blank lines": SOURCE.replace("\n\n", "\n\n\n   \n\t\n"),
    "trailing blanks": SOURCE.replace(":\n", ":  \n"),
    "indentation width": SOURCE.replace("    ", "  "),
    "tabs": SOURCE.replace("    ", "\t"),
    "spacing": SOURCE.replace(" = ", "=").replace("total + weight", "total+  weight").replace("(x)", "( x )"),
    "line ends": SOURCE.replace("\n", "\r\n"),
    "old line ends": SOURCE.replace("\n", "\r"),
    "continuation": SOURCE.replace("x ** 2", "x \\\n** 2"),
    "brackets over lines": SOURCE.replace("Mixer(d_model)\n", "Mixer(\n\n  d_model # here\n)\n"),
    "no end of line": SOURCE.rstrip("\n"),
    "byte order mark": "\ufeff" + SOURCE,
}
DIFFERENT = {
    "return inside the loop": SOURCE.replace("        return total", "            return total"),
    "blanks in a string": SOURCE.replace("with  two", "with two"),
    "comment sign in a string": SOURCE.replace("with  two", "with # two"),
    "joined words": SOURCE.replace("not isinstance", "notisinstance"),
    "renamed": SOURCE.replace("total", "sum_"),
    "number": SOURCE.replace("1.5e-3", "1.5e-4"),
    "operator": SOURCE.replace("**", "*"),
    "string prefix": SOURCE.replace('b""', '""'),
    "quote style": SOURCE.replace('b""', "b''"),
    "bracket": SOURCE.replace("[nn.Parameter", "(nn.Parameter").replace("range(0x10)]", "range(0x10))"),
}


@pytest.mark.parametrize("change", SAME)
def test_layout_and_comments_do_not_count(change: str) -> None:
    assert SAME[change] != SOURCE
    assert l0(SAME[change]) == l0(SOURCE)
    assert l0(SOURCE).startswith(TEXT_PREFIX)


@pytest.mark.parametrize("change", DIFFERENT)
def test_everything_else_counts(change: str) -> None:
    assert DIFFERENT[change] != SOURCE
    assert l0(DIFFERENT[change]) != l0(SOURCE)


def test_literal_hash_is_the_literatures() -> None:
    assert literal_hash("def f(x):\n\treturn x \n") == literal_hash("deff(x):returnx")
    assert literal_hash("a b") == "187ef4436122d1cc2f40dc2b92f0eba0"  # md5 of "ab"
    for change in ("return inside the loop", "blanks in a string", "joined words"):
        assert literal_hash(DIFFERENT[change]) == literal_hash(SOURCE), "it merges these; L0 does not"


@pytest.mark.parametrize(
    "text",
    [
        *("x = 'open", '"""open', "x = (1", "x = 1)", "x = $", "if x:\n        a\n    b\n", "x = \xa0 1"),
        *("x = 1\x00", "x\f = 1", "\\\nx = 1", 'x = f"{a["b c"]}"'),
    ],
)
def test_what_does_not_tokenize_equals_only_itself(text: str) -> None:
    assert l0(text).startswith(EXACT_PREFIX)
    assert l0(text) == l0(text)
    assert l0(text) != l0(text + " ")


def test_one_text_has_one_kind_of_key() -> None:
    assert l0("") == l0("\n \n# nothing\n")
    assert l0("").startswith(TEXT_PREFIX)
    assert l0("x = '\ud800'") != l0("x = '\ud801'")


def tokens(source: str) -> list[tuple[str, str]] | None:
    """What Python's tokenizer says, without what a layout change may touch; None when it refuses."""
    kept = []  # the tokenizer does not always end a last line that has no end: give it one
    try:
        for token in tokenize.generate_tokens(io.StringIO(source + "\n").readline):
            if token.type == tokenize.ERRORTOKEN:
                return None
            if token.type in (tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER):
                continue
            layout = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
            kept.append((tokenize.tok_name[token.type], "" if layout else token.string))
    except (tokenize.TokenError, IndentationError):
        return None
    return kept


names = st.sampled_from(["x", "not", "nota", "f", "rb", "return", "_1", "é"])
numbers = st.sampled_from(["0", "1.5e-3", "0x1F", "1_000", ".5", "1.", "2j", "1e5", "0b01"])
strings = st.sampled_from(
    [
        *("'a b'", '"ab"', "'# no comment'", 'f"{x:>2} y"', "b'\\''", "r'\\d'", "''", '"("'),
        *('"""two\n  lines"""', "'''it's'''"),
    ]
)
operators = st.sampled_from(
    ["+", "-", "**", "*", "//", "/", "=", "==", ":=", "->", ".", "...", ",", ":", ";", "@=", "<<=", "<", "!=", "~"]
)
blank = st.sampled_from(["", " ", "  ", "\t", " \\\n "])
atoms = st.one_of(names, numbers, strings, operators, st.sampled_from(["(x)", "[0]", "{x}", "(\n x, # c\n)"]))


@st.composite
def programs(draw: st.DrawFn) -> str:
    """Lines of tokens in nested blocks; most of them tokenize, few of them mean anything."""
    lines = []
    depth = 0
    for _ in range(draw(st.integers(1, 8))):
        depth = draw(st.integers(0, depth + 1))
        pieces = draw(st.lists(st.tuples(atoms, blank), min_size=1, max_size=6))
        tail = draw(st.sampled_from(["", "", " ", "  # a comment", "\n", "\n  # a comment, indented\n"]))
        lines.append("  " * depth + "".join(atom + after for atom, after in pieces) + tail)
    return "\n".join(lines) + draw(st.sampled_from(["", "\n", "\n\n"]))


@settings(max_examples=300, deadline=None)
@given(programs(), programs())
def test_equal_keys_mean_equal_tokens(first: str, second: str) -> None:
    for left, right in ((first, second), (first, first.replace("  ", " ")), (first, relaid(first))):
        a, b = tokens(left), tokens(right)
        if a is None or b is None or (l0(left) + l0(right)).count(TEXT_PREFIX) != 2:
            continue
        assert (l0(left) == l0(right)) == (a == b)


@settings(max_examples=200, deadline=None)
@given(programs())
def test_what_python_tokenizes_gets_a_text_key(source: str) -> None:
    odd = identity._LINE_OF_BACKSLASH.search(f"\n{source}\n")
    if tokens(source) is not None and not odd and _compiles_or_tokens(source):
        assert l0(source).startswith(TEXT_PREFIX)
        assert l0(relaid(source)) == l0(source)


def _compiles_or_tokens(source: str) -> bool:
    # A line that ends in a backslash at the end of the file tokenizes in some versions of Python and not in others.
    return not source.rstrip(" \t\n").endswith("\\")


def relaid(source: str) -> str:
    """The program with another layout, made from its tokens."""
    found = tokens(source)
    if found is None:
        return source
    pieces: list[str] = []
    depth, fresh = 0, True
    for kind, string in found:
        if kind == "INDENT":
            depth += 1
        elif kind == "DEDENT":
            depth -= 1
        elif kind == "NEWLINE":
            pieces.append("   # end\n\n")
            fresh = True
        else:
            pieces.append(("\t" * depth if fresh else "  ") + string)
            fresh = False
    return "".join(pieces)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(codec=None), max_size=60))
def test_any_text_has_a_key(text: str) -> None:
    assert l0(text) == l0(text)
    assert len(literal_hash(text)) == 32


def test_speed() -> None:
    """A program of 250 lines. The bound is wide because test machines are shared; benchmarks hold the figures."""
    program = "\n".join((SOURCE * 10).splitlines()[:250])
    assert l0(program).startswith(TEXT_PREFIX)
    best = min(_seconds(program) for _ in range(20))
    assert best < 0.002


def _seconds(program: str) -> float:
    begin = time.thread_time()
    l0(program)
    return time.thread_time() - begin


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ['"\\', 'f"\\', "'''\\", "'"])
def test_unclosed_quotes_cost_no_more_than_the_length_of_the_text(piece: str) -> None:
    """A pattern that starts over at every quote needs 18 s for this."""
    assert l0(piece * (64_000 // len(piece)) + "\n").startswith((EXACT_PREFIX, TEXT_PREFIX))
