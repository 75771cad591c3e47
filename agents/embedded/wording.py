"""Why a change might act: the sentences of a hypothesis, by component and by kind of change.

Each says what the component computes and what follows for a task, and is true of the classes in the catalogue.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from agents.embedded.changes import Change

MEMORY: Mapping[str, tuple[str, ...]] = {
    "SoftmaxAttention": (
        "Softmax attention keeps every earlier position and weighs it by the match of query and key, so a value can "
        "be fetched by content from any distance without a state of fixed size.",
        "With softmax attention the number of pairs that can be looked up grows with the sequence and not with the "
        "width, and a sharp softmax returns one stored value instead of a blend.",
    ),
    "DeltaRule": (
        "The delta rule writes the difference between the new value and what the key already retrieves, so a "
        "key that recurs is overwritten instead of summed, and near-orthogonal keys interfere less.",
        "Each step of the delta rule is one gradient step on the squared error of recalling the value from its key: "
        "the state is an associative memory that corrects itself.",
    ),
    "LinearAttention": (
        "Linear attention sums outer products of key features and values into a matrix state and reads it by the "
        "query: an associative memory whose capacity is about the number of key features.",
        "Replacing the softmax by positive feature maps keeps look-up by content in a state of fixed size; "
        "interference grows with the number of stored pairs.",
    ),
    "GatedLinearAttention": (
        "A decay that depends on the input lets each key feature forget on its own schedule, so distractors need "
        "not stay in the matrix state for ever.",
        "Gated linear attention is an associative memory with a learned forgetting rate: it can clear the state "
        "between segments, at the price of losing pairs that are asked for late.",
    ),
    "Retention": (
        "Retention is linear attention with a fixed exponential decay per head, so heads attend to different "
        "ranges; what is relevant must fall within the range of some head.",
        "The fixed decays of retention give each head a time scale; pairs that are old on every scale fade "
        "whatever their content.",
    ),
    "GatedRecurrence": (
        "A recurrence whose retain and write gates depend on the input can hold a marked token over noise, but its "
        "state is one vector and cannot be addressed by content.",
        "Input-dependent gates let each channel decide per token whether to keep its value, which a "
        "time-invariant system cannot do.",
    ),
    "DiagonalSSM": (
        "A diagonal state-space layer is a long convolution with the same kernel for every input: it carries "
        "information far, but cannot choose by content what it carries.",
        "The time-invariant state-space kernel mixes at every distance at the cost of one FFT; it cannot look up "
        "a value by key.",
    ),
    "SelectiveSSM": (
        "A selective state-space layer chooses by the input how fast each head forgets and what it writes, so "
        "distractors can pass without a trace; its state is a small matrix that all heads write in one direction.",
        "With a scalar decay per head and step the state-space layer is linear attention that forgets by content; "
        "how many pairs it can tell apart is limited by the width of its state.",
    ),
    "RWKVTimeMix": (
        "Time mixing keeps a matrix state that decays channel by channel and gives the present token a bonus of "
        "its own; a shift by one token lets a key carry its predecessor.",
        "Decays that depend on the token let each channel of the matrix state keep its own time scale, while the "
        "token shift supplies the pairing that look-up needs.",
    ),
    "LongConvolution": (
        "A long convolution with an implicit filter, gated by the present token, mixes at every distance; the gates "
        "give it some choice by content, but it cannot look up a value by key.",
        "Two gated products around a long filter imitate attention without comparing pairs: what is relevant must "
        "lie where the filter looks.",
    ),
    "ShortConvolution": (
        "A depthwise convolution over a few positions puts the previous tokens into the present channel, so a key "
        "can represent the token before its value; without it two layers must cooperate to find that pairing.",
        "Looking up what followed an earlier token needs keys that carry their predecessor. A short "
        "convolution supplies this shift in one layer, where attention alone must first learn it.",
    ),
    "PointwiseMLP": (
        "A pointwise network moves nothing between positions, so everything that needs context must fail: this "
        "measures what the rest of the skeleton can do by itself.",
    ),
    "MultiplicativeGate": (
        "A branch of the present token, passed through SiLU, multiplies the mixer's output: each position can "
        "suppress channels that its own token makes irrelevant.",
    ),
    "PreNorm": (
        "Normalising in between fixes the scale that the second component sees, whatever the first one writes; "
        "features that are exponentiated or squared are sensitive to it.",
    ),
}
SETTINGS: Mapping[str, str] = {
    "n_heads": "More heads give more independent look-ups of smaller dimension; fewer give each look-up more key "
    "features. Exact recall tends to be limited by key features, copying by the number of look-ups.",
    "kernel_size": "The kernel's reach says how many predecessors a key can represent; recall of adjacent pairs needs "
    "two positions, and every further tap must be learnt to be ignored.",
    "activation": "The activation after the convolution decides whether the shifted features stay linear; linear ones "
    "keep the token's identity, SiLU ones can form conjunctions with the neighbours.",
    "window": "A window limits look-up to recent positions, which costs what lies beyond it and removes distractors.",
    "rotary": "Rotary phases make the match depend on distance. Look-up by content alone does not need them, and "
    "finding the previous token does.",
    "qk_norm": "Normalised queries and keys bound the logits, which steadies a high learning rate and slows the "
    "sharpening that exact look-up needs.",
    "feature_map": "The feature map decides how close to orthogonal distinct keys become: sharper maps interfere less "
    "and give smaller gradients where they saturate.",
    "normalise": "Division by the summed weights makes the output an average. Without it the read-out grows with "
    "the number of stored pairs, and the norm after it has to undo that.",
    "output_gate": "The output gate lets the present token suppress what it read; it spends d_model^2 parameters that "
    "the channel MLP would otherwise have.",
    "gated": "A scalar decay in front of the delta rule clears the state when the input asks for it; it also lets "
    "pairs fade that are asked for late, and must first be learnt not to.",
    "d_state": "A larger state gives a fixed kernel more time scales, and a selective one room for more directions to "
    "write to; by itself it adds no look-up by content.",
    "expansion": "A wider state holds more channels side by side and takes the parameters from the channel MLP.",
}


def mechanism(change: Change, weakest: str, rng: random.Random) -> str:
    """Two or three sentences: what changes, what the component computes, what it should do to the weakest task."""
    if change.operator == "setting":
        name = change.label.rpartition("set ")[2].split(" ")[0]  # of two steps, "replace ..., then set ...", the last
        return f"{SETTINGS[name]} Only this setting changes, so the measurement isolates it. {weakest}"
    sentence = rng.choice(MEMORY[change.component])
    if change.operator == "removal":
        if change.label.startswith("use "):
            return f"All layers become alike, which tests whether the layers need to differ. {sentence} {weakest}"
        return (
            f"This is an ablation. {sentence} If that matters here, its removal must cost the tasks that rely on it; "
            f"if not, the parameters are better spent in the channel MLP. {weakest}"
        )
    opening = {
        "convolution": "",
        "core": "The core is exchanged and all else is kept. ",
        "gate": "",
        "hybrid": "The two components see the same sequence and fail differently. ",
        "crossover": "The component comes from a measured program and is tried in another surrounding. ",
        "layers": "One layer with another ability may be enough, since the residual stream carries its result on. ",
        "norm": "",
    }[change.operator]
    return f"{opening}{sentence} {weakest}"
