"""What each track asks of an architecture program, in words: shown to whoever writes one. Host face: no torch.

One place, because a contract stated twice drifts apart, and one that the gates do not enforce teaches nothing.
"""

from evaluator.errors import UnknownTrack
from evaluator.static_gate import ALLOWED_IMPORTS, ENTRY_POINTS

_SEQUENCE = """\
A program is one self-contained Python module that defines

    build_mixer(d_model: int, layer_index: int, n_layers: int) -> torch.nn.Module

The harness calls it once per layer (layer_index = 0 .. n_layers - 1, so one program can make layers differ) and puts
the module into a fixed skeleton: embedding, then per layer x = x + mixer(RMSNorm(x)) and x = x + MLP(RMSNorm(x)), a
final RMSNorm and a head tied to the embedding. There is no positional embedding: a mixer brings its own if it needs
one. The width of the channel MLP is solved by the harness so that every model has the same number of parameters within
2 %: parameters spent in the mixer are taken from the MLP, and a mixer that leaves too few is refused (over_budget).

The module maps x of shape (B, L, D) to a tensor of the same shape and dtype, and must be
- causal: the output at position t depends on inputs at positions 0 .. t only, in training and in evaluation mode;
- defined for any B >= 1 and any L >= 1, in float32 and float64;
- independent across the batch, and without state from one call to the next (no running statistics);
- finite in value and gradient, and free of randomness in the forward pass (no dropout).

Alternatively `build_block`, with the same signature, replaces mixer and MLP of a layer together under the same
parameter budget. Weights of nn.Linear are initialised again by the harness unless the module sets `_no_reinit = True`.
The module never sees targets and computes no loss. It runs on one CPU thread: few large tensor operations beat loops
over positions."""

_CONTRACTS = {"sequence": _SEQUENCE}


def contract(track: str) -> str:
    """The contract of a track.

    Raises:
        UnknownTrack: there is no such track.
    """
    if track not in _CONTRACTS:
        raise UnknownTrack(track, ENTRY_POINTS)
    return _CONTRACTS[track]


def allowed_imports(track: str) -> tuple[str, ...]:
    """The modules a program of this track may import, sorted.

    Raises:
        UnknownTrack: there is no such track.
    """
    contract(track)
    return tuple(sorted(ALLOWED_IMPORTS))
