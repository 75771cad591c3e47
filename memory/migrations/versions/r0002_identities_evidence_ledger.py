"""Identities of programs at every level, evidence of lessons, uses of knowledge, embeddings, the ledger; imports and
forks.

`experiments` is made anew: SQLite cannot change a CHECK, and an imported experiment may be known by its score alone.
"""

import sqlalchemy as sa
from alembic import op

from memory.escaping import unescape
from memory.identity import TEXT_PREFIX, l0
from memory.migrations.guards import Guard, install, uninstall
from memory.migrations.versions import r0001_experiment_memory as before

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COMPLETED = "status <> 'completed' OR score IS NOT NULL"
_COMPLETED_BEFORE = "status <> 'completed' OR (score IS NOT NULL AND program_sha256 IS NOT NULL)"
_DUPLICATE = "status <> 'duplicate' OR duplicate_of IS NOT NULL OR equivalent_of IS NOT NULL"
_DUPLICATE_BEFORE = "status <> 'duplicate' OR duplicate_of IS NOT NULL"
_STANDING = 'campaign_id, status, score, "index"'
_READ_ONLY = "SELECT read_only FROM campaigns WHERE campaigns.id = NEW.campaign_id"

_CHARGES = (
    ("calls", "exchanges", "turn * 0 + 1", "turn IS NOT NULL"),
    ("prompt_tokens", "exchanges", "prompt_tokens", "prompt_tokens <> 0"),
    ("completion_tokens", "exchanges", "completion_tokens", "completion_tokens <> 0"),
    ("usd", "exchanges", "cost_usd", "cost_usd IS NOT NULL"),
    ("device_s", "trials", "device_s", "device_s <> 0"),
)

_KEY_COLUMNS = ("program_sha256", "level", "scope", "key", "reason", "cost_s", "created_at")
_IDENTITIES = sa.table("identities", *map(sa.column, ("campaign_id", "level", "key", "experiment_id", "created_at")))

CAMPAIGNS = Guard(
    "campaigns",
    keys=(("id",), ("name",)),
    final="{old}.state = 'finished'",
    fixed=(*before.CAMPAIGNS.fixed, "forked_at", "origin"),
)
NEW_GUARDS = (
    Guard("program_keys", keys=(("program_sha256", "level", "scope"),)),
    Guard("lesson_evidence", keys=(("lesson_id", "experiment_id"),)),
    Guard("knowledge_uses", keys=(("experiment_id", "entry"),)),
    Guard("vectors", keys=(("kind", "key", "encoder"),)),
    Guard("ledger", keys=(("id",),)),
    Guard(
        "ledger_totals",
        keys=(("campaign_id", "kind"),),
        final="NEW.entries <> {old}.entries + 1",
        fixed=("campaign_id", "kind"),
    ),
)


