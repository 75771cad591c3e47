"""Programs that are wrong in one way each, with the gate and the reason that must stop them.

Written for the purpose, after published and observed failures: what a gate ladder is worth is how many of these it
stops. `stage` says where: "static" on the host before anything runs, "gates" in the dynamic gates, "trained" by the
probe of the trained model (they pass every gate before), "audit" by the scorer on the host only.
"""

from benchmarks.planted_leaks import LEAKS
from benchmarks.planted_program import HEAD, Planted, Stage, block, mixer

_BATCHES = (
    Planted("batch_mean", mixer("return a + x.mean(0, keepdim=True)"), "batch_independence", "batch_dependent"),
    Planted(
        "batch_mean_in_evaluation",
        mixer("return a if self.training else a - x.mean(0, keepdim=True)"),
        "batch_independence",
        "batch_dependent",
    ),
    Planted("rows_in_turn", mixer("return a + 0.1 * x.roll(1, 0)"), "batch_independence", "batch_dependent"),
    Planted("scaled_by_batch_size", mixer("return a / x.shape[0]"), "batch_independence", "batch_dependent"),
    Planted(
        "first_row_is_special",
        mixer("return torch.cat((2 * a[:1], a[1:]))"),
        "batch_independence",
        "batch_dependent",
    ),
    Planted(
        "softmax_over_rows", mixer("return a * x.mean(-1, keepdim=True).softmax(0)"), "batch_independence",
        "batch_dependent",
    ),
    Planted(
        "batch_norm",
        mixer("return self.norm(a.transpose(1, 2)).transpose(1, 2)", "self.norm = nn.BatchNorm1d(d)"),
        "shape",
        "forward_failed",  # it cannot even take a batch of one in train mode
    ),
)  # fmt: skip

_STATES = (
    Planted("call_counter_in_the_output", mixer("self.seen = self.seen + 1\nreturn a * self.seen", "self.seen = 0"),
            "repeatability", "stateful"),
    Planted("call_counter_that_waits", mixer(
        "self.seen += 1\nreturn a if self.seen < 500 else a + x.mean(1, keepdim=True)", "self.seen = 0"),
        "repeatability", "stateful"),
    Planted("running_mean", mixer(
        "self.mean.lerp_(x.detach().mean((0, 1)).to(self.mean.dtype), 0.1)\nreturn a - self.mean.to(x.dtype)",
        "self.register_buffer('mean', torch.zeros(d))"), "repeatability", "stateful"),
    Planted("last_batch_remembered", mixer(
        "before, LAST[:] = (LAST[0] if LAST else 0), [x.detach().mean()]\nreturn a + before", top="LAST = []"),
        "repeatability", "stateful"),
    Planted("parameters_changed_in_forward", mixer(
        "with torch.no_grad():\n    self.weight.mul_(1.001)\nreturn a * self.weight",
        "self.weight = nn.Parameter(torch.ones(d))"), "repeatability", "stateful"),
    Planted("noise", mixer("return a + 0.1 * torch.randn_like(a)"), "repeatability", "stateful"),
    Planted("faint_noise", mixer("return a + 1e-5 * torch.randn_like(a)"), "repeatability", "stateful"),
    Planted("dropout", mixer("return F.dropout(a, 0.1, self.training)"), "repeatability", "stateful"),
    Planted("random_shift", mixer(
        "return a + x.roll(int(torch.randint(1, 3, ())), 1) * 0.1"), "repeatability", "stateful"),
)  # fmt: skip

_PRECISIONS = (
    Planted("leak_in_float32_only", mixer(
        "return a + 0.1 * following(x) if x.dtype == torch.float32 else a"), "precision", "unstable"),
    Planted("leak_under_its_own_noise", mixer(
        "return a + 1e-5 * torch.sin(1e13 * x) + 1e-4 * following(x)"), "causality", "unstable"),
    Planted("float32_only", mixer("return a + x @ torch.eye(x.shape[-1], dtype=torch.float32)"), "shape",
            "forward_failed"),
    Planted("always_float32", mixer("return a.float()"), "shape", "wrong_dtype"),
    Planted("complex_output", mixer("return torch.fft.fft(a, dim=-1)"), "fake_build", "wrong_dtype"),
)  # fmt: skip

