"""The reference programs: the catalogue they are read from, their contract, and what may be composed of them."""

import ast
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from evaluator import catalogue
from evaluator.static_gate import static_gates
from tests.evaluator.reference_forms import (
    MODULES,
    NAMES,
    OPTIONS,
    D,
    assert_causal,
    assert_finite_gradients,
    combinations,
    difference,
    inputs,
    jittered,
    make,
    rms,
)

LENGTHS = (1, 2, 7, 63, 64, 65, 130)
EXPECTED = {
    "attention_with_convolution",
    "delta_net",
    "delta_net_without_convolution",
    "diagonal_ssm",
    "gated_delta_net",
    "gated_delta_net_without_convolution",
    "gated_linear_attention",
    "gated_linear_attention_without_convolution",
    "gated_recurrence",
    "gated_recurrence_with_convolution",
    "hybrid",
    "linear_attention",
    "linear_attention_with_convolution",
    "long_convolution",
    "mlp",
    "retention",
    "retention_with_convolution",
    "rwkv",
    "selective_ssm",
    "selective_ssm_without_convolution",
    "short_convolution",
    "softmax_attention",
}


# ---------------------------------------------------------------------------------------------------- the catalogue


def test_the_catalogue_has_every_reference():
    assert set(NAMES) >= EXPECTED
    assert list(NAMES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_program_is_titled_sourced_and_passes_the_static_gates(name):
    assert catalogue.title(name)
    assert not catalogue.title(name).endswith(".")
    docstring = ast.get_docstring(ast.parse(catalogue.source(name)))
    assert docstring is not None
    assert "Source:" in docstring
    assert "arXiv:" in docstring
    assert "iffers" in docstring or name == "mlp"
    assert all(verdict.passed for verdict in static_gates(catalogue.source(name)))


def test_titles_differ_before_their_colon():
    """Experiments are named after that part."""
    assert len({catalogue.title(name).partition(":")[0] for name in NAMES}) == len(NAMES)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(catalogue.UnknownReference, match=r"'transformer'.*softmax_attention"):
        catalogue.source("transformer")
    with pytest.raises(catalogue.UnknownReference):
        catalogue.source("__init__")


def test_reading_the_catalogue_does_not_import_torch():
    code = "import sys; from evaluator import catalogue as c; [c.title(n) for n in c.names()]"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_has_one_name_has_one_text_in_all_programs():
    texts: dict[str, set[str]] = {}
    for name in NAMES:
        source = catalogue.source(name)
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name != "build_mixer":
                texts.setdefault(node.name, set()).add(ast.get_source_segment(source, node) or "")
    assert {name for name, copies in texts.items() if len(copies) > 1} == set()
    assert set(OPTIONS) <= set(texts)


def test_a_class_needs_nothing_but_functions_and_imports_of_its_file():
    """The embedded grammar model takes classes out of these files, with the functions they call."""
    for name in NAMES:
        tree = ast.parse(catalogue.source(name))
        kinds = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
        assert all(isinstance(node, kinds) for node in tree.body[1:]), f"{name} has module-level state"
        classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                used = {leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name)}
                assert not used & classes, f"{node.name} of {name} uses {used & classes}"


# ----------------------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layer", [0, 1])
def test_shapes_and_causality_at_every_length(name, layer):
    torch.manual_seed(0)
    mixer = jittered(MODULES[name].build_mixer(D, layer, 2))
    for length in LENGTHS:
        for training in (True, False):
            assert_causal(mixer.train(training), length)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_see_its_batch_and_calls_leave_no_trace(name):
    torch.manual_seed(0)
    mixer = jittered(nn.Sequential(*(MODULES[name].build_mixer(D, layer, 2) for layer in range(2))))
    for length in (7, 65):
        x = inputs(length, batch=5)
        with torch.no_grad():
            together = mixer(x)
            assert difference(mixer(x[1:2]), together[1:2]) <= 1e-12
            assert difference(mixer(x.flip(0)).flip(0), together) <= 1e-12
            assert difference(mixer(x), together) == 0


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64_and_gradients_are_finite(name):
    for layer in range(2):
        torch.manual_seed(0)
        single = MODULES[name].build_mixer(D, layer, 2)
        double = MODULES[name].build_mixer(D, layer, 2)
        double.load_state_dict(single.state_dict())
        double.double()
        for length in (1, 48, 130):
            x = inputs(length)
            y = single(x.float())
            assert y.dtype == torch.float32
            assert difference(y.double(), double(x)) < 1e-4
        assert_finite_gradients(single, inputs(130, dtype=torch.float32))
        assert_finite_gradients(single, 30 * inputs(400, dtype=torch.float32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(16, 1, 8), (64, 2, 130)])
