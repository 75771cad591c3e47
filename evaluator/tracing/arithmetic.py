"""Rules for arithmetic, reductions and matrix products. Inside the sandbox only.

Exact, or exact but for the sign of a zero; a Python number counts to twelve digits, so that `x / math.sqrt(d)` and
`x * d ** -0.5` are one product.
"""

import math
from typing import Any

from evaluator.tracing.calls import Call, Ref, Result, Rule, attribute, generic, table


def _scaled(call: Call, node: int, by: Any) -> int:
    value = call.number(by)
    one = call.graph.nodes[node]
    if value == 1 and one.dtype == call.dtype:
        return node
    if one.op == "full" and isinstance(one.attrs[0], float) and isinstance(value, float):
        return call.graph.full(attribute(one.attrs[0] * value), one.shape, call.dtype)
    return call.elementwise("mul", node, call.graph.full(value, (), call.dtype))


def _add(call: Call) -> Result:
    other = call.operand("other")
    if call.name == "sub":
        other = _scaled(call, other, -call.given.get("alpha", 1))
    elif call.given.get("alpha", 1) != 1:
        other = _scaled(call, other, call.given["alpha"])
    return call.elementwise("add", call.node(), other)


def _rsub(call: Call) -> Result:
    negative = _scaled(call, call.node(), -call.given.get("alpha", 1))
    return call.elementwise("add", call.operand("other"), negative)


def _mul(call: Call) -> Result:
    other = call.given["other"]
    if not isinstance(other, Ref):
        return _scaled(call, call.node(), other)
    if call.graph.nodes[other].op == "full" and call.graph.shape(other) == ():
        return _scaled(call, call.node(), call.graph.nodes[other].attrs[0])
    return call.elementwise("mul", call.node(), other)


def _div(call: Call) -> Result:
    other = call.given["other"]
    plain = call.given.get("rounding_mode") is None and call.dtype.startswith(("float", "bfloat"))
    if plain and isinstance(other, int | float) and not isinstance(other, Ref) and other:
        return _scaled(call, call.node(), 1.0 / other)
    return generic(call) if not plain else call.elementwise("div", call.node(), call.operand("other"))


def _neg(call: Call) -> Result:
    return _scaled(call, call.node(), -1) if call.dtype.startswith(("float", "bfloat")) else generic(call)


def _addcmul(call: Call) -> Result:
    op = "mul" if call.name == "addcmul" else "div"
    product = call.elementwise(op, call.node("tensor1"), call.node("tensor2"))
    return call.elementwise("add", call.node(), _scaled(call, product, call.given.get("value", 1)))


def _pow(call: Call) -> Result:
    exponent = call.given.get("exponent", 2)
    if isinstance(exponent, int | float) and not isinstance(exponent, Ref) and isinstance(call.given["self"], Ref):
        if exponent == 2:
            return call.elementwise("mul", call.node(), call.node())
        if exponent == 1:
            return call.graph.cast(call.node(), call.dtype)
        if exponent in (0.5, -0.5):
            return call.elementwise("sqrt" if exponent > 0 else "rsqrt", call.node())
    return generic(call)


def _unary(call: Call) -> Result:
    return call.elementwise(call.name, call.node())


def _binary(call: Call) -> Result:
    return call.elementwise(call.name, call.operand("self"), call.operand("other"))


def _where(call: Call) -> Result:
    if call.name == "masked_fill":
        condition, yes, no = call.node("mask"), call.operand("value"), call.operand("self")
    elif "self" in call.given and "other" in call.given:
        condition, yes, no = call.node("condition"), call.operand("self"), call.operand("other")
    else:
        return generic(call)
    yes, no = (call.graph.cast(n, call.dtype) if call.graph.nodes[n].op == "full" else n for n in (yes, no))
    return call.elementwise("where", condition, yes, no)


def _reduction(call: Call) -> Result:
    """Without `keepdim`, and that as a reshape."""
    if len(call.shapes) != 1:
        return generic(call)
    shape = call.graph.shape(call.node())
    dims = call.given.get("dim")
    listed = [dims] if isinstance(dims, int) else list(dims or range(len(shape)))
    reduced = sorted(d % len(shape) for d in listed) if shape else []
    kept = tuple(size for d, size in enumerate(shape) if d not in reduced)
    more = tuple(
        (name, attribute(value)) for name, value in call.given.items()
        if name not in ("self", "dim", "keepdim", "dtype")
    )  # fmt: skip
    made = call.graph.make(call.name, (call.node(),), (tuple(reduced), *more), shape=kept, dtype=call.dtype)
    return call.graph.reshape(made, call.shape)


# ---- matrix products


def _product(call: Call, left: int, right: int) -> int:
    """(B, M, K) x (B, K, N) -> (B, M, N), or without B."""
    graph = call.graph
    a, b = graph.shape(left), graph.shape(right)
    if len(a) == 2:
        left, right = graph.reshape(left, (1, *a)), graph.reshape(right, (1, *b))
    made = graph.contract(left, graph.permute(right, (0, 2, 1)), call.dtype)
    return graph.reshape(made, (a[0], b[1]) if len(a) == 2 else (a[0], a[1], b[2]))


def _matmul(call: Call) -> Result:
    return _product(call, call.node(), call.node("mat2"))


def _vector_product(call: Call) -> Result:
    graph = call.graph
    left, right = (call.node(), call.node("vec")) if call.name == "mv" else (call.node(), call.node("tensor"))
    shape = graph.shape(left)
    matrix = graph.reshape(left, (math.prod(shape[:-1]), shape[-1]))
    return graph.reshape(_product(call, matrix, graph.reshape(right, (shape[-1], 1))), call.shape)


def _addmm(call: Call) -> Result:
    left, right = ("mat1", "mat2") if call.name == "addmm" else ("batch1", "batch2")
    product = _scaled(call, _product(call, call.node(left), call.node(right)), call.given.get("alpha", 1))
    return call.elementwise("add", product, _scaled(call, call.node(), call.given.get("beta", 1)))


ARITHMETIC: dict[str, Rule] = {
    **table(_add, ("add", "sub")),
    **table(_rsub, ("rsub",)),
    **table(_mul, ("mul",)),
    **table(_div, ("div",)),
    **table(_neg, ("neg",)),
    **table(_addcmul, ("addcmul", "addcdiv")),
    **table(_pow, ("pow", "square")),
    **table(_unary, ("sqrt", "rsqrt")),
    **table(_binary, ("maximum", "minimum", "eq", "ne", "gt", "ge", "lt", "le")),
    **table(_where, ("where", "masked_fill")),
    **table(_reduction, ("sum", "mean", "amax", "amin", "prod", "logsumexp", "any", "all")),
    **table(_matmul, ("mm", "bmm")),
    **table(_vector_product, ("mv", "dot")),
    **table(_addmm, ("addmm", "baddbmm")),
}
