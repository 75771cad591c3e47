"""The steps of one experiment, free of any framework: `step(loop, experiment_id) -> route`.

Every step first looks in the store for its own finished work, so that repeating one after `kill -9` makes no second
model call, trial or record. A step returns the name of the next; the graph only follows.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import takewhile

from agents import analyst, researcher
from agents.contexts import Difference, ProgramView, Prompt, ResearchContext
from agents.errors import ReplyMalformed
from agents.replies import Proposal
from evaluator.trial import TrialRequest
from evaluator.verdict import Verdict
from memory.records import Attempt, AttemptOutcome, Experiment, Lesson
from memory.tokens import estimate
from move37 import analysing, briefing, calibration, coding, novelty, observing, recalling, reserving
from move37.asking import RESEARCHER, Form, ask, weighing
from move37.laboratory import GateRequest
from move37.ladder import climb, static
from move37.leaving_out import told
from move37.loop import Loop, Route
from move37.selecting import selected

_FORECASTS = 400  # experiments, the latest, whose predictions are held against what was measured


async def select(loop: Loop, experiment_id: str) -> Route:
    """Chooses mode, parent and exemplars and opens the first attempt."""
    experiment = loop.store.experiment(experiment_id)
    if experiment.selected_at is None:
        chosen = await selected(loop, experiment)
        loop.store.select(
            experiment_id, parent_id=chosen.parent_id, exemplar_ids=chosen.exemplar_ids, selection=chosen.selection
        )
    loop.store.put_attempt(experiment_id, 1, origin="proposal")
    return "research"


async def research(loop: Loop, experiment_id: str) -> Route:
    """Asks the researcher for a hypothesis, and sends one back that was tried. A repair keeps the one it has."""
    attempt = _current(loop, experiment_id)
    if attempt.origin == "repair":
        return "code"
    experiment = loop.store.experiment(experiment_id)
    if attempt.outcome is not None:  # repeated after a crash between closing this attempt and opening the next
        return _route_after(loop, experiment, attempt)
    if attempt.hypothesis is None:
        loop.notify("research", {"experiment": experiment_id, "attempt": attempt.number})
        context, prompt = _fitted(loop, experiment, await _evidence(loop, experiment))
        try:
            hypothesis = await ask(loop, experiment, "researcher", attempt.number, prompt, _form(loop, context))
        except ReplyMalformed as error:
            return _give_up(loop, attempt, "reply_malformed", f"the researcher's reply: {error}")
        attempt = loop.store.put_attempt(
            experiment_id, attempt.number, origin=attempt.origin, hypothesis=hypothesis.model_dump(mode="json")
        )
    if attempt.program_sha256 is None and attempt.number <= loop.config.search.repairs:
        repeat = await novelty.check(loop, experiment, attempt)
        if repeat is not None:
            loop.store.put_verdicts(experiment_id, attempt.number, [repeat.as_dict()])
            return _refused(loop, attempt, repeat)
    return "code"


def _form(loop: Loop, context: ResearchContext) -> Form[Proposal]:
    """How the reply to this prompt is read: it may name the tasks and the entries that are shown, and no others."""
    parse = partial(
        researcher.parse,
        tasks=[task.name for task in context.brief.tasks],
        entries=[entry.id for entry in context.memory.knowledge],
    )
    return replace(RESEARCHER, parse=parse)


def _fitted(loop: Loop, experiment: Experiment, whole: ResearchContext) -> tuple[ResearchContext, Prompt]:
    """What of its evidence the researcher is shown within the budget of tokens, and the prompt that shows it. Which
    published findings these are is recorded."""
    context = told(whole, loop.config.search.without)
    rendered: dict[int, tuple[ResearchContext, Prompt]] = {}

    def tokens(tried: ResearchContext) -> int:
        rendered[id(tried)] = tried, researcher.messages(loop.prompts, tried)
        return sum(estimate(m.content) for m in rendered[id(tried)][1].messages)

    fitted = recalling.within(context, loop.config.search.prompt_tokens, tokens)
    loop.store.put_knowledge_uses(experiment.id, [entry.id for entry in fitted.memory.knowledge])
    return rendered[id(fitted)]


async def _evidence(loop: Loop, experiment: Experiment) -> ResearchContext:
    """What the researcher is to be shown, whatever its length."""
    visible, lessons = loop.visible(experiment), loop.visibility.lessons(experiment.index)
    await loop.recollection.learn(loop.store, visible)
    knowledge = observing.suggested(loop, experiment, visible)
    evidence = loop.visibility.standings.evidence
    selection = await loop.recollection.recall(loop.store, experiment, visible, lessons, knowledge, evidence)
    view, ranking = loop.recollection.view, loop.ranking
    mentioned = [*map(view.get, selection.ids), *visible[-max(1, loop.config.search.history) :]]
    compared = {name for one in mentioned if one is not None for name in (one.id, one.parent_id) if name is not None}
    loop.recollection.differences.read(loop.store, compared, ranking)

    def difference(experiment_id: str) -> Difference | None:
        one = view.get(experiment_id)
        parent = None if one is None or one.parent_id is None else view.get(one.parent_id)
        return None if one is None else loop.recollection.differences.between(loop.store, one, parent, ranking)

    memory = replace(
        recalling.reminded(selection, view, visible[-1].index, difference),
        calibration=calibration.line(_forecasts(loop, visible, lessons)),
        retired=sum(x.retired_by is not None for x in lessons),
    )
    wanted = {claim.lesson_id for claim in selection.lessons}
    by_id = {x.id: x for x in lessons if x.id in wanted}
    chosen = [by_id[claim.lesson_id] for claim in selection.lessons]

    def show(experiment_id: str) -> ProgramView:
        read = loop.store.experiment
        return loop.recollection.shown(experiment_id, lambda one: briefing.program_view(loop.store, read(one)))

    return briefing.research_context(
        loop.store, loop.brief, experiment, visible, chosen, memory, loop.config, difference, view, show
    )


def _forecasts(loop: Loop, visible: Sequence[Experiment], lessons: Sequence[Lesson]) -> list[calibration.Forecast]:
    """What this campaign's model predicted lately, of what is visible. A fork under another model inherits none."""
    stretches = loop.visibility.inherited
    campaigns = {loop.campaign.id, *(stretch.campaign_id for stretch in stretches)}
    models = {c: calibration.model_of(loop.store.campaign(c)) for c in campaigns}
    own = models[loop.campaign.id]
    made = [e for e in visible[-_FORECASTS:] if models[e.campaign_id] == own]
    recent = {e.id for e in visible[-_FORECASTS:]}
    theirs = takewhile(lambda x: x.experiment_id in recent, reversed(lessons))  # both are in one order
    return calibration.forecasts_of(
        made, loop.ruler, models, calibration.repaired_away(theirs), loop.recollection.forecasts
    )


