"""The lineage in Graphviz's DOT language."""

import json
from typing import Any

from move37.report.lineage import signed
from move37.report.text import plain, score

_COLOURS = {
    "completed": "#2b8a3e",
    "rejected": "#c92a2a",
    "duplicate": "#868e96",
    "failed": "#e8590c",
    "open": "#1971c2",
}


def lineage_dot(data: dict[str, Any]) -> str:
    """A digraph from parents to children, edges labelled with the gain, the way to the best one bold.

    Duplicates point at what they repeat with a dashed edge, equivalents with a dotted one. Edges to experiments that
    are not among the nodes are left out, since Graphviz would make nodes of them.
    """
    lines = [f"digraph {_quoted(plain(data['campaign']))} {{", "  rankdir=LR;"]
    lines.append('  node [shape=box, fontname="sans-serif"];')
    shown = {node["id"] for node in data["nodes"]}
    best = set(data.get("best_path", ()))
    for node in data["nodes"]:
        label = _quoted(f"{node['id']}\n{plain(node['name'])}\n{score(node['score'])} {node['status']}")
        bold = ", penwidth=2.5" if node["id"] in best else ""
        lines.append(f"  {_quoted(node['id'])} [label={label}, color={_quoted(_COLOURS[node['status']])}{bold}];")
    for node in data["nodes"]:
        if node["parent"] in shown:
            style = _edge_style(node, bold=node["id"] in best and node["parent"] in best)
            lines.append(f"  {_quoted(node['parent'])} -> {_quoted(node['id'])}{style};")
        for original, style in ((node["duplicate_of"], "dashed"), (node.get("equivalent_of"), "dotted")):
            if original in shown:
                lines.append(f"  {_quoted(node['id'])} -> {_quoted(original)} [style={style}];")
    return "\n".join([*lines, "}", ""])


def _edge_style(node: dict[str, Any], *, bold: bool) -> str:
    parts = [f"label={_quoted(signed(node['gain']))}"] if node.get("gain") is not None else []
    parts += ["penwidth=2.5"] if bold else []
    return f" [{', '.join(parts)}]" if parts else ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
