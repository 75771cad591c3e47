"""How two programs differ in structure: which components came, went, moved, changed, were renamed.

Named components (classes, functions, submodules, parameters, buffers, constants) are matched by place and name, then by
what is left of them: the same thing under another name was renamed, under the same name elsewhere it moved. What a
function computes is matched in order: the same operation at another place in the order, or in another function, moved.
A renamed class or function takes its contents with it, a renamed submodule its uses: those are no further changes.

Notable: a matching, so every component of either program appears in one change at most, and
`before - went == after - came`; it is a reading aid found by similarity, not a proof. Renaming of a class or function
needs `SIMILAR` of its contents in common. Arithmetic and loops are too common to be followed across functions.
Not covered: reading programs (`memory.structure`), whether the difference matters (that is measured).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Literal

from memory.structure import ARITHMETIC, Component, components

What = Literal["came", "went", "moved", "changed", "renamed"]
WHATS: tuple[What, ...] = ("came", "went", "moved", "changed", "renamed")
SIMILAR = 0.6  # share of contents in common (Jaccard, counted with multiplicity) from which a rename is believed
_COMPARED_AT_MOST = 100  # classes or functions without a namesake, beyond which renames are not looked for
_EXACT_ALIGNMENT = 1_500  # operations of one function up to which frequent ones are aligned exactly
_COMMON = ARITHMETIC | {"for", "while"}
_ORDERED = frozenset({"operation", "stage"})
_HOLDERS = frozenset({"class", "function"})


@dataclass(frozen=True)
class Change:
    """One component that differs; `before` is None when it came, `after` when it went."""

    what: What
    before: Component | None
    after: Component | None

    @property
    def component(self) -> Component:
        """The component as it is now, or as it was when it went."""
        found = self.after or self.before
        assert found is not None
        return found


@dataclass(frozen=True)
class StructuralDiff:
    """The changes in the order of the later program, what went at the end; `same` counts matched, equal components."""

    changes: tuple[Change, ...]
    same: int

    @property
    def counts(self) -> dict[What, int]:
        """Changes by what happened, all five kinds named."""
        found = Counter(change.what for change in self.changes)
        return {what: found[what] for what in WHATS}


def structural_diff(before: str, after: str) -> StructuralDiff:
    """The difference of two programs.

    Raises:
        Unreadable: one of them has no structure that could be read.
    """
    return compare(components(before), components(after))


def compare(before: Sequence[Component], after: Sequence[Component]) -> StructuralDiff:
    """The difference of two lists of components as `memory.structure.components` gives them."""
    matching = _Matching(list(before), list(after))
    matching.holders("class")
    matching.holders("function")
    matching.attributes()
    matching.computations()
    return matching.result()


@dataclass
class _Matching:
    """What is not matched yet (`left`, `right`), and what was."""

    left: list[Component]
    right: list[Component]
    changes: list[Change] = field(default_factory=list)
    same: int = 0
    places: dict[str, str] = field(default_factory=dict)  # of the earlier program -> of the later one
    names: dict[tuple[str, str], str] = field(default_factory=dict)  # (place, name) of the earlier one -> new name

    def place(self, where: str) -> str:
        """Where this place of the earlier program is in the later one."""
        if where in self.places:
            return self.places[where]
        owner, dot, last = where.rpartition(".")
        return f"{self.places.get(owner, owner)}{dot}{last}" if dot else where

    def name(self, component: Component) -> str:
        """What an operation of the earlier program would be called in the later one."""
        owner = component.where.partition(".")[0]
        if component.name.startswith("self."):
            attribute = component.name.removeprefix("self.")
            return f"self.{self.names.get((owner, attribute), attribute)}"
        return self.names.get(("", component.name), component.name)

    def pair(self, what: What | None, one: Component, other: Component) -> None:
        """Take both out; `what` is None when they are equal."""
        self.left.remove(one)
        self.right.remove(other)
        if what is None:
            self.same += 1
        else:
            self.changes.append(Change(what, one, other))

    def match(
        self,
        what: What | None,
        kinds: Iterable[str],
        left_key: Callable[[Component], Hashable],
        right_key: Callable[[Component], Hashable],
    ) -> list[tuple[Component, Component]]:
        """Pair components of these kinds with equal keys, in order; keys of None pair with nothing."""
        chosen = frozenset(kinds)
        waiting: defaultdict[Hashable, list[Component]] = defaultdict(list)
        for other in reversed(self.right):
            if other.kind in chosen:
                waiting[right_key(other)].append(other)
        waiting.pop(None, None)
        pairs = [
            (one, waiting[key].pop()) for one in self.left if one.kind in chosen and waiting.get(key := left_key(one))
        ]
        self.take(what, pairs)
        return pairs

    def take(self, what: What | None, pairs: Iterable[tuple[Component, Component]]) -> None:
        """As `pair`, for many; without `what` it is "changed" where the values differ."""
        pairs = list(pairs)
        gone_left, gone_right = {id(one) for one, _ in pairs}, {id(other) for _, other in pairs}
        self.left = [one for one in self.left if id(one) not in gone_left]
        self.right = [other for other in self.right if id(other) not in gone_right]
        for one, other in pairs:
            if what is not None:
                self.changes.append(Change(what, one, other))
            elif (one.kind, one.value) != (other.kind, other.value):
                self.changes.append(Change("changed", one, other))
            else:
                self.same += 1

    def holders(self, kind: str) -> None:
        """Classes or functions: by name, then by contents."""
        pairs = self.match(None, [kind], lambda c: (self.place(c.where), c.name), lambda c: (c.where, c.name))
        lefts = [one for one in self.left if one.kind == kind]
        rights = [other for other in self.right if other.kind == kind]
        if len(lefts) <= _COMPARED_AT_MOST and len(rights) <= _COMPARED_AT_MOST:
            pairs += self._alike(lefts, rights)
        for one, other in pairs:
            self.places[_path(one)] = _path(other)
            if one.name != other.name and not one.where:
                self.names["", one.name] = other.name

    def _alike(self, lefts: list[Component], rights: list[Component]) -> list[tuple[Component, Component]]:
        inside_left, inside_right = _contents(self.left, lefts), _contents(self.right, rights)
        scored = [
            (-_overlap(inside_left[_path(one)], inside_right[_path(other)]), i, j)
            for i, one in enumerate(lefts)
            for j, other in enumerate(rights)
        ]
        pairs: list[tuple[Component, Component]] = []
        used: set[tuple[str, int]] = set()
        for score, i, j in sorted(scored):
            if -score >= SIMILAR and not used & {("left", i), ("right", j)}:
                used |= {("left", i), ("right", j)}
                pairs.append((lefts[i], rights[j]))
        self.take("renamed", [pair for pair in pairs if pair[0].name != pair[1].name])
        self.take("moved", [pair for pair in pairs if pair[0].name == pair[1].name])
        return pairs

    def attributes(self) -> None:
        """Submodules, parameters, buffers, constants: by place and name, then renamed, then moved."""
        kinds = ("module", "parameter", "buffer", "constant")
        self.match(None, kinds, lambda c: (self.place(c.where), c.name), lambda c: (c.where, c.name))
        made = kinds[:3]  # equal numbers under other names are common and say nothing
        renamed = self.match(
            "renamed", made, lambda c: (c.kind, self.place(c.where), c.value), lambda c: (c.kind, c.where, c.value)
        )
        for one, other in renamed:
            self.names[one.where, one.name] = other.name
            self.places[_path(one)] = _path(other)
        self.match("moved", made, lambda c: (c.kind, c.name, c.value), lambda c: (c.kind, c.name, c.value))

    def computations(self) -> None:
        """Operations and stages: in order, then out of order, then with other arguments, then elsewhere."""
        self._aligned()
        here = (
            lambda c: (c.kind, self.place(c.where), self.name(c), c.value),
            lambda c: (c.kind, c.where, c.name, c.value),
        )
        self.match("moved", _ORDERED, *here)
        self.match(
            "changed",
            _ORDERED,
            lambda c: (c.kind, self.place(c.where), self.name(c)),
            lambda c: (c.kind, c.where, c.name),
        )
        self.match("moved", _ORDERED, lambda c: _distinct(c, self.name(c)), lambda c: _distinct(c, c.name))

    def _aligned(self) -> None:
        lefts, rights = _by_place(self.left, self.place), _by_place(self.right, lambda where: where)
        pairs: list[tuple[Component, Component]] = []
        for key in lefts.keys() & rights.keys():
            one, other = lefts[key], rights[key]
            matcher = SequenceMatcher(
                None,
                [(c.kind, self.name(c), c.value) for c in one],
                [(c.kind, c.name, c.value) for c in other],
                autojunk=max(len(one), len(other)) > _EXACT_ALIGNMENT,
            )
            for block in matcher.get_matching_blocks():
                pairs += zip(one[block.a : block.a + block.size], other[block.b : block.b + block.size], strict=True)
        self.take(None, pairs)

    def result(self) -> StructuralDiff:
        """What is left came or went."""
        changes = [*self.changes, *(Change("came", None, other) for other in self.right)]
        gone = [Change("went", one, None) for one in self.left]
        return StructuralDiff((*sorted(changes, key=_reading_order), *sorted(gone, key=_reading_order)), self.same)


def _path(component: Component) -> str:
    return f"{component.where}.{component.name}" if component.where else component.name


def _contents(
    components: Sequence[Component], holders: Sequence[Component]
) -> dict[str, Counter[tuple[str, str, str]]]:
    """What each holder holds, nested holders included, without the holders' own names."""
    found: dict[str, Counter[tuple[str, str, str]]] = {_path(holder): Counter() for holder in holders}
    for component in components:
        owner = component.where
        while owner:
            if owner in found:
                found[owner][component.kind, component.name, component.value] += 1
            owner = owner.rpartition(".")[0]
    return found


def _overlap(a: Counter[tuple[str, str, str]], b: Counter[tuple[str, str, str]]) -> float:
    """Jaccard's index of two multisets; 0 for two empty ones, which have nothing to be recognised by."""
    union = (a | b).total()
    return (a & b).total() / union if union else 0.0


def _by_place(components: Iterable[Component], place: Callable[[str], str]) -> dict[str, list[Component]]:
    found: defaultdict[str, list[Component]] = defaultdict(list)
    for component in components:
        if component.kind in _ORDERED:
            found[place(component.where)].append(component)
    return found


def _distinct(component: Component, name: str) -> Hashable:
    return None if name in _COMMON else (component.kind, name, component.value)


def _reading_order(change: Change) -> tuple[int, str, int, str]:
    component = change.component
    return component.line, component.kind, component.position, change.what
