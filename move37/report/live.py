"""What a campaign shows while it runs: a live table on a terminal, a line per event in a log."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from memory.records import Campaign, Experiment
from memory.store import Store
from move37.config import CampaignConfig
from move37.report.text import STYLES, plain, score
from move37.views import best_of

_ROWS = 12
_VERBS = {
    "research": "the researcher proposes",
    "code": "the coder writes",
    "gate": "gates",
    "trial": "training",
    "analyse": "the analyst explains",
}


class Live:
    """Shows progress on stderr, so that stdout stays for results. `quiet` shows only what went wrong."""

    def __init__(self, store: Store, config: CampaignConfig, *, quiet: bool = False) -> None:
        self._store = store
        self._campaign_id = ""
        self._config = config
        self._quiet = quiet
        self._console = Console(file=sys.stderr, highlight=False)
        self._now: dict[str, str] = {}
        self._started = time.monotonic()
        self._experiments: list[Experiment] = []
        self._live: RichLive | None = None

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            self._live = RichLive(console=self._console, get_renderable=self._table, refresh_per_second=4)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def begin(self, campaign: Campaign) -> None:
        """Takes the campaign's record, and what it holds already when it is resumed."""
        self._campaign_id = campaign.id
        self._experiments = self._store.experiments(campaign.id)

    def announce(self, notice: str) -> None:
        """Says something once, at the start."""
        if not self._quiet:
            self._console.print(f"[bold]{escape(self._config.name)}[/bold]: {escape(plain(notice))}", soft_wrap=True)

    def notify(self, kind: str, payload: dict[str, Any]) -> None:
        """Takes one event of the loop."""
        experiment = str(payload["experiment"])
        if kind == "recorded":
            self._now.pop(experiment, None)
            self._experiments = self._store.experiments(self._campaign_id)
            if self._live is None and not self._quiet:
                self._print_recorded(payload)
            return
        self._now[experiment] = self._doing(kind, payload)
        if self._live is None and not self._quiet and kind in {"refused", "scored"}:
            self._console.print(f"{experiment}: {self._now[experiment]}", soft_wrap=True, markup=False)

    def _doing(self, kind: str, payload: dict[str, Any]) -> str:
        where = f"{payload['task']}, seed {payload['seed']}" if "task" in payload else ""
        if kind == "progress":
            return f"training {where}: step {payload.get('step')}/{payload.get('steps')}"
        if kind == "scored":
            value = payload["score"]
            return f"{where}: {score(value) if value is not None else payload['reason']}"
        if kind == "refused":
            return f"attempt {payload['attempt']} refused by {payload['gate']}: {payload['reason']}"
        return f"{_VERBS.get(kind, kind)} {where}".strip()

    def _print_recorded(self, payload: dict[str, Any]) -> None:
        best = best_of(self._experiments)
        done = sum(e.status != "open" for e in self._experiments)
        status = payload["status"] if payload["status"] == "completed" else f"{payload['status']} ({payload['reason']})"
        line = (
            f"[{done}/{self._config.experiments}] {payload['experiment']} {score(payload['score'])} {status}: "
            f"{plain(payload['name'])} | best {score(best.score if best else None)} | {self._elapsed()}"
        )
        self._console.print(line, soft_wrap=True, markup=False)

    def _elapsed(self) -> str:
        seconds = int(time.monotonic() - self._started)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def _table(self) -> RenderableType:
        table = Table(box=SIMPLE_HEAD)
        for heading in ("experiment", "score", "what", ""):
            table.add_column(heading, overflow="ellipsis", no_wrap=True)
        for experiment in [e for e in self._experiments if e.status != "open"][-_ROWS:]:
            style = STYLES[experiment.status]
            origin = f"from {experiment.parent_id}" if experiment.parent_id else "starting program"
            tail = origin if experiment.status == "completed" else f"{experiment.status}: {experiment.reason}"
            table.add_row(
                escape(experiment.id),
                f"[{style}]{score(experiment.score)}[/{style}]",
                escape(plain(experiment.name)),
                escape(plain(tail)),
            )
        for name, doing in sorted(self._now.items()):
            table.add_row(f"[cyan]{escape(name)}[/cyan]", "", f"[cyan]{escape(doing)}[/cyan]", "")
        done = sum(e.status != "open" for e in self._experiments)
        best = best_of(self._experiments)
        bar = ProgressBar(total=self._config.experiments, completed=done, width=40)
        line = (
            f"{done} of {self._config.experiments} experiments, best {score(best.score if best else None)}, "
            f"{self._elapsed()} (Ctrl-C stops cleanly)"
        )
        return Group(table, bar, line)