def _new_tables() -> None:
    op.create_table(
        "program_keys",
        sa.Column("program_sha256", sa.String(64), sa.ForeignKey("programs.sha256"), nullable=False),
        sa.Column("level", sa.String(16), nullable=False),
        sa.Column("scope", sa.String(120), nullable=False),
        sa.Column("key", sa.String(160), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("cost_s", sa.Float(53), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("program_sha256", "level", "scope", name="pk_program_keys"),
    )
    op.create_index("ix_program_keys_key", "program_keys", ["key"])
    op.create_table(
        "lesson_evidence",
        sa.Column("lesson_id", sa.String(300), sa.ForeignKey("lessons.id"), nullable=False),
        sa.Column("experiment_id", sa.String(300), sa.ForeignKey("experiments.id"), nullable=False),
        sa.Column("stance", sa.String(120), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("stance IN ('supports', 'contradicts')", name=op.f("ck_lesson_evidence_stance_is_known")),
        sa.PrimaryKeyConstraint("lesson_id", "experiment_id", name="pk_lesson_evidence"),
    )
    op.create_index("ix_lesson_evidence_experiment_id", "lesson_evidence", ["experiment_id"])
    op.create_table(
        "knowledge_uses",
        sa.Column("experiment_id", sa.String(300), sa.ForeignKey("experiments.id"), nullable=False),
        sa.Column("entry", sa.String(120), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("experiment_id", "entry", name="pk_knowledge_uses"),
    )
    op.create_index("ix_knowledge_uses_entry", "knowledge_uses", ["entry"])
    op.create_table(
        "vectors",
        sa.Column("kind", sa.String(120), nullable=False),
        sa.Column("key", sa.String(300), nullable=False),
        sa.Column("encoder", sa.String(120), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("kind", "key", "encoder", name="pk_vectors"),
    )
    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("campaign_id", sa.String(300), sa.ForeignKey("campaigns.id"), nullable=False),
        sa.Column("experiment_id", sa.String(300), sa.ForeignKey("experiments.id"), nullable=False),
        sa.Column("kind", sa.String(120), nullable=False),
        sa.Column("amount", sa.Float(53), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "kind IN ('calls', 'prompt_tokens', 'completion_tokens', 'usd', 'device_s')",
            name=op.f("ck_ledger_kind_is_known"),
        ),
    )
    op.create_index("ix_ledger_campaign_id_kind", "ledger", ["campaign_id", "kind"])
    op.create_table(
        "ledger_totals",
        sa.Column("campaign_id", sa.String(300), sa.ForeignKey("campaigns.id"), nullable=False),
        sa.Column("kind", sa.String(120), nullable=False),
        sa.Column("amount", sa.Float(53), nullable=False),
        sa.Column("entries", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("campaign_id", "kind", name="pk_ledger_totals"),
    )


def _fill_ledger() -> None:
    """What was charged before there was a ledger, from the rows that it was charged for."""
    for kind, table, column, condition in _CHARGES:
        when = "t.created_at" if table == "exchanges" else "t.started_at"
        op.execute(
            f"INSERT INTO ledger (campaign_id, experiment_id, kind, amount, source, created_at) "  # noqa: S608 - constants
            f"SELECT e.campaign_id, e.id, '{kind}', t.{column}, t.id, {when} FROM {table} AS t "
            f"JOIN experiments AS e ON e.id = t.experiment_id WHERE t.{condition} ORDER BY {when}, t.id"
        )


def _hash_texts_anew() -> None:
    """L0 became stricter, and its keys got another prefix: a campaign that goes on has to recognise what it tried.

    The new keys stand beside the old ones, which nothing asks for any more.
    """
    connection = op.get_bind()
    programs = sa.table("programs", *map(sa.column, ("sha256", "source", "l0", "created_at")))
    keys = sa.table("program_keys", *map(sa.column, _KEY_COLUMNS))
    anew: dict[str, set[str]] = {}
    for row in connection.execute(sa.select(programs)).all():
        key = l0(unescape(row.source))
        anew.setdefault(row.l0, set()).add(key)
        values = (row.sha256, "L0", "", key, "", 0.0, row.created_at)
        connection.execute(sa.insert(keys).values(dict(zip(_KEY_COLUMNS, values, strict=True))))
    held = connection.execute(sa.select(_IDENTITIES).where(_IDENTITIES.c.level == "L0")).all()
    taken = {(row.campaign_id, row.key) for row in held}
    for row in held:
        for key in sorted(anew.get(row.key, ())):
            if (row.campaign_id, key) not in taken:
                taken.add((row.campaign_id, key))
                connection.execute(sa.insert(_IDENTITIES).values(**{**row._asdict(), "key": key}))


def _forget_new_hashes() -> None:
    """Takes away the keys that `_hash_texts_anew` added beside others of the same experiment."""
    older = _IDENTITIES.alias()
    beside = sa.exists().where(
        older.c.campaign_id == _IDENTITIES.c.campaign_id,
        older.c.experiment_id == _IDENTITIES.c.experiment_id,
        older.c.level == "L0",
        older.c.key.not_like(f"{TEXT_PREFIX}%"),
    )
    op.get_bind().execute(
        sa.delete(_IDENTITIES).where(_IDENTITIES.c.level == "L0", _IDENTITIES.c.key.like(f"{TEXT_PREFIX}%"), beside)
    )


def _keep_totals(dialect: str) -> None:
    """Each entry of the ledger adds to its total, in the same transaction; what was filled in counts from the start."""
    op.execute(
        "INSERT INTO ledger_totals (campaign_id, kind, amount, entries) "
        "SELECT campaign_id, kind, SUM(amount), COUNT(*) FROM ledger GROUP BY campaign_id, kind"
    )
    if dialect == "sqlite":  # an upsert would meet the guard against replacing
        op.execute(
            "CREATE TRIGGER ledger_adds_up AFTER INSERT ON ledger FOR EACH ROW BEGIN "
            "INSERT INTO ledger_totals SELECT NEW.campaign_id, NEW.kind, 0.0, 0 WHERE NOT EXISTS "
            "(SELECT 1 FROM ledger_totals WHERE campaign_id = NEW.campaign_id AND kind = NEW.kind); "
            "UPDATE ledger_totals SET amount = amount + NEW.amount, entries = entries + 1 "
            "WHERE campaign_id = NEW.campaign_id AND kind = NEW.kind; END"
        )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION move37_ledger_adds_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO ledger_totals AS t VALUES (NEW.campaign_id, NEW.kind, NEW.amount, 1) "
        "ON CONFLICT (campaign_id, kind) DO UPDATE SET amount = t.amount + excluded.amount, entries = t.entries + 1; "
        "RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER ledger_adds_up AFTER INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION move37_ledger_adds_up()"
    )


def _stop_totals(dialect: str) -> None:
    op.execute("DROP TRIGGER ledger_adds_up" + ("" if dialect == "sqlite" else " ON ledger"))
    if dialect != "sqlite":
        op.execute("DROP FUNCTION move37_ledger_adds_up()")


def _index(columns: str, *, instead_of: str, name: str) -> None:
    """One index instead of another: counting and the best score read this one and never the rows."""
    op.execute(f"DROP INDEX {instead_of}")
    op.execute(f"CREATE INDEX {name} ON experiments ({columns})")


def _campaigns(dialect: str) -> None:
    uninstall(before.CAMPAIGNS)
    for column in (
        "origin JSON",
        "read_only BOOLEAN NOT NULL DEFAULT false",
        "forked_at VARCHAR(300) CONSTRAINT fk_campaigns_forked_at REFERENCES experiments (id)",
    ):
        op.execute(f"ALTER TABLE campaigns ADD COLUMN {column}")
    install((CAMPAIGNS,))


def _experiments(dialect: str, *, completed: str, duplicate: str, equivalent: bool) -> None:
    """The table with other CHECKs, and with or without `equivalent_of`."""
    if dialect != "sqlite":
        for name in ("completed_has_score", "duplicate_has_original"):
            op.execute(f"ALTER TABLE experiments DROP CONSTRAINT ck_experiments_{name}")
        if equivalent:
            op.execute(
                "ALTER TABLE experiments ADD COLUMN equivalent_of VARCHAR(300) "
                "CONSTRAINT fk_experiments_equivalent_of REFERENCES experiments (id)"
            )
        else:
            op.execute("ALTER TABLE experiments DROP COLUMN equivalent_of")
        op.execute(f"ALTER TABLE experiments ADD CONSTRAINT ck_experiments_completed_has_score CHECK ({completed})")
        op.execute(f"ALTER TABLE experiments ADD CONSTRAINT ck_experiments_duplicate_has_original CHECK ({duplicate})")
        return
    connection = op.get_bind()
    [(ddl,)] = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'experiments'").all()
    olds = connection.exec_driver_sql(
        "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'experiments' AND sql IS NOT NULL"
    ).all()
    columns = [row[1] for row in connection.exec_driver_sql("PRAGMA table_info(experiments)")]
    kept = ", ".join(f'"{name}"' for name in columns if name != "equivalent_of")
    ddl = ddl.replace("CREATE TABLE experiments", "CREATE TABLE experiments_anew").replace(
        'CREATE TABLE "experiments"', "CREATE TABLE experiments_anew"
    )
    for pair in ((_COMPLETED, _COMPLETED_BEFORE), (_DUPLICATE, _DUPLICATE_BEFORE)):
        wanted = completed if completed in pair else duplicate
        other = pair[1] if wanted == pair[0] else pair[0]
        ddl = ddl.replace(f"({other})", f"({wanted})")
    line = "\n\tequivalent_of VARCHAR(300) CONSTRAINT fk_experiments_equivalent_of REFERENCES experiments (id),"
    ddl = ddl.replace("\n\tscore ", f"{line}\n\tscore ", 1) if equivalent else ddl.replace(line, "", 1)
    op.execute(ddl)
    op.execute(f"INSERT INTO experiments_anew ({kept}) SELECT {kept} FROM experiments ORDER BY rowid")  # noqa: S608
    op.execute("DROP TABLE experiments")
    op.execute("ALTER TABLE experiments_anew RENAME TO experiments")
    for (index,) in olds:
        op.execute(index)


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    if dialect != "sqlite":
        uninstall(before.EXPERIMENTS)
    _experiments(dialect, completed=_COMPLETED, duplicate=_DUPLICATE, equivalent=True)
    _index(_STANDING, instead_of="ix_experiments_campaign_id_status", name="ix_experiments_standing")
    install((before.EXPERIMENTS,))
    _campaigns(dialect)
    _new_tables()
    _hash_texts_anew()
    _fill_ledger()
    _keep_totals(dialect)
    install(NEW_GUARDS)
    _close_imports(dialect)


def downgrade() -> None:
    """Back to 0001. Refused where 0001 could not hold what is there."""
    connection = op.get_bind()
    beyond = connection.exec_driver_sql(
        "SELECT id FROM experiments WHERE (status = 'completed' AND program_sha256 IS NULL) "
        "OR (status = 'duplicate' AND duplicate_of IS NULL)"
    ).first()
    if beyond is not None:
        raise ValueError(f"{beyond[0]} has no place in revision 0001: it came by an import, or is an equivalent")
    dialect = op.get_context().dialect.name
    _open_imports(dialect)
    _stop_totals(dialect)
    uninstall(before.IDENTITIES)
    _forget_new_hashes()
    install((before.IDENTITIES,))
    for guard in NEW_GUARDS:
        uninstall(guard)
        op.drop_table(guard.table)
    uninstall(CAMPAIGNS)
    for column in ("origin", "read_only", "forked_at"):
        op.execute(f"ALTER TABLE campaigns DROP COLUMN {column}")
    install((before.CAMPAIGNS,))
    if dialect != "sqlite":
        uninstall(before.EXPERIMENTS)
    _experiments(dialect, completed=_COMPLETED_BEFORE, duplicate=_DUPLICATE_BEFORE, equivalent=False)
    _index("campaign_id, status", instead_of="ix_experiments_standing", name="ix_experiments_campaign_id_status")
    install((before.EXPERIMENTS,))


def _close_imports(dialect: str) -> None:
    """No new experiment in a campaign that is closed to them."""
    why = "immutable: a read-only campaign takes no experiments"
    if dialect == "sqlite":
        op.execute(
            f"CREATE TRIGGER guard_experiments_read_only BEFORE INSERT ON experiments FOR EACH ROW WHEN ({_READ_ONLY}) "
            f"BEGIN SELECT RAISE(ABORT, '{why}'); END"
        )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION move37_refuse_read_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF ({_READ_ONLY}) THEN RAISE EXCEPTION '{why}' USING ERRCODE = 'restrict_violation'; END IF; "
        "RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER guard_experiments_read_only BEFORE INSERT ON experiments FOR EACH ROW "
        "EXECUTE FUNCTION move37_refuse_read_only()"
    )


def _open_imports(dialect: str) -> None:
    if dialect == "sqlite":
        op.execute("DROP TRIGGER guard_experiments_read_only")
        return
    op.execute("DROP TRIGGER guard_experiments_read_only ON experiments")
    op.execute("DROP FUNCTION move37_refuse_read_only()")
