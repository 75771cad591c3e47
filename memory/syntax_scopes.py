"""Which binding a name refers to, for the renaming of locals in level L1 of the identity ladder.

Covered: functions, lambdas, comprehensions, classes, `global`, `nonlocal`, closures, names that a walrus in a
comprehension binds outside it. Class bodies are skipped when a function looks outward, as Python does.
Not covered: type parameters (`def f[T]`); programs with them are not renamed at all.
Notable: scopes fill while the tree is read, so a name is resolved only after the whole program was read.
"""

from typing import Literal

Kind = Literal["module", "class", "function", "comprehension"]


class Scope:
    """One block of names.

    Attributes:
        bound: names it binds.
        declared: names that a bare annotation makes local.
        kept: names among them that are not renamed.
        observed: a class whose decorators or metaclass may look at its methods.
    """

    __slots__ = ("bound", "declared", "global_names", "kept", "kind", "nonlocal_names", "observed", "outer")

    def __init__(self, kind: Kind, outer: "Scope | None", *, observed: bool = False) -> None:
        self.kind = kind
        self.outer = outer
        self.bound: set[str] = set()
        self.declared: set[str] = set()
        self.kept: set[str] = set()
        self.observed = observed
        self.global_names: set[str] = set()
        self.nonlocal_names: set[str] = set()

    def bind(self, name: str, *, kept: bool = False) -> None:
        self.bound.add(name)
        if kept:
            self.kept.add(name)

    def walrus_home(self) -> "Scope":
        """Where a walrus in this scope binds its name: outside of all comprehensions."""
        scope = self
        while scope.kind == "comprehension" and scope.outer is not None:
            scope = scope.outer
        return scope

    def home(self, name: str) -> "Scope | None":
        """The function, lambda or comprehension whose local `name` is, seen from here. None: no local variable."""
        scope: Scope | None = self
        while scope is not None and scope.kind != "module":
            if scope.kind != "class" or scope is self:
                if name in scope.global_names:
                    return None
                if (name in scope.bound or name in scope.declared) and name not in scope.nonlocal_names:
                    return None if scope.kind == "class" else scope
            scope = scope.outer
        return None


class Names:
    """Numbers for local variables, in the order in which they first occur."""

    def __init__(self, *, renaming: bool) -> None:
        self._renaming = renaming
        self._numbers: dict[tuple[Scope, str], str] = {}
        self._seen: dict[tuple[Scope, str], str] = {}

    def text(self, scope: Scope, name: str) -> str:
        """`name` itself, or a number behind `%` (no identifier holds one) for a local variable that may be renamed."""
        seen = self._seen.get((scope, name))
        if seen is None:
            home = scope.home(name) if self._renaming else None
            # Within a class `__x` and `_Class__x` are one name, so those keep theirs.
            if home is None or name in home.kept or "__" in name:
                seen = name
            else:
                seen = self._numbers.setdefault((home, name), f"%{len(self._numbers)}")
            self._seen[scope, name] = seen
        return seen
