"""Writing the course of an experiment: what it started from, wrote, was told, exchanged, trained and came to."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from memory import embeddings, exchanges, experiments, knowledge, programs, trials
from memory.database import Database
from memory.errors import Conflict, NotFound, ValueRefused
from memory.reader import StoreReader
from memory.records import (
    Attempt,
    AttemptOrigin,
    AttemptOutcome,
    DataKind,
    Exchange,
    Experiment,
    ExperimentKind,
    FinalStatus,
    FinalTrialState,
    GateVerdict,
    ProgramKey,
    Reservation,
    Trial,
)

Clock = Callable[[], datetime]
P = ParamSpec("P")
ResultT = TypeVar("ResultT")


def _experiment_of(trial_id: str) -> str:
    return trial_id.partition("/")[0]


class ExperimentWriter(StoreReader):
    """The half of the store that writes experiments. `memory.store.Store` states the invariants."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        super().__init__(database)
        self._clock = clock

    def _at_once(
        self, write: Callable[Concatenate[Database, datetime, P], ResultT | None], *args: P.args, **kwargs: P.kwargs
    ) -> ResultT | None:
        """The result of a write in one statement; None where the long way has to follow, which says what is wrong."""
        if not self._database.writes_at_once:
            return None
        try:
            return write(self._database, self._clock(), *args, **kwargs)
        except (NotFound, Conflict, ValueRefused):
            return None

    def open_experiment(
        self,
        campaign_id: str,
        index: int,
        *,
        arm: str,
        kind: ExperimentKind,
        track: str,
        tier: str,
        name: str = "",
        environment: Mapping[str, Any] | None = None,
    ) -> Experiment:
        """Open experiment `<campaign name>-<index, four digits>`, or return it as it is now.

        Raises:
            NotFound: no such campaign.
            Conflict: it exists with another arm, kind, track or tier.
            ValueRefused: `index` is negative.
        """
        fixed = {"arm": arm, "kind": kind, "track": track, "tier": tier}
        turn = f"{campaign_id}/{index}"
        given: dict[str, Any] = {"fixed": fixed, "name": name, "environment": environment or {}}
        if opened := self._at_once(experiments.open_at_once, campaign_id, index, **given, subject=turn):
            return opened
        with self._database.write(turn) as session:
            return experiments.open_(session, self._clock(), campaign_id, index, **given)

    def select(
        self, experiment_id: str, parent_id: str | None, exemplar_ids: Sequence[str], selection: Mapping[str, Any]
    ) -> Experiment:
        """Store what the experiment starts from, once. `selected_at` of the snapshot says whether that was done.

        Raises:
            NotFound: no such experiment, parent or exemplar.
            Conflict: it was selected otherwise, it is finished, or the parent or an exemplar is not finished.
        """
        with self._database.write(experiment_id) as session:
            return experiments.select_(
                session, self._clock(), experiment_id, parent_id, exemplar_ids=exemplar_ids, selection=selection
            )

    def put_program(self, source: str) -> str:
        """Store a program and return the SHA-256 of its UTF-8 bytes.

        Raises:
            ProgramUnstorable: it holds NUL or lone surrogates.
        """
        if stored := self._at_once(programs.put_at_once, source):
            return stored
        with self._database.write(source) as session:
            return programs.put(session, self._clock(), source)

    def put_program_key(
        self, program_sha256: str, level: str, scope: str, *, key: str | None, reason: str = "", cost_s: float = 0.0
    ) -> ProgramKey:
        """Store what a program is at a level of the identity ladder, for every campaign that meets it again.

        Raises:
            NotFound: no such program.
            Conflict: it has another key there.
            ValueRefused: neither a key nor a reason why there is none.
        """
        given = {"level": level, "scope": scope, "key": key, "reason": reason, "cost_s": cost_s}
        with self._database.write(program_sha256) as session:
            return programs.put_key(session, self._clock(), program_sha256, given)

    def put_knowledge_uses(self, experiment_id: str, entries: Sequence[str]) -> None:
        """Store which entries of the knowledge base the experiment's researcher was shown.

        Raises:
            NotFound: no such experiment.
        """
        with self._database.write(experiment_id) as session:
            knowledge.put_knowledge_uses(session, self._clock(), experiment_id, entries)

    def put_vectors(self, kind: str, encoder: str, vectors: Mapping[str, bytes]) -> None:
        """Store embeddings by key.

        Raises:
            Conflict: the encoder made another one of the same before.
            ValueRefused: one is empty.
        """
        with self._database.write() as session:
            embeddings.put(session, self._clock(), kind, encoder, vectors)

    def put_attempt(
        self,
        experiment_id: str,
        number: int,
        *,
        origin: AttemptOrigin,
        edit: str = "",
        hypothesis: Mapping[str, Any] | None = None,
        program_sha256: str | None = None,
    ) -> Attempt:
        """Store an attempt, or fill in the hypothesis or program of one that has none yet.

        Raises:
            NotFound: no such experiment or program.
            Conflict: the experiment is finished, the attempt is closed, or a given value differs from a stored one.
        """
        given = {"origin": origin, "edit": edit, "hypothesis": hypothesis, "program_sha256": program_sha256}
        if stored := self._at_once(programs.put_attempt_at_once, experiment_id, number, given):
            return stored
        with self._database.write(experiment_id) as session:
            return programs.put_attempt(session, self._clock(), experiment_id, number, given)

    def close_attempt(
        self, experiment_id: str, number: int, outcome: AttemptOutcome, detail: Mapping[str, Any] | None = None
    ) -> Attempt:
        """Give an attempt its outcome.

        Raises:
            NotFound: no such attempt.
            Conflict: it was closed with another outcome or detail.
        """
        with self._database.write(experiment_id) as session:
            return programs.close_attempt(
                session, self._clock(), experiment_id, number, outcome=outcome, detail=detail or {}
            )

    def reserve(self, campaign_id: str, level: str, key: str, experiment_id: str) -> Reservation:
        """Claim an identity key for an experiment: reserve, then train. The first one keeps it for ever.

        Raises:
            NotFound: no such experiment.
            Conflict: the experiment is of another campaign.
        """
        turn = f"{campaign_id}/{level}/{key}"
        given: dict[str, Any] = {"campaign_id": campaign_id, "level": level, "key": key}
        if reserved := self._at_once(programs.reserve_at_once, experiment_id, **given, subject=turn):
            return reserved
        with self._database.write(turn) as session:
            return programs.reserve(session, self._clock(), experiment_id, **given)

    def put_verdicts(
        self, experiment_id: str, attempt: int, verdicts: Sequence[Mapping[str, Any]], *, first_position: int = 0
    ) -> list[GateVerdict]:
        """Store verdicts (mappings with gate, passed, reason, message, line, detail) from `first_position` on.

        Returns:
            All verdicts of the attempt.

        Raises:
            NotFound: no such attempt.
            Conflict: another verdict stands at one of the positions, or the experiment is finished.
        """
        if stored := self._at_once(
            programs.put_verdicts_at_once, experiment_id, attempt, verdicts, first_position=first_position
        ):
            return stored
        with self._database.write(experiment_id) as session:
            return programs.put_verdicts(session, experiment_id, attempt, verdicts, first_position)

    def put_exchange(
        self,
        experiment_id: str,
        role: str,
        attempt: int,
        turn: int,
        *,
        request_key: str,
        template_hashes: Mapping[str, str],
        model: str,
        request: Mapping[str, Any],
        response: Mapping[str, Any] | None,
        text: str,
        usage: exchanges.TokenUsage,
        cost_usd: float | None,
        latency_s: float,
        finish_reason: str,
    ) -> Exchange:
        """Store a finished exchange with a model. `usage` is anything with the three attributes of `records.Usage`.

        Raises:
            NotFound: no such experiment.
            Conflict: another request, or another answer to it, stands at this place.
        """
        content = {
            "request_key": request_key,
            "template_hashes": template_hashes,
            "model": model,
            "request": request,
            "response": response,
            "text": text,
            "finish_reason": finish_reason,
        }
        place = (experiment_id, role, attempt, turn)
        measured: dict[str, Any] = {"cost_usd": cost_usd, "latency_s": latency_s}
        if stored := self._at_once(exchanges.put_at_once, place, content, usage, **measured):
            return stored
        with self._database.write(experiment_id) as session:
            return exchanges.put(session, self._clock(), place, content, usage, **measured)

    def charge_call(
        self,
        experiment_id: str,
        role: str,
        attempt: int,
        turn: int,
        *,
        usage: exchanges.TokenUsage,
        cost_usd: float | None,
    ) -> None:
        """Charge what a call used that gave no exchange. Not idempotent: every such call counts.

        Raises:
            NotFound: no such experiment.
        """
        with self._database.write(experiment_id) as session:
            exchanges.charge(session, self._clock(), (experiment_id, role, attempt, turn), usage, cost_usd)

    def open_trial(
        self,
        experiment_id: str,
        *,
        task: str,
        tier: str,
        seed: int,
        data: DataKind,
        objective_hash: str,
        environment: Mapping[str, Any] | None = None,
    ) -> Trial:
        """Start a trial, or return it: a finished one as it is, an open one with `tries` counted up.

        Raises:
            NotFound: no such experiment.
            Conflict: it exists under another objective.
        """
        place = (task, tier, seed, data)
        given: dict[str, Any] = {"objective_hash": objective_hash, "environment": environment or {}}
        if opened := self._at_once(trials.open_at_once, experiment_id, place, **given):
            return opened
        with self._database.write(experiment_id) as session:
            return trials.open_(session, self._clock(), experiment_id, place, **given)

    def charge_trial(self, trial_id: str, device_s: float) -> Trial:
        """Add the device time of a try that the infrastructure lost; the trial stays open.

        Raises:
            NotFound: no such trial.
            Conflict: the trial is finished.
        """
        with self._database.write(_experiment_of(trial_id)) as session:
            return trials.charge(session, self._clock(), trial_id, device_s)

    def finish_trial(
        self,
        trial_id: str,
        *,
        state: FinalTrialState,
        reason: str = "ok",
        message: str = "",
        score: float | None = None,
        metrics: Mapping[str, Any] | None = None,
        curve: Sequence[Mapping[str, Any]] = (),
        log: str = "",
        device_s: float = 0.0,
        environment: Mapping[str, Any] | None = None,
    ) -> Trial:
        """Give a trial its result. `device_s` is that of the last try and adds to what was charged.

        Raises:
            NotFound: no such trial.
            Conflict: it is finished with another result.
        """
        result = {
            "state": state,
            "reason": reason,
            "message": message,
            "score": score,
            "metrics": metrics or {},
            "curve": curve,
            "log": log,
        }
        turn = _experiment_of(trial_id)
        given: dict[str, Any] = {"device_s": device_s, "environment": environment}
        if finished := self._at_once(trials.finish_at_once, trial_id, result, **given, subject=turn):
            return finished
        with self._database.write(turn) as session:
            return trials.finish(session, self._clock(), trial_id, result, **given)

    def finish_experiment(
        self,
        experiment_id: str,
        *,
        status: FinalStatus,
        reason: str = "ok",
        message: str = "",
        score: float | None = None,
        name: str | None = None,
        hypothesis: Mapping[str, Any] | None = None,
        program_sha256: str | None = None,
        duplicate_of: str | None = None,
        equivalent_of: str | None = None,
        environment: Mapping[str, Any] | None = None,
    ) -> Experiment:
        """Give an experiment its final status. What is None stays as it was.

        A "duplicate" names the experiment with the same text (`duplicate_of`) or the same function (`equivalent_of`).

        Raises:
            NotFound: no such experiment, program or original.
            Conflict: it is finished otherwise; "completed" without score or program; "duplicate" without original.
        """
        required = {"status": status, "reason": reason, "message": message, "score": score}
        optional = {
            "name": name,
            "hypothesis": hypothesis,
            "program_sha256": program_sha256,
            "duplicate_of": duplicate_of,
            "equivalent_of": equivalent_of,
            "environment": environment,
        }
        if finished := self._at_once(experiments.finish_at_once, experiment_id, required, optional):
            return finished
        with self._database.write(experiment_id) as session:
            return experiments.finish(session, self._clock(), experiment_id, required, optional)
