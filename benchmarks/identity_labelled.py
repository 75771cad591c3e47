"""Labelled pairs of programs for the identity ladder: a reference mixer, and a rewrite of it or a changed copy.

`same`: the pair trains to the same result but for rounding and the order of random draws. Rewrites are made by
transforming the syntax tree (names, order of independent statements, spelling of operations, in-place forms, helper
modules), so that every reference that has the construct gives a pair.
`different`: one operation changed, one tensor shared, one initialisation or one gradient cut.

Notable: an unused module *with* parameters makes a different program: the skeleton gives the parameters that a mixer
leaves over to its MLPs. One without parameters does not.
"""

import ast
import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from evaluator import catalogue
from evaluator.program import load

REFERENCES = (
    "attention_with_convolution", "gated_recurrence", "hybrid", "mlp", "selective_ssm", "short_convolution",
)  # fmt: skip


# Changes of what has no effect there: with one tap that starts as 1, the convolution's size and bound are not used.
EFFECTLESS = frozenset(
    (f"{name}_without_convolution", change)
    for name in ("delta_net", "gated_linear_attention")
    for change in ("kernel size 4 to 3", "another bound")
)


@dataclass(frozen=True)
class Pair:
    """Two programs and whether they are the same network."""

    reference: str
    change: str
    one: str
    other: str
    same: bool


def pairs() -> list[Pair]:
    """Every change of every reference on which it has an effect."""
    found = []
    for name in REFERENCES:
        source = catalogue.source(name)
        for same, changes in ((True, REWRITES), (False, CHANGES)):
            for change, apply in changes.items():
                other = apply(source)
                if other is not None and re.search(r"\btorch\.\w+\(", other) and "import torch\n" not in other:
                    other = f"import torch\n{other}"
                if other is not None and other != source:
                    found.append(Pair(name, change, source, other, same or (name, change) in EFFECTLESS))
        for change, (one, other) in TWINS.items():
            found.append(Pair(name, change, _wrapped(source, **one), _wrapped(source, **other), same=False))
    return found


# ---- tools


Apply = Callable[[str], str | None]


def _text(pattern: str, replacement: str, source: str, *, count: int = 0) -> str | None:
    changed, n = re.subn(pattern, replacement, source, count=count)
    return changed if n else None


def _wrapped(source: str, *, init: str = "", forward: str = "self.inner(x)", build: str = "", top: str = "") -> str:
    """The program's mixer as a part of another module. `build` is what makes it, in `build_mixer`."""
    inner = source.replace("def build_mixer(", "def _inner_mixer(")
    lines = "".join(f"        {line}\n" for line in init.splitlines())
    return (
        f"{inner}\n\nimport torch as _torch\nfrom torch import nn as _nn\n"
        f"from torch.nn import functional as _F\n{top}\n\n"
        "class Outer(_nn.Module):\n    def __init__(self, inner, more, last):\n        super().__init__()\n"
        f"        self.inner = inner\n        self.last = last\n{lines}\n"
        f"    def forward(self, x):\n        return {forward}\n\n\n"
        "def build_mixer(d_model, layer_index, n_layers):\n"
        "    more = lambda: _inner_mixer(d_model, layer_index, n_layers)\n"
        f"    inner = {build or 'more()'}\n"
        "    return Outer(inner, more, layer_index == n_layers - 1)\n"
    )


class _Tree(ast.NodeTransformer):
    """Applies a function to every node of one type, the innermost first; `limit` counts how many may change."""

    def __init__(self, kind: Any, change: Callable[[ast.AST], ast.AST | None], limit: int = 0) -> None:
        self._kind, self._change, self._limit, self.changed = kind, change, limit, 0

    def visit(self, node: ast.AST) -> ast.AST:
        node = self.generic_visit(node)
        if isinstance(node, self._kind) and not (self._limit and self.changed >= self._limit):
            new = self._change(node)
            if new is not None:
                self.changed += 1
                return new
        return node


def _tree(kind: Any, change: Callable[[ast.AST], ast.AST | None], source: str, *, limit: int = 0) -> str | None:
    tree = ast.parse(source)
    visitor = _Tree(kind, change, limit)
    tree = ast.fix_missing_locations(visitor.visit(tree))
    return ast.unparse(tree) if visitor.changed else None


