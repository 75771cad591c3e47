"""L2: what leaves no trace, what does, and what cannot be traced; and the graph's views against NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator import catalogue, tiers
from evaluator.tracing.graph import Graph, Untraceable
from evaluator.tracing.quick import quick
from evaluator.tracing.trace import trace_key

TIER = tiers.get("sequence", "micro")
HEAD = """
import torch
from torch import nn
import torch.nn.functional as F
"""
TAIL = """
def build_mixer(d_model, layer_index, n_layers):
    return Mixer(d_model, layer_index)
"""
PLAIN = """
class Mixer(nn.Module):
    def __init__(self, d, index=0):
        super().__init__()
        self.up = nn.Linear(d, 2 * d)
        self.gate = nn.Linear(d, 2 * d)
        self.scale = nn.Parameter(torch.ones(2 * d))
        self.down = nn.Linear(2 * d, d, bias=False)

    def forward(self, x):
        u = self.up(x)
        g = self.gate(x)
        y = F.silu(u) * g * self.scale
        return self.down(y.cumsum(1))
"""


def key(mixer: str) -> str:
    return trace_key(HEAD + mixer + TAIL, TIER)


def changed(old: str, new: str, source: str = PLAIN) -> str:
    assert old in source
    return source.replace(old, new)


REWRITES = {
    "names": changed("self.up", "self.first", changed("self.scale", "self.s", PLAIN)),
    "independent statements": changed("u = self.up(x)\n        g = self.gate(x)", "g = self.gate(x); u = self.up(x)"),
    "registration": changed(
        "self.up = nn.Linear(d, 2 * d)\n        self.gate = nn.Linear(d, 2 * d)",
        "self.gate = nn.Linear(d, 2 * d); self.up = nn.Linear(d, 2 * d)",
    ),
    "operands": changed("F.silu(u) * g * self.scale", "self.scale * (g * F.silu(u))"),
    "in place": changed("y = F.silu(u) * g * self.scale", "y = F.silu(u); y *= g; y.mul_(self.scale)"),
    "matmul": changed("u = self.up(x)", "u = x @ self.up.weight.t() + self.up.bias"),
    "einsum": changed("self.down(y.cumsum(1))", "torch.einsum('ij,blj->bli', self.down.weight, y.cumsum(1))"),
    "views": changed("g = self.gate(x)", "g = self.gate(x.mT.contiguous().mT.reshape(-1, x.shape[-1])).view_as(u)"),
    "dead operations": changed("u = self.up(x)", "u = self.up(x); dead = (u.exp() @ u.mT).sum()"),
    "a written buffer": changed("u = self.up(x)", "u = torch.empty(*x.shape[:2], 2 * x.shape[2]); u[:] = self.up(x)"),
    "a row of ones": changed("torch.ones(2 * d)", "torch.zeros(2 * d).fill_(1.0)"),
    "no dropout": changed("g = self.gate(x)", "g = F.dropout(self.gate(x), 0.0)"),
}
CHANGES = {
    "activation": changed("F.silu", "F.gelu"),
    "scale": changed("torch.ones(2 * d)", "0.5 * torch.ones(2 * d)"),
    "frozen": changed("torch.ones(2 * d))", "torch.ones(2 * d), requires_grad=False)"),
    "not a parameter": changed("nn.Parameter(torch.ones(2 * d))", "torch.ones(2 * d)"),
    "one of a constant": changed("return self.down(", "return torch.tensor([1.0, 2.0] * 8) * self.down("),
    "constants": changed("return self.down(", "return torch.tensor([1.0, 3.0] * 8) * self.down("),
    "gradient cut": changed("g = self.gate(x)", "g = self.gate(x).detach()"),
    "no gradient": changed("g = self.gate(x)", "with torch.no_grad(): g = self.gate(x)"),
    "which": changed("F.silu(u) * g", "F.silu(g) * g"),
    "dropout": changed("F.silu(u)", "F.dropout(F.silu(u), 0.1, self.training)"),
    "evaluation only": changed("y = F", "y = (1 if self.training else 2) * F"),
    "long sequences only": changed("y = F", f"y = (2 if x.shape[1] > {max(TIER.lengths) - 1} else 1) * F"),
    "one layer": changed("self.up = ", "self.i = index\n        self.up = ", changed("y = F", "y = (1 + self.i) * F")),
    "own initialisation": changed("self.down = ", "self.up._no_reinit = True\n        self.down = "),
    "an unused parameter": changed("self.down = ", "self.spare = nn.Linear(d, d)\n        self.down = "),
    "axis": changed("cumsum(1)", "cumsum(0)"),
    "slices": changed("F.silu(u)", "F.silu(u.roll(1, -1))"),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> str:
    return key(PLAIN)


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_leaves_no_trace(plain: str, name: str) -> None:
    assert key(REWRITES[name]) == plain


def test_every_change_is_another_program(plain: str) -> None:
    keys = {name: key(source) for name, source in CHANGES.items()}
    assert len({plain, *keys.values()}) == 1 + len(CHANGES)
    assert all(k.startswith("o1-") and len(k) == 43 for k in keys.values())


def test_shared_weights_are_not_equal_weights() -> None:
    twin = changed("g = self.gate(x)", "g = self.up(x)")
    spare = changed("u = self.up(x)", "u = self.up(x) + 0 * self.gate(x)", twin)
    assert len({key(PLAIN), key(twin), key(spare)}) == 3
    tied = changed("self.scale =", "self.gate.weight = self.up.weight\n        self.scale =")
    copied = changed("self.scale =", "self.gate._no_reinit = self.up._no_reinit = True\n        self.scale =")
    twin_line = "self.gate.weight = nn.Parameter(self.up.weight.detach().clone())\n        self.scale ="
    cloned = changed("self.scale =", twin_line, copied)
    assert len({key(PLAIN), key(tied), key(copied), key(cloned)}) == 4


def test_layers_that_share_are_not_layers_that_do_not() -> None:
    source = HEAD + PLAIN + "kept = {}\ndef build_mixer(d, i, n):\n    return kept.setdefault(KEY, Mixer(d))\n"
    assert trace_key(source.replace("KEY", "0"), TIER) != trace_key(source.replace("KEY", "i"), TIER)
    assert trace_key(source.replace("KEY", "i"), TIER) == key(PLAIN)


REFUSED = {
    "turns a tensor into a number|Cannot copy|item|meta": changed("u = self.up(x)", "u = self.up(x) * x.mean().item()"),
    "seeds torch's generator": changed("super().__init__()", "super().__init__(); torch.manual_seed(3)"),
    "generator of its own": changed("torch.ones(2 * d)", "torch.randn(2 * d, generator=torch.Generator())"),
    "gradients of its own": "class Own(torch.autograd.Function):\n    forward = staticmethod(lambda ctx, x: x * 1.5)\n"
    "    backward = staticmethod(lambda ctx, g: g)\n" + changed("u = self.up(x)", "u = Own.apply(self.up(x))"),
    "a hook changes": changed("super().__init__()", "super().__init__(); self.register_full_backward_hook(print)"),
    "takes more than": changed("u = self.up(x)", "u = self.up(x)\n        for _ in range(3000): u = u.sin()"),
    "no_such_name": changed("u = self.up(x)", "u = no_such_name"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_traced_has_a_reason_and_no_key(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluator.tracing import graph
    from evaluator.tracing.levels import run_identities

    monkeypatch.setattr(graph, "MOST_NODES", 2_000)
    found = run_identities(HEAD + REFUSED[reason] + TAIL, "sequence", "micro", ["l2"])["identities"]["l2"]
    assert found["key"] is None
    assert any(part in found["reason"] for part in reason.split("|"))


def test_a_program_that_hides_the_refusal_is_refused() -> None:
    hidden = (
        "try:\n            u = torch.randn(3, generator=torch.Generator())\n        except Exception: pass\n        "
    )
    with pytest.raises(Untraceable, match="generator"):
        key(changed("u = self.up(x)", hidden + "u = self.up(x)"))


def test_all_references_differ_and_repeat() -> None:
    names = ("mlp", "short_convolution", "diagonal_ssm", "softmax_attention", "retention", "hybrid")
    keys = [trace_key(catalogue.source(name), TIER) for name in names]
    assert len(set(keys)) == len(names)
    assert trace_key(catalogue.source("hybrid"), TIER) == keys[-1]
    assert trace_key(catalogue.source("mlp"), tiers.get("sequence", "smoke")) != keys[0]


# ---- the graph's views


def evaluated(graph: Graph, node: int, leaf: np.ndarray) -> np.ndarray:
    one = graph.nodes[node]
    if one.op == "leaf":
        return leaf
    value = evaluated(graph, one.operands[0], leaf)
    if one.op == "view":
        return value.reshape(one.attrs[0]).transpose(one.attrs[1]).reshape(one.shape)
    if one.op == "slice":
        return value[tuple(slice(a, a + (n - 1) * step + 1, step) for a, n, step in one.attrs[0])]
    assert one.op == "negative"
    return -value


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_chain_of_views_is_what_numpy_makes_of_it(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    leaf = value = np.arange(math.prod(shape)).reshape(shape)
    graph = Graph()
    node = graph.make("leaf", shape=shape, dtype="float32", unique=True)
    for kind in data.draw(st.lists(st.sampled_from(["permute", "reshape", "slice", "negative"]), max_size=6)):
        if kind == "permute":
            order = data.draw(st.permutations(range(value.ndim)))
            node, value = graph.permute(node, order), value.transpose(order)
        elif kind == "reshape":
            sizes, left = [], value.size
            while left > 1 and len(sizes) < 4:
                sizes.append(data.draw(st.sampled_from([d for d in range(1, left + 1) if left % d == 0])))
                left //= sizes[-1]
            sizes.append(left)
            node, value = graph.reshape(node, tuple(sizes)), value.reshape(sizes)
        elif kind == "slice":
            cuts = []
            for size in value.shape:
                start = data.draw(st.integers(0, size - 1))
                step = data.draw(st.integers(1, 2))
                cuts.append((start, data.draw(st.integers(1, (size - start - 1) // step + 1)), step))
            node = graph.slice(node, cuts)
            value = value[tuple(slice(a, a + (n - 1) * step + 1, step) for a, n, step in cuts)]
        else:
            node, value = graph.pointwise("negative", [node], shape=value.shape, dtype="float32"), -value
        assert graph.shape(node) == value.shape
    assert np.array_equal(evaluated(graph, node, leaf), value)


def test_one_permutation_written_in_two_ways_is_one_node() -> None:
    graph = Graph()
    x = graph.make("leaf", shape=(2, 3, 4, 5), dtype="float32", unique=True)
    whole = graph.permute(x, (0, 1, 3, 2))
    flat = graph.reshape(graph.permute(graph.reshape(x, (6, 4, 5)), (0, 2, 1)), (2, 3, 5, 4))
    twice = graph.permute(graph.permute(graph.permute(x, (3, 2, 1, 0)), (3, 2, 1, 0)), (0, 1, 3, 2))
    assert whole == flat == twice
    assert graph.permute(whole, (0, 1, 3, 2)) == x


QUICK = {
    "add": lambda x, v: x + v, "mul": lambda x, v: v * x, "div": lambda x, v: x / 3, "rsub": lambda x, v: 1 - x,
    "mT": lambda x, v: x.mT * 2.0, "slice": lambda x, v: x[:, 1:] * v, "pow": lambda x, v: x**2,
    "addcmul": lambda x, v: torch.addcmul(x, x, v), "mean": lambda x, v: x.mean(-1, keepdim=True),
    "sum": lambda x, v: x.sum((0, 2)), "mm": lambda x, v: x[0] @ x[0].mT, "bmm": lambda x, v: x @ x.mT,
    "addmm": lambda x, v: torch.addmm(v[:5], x[0], x[0].mT), "permuted": lambda x, v: x.permute(2, 0, 1).exp(),
    "clone": lambda x, v: x.mT.clone(), "contiguous": lambda x, v: x.mT.contiguous(), "gt": lambda x, v: x > v,
    "in place": lambda x, v: x.mul_(v), "double": lambda x, v: x * v.double(), "softmax": lambda x, v: x.softmax(-1),
    "integers": lambda x, v: x * torch.arange(8, device="meta"), "wide": lambda x, v: v[:, None] * v,
}  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_quick_shapes_are_torchs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluator.tracing import recorder

    def result() -> tuple[object, ...]:
        with recorder.Recorder():
            x, v = torch.empty(3, 5, 8), torch.empty(8)
            y = QUICK[name](x, v)
        return tuple(y.shape), y.stride(), y.dtype

    answered = []
    monkeypatch.setattr(recorder, "quick", lambda *a, **k: answered.append(quick(*a, **k)) or answered[-1])
    fast = result()
    assert any(one is not None for one in answered) or name in ("integers", "wide")
    monkeypatch.setattr(recorder, "quick", lambda *a, **k: None)
    assert fast == result()
