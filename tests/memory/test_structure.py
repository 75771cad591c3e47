"""What a program is made of and how two of them differ, on small programs and on the reference architectures."""

import contextlib
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluator import catalogue
from memory.structural_diff import Change, compare, structural_diff
from memory.structure import MAX_CHARACTERS, Component, Unreadable, components

PROGRAM = '''
"""A mixer."""
import math
import torch
from torch import nn
import torch.nn.functional as F

HEADS = 4


class Mixer(nn.Module):
    """Text."""

    def __init__(self, d_model: int, kernel: int = 3):
        super().__init__()
        inner = 2 * d_model
        self.heads = HEADS
        self.qkv = nn.Linear(d_model, 3 * inner, bias=False)
        self.act = nn.SiLU()
        self.conv = nn.Sequential(nn.Conv1d(inner, inner, kernel), nn.GELU())
        self.scale = nn.Parameter(torch.ones(inner))
        self.register_buffer("mask", torch.ones(1))
        self.out = nn.Linear(inner, d_model)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        weights = F.softmax(q @ k.transpose(-1, -2) / math.sqrt(8), dim=-1)
        if x.shape[1] > 2 * 8:
            weights = weights * 0.5
        gate = torch.sigmoid(v).unsqueeze(-1)
        y = torch.einsum("bij,bjd->bid", weights, v) * gate
        return self.out(y) * self.act(x)


def build_mixer(d_model, layer_index, n_layers):
    return Mixer(d_model, kernel=4)
'''


def found(program: str, kind: str) -> list[tuple[str, str, str]]:
    return [(c.where, c.name, c.value) for c in components(program) if c.kind == kind]


def test_named_components() -> None:
    assert found(PROGRAM, "class") == [("", "Mixer", "Module")]
    assert found(PROGRAM, "module") == [
        ("Mixer", "qkv", "Linear(d_model, 3 * (2 * d_model), bias=False)"),
        ("Mixer", "act", "SiLU()"),
        ("Mixer", "conv", "Sequential"),
        ("Mixer", "out", "Linear(2 * d_model, d_model)"),
    ]
    assert found(PROGRAM, "stage") == [
        ("Mixer.conv", "Conv1d", "Conv1d(2 * d_model, 2 * d_model, kernel)"),
        ("Mixer.conv", "GELU", "GELU()"),
    ]
    assert found(PROGRAM, "parameter") == [("Mixer", "scale", "Parameter(ones(2 * d_model))")]
    assert found(PROGRAM, "buffer") == [("Mixer", "mask", "ones(1)")]
    assert found(PROGRAM, "constant") == [
        ("", "HEADS", "4"),
        ("Mixer", "heads", "HEADS"),
        ("Mixer.__init__", "kernel", "3"),
    ]
    assert [name for _, name, _ in found(PROGRAM, "function")] == ["__init__", "forward", "build_mixer"]


def test_operations_stand_in_the_order_of_evaluation() -> None:
    assert [(name, value) for where, name, value in found(PROGRAM, "operation") if where == "Mixer.forward"] == [
        ("self.qkv", ""),
        ("chunk", "3, dim=-1"),
        ("transpose", "-1, -2"),
        ("matmul", ""),
        ("math.sqrt", "8"),
        ("div", ""),
        ("softmax", "dim=-1"),
        ("mul", "0.5"),
        ("sigmoid", ""),
        ("unsqueeze", "-1"),
        ("einsum", "'bij,bjd->bid'"),
        ("gate", "sigmoid"),
        ("self.out", ""),
        ("self.act", ""),
        ("gate", "silu"),
    ]


def test_one_operation_under_three_names() -> None:
    written = (
        "torch.softmax(x, dim=1)",
        "F.softmax(x, dim=1)",
        "x.softmax(dim=1)",
        "torch.nn.functional.softmax(x, dim=1)",
    )
    programs = [f"import torch\nimport torch.nn.functional as F\n\ndef f(x):\n    return {call}\n" for call in written]
    assert len({components(program) for program in programs}) == 1


