"""The lineage as one self-contained HTML page: no network, no script from elsewhere, everything escaped.

A program or a hypothesis may hold `</script>` or markup: text goes through Jinja2's autoescape, and the page's data
is JSON whose `<`, `>` and `&` are written as escapes, in a block that the browser does not execute.

Notable: the page draws only the rows in sight, so that ten thousand experiments scroll; beyond `DETAILED` of them,
programs, trials and gates are in the page for the best and what leads to them only, and the page says so.
Not covered: prompts and replies, which stay in the store.
"""

import json
from collections.abc import Collection
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from memory.lineage import Forest, gain_over
from memory.records import Campaign, Experiment
from memory.store import Store
from move37 import views
from move37.report.pruning import prune

DETAILED = 400
_TRIAL = ("task", "seed", "state", "reason", "message", "score", "metrics", "curve")


def lineage_html(store: Store, campaign: Campaign, forest: Forest | None = None, shown: Collection[str] = ()) -> str:
    """The page of a campaign, or of those experiments of a forest whose ids are `shown`.

    Raises:
        LineageCycle: some experiments descend from themselves.
    """
    forest = forest or Forest(store.experiments(campaign.id))
    chosen = set(shown) or {one.id for one in forest.experiments}
    experiments = [one for one in forest.experiments if one.id in chosen]
    best = views.best_of(experiments)
    detailed = {one.id for one in prune(forest, chosen, limit=DETAILED).experiments}
    nodes = [_node(store, forest, one, detailed=one.id in detailed) for one in experiments]
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


def _node(store: Store, forest: Forest, experiment: Experiment, *, detailed: bool) -> dict[str, Any]:
    """What the page needs of an experiment; what is not `detailed` has no program, trials, gates and analysis."""
    parent = forest.parent(experiment.id)
    node = views.node(experiment) | {
        "detailed": detailed,
        "message": experiment.message,
        "hypothesis": experiment.hypothesis,
        "parent_score": parent.score if parent else None,
        "gain": gain_over(parent, experiment),
        "program": None,
        "analysis": None,
        "trials": [],
        "attempts": [],
    }
    if not detailed:
        return node
    analysis = store.analysis(experiment.id)
    attempts = store.attempts(experiment.id) if experiment.attempts else []
    return node | {
        "program": store.program(experiment.program_sha256).source if experiment.program_sha256 else None,
        "analysis": analysis.body if analysis else None,
        "trials": [{key: getattr(trial, key) for key in _TRIAL} for trial in store.trials(experiment.id)],
        "attempts": [
            {
                "number": attempt.number,
                "origin": attempt.origin,
                "outcome": attempt.outcome,
                "verdicts": [
                    {key: getattr(verdict, key) for key in ("gate", "passed", "reason", "message")}
                    for verdict in store.verdicts(experiment.id, attempt.number)
                ],
            }
            for attempt in attempts
        ],
    }


def _embedded(value: Any) -> Markup:
    """JSON that cannot leave its script block."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704 - escaped


@cache
def _template() -> Template:
    environment = Environment(loader=PackageLoader("move37.report"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("lineage.html.j2")
