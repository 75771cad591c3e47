"""What an architecture program is made of, read from its text by `ast`; nothing of it is run or imported.

Components: classes and functions; submodules, parameters, buffers (assigned to `self`, registered, or stages of a
`Sequential`); constants (top level, class level, defaults, settings on `self`); and, for every function, what it
computes in the order of the text: calls by their plain name (`F.softmax`, `torch.softmax` and `x.softmax` are one
operation) with their literal arguments, arithmetic, gates (products with an activation), loops.

Notable: names of local variables, comments, layout, docstrings and annotations are no part of it; locals that are
assigned once in a constructor are put in place, so that naming a width changes nothing; no recursion over the tree but
in rendering an expression, and what is nested too deeply for that is refused.
Not covered: what the program does when run (shapes, branches taken, layers built in loops of unknown length), code
under `exec`, identity (`memory.identity`). The difference of two programs is in `memory.structural_diff`.
"""

import ast
import copy
import warnings
from dataclasses import dataclass
from typing import Literal

from memory.structure_syntax import (
    SHAPES,
    FunctionNode,
    assignments,
    dotted_name,
    evaluated,
    flat,
    imports,
    literal,
    nested,
    stages_of,
)

Kind = Literal["class", "function", "module", "parameter", "buffer", "constant", "stage", "operation"]

MAX_CHARACTERS = 256 * 1024  # four times what a campaign's gates let through
_INLINED_CHARACTERS = 60
_ACTIVATIONS = frozenset({"sigmoid", "silu", "gelu", "tanh", "softplus", "relu", "hardsigmoid", "softmax", "elu"})
_ARITHMETIC: dict[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.Pow: "pow",
    ast.MatMult: "matmul",
}  # whole-number arithmetic (//, %) is bookkeeping of shapes
ARITHMETIC = frozenset({*_ARITHMETIC.values(), "neg"})
_NO_OPERATION = frozenset(
    {
        "range", "len", "int", "float", "bool", "str", "zip", "enumerate", "isinstance", "list", "tuple", "dict", "set",
        "super", "getattr", "hasattr", "print", "reversed", "sorted", "iter", "next", "type", "min", "max", "size",
        "dim", "numel", "append", "extend", "items", "values", "keys", "register_buffer", "register_parameter",
        "add_module",
    }
)  # fmt: skip


class Unreadable(ValueError):
    """The text has no structure that could be read; the message says why, for people."""


@dataclass(frozen=True)
class Component:
    """One part of a program.

    Attributes:
        where: the class or function that holds it, dotted; "" at the top level.
        name: of the class, function or attribute; of an operation: `softmax`, `self.qkv`, `gate`.
        value: how it is made, `Linear(d_model, 3 * d_model, bias=False)`; of an operation its literal arguments.
        position: its place among those of its kind and `where`, from 0.
        line: from 1.
    """

    kind: Kind
    where: str
    name: str
    value: str
    position: int
    line: int


