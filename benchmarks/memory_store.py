"""A store of any size with rows as a campaign writes them, for the benchmarks of the experiment memory.

What is realistic: columns filled as real campaigns fill them (lengths read off one), a distinct program of 250 lines
per experiment, ten verdicts, five trials with metrics, curve and environment, three exchanges with their ledger
entries, an analysis, a lesson, identities at three levels; half of the experiments complete, the rest end as
duplicates, rejected or failed; parents are drawn among the best so far, so that lineages are long and bushy.
What is not: prompts are cut to 1 kB (real ones have 18 kB, three times per experiment), the hashes of programs are made
up, and rows are written in bulk.

Rows go straight to the tables, past the store's checks but not past the database's.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import insert

from memory import models
from memory.database import Database
from memory.store import open_store
from move37.config import CampaignConfig

Rows = dict[type[models.Base], list[dict[str, Any]]]

TASKS = ("recall", "mqar", "selective_copying", "noisy_recall", "state_tracking")
GATES = ("size", "syntax", "imports", "names", "contract", "identity", "shape", "causality", "gradient", "cost")
PROMPT_CHARACTERS = 1_000
_BATCH = 500
_BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
_LEADERS = 8
_PROSE = (
    "The core is exchanged and all else is kept. Each step of the delta rule is one gradient step on the squared error "
    "of recalling the value from its key: the state is an associative memory that corrects itself. "
)
_ENVIRONMENT = {
    "platform": "Linux-6.1-x86_64-with-glibc2.36",
    "processor": "AMD EPYC",
    "machine": "x86_64",
    "host_python": "3.11.7",
    "level": "container",
    "isolated": True,
    "flags_hash": "a16bad338dff0fe0",
    "hello": {"numpy": "2.4.6", "python": "3.11.7", "scorer": "3", "torch": "2.13.0+cpu", "threads": 1},
    "execution": {"device": "no accelerator; 1 CPU thread(s)", "precision": "float32", "step": "plain"},
}


@dataclass
class Plan:
    """One campaign: what is drawn while it is written."""

    name: str
    experiments: int
    id: str = ""
    leaders: list[tuple[float, str]] = field(default_factory=list)  # the best so far, ascending
    finished: list[str] = field(default_factory=list)


def plans(experiments: int, largest: int = 10_000) -> list[Plan]:
    """One campaign of `largest`, the rest in up to six of equal size."""
    first = min(largest, experiments)
    rest = experiments - first
    sizes = [first, *(rest // 6 + (number < rest % 6) for number in range(6))]
    return [Plan(f"scale{number}", size) for number, size in enumerate(sizes) if size]


def build(url: str, campaigns: Sequence[Plan]) -> Iterator[int]:
    """Write the campaigns, a stretch of each in turn; yields how many experiments there are after every batch."""
    _create(url, campaigns)
    database = Database(url, busy_timeout_s=30.0)
    written = 0
    for plan, indices in _turns(campaigns):
        rows: Rows = {}
        for index in indices:
            _experiment(rows, plan, index)
        with database.write() as session:
            for kind, values in rows.items():
                session.execute(insert(kind.__table__), values)
        written += len(indices)
        yield written
    database.close()


def program(number: int, lines: int = 250) -> str:
    """A program of so many lines that no other number gives."""
    body = [f"        x = self.f{line % 97}(x) * {number % 9973}" for line in range(lines - 6)]
    head = ["import torch", "from torch import nn", "", f"class Mixer{number}(nn.Module):", "    def forward(self, x):"]
    return "\n".join([*head, *body, "        return x", ""])


def hypothesis(rng: random.Random, index: int) -> dict[str, Any]:
    """About a kilobyte, as the researcher's are."""
    return {
        "title": f"Replace core {index % 89} by core {index % 71}",
        "mechanism": _PROSE * 2,
        "change": f"replace Core{index % 89} by Core{index % 71}",
        "design": f"every layer: Core{index % 71}(d_model, n_heads={rng.choice((1, 2, 4))}, kernel_size=4)",
        "predictions": [{"task": task, "direction": "up", "size": round(rng.random(), 2)} for task in TASKS[:3]],
        "refuted_by": "recall rising by less than 0.12 in the mean over seeds.",
    }


