"""What any store has to do: a conformance suite that ships with the package.

A test module subclasses `StoreConformance` and gives the fixture `store`, once per kind of database. Helpers below
build the few rows that most tests need; they are usable on their own.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from memory.errors import Conflict, NotFound, ProgramUnstorable, ValueRefused
from memory.records import Campaign, Experiment, Usage
from memory.store import Store

PROGRAM = "import torch\n\n\ndef build_mixer(d_model, layer_index, n_layers):\n    return torch.nn.Identity()\n"
VERDICT: dict[str, Any] = {"gate": "size", "passed": True, "reason": "ok", "message": "", "line": None, "detail": {}}


class Ticking:
    """A clock that goes one second per look."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def new_campaign(store: Store, name: str = "demo", **changes: Any) -> Campaign:
    """A campaign with plain settings."""
    settings: dict[str, Any] = {
        "config": {"budget": {"experiments": 8}},
        "config_hash": "c0",
        "objective": {"track": "sequence"},
        "objective_hash": "o0",
        "seed": 7,
        "arms": ["agents"],
    }
    return store.create_campaign(name, **(settings | changes))


def new_experiment(store: Store, campaign: Campaign, index: int = 0, **changes: Any) -> Experiment:
    """An open experiment."""
    settings: dict[str, Any] = {"arm": "agents", "kind": "proposal", "track": "sequence", "tier": "smoke"}
    return store.open_experiment(campaign.id, index, **(settings | changes))


def completed(
    store: Store, campaign: Campaign, index: int, score: float = 0.5, parent: str | None = None
) -> Experiment:
    """A completed experiment."""
    experiment = new_experiment(store, campaign, index)
    store.select(experiment.id, parent, [], {"why": "test"})
    sha256 = store.put_program(f"{PROGRAM}# {index}\n")
    return store.finish_experiment(experiment.id, status="completed", score=score, program_sha256=sha256)


def exchange(store: Store, experiment: Experiment, turn: int = 0, **changes: Any) -> Any:
    """A stored exchange."""
    content: dict[str, Any] = {
        "request_key": f"k{turn}",
        "template_hashes": {"researcher": "abc"},
        "model": "m",
        "request": {"messages": [{"role": "user", "content": "hello"}]},
        "response": {"id": "r"},
        "text": "hypothesis",
        "usage": Usage(100, 20, estimated=False),
        "cost_usd": 0.25,
        "latency_s": 1.5,
        "finish_reason": "stop",
    }
    return store.put_exchange(experiment.id, "researcher", 1, turn, **(content | changes))


def trial(store: Store, experiment: Experiment, seed: int = 0, **changes: Any) -> Any:
    """An open trial."""
    settings: dict[str, Any] = {
        "task": "recall",
        "tier": "smoke",
        "seed": seed,
        "data": "selection",
        "objective_hash": "o0",
    }
    return store.open_trial(experiment.id, **(settings | changes))