async def code(loop: Loop, experiment_id: str) -> Route:
    """Asks the coder for the program, or for a repair of the one that a gate refused."""
    attempt = _current(loop, experiment_id)
    if attempt.program_sha256 is None:
        loop.notify("code", {"experiment": experiment_id, "attempt": attempt.number, "origin": attempt.origin})
        experiment = loop.store.experiment(experiment_id)
        hypothesis = briefing.hypothesis_of(loop.store.attempts(experiment_id))
        prompt, form = coding.request(loop, experiment, attempt, hypothesis)
        try:
            written = await ask(loop, experiment, "coder", attempt.number, prompt, form)
        except ReplyMalformed as error:
            return _give_up(loop, attempt, "reply_malformed", f"the coder's reply: {error}")
        refusal = next(
            (v for v in await static(written.source) if v.reason in {"too_large", "nul_byte", "not_utf8"}), None
        )
        if refusal is not None:  # what cannot be stored as a program is kept in the exchange
            loop.store.put_verdicts(experiment_id, attempt.number, [refusal.as_dict()])
            return _refused(loop, attempt, refusal)
        program = loop.store.put_program(written.source)
        loop.store.put_attempt(experiment_id, attempt.number, origin=attempt.origin, program_sha256=program)
    return "gate"


async def gate(loop: Loop, experiment_id: str) -> Route:
    """The ladder: static, identity, then the gates that run the program in the sandbox."""
    attempt = _current(loop, experiment_id)
    experiment = loop.store.experiment(experiment_id)
    if attempt.outcome is not None:  # repeated after a crash between closing this attempt and moving on
        return _route_after(loop, experiment, attempt)
    if attempt.program_sha256 is None:  # repeated after a crash between opening the next attempt and moving on
        return "code" if attempt.origin == "repair" else "research"
    verdicts = tuple(
        Verdict(v.gate, v.passed, v.reason, v.message, v.line, v.detail)
        for v in loop.store.verdicts(experiment_id, attempt.number)
    )
    if not verdicts:
        loop.notify("gate", {"experiment": experiment_id, "attempt": attempt.number})
        verdicts = await _climb(loop, experiment, attempt)
        loop.store.put_verdicts(experiment_id, attempt.number, [v.as_dict() for v in verdicts])
    failure = next((v for v in verdicts if not v.passed), None)
    if failure is not None:
        return _refused(loop, attempt, failure)
    detail = {"cost": verdicts[-1].detail.get("cost", {}), **coding.recorded(loop, attempt)}
    loop.store.close_attempt(experiment_id, attempt.number, "accepted", detail)
    await loop.turnstile.settle(experiment.index)
    return "trial"