def _expression(template: str, **parts: ast.expr) -> ast.expr:
    """`template` with names replaced by expressions."""

    class Fill(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return parts.get(node.id, node)

    return Fill().visit(ast.parse(template, mode="eval").body)


def _is_functional(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == f"F.{name}"


# ---- rewrites


def _rename_attributes(source: str) -> str | None:
    names = sorted(set(re.findall(r"self\.(\w+)(?:: [^=\n]+)? =", source)) | set(_unpacked(source)))
    for i, name in enumerate(names):
        source = re.sub(rf"\bself\.{name}\b", f"self.part_{i}", source)
    return source if names else None


def _unpacked(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign):
            found += [
                n.attr for target in node.targets for n in ast.walk(target)
                if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
            ]  # fmt: skip
    return found


def _rename_definitions(source: str) -> str:
    for i, name in enumerate(re.findall(r"^(?:class|def) (\w+)", source, re.MULTILINE)):
        if name != "build_mixer":
            source = re.sub(rf"\b{name}\b", f"Piece{i}", source)
    return source


def _rename_locals(node: ast.AST) -> ast.AST | None:
    """A function's own variables under other names, its parameters not."""
    stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    parameters = {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    names = {name: f"value_{i}" for i, name in enumerate(sorted(stored - parameters))}
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id in names:
            part.id = names[part.id]
    return node if names else None


def _without_docstring(node: ast.AST) -> ast.AST | None:
    if ast.get_docstring(node) is None:  # type: ignore[arg-type]
        return None
    node.body = node.body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    return node


def _without_annotations(node: ast.AST) -> ast.AST | None:
    node.returns = None  # type: ignore[attr-defined]
    for argument in ast.walk(node.args):  # type: ignore[attr-defined]
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return node


def _reverse_parameters(source: str) -> str | None:
    """Independent modules and parameters of `__init__` in the opposite order."""

    def change(node: ast.AST) -> ast.AST | None:
        if node.name != "__init__":  # type: ignore[attr-defined]
            return None
        body, run, done = [], [], False
        for statement in [*node.body, None]:  # type: ignore[attr-defined]
            plain = (
                isinstance(statement, ast.Assign)
                and len(statement.targets) == 1
                and ast.unparse(statement.targets[0]).startswith("self.")
                and ast.unparse(statement.value).startswith(("nn.Linear", "nn.Parameter"))
                and "self." not in ast.unparse(statement.value)
            )
            if plain:
                run.append(statement)
                continue
            done |= len(run) > 1
            body += [*reversed(run), *([statement] if statement is not None else [])]
            run = []
        node.body = body  # type: ignore[attr-defined]
        return node if done else None

    return _tree(ast.FunctionDef, change, source)


def _reverse_tuples(node: ast.AST) -> ast.AST | None:
    """`a, b = f, g` as `b, a = g, f`."""
    if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Tuple) or not isinstance(node.value, ast.Tuple):
        return None
    node.targets[0].elts.reverse()
    node.value.elts.reverse()
    return node


def _swap_operands(node: ast.AST) -> ast.AST | None:
    if not isinstance(node.op, ast.Mult | ast.Add) or any(
        isinstance(part, ast.List | ast.Tuple | ast.Constant) for part in (node.left, node.right)
    ):
        return None
    node.left, node.right = node.right, node.left
    return node


def _matmul(template: str, node: ast.AST) -> ast.AST | None:
    return _expression(template, A=node.left, B=node.right) if isinstance(node.op, ast.MatMult) else None


def _linears(source: str) -> dict[str, bool]:
    """Attributes that are always an `nn.Linear`, and whether it has a bias."""
    found = {}
    for name, arguments in re.findall(r"self\.(\w+) = nn\.Linear\((.*)\)\n", source):
        found[name] = "bias=False" not in arguments
    return found


def _linear_calls(template: str, biased: str, source: str) -> str | None:
    linears = _linears(source)

    def change(node: ast.AST) -> ast.AST | None:
        name = ast.unparse(node.func).removeprefix("self.")
        if not ast.unparse(node.func).startswith("self.") or name not in linears:
            return None
        layer = ast.parse(f"self.{name}", mode="eval").body
        return _expression(biased if linears[name] else template, A=node.args[0], M=layer)

    return _tree(ast.Call, change, source)


def _method_to_function(node: ast.AST) -> ast.AST | None:
    names = ("sigmoid", "exp", "tanh", "cos", "sin", "cumsum", "chunk", "unbind", "transpose", "clamp")
    if not isinstance(node.func, ast.Attribute) or node.func.attr not in names:
        return None
    if ast.unparse(node.func.value) in ("torch", "F", "math"):
        return None
    function = ast.parse(f"torch.{node.func.attr}", mode="eval").body
    return ast.Call(function, [node.func.value, *node.args], node.keywords)


def _method_call(name: str, arguments: str, template: str, node: ast.AST) -> ast.AST | None:
    if not isinstance(node.func, ast.Attribute) or node.func.attr != name:
        return None
    given = ", ".join([*map(ast.unparse, node.args), *(f"{k.arg}={ast.unparse(k.value)}" for k in node.keywords)])
    return _expression(template, A=node.func.value) if re.fullmatch(arguments, given) else None


def _functional(name: str, template: str, node: ast.AST) -> ast.AST | None:
    return _expression(template, A=node.args[0]) if _is_functional(node, name) else None


def _rms_norm(node: ast.AST) -> ast.AST | None:
    if not _is_functional(node, "rms_norm") or [keyword.arg for keyword in node.keywords] != ["eps"]:
        return None
    written = "(lambda t: t / (t.square().mean(-1, keepdim=True) + E).sqrt())(A)"
    return _expression(written, A=node.args[0], E=node.keywords[0].value)


def _transposed(node: ast.AST) -> ast.AST | None:
    return _expression("A.transpose(-1, -2)", A=node.value) if node.attr == "mT" else None


REWRITES: dict[str, Apply] = {
    "comments and blank lines": lambda source: re.sub(r"\n(?=class |def )", "\n# as before\n\n", source),
    "local variables renamed": partial(_tree, ast.FunctionDef, _rename_locals),
    "docstrings dropped": partial(_tree, ast.FunctionDef | ast.ClassDef, _without_docstring),
    "annotations dropped": partial(_tree, ast.FunctionDef, _without_annotations),
    "attributes renamed": _rename_attributes,
    "classes and functions renamed": _rename_definitions,
    "parameters registered in the opposite order": _reverse_parameters,
    "independent assignments reordered": partial(_tree, ast.Assign, _reverse_tuples),
    "operands of sums and products swapped": partial(_tree, ast.BinOp, _swap_operands),
    "@ as torch.matmul": partial(_tree, ast.BinOp, partial(_matmul, "torch.matmul(A, B)")),
    "@ as einsum": partial(_tree, ast.BinOp, partial(_matmul, "torch.einsum('...ij,...jk->...ik', A, B)")),
    "linear as F.linear": partial(
        _linear_calls, "F.linear(A, M.weight)", "F.linear(A, M.weight, M.bias)"
    ),
    "linear as matmul": partial(_linear_calls, "A @ M.weight.T", "A @ M.weight.T + M.bias"),
    "linear as einsum": partial(
        _linear_calls, "torch.einsum('bld,ed->ble', A, M.weight)", "torch.einsum('bld,ed->ble', A, M.weight) + M.bias"
    ),
    "methods as functions": partial(_tree, ast.Call, _method_to_function),
    ".mT as transpose": partial(_tree, ast.Attribute, _transposed),
    "flatten as reshape": partial(
        _tree, ast.Call, partial(_method_call, "flatten", "2", "(lambda t: t.reshape(*t.shape[:2], -1))(A)")
    ),
    "chunk as slices": partial(
        _tree, ast.Call,
        partial(_method_call, "chunk", "3, dim=-1",
                "(lambda t: [t[..., i * t.shape[-1] // 3 : (i + 1) * t.shape[-1] // 3] for i in range(3)])(A)"),
    ),
    "silu in place": partial(_tree, ast.Call, partial(_functional, "silu", "F.silu(A.clone(), inplace=True)")),
    "silu as x sigmoid(x)": partial(
        _tree, ast.Call, partial(_functional, "silu", "(lambda u: u * torch.sigmoid(u))(A)")
    ),
    "softplus as log(1 + exp)": partial(
        _tree, ast.Call, partial(_functional, "softplus", "torch.logaddexp(A, torch.zeros_like(A))")
    ),
    "rms_norm written out": partial(_tree, ast.Call, _rms_norm),
    "in a helper module": _wrapped,
    "an unused module without parameters": partial(_wrapped, init="self.unused = _nn.Dropout(0.5)"),
    "dead operations": partial(_wrapped, forward="(x.exp().cumsum(1), self.inner(x))[1]"),
    "views there and back": partial(
        _wrapped, forward="self.inner(x.transpose(1, 2).contiguous().mT).unflatten(2, (2, -1)).flatten(2)"
    ),
    "dropout of nothing": partial(_wrapped, forward="_F.dropout(self.inner(x), 0.0, self.training)"),
    "doubled and halved": partial(_wrapped, forward="(self.inner(x) * 2.0) / 2.0"),
    "output written into a buffer": partial(_wrapped, forward="_torch.zeros_like(x).copy_(self.inner(x))"),
    "row by row": partial(_wrapped, forward="_torch.cat([self.inner(row) for row in x.split(1)])"),
}  # fmt: skip


# ---- changes


def _first(kind: Any, change: Callable[[ast.AST], ast.AST | None], source: str) -> str | None:
    """Changes the first place that is executed when the layers are built and run: references have options unused."""
    for place in range(_count(kind, change, source)):
        if _is_executed(kind, change, source, place):
            return _tree(kind, _only(place, change), source)
    return None


def _only(place: int, change: Callable[[ast.AST], ast.AST | None]) -> Callable[[ast.AST], ast.AST | None]:
    seen = -1

    def one(node: ast.AST) -> ast.AST | None:
        nonlocal seen
        new = change(copy.deepcopy(node))
        if new is None:
            return None
        seen += 1
        return new if seen == place else None

    return one


def _count(kind: Any, change: Callable[[ast.AST], ast.AST | None], source: str) -> int:
    return sum(
        isinstance(node, kind) and change(copy.deepcopy(node)) is not None for node in ast.walk(ast.parse(source))
    )


def _is_executed(kind: Any, change: Callable[[ast.AST], ast.AST | None], source: str, place: int) -> bool:
    def told(node: ast.AST) -> ast.AST | None:
        return _expression("(_executed.append(1), A)[1]", A=node) if change(copy.deepcopy(node)) is not None else None

    text = _tree(kind, _only(place, told), source)
    assert text is not None
    builder, _ = load(f"_executed = []\n{text.replace('from __future__ import annotations', '')}")
    for index in range(2):
        builder(32, index, 2)(torch.zeros(1, 48, 32))
    return bool(builder.__globals__["_executed"])


def _epsilon(node: ast.AST) -> ast.AST | None:
    for keyword in node.keywords:
        if keyword.arg == "eps" and ast.unparse(keyword.value) == "1e-06":
            keyword.value = ast.Constant(1e-5)
            return node
    return None


def _zeros(node: ast.AST) -> ast.AST | None:
    if not ast.unparse(node).startswith("nn.Parameter(torch.ones("):
        return None
    node.args[0].func.attr = "zeros"
    return node


def _half_bound(node: ast.AST) -> ast.AST | None:
    return _expression("0.5 * A", A=node) if ast.unparse(node) == "kernel_size ** (-0.5)" else None


def _negated(node: ast.AST) -> ast.AST | None:
    text = ast.unparse(node)
    if not isinstance(node.op, ast.Sub) or "." in text or re.search(r"\d|length|half|size|window|chunk|filling", text):
        return None  # arithmetic of sizes
    node.op = ast.Add()
    return node


CHANGES: dict[str, Apply] = {
    "output scaled": partial(_wrapped, forward="self.inner(x) * 1.01"),
    "output scaled in the last layer": partial(_wrapped, forward="self.inner(x) * (1.5 if self.last else 1.0)"),
    "residual added": partial(_wrapped, forward="self.inner(x) + x"),
    "output shifted by a step": partial(_wrapped, forward="_F.pad(self.inner(x)[:, :-1], (0, 0, 1, 0))"),
    "features rolled": partial(_wrapped, forward="self.inner(x).roll(1, -1)"),
    "norm in front": partial(_wrapped, forward="self.inner(_F.rms_norm(x, x.shape[-1:]))"),
    "dropout behind": partial(_wrapped, forward="_F.dropout(self.inner(x), 0.1, self.training)"),
    "gradient to the input cut": partial(_wrapped, forward="self.inner(x.detach())"),
    "half the gradient cut": partial(_wrapped, forward="0.5 * self.inner(x) + 0.5 * self.inner(x).detach()"),
    "a parameter frozen": partial(_wrapped, init="next(self.inner.parameters()).requires_grad_(False)"),
    "a parameter initialised to zero": partial(
        _wrapped, init="_torch.nn.init.zeros_(list(self.inner.parameters())[-1])\n"
        "for m in self.inner.modules():\n    m._no_reinit = True"
    ),
    "linears keep their own initialisation": lambda source: (
        _wrapped(source, init="for m in self.inner.modules():\n    m._no_reinit = True") if _linears(source) else None
    ),
    "an unused module with parameters": partial(_wrapped, init="self.unused = _nn.Linear(4, 4)"),
    "silu to gelu": partial(_first, ast.Call, partial(_functional, "silu", "F.gelu(A)")),
    "silu to sigmoid": partial(_first, ast.Call, partial(_functional, "silu", "torch.sigmoid(A)")),
    "silu dropped": partial(_first, ast.Call, partial(_functional, "silu", "A")),
    "softplus to relu": partial(_first, ast.Call, partial(_functional, "softplus", "F.relu(A)")),
    "norm removed": partial(_first, ast.Call, partial(_functional, "rms_norm", "A")),
    "normalisation removed": partial(_first, ast.Call, partial(_functional, "normalize", "A")),
    "sigmoid to tanh": partial(_first, ast.Call, partial(_method_call, "sigmoid", "", "A.tanh()")),
    "a difference as a sum": partial(_first, ast.BinOp, _negated),
    "epsilon 1e-6 to 1e-5": partial(_first, ast.Call, _epsilon),
    "kernel size 4 to 3": partial(_text, r"kernel_size(: int = |=)4", r"kernel_size\g<1>3"),
    "heads 2 to 4": partial(_text, r"n_heads = max\(2,", "n_heads = max(4,"),
    "mask without the diagonal": partial(_first, ast.Call, partial(_method_call, "tril", "", "A.tril(-1)")),
    "ones to zeros": partial(_first, ast.Call, _zeros),
    "another bound": partial(_first, ast.BinOp, _half_bound),
    "bias on the output": partial(_text, r"self\.out = nn\.Linear\((.*), bias=False\)", r"self.out = nn.Linear(\1)"),
    "no bias on the output": partial(_text, r"self\.out = nn\.Linear\(d_model, d_model\)\n",
                                     "self.out = nn.Linear(d_model, d_model, bias=False)\n"),
    "rotary base": partial(_text, r"base: float = 10_000\.0", "base: float = 1_000.0"),
    "no rotary positions": partial(_text, r"rotary: bool = True", "rotary: bool = False"),
    "not causal": partial(_text, r"is_causal=True", "is_causal=False"),
    "window 64 to 32": partial(_text, r"window=64", "window=32"),
}  # fmt: skip

TWINS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "two mixers in series, or one twice": (
        {"init": "self.second = more()", "forward": "self.second(self.inner(x))"},
        {"forward": "self.inner(self.inner(x))"},
    ),
    "two mixers in parallel, or one shared": (
        {"init": "self.second = more()", "forward": "self.inner(x) + self.second(x.flip(-1))"},
        {"forward": "self.inner(x) + self.inner(x.flip(-1))"},
    ),
    "one mixer per layer, or one for all": (
        {"top": "_cache = {}", "build": "_cache.setdefault(layer_index, more())"},
        {"top": "_cache = {}", "build": "_cache.setdefault(0, more())"},
    ),
    "which of three is used twice": (
        {"init": "self.a = _nn.Linear(x_, x_)\nself.b = _nn.Linear(x_, x_)".replace("x_", "16"),
         "forward": "self.inner(x) + _F.pad(self.a(self.b(self.a(x[..., :16]).sin())), (0, x.shape[-1] - 16))"},
        {"init": "self.a = _nn.Linear(x_, x_)\nself.b = _nn.Linear(x_, x_)".replace("x_", "16"),
         "forward": "self.inner(x) + _F.pad(self.a(self.b(self.b(x[..., :16]).sin())), (0, x.shape[-1] - 16))"},
    ),
}  # fmt: skip