_SHAPES = (
    Planted("wrong_width", mixer("return a[..., :-1]"), "fake_build", "wrong_shape"),
    Planted("a_tuple", mixer("return a, None"), "fake_build", "wrong_shape"),
    Planted("transposed", mixer("return a.transpose(1, 2)"), "fake_build", "wrong_shape"),
    Planted("shorter_when_long", mixer("return a[:, :60]"), "shape", "wrong_shape"),
    Planted("shape_that_depends_on_data", mixer(
        "kept = (x.mean((0, 2)) > 0).nonzero().flatten()\nreturn a[:, kept]"), "shape", "wrong_shape"),
    Planted("positions_of_a_fixed_table", mixer(
        "return a + self.table[:x.shape[1]]", "self.table = nn.Parameter(torch.zeros(50, d))"), "complexity",
        "forward_failed"),
    Planted("width_hard_coded", mixer("return a + self.more(x)", "self.more = nn.Linear(32, 32)"), "fake_build",
            "fake_build_failed"),
    Planted("batch_size_hard_coded", mixer("return a.view(2, -1, a.shape[-1])"), "fake_build",
            "fake_build_failed"),
    Planted("fails_on_one_position", mixer("return a + 0 * x[:, [1]]"), "shape", "forward_failed"),
    Planted("writes_into_its_input", mixer("x += a\nreturn x"), "shape", "modifies_input"),
    Planted("writes_into_a_view_of_its_input", mixer("x[:, 0].zero_()\nreturn a"), "shape", "modifies_input"),
    Planted("device_cuda", mixer("return a + torch.zeros(x.shape[-1], device='cuda')"), "fake_build",
            "device_mismatch"),
    Planted("moves_itself_to_cuda", mixer("return self.honest.cuda()(x.cuda()).cpu()"), "fake_build",
            "device_mismatch"),
    Planted("parameters_on_no_device", mixer(
        "return a * self.weight", "self.weight = nn.Parameter(torch.ones(d, device='meta'))"), "complexity",
        "device_mismatch"),
)  # fmt: skip

# A clock is not among the imports that are allowed; modules lead to others.
_SLEEP = "import dataclasses\nSLEEP = dataclasses.sys.modules['time'].sleep"

_SIZES = (
    Planted("a_little_too_large", mixer("return a", "self.more = nn.Parameter(torch.zeros(100_000))"), "budget",
            "over_budget"),
    Planted("ten_gigabytes_of_parameters", mixer("return a", "self.more = nn.Parameter(torch.zeros(2_684_354_560))"),
            "budget", "over_budget"),
    Planted("ten_gigabytes_of_buffers", mixer(
        "return a", "self.register_buffer('more', torch.zeros(2_684_354_560))"), "fake_build", "out_of_memory"),
    Planted("terabytes_of_activations", mixer("return a + torch.zeros(1 << 44).sum()"), "complexity", "out_of_memory"),
    Planted("a_block_too_large", block("return x").replace("super().__init__()\n        self.norm",
        "super().__init__()\n        self.more = nn.Parameter(torch.zeros(100_000))\n        self.norm"), "budget",
        "over_budget"),
    Planted("sleeps_a_little", mixer("SLEEP(0.2)\nreturn a", top=_SLEEP), "complexity", "too_slow"),
    Planted("sleeps_for_an_hour", mixer("SLEEP(3600)\nreturn a", top=_SLEEP), "fake_build", "too_slow"),
    Planted("sleeps_and_swallows_the_alarm", mixer("""
try:
    SLEEP(3600)
except BaseException:
    pass
return a
""", top=_SLEEP), "fake_build", "too_slow"),
    Planted("never_finishes_loading", HEAD + "while True: pass\ndef build_mixer(d, i, n): return Attention(d)\n",
            "fake_build", "too_slow"),
)  # fmt: skip

