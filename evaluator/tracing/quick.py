"""Results without values of the common operations, at a tenth of what torch's own shape functions take. In the sandbox.

Torch works out most elementwise shapes in Python, in a tenth of a millisecond; a program has hundreds of operations.
Here only the plain cases: floating-point results, shapes that are seen to fit, memory laid out like the first operand
of the result's shape. Everything else (and every error) is left to torch. A test compares both.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_META = torch.device("meta")
_BINARY = frozenset({"add", "sub", "mul", "div", "rsub", "maximum", "minimum"})
_COMPARISONS = frozenset({"eq", "ne", "gt", "ge", "lt", "le"})
_ALIKE = frozenset(
    {"exp", "sigmoid", "silu", "tanh", "neg", "sqrt", "rsqrt", "log", "cos", "sin", "softplus", "elu", "clamp",
     "clamp_min", "clamp_max", "relu", "square", "abs", "gelu", "reciprocal", "expm1", "log1p", "erf", "leaky_relu",
     "tril", "triu", "_softmax", "_log_softmax", "_safe_softmax", "cumsum"}
)  # fmt: skip
_DRAWN_IN_PLACE = frozenset({"uniform", "normal", "bernoulli"})


def quick(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], *, in_place: bool) -> Tensor | None:
    """The result of an operation on tensors without values; None where torch has to say."""
    made = _MAKERS.get(name)
    if made is None or (kwargs and name != "clone") or not args or not isinstance(args[0], Tensor):
        return None
    if in_place and name in _DRAWN_IN_PLACE:
        return args[0]
    if name in _DRAWN_IN_PLACE:
        return None
    found = made(name, args, kwargs)
    if found is None:
        return None
    shape, dtype, like = found
    if in_place:
        target = args[0]
        return target if target.shape == shape and target.dtype == dtype else None
    if like is None or like.is_contiguous():
        return torch.empty(shape, dtype=dtype, device=_META)
    return torch.empty_strided(shape, _strides(like), dtype=dtype, device=_META)


# Shape, dtype, and the tensor whose order of dimensions in memory the result takes over; None: row-major.
Found = tuple[Sequence[int], torch.dtype, Tensor | None] | None


def _strides(like: Tensor) -> list[int]:
    shape, given = like.shape, like.stride()
    strides, size = [0] * len(shape), 1
    for d in sorted(range(len(shape)), key=lambda d: (given[d], -d)):
        strides[d] = size
        size *= max(1, shape[d])
    return strides


def _alike(_name: str, args: Sequence[Any], _kwargs: Mapping[str, Any]) -> Found:
    one = args[0]
    if not one.dtype.is_floating_point or any(isinstance(a, Tensor) for a in args[1:]):
        return None
    return one.shape, one.dtype, one


def _binary(name: str, args: Sequence[Any], _kwargs: Mapping[str, Any]) -> Found:
    if len(args) < 2:
        return None
    left, right = args[0], args[1]
    dtype = torch.result_type(left, right)
    if not dtype.is_floating_point and name not in _COMPARISONS:
        return None
    like = _whole(left, right)
    return None if like is None else (like.shape, torch.bool if name in _COMPARISONS else dtype, like)


def _power(_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Found:
    return _alike(_name, args, kwargs) if len(args) == 2 and isinstance(args[1], int | float) else None


def _addcmul(_name: str, args: Sequence[Any], _kwargs: Mapping[str, Any]) -> Found:
    if len(args) != 3 or len({a.dtype for a in args}) != 1 or not args[0].dtype.is_floating_point:
        return None
    shape = args[0].shape
    return (shape, args[0].dtype, args[0]) if _fits(args[1], shape) and _fits(args[2], shape) else None


def _whole(left: Tensor, right: Any) -> Tensor | None:
    """The operand whose shape is the result's."""
    if not isinstance(right, Tensor) or (left.dim() >= right.dim() and _fits(right, left.shape)):
        return left
    return right if right.dim() >= left.dim() and _fits(left, right.shape) else None


def _fits(tensor: Tensor, shape: Sequence[int]) -> bool:
    own = tensor.shape
    if own == shape:
        return True
    if len(own) > len(shape):
        return False
    return all(a in (1, b) for a, b in zip(reversed(own), reversed(shape), strict=False))


def _product(name: str, args: Sequence[Any], _kwargs: Mapping[str, Any]) -> Found:
    left, right = args[-2:]
    rank = 3 if name == "bmm" else 2
    if len(args) != (3 if name == "addmm" else 2) or not isinstance(right, Tensor) or left.dtype != right.dtype:
        return None
    if left.dim() != rank or right.dim() != rank or left.shape[-1] != right.shape[-2]:
        return None
    shape = (*left.shape[:-1], right.shape[-1])
    if (rank == 3 and left.shape[0] != right.shape[0]) or (name == "addmm" and not _fits(args[0], shape)):
        return None
    return shape, left.dtype, None


def _clone(_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Found:
    row_major = kwargs.get("memory_format") is torch.contiguous_format
    return args[0].shape, args[0].dtype, None if row_major else args[0]


def _reduced(_name: str, args: Sequence[Any], _kwargs: Mapping[str, Any]) -> Found:
    if len(args) < 2 or not isinstance(args[1], list | tuple) or not args[1] or not args[0].dtype.is_floating_point:
        return None
    rank = args[0].dim()
    dims = {d % rank for d in args[1]} if rank else set()
    keep = len(args) > 2 and args[2]
    sizes = enumerate(args[0].shape)
    shape = [1 if d in dims else n for d, n in sizes] if keep else [n for d, n in sizes if d not in dims]
    return (shape, args[0].dtype, None) if rank and args[0].is_contiguous() else None


_MAKERS: dict[str, Callable[[str, Sequence[Any], Mapping[str, Any]], Found]] = {
    **dict.fromkeys(_ALIKE, _alike),
    **dict.fromkeys(_BINARY | _COMPARISONS, _binary),
    **dict.fromkeys(("mm", "bmm", "addmm"), _product),
    **dict.fromkeys(("sum", "mean"), _reduced),
    **dict.fromkeys(_DRAWN_IN_PLACE, _alike),
    "pow": _power,
    "addcmul": _addcmul,
    "clone": _clone,
}
