"""Copies experiments from one store into another, as far as what agents are shown can depend on them.

For the replay of a fork, whose memory begins with what its origin's experiments left. Ids of experiments, trials and
lessons are made of the campaign's name, so the copies have those of the originals.

Not covered: a faithful archive (`move37 export`): exchanges, sessions, events, clocks and embeddings stay behind.
"""

from memory.records import Attempt, Experiment, Trial
from memory.store import Store


def copy_experiments(source: Store, target: Store, campaign_id: str, last: Experiment) -> None:
    """Copies the experiments of `last`'s campaign up to it into the campaign `campaign_id` of `target`.

    One that is still open was seen by nobody; it is copied as far as others refer to it, as a holder of identities.
    """
    finished: set[str] = set()
    for experiment in source.experiments(last.campaign_id, up_to_index=last.index):
        target.open_experiment(
            campaign_id,
            experiment.index,
            arm=experiment.arm,
            kind=experiment.kind,
            track=experiment.track,
            tier=experiment.tier,
            name="" if experiment.finished else experiment.name,
        )
        for identity in source.identities(experiment.id):
            target.reserve(campaign_id, identity.level, identity.key, experiment.id)
        if experiment.finished:
            _copy_course(source, target, experiment)
            _copy_end(target, experiment)
            finished.add(experiment.id)
    for lesson in source.lessons(last.campaign_id, up_to_index=last.index):
        if lesson.experiment_id in finished:
            target.put_lesson(lesson.experiment_id, lesson.claim, level=lesson.level, body=lesson.body)
            if lesson.retired_by in finished:
                target.retire_lesson(lesson.id, lesson.retired_by)
    _copy_evidence(source, target, last.campaign_id, finished)
    uses: dict[str, list[str]] = {}
    for use in source.knowledge_uses(last.campaign_id):
        uses.setdefault(use.experiment_id, []).append(use.entry)
    for experiment_id in finished & uses.keys():
        target.put_knowledge_uses(experiment_id, uses[experiment_id])


def _copy_evidence(source: Store, target: Store, campaign_id: str, finished: set[str]) -> None:
    """What the `finished` experiments say of lessons that are there: those of their campaign and of its origins."""
    copied = {lesson.id for campaign in target.campaigns() for lesson in target.lessons(campaign.id)}
    origin: str | None = campaign_id
    while origin is not None:
        for evidence in source.evidence(origin):
            if evidence.experiment_id in finished and evidence.lesson_id in copied:
                target.put_evidence(evidence.lesson_id, evidence.experiment_id, evidence.stance, evidence.note)
        origin = source.campaign(origin).forked_from


def _copy_course(source: Store, target: Store, experiment: Experiment) -> None:
    if experiment.selected_at is not None:
        target.select(
            experiment.id,
            parent_id=experiment.parent_id,
            exemplar_ids=experiment.exemplar_ids,
            selection=experiment.selection,
        )
    for attempt in source.attempts(experiment.id):
        _copy_attempt(source, target, attempt)
    for trial in source.trials(experiment.id):
        _copy_trial(target, trial)
    analysis = source.analysis(experiment.id)
    if analysis is not None:
        target.put_analysis(experiment.id, analysis.body)


def _copy_attempt(source: Store, target: Store, attempt: Attempt) -> None:
    if attempt.program_sha256 is not None:
        _copy_program(source, target, attempt.program_sha256)
    target.put_attempt(
        attempt.experiment_id,
        attempt.number,
        origin=attempt.origin,
        edit=attempt.edit,
        hypothesis=attempt.hypothesis,
        program_sha256=attempt.program_sha256,
    )
    verdicts = source.verdicts(attempt.experiment_id, attempt.number)
    if verdicts:
        target.put_verdicts(
            attempt.experiment_id,
            attempt.number,
            [
                {
                    "gate": v.gate,
                    "passed": v.passed,
                    "reason": v.reason,
                    "message": v.message,
                    "line": v.line,
                    "detail": v.detail,
                }
                for v in verdicts
            ],
            first_position=verdicts[0].position,
        )
    if attempt.outcome is not None:
        target.close_attempt(attempt.experiment_id, attempt.number, attempt.outcome, attempt.detail)


def _copy_program(source: Store, target: Store, sha256: str) -> None:
    target.put_program(source.program(sha256).source)
    for key in source.program_keys(sha256):
        target.put_program_key(sha256, key.level, key.scope, key=key.key, reason=key.reason, cost_s=key.cost_s)


def _copy_trial(target: Store, trial: Trial) -> None:
    if trial.state == "open":
        return
    opened = target.open_trial(
        trial.experiment_id,
        task=trial.task,
        tier=trial.tier,
        seed=trial.seed,
        data=trial.data,
        objective_hash=trial.objective_hash,
    )
    target.finish_trial(
        opened.id,
        state=trial.state,
        reason=trial.reason,
        message=trial.message,
        score=trial.score,
        metrics=trial.metrics,
        curve=trial.curve,
        log=trial.log,
        device_s=trial.device_s,
        environment=trial.environment,
    )


def _copy_end(target: Store, experiment: Experiment) -> None:
    if experiment.status == "open":
        raise AssertionError(f"{experiment.id} is open")
    target.finish_experiment(
        experiment.id,
        status=experiment.status,
        reason=experiment.reason,
        message=experiment.message,
        score=experiment.score,
        name=experiment.name,
        hypothesis=experiment.hypothesis,
        program_sha256=experiment.program_sha256,
        duplicate_of=experiment.duplicate_of,
        equivalent_of=experiment.equivalent_of,
        environment=experiment.environment,
    )
