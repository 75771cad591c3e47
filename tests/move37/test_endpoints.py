"""Campaigns against a real HTTP server that speaks the OpenAI protocol on loopback, good and bad."""

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import JSONResponse, Response

from agents.embedded.notice import EMBEDDED_MODEL, RANDOM_MODEL
from evaluator import catalogue, tiers
from move37 import launch
from move37.errors import ConfigError
from move37.replaying import replay_campaign
from move37.workspace import Workspace
from tests.move37.conftest import ROOT, TINY, Cli, Play, results
from tests.move37.scripted import ScriptedServer, fenced, free_port, wait_for

pytestmark = pytest.mark.campaign


@pytest.fixture
def served(cli: Cli) -> Iterator[str]:
    """`move37 model serve` in a process of its own; yields its base URL."""
    command = cli.command("model", "serve", "--port", "0")
    with subprocess.Popen(command, cwd=ROOT, env=cli.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "not a language model" in first
        url = re.search(r"http://127\.0\.0\.1:(\d+)/v1", process.stdout.readline())
        assert url is not None
        wait_for(int(url[1]))
        yield url[0]
        process.terminate()


def test_a_port_that_is_taken_is_a_usage_error(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1 port {port}" in cli("model", "serve", "--port", str(port), expect=2).stderr


@pytest.mark.thorough
def test_a_campaign_over_http_is_the_campaign_in_process(served: str, cli: Cli, tmp_path: Path) -> None:
    campaign = (*TINY, "--experiments", "4", "--seed", "3")
    cli("run", *campaign, "--base-url", served, "--model", EMBEDDED_MODEL, "--accept-unsafe", "--name", "remote")
    embedded = Cli(tmp_path / "embedded")
    embedded("run", *campaign, "--name", "another-name-altogether")  # a name decides nothing
    over_http, in_process = cli.store(), embedded.store()
    assert results(over_http, "remote") == results(in_process, "another-name-altogether")
    assert over_http.campaign("remote").arms == ["starters", "language-model"]
    objectives = {s.campaigns()[0].objective_hash for s in (over_http, in_process)}
    assert len(objectives) == 1
    over_http.close()
    in_process.close()


def test_programs_of_a_remote_model_are_refused_without_isolation(served: str, cli: Cli) -> None:
    asked = (*TINY, "--experiments", "3", "--base-url", served)
    assert "--accept-unsafe" in cli("run", *asked, "--model", EMBEDDED_MODEL, expect=2).stderr
    assert f"serves 2 models ({EMBEDDED_MODEL}, {RANDOM_MODEL})" in cli("run", *asked, expect=2).stderr


def test_an_unreachable_endpoint_is_infrastructure(cli: Cli) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    assert "cannot be reached" in cli("run", *TINY, "--base-url", url, expect=4).stderr


def test_a_missing_key_for_a_remote_model_is_told_before_anything_starts(cli: Cli) -> None:
    refused = cli("run", *TINY, "--model", "gpt-none", expect=2)
    assert "OPENAI_API_KEY" in refused.stderr
    assert cli.json("status") == []


GOOD = catalogue.source("softmax_attention")
RETENTION = catalogue.source("retention")
NOT_CAUSAL = GOOD.replace("is_causal=True", "is_causal=False")
HEADER = "import torch\nfrom torch import nn\n\n\n"
HANGS = HEADER + (
    "class M(nn.Module):\n    def forward(self, x):\n        while True:\n            pass\n\n\n"
    "def build_mixer(d_model, layer_index, n_layers):\n    return M()\n"
)
EATS_MEMORY = HEADER + (
    "class M(nn.Module):\n    def forward(self, x):\n        kept = []\n        while True:\n"
    "            kept.append(bytearray(1 << 28))\n\n\n"
    "def build_mixer(d_model, layer_index, n_layers):\n    return M()\n"
)
PRINTS = HEADER + (
    "class M(nn.Module):\n    def forward(self, x):\n"
    "        for _ in range(1024):\n            print('x' * (1 << 20))\n"
    "        return x\n\n\n"
    "def build_mixer(d_model, layer_index, n_layers):\n    return M()\n"
)


def test_a_program_that_does_not_parse_is_repaired_and_each_attempt_is_kept(play: Play) -> None:
    store, experiment, _ = play(fenced("def build_mixer(:\n"), fenced("x = 1\n"), fenced(GOOD))
    attempts = store.attempts(experiment)
    assert [(a.origin, a.outcome) for a in attempts] == [
        ("proposal", "gate_failed"),
        ("repair", "gate_failed"),
        ("repair", "accepted"),
    ]
    assert [a.detail.get("reason") for a in attempts[:2]] == ["does_not_parse", "contract_missing"]
    assert store.experiment(experiment).status == "completed"
    assert len(store.exchanges(experiment)) == 5


@pytest.mark.thorough
def test_repairs_end_and_the_rejection_is_recorded(play: Play, scripted: ScriptedServer) -> None:
    wrong = [NOT_CAUSAL, NOT_CAUSAL + "\nA = 1\n", NOT_CAUSAL + "\nA = 2\n"]
    assert NOT_CAUSAL != GOOD
    store, experiment, launched = play(*map(fenced, wrong), search__repairs=2)
    row = store.experiment(experiment)
    assert (row.status, row.reason) == ("rejected", "not_causal")
    assert len(store.attempts(experiment)) == 3
    assert "not_causal" in scripted.asked[1][-1]["content"]
    assert launched.ending.state == "finished"
    assert store.trials(experiment) == []


def test_a_repetition_is_told_with_its_score_and_never_trained_twice(play: Play, scripted: ScriptedServer) -> None:
    commented = "# a comment changes nothing\n" + catalogue.source("mlp")
    store, experiment, _ = play(fenced(commented), search__repairs=1)
    row = store.experiment(experiment)
    assert (row.status, row.duplicate_of) == ("duplicate", "tiny-0000")
    assert [a.origin for a in store.attempts(experiment)] == ["proposal", "reproposal"]
    second = [x for x in store.exchanges(experiment) if x.role == "researcher"][1]
    assert "exp-0000" in second.request["messages"][-1]["content"]
    assert store.trials(experiment) == []


@pytest.mark.thorough
def test_repeating_what_is_in_flight_says_nothing_that_timing_decides(play: Play) -> None:
    store, _, launched = play(fenced(GOOD), fenced(GOOD), fenced(RETENTION), experiments=3, parallel=2)
    second = store.experiment("tiny-0002")
    assert [a.outcome for a in store.attempts(second.id)] == ["duplicate", "accepted"]
    asked = [x for x in store.exchanges(second.id) if x.role == "researcher"][1].request["messages"][-1]["content"]
    assert "in flight" in asked
    replayed = replay_campaign(store, launched.campaign)
    assert replayed.identical, replayed.differences


@pytest.mark.thorough
def test_repeating_a_refused_program_is_not_told_what_its_repair_scored(play: Play) -> None:
    store, _, _ = play(*map(fenced, (NOT_CAUSAL, GOOD, NOT_CAUSAL, RETENTION)), experiments=3)
    assert [a.outcome for a in store.attempts("tiny-0001")] == ["gate_failed", "accepted"]
    second = [x for x in store.exchanges("tiny-0002") if x.role == "researcher"][1]
    assert "refused by a gate (not_causal)" in second.request["messages"][-1]["content"]


def test_a_reply_without_a_program_gets_one_corrective_round_then_fails(play: Play, scripted: ScriptedServer) -> None:
    store, experiment, _ = play("I would rather not.")
    row = store.experiment(experiment)
    assert (row.status, row.reason) == ("failed", "reply_malformed")
    assert len(scripted.asked) == 2
    assert [x.turn for x in store.exchanges(experiment) if x.role == "coder"] == [0, 1]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [("x = '\0'\n", "rejected", "nul_byte"), ("x = '\udc80'\n", "failed", "reply_malformed")],
    ids=["NUL", "lone surrogate"],
)
def test_text_that_cannot_be_a_program_is_a_refusal_and_not_a_crash(
    play: Play, text: str, status: str, reason: str
) -> None:
    message = {"role": "assistant", "content": fenced(text)}
    escaped = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    store, experiment, launched = play(Response(escaped, media_type="application/json"), search__repairs=0)
    row = store.experiment(experiment)
    assert (row.status, row.reason) == (status, reason)
    assert launched.ending.state == "finished"


@pytest.mark.parametrize(
    ("program", "reasons"),
    [
        pytest.param(HANGS, {"timeout"}, id="hangs", marks=pytest.mark.thorough),
        pytest.param(EATS_MEMORY, {"out_of_memory", "forward_failed"}, id="eats memory"),
        pytest.param(
            PRINTS,
            {"timeout", "output_limit", "ok", "forward_failed"},
            marks=pytest.mark.thorough,
            id="prints a gigabyte",
        ),
    ],
)
def test_what_a_hostile_program_does_is_a_verdict(
    play: Play, monkeypatch: pytest.MonkeyPatch, program: str, reasons: set[str]
) -> None:
    _shorten_gates(monkeypatch, 12.0)
    started = time.monotonic()
    store, experiment, launched = play(
        fenced(program), search__repairs=0, sandbox__memory_gib=1.5, objective__tasks=["memorisation"]
    )
    row = store.experiment(experiment)
    assert row.status in {"rejected", "failed", "completed"}
    assert row.reason in reasons, (row.reason, row.message)
    assert launched.ending.state == "finished"
    assert time.monotonic() - started < 150


@pytest.mark.thorough
def test_a_token_budget_stops_the_campaign_and_resume_continues_it(play: Play, tmp_path: Path) -> None:
    store, _, launched = play(fenced(GOOD), experiments=4, budget__tokens=1000)
    assert launched.campaign.stopped_because == "budget_tokens"
    assert launched.ending.error is not None
    assert launched.ending.error.exit_code == 3
    spent = store.spent(launched.campaign.id).tokens
    config = launch.extended(store, launched.campaign, {"tokens": 10_000_000, "experiments": 2})
    workspace = Workspace(tmp_path / "runs-0", "")
    again = launch.execute(
        workspace, store, config, launched.campaign, notify=lambda k, p: None, announce=lambda n: None
    )
    assert again.ending.state == "finished"
    assert store.spent(launched.campaign.id).tokens > spent
    with pytest.raises(ConfigError, match="at least as many"):
        launch.extended(store, launched.campaign, {"experiments": 1})


def test_a_server_that_fails_pauses_the_campaign_and_nothing_is_lost(play: Play) -> None:
    quota = JSONResponse({"error": {"message": "no credit", "code": "insufficient_quota"}}, status_code=429)
    store, experiment, launched = play(quota)
    assert launched.campaign.state == "stopped"
    assert launched.campaign.stopped_because == "model"
    assert launched.ending.error is not None
    assert launched.ending.error.exit_code == 4
    assert store.experiment(experiment).status == "open"
    assert [x.role for x in store.exchanges(experiment)] == ["researcher"]


@pytest.mark.thorough
def test_a_substitute_answers_where_the_model_is_gone(play: Play, scripted: ScriptedServer) -> None:
    substitute = {"name": "scripted", "base_url": f"http://127.0.0.1:{scripted.port}/v1"}
    store, experiment, launched = play(
        fenced("def build_mixer(:\n"),
        model__name="gone",
        model__base_url=f"http://127.0.0.1:{free_port()}/v1",
        model__fallbacks=[substitute],
        search__repairs=0,
    )
    assert launched.ending.state == "finished"
    exchanges = store.exchanges(experiment)
    accounts = [x.response["fallback"] for x in exchanges if x.response]
    assert len(accounts) == len(exchanges) > 1
    assert all(account["answered"] == "scripted" for account in accounts)
    assert "no connection" in accounts[0]["passed_over"][0]["why"]
    assert "it rests" in accounts[1]["passed_over"][0]["why"]  # the second call does not wait for it again
    (event,) = store.events(launched.campaign.id, kind="model_switched")
    assert (event.payload["from"], event.payload["to"]) == ("gone", "scripted")


def _shorten_gates(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    import dataclasses

    micro = dataclasses.replace(tiers.get("sequence", "micro"), gates_timeout_s=seconds)
    monkeypatch.setattr(tiers, "_TIERS", {"sequence": {**tiers._TIERS["sequence"], "micro": micro}})


@pytest.mark.thorough
def test_a_launch_that_cannot_work_leaves_no_record(served: str, cli: Cli) -> None:
    remote = (*TINY, "--experiments", "3", "--name", "again", "--base-url", served, "--model", EMBEDDED_MODEL)
    cli("run", *remote, expect=2)
    assert cli.json("status") == []
    cli("run", *remote, "--accept-unsafe")
    assert cli.json("status")[0]["state"] == "finished"