def _create(url: str, campaigns: Sequence[Plan]) -> None:
    store = open_store(url)
    for plan in campaigns:
        made = store.create_campaign(
            plan.name,
            config=CampaignConfig(experiments=plan.experiments, seed=7).model_dump(mode="json"),
            config_hash="c0",
            objective={"track": "sequence", "tier": "smoke", "tasks": list(TASKS)},
            objective_hash="o0",
            seed=7,
            arms=["starters", "agents"],
        )
        plan.id = made.id
        store.end_session(store.begin_session(made.id, {"pid": 1}).id)
    store.close()


def _turns(campaigns: Sequence[Plan]) -> Iterator[tuple[Plan, range]]:
    """Batches of the campaigns in turn, so that their rows lie as mixed as several running campaigns leave them."""
    for first in range(0, max(plan.experiments for plan in campaigns), _BATCH):
        for plan in campaigns:
            indices = range(first, min(first + _BATCH, plan.experiments))
            if indices:
                yield plan, indices


def _experiment(rows: Rows, plan: Plan, index: int) -> None:
    rng = random.Random(f"{plan.name}:{index}")
    key = f"{plan.name}-{index:04d}"
    now = _BEGIN + timedelta(seconds=40 * index)
    source = program(int.from_bytes(sha256(key.encode()).digest()[:5], "big"))
    sha = sha256(source.encode()).hexdigest()
    status = "completed" if index < 2 else rng.choices(_STATUSES, weights=(50, 20, 20, 10))[0]
    score = min(0.99, rng.gauss(0.3 + 0.4 * index / (index + 5_000), 0.1)) if status == "completed" else None
    leaders = [name for _, name in plan.leaders]
    parent = rng.choice(leaders[-_LEADERS:]) if index >= 2 else None
    text = hypothesis(rng, index)
    _add(
        rows,
        models.ProgramRow,
        sha256=sha,
        source=source,
        n_lines=250,
        l0=f"t1-{sha[:40]}",
        literal_hash=sha[:32],
        created_at=now,
    )
    _add(
        rows,
        models.ExperimentRow,
        id=key,
        campaign_id=plan.id,
        index=index,
        arm="agents" if parent else "starters",
        kind="proposal" if parent else "starter",
        track="sequence",
        tier="smoke",
        status=status,
        reason="ok" if status == "completed" else "causality" if status == "rejected" else status,
        message="" if status == "completed" else "the output at position 3 depends on position 7",
        parent_id=parent,
        exemplar_ids=leaders[-3:] if parent else [],
        selection={"rule": "exponential of the robust score", "candidates": 8, "rank": 1, "probability": rng.random()},
        selected_at=now,
        name=text["title"],
        hypothesis=text,
        program_sha256=sha,
        duplicate_of=rng.choice(plan.finished) if status == "duplicate" else None,
        equivalent_of=None,
        score=score,
        environment={"cost": {"parameters": 6420, "mixer_parameters": 2532, "mlp_hidden": 37, "length_exponent": 1.0}},
        created_at=now,
        finished_at=now + timedelta(seconds=30),
    )
    _attempt(rows, plan, key, sha, status, text, now)
    for number, role in enumerate(("researcher", "coder", "analyst")):
        _exchange(rows, plan, key, role, number, rng, now)
    if status == "completed":
        _trials(rows, plan, key, rng, now)
        _lesson(rows, plan, key, index, now)
    if score is not None:
        plan.leaders = sorted([*plan.leaders, (score, key)])[-4 * _LEADERS :]
    plan.finished.append(key)


_STATUSES = ("completed", "duplicate", "rejected", "failed")
_OUTCOMES = {"completed": "accepted", "failed": "accepted", "duplicate": "duplicate", "rejected": "gate_failed"}


