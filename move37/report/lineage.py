"""The lineage as lines of text: the tree, a path with what every step gained, a common ancestor, the summary.

Notable: a line is a list of (text, style) pairs, written plainly to a file or a pipe and in colours to a terminal; what
a model wrote cannot control the terminal. Indentation ends at `DEEPEST_INDENT`, below which the depth is a number.
Not covered: what is shown (`move37.report.pruning`), the figures (`move37.tracing`).
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from move37.report.pruning import Hidden, Pruned
from move37.report.text import STYLES, plain, score

Line = list[tuple[str, str]]

DEEPEST_INDENT = 24
_SEEDS_ONLY = (
    "Intervals are over training seeds, on the data that the search selected on: a gain that was chosen for being "
    "large looks larger than it is. A claim needs fresh seeds and a re-run baseline."
)


def signed(value: float | None) -> str:
    """A difference with its sign and three decimals, or a dash."""
    return f"{value:+.3f}" if value is not None else "–"


def text_of(lines: Iterable[Line]) -> str:
    """The lines without styles."""
    return "".join("".join(text for text, _ in line).rstrip() + "\n" for line in lines)


def print_lines(lines: Sequence[Line]) -> None:
    """The lines on standard output, in colours on a terminal, where they are not wrapped but cut."""
    if not sys.stdout.isatty():
        sys.stdout.write(text_of(lines))
        return
    from rich.text import Text

    from move37.report.terminal import console

    out = console()
    for line in lines:
        out.print(Text.assemble(*line, no_wrap=True, overflow="ellipsis"))


def tree_lines(data: Mapping[str, Any], pruned: Pruned) -> list[Line]:
    """The forest: per experiment its score, gain over its parent, id, name, and why it has no score."""
    nodes = {node["id"]: node for node in data["nodes"]}
    best = data["best_path"][-1] if data["best_path"] else None
    below: dict[str | None, list[str]] = {}
    for one in pruned.experiments:
        below.setdefault(pruned.above[one.id], []).append(one.id)
    lines: list[Line] = [[(plain(data["campaign"]), "bold")]]
    waiting: list[tuple[str | Hidden, str, int, bool]] = []

    def put_below(over: str | None, stem: str, level: int) -> None:
        items: list[str | Hidden] = [*below.get(over, ()), *([pruned.hidden[over]] if over in pruned.hidden else [])]
        waiting.extend((item, stem, level, place == 0) for place, item in enumerate(reversed(items)))

    put_below(None, "", 0)
    while waiting:
        item, stem, level, last = waiting.pop()
        start: Line = [(stem + ("└─ " if last else "├─ ") + (f"{level}: " if level > DEEPEST_INDENT else ""), "dim")]
        if isinstance(item, Hidden):
            lines.append([*start, (_left_out(item), "dim")])
            continue
        node = nodes[item]
        skipped = pruned.above[item] != node["parent"] and node["depth"] > 0
        lines.append([*start, *_node(node, skipped=skipped, best=item == best)])
        put_below(item, stem if level >= DEEPEST_INDENT else stem + ("   " if last else "│  "), level + 1)
    if pruned.left_out:
        lines.append([(f"{many(pruned.left_out, 'experiment')} left out; --limit N shows more, 0 all", "dim")])
    return lines


def _left_out(hidden: Hidden) -> str:
    return f"… {hidden.count:,} more" + (f", best {score(hidden.best)}" if hidden.best is not None else "")


def _node(node: Mapping[str, Any], *, skipped: bool = False, best: bool = False) -> Line:
    style = STYLES[node["status"]]
    line: Line = [("⋯ ", "dim")] if skipped else []
    line.append((score(node["score"]), style))
    if node.get("gain") is not None:
        line.append((f" {signed(node['gain'])}", "dim"))
    line += [(f" {plain(node['id'])}", ""), (f" {one_line(node['name'])}", "bold" if best else "")]
    if node["status"] != "completed":
        reason = f": {one_line(node['reason'])}" if node["reason"] else ""
        line.append((f" {node['status']}{reason}", style))
    if best:
        line.append(("  ← best", "bold green"))
    return line


def path_lines(data: Mapping[str, Any]) -> list[Line]:
    """`--of`: the path from the root with every step's gain, per task too, and the gain since the root."""
    node, below = data["path"][-1], data["subtree"]
    lines: list[Line] = [[(f"{data['campaign']}: from the root to {node['id']}", "bold")]]
    lines += _steps(data["path"])
    share = "" if below["share_improving"] is None else f", {below['share_improving']:.0%} of the edges improve"
    best = below["best"]
    lines.append([])
    lines.append([(f"{many(data['siblings'], 'sibling')}, {many(below['descendants'], 'descendant')}", "")])
    if below["descendants"]:
        found = f"best of them {score(best['score'])} {best['id']}" if best["id"] else "none of them completed"
        lines[-1].append((f" down to {many(below['depth'], 'level')} below it, {found}{share}", ""))
    if any(step["delta"] and step["delta"]["low"] is not None for step in data["path"]):
        lines.append([(_SEEDS_ONLY, "dim")])
    return lines


