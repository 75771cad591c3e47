"""Loads an architecture program and blames its failures on the right line. Inside the sandbox only.

The source is executed in a fresh module. `torch.compile` is the identity there: the sandbox has no compiler, and
compiling costs minutes where a whole trial takes seconds.
"""

import linecache
import random
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from evaluator.phases import MESSAGE_CAP, TRACEBACK_CAP
from evaluator.text import printable

FILENAME = "<program>"
compiler = torch.compile  # the real one, before `load` takes it away from programs
MODULE_NAME = "architecture_program"

Kind = Literal["mixer", "block"]
Builder = Callable[[int, int, int], nn.Module]


class CandidateError(Exception):
    """The program is at fault. `reason` is a code of `phases.FAILURE_REASONS` or of a gate."""

    def __init__(self, reason: str, message: str, *, line: int | None = None, trace: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.line = line
        self.trace = trace


def seed_generators(seed: int) -> None:
    """Seed every global generator that a program may draw from: torch's, `random`'s and NumPy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def load(source: str) -> tuple[Builder, Kind]:
    """Execute the program in a fresh module and return its builder. Whatever the program raises comes out.

    The generators are seeded alike each time: a program is executed once per phase and has to be the same program.
    """
    torch.compile = _identity_compile
    linecache.cache[FILENAME] = (len(source), None, source.splitlines(keepends=True), FILENAME)
    module = types.ModuleType(MODULE_NAME)
    sys.modules[MODULE_NAME] = module  # dataclasses and pickling look their module up by name
    code = compile(source, FILENAME, "exec", dont_inherit=True)
    seed_generators(0)
    exec(code, module.__dict__)  # noqa: S102  running the program is this package's purpose; the sandbox confines it
    for name, kind in (("build_mixer", "mixer"), ("build_block", "block")):
        builder = getattr(module, name, None)
        if callable(builder):
            return builder, kind  # type: ignore[return-value]
    raise CandidateError("build_failed", "the program defines neither build_mixer nor build_block")


def build(builder: Builder, d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    """One layer's module.

    Raises:
        CandidateError: the builder returned something that is not an `nn.Module`.
    """
    module = builder(d_model, layer_index, n_layers)
    if not isinstance(module, nn.Module):
        raise CandidateError(
            "build_failed",
            f"the builder returned {type(module).__name__} for layer {layer_index}; it must return an nn.Module",
        )
    return module


def describe(error: BaseException) -> CandidateError:
    """Any exception that came out of a program, as a reason, one sentence, a line and a bounded traceback."""
    if isinstance(error, CandidateError):
        return error
    text = _said(error)
    name = printable(type(error).__name__)[:100]
    message = f"{name}: {text}" if text else name
    line = deepest_line(error)
    if line is not None:
        message = f"{message} (line {line} of the program)"
    reason = "out_of_memory" if _out_of_memory(error) else "exception"
    trace = printable("".join(traceback.format_exception(type(error), error, error.__traceback__, limit=-12)))
    return CandidateError(reason, message, line=line, trace=trace[-TRACEBACK_CAP:])


def _said(error: BaseException) -> str:
    try:
        return printable(str(error)[: MESSAGE_CAP // 2])
    except BaseException as inner:  # noqa: BLE001  candidate code again: the program's own exception class may fail to print itself
        return f"(its message cannot be shown: {type(inner).__name__[:100]})"


def deepest_line(error: BaseException) -> int | None:
    """The innermost line of the program in the error's traceback; a syntax error's own line."""
    if isinstance(error, SyntaxError) and error.filename == FILENAME:
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == FILENAME]
    return lines[-1] if lines else None


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "out of memory" in str(error))
    )


def _identity_compile(model: Any = None, **_options: Any) -> Any:
    return model if model is not None else (lambda function: function)
