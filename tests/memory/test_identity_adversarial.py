"""Programs that differ by as little as possible, and copies that do not differ: what each text level makes of them."""

import ast
import dis
from pathlib import Path
from types import CodeType

import pytest

from benchmarks.identity_copies import LAYOUTS, REWRITES, layout_copies, renamed_copies
from benchmarks.identity_pairs import Pair, different_pairs, observe
from memory.identity import EXACT_PREFIX, l0, literal_hash
from memory.syntax import l1

PAIRS = different_pairs()
KINDS = sorted({pair.kind for pair in PAIRS})
REFERENCES = {
    path.stem: path.read_text()
    for path in sorted((Path(__file__).parents[2] / "evaluator" / "references").glob("*.py"))
    if path.stem in ("diagonal_ssm", "gated_recurrence", "long_convolution", "rwkv", "softmax_attention")
}


def of_kind(kind: str) -> list[Pair]:
    return [pair for pair in PAIRS if pair.kind == kind]


def test_the_corpus_is_large_and_no_pair_stands_twice() -> None:
    assert len(PAIRS) >= 300
    assert len({(pair.left, pair.right) for pair in PAIRS}) == len(PAIRS)
    assert len({(pair.kind, pair.name) for pair in PAIRS}) >= 200


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_differs_in_what_it_does(kind: str) -> None:
    assert [pair for pair in of_kind(kind) if observe(pair.left) == observe(pair.right)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_level_merges_programs_that_differ(kind: str) -> None:
    assert [pair for pair in of_kind(kind) if l0(pair.left) == l0(pair.right)] == []
    keys = [(l1(pair.left).key, l1(pair.right).key, pair) for pair in of_kind(kind)]
    assert [pair for left, right, pair in keys if left is not None and left == right] == []


def test_level_one_applies_to_every_program_that_compiles() -> None:
    for pair in PAIRS:
        if pair.surrounding not in ("closure", "as it stands"):
            continue  # the surroundings compile
        for program in (pair.left, pair.right):
            assert (l1(program).key is None) == (observe(program)[0] in UNCOMPILED), program


UNCOMPILED = {f"does not load: {kind}" for kind in ("SyntaxError", "IndentationError", "TabError")}


def test_the_literal_hash_merges_many() -> None:
    merged = [pair for pair in PAIRS if literal_hash(pair.left) == literal_hash(pair.right)]
    assert {"indentation", "strings", "joined words", "lines", "comments"} <= {pair.kind for pair in merged}


def test_layout_does_not_count_for_level_zero() -> None:
    copies = layout_copies(REFERENCES)
    assert len(copies) == len(LAYOUTS) * len(REFERENCES)
    for copy in copies:
        assert copy.copy != copy.source
        assert ast.dump(ast.parse(copy.copy.removeprefix("\ufeff"))) == ast.dump(ast.parse(copy.source)), copy.kind
        assert l0(copy.copy) == l0(copy.source), (copy.kind, copy.name)


def test_names_types_and_docstrings_do_not_count_for_level_one() -> None:
    copies = renamed_copies(REFERENCES)
    assert {copy.kind for copy in copies} == set(REWRITES)
    for copy in copies:
        assert l0(copy.copy) != l0(copy.source), (copy.kind, copy.name)
        assert l1(copy.copy) == l1(copy.source), (copy.kind, copy.name)


def test_renamed_copies_run_the_same_instructions() -> None:
    copies = [copy for copy in renamed_copies(REFERENCES) if copy.kind == "locals renamed"]
    assert len(copies) == len(REFERENCES)
    for copy in copies:
        assert instructions(copy.copy) == instructions(copy.source), copy.name


def instructions(source: str) -> list[tuple[str, str]]:
    """Every instruction of a program, local variables by the order in which they occur."""
    found: list[tuple[str, str]] = []
    stack = [compile(source, "<program>", "exec", dont_inherit=True)]
    while stack:
        code = stack.pop()
        numbers: dict[str, int] = {}
        own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
        for instruction in dis.get_instructions(code):
            value = instruction.argval
            if instruction.opname in ("MAKE_CELL", "COPY_FREE_VARS", "LOAD_CLOSURE"):
                continue  # in the order of the names
            if isinstance(value, CodeType):
                stack.append(value)
                value = value.co_name
            elif isinstance(value, str) and value in own:
                value = numbers.setdefault(value, len(numbers))
            found.append((instruction.opname, repr(value)))
    return found


@pytest.mark.timeout(20)
def test_a_string_that_never_ends_is_not_read_over_and_over() -> None:
    assert l0("x = 1\n\n" * 50 + "'''\n\n" + "y = 2\n\n" * 50_000).startswith(EXACT_PREFIX)
    assert l0("x = (\n\n" * 20_000).startswith(EXACT_PREFIX)
