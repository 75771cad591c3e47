"""The lineage as a Mermaid flowchart, which GitHub and many editors draw.

Notable: a label is text between quotes in which everything but letters, digits and a few harmless signs is written as a
character's number, so that no name can end the label, start Markdown, or become markup on the page that draws it.
Not covered: size; Mermaid itself refuses more than 500 edges unless it is told otherwise.
"""

import re
from typing import Any

from move37.report.lineage import signed
from move37.report.text import plain, score

_CLASSES = {
    "completed": "stroke:#2b8a3e",
    "rejected": "stroke:#c92a2a",
    "duplicate": "stroke:#868e96",
    "failed": "stroke:#e8590c",
    "open": "stroke:#1971c2",
}
_NOT_PLAIN = re.compile(r"[^0-9A-Za-z \u00c0-\u024f.,:+–-]")


def lineage_mermaid(data: dict[str, Any]) -> str:
    """A flowchart from parents to children, edges labelled with the gain, the way to the best one thick.

    Duplicates and equivalents point at what they repeat with a dotted edge. Edges to experiments that are not among
    the nodes are left out.
    """
    keys = {node["id"]: f"n{number}" for number, node in enumerate(data["nodes"])}
    best = set(data.get("best_path", ()))
    lines = ["flowchart LR"]
    for node in data["nodes"]:
        parts = [
            node["id"],
            *([plain(node["name"])] if node["name"] else []),
            f"{score(node['score'])} {node['status']}",
        ]
        label = "<br/>".join(_escaped(part) for part in parts)
        lines.append(f'  {keys[node["id"]]}["{label}"]:::{node["status"]}')
    for node in data["nodes"]:
        key = keys[node["id"]]
        if node["parent"] in keys:
            arrow = "==>" if {node["id"], node["parent"]} <= best else "-->"
            label = f'|"{_escaped(signed(node["gain"]))}"|' if node.get("gain") is not None else ""
            lines.append(f"  {keys[node['parent']]} {arrow}{label} {key}")
        for original, said in ((node["duplicate_of"], "same program"), (node.get("equivalent_of"), "same function")):
            if original in keys:
                lines.append(f'  {key} -.->|"{said}"| {keys[original]}')
    lines += [f"  classDef {name} {style}" for name, style in _CLASSES.items()]
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    return _NOT_PLAIN.sub(lambda match: f"#{ord(match[0])};", text)
