"""What to do about each reason: the second half of a verdict's sentence. Inside the sandbox only."""

from evaluator.phases import MESSAGE_CAP
from evaluator.program import CandidateError
from evaluator.text import printable

_CURES = {
    "fake_build_failed": "take B, L and D from x.shape and d_model from the builder; hard-code no size",
    "build_failed": "let build_mixer(d_model, layer_index, n_layers) return an nn.Module and need nothing else",
    "forward_failed": "let forward work for every B >= 1 and L >= 1 in float32 and float64: take sizes from x.shape, "
    "and create tensors with dtype=x.dtype, device=x.device",
    "device_mismatch": "create tensors with device=x.device, or register them as buffers; name no device and do not "
    "call .cuda()",
    "out_of_memory": "allocate nothing larger than a few times (B, L, D); no tensors of size L * L * D",
    "over_budget": "use fewer or narrower projections, low-rank or shared weights",
    "too_complex": "replace what grows with L * L (scores of all pairs, dense masks, loops in which each step reads "
    "the whole sequence) by a recurrence, a chunked form, a window or an FFT",
    "too_slow": "replace Python loops over positions by operations on whole tensors (cumsum, matmul, chunks), and "
    "never sleep or wait",
    "wrong_shape": "return one tensor of exactly the input's shape (B, L, D)",
    "wrong_dtype": "return x.dtype: create tensors with dtype=x.dtype, take .real of complex results, end with "
    ".to(x.dtype)",
    "modifies_input": "use no in-place operation (+=, mul_, index assignment) on x or a view of it; work on x.clone()",
    "stateful": "keep nothing between calls: no counters, caches of activations, running statistics or changed "
    "parameters, and no random numbers or dropout in forward",
    "batch_dependent": "never reduce, normalise or sort over the batch dimension, and do not branch on the batch size",
    "not_causal": "let position t use positions 0..t only, in train and in eval mode: mask attention, pad convolutions "
    "on the left, pad FFTs to 2 L, and use no mean, norm, softmax, sort or top-k over the whole sequence",
    "length_dependent": "let nothing depend on the total length L: count positions from the start and do not divide by "
    "L",
    "unstable": "compute in the input's dtype (no half precision, no branch on dtype), and keep exponentials and "
    "recurrences bounded",
    "non_finite": "bound or normalise before exp, division, log and sqrt (add an epsilon, subtract a running maximum, "
    "use softplus or sigmoid for decays)",
    "dead_parameters": "use every parameter in forward, on a path that is not detached, rounded or multiplied by zero, "
    "or remove it",
    "does_not_learn": "see that gradients reach the input through the module (no detach, no torch.no_grad, no argmax) "
    "and that its output is of the input's scale",
}
_SHARE = 120  # of the cap, kept for words around the parts


def with_cure(error: CandidateError) -> str:
    """One printable sentence of at most `MESSAGE_CAP` characters: what happened, and what to do about it."""
    cure = _CURES.get(error.reason, "")
    happened = printable(error.message[:MESSAGE_CAP]).rstrip(". \n")[: MESSAGE_CAP - len(cure) - _SHARE]
    sentence = happened[:1].upper() + happened[1:]
    return f"{sentence}. Cure: {cure}." if cure else f"{sentence}."
