"""Reading what ASI-Arch published: the tree of its experiments and the gallery of some of them, checked.

The tree is `{"total_records", "results": [{index, name, parent, score, name_new}]}`, the gallery a list of `{index,
name, parent, score, program, motivation, summary, parameters, result: {kind: CSV}}`; further fields are not read.
What cannot be a lineage is an error that names the node; what is merely odd is a warning.
"""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memory.archive.errors import ListingInvalid

KIND = "asi-arch"
MAX_FILE_BYTES = 256 * 2**20
MAX_PROGRAM_BYTES = 2**20

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class Node:
    """One entry of the tree. `title` is the display name, where there is one."""

    index: int
    name: str
    title: str
    parent: int | None
    score: float | None

    @property
    def where(self) -> str:
        """How errors call it."""
        return f"node {self.index} ('{self.name[:60]}')"


@dataclass(frozen=True)
class Entry:
    """One entry of the gallery; `results` holds CSV text by kind."""

    index: int
    program: str | None
    motivation: str | None
    summary: str | None
    parameters: str | None
    results: dict[str, str]


@dataclass(frozen=True)
class Listing:
    """A checked lineage: `nodes` and `gallery` by index, in index order; `origin` says what it was read from."""

    nodes: dict[int, Node]
    gallery: dict[int, Entry]
    origin: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def read(tree: Path, gallery: Path | None = None) -> Listing:
    """Read and check both files; raises `ListingInvalid`."""
    value, digest = _json(tree)
    if not isinstance(value, dict) or not isinstance(value.get("results"), list) or not value["results"]:
        raise ListingInvalid(tree, "the file", 'this is no ASI-Arch tree: {"total_records": ..., "results": [...]}')
    nodes: dict[int, Node] = {}
    for position, item in enumerate(value["results"], start=1):
        node = _node(_Item(tree, f"entry {position} of results", item))
        if node.index in nodes:
            raise ListingInvalid(tree, node.where, f"its index is that of '{nodes[node.index].name[:60]}' too")
        nodes[node.index] = node
    nodes = dict(sorted(nodes.items()))
    _check_lineage(tree, nodes)
    total = value.get("total_records")
    origin = {"kind": KIND, "file": tree.name, "sha256": digest, "total_records": total, "gallery": None}
    _check_text(tree, "total_records", total)
    warnings = _oddities(tree, nodes, total)
    entries: dict[int, Entry] = {}
    if gallery is not None:
        entries, origin["gallery"] = _gallery(gallery, nodes, warnings)
    return Listing(nodes, entries, origin, warnings)


def _json(path: Path) -> tuple[Any, str]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ListingInvalid(path, "the file", f"it cannot be read ({error.strerror}). Name another file") from error
    if len(data) > MAX_FILE_BYTES:
        raise ListingInvalid(path, "the file", f"it has more than {MAX_FILE_BYTES:,} bytes")
    try:
        return json.loads(data), hashlib.sha256(data).hexdigest()
    except (ValueError, RecursionError) as error:
        raise ListingInvalid(path, "the file", f"this is not JSON ({error})") from error