async def _climb(loop: Loop, experiment: Experiment, attempt: Attempt) -> tuple[Verdict, ...]:
    """Up the ladder to the first failure. The measured cost rides on the last verdict."""
    source = loop.store.program(_program_of(attempt)).source
    objective = loop.config.objective
    levels = reserving.executed_levels(loop)
    climbed = await climb(
        source,
        loop.laboratory,
        GateRequest(objective.track, objective.tier, objective.tasks, loop.config.search.max_exponent, levels),
        label=f"{experiment.id}/gates-{attempt.number}",
        identity=lambda: reserving.by_text(loop, experiment, attempt, source),
        equivalence=(lambda found: reserving.by_function(loop, experiment, attempt, found)) if levels else None,
    )
    return climbed.verdicts


async def trial(loop: Loop, experiment_id: str) -> Route:
    """Trains the accepted program once per task and seed; each run is scored as its predictions come back."""
    experiment = loop.store.experiment(experiment_id)
    await loop.turnstile.settle(experiment.index)
    source = loop.store.program(_program_of(_current(loop, experiment_id))).source
    objective = loop.config.objective
    for seed in objective.seeds:
        for task in objective.tasks:
            request = TrialRequest(
                objective.track,
                objective.tier,
                task,
                seed,
                salt=objective.salt or "",
                learning_rates=objective.learning_rates,
            )
            if not await _run_trial(loop, experiment, source, request):
                return "analyse" if experiment.kind == "proposal" else "record"
    return "analyse" if experiment.kind == "proposal" else "record"


async def _run_trial(loop: Loop, experiment: Experiment, source: str, request: TrialRequest) -> bool:
    row = loop.store.open_trial(
        experiment.id,
        task=request.task,
        tier=request.tier,
        seed=request.seed,
        data=request.data,
        objective_hash=loop.campaign.objective_hash,
    )
    if row.state == "open":
        loop.budget.check()
        label = f"{experiment.id}/{request.task}-{request.seed}"
        where = {"experiment": experiment.id, "task": request.task, "seed": request.seed}
        loop.notify("trial", where)
        outcome = await loop.laboratory.trial(
            source, request, label=label, on_progress=lambda progress: loop.notify("progress", {**where, **progress})
        )
        row = loop.store.finish_trial(
            row.id,
            state="completed" if outcome.completed else "failed",
            reason=outcome.reason,
            message=outcome.message,
            score=outcome.score,
            metrics=outcome.metrics,
            curve=outcome.curve,
            log=outcome.log,
            device_s=outcome.device_s,
            environment=outcome.environment,
        )
        loop.notify("scored", {**where, "score": row.score, "reason": row.reason})
    return row.state == "completed"


