"""What level L1 must know of a whole program before it may drop or rename anything.

Covered: how deep the program is nested; whether it can see its own names, annotations or docstrings; which parameter
names a keyword could reach; which annotations can be evaluated without any effect or failure.
Not covered: libraries that read annotations behind a call this module does not know. Annotations that are not listed
here as harmless are kept, and so are those of functions under a decorator that is not.
Notable: an annotation that names what was never imported fails when the program is loaded. Dropping it would merge a
broken program with its repair, so an annotation is dropped only where it is certain to load.
"""

import ast
import builtins
import keyword
from collections import Counter

MAX_DEPTH = 150

# What lets a program see its own local names, text, annotations or docstrings. As plain names these: `model.eval()` and
# `torch.compile` are something else.
_REFLECTIVE_NAMES = frozenset(
    {
        "__annotations__", "__builtins__", "__doc__", "__import__", "breakpoint", "compile", "dir", "eval", "exec",
        "globals", "help", "locals", "vars",
    }
)  # fmt: skip
_REFLECTIVE_ATTRIBUTES = frozenset(
    {
        "__annotations__", "__builtins__", "__closure__", "__code__", "__doc__", "__globals__", "__kwdefaults__",
        "_getframe", "co_varnames", "currentframe", "custom_op", "f_locals",
        "get_annotations", "get_type_hints", "getdoc", "getfullargspec", "getsource", "infer_schema", "jit", "script",
        "signature", "singledispatch", "singledispatchmethod", "tb_frame",
    }
)  # fmt: skip
_REFLECTIVE_MODULES = frozenset(
    {"ast", "builtins", "dis", "gc", "importlib", "inspect", "linecache", "pydantic", "symtable", "traceback"}
)
_REFLECTIVE = _REFLECTIVE_ATTRIBUTES | _REFLECTIVE_MODULES
# Decorators that do not look at annotations, by the last part of their name.
_BLIND_DECORATORS = frozenset(
    {
        "abstractmethod", "cache", "cached_property", "classmethod", "contextmanager", "deleter", "enable_grad",
        "getter", "inference_mode", "lru_cache", "no_grad", "once_differentiable", "override", "property", "setter",
        "staticmethod", "wraps",
    }
)  # fmt: skip
# Of classes, those that leave the annotations of methods alone.
_BLIND_CLASS_DECORATORS = frozenset({"dataclass", "final", "runtime_checkable", "total_ordering", "unique"})
_CLASSES = frozenset({"bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set",
                      "slice", "str", "tuple", "type"})  # fmt: skip
# Of classes, those that leave the annotations of methods alone.
_BLIND_CLASS_DECORATORS = frozenset({"dataclass", "final", "runtime_checkable", "total_ordering", "unique"})
_TORCH_CLASSES = frozenset(
    {"torch." + name for name in ("Generator", "Size", "Tensor", "device", "dtype")}
    | {"torch.nn." + name for name in (
        "Conv1d", "Conv2d", "Dropout", "Embedding", "LayerNorm", "Linear", "Module", "ModuleDict", "ModuleList",
        "Parameter", "ParameterDict", "ParameterList", "Sequential")}
)  # fmt: skip
_OWN_CLASS = "class"
_ANY_NUMBER = -1
# Generic types and how many arguments they take.
_GENERIC = (
    {"dict": 2, "frozenset": 1, "list": 1, "set": 1, "tuple": _ANY_NUMBER, "type": 1}
    | dict.fromkeys(
        ["typing.Deque", "typing.FrozenSet", "typing.List", "typing.Optional", "typing.Set", "typing.Type"], 1
    )
    | {"typing.Dict": 2, "typing.Tuple": _ANY_NUMBER, "typing.Union": _ANY_NUMBER}
    | {
        f"{module}.{name}": count
        for module in ("typing", "collections.abc")
        for name, count in (
            ("Callable", 2), ("Collection", 1), ("Iterable", 1), ("Iterator", 1), ("Mapping", 2),
            ("MutableMapping", 2), ("MutableSequence", 1), ("Sequence", 1),
        )
    }
)  # fmt: skip
KNOWN_TYPES = _TORCH_CLASSES | {name for name in _GENERIC if "." in name} | {"typing.Any"}
_LEAVES = (ast.Load, ast.Store, ast.Del)


