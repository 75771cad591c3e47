"""Triggers that make finished rows immutable in the database itself, for SQLite and PostgreSQL.

Three rules per table: no row is deleted; a row whose `final` condition holds is not updated; the `fixed` columns of
any row are not updated. SQLite needs a fourth: no insert may meet an existing key, because INSERT OR REPLACE deletes
the old row without asking a DELETE trigger, by its rowid too.
Not covered: somebody who drops the triggers or edits the file. A revision that rebuilds a table has to guard it anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alembic import op

_FUNCTION = """
CREATE OR REPLACE FUNCTION move37_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'immutable: % of %', TG_ARGV[0], TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$
"""
_NEVER_DELETED = "no row is ever deleted"
_FINAL = "finished rows never change"
_USED_ONCE = "keys are used once"


@dataclass(frozen=True)
class Guard:
    """What may not happen to the rows of a table. `once`: columns that stay once the column named first is set."""

    table: str
    keys: Sequence[Sequence[str]]
    final: str | None = None  # SQL over {old}; None: every row is final
    fixed: Sequence[str] = ()
    once: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def statements(self, dialect: str) -> list[str]:
        """The DDL for a dialect."""
        return self._sqlite() if dialect == "sqlite" else self._postgresql()

    def _sqlite(self) -> list[str]:
        exists = " OR ".join(
            ["rowid = NEW.rowid", *(" AND ".join(f'"{name}" = NEW."{name}"' for name in key) for key in self.keys)]
        )
        update = self._update("OLD.{0} IS NOT NEW.{0}", rowid=True)
        rules = {
            "delete": ("DELETE", "1", _NEVER_DELETED),
            "update": ("UPDATE", update, _FINAL),
            "replace": ("INSERT", f'EXISTS (SELECT 1 FROM "{self.table}" WHERE {exists})', _USED_ONCE),  # noqa: S608
        }
        return [
            f'CREATE TRIGGER "guard_{self.table}_{name}" BEFORE {verb} ON "{self.table}" FOR EACH ROW WHEN {when} '
            f"BEGIN SELECT RAISE(ABORT, 'immutable: {why} of {self.table}'); END"
            for name, (verb, when, why) in rules.items()
        ]

    def _postgresql(self) -> list[str]:
        update = self._update("OLD.{0}::text IS DISTINCT FROM NEW.{0}::text", rowid=False)
        rules = {
            "delete": ("DELETE", "ROW", "", _NEVER_DELETED),
            "truncate": ("TRUNCATE", "STATEMENT", "", _NEVER_DELETED),
            "update": ("UPDATE", "ROW", f"WHEN ({update})", _FINAL),
        }
        return [
            f'CREATE TRIGGER "guard_{self.table}_{name}" BEFORE {verb} ON "{self.table}" FOR EACH {each} {when} '
            f"EXECUTE FUNCTION move37_refuse('{why}')"
            for name, (verb, each, when, why) in rules.items()
        ]

    def _update(self, differs: str, *, rowid: bool) -> str:
        if self.final is None:
            return "TRUE" if not rowid else "1"
        conditions = [f"({self.final.format(old='OLD')})"]
        conditions += [differs.format(f'"{name}"') for name in self.fixed]
        if rowid:
            conditions.append("OLD.rowid IS NOT NEW.rowid")
        for setter, columns in self.once.items():
            changed = " OR ".join(differs.format(f'"{name}"') for name in columns)
            conditions.append(f'(OLD."{setter}" IS NOT NULL AND ({changed}))')
        return " OR ".join(conditions)


def install(guards: Sequence[Guard]) -> None:
    """Create the triggers, within a migration."""
    dialect = op.get_context().dialect.name
    if dialect == "postgresql":
        op.execute(_FUNCTION)
    if dialect in ("sqlite", "postgresql"):
        for guard in guards:
            for statement in guard.statements(dialect):
                op.execute(statement)


def uninstall(guard: Guard) -> None:
    """Drop the triggers of a table, before a migration changes it; install what shall hold afterwards."""
    dialect = op.get_context().dialect.name
    rules = {"sqlite": ("delete", "update", "replace"), "postgresql": ("delete", "truncate", "update")}
    for rule in rules.get(dialect, ()):
        table = f' ON "{guard.table}"' if dialect == "postgresql" else ""
        op.execute(f'DROP TRIGGER "guard_{guard.table}_{rule}"{table}')