class StoreConformance:
    """The contract of `memory.store.Store`, method by method."""

    def test_campaign_comes_back_whole(self, store: Store) -> None:
        made = new_campaign(store, announcements=["a grammar answers"])
        assert store.campaign("demo") == store.campaign(made.id) == made
        assert made.state == "running"
        assert made.id.startswith("c-")
        assert made.created_at.tzinfo is UTC
        assert store.campaigns() == [made]

    def test_campaign_name_is_used_once_and_is_a_word(self, store: Store) -> None:
        new_campaign(store)
        with pytest.raises(Conflict, match="taken"):
            new_campaign(store)
        for name in ("", "a b", "../x", "-x", "c-0123abcd", "x" * 81):
            with pytest.raises(ValueRefused):
                new_campaign(store, name)
        with pytest.raises(NotFound, match="status"):
            store.campaign("nobody")

    def test_campaign_states(self, store: Store) -> None:
        campaign = new_campaign(store)
        stopped = store.set_campaign_state(campaign.id, "stopped", because="interrupted", announcement="note")
        assert (stopped.state, stopped.stopped_because, stopped.announcements) == ("stopped", "interrupted", ["note"])
        assert stopped.finished_at is not None
        again = store.set_campaign_state(campaign.id, "running")
        assert (again.state, again.stopped_because, again.finished_at) == ("running", None, None)
        done = store.set_campaign_state(campaign.id, "finished", because="budget: experiments")
        assert store.set_campaign_state(campaign.id, "finished", because="budget: experiments") == done
        with pytest.raises(Conflict, match="final"):
            store.set_campaign_state(campaign.id, "running")

    def test_sessions_count_wall_time_until_last_seen(self, store: Store) -> None:
        campaign = new_campaign(store)
        killed = store.begin_session(campaign.id, {"pid": 1})
        seen = store.heartbeat(killed.id)
        ended = store.end_session(store.begin_session(campaign.id, {"pid": 2}).id)
        assert store.end_session(ended.id) == ended
        assert store.sessions(campaign.id) == [seen, ended]
        assert store.spent(campaign.id).wall_s == pytest.approx(seen.wall_s + ended.wall_s)
        assert ended.wall_s > 0
        with pytest.raises(Conflict, match="ended"):
            store.heartbeat(ended.id)

    def test_experiment_ids_are_deterministic_and_opening_repeats(self, store: Store) -> None:
        campaign = new_campaign(store)
        first = new_experiment(store, campaign, 7)
        assert first.id == "demo-0007"
        assert new_experiment(store, campaign, 7) == first == store.experiment("demo-0007")
        with pytest.raises(Conflict, match="arm"):
            new_experiment(store, campaign, 7, arm="random")

    def test_experiments_are_listed_by_index_and_filtered(self, store: Store) -> None:
        campaign, other = new_campaign(store), new_campaign(store, "other")
        for index in (2, 0, 1):
            new_experiment(store, campaign, index, arm="random" if index == 1 else "agents")
        new_experiment(store, other, 0)
        store.put_attempt("demo-0001", 1, origin="proposal")
        store.finish_experiment("demo-0001", status="failed", reason="exception")
        assert [one.index for one in store.experiments(campaign.id)] == [0, 1, 2]
        assert [one.index for one in store.experiments(campaign.id, up_to_index=1)] == [0, 1]
        assert [one.index for one in store.experiments(campaign.id, status="failed")] == [1]
        assert store.experiments(campaign.id, arm="random") == [store.experiment("demo-0001")]
        assert store.experiment("demo-0001").attempts == 1

    def test_selection_is_stored_once_and_needs_finished_sources(self, store: Store) -> None:
        campaign = new_campaign(store)
        parent = completed(store, campaign, 0)
        child = new_experiment(store, campaign, 1)
        assert child.selected_at is None
        chosen = store.select(child.id, parent.id, [parent.id], {"strategy": "best", "weights": [0.5]})
        assert (chosen.parent_id, chosen.exemplar_ids) == (parent.id, [parent.id])
        assert store.select(child.id, parent.id, [parent.id], {"strategy": "best", "weights": [0.5]}) == chosen
        with pytest.raises(Conflict, match="parent_id"):
            store.select(child.id, None, [parent.id], {"strategy": "best", "weights": [0.5]})
        other = new_experiment(store, campaign, 2)
        with pytest.raises(Conflict, match="not finished"):
            store.select(other.id, child.id, [], {})
        with pytest.raises(NotFound):
            store.select(other.id, "demo-9999", [], {})

    def test_finished_experiment_is_final(self, store: Store) -> None:
        campaign = new_campaign(store)
        done = completed(store, campaign, 0, score=0.75)
        assert done.finished
        assert store.finish_experiment(
            done.id, status="completed", score=0.75, program_sha256=done.program_sha256
        ) == store.experiment(done.id)
        with pytest.raises(Conflict, match="score"):
            store.finish_experiment(done.id, status="completed", score=0.8, program_sha256=done.program_sha256)
        for late in (
            lambda: store.put_attempt(done.id, 1, origin="proposal"),
            lambda: store.finish_experiment(done.id, status="failed"),
            lambda: store.select(done.id, None, [done.id], {}),
        ):
            with pytest.raises(Conflict):
                late()
        assert store.experiment(done.id) == done

    def test_final_status_needs_its_evidence(self, store: Store) -> None:
        campaign = new_campaign(store)
        experiment = new_experiment(store, campaign)
        with pytest.raises(Conflict, match="measured"):
            store.finish_experiment(experiment.id, status="completed", score=0.1)
        with pytest.raises(Conflict, match="repeats"):
            store.finish_experiment(experiment.id, status="duplicate")
        with pytest.raises(ValueRefused, match="finite"):
            store.finish_experiment(experiment.id, status="failed", score=float("nan"))
        with pytest.raises(NotFound):
            store.finish_experiment(experiment.id, status="duplicate", duplicate_of="demo-0009")
        assert store.experiment(experiment.id).status == "open"

    def test_programs_are_content_addressed(self, store: Store) -> None:
        key = store.put_program(PROGRAM)
        assert store.put_program(PROGRAM) == key
        program = store.program(key)
        assert (program.source, program.n_lines) == (PROGRAM, 5)
        assert program.literal_hash != program.l0
        for bad in ("x = 1\x00", "x = '\ud800'"):
            with pytest.raises(ProgramUnstorable):
                store.put_program(bad)

    def test_attempts_fill_up_and_close(self, store: Store) -> None:
        experiment = new_experiment(store, new_campaign(store))
        key = store.put_program(PROGRAM)
        store.put_attempt(experiment.id, 1, origin="proposal")
        store.put_attempt(experiment.id, 1, origin="proposal", hypothesis={"title": "gate"})
        full = store.put_attempt(experiment.id, 1, origin="proposal", program_sha256=key)
        assert (full.hypothesis, full.program_sha256, full.outcome) == ({"title": "gate"}, key, None)
        with pytest.raises(Conflict, match="hypothesis"):
            store.put_attempt(experiment.id, 1, origin="proposal", hypothesis={"title": "other"})
        with pytest.raises(NotFound):
            store.put_attempt(experiment.id, 2, origin="repair", program_sha256="0" * 64)
        closed = store.close_attempt(experiment.id, 1, "gate_failed", {"gate": "causality"})
        assert store.close_attempt(experiment.id, 1, "gate_failed", {"gate": "causality"}) == closed
        assert store.put_attempt(experiment.id, 1, origin="proposal", program_sha256=key) == closed
        with pytest.raises(Conflict, match="outcome"):
            store.close_attempt(experiment.id, 1, "accepted", {"gate": "causality"})
        second = store.put_attempt(experiment.id, 2, origin="repair")
        assert store.attempts(experiment.id) == [closed, second]

    def test_identity_belongs_to_the_first(self, store: Store) -> None:
        campaign, other = new_campaign(store), new_campaign(store, "other")
        first, second = new_experiment(store, campaign, 0), new_experiment(store, campaign, 1)
        assert store.reserve(campaign.id, "L0", "k", first.id).granted
        assert store.reserve(campaign.id, "L0", "k", first.id).granted
        refused = store.reserve(campaign.id, "L0", "k", second.id)
        assert (refused.granted, refused.owner) == (False, first.id)
        assert store.reserve(campaign.id, "L1", "k", second.id).granted
        assert store.reserve(other.id, "L0", "k", new_experiment(store, other).id).granted
        held = store.identity(campaign.id, "L0", "k")
        assert held is not None
        assert held.experiment_id == first.id
        assert store.identities(first.id) == [held]
        assert store.identity(campaign.id, "L2", "k") is None
        with pytest.raises(Conflict, match="belongs"):
            store.reserve(other.id, "L0", "k", first.id)

    def test_verdicts_keep_their_places(self, store: Store) -> None:
        experiment = new_experiment(store, new_campaign(store))
        store.put_attempt(experiment.id, 1, origin="proposal")
        failed = VERDICT | {"gate": "causality", "passed": False, "reason": "leaks", "line": 3, "detail": {"max": 0.1}}
        store.put_verdicts(experiment.id, 1, [VERDICT])
        both = store.put_verdicts(experiment.id, 1, [failed], first_position=1)
        assert store.put_verdicts(experiment.id, 1, [VERDICT, failed]) == both == store.verdicts(experiment.id)
        assert [(one.position, one.gate, one.passed) for one in both] == [(0, "size", True), (1, "causality", False)]
        with pytest.raises(Conflict, match="passed"):
            store.put_verdicts(experiment.id, 1, [VERDICT | {"passed": False}])
        with pytest.raises(NotFound):
            store.put_verdicts(experiment.id, 2, [VERDICT])
        with pytest.raises(ValueRefused):
            store.put_verdicts(experiment.id, 1, [{"gate": "size"}])

    def test_exchanges_are_stored_whole_and_once(self, store: Store) -> None:
        campaign = new_campaign(store)
        experiment = new_experiment(store, campaign)
        assert store.find_exchange(experiment.id, "researcher", 1, 0) is None
        text = "half a pair \ud83d, a NUL \x00, the escape \x1a0000"
        made = exchange(store, experiment, text=text)
        assert store.find_exchange(experiment.id, "researcher", 1, 0) == made
        assert made.text == text
        assert exchange(store, experiment, text=text, latency_s=9.0) == made
        with pytest.raises(Conflict, match="text"):
            exchange(store, experiment, text="another answer")
        second = exchange(store, experiment, 1, response=None, cost_usd=None)
        assert store.exchanges(experiment.id) == store.exchanges(campaign_id=campaign.id) == [made, second]
        with pytest.raises(ValueError, match="either"):
            store.exchanges()

    def test_trials(self, store: Store) -> None:
        campaign = new_campaign(store)
        experiment = new_experiment(store, campaign)
        opened = trial(store, experiment)
        assert (opened.state, opened.tries) == ("open", 1)
        again = trial(store, experiment, environment={"sandbox": "docker"})
        assert (again.id, again.tries, again.environment) == (opened.id, 2, {"sandbox": "docker"})
        with pytest.raises(Conflict, match="objective_hash"):
            trial(store, experiment, objective_hash="o1")
        store.charge_trial(opened.id, 2.5)
        result: dict[str, Any] = {
            "state": "completed",
            "score": 0.5,
            "metrics": {"accuracy": 0.5},
            "curve": [{"step": 1, "accuracy": 0.1}],
            "log": "ok\n",
            "device_s": 4.0,
        }
        done = store.finish_trial(opened.id, **result)
        assert (done.device_s, done.curve, done.tries) == (6.5, [{"step": 1, "accuracy": 0.1}], 2)
        assert store.finish_trial(opened.id, **result) == done == trial(store, experiment)
        with pytest.raises(Conflict, match="score"):
            store.finish_trial(opened.id, **(result | {"score": 0.6}))
        with pytest.raises(Conflict, match="final"):
            store.charge_trial(opened.id, 1.0)
        claim = trial(store, experiment, data="claim")
        assert store.trials(experiment.id) == [claim, done]
        assert store.trials(campaign_id=campaign.id) == [claim, done]
        other, place = new_experiment(store, campaign, 1), {"task": done.task, "seed": done.seed}
        again = [trial(store, one, seed=1) for one in (other, experiment)]
        for number, one in enumerate(again):
            store.finish_trial(one.id, **(result | {"score": 0.1 * number}))
        trial(store, other, seed=2)  # without a score, as the one on other data is
        found = [(done.experiment_id, *place.values(), 0.5), (experiment.id, place["task"], 1, 0.1)]
        assert store.campaign_scores(campaign.id) == [*found, (other.id, place["task"], 1, 0.0)]
        assert sorted(store.scores([experiment.id])) == found

    def test_knowledge(self, store: Store) -> None:
        campaign = new_campaign(store)
        first, second = completed(store, campaign, 0), completed(store, campaign, 1)
        assert store.analysis(first.id) is None
        analysis = store.put_analysis(first.id, {"summary": "helps"})
        assert store.put_analysis(first.id, {"summary": "helps"}) == analysis == store.analysis(first.id)
        lesson = store.put_lesson(first.id, "convolution helps recall", body={"effect": 0.1})
        raised = store.put_lesson(first.id, "convolution helps recall", level="ablated", body={"effect": 0.1})
        assert (raised.id, raised.level) == (lesson.id, "ablated")
        assert store.put_lesson(first.id, "convolution helps recall", body={"effect": 0.1}) == raised
        later = store.put_lesson(second.id, "gates do not")
        assert store.lessons(campaign.id) == [raised, later]
        assert store.lessons(campaign.id, 0) == [raised]
        assert store.retire_lesson(later.id, first.id).retired_by == first.id
        with pytest.raises(Conflict, match="retired"):
            store.retire_lesson(later.id, second.id)
        settings: dict[str, Any] = {"statistics": {"p": 0.01}, "claim_objective_hash": "o9"}
        finding = store.put_finding(second.id, first.id, **settings)
        assert store.put_finding(second.id, first.id, **settings) == finding
        assert store.findings(campaign.id) == [finding]

    def test_events_are_appended_and_followed(self, store: Store) -> None:
        campaign = new_campaign(store)
        experiment = new_experiment(store, campaign)
        first = store.put_event(campaign.id, "opened", {"n": 1}, experiment_id=experiment.id)
        second = store.put_event(campaign.id, "stopped")
        assert store.events(campaign.id) == [first, second]
        assert store.events(campaign.id, after=first.id) == [second]
        assert store.events(campaign.id, experiment_id=experiment.id) == store.events(campaign.id, limit=1) == [first]
        assert store.events(campaign.id, kind="stopped") == [second]

    def test_spent_is_the_sum_of_the_rows(self, store: Store) -> None:
        campaign = new_campaign(store)
        assert store.spent(campaign.id).cost_usd == 0.0
        agents, random = new_experiment(store, campaign, 0), new_experiment(store, campaign, 1, arm="random")
        exchange(store, agents, 0)
        exchange(store, agents, 1, cost_usd=None)
        exchange(store, random, 0, cost_usd=None)
        store.charge_trial(trial(store, random).id, 3.0)
        spent = store.spent(campaign.id)
        assert (spent.tokens, spent.prompt_tokens, spent.completion_tokens) == (360, 300, 60)
        assert (spent.cost_usd, spent.calls, spent.unpriced_calls, spent.device_s) == (0.25, 3, 2, 3.0)
        alone = store.spent(campaign.id, arm="random")
        assert (alone.tokens, alone.cost_usd, alone.device_s) == (120, None, 3.0)

    def test_a_call_that_gave_no_exchange_is_charged_every_time(self, store: Store) -> None:
        campaign = new_campaign(store)
        experiment = new_experiment(store, campaign)
        for _ in range(2):
            store.charge_call(experiment.id, "coder", 1, 0, usage=Usage(70, 5, estimated=False), cost_usd=None)
        exchange(store, experiment)
        spent = store.spent(campaign.id)
        assert (spent.prompt_tokens, spent.completion_tokens, spent.cost_usd) == (240, 30, 0.25)
        assert (spent.calls, spent.unpriced_calls) == (3, 2)
        assert len(store.exchanges(experiment.id)) == 1
        with pytest.raises(NotFound):
            store.charge_call("nobody-0000", "coder", 1, 0, usage=Usage(1, 1, estimated=False), cost_usd=None)

    def test_the_ledger_has_an_entry_for_every_charge_and_sums_to_what_was_spent(self, store: Store) -> None:
        campaign = new_campaign(store)
        agents, random = new_experiment(store, campaign, 0), new_experiment(store, campaign, 1, arm="random")
        first = exchange(store, agents)
        assert exchange(store, agents) == first  # a repeated call is charged once
        exchange(store, random, cost_usd=None)
        run = trial(store, random)
        store.charge_trial(run.id, 3.0)
        store.finish_trial(run.id, state="failed", reason="timeout", device_s=1.5)
        spent, charged = store.spent(campaign.id), store.charged(campaign.id)
        assert charged == {"calls": 2, "prompt_tokens": 200, "completion_tokens": 40, "usd": 0.25, "device_s": 4.5}
        assert (spent.prompt_tokens, spent.completion_tokens) == (200, 40)
        assert (spent.cost_usd, spent.device_s) == (0.25, 4.5)
        assert store.charged(campaign.id, arm="random") == {
            "calls": 1,
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "device_s": 4.5,
        }
        entries = store.charges(campaign.id)
        assert [(one.source, one.amount) for one in entries if one.kind == "device_s"] == [(run.id, 3.0), (run.id, 1.5)]
        assert store.charges(campaign.id, after=entries[1].id, limit=2) == entries[2:4]

    def test_keys_of_a_program_are_stored_once_for_every_campaign(self, store: Store) -> None:
        program = store.put_program(PROGRAM)
        first = store.put_program_key(program, "l1", "", key="s1-a", cost_s=0.01)
        assert store.put_program_key(program, "l1", "", key="s1-a", cost_s=0.02) == first
        none = store.put_program_key(program, "l2", "sequence", key=None, reason="its shapes depend on data")
        assert store.program_keys(program) == [first, none]
        with pytest.raises(Conflict, match="key"):
            store.put_program_key(program, "l1", "", key="s1-b")
        with pytest.raises(ValueRefused, match="reason"):
            store.put_program_key(program, "l3", "sequence", key=None)
        with pytest.raises(NotFound):
            store.put_program_key("0" * 64, "l1", "", key="s1-a")

    def test_what_each_level_of_identity_cost_and_caught_is_counted(self, store: Store) -> None:
        campaign = new_campaign(store)
        first, second, other = (
            completed(store, campaign, 0),
            new_experiment(store, campaign, 1),
            new_campaign(store, "other"),
        )
        program = store.put_program("x = 1")
        store.put_attempt(second.id, 1, origin="proposal", program_sha256=program)
        store.put_program_key(program, "L0", "", key="t1-a", cost_s=0.25)
        store.put_program_key(program, "L1", "", key=None, reason="does not compile", cost_s=0.5)
        store.put_program_key(store.put_program("x = 2"), "L0", "", key="t1-b", cost_s=9.0)  # nobody's attempt
        store.close_attempt(second.id, 1, "duplicate", {"duplicate_of": first.id, "level": "L0"})
        found = [(one.level, one.programs, one.keyed, one.cost_s, one.caught) for one in store.recognised(campaign.id)]
        assert found == [("L0", 1, 1, 0.25, 1), ("L1", 1, 0, 0.5, 0)]
        assert store.recognised(other.id) == []

    def test_an_equivalent_is_a_duplicate_with_an_original_of_another_text(self, store: Store) -> None:
        campaign = new_campaign(store)
        first, second = completed(store, campaign, 0), new_experiment(store, campaign, 1)
        with pytest.raises(Conflict, match="repeats"):
            store.finish_experiment(second.id, status="duplicate", equivalent_of=second.id)
        done = store.finish_experiment(second.id, status="duplicate", equivalent_of=first.id)
        assert (done.duplicate_of, done.equivalent_of) == (None, first.id)

    def test_a_fork_names_the_node_that_it_continues(self, store: Store) -> None:
        campaign = new_campaign(store)
        node, unfinished = completed(store, campaign, 0), new_experiment(store, campaign, 1)
        fork = new_campaign(store, "fork", forked_from=campaign.id, forked_at=node.id)
        assert (fork.forked_from, fork.forked_at, fork.read_only, fork.origin) == (campaign.id, node.id, False, None)
        for origin, at in ((fork.id, node.id), (None, node.id), (campaign.id, unfinished.id)):
            with pytest.raises(Conflict):
                new_campaign(store, "other", forked_from=origin, forked_at=at)
        with pytest.raises(NotFound):
            new_campaign(store, "other", forked_from=campaign.id, forked_at="demo-0099")

    def test_evidence_of_lessons_and_uses_of_knowledge(self, store: Store) -> None:
        campaign = new_campaign(store)
        first, second = completed(store, campaign, 0), completed(store, campaign, 1)
        lesson = store.put_lesson(first.id, "gates help")
        against = store.put_evidence(lesson.id, second.id, "contradicts", "it fell by 0.1")
        assert store.put_evidence(lesson.id, second.id, "contradicts", "it fell by 0.1") == against
        assert store.evidence(campaign.id) == [against]
        with pytest.raises(Conflict, match="stance"):
            store.put_evidence(lesson.id, second.id, "supports", "it fell by 0.1")
        with pytest.raises(ValueRefused, match="stance"):
            store.put_evidence(lesson.id, first.id, "doubts")  # type: ignore[arg-type]
        store.put_knowledge_uses(second.id, ["gating", "delta-rule", "gating"])
        store.put_knowledge_uses(second.id, ["gating"])
        store.put_knowledge_uses(first.id, ["gating"])
        uses = [(use.experiment_id, use.entry) for use in store.knowledge_uses(campaign.id)]
        assert uses == [(first.id, "gating"), (second.id, "delta-rule"), (second.id, "gating")]
        assert store.knowledge_shown([first.id]) == {"gating"}
        assert store.knowledge_shown([second.id, first.id, "demo-0099"]) == {"gating", "delta-rule"}
        assert store.knowledge_shown([]) == set()

    def test_lessons_and_evidence_of_some_experiments(self, store: Store) -> None:
        campaign = new_campaign(store)
        first, second, third = (completed(store, campaign, index) for index in range(3))
        fork = new_campaign(store, "fork", forked_from=campaign.id, forked_at=first.id)
        other = completed(store, fork, 1)
        lessons = [store.put_lesson(one.id, claim) for one in (third, first) for claim in ("a", "b")]
        rows = [store.put_evidence(lessons[2].id, one.id, "supports") for one in (second, other)]
        assert store.lessons_of([third.id, first.id, "demo-0099"]) == store.lessons(campaign.id)
        assert {x.id for x in store.lessons_of([third.id])} == {x.id for x in lessons[:2]}
        assert (
            store.evidence_with([first.id, other.id]) == store.evidence_with([first.id]) == store.evidence(campaign.id)
        )
        assert store.evidence_with([second.id]) == rows[:1]
        assert store.evidence_with([third.id]) == store.evidence_with([]) == []
        assert store.lessons_of([second.id]) == store.lessons_of([]) == []

    def test_vectors_are_kept_by_encoder(self, store: Store) -> None:
        store.put_vectors("program", "hash-1", {"b": b"\x00\xff", "a": b"1"})
        store.put_vectors("program", "hash-1", {"a": b"1", "c": b"3"})
        store.put_vectors("program", "hash-2", {"a": b"2"})
        assert [(one.key, one.data) for one in store.vectors("program", "hash-1")] == [
            ("a", b"1"),
            ("b", b"\x00\xff"),
            ("c", b"3"),
        ]
        assert [one.data for one in store.vectors("program", "hash-2", ["a", "z"])] == [b"2"]
        with pytest.raises(Conflict, match="another"):
            store.put_vectors("program", "hash-1", {"d": b"4", "a": b"9"})
        assert len(store.vectors("program", "hash-1")) == 3

    def test_counts(self, store: Store) -> None:
        campaign = new_campaign(store)
        completed(store, campaign, 0)
        experiment = new_experiment(store, campaign, 1, arm="random")
        store.put_attempt(experiment.id, 1, origin="proposal")
        trial(store, experiment)
        exchange(store, experiment)
        counts = store.counts(campaign.id)
        assert (counts.experiments, counts.finished, counts.open, counts.completed) == (2, 1, 1, 1)
        assert (counts.attempts, counts.trials, counts.exchanges, counts.lessons, counts.findings) == (1, 1, 1, 0, 0)
        assert store.counts(campaign.id, arm="random").experiments == 1

    def test_refused_values_store_nothing(self, store: Store) -> None:
        campaign = new_campaign(store)
        for payload in ({"x": float("inf")}, {1: "x"}, {"x": object()}, {"x": {"y": [float("nan")]}}):
            with pytest.raises(ValueRefused, match="payload"):
                store.put_event(campaign.id, "bad", payload)  # type: ignore[arg-type]
        assert store.events(campaign.id) == []
        with pytest.raises(ValueRefused):
            trial(store, new_experiment(store, campaign), seed=2**80)
        assert store.counts(campaign.id).trials == 0

    def test_snapshots_are_detached(self, store: Store) -> None:
        campaign = new_campaign(store)
        before = new_experiment(store, campaign)
        campaign.config["budget"] = "changed by the reader"
        assert store.campaign(campaign.id).config == {"budget": {"experiments": 8}}
        store.finish_experiment(before.id, status="rejected", reason="causality")
        assert before.status == "open"
