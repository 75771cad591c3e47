"""The fake-tensor gate: build and run the program at three sizes without computing anything. Inside the sandbox only.

It costs tens of milliseconds and finds nearly every program that cannot work, at sizes that nobody would want to
compute. Operations whose result depends on data (`.item()`, `nonzero`) have no fake counterpart: such a program passes
here and is judged by the real gates.
Import it lazily: FakeTensorMode pulls in torch's compiler (about one second).
"""

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)

from evaluator.gates.specimen import blamed_on, check_output
from evaluator.program import CandidateError, build, load
from evaluator.tiers import Tier

_BEYOND_FAKES = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)


def fake_build(source: str, tier: Tier) -> str:
    """Three (B, L, d_model) sizes, every layer.

    Raises:
        CandidateError: `build_failed`, `fake_build_failed`, `wrong_shape`, `wrong_dtype`.
    """
    with blamed_on("build_failed", "executing its top level"):
        builder, _ = load(source)
    d = tier.d_model
    for batch, length, width in ((2, max(tier.lengths), d), (3, 33, 2 * d), (1, 129, 4 * d)):
        for index in range(tier.n_layers):
            doing = f"building and running layer {index} on fake tensors at B={batch}, L={length}, d_model={width}"
            try:
                with blamed_on("fake_build_failed", doing), FakeTensorMode(allow_non_fake_inputs=True):
                    module = build(builder, width, index, tier.n_layers)
                    x = torch.empty(batch, length, width)
                    check_output(x, module(x))
            except CandidateError as error:
                if isinstance(error.__cause__, _BEYOND_FAKES):
                    return f"Skipped: the program uses an operation without a fake counterpart ({error.message[:200]})."
                raise
    return "Builds and runs on fake tensors at three sizes."