def _steps(path: Sequence[Mapping[str, Any]]) -> list[Line]:
    lines: list[Line] = []
    previous = -1
    for step in path:
        if step["step"] != previous + 1:
            lines.append([(f"      … {step['step'] - previous - 1:,} steps left out; --limit 0 shows them", "dim")])
        previous = step["step"]
        line: Line = [(f"{step['step']:>4}  ", "dim"), *_node({**step, "gain": None})]
        if step["program_sha256"] is None:
            line.append(("  no program stored", "dim"))
        lines.append(line)
        if step["delta"] is None:
            continue
        lines.append([("        step ", "dim"), *interval(step["delta"])])
        if step["step"] > 1:
            lines[-1] += [("   since the first ", "dim"), *interval(step["cumulative"])]
        lines += [[(f"             {plain(task)} ", "dim"), *interval(delta)] for task, delta in _tasks(step["delta"])]
    return lines


def _tasks(delta: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The tasks that both were measured on, by name."""
    return sorted((task, found) for task, found in delta["tasks"].items() if found["delta"] is not None)


def interval(delta: Mapping[str, Any]) -> Line:
    """`+0.031 [+0.010, +0.052] 3 seeds`, or why there is no interval."""
    style = "" if delta["low"] is None or delta["low"] <= 0 <= delta["high"] else "green" if delta["low"] > 0 else "red"
    line: Line = [(signed(delta["delta"]), style)]
    if delta["low"] is None:
        return [*line, (f" ({plain(delta['reason']).partition(' for ')[0]})", "dim")]
    seeds = f"{delta['n']} seeds, {delta['confidence']:.0%}"
    return [*line, (f" [{signed(delta['low'])}, {signed(delta['high'])}]", style), (f" {seeds}", "dim")]


def common_lines(data: Mapping[str, Any]) -> list[Line]:
    """`--common`: the lowest common ancestor, both ways down from it, and the two against each other."""
    a, b, ancestor = data["a"], data["b"], data["ancestor"]
    if ancestor is None:
        lines: list[Line] = [[(f"{a['id']} and {b['id']} have no common ancestor: they come from different roots", "")]]
    else:
        lines = [[(f"{a['id']} and {b['id']} come from ", ""), (ancestor["id"], "bold")]]
        lines[0].append((f", {data['steps_a']} and {many(data['steps_b'], 'step')} above them", ""))
    for end, path in ((a, data["path_a"]), (b, data["path_b"])):
        lines += [[], [(f"to {end['id']}", "bold")], *_steps(path)]
    lines += [[], [(f"{b['id']} against {a['id']}: ", "bold"), *interval(data["comparison"])]]
    lines += [[(f"   {plain(task)} ", "dim"), *interval(delta)] for task, delta in _tasks(data["comparison"])]
    return lines


def summary_lines(data: Mapping[str, Any]) -> list[Line]:
    """`--summary`."""
    best = data["best"]
    statuses = ", ".join(f"{count:,} {status}" for status, count in data["statuses"].items())
    dangling = f", {data['dangling_roots']} of them name a parent that is not here" if data["dangling_roots"] else ""
    share = f" ({data['improving_edges'] / data['scored_edges']:.1%})" if data["scored_edges"] else ""
    rows = [
        ("experiments", f"{data['nodes']:,} ({statuses})" if data["nodes"] else "none"),
        ("programs", f"no program stored of {data['without_program']:,}" if data["without_program"] else "all stored"),
        ("roots", f"{data['roots']:,}{dangling}"),
        ("deepest", f"{many(data['max_depth'], 'level')} below its root"),
        (
            "edges that improve",
            f"{data['improving_edges']:,} of {data['scored_edges']:,} with scores at both ends{share}",
        ),
    ]
    lines: list[Line] = [[(plain(data["campaign"]), "bold")]]
    lines += [[(f"{label:>20}  ", "dim"), (value, "")] for label, value in rows]
    if best is None:
        return [*lines, [(f"{'best':>20}  ", "dim"), ("none completed", "")]]
    reached = f"index {best['index']}, after {best['reached_after']:,} of {data['nodes']:,} experiments"
    lines.append(
        [(f"{'best':>20}  ", "dim"), (f"{score(best['score'])} {best['id']} {one_line(best['name'])}", "green")]
    )
    lines.append([(f"{'reached':>20}  ", "dim"), (f"{reached}, {many(best['depth'], 'level')} below its root", "")])
    lines += _listed("path to the best", data["best_path"], lambda one: "")
    lines += _listed("best so far, over time", data["records"], lambda one: f", index {one['index']}")
    lines += _listed(
        "most descendants",
        data["prolific"],
        lambda one: f": {many(one['descendants'], 'descendant')}, {one['children']:,} of them direct",
    )
    return lines


def _listed(title: str, rows: Sequence[Mapping[str, Any]], tail: Callable[[Mapping[str, Any]], str]) -> list[Line]:
    lines: list[Line] = [[(title, "bold")]]
    at_most = 12
    for place, one in enumerate(rows):
        if at_most // 2 <= place < len(rows) - at_most // 2 and len(rows) > at_most:
            if place == at_most // 2:
                lines.append([(f"   … {len(rows) - at_most:,} more", "dim")])
            continue
        lines.append(
            [(f"   {score(one['score'])}  ", "green"), (f"{one['id']} {one_line(one['name'])}{tail(one)}", "")]
        )
    return lines


def many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def one_line(text: object) -> str:
    return " ".join(plain(text).split())
