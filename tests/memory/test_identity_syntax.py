"""L1: what it drops, what it keeps, where it does not apply, and that renaming a local variable is no difference."""

import ast
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.identity_copies import LAYOUTS, relaid, renamed_copies
from memory.identity import l0
from memory.syntax import MAX_CHARACTERS, SYNTAX_PREFIX, SyntaxKey, canonical_syntax, l1

SOURCE = '''
"""A mixer."""

import math
import torch
import torch.nn as nn
from typing import Optional
from torch.nn import functional as F


def scaled(x: torch.Tensor, by: float = 1.0) -> torch.Tensor:
    """Scales."""
    result: torch.Tensor = x * by
    return result


class Mixer(nn.Module):
    def __init__(self, d_model: int, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(d_model, d_model) for _ in range(depth)])

    def forward(self, x: torch.Tensor, mask: Optional[torch.Tensor] = None) -> torch.Tensor:
        total = x
        for layer in self.layers:
            try:
                total = total + scaled(F.silu(layer(total)), math.pi)
            except ValueError as error:
                raise RuntimeError(f"failed: {error}") from error
        pick = lambda value, other: value - other
        return pick(total, x) if mask is None else [row for row in total if (found := row) is not None] and found


def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    return Mixer(d_model)
'''


def changed(*pairs: tuple[str, str]) -> str:
    source = SOURCE
    for old, new in pairs:
        assert old in source
        source = source.replace(old, new)
    return source


SAME = {
    "docstrings": changed(('"""A mixer."""', ""), ('"""Scales."""', "'Scales x.'")),
    "a bare string": changed(("        total = x\n", "        total = x\n        'note'; ...; pass\n")),
    "annotations": changed((": torch.Tensor", ""), (" -> torch.Tensor", "")),
    "imports of types": changed(
        ("Optional[torch.Tensor]", "torch.Tensor | None"), ("from typing import Optional\n", "")
    ),
    "postponed annotations": changed(("\nimport math", "\nfrom __future__ import annotations\nimport math")),
    "order of imports": changed(("import math\nimport torch\n", "import torch, math\n")),
    "an import twice": changed(("import math\n", "import math\nimport math\n")),
    "form of an import": changed(("import torch.nn as nn", "from torch import nn")),
    "a local": changed(("total", "sum_")),
    "parameters": changed(("self", "this"), ("mask", "keep")),
    "parameters of a function": changed(("x: torch.Tensor, by", "z: torch.Tensor, by"), ("x * by", "z * by")),
    "parameters of a lambda": changed(("value, other: value - other", "p, q: p - q")),
    "name of an exception": changed(("error", "problem")),
    "variable of a comprehension": changed(("row", "line")),
    "variable of a walrus": changed(("found", "seen")),
    "quotes and brackets": changed(('f"failed: {error}"', "(f'failed: {error}')"), ("x * by", "(x) * (by)")),
    "numbers": changed(("1.0", "1."), ("= 2", "= 0x2")),
    "semicolons": changed(("        total = x\n        for", "        total = x; pass\n        for")),
    "an empty else": changed(("    return result", "    if by: return result\n    else: pass\n    return result"))
    .replace("    if by: return result\n    else: pass\n", ""),
}  # fmt: skip
DIFFERENT = {
    "an operator": changed(("total + scaled", "total - scaled")),
    "operands": changed(("value - other", "other - value")),
    "a default": changed(("by: float = 1.0", "by: float = 2.0")),
    "kind of a number": changed(("by: float = 1.0", "by: float = 1")),
    "a text": changed(("failed: ", "Failed: ")),
    "an attribute": changed(("self.layers", "self.blocks")),
    "a class": changed(("Mixer", "Mixing")),
    "a function": changed(("scaled", "rescaled")),
    "a parameter of the contract": changed(("layer_index", "index")),
    "what a name refers to": changed(("pick(total, x)", "pick(x, total)")),
    "an unknown type": changed(("by: float", "by: Missing")),
    "an import": changed(("import math\n", "import math\nimport copy\n")),
    "what an import is called": changed(("functional as F", "functional as G"), ("F.silu", "G.silu")),
}


@pytest.mark.parametrize("change", SAME)
def test_names_types_and_spelling_do_not_count(change: str) -> None:
    assert l1(SAME[change]) == l1(SOURCE)


def test_the_key_says_its_level() -> None:
    key = l1(SOURCE)
    assert key.reason == ""
    assert key.key is not None
    assert key.key.startswith(SYNTAX_PREFIX)
    assert len(key.key) == len(SYNTAX_PREFIX) + 40


