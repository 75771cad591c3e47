"""No token mixing: a pointwise MLP where the mixer should be.

The control. A model made of it sees one token at a time, so whatever it scores above chance on a task of recall is
the task's own leak or a shortcut in its data. It can still learn what depends on the present token alone.

    y_t = W_2 silu(W_1 x_t + b)

Source: the feed-forward layer of Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762, equation 2,
with SiLU for ReLU.

Shapes: B batch, L length, D features.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class PointwiseMLP(nn.Module):
    """Two linear maps and a SiLU at every position alone: nothing moves between positions."""

    def __init__(self, d_model: int, *, expansion: int = 1) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, expansion * d_model)
        self.down = nn.Linear(expansion * d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.up(x)))


def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    return PointwiseMLP(d_model)
