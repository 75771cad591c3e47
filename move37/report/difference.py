"""`move37 diff` as lines of text: the scores, what changed in structure place by place, the unified diff."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from move37.report.lineage import Line, interval, many, one_line
from move37.report.text import plain, score

_MARKS = {"came": ("+", "green"), "went": ("-", "red"), "moved": (">", "cyan"), "changed": ("~", "yellow")}
_RENAMED = ("=", "magenta")
_LONGEST = 100  # characters of one component


def difference_lines(data: Mapping[str, Any]) -> list[Line]:
    """Everything that was asked for."""
    lines = [*_side("a", data["a"]), *_side("b", data["b"])]
    if data["identical"]:
        lines.append([("the two programs are the same text", "bold")])
    if data["metrics"] is not None:
        lines += [[("b against a  ", "bold"), *interval(data["metrics"])]]
        for task, delta in sorted(data["metrics"]["tasks"].items()):
            lines.append([(f"{plain(task):>24}  {score(delta['before'])} → {score(delta['after'])}  ", "")])
            lines[-1] += interval(delta)
    if data["structural"] is not None:
        lines += [[], *_structural(data["structural"])]
    if data["textual"] is not None:
        lines += [[], *_textual(data["textual"])]
    return lines


def _side(name: str, side: Mapping[str, Any]) -> list[Line]:
    line: Line = [(f"{name}  ", "dim"), (plain(side["label"]), "bold")]
    node = side["experiment"]
    if node is not None:
        line.append((f"  {score(node['score'])} {one_line(node['name'])} ({node['status']})", ""))
    lines = [line]
    if side["missing"]:
        lines.append([(f"   {plain(side['missing'])}", "yellow")])
    return lines


def _structural(data: Mapping[str, Any]) -> list[Line]:
    if not data["available"]:
        return [[("structure: not compared. ", "bold"), (plain(data["reason"]), "yellow")]]
    counts = ", ".join(f"{count} {what}" for what, count in data["counts"].items() if count)
    lines: list[Line] = [[("structure: ", "bold"), (f"{counts or 'no change'}; {data['same']} the same", "")]]
    for place, changes in groupby(_by_place(data["changes"]), key=_place):
        lines.append([(plain(place) or "top level", "bold")])
        lines += _changes(list(changes))
    return lines


def _by_place(changes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Changes of one place together, places in the order in which they first appear."""
    first: dict[str, int] = {}
    for change in changes:
        first.setdefault(_place(change), len(first))
    return sorted(changes, key=lambda change: first[_place(change)])


def _place(change: Mapping[str, Any]) -> str:
    return str((change["after"] or change["before"])["where"])


def _changes(changes: Sequence[Mapping[str, Any]]) -> list[Line]:
    """A line per change; operations that came (or went) one after the other share a line."""
    lines: list[Line] = []
    for (what, is_operation), group in groupby(changes, key=lambda c: (c["what"], c["kind"] == "operation")):
        mark, style = _MARKS.get(what, _RENAMED)
        if is_operation and what in {"came", "went"}:
            steps = ", ".join(_said(change["after"] or change["before"]) for change in group)
            lines.append([(f"  {mark} computes {steps}", style)])
            continue
        lines += [[(f"  {mark} {_change(change)}", style)] for change in group]
    return lines


def _change(change: Mapping[str, Any]) -> str:
    before, after, kind = change["before"], change["after"], change["kind"]
    if before is None or after is None:
        return f"{kind} {_said(after or before)}"
    if change["what"] == "renamed":
        return f"{kind} {plain(before['name'])} is now {plain(after['name'])}"
    if change["what"] == "moved":
        if before["where"] == after["where"]:
            return f"{kind} {_said(after)}, from place {before['position'] + 1} to {after['position'] + 1}"
        return f"{kind} {_said(after)}, from {plain(before['where']) or 'the top level'}"
    kinds = kind if before["kind"] == after["kind"] else f"{before['kind']} → {after['kind']}"
    return f"{kinds} {plain(after['name'])}: {_cut(before['value'])} → {_cut(after['value'])}"


def _said(component: Mapping[str, Any]) -> str:
    name, value = plain(component["name"]), component["value"]
    if component["kind"] == "stage":
        return _cut(value)
    if component["kind"] in {"operation", "class", "function"}:
        return f"{name}({_cut(value)})" if value else name
    return f"{name} = {_cut(value)}" if value else name


def _cut(text: str) -> str:
    shown = one_line(text)
    return (shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…") or "nothing"


def _textual(data: Mapping[str, Any]) -> list[Line]:
    if not data["available"]:
        return [[("text: not compared. ", "bold"), (plain(data["reason"]), "yellow")]]
    head: Line = [("text: ", "bold"), (f"{many(data['added'], 'line')} added, {data['removed']:,} removed", "")]
    styles = {"+": "green", "-": "red", "@": "cyan"}
    return [head, *([(plain(line), styles.get(line[:1], ""))] for line in data["lines"])]
