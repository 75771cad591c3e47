"""A program that is an earlier one, at any level of identity: recognised, linked, told, never trained."""

import pytest

from agents.embedded.notice import EMBEDDED_MODEL
from evaluator import catalogue
from move37.config import stored
from move37.laboratory import GateRequest, SandboxLaboratory
from move37.replaying import replay_campaign
from sandbox.protocol import JobOutcome, OutcomeKind
from tests.move37.conftest import Play
from tests.move37.scripted import fenced

STARTER = "short_convolution"
PROGRAM = catalogue.source(STARTER)
COPY = PROGRAM + "\n# the same text up to a comment\n"
RENAMED = PROGRAM.replace("oldest", "eldest").replace("newer", "younger")
REWRITTEN = PROGRAM.replace("ShortConvolution", "Another").replace("self.taps", "self.weights")
SAME_FUNCTION = PROGRAM.replace("F.silu(y)", "y * torch.sigmoid(y)")
ANOTHER = catalogue.source("gated_recurrence")


def starting(**more):
    return {"search__starters": [STARTER], "search__repairs": 1, **more}


REPEATS = [
    (COPY, "L0", "duplicate_of"),
    (RENAMED, "L1", "duplicate_of"),
    (REWRITTEN, "L2", "equivalent_of"),
    (SAME_FUNCTION, "L3", "equivalent_of"),
]


def test_a_repeat_is_recognised_at_its_level_linked_told_and_not_trained(play: Play):
    """One experiment whose proposals repeat the starter at every level in turn, and end with something new."""
    assert PROGRAM not in [program for program, _, _ in REPEATS]
    replies = [fenced(program) for program, _, _ in REPEATS]
    store, experiment, launched = play(*replies, fenced(ANOTHER), **starting(search__repairs=4))
    *repeats, last = store.attempts(experiment)
    assert [(a.outcome, a.detail["level"]) for a in repeats] == [("duplicate", level) for _, level, _ in REPEATS]
    assert [a.detail[link] for a, (_, _, link) in zip(repeats, REPEATS, strict=True)] == ["tiny-0000"] * 4
    assert last.outcome == "accepted"
    score = store.experiment("tiny-0000").score
    for turn in range(2, 6):
        told = store.find_exchange(experiment, "researcher", turn, 0)
        assert told is not None
        _, _, after = told.request["messages"][-1]["content"].partition("repeated earlier experiments")
        assert after.count("exp-0000") == turn - 1
        assert f"{score:.3f}" in after
    caught = {one.level: one.caught for one in store.recognised(launched.campaign.id)}
    assert caught == {"L0": 1, "L1": 1, "L2": 1, "L3": 1}
    keys = store.program_keys(store.experiment(experiment).program_sha256 or "")
    assert [(key.level, key.scope) for key in keys] == [
        ("L0", ""),
        ("L1", ""),
        ("L2", "sequence/micro"),
        ("L3", "sequence/micro"),
    ]
    assert all(key.key and key.cost_s > 0 for key in keys)
    replayed = replay_campaign(store, launched.campaign)
    assert replayed.identical, replayed.differences


def test_a_repeat_that_stays_one_ends_as_a_duplicate_of_the_experiment_that_computed_the_same(play: Play):
    store, experiment, _ = play(fenced(SAME_FUNCTION), **starting())
    row = store.experiment(experiment)
    assert (row.status, row.reason) == ("duplicate", "equivalent")
    assert (row.duplicate_of, row.equivalent_of) == (None, "tiny-0000")
    assert store.trials(experiment) == []


@pytest.mark.thorough
def test_a_repair_that_only_renames_is_the_refused_program_unchanged(play: Play):
    leaks = ANOTHER + "\nx = undefined_name\n"
    renamed = leaks.replace("undefined_name", "undefined_name  # still")
    store, experiment, _ = play(fenced(leaks), fenced(renamed), **starting())
    first, second = store.attempts(experiment)
    assert first.outcome == second.outcome == "gate_failed"
    assert (second.detail["gate"], second.detail["reason"]) == ("identity", "unchanged")


@pytest.mark.thorough
def test_levels_that_are_not_asked_for_are_not_looked_at(play: Play):
    store, experiment, launched = play(fenced(SAME_FUNCTION), **starting(search__identity=["L0"]))
    assert store.experiment(experiment).status == "completed"
    assert [one.level for one in store.recognised(launched.campaign.id)] == ["L0"]


def test_a_campaign_from_before_there_were_levels_keeps_recognising_by_text():
    assert stored({"model": {"name": EMBEDDED_MODEL}}).search.identity == ("L0",)
    assert stored({"search": {"identity": ["L0", "L3"]}}).search.identity == ("L0", "L3")


class Ending:
    """A sandbox in which every program ends its worker, after it has passed the gates or before."""

    level = "pretended"

    def __init__(self, *, passes):
        self.jobs, self._passes = [], passes

    async def run(self, job, *, on_progress):
        self.jobs.append(b"".join(frame.payload for phase in job.phases for frame in phase.send))
        if self._passes and on_progress is not None:
            on_progress({"phase": "gates", "step": 1, "steps": 2, "loss": None})
        return JobOutcome(OutcomeKind.CANDIDATE_FAILED, "timeout", "it took too long")


@pytest.mark.parametrize(("passes", "asked"), [(True, [True, False]), (False, [True])])
async def test_only_a_program_that_passed_is_tried_again_without_the_question_of_its_identity(passes, asked):
    sandbox = Ending(passes=passes)
    laboratory = SandboxLaboratory(sandbox, memory_gib=1.0, cpus=1.0)
    outcome = await laboratory.gates(ANOTHER, GateRequest("sequence", "micro", identity=("L2", "L3")), label="x")
    assert [b'"identity"' in sent for sent in sandbox.jobs] == asked
    assert [verdict.reason for verdict in outcome.verdicts] == ["timeout"]
