"""The experiment memory: campaigns, experiments, attempts, verdicts, trials, exchanges and what was learnt."""

import sqlalchemy as sa
from alembic import op

from memory.migrations.guards import Guard, install

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _campaigns() -> None:
    op.create_table(
        "campaigns",
        sa.Column("id", sa.String(length=300), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("state", sa.String(length=120), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("config_hash", sa.String(length=160), nullable=False),
        sa.Column("objective", sa.JSON(), nullable=False),
        sa.Column("objective_hash", sa.String(length=160), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("announcements", sa.JSON(), nullable=False),
        sa.Column("stopped_because", sa.Text(), nullable=True),
        sa.Column("arms", sa.JSON(), nullable=False),
        sa.Column("forked_from", sa.String(length=300), nullable=True),
        sa.Column("replay_of", sa.String(length=300), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('running', 'finished', 'stopped', 'failed')", name=op.f("ck_campaigns_state_is_known")
        ),
        sa.ForeignKeyConstraint(["forked_from"], ["campaigns.id"], name=op.f("fk_campaigns_forked_from")),
        sa.ForeignKeyConstraint(["replay_of"], ["campaigns.id"], name=op.f("fk_campaigns_replay_of")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaigns")),
        sa.UniqueConstraint("name", name=op.f("uq_campaigns_name")),
    )


def _programs() -> None:
    op.create_table(
        "programs",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("n_lines", sa.Integer(), nullable=False),
        sa.Column("l0", sa.String(length=160), nullable=False),
        sa.Column("literal_hash", sa.String(length=160), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_programs")),
    )
    op.create_index(op.f("ix_programs_l0"), "programs", ["l0"], unique=False)
    op.create_index(op.f("ix_programs_literal_hash"), "programs", ["literal_hash"], unique=False)


def _experiments() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", sa.String(length=300), nullable=False),
        sa.Column("campaign_id", sa.String(length=300), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("arm", sa.String(length=120), nullable=False),
        sa.Column("kind", sa.String(length=120), nullable=False),
        sa.Column("track", sa.String(length=120), nullable=False),
        sa.Column("tier", sa.String(length=120), nullable=False),
        sa.Column("status", sa.String(length=120), nullable=False),
        sa.Column("reason", sa.String(length=120), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("parent_id", sa.String(length=300), nullable=True),
        sa.Column("exemplar_ids", sa.JSON(), nullable=False),
        sa.Column("selection", sa.JSON(), nullable=False),
        sa.Column("selected_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hypothesis", sa.JSON(), nullable=True),
        sa.Column("program_sha256", sa.String(length=64), nullable=True),
        sa.Column("duplicate_of", sa.String(length=300), nullable=True),
        sa.Column("score", sa.Float(precision=53), nullable=True),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'open') = (finished_at IS NULL)", name=op.f("ck_experiments_finished_has_time")),
        sa.CheckConstraint("kind IN ('starter', 'proposal')", name=op.f("ck_experiments_kind_is_known")),
        sa.CheckConstraint(
            "status <> 'completed' OR (score IS NOT NULL AND program_sha256 IS NOT NULL)",
            name=op.f("ck_experiments_completed_has_score"),
        ),
        sa.CheckConstraint(
            "status <> 'duplicate' OR duplicate_of IS NOT NULL", name=op.f("ck_experiments_duplicate_has_original")
        ),
        sa.CheckConstraint(
            "status IN ('open', 'completed', 'rejected', 'duplicate', 'failed')",
            name=op.f("ck_experiments_status_is_known"),
        ),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_experiments_campaign_id")),
        sa.ForeignKeyConstraint(["duplicate_of"], ["experiments.id"], name=op.f("fk_experiments_duplicate_of")),
        sa.ForeignKeyConstraint(["parent_id"], ["experiments.id"], name=op.f("fk_experiments_parent_id")),
        sa.ForeignKeyConstraint(["program_sha256"], ["programs.sha256"], name=op.f("fk_experiments_program_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
        sa.UniqueConstraint("campaign_id", "index", name=op.f("uq_experiments_campaign_id_index")),
    )
    op.create_index("ix_experiments_campaign_id_status", "experiments", ["campaign_id", "status"], unique=False)
    op.create_index(op.f("ix_experiments_parent_id"), "experiments", ["parent_id"], unique=False)
    op.create_index(op.f("ix_experiments_program_sha256"), "experiments", ["program_sha256"], unique=False)


def _sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(length=300), nullable=False),
        sa.Column("campaign_id", sa.String(length=300), nullable=False),
        sa.Column("owner", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_sessions_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_campaign_id"), "sessions", ["campaign_id"], unique=False)


def _analyses() -> None:
    op.create_table(
        "analyses",
        sa.Column("experiment_id", sa.String(length=300), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiments.id"], name=op.f("fk_analyses_experiment_id")),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_analyses")),
    )


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("experiment_id", sa.String(length=300), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("origin", sa.String(length=120), nullable=False),
        sa.Column("edit", sa.Text(), nullable=False),
        sa.Column("hypothesis", sa.JSON(), nullable=True),
        sa.Column("program_sha256", sa.String(length=64), nullable=True),
        sa.Column("outcome", sa.String(length=120), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("origin IN ('proposal', 'repair', 'reproposal')", name=op.f("ck_attempts_origin_is_known")),
        sa.CheckConstraint(
            "outcome IN ('accepted', 'gate_failed', 'duplicate', 'malformed')",
            name=op.f("ck_attempts_outcome_is_known"),
        ),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiments.id"], name=op.f("fk_attempts_experiment_id")),
        sa.ForeignKeyConstraint(["program_sha256"], ["programs.sha256"], name=op.f("fk_attempts_program_sha256")),
        sa.PrimaryKeyConstraint("experiment_id", "number", name=op.f("pk_attempts")),
    )
    op.create_index(op.f("ix_attempts_program_sha256"), "attempts", ["program_sha256"], unique=False)


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("campaign_id", sa.String(length=300), nullable=False),
        sa.Column("experiment_id", sa.String(length=300), nullable=True),
        sa.Column("kind", sa.String(length=120), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_events_campaign_id")),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiments.id"], name=op.f("fk_events_experiment_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_campaign_id_id", "events", ["campaign_id", "id"], unique=False)


def _exchanges() -> None:
    op.create_table(
        "exchanges",
        sa.Column("id", sa.String(length=300), nullable=False),
        sa.Column("experiment_id", sa.String(length=300), nullable=False),
        sa.Column("role", sa.String(length=120), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("request_key", sa.String(length=160), nullable=False),
        sa.Column("template_hashes", sa.JSON(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("response", sa.JSON(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("usage_estimated", sa.Boolean(), nullable=False),
        sa.Column("cost_usd", sa.Float(precision=53), nullable=True),
        sa.Column("latency_s", sa.Float(precision=53), nullable=False),
        sa.Column("finish_reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiments.id"], name=op.f("fk_exchanges_experiment_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exchanges")),
        sa.UniqueConstraint(
            "experiment_id", "role", "attempt", "turn", name=op.f("uq_exchanges_experiment_id_role_attempt_turn")
        ),
    )
    op.create_index(op.f("ix_exchanges_request_key"), "exchanges", ["request_key"], unique=False)


def _findings() -> None:
    op.create_table(
        "findings",
        sa.Column("id", sa.String(length=300), nullable=False),
        sa.Column("campaign_id", sa.String(length=300), nullable=False),
        sa.Column("experiment_id", sa.String(length=300), nullable=False),
        sa.Column("baseline_id", sa.String(length=300), nullable=False),
        sa.Column("statistics", sa.JSON(), nullable=False),
        sa.Column("claim_objective_hash", sa.String(length=160), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["baseline_id"], ["experiments.id"], name=op.f("fk_findings_baseline_id")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_findings_campaign_id")),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiments.id"], name=op.f("fk_findings_experiment_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_findings")),
        sa.UniqueConstraint(
            "experiment_id",
            "baseline_id",
            "claim_objective_hash",
            name=op.f("uq_findings_experiment_id_baseline_id_claim_objective_hash"),
        ),
    )
    op.create_index(op.f("ix_findings_campaign_id"), "findings", ["campaign_id"], unique=False)


def _identities() -> None:
    op.create_table(
        "identities",
        sa.Column("campaign_id", sa.String(length=300), nullable=False),
        sa.Column("level", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=160), nullable=False),
        sa.Column("experiment_id", sa.String(length=300), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_identities_campaign_id")),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiments.id"], name=op.f("fk_identities_experiment_id")),
        sa.PrimaryKeyConstraint("campaign_id", "level", "key", name=op.f("pk_identities")),
    )
    op.create_index(op.f("ix_identities_experiment_id"), "identities", ["experiment_id"], unique=False)


def _lessons() -> None:
    op.create_table(
        "lessons",
        sa.Column("id", sa.String(length=300), nullable=False),
        sa.Column("campaign_id", sa.String(length=300), nullable=False),
        sa.Column("experiment_id", sa.String(length=300), nullable=False),
        sa.Column("claim", sa.Text(), nullable=False),
        sa.Column("level", sa.String(length=120), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("retired_by", sa.String(length=300), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("level IN ('observed', 'ablated', 'replicated')", name=op.f("ck_lessons_level_is_known")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_lessons_campaign_id")),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiments.id"], name=op.f("fk_lessons_experiment_id")),
        sa.ForeignKeyConstraint(["retired_by"], ["experiments.id"], name=op.f("fk_lessons_retired_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lessons")),
    )
    op.create_index(op.f("ix_lessons_campaign_id"), "lessons", ["campaign_id"], unique=False)
    op.create_index(op.f("ix_lessons_experiment_id"), "lessons", ["experiment_id"], unique=False)


def _trials() -> None:
    op.create_table(
        "trials",
        sa.Column("id", sa.String(length=300), nullable=False),
        sa.Column("experiment_id", sa.String(length=300), nullable=False),
        sa.Column("task", sa.String(length=120), nullable=False),
        sa.Column("tier", sa.String(length=120), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.String(length=120), nullable=False),
        sa.Column("objective_hash", sa.String(length=160), nullable=False),
        sa.Column("state", sa.String(length=120), nullable=False),
        sa.Column("reason", sa.String(length=120), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("score", sa.Float(precision=53), nullable=True),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("curve", sa.JSON(), nullable=False),
        sa.Column("log", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("device_s", sa.Float(precision=53), nullable=False),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'open') = (finished_at IS NULL)", name=op.f("ck_trials_finished_has_time")),
        sa.CheckConstraint("data IN ('selection', 'claim')", name=op.f("ck_trials_data_is_known")),
        sa.CheckConstraint("state IN ('open', 'completed', 'failed')", name=op.f("ck_trials_state_is_known")),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiments.id"], name=op.f("fk_trials_experiment_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
        sa.UniqueConstraint(
            "experiment_id", "task", "tier", "seed", "data", name=op.f("uq_trials_experiment_id_task_tier_seed_data")
        ),
    )


def _verdicts() -> None:
    op.create_table(
        "verdicts",
        sa.Column("experiment_id", sa.String(length=300), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("gate", sa.String(length=120), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(length=120), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["experiment_id"], ["experiments.id"], name=op.f("fk_verdicts_experiment_id")),
        sa.PrimaryKeyConstraint("experiment_id", "attempt", "position", name=op.f("pk_verdicts")),
    )


CAMPAIGNS = Guard(
    "campaigns",
    keys=(("id",), ("name",)),
    final="{old}.state = 'finished'",
    fixed=(
        "id",
        "name",
        "config",
        "config_hash",
        "objective",
        "objective_hash",
        "seed",
        "arms",
        "forked_from",
        "replay_of",
        "created_at",
    ),
)
EXPERIMENTS = Guard(
    "experiments",
    keys=(("id",), ("campaign_id", "index")),
    final="{old}.status <> 'open'",
    fixed=("id", "campaign_id", "index", "arm", "kind", "track", "tier", "created_at"),
    once={"selected_at": ("selected_at", "parent_id", "exemplar_ids", "selection")},
)
IDENTITIES = Guard("identities", keys=(("campaign_id", "level", "key"),))
GUARDS = (
    CAMPAIGNS,
    Guard(
        "sessions",
        keys=(("id",),),
        final="{old}.ended_at IS NOT NULL",
        fixed=("id", "campaign_id", "owner", "started_at"),
    ),
    Guard("programs", keys=(("sha256",),)),
    EXPERIMENTS,
    Guard(
        "attempts",
        keys=(("experiment_id", "number"),),
        final="{old}.outcome IS NOT NULL",
        fixed=("experiment_id", "number", "origin", "edit", "created_at"),
        once={"hypothesis": ("hypothesis",), "program_sha256": ("program_sha256",)},
    ),
    IDENTITIES,
    Guard("verdicts", keys=(("experiment_id", "attempt", "position"),)),
    Guard(
        "trials",
        keys=(("id",), ("experiment_id", "task", "tier", "seed", "data")),
        final="{old}.state <> 'open'",
        fixed=("id", "experiment_id", "task", "tier", "seed", "data", "objective_hash", "started_at"),
    ),
    Guard("exchanges", keys=(("id",), ("experiment_id", "role", "attempt", "turn"))),
    Guard("analyses", keys=(("experiment_id",),)),
    Guard(
        "lessons",
        keys=(("id",),),
        final="{old}.retired_by IS NOT NULL",
        fixed=("id", "campaign_id", "experiment_id", "claim", "body", "created_at"),
    ),
    Guard("findings", keys=(("id",), ("experiment_id", "baseline_id", "claim_objective_hash"))),
    Guard("events", keys=(("id",),)),
)


def upgrade() -> None:
    """Create every table, then the guards."""
    _campaigns()
    _programs()
    _experiments()
    _sessions()
    _analyses()
    _attempts()
    _events()
    _exchanges()
    _findings()
    _identities()
    _lessons()
    _trials()
    _verdicts()
    install(GUARDS)
