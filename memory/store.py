"""The experiment memory: the store every other part writes to and reads from.

Notable: one class, no ORM object ever leaves it; each method is one transaction; methods that the campaign repeats
after a crash are idempotent. Not covered: choosing parents, retrieval of lessons, plotting (other modules read).
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from memory import campaigns, knowledge, schema
from memory.database import Database
from memory.records import (
    Analysis,
    Campaign,
    CampaignState,
    Event,
    Evidence,
    EvidenceLevel,
    Finding,
    Lesson,
    Session,
    Stance,
)
from memory.writer import Clock, ExperimentWriter


def utc_now() -> datetime:
    """The clock of a store unless a test brings its own."""
    return datetime.now(UTC)


def open_store(
    url: str,
    *,
    create: bool = True,
    upgrade: bool = True,
    on_upgrade: Callable[[str, str], None] | None = None,
    busy_timeout_s: float = 30.0,
    clock: Clock = utc_now,
) -> "Store":
    """Open the experiment memory at a SQLAlchemy URL ("sqlite:///runs/move37.db", "postgresql+psycopg://...").

    Args:
        url: where it is; "sqlite://" is one in memory, which lives as long as the `Store`.
        create: make the store when there is none.
        upgrade: bring a store of an older version up to date, in one transaction.
        on_upgrade: told (found revision, new revision) before an upgrade; it is logged as well.
        busy_timeout_s: how long a write waits for the lock of another process.
        clock: gives the timestamps.

    Raises:
        StoreMissing: nothing there and `create` is False.
        SchemaTooNew: written by a newer Move37.
        SchemaOutdated: written by an older one and `upgrade` is False.
        StoreCorrupt: damaged, or a database of something else.
        StoreBusy: another process holds the lock.
        StoreFull: no room to create it.
        StoreUnavailable: the path or the server cannot be reached, or the URL is no database URL.
    """
    database = Database(url, busy_timeout_s=busy_timeout_s)
    try:
        schema.prepare(database, create=create, upgrade=upgrade, on_upgrade=on_upgrade)
    except BaseException:
        database.close()
        raise
    return Store(database, clock=clock)


class Store(ExperimentWriter):
    """The experiment memory. The only truth about what was tried.

    Invariants:
        - Reads are detached snapshots (see `StoreReader`).
        - Each method is one transaction: after an exception nothing of the call is stored; after it returned, a
          killed process does not lose it.
        - Nothing is deleted. Finished rows (experiments with a final status, trials and attempts with an outcome,
          exchanges, programs, verdicts, identities, analyses, findings, events) never change. The database itself
          refuses, raw SQL included; here it surfaces as `Conflict`.
        - The frozen part of a campaign (name, configuration, objective, seed, arms) never changes.
        - Repeating a call with the same arguments returns what is stored and writes nothing, except `heartbeat`,
          `open_trial` (counts a try), `charge_trial`, `charge_call` and `put_event`. Repeating it with others raises
          `Conflict`.
        - One identity key of a campaign belongs to one experiment for ever, whoever asks at the same time.
        - A parent is finished before it is chosen, so lineages have no cycles.
        - Any thread and any process may call any method; writers of the same rows take turns.

    Every method raises `StoreBusy`, `StoreFull`, `StoreCorrupt` or `StoreUnavailable` when the database fails, and
    `ValueRefused` for values that would not come back as they went in (NaN, Infinity, keys that are not text).
    """

    def create_campaign(
        self,
        name: str,
        *,
        config: Mapping[str, Any],
        config_hash: str,
        objective: Mapping[str, Any],
        objective_hash: str,
        seed: int,
        arms: Sequence[str],
        announcements: Sequence[str] = (),
        forked_from: str | None = None,
        forked_at: str | None = None,
        replay_of: str | None = None,
    ) -> Campaign:
        """Store a new campaign, state "running", under a random id. Not idempotent: a name is used once.

        A fork names the campaign (`forked_from`) and the experiment (`forked_at`) that it continues.

        Raises:
            Conflict: the name is taken, or `forked_at` is no finished experiment of `forked_from`.
            NotFound: `forked_from` or `replay_of` is no campaign, `forked_at` no experiment.
            ValueRefused: the name is not 1-80 of [A-Za-z0-9._-] beginning with a letter or digit, or looks like an id.
        """
        frozen = {
            "config": config,
            "config_hash": config_hash,
            "objective": objective,
            "objective_hash": objective_hash,
            "seed": seed,
            "arms": arms,
            "announcements": announcements,
            "forked_from": forked_from,
            "forked_at": forked_at,
            "replay_of": replay_of,
        }
        with self._database.write() as session:
            return campaigns.create(session, self._clock(), name, frozen)

    def set_campaign_state(
        self, campaign_id: str, state: CampaignState, *, because: str | None = None, announcement: str | None = None
    ) -> Campaign:
        """Set the state and why it stopped; "running" clears both reason and end. Adds `announcement` if given.

        Raises:
            NotFound: no such campaign.
            Conflict: it is "finished", which is final, and this would change it.
        """
        with self._database.write(campaign_id) as session:
            return campaigns.set_state(
                session, self._clock(), campaign_id, state, because=because, announcement=announcement
            )

    def begin_session(self, campaign_id: str, owner: Mapping[str, Any]) -> Session:
        """Begin to count wall time for a process (`owner`: pid, start, boot, host).

        Raises:
            NotFound: no such campaign.
        """
        with self._database.write(campaign_id) as session:
            return campaigns.begin_session(session, self._clock(), campaign_id, owner)

    def heartbeat(self, session_id: str) -> Session:
        """Note that the process lives.

        Raises:
            NotFound: no such session.
            Conflict: the session has ended.
        """
        with self._database.write(session_id) as session:
            return campaigns.touch_session(session, self._clock(), session_id, end=False)

    def end_session(self, session_id: str) -> Session:
        """End a session; ending it again changes nothing.

        Raises:
            NotFound: no such session.
        """
        with self._database.write(session_id) as session:
            return campaigns.touch_session(session, self._clock(), session_id, end=True)

    def put_analysis(self, experiment_id: str, body: Mapping[str, Any]) -> Analysis:
        """Store the analyst's reading of an experiment, finished or not.

        Raises:
            NotFound: no such experiment.
            Conflict: it has another analysis.
        """
        with self._database.write(experiment_id) as session:
            return knowledge.put_analysis(session, self._clock(), experiment_id, body)

    def put_lesson(
        self,
        experiment_id: str,
        claim: str,
        *,
        level: EvidenceLevel = "observed",
        body: Mapping[str, Any] | None = None,
    ) -> Lesson:
        """Store a lesson of an experiment; a lesson is known by experiment and claim. A higher level raises it.

        Raises:
            NotFound: no such experiment.
            Conflict: the same lesson has another body.
        """
        with self._database.write() as session:
            return knowledge.put_lesson(session, self._clock(), experiment_id, claim, level=level, body=body or {})

    def retire_lesson(self, lesson_id: str, by_experiment: str) -> Lesson:
        """Mark a lesson as refuted by an experiment.

        Raises:
            NotFound: no such lesson or experiment.
            Conflict: another experiment retired it.
        """
        with self._database.write() as session:
            return knowledge.retire_lesson(session, lesson_id, by_experiment)

    def put_evidence(self, lesson_id: str, experiment_id: str, stance: Stance, note: str = "") -> Evidence:
        """Store that an experiment supports or contradicts a lesson. It says so once.

        Raises:
            NotFound: no such lesson or experiment.
            Conflict: it said otherwise before.
        """
        with self._database.write() as session:
            return knowledge.put_evidence(session, self._clock(), lesson_id, experiment_id, stance, note)

    def put_finding(
        self, experiment_id: str, baseline_id: str, *, statistics: Mapping[str, Any], claim_objective_hash: str
    ) -> Finding:
        """Store a verified gain of an experiment over a baseline.

        Raises:
            NotFound: no such experiment or baseline.
            Conflict: the same comparison has other statistics.
        """
        with self._database.write() as session:
            return knowledge.put_finding(
                session,
                self._clock(),
                experiment_id,
                baseline_id,
                statistics=statistics,
                claim_objective_hash=claim_objective_hash,
            )

    def put_event(
        self,
        campaign_id: str,
        kind: str,
        payload: Mapping[str, Any] | None = None,
        *,
        experiment_id: str | None = None,
    ) -> Event:
        """Append an event.

        Raises:
            NotFound: no such campaign or experiment.
        """
        turn = f"events of {campaign_id}"  # their ids have to grow in the order in which they become visible
        given: dict[str, Any] = {
            "campaign_id": campaign_id,
            "experiment_id": experiment_id,
            "kind": kind,
            "payload": payload or {},
        }
        if stored := self._at_once(knowledge.put_event_at_once, subject=turn, **given):
            return stored
        with self._database.write(turn) as session:
            return knowledge.put_event(session, self._clock(), **given)