def changes(before: str, after: str) -> list[tuple[str, str, str | None, str | None]]:
    def text(component: Component | None) -> str | None:
        return None if component is None else f"{component.where}:{component.name}"

    diff = structural_diff(before, after)
    return [(c.what, c.component.kind, text(c.before), text(c.after)) for c in diff.changes]


def test_layout_names_of_locals_and_words_change_nothing() -> None:
    rewritten = (
        PROGRAM.replace("inner", "width").replace("weights", "a").replace('"""Text."""', '"""Other."""')
        .replace("d_model: int", "d_model").replace("    def forward", "    # comment\n\n    def forward")
    )  # fmt: skip
    assert changes(PROGRAM, rewritten) == []
    assert changes(PROGRAM, PROGRAM) == []


def test_came_and_went() -> None:
    extended = PROGRAM.replace(
        "        self.out =", "        self.norm = nn.LayerNorm(d_model)\n        self.out ="
    ).replace("self.qkv(x)", "self.qkv(self.norm(x))")
    assert changes(PROGRAM, extended) == [
        ("came", "module", None, "Mixer:norm"),
        ("came", "operation", None, "Mixer.forward:self.norm"),
    ]
    assert [change[0] for change in changes(extended, PROGRAM)] == ["went", "went"]


def test_changed_arguments() -> None:
    changed = PROGRAM.replace("bias=False", "bias=True").replace("kernel: int = 3", "kernel: int = 5")
    changed = changed.replace("chunk(3, dim=-1)", "chunk(3, dim=2)").replace("nn.GELU()", "nn.ReLU()")
    assert {(what, kind, after) for what, kind, _, after in changes(PROGRAM, changed)} == {
        ("changed", "constant", "Mixer.__init__:kernel"),
        ("changed", "module", "Mixer:qkv"),
        ("changed", "operation", "Mixer.forward:chunk"),
        ("went", "stage", None),
        ("came", "stage", "Mixer.conv:ReLU"),
    }


def test_renaming_takes_uses_and_contents_along() -> None:
    renamed = PROGRAM.replace("self.qkv", "self.project").replace("Mixer", "Attention")
    assert changes(PROGRAM, renamed) == [
        ("renamed", "class", ":Mixer", ":Attention"),
        ("renamed", "module", "Mixer:qkv", "Attention:project"),
    ]


def test_moved_within_a_function_and_between_classes() -> None:
    before = textwrap.dedent("""
        from torch import nn
        class A(nn.Module):
            def __init__(self):
                self.norm = nn.LayerNorm(7)
            def forward(self, x):
                y = x.cumsum(1)
                return y.exp().tanh()
        class B(nn.Module):
            def __init__(self):
                self.other = nn.Linear(1, 2)
            def forward(self, x):
                return x.log()
    """)
    later = before.replace("        self.norm = nn.LayerNorm(7)\n", "        pass\n").replace(
        "        self.other", "        self.norm = nn.LayerNorm(7)\n        self.other"
    )
    assert changes(before, later) == [("moved", "module", "A:norm", "B:norm")]
    reordered = before.replace("x.cumsum(1)", "x.tanh()").replace("y.exp().tanh()", "y.cumsum(1).exp()")
    assert ("moved", "operation", "A.forward:tanh", "A.forward:tanh") in changes(before, reordered)
    assert {what for what, *_ in changes(before, reordered)} == {"moved"}
    elsewhere = before.replace("y.exp().tanh()", "y.exp()").replace("x.log()", "x.log().tanh()")
    assert changes(before, elsewhere) == [("moved", "operation", "A.forward:tanh", "B.forward:tanh")]


def test_a_weight_shared_twin_differs() -> None:
    shared = PROGRAM.replace("self.out(y)", "self.qkv(y)")
    assert ("changed", "operation") not in {change[:2] for change in changes(PROGRAM, shared)}
    assert {
        (what, (before or after or "").partition(":")[2]) for what, _, before, after in changes(PROGRAM, shared)
    } == {
        ("went", "self.out"),
        ("came", "self.qkv"),
    }


