"""What each of torch's operations is in the graph. Inside the sandbox only.

An operation without a rule is taken as it is: its name, operands and arguments, with negative dimensions counted from
the front. Here the rules for views, constants and random draws; the others are in `evaluator.tracing.arithmetic`.
"""

from typing import Any

from evaluator.tracing.arithmetic import ARITHMETIC
from evaluator.tracing.calls import Call, Ref, Result, Rule, generic, random_draw, table, template


def apply(call: Call) -> Result:
    """The node of an operation's result, or one per result.

    Raises:
        Untraceable: the operation has a form that cannot be written down.
    """
    rule = RULES.get(call.name)
    return generic(call) if rule is None or call.overload == "dtype" else rule(call)


# ---- views


def _reshape(call: Call) -> Result:
    return call.graph.reshape(call.node(), call.shape)


def _same(call: Call) -> Result:
    return call.node()


def _stop(call: Call) -> Result:
    return call.graph.stop(call.node())


def _transpose(call: Call) -> Result:
    rank = len(call.graph.shape(call.node()))
    order = list(range(rank))
    if call.name == "t":
        order.reverse()
    else:
        a, b = (call.given[name] % rank if rank else 0 for name in ("dim0", "dim1"))
        if rank:
            order[a], order[b] = order[b], order[a]
    return call.graph.permute(call.node(), order)


def _permute(call: Call) -> Result:
    rank = len(call.graph.shape(call.node()))
    return call.graph.permute(call.node(), [d % rank for d in call.given["dims"]])


def _expand(call: Call) -> Result:
    return call.graph.expand(call.node(), call.shape)


def _cut(call: Call, dim: int, start: int, length: int, step: int = 1) -> int:
    shape = call.graph.shape(call.node())
    ranges = [(0, size, 1) for size in shape]
    ranges[dim % len(shape)] = (start, length, step)
    return call.graph.slice(call.node(), ranges)


def _slice(call: Call) -> Result:
    shape = call.graph.shape(call.node())
    dim = call.given.get("dim", 0) % len(shape)
    start = call.given.get("start") or 0
    start = max(0, start + shape[dim] if start < 0 else min(start, shape[dim]))
    return _cut(call, dim, start, call.shape[dim], call.given.get("step", 1) if call.shape[dim] > 1 else 1)


def _select(call: Call) -> Result:
    shape = call.graph.shape(call.node())
    dim = call.given["dim"] % len(shape)
    return call.graph.reshape(_cut(call, dim, call.given["index"] % shape[dim], 1), call.shape)


def _split(call: Call) -> Result:
    dim = call.given.get("dim", 0) % len(call.shape)
    parts, start = [], 0
    for shape in call.shapes:
        parts.append(_cut(call, dim, start, shape[dim]))
        start += shape[dim]
    return parts


def _unbind(call: Call) -> Result:
    dim = call.given.get("dim", 0) % len(call.graph.shape(call.node()))
    return [call.graph.reshape(_cut(call, dim, i, 1), shape) for i, shape in enumerate(call.shapes)]


def _cat(call: Call) -> Result:
    given = call.given["tensors"]
    dim = call.given.get("dim", 0) % len(call.shape)
    if call.name == "stack":
        one = (*call.shape[:dim], 1, *call.shape[dim + 1 :])
        given = [call.graph.reshape(node, one) for node in given]
    if len(given) == 1:
        return int(given[0])
    return call.graph.make("cat", tuple(map(int, given)), (dim,), shape=call.shape, dtype=call.dtype)


# ---- constants and random draws


def _filled(value: Any) -> Rule:
    return lambda call: call.graph.full(call.number(value), call.shape, call.dtype)


def _fill(call: Call) -> Result:
    name = next(n for n in ("fill_value", "value", "s") if n in call.given)
    value = call.given[name]
    if isinstance(value, Ref):
        return call.graph.expand(call.graph.cast(value, call.dtype), call.shape)
    return call.graph.full(call.number(value), call.shape, call.dtype)


def _copy(call: Call) -> Result:
    return call.graph.expand(call.graph.cast(call.node("src"), call.dtype), call.shape)


def _cast(call: Call) -> Result:
    return call.graph.cast(call.node(), call.dtype)


def _arange(call: Call) -> Result:
    bounds = [call.given.get(name, default) for name, default in (("start", 0), ("end", 0), ("step", 1))]
    return call.graph.make("arange", (), tuple(map(call.number, bounds)), shape=call.shape, dtype=call.dtype)


def _drawn(op: str, *names: tuple[str, float]) -> Rule:
    """A distribution, whatever it is drawn with: `names` are the parameters and their defaults."""

    def rule(call: Call) -> Result:
        if op == "bernoulli" and "p" not in call.given and not call.in_place:  # the chances are the operand itself
            return random_draw(call)
        operands: list[int] = []
        attrs = tuple(template(_as_float(call.given.get(name, default)), operands) for name, default in names)
        return call.graph.make(op, operands, attrs, shape=call.shape, dtype=call.dtype, unique=True)

    return rule


def _as_float(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, Ref) else value


RULES: dict[str, Rule] = {
    **table(_reshape, ("view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "unflatten")),
    **table(_same, ("alias", "lift", "lift_fresh", "lift_fresh_copy", "clone", "contiguous")),
    **table(_stop, ("detach",)),
    **table(_transpose, ("t", "transpose", "swapaxes")),
    **table(_permute, ("permute",)),
    **table(_expand, ("expand",)),
    **table(_slice, ("slice",)),
    **table(_select, ("select",)),
    **table(_split, ("split", "split_with_sizes")),
    **table(_unbind, ("unbind",)),
    **table(_cat, ("cat", "stack")),
    **table(_filled(0), ("zeros", "zeros_like", "new_zeros", "zero")),
    **table(_filled(1), ("ones", "ones_like", "new_ones")),
    **table(_filled("anything"), ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")),
    **table(_fill, ("full", "full_like", "new_full", "fill", "scalar_tensor")),
    **table(_copy, ("copy",)),
    **table(_cast, ("_to_copy",)),
    **table(_arange, ("arange",)),
    **table(_drawn("uniform", ("from", 0.0), ("to", 1.0)), ("uniform", "rand", "rand_like")),
    **table(_drawn("normal", ("mean", 0.0), ("std", 1.0)), ("normal", "randn", "randn_like")),
    **table(_drawn("bernoulli", ("p", 0.5)), ("bernoulli",)),
    **ARITHMETIC,
}