@pytest.mark.parametrize("change", DIFFERENT)
def test_everything_else_counts(change: str) -> None:
    assert l1(DIFFERENT[change]).key not in (None, l1(SOURCE).key)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = (1", "does not compile: '(' was never closed (line 1)"),
        ("return 1", "does not compile: 'return' outside function (line 1)"),
        ("def f():\n    nonlocal x\n", "does not compile: no binding for nonlocal 'x' found (line 2)"),
        (
            "if x:\n\ty = 1\n        z = 1\n",
            "does not compile: inconsistent use of tabs and spaces in indentation (line 3)",
        ),
        ("x = 1\x00", "holds a NUL"),
        ("x = '\ud800'", "holds a lone surrogate"),
        ("x = 1 #" + "y" * MAX_CHARACTERS, f"{MAX_CHARACTERS + 7:,} characters long; the limit is 200,000"),
        ("x = " + "+".join("1" * 400), "nested more than 150 levels deep"),
        ("x = " + "-" * 100_000 + "1", "too deeply nested for the parser"),
        ("if a: 1\n" + "elif a: 1\n" * 400, "nested more than 150 levels deep"),
    ],
)  # fmt: skip
def test_where_the_level_does_not_apply_it_says_why(source: str, reason: str) -> None:
    assert l1(source) == SyntaxKey(None, reason)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("piece", ["x = 1\n", "(", "'", "if x:\n ", "\x00", "é"])
def test_a_program_of_ten_megabytes_is_refused_at_once(piece: str) -> None:
    key = l1(piece * (10_000_000 // len(piece)))
    assert key.key is None
    assert "the limit is" in key.reason


def test_huge_integers_and_odd_constants_have_keys() -> None:
    sources = ["x = 0x" + "f" * 20_000, "x = 1e999", "x = -0.0", "x = 0.0", "x = 1j", "x = b''", "x = ''", "x = ..."]
    keys = {l1(source).key for source in sources}
    assert None not in keys
    assert len(keys) == len(sources)


def test_the_key_does_not_depend_on_where_it_is_asked_for() -> None:
    """The stack of a thread, and how deep the caller already is."""
    deep = "x = " + "(" * 60 + "1" + ",)" * 60
    found: list[SyntaxKey] = []

    def at(depth: int) -> SyntaxKey:
        return at(depth - 1) if depth else l1(deep)

    thread = threading.Thread(target=lambda: found.append(l1(deep)))
    thread.start()
    thread.join()
    assert [at(200), l1(deep)] == found * 2
    assert sys.getrecursionlimit() <= 1000 or found


@pytest.mark.parametrize("name", ["heapq", "bisect", "textwrap", "fractions", "statistics", "shlex", "colorsys"])
def test_renamed_copies_of_library_modules(name: str) -> None:
    """Scopes as real programs use them; the copies are made with Python's own symbol tables."""
    module = pytest.importorskip(name)
    with open(module.__file__) as file:  # noqa: PTH123 - importlib knows it as text
        source = file.read()
    for copy in renamed_copies({name: source}):
        if copy.kind in ("locals renamed", "retyped", "other docstrings"):
            assert (copy.copy.count("__doc__") > 0) or l1(copy.copy) == l1(source), copy.kind


VARIABLES = 4
expressions = st.recursive(
    st.one_of(
        st.integers(0, VARIABLES - 1).map("{{v{}}}".format), st.sampled_from(["1", "1.0", "'a b'", "glob", "self.x"])
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "and", "=="]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map("f({})".format),
        st.tuples(st.integers(0, VARIABLES - 1), inner).map(lambda t: f"[{{v{t[0]}}} for {{v{t[0]}}} in {t[1]}]"),
        st.tuples(st.integers(0, VARIABLES - 1), inner).map(lambda t: f"(lambda {{v{t[0]}}}: {t[1]})"),
    ),
    max_leaves=6,
)
simple = st.one_of(
    st.tuples(st.integers(0, VARIABLES - 1), expressions).map(lambda t: f"{{v{t[0]}}} = {t[1]}"),
    st.tuples(st.integers(0, VARIABLES - 1), expressions).map(lambda t: f"{{v{t[0]}}}: int = {t[1]}"),
    expressions.map("self.y = {}".format),
    expressions.map("return {}".format),
)
statements = st.recursive(
    simple.map(lambda line: [line]),
    lambda inner: st.one_of(
        st.tuples(expressions, inner).map(lambda t: [f"if {t[0]}:", *indented(t[1])]),
        st.tuples(st.integers(0, VARIABLES - 1), expressions, inner).map(
            lambda t: [f"for {{v{t[0]}}} in {t[1]}:", *indented(t[2])]
        ),
        st.tuples(st.integers(0, VARIABLES - 1), inner).map(lambda t: [f"def inner({{v{t[0]}}}):", *indented(t[1])]),
        st.lists(inner, min_size=1, max_size=3).map(lambda blocks: [line for block in blocks for line in block]),
    ),
    max_leaves=8,
)
LOCAL_NAMES = ("alpha", "beta", "gamma", "delta", "omega", "x1", "_y", "é", "total", "value")


def indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


def program(lines: list[str], names: tuple[str, ...]) -> str:
    """A method whose locals are called `names`; all of them are bound first, so that none is global."""
    used = {f"v{i}": name for i, name in enumerate(names)}
    first = [f"{{v{i}}} = {i}" for i in range(VARIABLES)]
    body = "\n".join(indented(indented([*first, *lines]))).format(**used)
    return f"glob = 1\n\n\nclass Net:\n    def forward(self, inputs):\n{body}\n"


name_choices = st.permutations(LOCAL_NAMES).map(lambda names: tuple(names[:VARIABLES]))


@settings(max_examples=80, deadline=None)
@given(statements, name_choices, name_choices)
def test_other_names_for_locals_keep_the_key(lines: list[str], first: tuple[str, ...], second: tuple[str, ...]) -> None:
    key = l1(program(lines, first))
    assert key.key is not None
    assert l1(program(lines, second)) == key


variable = st.integers(0, VARIABLES - 1)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(variable, variable, variable), min_size=1, max_size=6), name_choices, variable, st.data())
def test_one_occurrence_that_names_another_variable_changes_the_key(
    lines: list[tuple[int, int, int]], names: tuple[str, ...], shift: int, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(lines) - 1))
    target, left, right = lines[at]
    mutated = [*lines[:at], (target, (left + shift) % VARIABLES, right), *lines[at + 1 :]]
    first, second = ([f"{{v{t}}} = {{v{a}}} - {{v{b}}}" for t, a, b in triples] for triples in (lines, mutated))
    assert (l1(program(first, names)) == l1(program(second, names))) == (shift == 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 99), min_size=2, max_size=6, unique=True), name_choices, st.data())