@pytest.mark.parametrize("name", catalogue.names())
def test_references_are_read_and_equal_themselves(name: str) -> None:
    source = catalogue.source(name)
    diff = structural_diff(source, source)
    assert diff.changes == ()
    assert diff.same == len(components(source)) > 5


def test_two_references_that_differ_in_one_argument() -> None:
    diff = structural_diff(catalogue.source("gated_delta_net"), catalogue.source("delta_net"))
    (change,) = diff.changes
    assert (change.what, change.component.where, change.component.name) == ("changed", "build_mixer", "DeltaRule")


NAMES = st.sampled_from(["alpha", "beta", "gamma", "delta"])
VALUES = st.sampled_from(
    ["nn.Linear(8, 8)", "nn.Linear(8, 16)", "nn.GELU()", "nn.Parameter(w)", "4", "nn.Sequential(nn.GELU(), nn.ReLU())"]
)
CALLS = st.sampled_from(["torch.exp(x)", "x @ x", "x * 2", "F.softmax(x, -1)", "self.alpha(x)", "helper(x)", "x + x"])


@st.composite
def programs(draw: st.DrawFn) -> str:
    lines = ["import torch", "from torch import nn", "import torch.nn.functional as F"]
    for name in draw(st.lists(st.sampled_from(["A", "B", "C"]), unique=True, max_size=3)):
        lines += [f"class {name}(nn.Module):", "    def __init__(self, d=1):", "        super().__init__()"]
        lines += [f"        self.{n} = {draw(VALUES)}" for n in draw(st.lists(NAMES, unique=True, max_size=4))]
        lines += ["    def forward(self, x):", *(f"        x = {c}" for c in draw(st.lists(CALLS, max_size=6)))]
        lines += ["        return x"]
    for name in draw(st.lists(st.sampled_from(["helper", "other"]), unique=True)):
        lines += [f"def {name}(x):", *(f"    x = {c}" for c in draw(st.lists(CALLS, max_size=4))), "    return x"]
    return "\n".join(lines) + "\n"


def parts(side: list[Component | None]) -> list[Component]:
    return [component for component in side if component is not None]


@given(programs(), programs())
def test_a_difference_is_a_matching(before: str, after: str) -> None:
    one, other = components(before), components(after)
    diff = compare(one, other)
    for side, whole in (([c.before for c in diff.changes], one), ([c.after for c in diff.changes], other)):
        mentioned = parts(side)
        assert len(set(mentioned)) == len(mentioned)
        assert set(mentioned) <= set(whole)
        assert len(mentioned) + diff.same == len(whole)
    for change in diff.changes:
        assert isinstance(change, Change)
        assert (change.before is None) == (change.what == "came")
        assert (change.after is None) == (change.what == "went")
        if change.what in {"renamed", "moved"}:
            assert change.before is not None
            assert change.after is not None
            assert change.before.kind == change.after.kind
    assert (diff.changes == ()) == (diff.same == len(one) == len(other))


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("def f(:\n", "does not parse: .*line 1"),
        ("x = 1\0", "does not parse"),
        ("x = '\ud800'", "does not parse"),
        ("x = " + "(" * 300 + ")" * 300, "does not parse|nested too deeply"),
        ("x = " + "-" * 200_000 + "1", "nested too deeply|does not parse"),
        ("def f(x):\n    return " + "+".join(["x"] * 20_000), "nested too deeply"),
        ("#" * (MAX_CHARACTERS + 1), "characters"),
        ("# " + "x" * 10_000_000, "characters"),
    ],
)
def test_what_has_no_structure_says_why(program: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        components(program)


def test_odd_escapes_are_no_warning() -> None:
    assert found('X = "\\d"\n', "constant") == [("", "X", "'\\\\d'")]


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(Unreadable):
        components(text)
