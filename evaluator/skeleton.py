"""The macro-skeleton in which every mixer is compared. Inside the sandbox only.

    embedding -> n x [x += mixer(RMSNorm(x)); x += SwiGLU(RMSNorm(x))] -> RMSNorm -> tied head

Notable:
- No positional embedding: a mixer brings its own sense of order.
- The MLP widths are solved so that every model has the tier's parameter budget: proposals compete on design, not size.
- `build_block` replaces mixer and MLP, with their norms and residual sums, and may use at most the budget plus the
  tolerance; a smaller block is allowed and only handicaps itself.
- Every `nn.Linear` weight of a program is re-initialised alike, unless the module or the weight carries `_no_reinit`
  (the convention of flash-linear-attention and MAD). Biases and bare `nn.Parameter`s keep what the program gave them.
- An auto-encoding task replaces the head: every position is decoded from the last one's hidden state (`AutoEncoder`).

B batch, L length, D d_model, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluator.program import Builder, CandidateError, Kind, build, seed_generators
from evaluator.tiers import BUDGET_TOLERANCE, Tier

_NORM_EPSILON = 1e-6
# Linear weights N(0, 0.64 / fan_in), embedding N(0, 0.25): the recipe under which the smoke tier was calibrated.
_LINEAR_GAIN = 0.8
_EMBEDDING_STD = 0.5


class RMSNorm(nn.Module):
    """Source: Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), self.weight, _NORM_EPSILON)


