"""The lineage in Graphviz's DOT language."""

import json
from typing import Any

from move37.report.text import score

_COLOURS = {
    "completed": "#2b8a3e",
    "rejected": "#c92a2a",
    "duplicate": "#868e96",
    "failed": "#e8590c",
    "open": "#1971c2",
}


def lineage_dot(data: dict[str, Any]) -> str:
    """A digraph from parents to children; duplicates point at what they repeat with a dashed edge."""
    lines = [f"digraph {_quoted(data['campaign'])} {{", "  rankdir=LR;", '  node [shape=box, fontname="sans-serif"];']
    for node in data["nodes"]:
        label = f"{node['id']}\n{node['name']}\n{score(node['score'])} {node['status']}"
        lines.append(f"  {_quoted(node['id'])} [label={_quoted(label)}, color={_quoted(_COLOURS[node['status']])}];")
    for node in data["nodes"]:
        if node["parent"]:
            lines.append(f"  {_quoted(node['parent'])} -> {_quoted(node['id'])};")
        if node["duplicate_of"]:
            lines.append(f"  {_quoted(node['id'])} -> {_quoted(node['duplicate_of'])} [style=dashed];")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
