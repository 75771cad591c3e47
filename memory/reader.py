"""Reading the experiment memory: everything that asks and nothing that writes.

The dashboard, `status` and reports need only this class; `memory.store.Store` adds the writes.
"""

from collections.abc import Collection, Sequence

from memory import accounting, campaigns, embeddings, exchanges, experiments, knowledge, ledger, programs, trials
from memory.database import Database
from memory.records import (
    Analysis,
    Attempt,
    Campaign,
    Charge,
    Counts,
    Event,
    Evidence,
    Exchange,
    Experiment,
    Finding,
    GateVerdict,
    Identity,
    KnowledgeUse,
    Lesson,
    LevelCount,
    Outline,
    Program,
    ProgramKey,
    Session,
    Spent,
    Trial,
    Vector,
)


class StoreReader:
    """The reading half of a store.

    Invariants:
        - A read is one transaction and returns detached snapshots (memory/records.py): later writes do not change
          them, and changing their dictionaries changes nothing stored.
        - Lists are in a fixed order: campaigns, sessions, lessons, findings by creation; experiments by index;
          trials by experiment, data, tier, task, seed; exchanges and attempts in the order they were made.
        - Any thread may call any method at any time; each call takes its own connection.

    Every method raises `StoreUnavailable` or a subclass when the database cannot answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def url(self) -> str:
        """Where the store is, without a password."""
        return self._database.shown_url

    def close(self) -> None:
        """Close the connections; an in-memory store is gone afterwards."""
        self._database.close()

    def campaign(self, name_or_id: str) -> Campaign:
        """One campaign, by id or by name.

        Raises:
            NotFound: there is none.
        """
        with self._database.read() as session:
            return campaigns.find(session, name_or_id)

    def campaigns(self) -> list[Campaign]:
        """All campaigns, oldest first."""
        with self._database.read() as session:
            return campaigns.listed(session)

    def sessions(self, campaign_id: str) -> list[Session]:
        """The sessions of a campaign, oldest first."""
        with self._database.read() as session:
            return campaigns.sessions(session, campaign_id)

    def experiment(self, experiment_id: str) -> Experiment:
        """One experiment.

        Raises:
            NotFound: there is none.
        """
        with self._database.read() as session:
            return experiments.find(session, experiment_id)

    def experiments(
        self,
        campaign_id: str,
        *,
        status: str | None = None,
        arm: str | None = None,
        after_index: int = -1,
        up_to_index: int | None = None,
    ) -> list[Experiment]:
        """Experiments of a campaign by index, later than `after_index` and up to `up_to_index` (inclusive)."""
        with self._database.read() as session:
            return experiments.listed(
                session, campaign_id, status=status, arm=arm, after_index=after_index, up_to_index=up_to_index
            )

    def outline(self, campaign_id: str, *, after_index: int = -1, up_to_index: int | None = None) -> list[Outline]:
        """Experiments of a campaign in short, by index: after `after_index`, up to `up_to_index` (inclusive)."""
        with self._database.read() as session:
            return experiments.outline(session, campaign_id, after_index=after_index, up_to_index=up_to_index)

    def best(self, campaign_id: str) -> Outline | None:
        """The completed experiment of the highest score, of equal ones the earliest, if any completed."""
        with self._database.read() as session:
            return experiments.best(session, campaign_id)

    def experiment_at(self, campaign_id: str, index: int) -> Experiment | None:
        """The experiment of this index, if it was opened."""
        with self._database.read() as session:
            return experiments.at(session, campaign_id, index)

    def by_status(self, campaign_id: str, *, arm: str | None = None) -> dict[str, int]:
        """How many experiments have each of the five statuses: what `counts` says of them, from an index alone."""
        with self._database.read() as session:
            return accounting.by_status(session, campaign_id, arm)

    def program(self, sha256: str) -> Program:
        """One program.

        Raises:
            NotFound: there is none.
        """
        with self._database.read() as session:
            return programs.find(session, sha256)

    def attempts(self, experiment_id: str) -> list[Attempt]:
        """The attempts of an experiment by number."""
        with self._database.read() as session:
            return programs.attempts(session, experiment_id)

    def verdicts(self, experiment_id: str, attempt: int | None = None) -> list[GateVerdict]:
        """The verdicts of an experiment, or of one of its attempts, in the order of the ladder."""
        with self._database.read() as session:
            return programs.verdicts(session, experiment_id, attempt)

    def identity(self, campaign_id: str, level: str, key: str) -> Identity | None:
        """Who holds this key in this campaign, if anybody."""
        with self._database.read() as session:
            return programs.identity(session, campaign_id, level, key)

    def identities(self, experiment_id: str) -> list[Identity]:
        """The keys that an experiment holds, by level."""
        with self._database.read() as session:
            return programs.identities(session, experiment_id)

    def trials(self, experiment_id: str | None = None, *, campaign_id: str | None = None) -> list[Trial]:
        """The trials of one experiment, or of every experiment of a campaign.

        Raises:
            ValueError: neither or both of the two were given.
        """
        with self._database.read() as session:
            return trials.listed(session, experiment_id=experiment_id, campaign_id=campaign_id)

    def scores(self, experiment_ids: Collection[str]) -> list[tuple[str, str, int, float]]:
        """Experiment, task, seed and score of every scored trial on selection data of some experiments, in no order."""
        with self._database.read() as session:
            return trials.scores(session, experiment_ids)

    def campaign_scores(self, campaign_id: str) -> list[tuple[str, str, int, float]]:
        """As `scores`, of every experiment of a campaign, each with its trials in their order."""
        with self._database.read() as session:
            return trials.campaign_scores(session, campaign_id)

    def find_exchange(self, experiment_id: str, role: str, attempt: int, turn: int) -> Exchange | None:
        """The finished exchange at this place, if there is one: look here before calling a model."""
        with self._database.read() as session:
            return exchanges.find(session, experiment_id, role, attempt, turn)

    def exchanges(self, experiment_id: str | None = None, *, campaign_id: str | None = None) -> list[Exchange]:
        """The exchanges of one experiment, or of every experiment of a campaign.

        Raises:
            ValueError: neither or both of the two were given.
        """
        with self._database.read() as session:
            return exchanges.listed(session, experiment_id=experiment_id, campaign_id=campaign_id)

    def analysis(self, experiment_id: str) -> Analysis | None:
        """The analysis of an experiment, if there is one."""
        with self._database.read() as session:
            return knowledge.analysis(session, experiment_id)

    def lessons(
        self, campaign_id: str, up_to_index: int | None = None, *, after_index: int = -1, raised: bool = False
    ) -> list[Lesson]:
        """Lessons by index of their experiment, later than `after_index` and up to `up_to_index` (inclusive). Retired
        ones are included. `raised`: only what changed since it was stored, its level or whether it is retired."""
        with self._database.read() as session:
            return knowledge.lessons(session, campaign_id, up_to_index, after_index=after_index, raised=raised)

    def lessons_of(self, experiment_ids: Collection[str]) -> list[Lesson]:
        """The lessons of some experiments, by index of their experiment; retired ones are included."""
        with self._database.read() as session:
            return knowledge.lessons_of(session, experiment_ids)

    def evidence(self, campaign_id: str) -> list[Evidence]:
        """What supports and contradicts the lessons of a campaign."""
        with self._database.read() as session:
            return knowledge.evidence(session, campaign_id)

    def evidence_with(self, experiment_ids: Collection[str]) -> list[Evidence]:
        """The evidence that some experiments gave, and that about their lessons, in order of lesson and experiment."""
        with self._database.read() as session:
            return knowledge.evidence_with(session, experiment_ids)

    def knowledge_uses(self, campaign_id: str) -> list[KnowledgeUse]:
        """Which entries of the knowledge base the experiments of a campaign were shown."""
        with self._database.read() as session:
            return knowledge.knowledge_uses(session, campaign_id)

    def knowledge_shown(self, experiment_ids: Collection[str]) -> set[str]:
        """The entries of the knowledge base that any of some experiments was shown."""
        with self._database.read() as session:
            return knowledge.knowledge_shown(session, experiment_ids)

    def vectors(self, kind: str, encoder: str, keys: Sequence[str] | None = None) -> list[Vector]:
        """Embeddings of a kind by one encoder, all of them or those of `keys`, in the order of their keys."""
        with self._database.read() as session:
            return embeddings.listed(session, kind, encoder, keys=keys)

    def program_keys(self, program_sha256: str) -> list[ProgramKey]:
        """What a program is known to be at each level of the identity ladder."""
        with self._database.read() as session:
            return programs.keys(session, program_sha256)

    def recognised(self, campaign_id: str) -> list[LevelCount]:
        """What each level of the identity ladder cost and caught in a campaign."""
        with self._database.read() as session:
            return programs.recognised(session, campaign_id)

    def charged(self, campaign_id: str, *, arm: str | None = None) -> dict[str, float]:
        """Sums of the ledger by kind; what was never charged is missing."""
        with self._database.read() as session:
            return ledger.total(session, campaign_id, arm)

    def charges(self, campaign_id: str, *, after: int = 0, limit: int | None = None) -> list[Charge]:
        """The ledger of a campaign; `after` is the id of the last entry already seen."""
        with self._database.read() as session:
            return ledger.listed(session, campaign_id, after=after, limit=limit)

    def findings(self, campaign_id: str) -> list[Finding]:
        """The findings of a campaign."""
        with self._database.read() as session:
            return knowledge.findings(session, campaign_id)

    def events(
        self,
        campaign_id: str,
        *,
        experiment_id: str | None = None,
        kind: str | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[Event]:
        """Events in order of their ids; `after` is the id of the last one already seen."""
        with self._database.read() as session:
            return knowledge.events(
                session, campaign_id, experiment_id=experiment_id, kind=kind, after=after, limit=limit
            )

    def spent(self, campaign_id: str, *, arm: str | None = None) -> Spent:
        """What the campaign (or one arm of it) used, summed from its exchanges and trials.

        `wall_s` sums the sessions and is the campaign's even when an arm is asked for.
        """
        with self._database.read() as session:
            return accounting.spent(session, campaign_id, arm)

    def counts(self, campaign_id: str, *, arm: str | None = None) -> Counts:
        """How many rows of each kind the campaign (or one arm of it) has."""
        with self._database.read() as session:
            return accounting.counts(session, campaign_id, arm)