_NUMBERS = (
    Planted("nan", mixer("return a / (a - a)"), "repeatability", "non_finite"),
    Planted("gradient_of_sqrt_at_zero", mixer("return a + torch.sqrt(a * 0)"), "finite", "non_finite"),
    Planted("nan_at_scale", mixer("return a * torch.exp(x * x) / torch.exp(x * x)"), "finite", "non_finite"),
    Planted("overflows_when_long", mixer(
        "return a + 1e-30 * (torch.exp(0.3 * torch.arange(x.shape[1], dtype=x.dtype)))[:, None] * x"), "finite",
        "non_finite"),
    Planted("exploding_recurrence", mixer("""
state, out = torch.zeros_like(x[:, 0]), []
for t in range(x.shape[1]):
    state = 40.0 * state + x[:, t]
    out.append(state)
return torch.stack(out, dim=1)
"""), "precision", "non_finite"),
)  # fmt: skip

_LEARNING = (
    Planted("most_parameters_unused", mixer("return x * self.scale",
        "self.honest, self.scale, self.more = nn.Identity(), nn.Parameter(torch.ones(d)), nn.Linear(d, d)"), "reach",
        "dead_parameters"),
    Planted("detached", mixer("return self.honest(x).detach()"), "reach", "dead_parameters"),
    Planted("parameters_times_zero", mixer("return 0 * a + x"), "reach", "dead_parameters"),
    Planted("under_no_grad", mixer("with torch.no_grad():\n    return self.honest(x)"), "reach", "dead_parameters"),
    Planted("a_block_that_forgets_its_input", block("return self.attention(torch.zeros_like(x)) + self.norm.bias"),
            "reach", "dead_parameters"),
    Planted("a_block_of_constants", block(
        "y = self.norm(self.attention(x)) * 1e-4\n        return y + torch.arange(x.shape[-1], dtype=x.dtype)"),
        "learning", "does_not_learn"),
    Planted("drowns_the_residual_stream", mixer(
        "return a + 1e4 * torch.arange(x.shape[-1], dtype=x.dtype)"), "learning", "does_not_learn"),
)  # fmt: skip

_BUILDS = (
    Planted("does_not_build", mixer("return a", "raise ValueError('no such size')"), "fake_build", "fake_build_failed"),
    Planted("does_not_load", "import torch\nraise ValueError(1)\ndef build_mixer(d, i, n): pass\n", "fake_build",
            "build_failed"),
    Planted("exits", mixer("raise SystemExit(0)"), "fake_build", "fake_build_failed"),
    Planted("exits_while_loading", HEAD + "exit(0)\ndef build_mixer(d, i, n): return Attention(d)\n", "fake_build",
            "build_failed"),
    Planted("not_a_module", "def build_mixer(d, i, n): return 3\n", "fake_build", "build_failed"),
    Planted("a_class_instead_of_a_module", HEAD + "def build_mixer(d, i, n): return Attention\n", "fake_build",
            "build_failed"),
    Planted("unprintable_error",
            "class E(Exception):\n    def __str__(self): raise RuntimeError\ndef build_mixer(d, i, n): raise E('x')\n",
            "fake_build", "fake_build_failed"),
    Planted("undefined_name", mixer("return a + undefined_name"), "fake_build", "fake_build_failed"),
    Planted("endless_recursion", mixer("return endless(a)", top="def endless(x): return endless(x)"), "fake_build",
            "fake_build_failed"),
)  # fmt: skip

