"""The lineage as GraphML, for Gephi, Cytoscape, yEd and anything else that reads graphs, written by networkx.

Notable: XML has no way to write control characters, lone surrogates and two others; they are written as their code
points. GraphML knows no null: an attribute that has no value, or no text, is left out.
"""

import re
from typing import Any

from move37.report.text import plain

_NOT_XML = re.compile("[\ud800-\udfff\ufffe\uffff]")
_ATTRIBUTES = ("name", "status", "reason", "score", "gain", "index", "depth", "descendants", "kind", "arm", "change")


def lineage_graphml(data: dict[str, Any]) -> str:
    """A directed graph: nodes with the fields of the JSON, edges with `kind` and `gain`."""
    import networkx as nx

    graph = nx.DiGraph(campaign=_text(data["campaign"]))
    best = set(data.get("best_path", ()))
    for node in data["nodes"]:
        values = {key: _value(node.get(key)) for key in _ATTRIBUTES if node.get(key) not in (None, "")}
        graph.add_node(node["id"], **values, on_best_path=node["id"] in best)
    for node in data["nodes"]:
        for original, kind in ((node.get("equivalent_of"), "equivalent"), (node["duplicate_of"], "duplicate")):
            if original in graph:
                graph.add_edge(original, node["id"], kind=kind)
        if node["parent"] in graph:  # last: where the two coincide, descent is what is kept
            gained = {} if node.get("gain") is None else {"gain": node["gain"]}
            graph.add_edge(node["parent"], node["id"], kind="parent", **gained)
    return "\n".join(nx.generate_graphml(graph)) + "\n"


def _value(value: Any) -> Any:
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    return _NOT_XML.sub(lambda match: f"\\u{ord(match[0]):04x}", plain(text))
