"""Writes the contexts of a stored campaign down, for the golden prompts of `test_role_prompts.py`.

    python -m move37 run --name recorded --tier micro --tasks recall,selective_copying --trial-seeds 0,1 --parallel 2 \
        --experiments 14 --seed 4 --runs-dir DIR
    python -m tests.agents.record_contexts DIR/move37.db recorded

The researcher's contexts of a combination and of a transfer, the analyst's and the coder's of the best experiment.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from agents.contexts import AnalysisContext, CodeContext, ResearchContext
from benchmarks.memory_scale import loop_of
from memory.store import open_store
from move37 import analysing, briefing, steps

FOLDER = Path(__file__).parent / "recorded"


def main(path: str, name: str) -> None:
    store = open_store(f"sqlite:///{path}", create=False)
    loop = loop_of(store, store.campaign(name))
    proposals = [e for e in store.experiments(loop.campaign.id) if e.kind == "proposal"]
    for mode in ("combine", "transfer"):
        found = [e for e in proposals if e.selection["mode"] == mode]
        if not found:  # `combine` takes a second parent above chance
            print(f"no experiment of mode {mode}: researcher_{mode}.json stays as it is", file=sys.stderr)
            continue
        latest = found[-1]
        evidence = asyncio.run(steps._evidence(loop, latest))
        _write(f"researcher_{mode}", ResearchContext, steps._fitted(loop, latest, evidence)[0])
    best = max((e for e in proposals if e.score is not None), key=lambda e: e.score or 0.0)
    hypothesis = briefing.hypothesis_of(store.attempts(best.id))
    _write("coder", CodeContext, briefing.code_context(store, loop.brief, best, hypothesis))
    _write("analyst", AnalysisContext, analysing.context(analysing.Case.of(loop, best)))
    store.close()


def _write(name: str, kind: type[Any], context: Any) -> None:
    data = TypeAdapter(kind).dump_json(context, indent=1)
    (FOLDER / f"{name}.json").write_bytes(data + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
