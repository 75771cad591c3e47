"""Writes a syntax tree in the canonical form that level L1 hashes: see `memory.syntax` for what that form drops.

Covered: every node of Python 3.11 to 3.13; those without a method of their own are written field by field.
Not covered: guards against size and depth (in `memory.syntax`).
Notable: one pass over the tree. Names and imports are written as items that are settled at the end, when it is known
what each scope binds and what nothing mentions. The text is unambiguous: a node's name says how many fields follow.
"""

import ast
from collections.abc import Callable, Iterable
from typing import Any, Final

from memory.syntax_imports import Import, in_order
from memory.syntax_scopes import Names, Scope
from memory.syntax_survey import KNOWN_TYPES, Survey, blind

_SEPARATOR = "\x00"  # no identifier and no `repr` holds one

# Methods whose parameters torch passes by position only. It calls others (`state_dict`, `train`, ...) by keyword.
_POSITIONAL_METHODS = frozenset({"__init__", "forward"})
_CONTRACT = "build_"  # functions that are called from outside begin with this
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Comprehension = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp


_Item = str | tuple[Scope, str] | tuple[Scope, str, None] | Import


class Writer:
    """Writes a tree as a flat list of items; names and imports are settled when all scopes are known."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._scope = Scope("module", None)
        self._items: list[_Item] = []
        self._kept_annotation = False
        self._handlers: Final[dict[type[ast.AST], Callable[[Any], None]]] = {
            ast.Name: self._name, ast.Constant: self._constant, ast.Attribute: self._attribute,
            ast.FunctionDef: self._function, ast.AsyncFunctionDef: self._function, ast.Lambda: self._lambda,
            ast.ClassDef: self._class, ast.AnnAssign: self._annotated, ast.NamedExpr: self._walrus,
            ast.ListComp: self._comprehension, ast.SetComp: self._comprehension,
            ast.GeneratorExp: self._comprehension, ast.DictComp: self._comprehension,
            ast.ExceptHandler: self._handler, ast.Global: self._declaration, ast.Nonlocal: self._declaration,
            ast.MatchAs: self._capture, ast.MatchStar: self._capture, ast.MatchMapping: self._capture,
        }  # fmt: skip

    def write(self, tree: ast.Module) -> str:
        self._statements(tree.body)
        names = Names(renaming=not self._survey.reflective)
        used = self._used_globals()
        texts: list[str] = []
        for item in self._items:
            if isinstance(item, str):
                texts.append(item)
            elif isinstance(item, Import):
                texts.extend(self._import_text(item, used, names))
            elif len(item) == 2:
                texts.append(names.text(*item))
            elif item[1] not in item[0].bound:
                texts.extend(("declared", names.text(item[0], item[1])))
        return _SEPARATOR.join(texts)

    # Statements

    def _statements(self, body: Iterable[ast.stmt]) -> None:
        self._items.append("[")
        imports: list[ast.Import | ast.ImportFrom] = []
        for statement in body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                imports.append(statement)
                continue
            if isinstance(statement, ast.Pass):
                continue
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and not self._survey.reflective
            ):
                continue
            if imports:
                self._imports(imports)
                imports = []
            self._node(statement)
        if imports:
            self._imports(imports)
        self._items.append("]")

    def _imports(self, statements: list[ast.Import | ast.ImportFrom]) -> None:
        """Imports in a row: those of quiet modules in order, each once; any other stays where it is."""
        segment: list[Import] = []
        for statement in statements:
            module = None
            if isinstance(statement, ast.ImportFrom):
                module = "." * statement.level + (statement.module or "")
            for alias in statement.names:
                entry = Import(module, alias, self._scope)
                if alias.name != "*":
                    self._scope.bind(entry.asname)
                if entry.movable:
                    segment.append(entry)
                else:
                    self._items.extend(in_order(segment))
                    self._items.append(entry)
                    segment = []
        self._items.extend(in_order(segment))

    def _import_text(self, entry: Import, used: set[str], names: Names) -> Iterable[str]:
        if self._survey.reflective or entry.scope.kind != "module":
            unused = False
        elif entry.module == "__future__":
            unused = entry.name == "annotations" and not self._kept_annotation
        else:
            unused = entry.source in KNOWN_TYPES and entry.asname not in used
        if unused:
            return ()
        bound = names.text(entry.scope, entry.asname)
        return ("import", entry.module or "~", entry.name, "=" if entry.words[2] else "~", bound)

    def _used_globals(self) -> set[str]:
        """Names that something but an import mentions. A local of the same name keeps an import: that is harmless."""
        return {item[1] for item in self._items if isinstance(item, tuple)}

    def _annotated(self, node: ast.AnnAssign) -> None:
        in_function = self._scope.kind not in ("module", "class")
        target = node.target
        dropped = self._scope.kind != "class" and self._survey.harmless(node.annotation, evaluated=not in_function)
        if dropped and node.value is not None:
            self._items.extend(("Assign", "["))
            self._node(target)
            self._items.append("]")
            self._node(node.value)
        elif isinstance(target, ast.Name) and node.value is None:
            if node.simple and in_function:  # makes the name local, which counts where nothing else does
                self._scope.declared.add(target.id)
                self._items.append((self._scope, target.id, None))
            elif node.simple and self._scope.kind == "class":
                self._scope.bind(target.id)
            if not dropped:
                self._kept_annotation = True
                self._items.extend(("annotated", str(node.simple), (self._scope, target.id)))
                self._node(node.annotation)
        else:
            self._kept_annotation = True
            self._generic(node)

    def _function(self, node: _Function) -> None:
        scope = self._scope
        scope.bind(node.name, kept=True)
        self._items.append(type(node).__name__)
        self._list(node.decorator_list)
        self._items.append(node.name)
        self._parameters(node.args, node)
        inner = Scope("function", scope)
        self._bind_parameters(inner, node.args, node)
        self._scope = inner
        self._statements(node.body)
        self._scope = scope

    def _class(self, node: ast.ClassDef) -> None:
        scope = self._scope
        scope.bind(node.name, kept=True)
        self._items.append("ClassDef")
        self._list(node.decorator_list)
        self._items.append(node.name)
        self._list(node.bases)
        self._list(node.keywords)
        self._scope = Scope("class", scope, observed=not blind(node))
        self._statements(node.body)
        self._scope = scope

    def _declaration(self, node: ast.Global | ast.Nonlocal) -> None:
        target = self._scope.global_names if isinstance(node, ast.Global) else self._scope.nonlocal_names
        target.update(node.names)
        self._items.extend((type(node).__name__, "["))
        self._items.extend((self._scope, name) for name in node.names)
        self._items.append("]")

    def _handler(self, node: ast.ExceptHandler) -> None:
        self._items.append("ExceptHandler")
        self._node(node.type)
        self._binding(node.name)
        self._statements(node.body)

    # Parameters

    def _parameters(self, args: ast.arguments, node: _Function | None) -> None:
        """Kinds, annotations and defaults, in the scope around the function; the names follow in its own."""
        self._items.append(f"{len(args.defaults)} {len(args.kw_defaults)}")
        for default in (*args.defaults, *args.kw_defaults):
            self._node(default)
        if node is None:
            return
        unread = blind(node) and not self._scope.observed
        every = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
        annotations = [None if arg is None else arg.annotation for arg in every]
        for annotation in (*annotations, node.returns):
            if annotation is None or (unread and self._survey.harmless(annotation)):
                self._items.append("~")
            else:
                self._kept_annotation = True
                self._node(annotation)

    def _bind_parameters(self, inner: Scope, args: ast.arguments, node: _Function | None) -> None:
        for kind, group in (
            ("/", args.posonlyargs), ("-", args.args), ("*", [args.vararg]), (":", args.kwonlyargs),
            ("**", [args.kwarg]),
        ):  # fmt: skip
            self._items.append(kind)
            for index, arg in enumerate(group):
                if arg is None:
                    self._items.append("~")
                    continue
                inner.bind(arg.arg, kept=not self._renamable(arg.arg, kind, node, first=kind == "-" and index == 0))
                self._items.append((inner, arg.arg))

    def _renamable(self, name: str, kind: str, node: _Function | None, *, first: bool) -> bool:
        """Whether no caller can pass this parameter by keyword.

        Calls within the program are seen: the name is no keyword, no text, and nothing is called with `**`. From
        outside come calls of the contract's functions (`build_...`), and torch's calls of a module's methods.
        """
        if kind in ("/", "*", "**"):
            return True
        if self._survey.dynamic_keywords or name in self._survey.keywords:
            return False
        if node is None or self._scope.kind not in ("module", "class"):
            return True
        if self._scope.kind == "module":
            return not node.name.startswith(_CONTRACT)
        return first or node.name in _POSITIONAL_METHODS

    def _lambda(self, node: ast.Lambda) -> None:
        scope = self._scope
        self._items.append("Lambda")
        self._parameters(node.args, None)
        inner = Scope("function", scope)
        self._bind_parameters(inner, node.args, None)
        self._scope = inner
        self._node(node.body)
        self._scope = scope

    # Expressions and patterns

    def _comprehension(self, node: _Comprehension) -> None:
        """The first iterable belongs to the scope around the comprehension."""
        scope = self._scope
        self._items.append(type(node).__name__)
        self._node(node.generators[0].iter)
        self._scope = Scope("comprehension", scope)
        self._items.append("[")
        for index, generator in enumerate(node.generators):
            self._items.append("async" if generator.is_async else "for")
            self._node(generator.target)
            if index:
                self._node(generator.iter)
            self._list(generator.ifs)
        self._items.append("]")
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self._node(part)
        self._scope = scope

    def _walrus(self, node: ast.NamedExpr) -> None:
        home = self._scope.walrus_home()
        home.bind(node.target.id)
        self._items.extend(("NamedExpr", (home, node.target.id)))
        self._node(node.value)

    def _name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            self._scope.bind(node.id)
        self._items.extend(("Name", (self._scope, node.id)))

    def _attribute(self, node: ast.Attribute) -> None:
        self._items.extend(("Attribute", node.attr))
        self._node(node.value)

    def _constant(self, node: ast.Constant) -> None:
        value = node.value
        # `repr` of an integer has a limit of digits, and takes quadratic time.
        text = f"{value:x}" if type(value) is int else repr(value)
        self._items.append(f"{type(value).__name__} {text}")

    def _capture(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        self._items.append(type(node).__name__)
        if isinstance(node, ast.MatchAs):
            self._node(node.pattern)
        elif isinstance(node, ast.MatchMapping):
            self._list(node.keys)
            self._list(node.patterns)
        self._binding(node.rest if isinstance(node, ast.MatchMapping) else node.name)

    def _binding(self, name: str | None) -> None:
        if name is None:
            self._items.append("~")
            return
        self._scope.bind(name)
        self._items.append((self._scope, name))

    def _node(self, node: ast.AST | None) -> None:
        if node is None:
            self._items.append("~")
            return
        handler = self._handlers.get(type(node))
        if handler is not None:
            handler(node)
        else:
            self._generic(node)

    def _list(self, nodes: Iterable[ast.AST]) -> None:
        self._items.append("[")
        for node in nodes:
            self._node(node)
        self._items.append("]")

    def _generic(self, node: ast.AST) -> None:
        self._items.append(type(node).__name__)
        for field in node._fields:
            value = getattr(node, field, None)
            if field in ("ctx", "type_comment") or (field == "type_params" and not value):
                continue
            if isinstance(value, list):
                if field in ("body", "orelse", "finalbody"):
                    self._statements(value)
                else:
                    self._items.append("[")
                    for item in value:
                        if isinstance(item, ast.AST | None):
                            self._node(item)
                        else:
                            self._items.append(str(item))
                    self._items.append("]")
            elif value is None or isinstance(value, ast.AST):
                self._node(value)
            else:
                self._items.append(str(value))