class _Item:
    """An object of a file, whose fields are asked for by type."""

    def __init__(self, path: Path, where: str, value: Any) -> None:
        self.path = path
        self.where = where
        if not isinstance(value, dict):
            raise self.bad(f"this is {type(value).__name__}, not an object")
        self._value = value
        index = value.get("index")
        if type(index) is not int or not 0 <= index < 2**31:
            raise self.bad(f"index is {index!r}, not a number from 0 on")
        self.index = index
        self.where = f"node {index} ('{value.get('name', '')!s:.60}')"

    def bad(self, why: str) -> ListingInvalid:
        return ListingInvalid(self.path, self.where, why)

    def text(self, name: str) -> str | None:
        value = self._value.get(name)
        if value is not None and not isinstance(value, str):
            raise self.bad(f"{name} is {type(value).__name__}, not text")
        _check_text(self.path, f"{self.where}, {name}", value)
        return value

    def number(self, name: str) -> float | None:
        value = self._value.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.bad(f"{name} is {type(value).__name__}, not a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.bad(f"{name} is {value!s:.20}, which is no finite number")
        return number

    def get(self, name: str) -> Any:
        return self._value.get(name)


def _check_text(path: Path, where: str, value: Any) -> None:
    found = _UNSTORABLE.search(value) if isinstance(value, str) else None
    if found:
        what = "NUL" if found[0] == "\x00" else "a lone surrogate"
        raise ListingInvalid(path, where, f"it holds {what} at character {found.start()}")


def _node(item: _Item) -> Node:
    name = item.text("name")
    if not name:
        raise item.bad("it has no name")
    parent = item.get("parent")
    if parent is not None and type(parent) is not int:
        raise item.bad(f"parent is {type(parent).__name__}, not the index of a node")
    return Node(item.index, name, item.text("name_new") or name, parent, item.number("score"))


def _check_lineage(path: Path, nodes: Mapping[int, Node]) -> None:
    """Every parent is there, and nobody descends from itself."""
    safe: set[int] = set()
    for node in nodes.values():
        trail: dict[int, None] = {}
        current: Node | None = node
        while current is not None and current.index not in safe:
            if current.index in trail:
                circle = [*trail][[*trail].index(current.index) :]
                shown = " -> ".join(map(str, [*circle, current.index]))
                raise ListingInvalid(path, current.where, f"it descends from itself: {shown}")
            trail[current.index] = None
            if current.parent is not None and current.parent not in nodes:
                raise ListingInvalid(path, current.where, f"its parent {current.parent} is not in the file")
            current = None if current.parent is None else nodes[current.parent]
        safe.update(trail)


def _oddities(path: Path, nodes: Mapping[int, Node], total: Any) -> list[str]:
    roots = [node for node in nodes.values() if node.parent is None]
    later = [node for node in nodes.values() if node.parent is not None and node.parent > node.index]
    found = []
    if total != len(nodes):
        found.append(f"{path}: total_records is {total!r}, and there are {len(nodes)} records")
    if len(roots) != 1:
        found.append(f"{path}: the lineage has {len(roots)} roots")
    if later:
        found.append(f"{path}: {len(later)} nodes have a parent of a higher index, the first is {later[0].where}")
    return found


def _gallery(path: Path, nodes: Mapping[int, Node], warnings: list[str]) -> tuple[dict[int, Entry], dict[str, Any]]:
    value, digest = _json(path)
    if not isinstance(value, list):
        raise ListingInvalid(path, "the file", "this is no ASI-Arch gallery: it has to be a list")
    entries: dict[int, Entry] = {}
    for position, given in enumerate(value, start=1):
        item = _Item(path, f"entry {position}", given)
        node = nodes.get(item.index)
        if node is None:
            raise item.bad("the tree has no node of this index")
        if item.index in entries:
            raise item.bad("the gallery has this index twice")
        entries[item.index] = _entry(item)
        said = {"name": item.text("name"), "parent": item.get("parent"), "score": item.number("score")}
        known = {"name": node.name, "parent": node.parent, "score": node.score}
        differing = [name for name, stated in said.items() if stated is not None and stated != known[name]]
        if differing:
            warnings.append(f"{path}: {item.where} has another {' and '.join(differing)} than the tree, which counts")
    return dict(sorted(entries.items())), {"file": path.name, "sha256": digest, "records": len(entries)}


def _entry(item: _Item) -> Entry:
    program = item.text("program")
    if program is not None and len(program.encode()) > MAX_PROGRAM_BYTES:
        raise item.bad(f"its program has {len(program.encode()):,} bytes; at most {MAX_PROGRAM_BYTES:,} are read")
    results = item.get("result") or {}
    if not isinstance(results, dict) or not all(isinstance(text, str | None) for text in results.values()):
        raise item.bad("result is not an object of CSV texts")
    for kind, text in results.items():
        _check_text(item.path, f"{item.where}, result {kind!r:.40}", text)
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", kind):
            raise item.bad(f"result has the name {kind!r:.60}; letters, digits, '_', '.' and '-' are names")
    parameters = item.get("parameters")
    if isinstance(parameters, int | float):
        item.number("parameters")
        parameters = str(parameters)
    elif parameters is not None:
        parameters = item.text("parameters")
    texts = {kind: text for kind, text in sorted(results.items()) if text}
    return Entry(item.index, program, item.text("motivation"), item.text("summary"), parameters, texts)


def figures(text: str, name: str) -> tuple[dict[str, float], list[str]]:
    """The numbers of a published CSV by heading, and the headings without one (NaN, empty).

    The first line names the columns. Of several others, the one that begins with `name` counts; a text that is not of
    this form has no figures.
    """
    try:
        lines = [line for line in csv.reader(io.StringIO(text), strict=True) if line]
    except csv.Error:
        return {}, []
    rows = lines[1:] if len(lines) == 2 else [line for line in lines[1:] if line[0] == name]
    if len(rows) != 1 or len(rows[0]) != len(lines[0]):
        return {}, []
    found: dict[str, float] = {}
    missing = []
    for heading, cell in zip(lines[0], rows[0], strict=True):
        try:
            number = float(cell) if cell.strip() else math.nan
        except ValueError:
            continue  # the model's name
        if math.isfinite(number):
            found[heading] = number
        else:
            missing.append(heading)
    return found, missing
