"""Designs and their text, both ways, and the programs written from them."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.embedded import genome
from agents.embedded.changes import changes, fits
from agents.embedded.genome import (
    CHOICES,
    LEAVES,
    Gate,
    Mixer,
    Norm,
    Parallel,
    Serial,
    canonical_mixer,
    design_text,
    expression,
    leaf,
    per_layer,
    read_design,
    read_expression,
)
from agents.embedded.library import Library, catalogue_library, catalogue_sources
from agents.embedded.program import read_program
from agents.embedded.render import Heading, program
from evaluator.static_gate import static_gates

HEADING = Heading("A title", "A mechanism.", "Derived from demo-0001.")


@st.composite
def leaf_strategy(draw: st.DrawFn) -> genome.Leaf:
    kind = draw(st.sampled_from(sorted(LEAVES)))
    chosen = {
        name: draw(st.sampled_from([value for value in CHOICES[name] if type(value) is type(default)]))
        for name, default in LEAVES[kind].items()
    }
    return leaf(kind, **chosen)


TREES = st.recursive(
    leaf_strategy(),
    lambda inner: st.one_of(
        st.builds(Serial, inner, inner),
        st.builds(Parallel, inner, inner, st.sampled_from(["sum", "gate"])),
        st.builds(Gate, inner),
        st.builds(Norm, inner, st.sampled_from(["rms", "layer"])),
    ),
    max_leaves=4,
)
MIXERS = st.one_of(
    st.builds(Mixer, TREES),
    st.builds(Mixer, TREES, st.sampled_from(["alternate", "first", "last"]), TREES),
).map(canonical_mixer)


@given(TREES)
def test_expression_and_back(tree: genome.Tree) -> None:
    assert read_expression(expression(tree)) == tree


@given(MIXERS)
def test_design_text_and_back(mixer: Mixer) -> None:
    assert read_design(design_text(mixer)) == mixer
    assert read_design(f"  {design_text(mixer)}\n".replace("; ", ";\n")) == mixer


@given(MIXERS)
def test_canonical_form_is_a_fixed_point(mixer: Mixer) -> None:
    assert canonical_mixer(mixer) == mixer


@settings(max_examples=40)
@given(MIXERS)
def test_program_and_back(mixer: Mixer) -> None:
    source = program(mixer, HEADING, catalogue_library())
    assert read_program(source, 32) == mixer
    assert all(verdict.passed for verdict in static_gates(source))
    assert max(len(line) for line in source.splitlines()) <= 120


@settings(max_examples=20)
@given(MIXERS.filter(lambda mixer: fits(mixer, 32, 2)))
def test_every_change_fits_and_is_another_design(mixer: Mixer) -> None:
    own = per_layer(mixer, 2)
    offered = changes(mixer, [("x", Mixer(leaf("DeltaRule")))], 32, 2)
    keys = [per_layer(change.mixer, 2) for change in offered]
    assert offered
    assert own not in keys
    assert len(set(keys)) == len(keys)
    assert all(fits(change.mixer, 32, 2) for change in offered)
    assert all(len(change.label) <= 160 for change in offered)


def test_same_layers_are_the_same_design_whatever_the_rule() -> None:
    first, second = leaf("DeltaRule"), leaf("ShortConvolution")
    keys = {
        per_layer(Mixer(first, "alternate", second), 2),
        per_layer(Mixer(first, "first", second), 2),
        per_layer(Mixer(second, "last", first), 2),
    }
    assert len(keys) == 1
    assert per_layer(Mixer(first, "alternate", second), 3) != per_layer(Mixer(first, "first", second), 3)


def test_every_reference_program_is_understood() -> None:
    for name, source in catalogue_sources().items():
        assert read_program(source, 32) is not None, name


def test_grammar_knows_the_settings_of_the_reference_classes() -> None:
    known: dict[str, dict[str, object]] = {}
    for source in catalogue_sources().values():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef):
                init = next(item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__")
                names = [argument.arg for argument in init.args.kwonlyargs]
                values = [ast.literal_eval(value) for value in init.args.kw_defaults if value is not None]
                known[node.name] = dict(zip(names, values, strict=True))
    for kind, defaults in LEAVES.items():
        assert known[kind] == dict(defaults), kind


@pytest.mark.parametrize(
    "body",
    [
        "return Unknown(d_model)",
        "return ShortConvolution(d_model, kernel_size=open('x'))",
        "return ShortConvolution(d_model, taps=4)",
        "return ShortConvolution(64)",
        "return Serial(d_model, ShortConvolution(d_model), Unknown(d_model))",
        "for _ in range(3): pass",
        "if d_model > 3:\n        return ShortConvolution(d_model)\n    return DeltaRule(d_model)",
        "x = x\n    return x",
        "return ShortConvolution(d_model, kernel_size=2 ** 99)",
    ],
)
def test_other_programs_are_opaque(body: str) -> None:
    assert read_program(f"def build_mixer(d_model, layer_index, n_layers):\n    {body}\n", 32) is None


@given(st.text(max_size=200))
def test_no_text_breaks_the_readers(text: str) -> None:
    read_program(text, 32)
    read_design(text)


def test_deep_nesting_is_opaque_and_not_a_crash() -> None:
    nested = "Serial(d_model, " * 500 + "X" + ")" * 500
    assert read_expression(nested) is None
    assert read_expression("(" * 5000 + ")" * 5000) is None


def test_layers_written_in_other_ways() -> None:
    programs = [
        "if layer_index % 2 == 0:\n        return DeltaRule(d_model)\n    else:\n        return Retention(d_model)",
        "return DeltaRule(d_model) if layer_index % 2 == 0 else Retention(d_model)",
        "if layer_index % 2:\n        return Retention(d_model)\n    return DeltaRule(d_model)",
        "core = Retention(d_model)\n    if layer_index % 2 == 0:\n        core = DeltaRule(d_model)\n    return core",
    ]
    expected = Mixer(leaf("DeltaRule"), "alternate", leaf("Retention"))
    for body in programs:
        assert read_program(f"def build_mixer(d_model, layer_index, n_layers):\n    {body}\n", 32) == expected


def test_docstring_cannot_be_left() -> None:
    hostile = Heading('"""\nimport os\n"""', 'a """ b \\', "c\u202e\x00\n\n# noqa")
    source = program(Mixer(leaf("DiagonalSSM")), hostile, catalogue_library())
    assert all(verdict.passed for verdict in static_gates(source))
    assert not any("os" in ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.Import))


def test_programs_hold_only_what_they_use_and_are_clean(tmp_path: object) -> None:
    design = Mixer(
        Serial(leaf("ShortConvolution"), Gate(leaf("SoftmaxAttention", window=8))), "last", leaf("DiagonalSSM")
    )
    source = program(design, HEADING, catalogue_library())
    assert "DeltaRule" not in source
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,E9,I,W", "--stdin-filename", "p.py", "-"],
        input=source,
        text=True,
        capture_output=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_library_refuses_two_meanings_of_one_name() -> None:
    with pytest.raises(ValueError, match="helper"):
        Library({"a": "def helper():\n    return 1\n", "b": "def helper():\n    return 2\n"})
    with pytest.raises(KeyError):
        Library({}).program_parts(["Nothing"])
