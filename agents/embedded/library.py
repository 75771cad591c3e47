"""The grammar's vocabulary as text: class and function definitions, cut out of the catalogue of reference programs.

Nothing is imported or run: definitions are found by parsing and copied verbatim, so that a composed program holds the
same code as the reference it is compared with.

Not covered: what happens if two references define one name differently. That is refused when the library is built.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from evaluator import catalogue

ENTRY_POINTS = frozenset({"build_mixer", "build_block"})


@dataclass(frozen=True, slots=True)
class Definition:
    """A top-level class, function or constant: its text, and the module-level names it uses."""

    name: str
    text: str
    uses: frozenset[str]
    is_class: bool
    meaning: str


class Library:
    """Definitions and import lines by the name they bind.

    Raises:
        ValueError: two sources define one name differently, or a source does not parse.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._definitions: dict[str, Definition] = {}
        self._imports: dict[str, str] = {}
        for title in sorted(sources):
            self._read(title, sources[title])

    def program_parts(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """The import lines and definitions that these names need: functions, then classes, each alphabetically.

        Raises:
            KeyError: a name that no source defines.
        """
        ordered: dict[str, Definition] = {}
        for name in names:
            self._require(name, ordered)
        alphabetic = [ordered[name] for name in sorted(ordered)]  # one order for all programs: their diffs stay small
        functions = [definition.text for definition in alphabetic if not definition.is_class]
        classes = [definition.text for definition in alphabetic if definition.is_class]
        used = frozenset[str]().union(*(definition.uses for definition in ordered.values())) | {"nn"}
        return self._import_lines(used), functions + classes

    def _read(self, title: str, source: str) -> None:
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._read_import(node)
                continue
            name = _bound_name(node)
            if name is None or name in ENTRY_POINTS:
                continue
            decorators = node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
            definition = Definition(
                name=name,
                text="\n".join(lines[first - 1 : node.end_lineno]),
                uses=_used_names(node),
                is_class=isinstance(node, ast.ClassDef),
                meaning=ast.dump(node),
            )
            known = self._definitions.setdefault(name, definition)
            if known.meaning != definition.meaning:
                raise ValueError(f"reference {title} defines {name} differently from another reference: rename one")

    def _read_import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            renamed = f" as {alias.asname}" if alias.asname else ""
            origin = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
            self._imports[name] = f"{origin}import {alias.name}{renamed}"

    def _require(self, name: str, ordered: dict[str, Definition]) -> None:
        if name in ordered:
            return
        definition = self._definitions[name]
        for used in sorted(definition.uses & self._definitions.keys() - {name}):
            self._require(used, ordered)
        ordered[name] = definition

    def _import_lines(self, used: frozenset[str]) -> list[str]:
        """Plain imports of the standard library, then torch; names from one module share a line."""
        plain: list[str] = []
        grouped: dict[str, list[str]] = {}
        for name in sorted(used & self._imports.keys()):
            line = self._imports[name]
            if line.startswith("from "):
                module, _, what = line.removeprefix("from ").partition(" import ")
                grouped.setdefault(module, []).append(what)
            else:
                plain.append(line)
        standard = [line for line in plain if not line.startswith("import torch")]
        torch = [line for line in plain if line.startswith("import torch")]
        torch += [f"from {module} import {', '.join(sorted(grouped[module]))}" for module in sorted(grouped)]
        return [*standard, *([""] if standard and torch else []), *torch]


def _bound_name(node: ast.stmt) -> str | None:
    match node:
        case ast.FunctionDef(name) | ast.ClassDef(name):
            return name
        case ast.Assign([ast.Name(name)], _) | ast.AnnAssign(ast.Name(name)):
            return name
    return None


def _used_names(node: ast.stmt) -> frozenset[str]:
    loaded = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return frozenset(loaded - set(dir(builtins)))


@cache
def catalogue_library() -> Library:
    """The library of the evaluator's reference programs."""
    return Library(catalogue_sources())


@cache
def catalogue_sources() -> Mapping[str, str]:
    """Reference programs by name."""
    return {name: catalogue.source(name) for name in catalogue.names()}


@cache
def sources_by_title() -> Mapping[str, str]:
    """Reference programs by name and by the short form of their title, as experiments are called after them."""
    titles = {catalogue.title(name).partition(":")[0]: source for name, source in catalogue_sources().items()}
    return {**titles, **catalogue_sources()}