def test_reordered_statements_change_the_key(values: list[int], names: tuple[str, ...], data: st.DataObject) -> None:
    lines = [f"{{v{value % VARIABLES}}} = {value}" for value in values]
    at = data.draw(st.integers(0, len(lines) - 2))
    swapped = [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]
    assert l1(program(lines, names)).key != l1(program(swapped, names)).key


@settings(max_examples=60, deadline=None)
@given(statements, name_choices, st.sampled_from(sorted(LAYOUTS)))
def test_the_same_text_is_the_same_syntax(lines: list[str], names: tuple[str, ...], layout: str) -> None:
    source = program(lines, names)
    copy = relaid(source, LAYOUTS[layout])
    assert l0(copy) == l0(source)
    assert l1(copy) == l1(source)


@settings(max_examples=60, deadline=None)
@given(statements, name_choices)
def test_normalising_twice_is_normalising_once(lines: list[str], names: tuple[str, ...]) -> None:
    source = program(lines, names)
    once = ast.unparse(ast.parse(source))
    assert canonical_syntax(once) == canonical_syntax(source)
    assert ast.unparse(ast.parse(once)) == once


code = st.lists(
    st.sampled_from(
        ["x", "def f", "class A", "lambda", "(", ")", "[", "]", ":", "=", "\n", "\n    ", " ", "import a", "from", "*",
         "**", "global x", "nonlocal x", "yield", "await", "async", "match x", "case", "f'{x}'", "'", "\\\n", "#", ":=",
         "@", "type X", "1", "0x", "return", "try", "except E as x", "\t", "if", "else", "in", "for", ",", ".", "\f"]
    ),
    max_size=25,
).map("".join)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(alphabet=st.characters(codec=None), max_size=80),
        st.binary(max_size=80).map(lambda b: b.decode("latin-1")),
        code,
    )
)
def test_any_text_has_a_key_or_a_reason(text: str) -> None:
    key = l1(text)
    assert (key.key is None) == bool(key.reason)
    assert l1(text) == key
