"""The lineage as one self-contained HTML page: no network, no script from elsewhere, everything escaped.

A program or a hypothesis may hold `</script>` or markup: text goes through Jinja2's autoescape, and the page's data
is JSON whose `<`, `>` and `&` are written as escapes, in a block that the browser does not execute.
"""

import json
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from memory.records import Campaign
from memory.store import Store
from move37 import views

_SHOWN = (
    "id", "parent", "name", "status", "reason", "message", "score", "parent_score", "kind", "change", "duplicate_of",
    "hypothesis", "program", "analysis", "index",
)  # fmt: skip


def lineage_html(store: Store, campaign: Campaign) -> str:
    """The page of a campaign."""
    experiments = store.experiments(campaign.id)
    best = views.best_of(experiments)
    nodes = [_node(store, views.show(store, e)) for e in experiments]
    return _template().render(
        campaign=campaign.name,
        objective_hash=campaign.objective_hash,
        notices=campaign.announcements,
        stopped_because=campaign.stopped_because or campaign.state,
        best=best.id if best else None,
        completed=sum(e.status == "completed" for e in experiments),
        total=len(experiments),
        data=_embedded({"best": best.id if best else None, "nodes": nodes}),
    )


def _node(store: Store, data: dict[str, Any]) -> dict[str, Any]:
    """What the page needs of an experiment; prompts stay in the store."""
    node = {key: data[key] for key in _SHOWN}
    node["trials"] = [
        {key: t[key] for key in ("task", "seed", "state", "reason", "message", "score", "metrics", "curve")}
        for t in data["trials"]
    ]
    node["attempts"] = [
        {
            "number": a["number"],
            "origin": a["origin"],
            "outcome": a["outcome"],
            "verdicts": [{k: v[k] for k in ("gate", "passed", "reason", "message")} for v in a["verdicts"]],
        }
        for a in data["attempts"]
    ]
    return node


def _embedded(value: Any) -> Markup:
    """JSON that cannot leave its script block."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704 - escaped


@cache
def _template() -> Template:
    environment = Environment(loader=PackageLoader("move37.report"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("lineage.html.j2")
