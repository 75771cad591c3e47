"""One step of forward, backward and AdamW on a toy model, so that a warm worker has loaded every kernel it will use."""

import torch
from torch import nn

from evaluator.skeleton import LanguageModel, MixerLayer
from evaluator.tasks import streams
from evaluator.tiers import get
from evaluator.trainer import train


def one_step() -> None:
    """Leaves no trace but loaded code: the generator is reseeded before any model is built."""
    tier = get("sequence", "micro")
    task = tier.task("recall")
    model = LanguageModel(task.vocabulary, tier.d_model, [MixerLayer(tier.d_model, nn.Identity(), 4)])
    stream = streams.words("train", task=task.name, seed=0, data="selection")
    train(model, tier, task.name, stream, task.table(streams.generator(stream)), lambda *_: None, steps=2)
    torch.manual_seed(0)
