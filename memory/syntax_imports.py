"""Imports in the canonical tree of level L1: one entry per name, sorted and made unique where order cannot matter.

Covered: `import a, b`, `import a as b`, `from a import b, c`, also within functions, where the bound name is a local.
Not covered: imports of modules that are not listed as quiet. They stay where they are, as do star imports, and those
before them do not move past them.
Notable: two imports in a row that bind one name to different things keep their order, for the last one counts.
"""

import ast

from memory.syntax_scopes import Scope

# Modules whose imports may change places: importing one has no effect on another.
_QUIET = frozenset(
    {
        "abc", "bisect", "cmath", "collections", "contextlib", "copy", "dataclasses", "decimal", "einops", "enum",
        "fractions", "functools", "heapq", "itertools", "math", "numbers", "numpy", "operator", "random", "re",
        "statistics", "string", "textwrap", "torch", "types", "typing", "warnings",
    }
)  # fmt: skip
# Of these `import a.b as c` and `from a import b as c` say the same.
_SUBMODULES = frozenset(
    {
        "collections.abc", "torch.autograd", "torch.fft", "torch.linalg", "torch.nn", "torch.nn.functional",
        "torch.nn.init", "torch.nn.utils", "torch.utils.checkpoint",
    }
)  # fmt: skip


class Import:
    """One imported name. Left out of the canonical tree when it is a type that nothing names any more."""

    __slots__ = ("asname", "module", "name", "scope", "source")

    def __init__(self, module: str | None, alias: ast.alias, scope: Scope) -> None:
        self.module, self.name, self.scope = module, alias.name, scope
        asname = alias.asname
        if module is None and asname is not None and alias.name in _SUBMODULES:
            self.module, _, self.name = alias.name.rpartition(".")
        if self.module is None and asname is None:
            self.asname = alias.name.partition(".")[0]
            self.source = self.asname
        else:
            self.asname = asname or self.name
            self.source = self.name if self.module is None else f"{self.module}.{self.name}"

    @property
    def movable(self) -> bool:
        root = (self.name if self.module is None else self.module).partition(".")[0]
        return root in _QUIET and self.name != "*"

    @property
    def order(self) -> tuple[str, str, str]:
        """Not by a local name: renaming must not change the order."""
        return self.module or "", self.name, self.asname if self.scope.kind == "module" else ""

    @property
    def words(self) -> tuple[str | None, str, bool, str]:
        """What tells it from another: `import a.b` binds a, `import a.b as c` binds b."""
        return self.module, self.name, self.module is None and self.source != self.name, self.asname


def in_order(segment: list[Import]) -> list[Import]:
    """Sorted and each once, unless two of them bind one name to different things: then the last one counts."""
    sources: dict[str, str] = {}
    for entry in segment:
        if sources.setdefault(entry.asname, entry.source) != entry.source:
            return segment
    unique = {entry.words: entry for entry in segment}
    return sorted(unique.values(), key=lambda entry: entry.order)
