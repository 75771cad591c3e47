"""What a planted program is, and the honest module that each of them spoils."""

from dataclasses import dataclass
from typing import Literal

Stage = Literal["static", "gates", "trained", "audit"]

HEAD = """\
import math
import torch
from torch import nn
import torch.nn.functional as F

class Attention(nn.Module):
    def __init__(self, d, causal=True):
        super().__init__()
        self.qkv, self.out, self.causal = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False), causal
    def forward(self, x):
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).squeeze(1))

def following(x, n=1):
    return F.pad(x, (0, 0, 0, n))[:, n:]
"""


@dataclass(frozen=True)
class Planted:
    """One wrong program. `gate` is None where no gate is meant to stop it."""

    name: str
    source: str
    gate: str | None
    reason: str
    stage: Stage = "gates"


def mixer(forward: str, init: str = "pass", top: str = "") -> str:
    """A program with one module; `forward` is the body after `a = self.honest(x)`, `top` stands at its top level."""
    body = "\n".join("        " + line for line in forward.strip().splitlines())
    setup = "\n".join("        " + line for line in init.strip().splitlines())
    return f"""{HEAD}
{top}
class Mixer(nn.Module):
    def __init__(self, d, layer):
        super().__init__()
        self.honest, self.layer = Attention(d), layer
{setup}
    def forward(self, x):
        a = self.honest(x)
{body}

def build_mixer(d_model, layer_index, n_layers):
    return Mixer(d_model, layer_index)
"""


def block(forward: str) -> str:
    """A program that replaces a whole layer."""
    return f"""{HEAD}
class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(d), Attention(d)
    def forward(self, x):
        {forward}

def build_block(d_model, layer_index, n_layers):
    return Block(d_model)
"""