class Survey:
    """One reading of the whole tree.

    Attributes:
        depth: levels of nesting; above `MAX_DEPTH` the reading stopped and nothing else holds.
        reflective: the program may see its own names, annotations or docstrings.
        keywords: names that may reach a parameter: of keyword arguments, and every text that is written somewhere.
        dynamic_keywords: some call passes `**mapping`.
        future_annotations: annotations are never evaluated.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.depth = 0
        self.reflective = False
        self.keywords: set[str] = set()
        self.dynamic_keywords = False
        self.future_annotations = False
        self._bindings: Counter[str] = Counter()
        self._origins: dict[str, tuple[str, int]] = {}  # names of the module: dotted origin ("" unknown), last line
        self._roots: set[str] = set()  # `import torch` and `import torch.nn` bind the same `torch`: one binding
        self._read(tree)
        self._bindings.update(self._roots)
        for statement in tree.body:
            self._note_origin(statement)

    def _read(self, tree: ast.Module) -> None:
        level: list[ast.AST] = [tree]
        while level:
            self.depth += 1
            if self.depth > MAX_DEPTH:
                return
            below: list[ast.AST] = []
            for node in level:
                self._note(node)
                for value in node.__dict__.values():
                    if isinstance(value, list):
                        below.extend(item for item in value if isinstance(item, ast.AST))
                    elif isinstance(value, ast.AST) and not isinstance(value, _LEAVES):
                        below.append(value)
            level = below

    def _note(self, node: ast.AST) -> None:
        match node:
            case ast.Name(id=name):
                self.reflective |= name in _REFLECTIVE_NAMES
                if not isinstance(node.ctx, ast.Load):
                    self._bindings[name] += 1
            case ast.Attribute(attr=name):
                self.reflective |= name in _REFLECTIVE_ATTRIBUTES
            case ast.Constant(value=str(text)):
                self.keywords.add(text)
                self.reflective |= text in _REFLECTIVE
            case ast.keyword(arg=name):
                self.dynamic_keywords |= name is None
                self.keywords.add(name or "")
            case ast.stmt():
                self._note_statement(node)
            case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)) | ast.MatchMapping(rest=str(name)):
                self._bindings[name] += 1
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                self._bindings[name] += 1

    def _note_statement(self, node: ast.stmt) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self._bindings[node.name] += 1
                self.reflective |= bool(getattr(node, "type_params", None))
            case ast.Import(names=names):
                self._roots.update(a.name.partition(".")[0] for a in names if a.asname is None)
                self._bindings.update(a.asname for a in names if a.asname is not None)
                self._look_at_import("", names)
            case ast.ImportFrom(module=module, names=names):
                self._bindings.update(a.asname or a.name for a in names)
                self.future_annotations |= module == "__future__" and any(a.name == "annotations" for a in names)
                self._look_at_import(module or "", names)
            case _:
                self.reflective |= type(node).__name__ == "TypeAlias"

    def _look_at_import(self, module: str, names: list[ast.alias]) -> None:
        words = {word for alias in names for word in alias.name.split(".")}
        self.reflective |= not _REFLECTIVE.isdisjoint(words.union(module.split(".")))

    def _note_origin(self, statement: ast.stmt) -> None:
        """Names that are bound by one statement of the module and nowhere else have a known origin."""
        end = statement.end_lineno or statement.lineno
        match statement:
            case ast.Import(names=names):
                found = [(a.asname or a.name.partition(".")[0], a.name if a.asname else a.name.partition(".")[0])
                         for a in names]  # fmt: skip
            case ast.ImportFrom(module=str(module), names=names, level=0):
                found = [(a.asname or a.name, f"{module}.{a.name}") for a in names]
            case ast.ClassDef(name=name):
                found = [(name, _OWN_CLASS)]
            case _:
                return
        for name, origin in found:
            if self._bindings[name] == 1:
                self._origins.setdefault(name, (origin, end))

    def origin(self, node: ast.expr, line: int) -> str | None:
        """The dotted name of a type that is certain to exist on `line`: `torch.nn.Module`, `int`, `class`."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        name = node.id
        if name in _CLASSES and not parts and name not in self._bindings:
            return name
        found, end = self._origins.get(name, ("", 0))
        if not found or end >= line:
            return None
        dotted = ".".join([found, *reversed(parts)])
        if parts:
            return dotted if dotted in KNOWN_TYPES else None
        return dotted

    def harmless(self, node: ast.expr, *, evaluated: bool = True) -> bool:
        """Whether an annotation may vanish: nothing happens, and nothing fails, when Python evaluates it."""
        if self.reflective:
            return False
        if not evaluated or self.future_annotations:
            return not any(isinstance(part, _SCOPED) for part in ast.walk(node))
        return self._certain(node)

    def _certain(self, node: ast.expr) -> bool:
        match node:
            case ast.Constant(value=value):
                return value is None or isinstance(value, str)
            case ast.Name() | ast.Attribute():
                return self.origin(node, node.lineno) is not None
            case ast.Subscript(value=value, slice=arguments):
                origin = self.origin(value, node.lineno)
                return origin in _GENERIC and self._arguments(origin, arguments)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._is_class(left) and (self._is_class(right) or _is_none(right))
            case _:
                return False

    def _arguments(self, origin: str, arguments: ast.expr) -> bool:
        found = arguments.elts if isinstance(arguments, ast.Tuple) else [arguments]
        count = _GENERIC[origin]
        if not found or (len(found) != count and count != _ANY_NUMBER):
            return False
        if origin.endswith(".Callable"):
            parameters = found[0]
            if isinstance(parameters, ast.List):
                found = [*parameters.elts, *found[1:]]
            elif _is_ellipsis(parameters):
                found = found[1:]
            else:
                return False
        elif origin.lower().endswith("tuple") and len(found) > 1 and _is_ellipsis(found[-1]):
            found = found[:-1]
        return all(self._is_type(argument) for argument in found)

    def _is_type(self, node: ast.expr) -> bool:
        """Whether a generic type is certain to accept this as an argument."""
        match node:
            case ast.Constant(value=str(text)):  # compiled by `typing`
                return all(part.isidentifier() and not keyword.iskeyword(part) for part in text.split("."))
            case ast.Name() | ast.Attribute():
                origin = self.origin(node, node.lineno)
                return origin == _OWN_CLASS or origin in _CLASSES or origin in KNOWN_TYPES
            case _:
                return self._certain(node)

    def _is_class(self, node: ast.expr) -> bool:
        """Whether `node | other` is certain to work: a class, or a union of classes."""
        match node:
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._is_class(left) and (self._is_class(right) or _is_none(right))
            case ast.Subscript():
                return self._certain(node)
            case ast.Name() | ast.Attribute():
                origin = self.origin(node, node.lineno)
                return origin in _CLASSES or origin in _TORCH_CLASSES
            case _:
                return False


# What has a scope or an effect on its scope, even in an annotation that is not evaluated.
_SCOPED = (ast.Await, ast.GeneratorExp, ast.ListComp, ast.SetComp, ast.DictComp, ast.Lambda, ast.NamedExpr, ast.Yield,
           ast.YieldFrom)  # fmt: skip


def blind(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether no decorator or metaclass reads the annotations of this function, or of this class's methods."""
    known = _BLIND_DECORATORS
    if isinstance(node, ast.ClassDef):
        known = _BLIND_CLASS_DECORATORS
        if node.keywords:
            return False
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        if name not in known:
            return False
    return True


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is Ellipsis


assert all(hasattr(builtins, name) for name in _CLASSES)  # a name here that Python lacks would be dropped unseen