_STATIC = (
    Planted("syntax_error", HEAD + "def build_mixer(d, i, n)\n    return Attention(d)\n", "syntax", "does_not_parse",
            "static"),
    Planted("return_outside_a_function", HEAD + "def build_mixer(d, i, n): return Attention(d)\nreturn 3\n", "syntax",
            "does_not_compile", "static"),
    Planted("no_builder", HEAD + "def build(d, i, n): return Attention(d)\n", "contract", "contract_missing", "static"),
    Planted("wrong_signature", HEAD + "def build_mixer(d_model): return Attention(d_model)\n", "contract",
            "contract_signature", "static"),
    Planted("two_builders", HEAD + "def build_mixer(d, i, n): return Attention(d)\ndef build_block(d, i, n): pass\n",
            "contract", "contract_signature", "static"),
    Planted("imports_os", "import os\n" + HEAD + "def build_mixer(d, i, n): return Attention(d)\n", "imports",
            "import_not_allowed", "static"),
    Planted("imports_by_name", HEAD + "def build_mixer(d, i, n): return __import__('os')\n", "imports",
            "import_not_allowed", "static"),
    Planted("huge_source", HEAD + "# " + "x" * 70_000 + "\ndef build_mixer(d, i, n): return Attention(d)\n", "text",
            "too_large", "static"),
    Planted("nul_byte", HEAD + "\0\ndef build_mixer(d, i, n): return Attention(d)\n", "text", "nul_byte", "static"),
)  # fmt: skip

# How often the module was trained: a list at the top level, which no look at the module's attributes shows.
_COUNTED = "if self.training and torch.is_grad_enabled():\n    STEPS.append(1)\n"

_TRAINED = (
    Planted("leak_once_weights_have_grown", mixer(
        "grown = F.relu(torch.linalg.matrix_norm(self.weight - self.start, 2) - 1.3)\n"
        "return a + x @ self.weight + 10 * grown * following(x)",
        "self.weight = nn.Parameter(torch.randn(d, d) / d ** 0.5)\n"
        "self.register_buffer('start', self.weight.detach().clone())"), None, "not_causal", "trained"),
    Planted("leak_after_enough_steps", mixer(
        _COUNTED + "return a + 0.1 * following(x) if len(STEPS) > 60 else a", top="STEPS = []"), None, "not_causal",
        "trained"),
    Planted("leak_in_evaluation_after_enough_steps", mixer(
        _COUNTED + "return a + x.mean(1, keepdim=True) if len(STEPS) > 60 and not self.training else a",
        top="STEPS = []"), None, "not_causal", "trained"),
    Planted("one_percent_after_enough_steps", mixer(
        _COUNTED + "return a + 0.01 * following(x) if len(STEPS) > 60 else a", top="STEPS = []"), None, "not_causal",
        "trained"),
    Planted("rows_mixed_after_enough_steps", mixer(
        _COUNTED + "return a + 0.1 * x.mean(0, keepdim=True) if len(STEPS) > 60 else a", top="STEPS = []"), None,
        "batch_dependent", "trained"),
    Planted("remembers_after_enough_steps", mixer(
        _COUNTED + "before, LAST[:] = (LAST[0] if LAST else 0), [x.detach().mean()]\n"
        "return a + before if len(STEPS) > 60 else a", top="STEPS, LAST = [], []"), None, "stateful", "trained"),
    Planted("noise_after_enough_steps", mixer(
        _COUNTED + "return a + 0.01 * torch.randn_like(a) if len(STEPS) > 60 else a", top="STEPS = []"), None,
        "stateful", "trained"),
    Planted("length_matters_after_enough_steps", mixer(
        _COUNTED + "return a * x.shape[1] ** 0.1 if len(STEPS) > 60 else a", top="STEPS = []"), None, "not_causal",
        "trained"),
)  # fmt: skip

_AUDIT = (
    Planted("leak_in_big_batches_only", mixer(
        "return a + following(x) if x.shape[0] > 48 else a"), None, "future_dependent", "audit"),
)  # fmt: skip

PLANTED: tuple[Planted, ...] = (
    *_STATIC, *_BUILDS, *_SHAPES, *_SIZES, *_PRECISIONS, *_STATES, *_BATCHES, *LEAKS, *_NUMBERS, *_LEARNING,
    *_TRAINED, *_AUDIT,
)  # fmt: skip


def at(*stages: Stage) -> tuple[Planted, ...]:
    """Those meant to be stopped at these stages."""
    return tuple(planted for planted in PLANTED if planted.stage in stages)