def test_programs_build_and_run_on_fake_tensors(name, size):
    d_model, batch, length = size
    with FakeTensorMode():
        for layer in range(2):
            mixer = MODULES[name].build_mixer(d_model, layer, 2)
            y = mixer(torch.randn(batch, length, d_model))
            assert y.shape == (batch, length, d_model)
            y.sum().backward()


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"softmax_attention", "attention_with_convolution"}))
def test_cost_is_linear_in_length(name):
    mixer = nn.Sequential(*(MODULES[name].build_mixer(D, layer, 2) for layer in range(2)))

    def flops(length: int) -> int:
        with (
            FlopCounterMode(display=False) as counter,
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        ):
            mixer(inputs(length, batch=1, dtype=torch.float32))
        return counter.get_total_flops()

    assert flops(1024) <= 2.05 * flops(512)


# ---------------------------------------------------------------------------------------- options and combinators


@pytest.mark.parametrize("class_name", OPTIONS)
def test_every_option_keeps_the_contract(class_name):
    for options in combinations(class_name):
        mixer = make(class_name, **options)
        assert_causal(mixer, 13)
        assert_finite_gradients(mixer, inputs(13))


@pytest.mark.parametrize(
    ("class_name", "options"),
    [
        ("ShortConvolution", {"activation": "tanh"}),
        ("LinearAttention", {"feature_map": "softmax"}),
        ("LinearAttention", {"n_heads": 3}),
        ("GatedLinearAttention", {"n_heads": 3}),
        ("SelectiveSSM", {"n_heads": 3}),
        ("RWKVTimeMix", {"n_heads": 3}),
        ("DeltaRule", {"n_heads": 3}),
        ("SoftmaxAttention", {"n_heads": 3}),
        ("Retention", {"n_heads": 3}),
    ],
)
def test_impossible_options_are_refused(class_name, options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        make(class_name, **options)


def combined(inner: Callable[[], nn.Module]) -> list[nn.Module]:
    hybrid = MODULES["hybrid"]
    return [
        hybrid.Serial(D, hybrid.ShortConvolution(D, kernel_size=4), inner()),
        hybrid.Serial(D, inner(), hybrid.PreNorm(D, inner(), norm="layer")),
        hybrid.Parallel(D, inner(), hybrid.PreNorm(D, inner(), norm="rms"), mix="sum"),
        hybrid.Parallel(D, inner(), inner(), mix="gate"),
        hybrid.MultiplicativeGate(D, inner()),
    ]


@pytest.mark.parametrize("class_name", OPTIONS)
def test_every_class_works_inside_every_combinator(class_name):
    torch.manual_seed(0)
    for mixer in combined(lambda: getattr(MODULES[OPTIONS[class_name][0]], class_name)(D)):
        jittered(mixer)
        assert_causal(mixer, 13)
        assert_finite_gradients(mixer, inputs(13))


def test_combinators_compute_what_they_say():
    hybrid = MODULES["hybrid"]
    first, second = make("ShortConvolution"), make("PointwiseMLP")
    x = inputs(9)
    with torch.no_grad():
        assert difference(hybrid.Serial(D, first, second)(x), second(first(x))) == 0
        assert difference(hybrid.Parallel(D, first, second, mix="sum")(x), first(x) + second(x)) == 0
        gated = hybrid.Parallel(D, first, second, mix="gate").double()
        weight = torch.sigmoid(gated.gate(x))
        assert difference(gated(x), (1 - weight) * first(x) + weight * second(x)) <= 1e-12
        times = hybrid.MultiplicativeGate(D, first).double()
        assert difference(times(x), times.out(F.silu(times.gate(x)) * first(x))) <= 1e-12
        assert difference(hybrid.PreNorm(D, first, norm="rms").double()(x), first(rms(x))) <= 1e-12


def test_combinators_refuse_unknown_options():
    hybrid = MODULES["hybrid"]
    with pytest.raises(ValueError, match="'product'"):
        hybrid.Parallel(D, nn.Identity(), nn.Identity(), mix="product")
    with pytest.raises(ValueError, match="'batch'"):
        hybrid.PreNorm(D, nn.Identity(), norm="batch")


def test_the_hybrid_differs_by_layer():
    build = MODULES["hybrid"].build_mixer
    kinds = [{type(part).__name__ for part in build(D, layer, 4).modules()} for layer in range(4)]
    assert kinds[0] == kinds[2] != kinds[1] == kinds[3]
    assert "SoftmaxAttention" in kinds[0]
    assert "GatedRecurrence" in kinds[1]