async def analyse(loop: Loop, experiment_id: str) -> Route:
    """Asks the analyst what the measured result says about the hypothesis."""
    if "analyst" in loop.config.search.without:
        return "record"
    if loop.store.analysis(experiment_id) is None:
        loop.notify("analyse", {"experiment": experiment_id})
        experiment = loop.store.experiment(experiment_id)
        case = analysing.Case.of(loop, experiment)
        context = analysing.context(case)
        prompt = analyst.messages(loop.prompts, context)
        form = weighing([x.experiment for x in context.lessons])
        try:
            analysis = await ask(loop, experiment, "analyst", case.attempts[-1].number, prompt, form)
        except ReplyMalformed as error:  # the measurement stands without a commentary; that it is missing is recorded
            loop.store.put_event(
                loop.campaign.id, "analysis_malformed", {"why": error.why}, experiment_id=experiment_id
            )
            return "record"
        analysing.keep(case, analysis)
    return "record"


async def record(loop: Loop, experiment_id: str) -> Route:
    """Closes the experiment: status, reason, score."""
    experiment = loop.store.experiment(experiment_id)
    if experiment.status == "open":
        attempts = loop.store.attempts(experiment_id)
        verdict = briefing.conclude(loop.store, experiment, attempts, loop.config)
        experiment = loop.store.finish_experiment(
            experiment_id,
            status=verdict.status,
            reason=verdict.reason,
            message=verdict.message,
            score=verdict.score,
            name=verdict.name,
            hypothesis=verdict.hypothesis,
            program_sha256=verdict.program_sha256,
            duplicate_of=verdict.duplicate_of,
            equivalent_of=verdict.equivalent_of,
            environment=verdict.environment,
        )
    await loop.turnstile.settle(experiment.index)
    loop.notify(
        "recorded",
        {
            "experiment": experiment_id,
            "status": experiment.status,
            "reason": experiment.reason,
            "score": experiment.score,
            "name": experiment.name,
        },
    )
    return "end"


def _current(loop: Loop, experiment_id: str) -> Attempt:
    return loop.store.attempts(experiment_id)[-1]


def _program_of(attempt: Attempt) -> str:
    if attempt.program_sha256 is None:
        raise AssertionError(f"attempt {attempt.number} of {attempt.experiment_id} reached the gates without a program")
    return attempt.program_sha256


def _refused(loop: Loop, attempt: Attempt, failure: Verdict) -> Route:
    """Closes the attempt with what the gate said, and says where to go."""
    outcome: AttemptOutcome = "duplicate" if failure.reason in {"duplicate", "equivalent"} else "gate_failed"
    closed = loop.store.close_attempt(
        attempt.experiment_id,
        attempt.number,
        outcome,
        {**failure.detail, **failure.as_dict(), **coding.recorded(loop, attempt)},
    )
    loop.notify(
        "refused",
        {
            "experiment": attempt.experiment_id,
            "attempt": attempt.number,
            "gate": failure.gate,
            "reason": failure.reason,
        },
    )
    return _route_after(loop, loop.store.experiment(attempt.experiment_id), closed)


def _route_after(loop: Loop, experiment: Experiment, attempt: Attempt) -> Route:
    if attempt.outcome == "accepted":
        return "trial"
    if experiment.kind == "starter" or attempt.outcome == "malformed" or attempt.number > loop.config.search.repairs:
        return "record"
    if attempt.outcome == "duplicate":
        loop.store.put_attempt(experiment.id, attempt.number + 1, origin="reproposal")
        return "research"
    loop.store.put_attempt(experiment.id, attempt.number + 1, origin="repair")
    return "code"


def _give_up(loop: Loop, attempt: Attempt, reason: str, message: str) -> Route:
    loop.store.close_attempt(attempt.experiment_id, attempt.number, "malformed", {"reason": reason, "message": message})
    return "record"