def components(source: str) -> tuple[Component, ...]:
    """The components of a program in the order of its text.

    Raises:
        Unreadable: it does not parse, is longer than `MAX_CHARACTERS`, or is nested too deeply.
    """
    if len(source) > MAX_CHARACTERS:
        raise Unreadable(f"it has {len(source):,} characters, and more than {MAX_CHARACTERS:,} are not read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a string is not worth a word
            tree = ast.parse(source)
        return _Reader(tree).read()
    except SyntaxError as error:
        where = f" on line {error.lineno}" if error.lineno else ""
        raise Unreadable(f"it does not parse: {error.msg}{where}") from error
    except ValueError as error:  # NUL bytes, lone surrogates
        raise Unreadable(f"it does not parse: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise Unreadable("it is nested too deeply to be read") from error


class _Reader:
    """Collects the components of one module."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._imported = imports(tree)
        self._found: list[Component] = []
        self._counts: dict[tuple[Kind, str], int] = {}
        self._activations: dict[str, str] = {}  # of the class being read: attribute -> activation

    def read(self) -> tuple[Component, ...]:
        """All of it."""
        for statement in flat(self._tree.body):
            if isinstance(statement, ast.ClassDef):
                self._class(statement)
            elif isinstance(statement, FunctionNode):
                self._function(statement, "")
            else:
                self._constants(statement, "")
        return tuple(self._found)

    def _add(self, kind: Kind, where: str, name: str, value: str, node: ast.AST) -> None:
        position = self._counts.get((kind, where), 0)
        self._counts[kind, where] = position + 1
        self._found.append(Component(kind, where, name, value, position, getattr(node, "lineno", 0)))

    def _class(self, node: ast.ClassDef) -> None:
        self._add("class", "", node.name, ", ".join(self._render(base) for base in node.bases), node)
        self._activations = {}
        for statement in flat(node.body):
            if isinstance(statement, FunctionNode):
                self._members(statement, node.name)
        for statement in flat(node.body):
            if isinstance(statement, FunctionNode):
                self._function(statement, node.name)
            else:
                self._constants(statement, node.name)

    def _constants(self, statement: ast.stmt, where: str) -> None:
        for target, value in assignments(statement):
            if isinstance(target, ast.Name) and not target.id.startswith("__"):
                self._add("constant", where, target.id, self._render(value), statement)

    def _function(self, node: FunctionNode, owner: str) -> None:
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        count = len(named) + bool(arguments.vararg) + bool(arguments.kwarg) - bool(owner and named)
        place = f"{owner}.{node.name}" if owner else node.name
        self._add("function", owner, node.name, f"{count} argument{'' if count == 1 else 's'}", node)
        positional = [*arguments.posonlyargs, *arguments.args]
        with_defaults = positional[len(positional) - len(arguments.defaults) :]
        for argument, default in zip(with_defaults, arguments.defaults, strict=True):
            self._add("constant", place, argument.arg, self._render(default), argument)
        for argument, keyword_default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if keyword_default is not None:
                self._add("constant", place, argument.arg, self._render(keyword_default), argument)
        self._operations(node, place)
        for inner in nested(node):
            self._function(inner, place)

    def _members(self, node: FunctionNode, owner: str) -> None:
        """What a method hangs on `self`."""
        local = self._locals(node) if node.name == "__init__" else {}
        for statement in flat(node.body):
            for target, value in assignments(statement):
                if isinstance(target, ast.Attribute) and dotted_name(target.value) == "self":
                    self._member(target.attr, value, owner, statement, local, setting=node.name == "__init__")
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                self._registered(statement.value, owner, local)

    def _registered(self, call: ast.Call, owner: str, local: dict[str, ast.expr]) -> None:
        kinds: dict[str, Kind] = {
            "register_buffer": "buffer",
            "register_parameter": "parameter",
            "add_module": "module",
        }
        method = (dotted_name(call.func) or "").removeprefix("self.")
        if method in kinds and len(call.args) >= 2 and isinstance(call.args[0], ast.Constant):
            self._add(kinds[method], owner, str(call.args[0].value), self._render(call.args[1], local), call)

    def _member(
        self, name: str, value: ast.expr, owner: str, node: ast.stmt, local: dict[str, ast.expr], *, setting: bool
    ) -> None:
        maker = self._maker(value)
        if maker is None:
            if setting:
                self._add("constant", owner, name, self._render(value, local), node)
            return
        if maker in {"Parameter", "Buffer"}:
            self._add("parameter" if maker == "Parameter" else "buffer", owner, name, self._render(value, local), node)
            return
        if maker.lower() in _ACTIVATIONS:
            self._activations[name] = maker.lower()
        stages = stages_of(value) if maker in {"Sequential", "ModuleList"} else None
        if stages is None:
            self._add("module", owner, name, self._render(value, local), node)
            return
        self._add("module", owner, name, maker, node)
        for stage in stages:
            self._add("stage", f"{owner}.{name}", self._maker(stage) or "module", self._render(stage, local), stage)

    def _maker(self, value: ast.expr) -> str | None:
        """The constructor of the module, parameter or buffer that an expression makes; None if it makes none."""
        for node in ast.walk(value):
            if isinstance(node, ast.Call):
                name = self._plain_name(node.func).rpartition(".")[2]
                if name[:1].isupper() and name not in {"Tensor", "LongTensor", "FloatTensor", "BoolTensor"}:
                    return name
        return None

    def _locals(self, node: FunctionNode) -> dict[str, ast.expr]:
        """Local names that are assigned once, to something short; later ones with earlier ones in place."""
        times: dict[str, int] = {}
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                times[inner.id] = times.get(inner.id, 0) + 1
        found: dict[str, ast.expr] = {}
        for statement in flat(node.body):
            for target, value in assignments(statement):
                if isinstance(target, ast.Name) and times[target.id] == 1:
                    placed = _Plain(self, found).visit(copy.deepcopy(value))
                    if len(ast.unparse(placed)) <= _INLINED_CHARACTERS:
                        found[target.id] = placed
        return found

    def _render(self, value: ast.expr, local: dict[str, ast.expr] | None = None) -> str:
        return ast.unparse(_Plain(self, local or {}).visit(copy.deepcopy(value)))

    def resolve(self, name: str) -> str:
        """A dotted name with the import behind its first part: `F.pad` -> `torch.nn.functional.pad`."""
        first, dot, rest = name.partition(".")
        return self._imported.get(first, first) + dot + rest

    def _plain_name(self, func: ast.expr) -> str:
        """What is called: the last part of a library's name or of a method, `self.x`, or a name of the program."""
        dotted = dotted_name(func)
        if dotted is None:
            return func.attr if isinstance(func, ast.Attribute) else ""
        if dotted.startswith("self."):
            return dotted if dotted.count(".") == 1 else dotted.rpartition(".")[2]
        full = self.resolve(dotted)
        return full if full.startswith("math.") else full.rpartition(".")[2]

    def _operations(self, node: FunctionNode, place: str) -> None:
        activated: dict[str, str] = {}
        for step in evaluated(node, self._plain_name):
            if isinstance(step, ast.Assign) and len(step.targets) == 1 and isinstance(step.targets[0], ast.Name):
                activated[step.targets[0].id] = self._activation(step.value, activated)
            elif isinstance(step, ast.For | ast.While | ast.AsyncFor):
                self._add("operation", place, "for" if not isinstance(step, ast.While) else "while", "", step)
            elif isinstance(step, ast.Call):
                name = self._plain_name(step.func)
                if name and name not in _NO_OPERATION and not name.startswith("__"):
                    self._add("operation", place, name, self._literals(step), step)
            elif isinstance(step, ast.BinOp | ast.AugAssign) and type(step.op) in _ARITHMETIC:
                left, right = (step.left, step.right) if isinstance(step, ast.BinOp) else (step.target, step.value)
                self._arithmetic(step, left, right, place, activated)
            elif isinstance(step, ast.UnaryOp) and isinstance(step.op, ast.USub) and literal(step) is None:
                self._add("operation", place, "neg", "", step)

    def _arithmetic(
        self, step: ast.BinOp | ast.AugAssign, left: ast.expr, right: ast.expr, place: str, activated: dict[str, str]
    ) -> None:
        numbers = [text for text in (literal(left), literal(right)) if text is not None]
        if len(numbers) == 2:
            return
        name = _ARITHMETIC[type(step.op)]
        gated = name == "mul" and not numbers
        gate = (self._activation(left, activated) or self._activation(right, activated)) if gated else ""
        self._add("operation", place, "gate" if gate else name, gate or "".join(numbers), step)

    def _activation(self, value: ast.expr, activated: dict[str, str]) -> str:
        """The activation whose value this is, looked for through changes of shape; "" if it is none."""
        while isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in SHAPES:
            value = value.func.value
        if isinstance(value, ast.Name):
            return activated.get(value.id, "")
        if not isinstance(value, ast.Call):
            return ""
        name = self._plain_name(value.func)
        return name if name in _ACTIVATIONS else self._activations.get(name.removeprefix("self."), "")

    def _literals(self, call: ast.Call) -> str:
        positional = [text for text in map(literal, call.args) if text is not None]
        named = [(keyword.arg, literal(keyword.value)) for keyword in call.keywords if keyword.arg]
        return ", ".join([*positional, *(f"{name}={text}" for name, text in sorted(named) if text is not None)])


class _Plain(ast.NodeTransformer):
    """Puts locals in place and cuts library names down to their last part."""

    def __init__(self, reader: _Reader, local: dict[str, ast.expr]) -> None:
        self._reader = reader
        self._local = local

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        dotted = dotted_name(node)
        if dotted is not None and self._reader.resolve(dotted).startswith("torch."):
            return ast.Name(node.attr, ast.Load())
        node.value = self.visit(node.value)
        return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._local:
            return self._local[node.id]
        full = self._reader.resolve(node.id)
        return ast.Name(full.rpartition(".")[2], ast.Load()) if full.startswith("torch.") else node