def _attempt(rows: Rows, plan: Plan, key: str, sha: str, status: str, text: dict[str, Any], now: datetime) -> None:
    _add(
        rows,
        models.AttemptRow,
        experiment_id=key,
        number=1,
        origin="proposal",
        edit="",
        hypothesis=text,
        program_sha256=sha,
        outcome=_OUTCOMES[status],
        detail={"cost": {"parameters": 6420, "flops_per_token": 21056.0}},
        created_at=now,
        closed_at=now,
    )
    for position, gate in enumerate(GATES):
        _add(
            rows,
            models.VerdictRow,
            experiment_id=key,
            attempt=1,
            position=position,
            gate=gate,
            passed=True,
            reason="ok",
            message="",
            line=None,
            detail={},
        )
    if status != "duplicate":
        for level in ("L0", "L1", "L2"):
            held = f"{level}-{sha[:40]}"
            _add(
                rows,
                models.IdentityRow,
                campaign_id=plan.id,
                level=level,
                key=held,
                experiment_id=key,
                created_at=now,
            )


def _exchange(rows: Rows, plan: Plan, key: str, role: str, number: int, rng: random.Random, now: datetime) -> None:
    name = f"{key}/{role}/1/{number}"
    usage = {"prompt_tokens": 4500 + rng.randrange(500), "completion_tokens": 600 + rng.randrange(200)}
    prompt = rng.randbytes(PROMPT_CHARACTERS // 2).hex()
    _add(
        rows,
        models.ExchangeRow,
        id=name,
        experiment_id=key,
        role=role,
        attempt=1,
        turn=number,
        request_key=sha256(name.encode()).hexdigest(),
        template_hashes={role: "a" * 64},
        model="some-model",
        request={"messages": [{"role": "user", "content": prompt}]},
        response={"id": name, "finish": "stop"},
        text=_PROSE * 3,
        usage_estimated=False,
        cost_usd=0.004,
        latency_s=3.5,
        finish_reason="stop",
        created_at=now,
        **usage,
    )
    for kind, amount in {"calls": 1.0, **usage, "usd": 0.004}.items():
        _charge(rows, plan, key, kind, amount, name, now)


def _trials(rows: Rows, plan: Plan, key: str, rng: random.Random, now: datetime) -> None:
    for task in TASKS:
        name = f"{key}/{task}/smoke/0/selection"
        score = rng.random()
        _add(
            rows,
            models.TrialRow,
            id=name,
            experiment_id=key,
            task=task,
            tier="smoke",
            seed=0,
            data="selection",
            objective_hash="o0" * 32,
            state="completed",
            reason="ok",
            message="",
            score=score,
            metrics={f"metric_{number}": rng.random() for number in range(14)},
            curve=[
                {"fraction": part / 4, "step": 10 * part, "accuracy": rng.random(), "loss": rng.random()}
                for part in range(1, 5)
            ],
            log="",
            tries=1,
            device_s=18.0,
            environment=_ENVIRONMENT,
            started_at=now,
            finished_at=now,
        )
        _charge(rows, plan, key, "device_s", 18.0, name, now)


def _lesson(rows: Rows, plan: Plan, key: str, index: int, now: datetime) -> None:
    claim = f"Observed once: 'replace Core{index % 89} by Core{index % 71}' moved recall +0.043, beyond the noise."
    _add(rows, models.AnalysisRow, experiment_id=key, body={"summary": _PROSE * 3, "lesson": claim}, created_at=now)
    _add(
        rows,
        models.LessonRow,
        id=f"l-{sha256(key.encode()).hexdigest()[:16]}",
        campaign_id=plan.id,
        experiment_id=key,
        claim=claim,
        level="observed",
        body={"claim": claim, "change": f"replace Core{index % 89}", "effect": 0.01},
        retired_by=None,
        created_at=now,
    )


def _charge(rows: Rows, plan: Plan, key: str, kind: str, amount: float, source: str, now: datetime) -> None:
    _add(
        rows,
        models.ChargeRow,
        campaign_id=plan.id,
        experiment_id=key,
        kind=kind,
        amount=amount,
        source=source,
        created_at=now,
    )


def _add(rows: Rows, table: type[models.Base], /, **values: Any) -> None:
    rows.setdefault(table, []).append(values)