class SwiGLU(nn.Module):
    """Source: Shazeer 2020 (arXiv 2002.05202), equation 6, without biases.

    Gate and value are two products: a shared one would be cut in two, and joined again in the backward pass, which
    took an eighth of a training step.
    """

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, hidden, bias=False)
        self.up = nn.Linear(d_model, hidden, bias=False)
        self.down = nn.Linear(hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


def kept_shape(x: Tensor, y: object) -> Tensor:
    """`y`, which a program made of `x`. A residual sum would broadcast a wrong shape in silence.

    Raises:
        CandidateError: `wrong_shape`.
    """
    if not isinstance(y, Tensor) or y.shape != x.shape:
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise CandidateError("wrong_shape", f"the program's module mapped shape {tuple(x.shape)} to {got}")
    return y


class MixerLayer(nn.Module):
    """Pre-norm residual mixer, then pre-norm residual MLP."""

    def __init__(self, d_model: int, mixer: nn.Module, hidden: int) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(d_model)
        self.mixer = mixer
        self.mlp_norm = RMSNorm(d_model)
        self.mlp = SwiGLU(d_model, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + kept_shape(x, self.mixer(self.mixer_norm(x)))
        return x + self.mlp(self.mlp_norm(x))  # type: ignore[no-any-return]


class LanguageModel(nn.Module):
    """Tokens (B, L) int64 to logits (B, L, V)."""

    def __init__(self, vocabulary: int, d_model: int, layers: list[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(d_model)
        self.head_scale = 1.0 / math.sqrt(d_model)

    def hidden(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, L, D), normalised and scaled: what the head multiplies."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = kept_shape(x, layer(x))
        return self.norm(x) * self.head_scale  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, columns: Tensor | None = None) -> Tensor:
        """(B, L) -> logits (B, L, V), or (B, K, V) for K columns: positions that are the same in every row."""
        hidden = self.hidden(tokens)
        if columns is not None:
            hidden = hidden.index_select(1, columns)
        return functional.linear(hidden, self.embedding.weight)


class AutoEncoder(LanguageModel):
    """Decodes all L tokens from the hidden state of the last position: what the mixers have compressed into it.

    Source: Poli et al. 2024 (arXiv 2403.17844), compression task: a decoder MLP that does not expand, over the last
    position's state and an embedding of the position to be decoded.
    """

    def __init__(self, vocabulary: int, d_model: int, layers: list[nn.Module], length: int) -> None:
        super().__init__(vocabulary, d_model, layers)
        self.position = nn.Parameter(torch.randn(length, d_model) * _EMBEDDING_STD)
        self.widen = nn.Linear(d_model, d_model)
        self.narrow = nn.Linear(d_model, d_model)
        self.decoder_norm = RMSNorm(d_model)

    def hidden(self, tokens: Tensor) -> Tensor:
        code = super().hidden(tokens)[:, -1:] / self.head_scale  # (B, 1, D)
        code = code + self.position[: tokens.shape[1]]
        decoded = self.decoder_norm(code + self.narrow(functional.silu(self.widen(code))))
        return decoded * self.head_scale  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Sizes:
    """Parameters of a model: in all, in the program's modules, and the MLP widths that made up the difference."""

    total: int
    program: int
    mlp_hidden: tuple[int, ...]


def parameter_count(module: nn.Module) -> int:
    """Distinct parameters, complex ones counted twice."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters())


def solve_widths(tier: Tier, program_parameters: int) -> tuple[int, ...]:
    """MLP widths per layer, differing by at most one, that bring the body to the tier's budget.

    Raises:
        CandidateError: `over_budget`: less than `minimal_mlp` per layer would be left.
    """
    d, n = tier.d_model, tier.n_layers
    norms = (2 * n + 1) * d
    width = round((tier.body_parameters - norms - program_parameters) / (3 * d))
    if width < n * tier.minimal_mlp:
        most = tier.most_mixer_parameters
        raise CandidateError(
            "over_budget",
            f"the mixers take {program_parameters} parameters at d_model={d}; all {n} layers together may take {most} "
            f"({most // n} per layer), so that an MLP of width {tier.minimal_mlp} still fits",
        )
    return tuple(width // n + (1 if index < width % n else 0) for index in range(n))


def build_model(
    builder: Builder, kind: Kind, tier: Tier, vocabulary: int, seed: int, *, decoded: int = 0
) -> tuple[LanguageModel, Sizes]:
    """The whole model of one trial, initialised from `seed`, float32, on the CPU. Runs the program's code.

    Args:
        decoded: above 0, an `AutoEncoder` of that many positions instead of a model of the next token. Its decoder is
            the harness's, the same for every program, and outside the parameter budget as the embedding is.

    Raises:
        CandidateError: over budget, or the builder did not return modules.
    """
    seed_generators(seed)
    built = [build(builder, tier.d_model, index, tier.n_layers) for index in range(tier.n_layers)]
    program_parameters = parameter_count(nn.ModuleList(built))
    if kind == "mixer":
        widths = solve_widths(tier, program_parameters)
        layers: list[nn.Module] = [
            MixerLayer(tier.d_model, mixer, width) for mixer, width in zip(built, widths, strict=True)
        ]
    else:
        widths = ()
        _check_block_budget(tier, program_parameters)
        layers = built
    model: LanguageModel
    if decoded:
        model = AutoEncoder(vocabulary, tier.d_model, layers, decoded).float()
    else:
        model = LanguageModel(vocabulary, tier.d_model, layers).float()
    initialise(model, tier.n_layers)
    return model, Sizes(parameter_count(model), program_parameters, widths)


def _check_block_budget(tier: Tier, program_parameters: int) -> None:
    most = math.floor((tier.body_parameters - tier.d_model) * (1 + BUDGET_TOLERANCE))
    if program_parameters > most:
        raise CandidateError(
            "over_budget",
            f"the blocks take {program_parameters} parameters at d_model={tier.d_model}; all {tier.n_layers} layers "
            f"together may take {most}",
        )


def initialise(model: LanguageModel, n_layers: int) -> None:
    """Draw every embedding and linear weight of the model from torch's global generator, in module order."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear) and not _keeps_own_init(module):
                module.weight.normal_(0.0, _LINEAR_GAIN / math.sqrt(max(1, module.in_features)))
        for module in model.modules():
            if isinstance(module, SwiGLU):
                module.down.weight.mul_(1.0 / math.sqrt(2 * n_layers))
        model.embedding.weight.normal_(0.0, _EMBEDDING_STD)


def _keeps_own_init(module: nn.Linear) -> bool:
    return bool(getattr(module, "_no_reinit", False) or getattr(module.weight, "_no_reinit", False))
