"""L3: rewrites that no trace shares, changes however small, what has no function; and the conversation about both."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator import catalogue, tiers
from evaluator.errors import UnknownTier, WireError
from evaluator.identities import REASON_CAP, Identity, identity_phases, read_identity_reply
from evaluator.tracing.function import function_key
from evaluator.tracing.levels import run_identities
from evaluator.tracing.trace import trace_key

TIER = tiers.get("sequence", "micro")
PLAIN = """
import torch
from torch import nn
import torch.nn.functional as F


class Mixer(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.q = nn.Linear(d, d, bias=False)
        self.k = nn.Linear(d, d, bias=False)
        self.v = nn.Linear(d, d, bias=False)
        self.gate = nn.Linear(d, d)
        self.log_scale = nn.Parameter(torch.full((d,), -0.5))

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = (q @ k.mT) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones(x.shape[1], x.shape[1], device=x.device).triu(1) > 0, float("-inf"))
        y = scores.softmax(-1) @ v
        return F.rms_norm(y * F.silu(self.gate(x)), y.shape[-1:], eps=1e-6) * self.log_scale.exp()


def build_mixer(d_model, layer_index, n_layers):
    return Mixer(d_model)
"""


def changed(old: str, new: str, source: str = PLAIN) -> str:
    assert old in source
    return source.replace(old, new)


BY_HAND = (
    "rows = [((q[:, t : t + 1] * k[:, : t + 1]).sum(-1, keepdim=True) / q.shape[-1] ** 0.5).softmax(1)\n"
    "                for t in range(x.shape[1])]\n"
)
REWRITES = {
    "silu": changed("F.silu(self.gate(x))", "self.gate(x) * torch.sigmoid(self.gate(x))"),
    "norm": changed(
        "F.rms_norm(y * F.silu(self.gate(x)), y.shape[-1:], eps=1e-6)",
        "(lambda u: u / (u.square().mean(-1, keepdim=True) + 1e-6).sqrt())(y * F.silu(self.gate(x)))",
    ),
    "scaled queries": changed("(q @ k.mT) / q.shape[-1] ** 0.5", "(q * q.shape[-1] ** -0.5) @ k.mT"),
    "a step at a time": changed(
        "y = scores.softmax(-1) @ v",
        BY_HAND + "        y = torch.stack([(w * v[:, : t + 1]).sum(1) for t, w in enumerate(rows)], 1)",
    ),
    "fused attention": changed(
        "y = scores.softmax(-1) @ v",
        "y = F.scaled_dot_product_attention(*(t[:, None] for t in (q, k, v)), is_causal=True)[:, 0]",
    ),
    "registration": changed(
        "self.k = nn.Linear(d, d, bias=False)\n        self.v = nn.Linear(d, d, bias=False)",
        "self.v = nn.Linear(d, d, bias=False); self.k = nn.Linear(d, d, bias=False)",
    ),
    "order of use": changed("q, k, v = self.q(x), self.k(x), self.v(x)", "v = self.v(x); k = self.k(x); q = self.q(x)"),
    "depends on a value": changed("scores = (q @ k.mT)", "scores = (q @ k.mT) * (1 if x.isfinite().all() else 2)"),
    "names": changed("self.log_scale", "self.s", changed("self.q", "self.a", changed("self.k", "self.b"))),
}
CHANGES = {
    "activation": changed("F.silu", "F.gelu"),
    "scale": changed("** 0.5", "** 0.501"),
    "epsilon": changed("1e-6", "1e-5"),
    "mask": changed("triu(1)", "triu(2)"),
    "roles": changed("scores.softmax(-1) @ v", "scores.softmax(-1) @ k"),
    "initialisation": changed("(d,), -0.5", "(d,), -0.4"),
    "frozen": changed("-0.5))", "-0.5), requires_grad=False)"),
    "gradient": changed("@ v", "@ (v + (v - v.detach()))"),
    "cut": changed("y * F", "y.detach() * F"),
    "dropout": changed("scores.softmax(-1)", "F.dropout(scores.softmax(-1), 0.1, self.training)"),
    "more dropout": changed("scores.softmax(-1)", "F.dropout(scores.softmax(-1), 0.2, self.training)"),
    "shared": changed("self.k(x)", "self.q(x)"),
    "custom gradient": "import torch\nclass Own(torch.autograd.Function):\n"
    "    forward = staticmethod(lambda ctx, x: x * 1.0)\n"
    "    backward = staticmethod(lambda ctx, g: 3 * g)\n" + changed("self.v(x)", "Own.apply(self.v(x))"),
    "longest only": changed("* self.log_scale", f"* (2 if x.shape[1] >= {max(TIER.lengths)} else 1) * self.log_scale"),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> str:
    return function_key(PLAIN, TIER)


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_computes_the_same(plain: str, name: str) -> None:
    assert function_key(REWRITES[name], TIER) == plain


def test_rewrites_that_round_differently_are_for_this_level_alone() -> None:
    assert trace_key(REWRITES["silu"], TIER) != trace_key(PLAIN, TIER)
    assert trace_key(REWRITES["order of use"], TIER) == trace_key(PLAIN, TIER)


def test_every_change_is_another_function(plain: str) -> None:
    keys = {name: function_key(source, TIER) for name, source in CHANGES.items()}
    assert len({plain, *keys.values()}) == 1 + len(CHANGES)


NO_FUNCTION = {
    "differ from run to run": changed("scores.softmax(-1)", "F.dropout(scores.softmax(-1), 0.1, True)"),
    "changes what it computes": changed("q, k, v =", "self.n = getattr(self, 'n', 0) + 1\n        q, k, v = self.n *"
                                        "self.q(x), self.k(x), self.v(x)\n        _ ="),
    "not finite": changed("self.log_scale.exp()", "(x - x).log()"),
    "must keep it": changed("* self.log_scale.exp()", "[..., :1]"),
    "no_such_name": changed("y = scores", "y = no_such_name"),
}  # fmt: skip


@pytest.mark.parametrize("reason", NO_FUNCTION)
def test_what_has_no_function_has_a_reason_and_no_key(reason: str) -> None:
    found = run_identities(NO_FUNCTION[reason], "sequence", "micro", ["l3"])["identities"]["l3"]
    assert found["key"] is None
    assert reason in found["reason"] or (reason == "changes what it computes" and "run to run" in found["reason"])


def test_a_program_beyond_the_trace_has_a_function_all_the_same(plain: str) -> None:
    found = run_identities(REWRITES["depends on a value"], "sequence", "micro")["identities"]
    assert found["l2"]["key"] is None
    assert found["l2"]["reason"]
    assert found["l3"]["key"] == plain


def test_no_key_where_sequences_are_longer_than_is_computed() -> None:
    found = run_identities(PLAIN, "sequence", "full", ["l3"])["identities"]["l3"]
    assert (found["key"], "longer than" in found["reason"]) == (None, True)


# ---- the conversation


def test_a_worker_answers_with_both_levels(play: Callable[..., Any], plain: str) -> None:
    played = play(identity_phases(PLAIN, track="sequence", tier="micro"))
    assert played.failed is None
    found = read_identity_reply(played.replies[0])
    assert found["l2"].key == trace_key(PLAIN, TIER)
    assert found["l3"].key == plain
    assert all(one.reason == "" and one.cost_s > 0 for one in found.values())


def test_a_worker_answers_with_the_level_asked_for(play: Callable[..., Any]) -> None:
    played = play(identity_phases("import os\nos._exit", track="sequence", tier="micro", levels=["l2"]))
    found = read_identity_reply(played.replies[0], ["l2"])
    assert set(found) == {"l2"}
    assert found["l2"].key is None
    assert "build_mixer" in found["l2"].reason


def test_unknown_names_are_refused_before_anything_runs() -> None:
    with pytest.raises(UnknownTier):
        identity_phases(PLAIN, track="sequence", tier="huge")
    with pytest.raises(ValueError, match="l9"):
        identity_phases(PLAIN, track="sequence", tier="micro", levels=["l9"])


def reply(**l2: Any) -> dict[str, Any]:
    honest = {"key": "o1-" + "0" * 40, "reason": "", "cost_s": 0.1}
    return {"identities": {"l2": {**honest, **l2}, "l3": {"key": None, "reason": "why", "cost_s": 1}}}


def test_an_honest_reply_is_read() -> None:
    assert read_identity_reply(reply()) == {
        "l2": Identity("o1-" + "0" * 40, "", 0.1),
        "l3": Identity(None, "why", 1.0),
    }
    noisy = read_identity_reply(reply(key=None, reason="\x1b[31m" + "x" * 5000))["l2"]
    assert len(noisy.reason) == REASON_CAP
    assert "\x1b" not in noisy.reason


LIES = (
    {"key": "o1-" + "0" * 41}, {"key": "o1-" + "G" * 40}, {"key": "f1-" + "0" * 40}, {"key": "o1-" + "0" * 40 + "\n"},
    {"key": 5}, {"key": None}, {"reason": "both"}, {"reason": None}, {"cost_s": -1.0}, {"cost_s": math.nan},
    {"cost_s": math.inf}, {"cost_s": True}, {"cost_s": "1"}, {"more": 1},
)  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_reply_is_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        read_identity_reply(reply(**lie))


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["l2", "l3", "key", "reason", "cost_s"]), inner)
        ),
    )
)
def test_any_other_reply_is_refused(value: Any) -> None:
    with pytest.raises(WireError):
        read_identity_reply({"identities": value})


def test_the_host_face_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, evaluator.identities; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_references_have_functions_of_their_own() -> None:
    names = ("mlp", "short_convolution", "gated_recurrence")
    assert len({function_key(catalogue.source(name), TIER) for name in names}) == len(names)
