"""A real campaign in which an analyst asks for an ablation, it is run, and a lesson rises by what it measured.

Every role is scripted, so that it does not hang on what the grammar happens to propose; programs really train.
"""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from memory.tokens import estimate
from move37 import launch, views
from move37.config import CampaignConfig
from move37.replaying import replay_campaign
from move37.report.status import status_text
from move37.workspace import Workspace
from tests.move37.scripted import ScriptedServer, fenced

pytestmark = pytest.mark.campaign

GATED = '''"""A gated unit{what}."""

import torch
from torch import nn
from torch.nn import functional as F


class Gated(nn.Module):
    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        {made}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = self.value(x)
        {used}
        return self.out(F.silu(self.gate(x)) * v)


def build_mixer(d_model: int, layer_index: int, n_layers: int) -> nn.Module:
    return Gated(d_model)
'''
WITH = GATED.format(
    what=" behind a short causal convolution",
    made="self.conv = nn.Conv1d(d_model, d_model, 4, groups=d_model, padding=3)",
    used="v = self.conv(v.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)",
)
WITHOUT = GATED.format(what="", made="self.scale = nn.Parameter(torch.ones(d_model))", used="v = v * self.scale")


class RoleServer(ScriptedServer):
    """Answers each role from its own script."""

    def __init__(self, scripts: dict[str, list[str]]) -> None:
        super().__init__()
        self.scripts = scripts
        self.prompts: list[tuple[str, str]] = []

    async def _complete(self, request: Request) -> Response:
        messages = json.loads(await request.body())["messages"]
        role = messages[0]["content"].split("\n")[0].removeprefix("# Role: ")
        self.prompts.append((role, messages[-1]["content"]))
        read = sum(estimate(message["content"]) for message in messages)
        message = {"role": "assistant", "content": self.scripts[role].pop(0)}
        return JSONResponse(
            {
                "id": "x", "object": "chat.completion", "created": 0, "model": "scripted",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": read, "completion_tokens": 100, "total_tokens": read + 100},
            }
        )  # fmt: skip


def hypothesis(change: str, direction: str, size: float) -> str:
    return json.dumps(
        {
            "title": change, "mechanism": "local mixing", "change": change, "design": change, "refuted_by": "no change",
            "ablation": "nothing", "knowledge": [],
            "predictions": [{"task": "memorisation", "direction": direction, "size": size}],
        }
    )  # fmt: skip


def analysis(change: str, **more: Any) -> str:
    lesson = {"claim": f"'{change}' decides.", "change": change, "effect": 0.0}
    return json.dumps(
        {"summary": "s", "prediction_held": "yes", "lesson": lesson, "next_test": "n", "idea_kept": "yes"}
        | {"evidence": [], "ablation_request": None}
        | more
    )


@pytest.mark.thorough
def test_a_requested_ablation_is_run_and_raises_the_lesson(
    tiny_config: Callable[..., CampaignConfig], tmp_path: Path
) -> None:
    asked = {"remove": "the convolution", "expect": "it falls to chance"}
    unknown = {"lesson": "exp-0000", "stance": "supports", "note": "there is no lesson of a starter"}
    server = RoleServer(
        {
            "researcher": [
                hypothesis("add a gated convolution", "up", 0.5),
                hypothesis("remove convolution", "down", 0.5),
            ],
            "coder": [fenced(WITH), fenced(WITHOUT)],
            "analyst": [
                analysis("add a gated convolution", evidence=[unknown]),
                analysis("add a gated convolution", ablation_request=asked),
                analysis("remove convolution"),
            ],
        }
    )
    with server:
        config = launch.resolved(
            tiny_config(
                name="abl", experiments=3, objective__tier="smoke", objective__tasks=["memorisation"],
                search__starters=["mlp"], search__ablation_share=1.0, model__name="scripted",
                model__base_url=f"http://127.0.0.1:{server.port}/v1", sandbox__backend="process",
                sandbox__accept_unsafe=True,
            )
        )  # fmt: skip
        workspace = Workspace(tmp_path, f"sqlite:///{tmp_path}/store.db")
        with closing(workspace.open(create=True)) as store:
            launched = launch.execute(workspace, store, config, notify=lambda *_: None, announce=lambda _: None)
            experiments = store.experiments(launched.campaign.id)
            assert [e.status for e in experiments] == ["completed"] * 3, [e.message for e in experiments]
            assert experiments[2].parent_id == "abl-0001"
            assert experiments[2].selection["mode"] == "ablate"
            told = next(text for role, text in server.prompts[::-1] if role == "researcher")
            assert 'Take away: "the convolution".' in told
            assert "Your predictions so far: direction right in 1 of 1" in told
            corrected = [text for role, text in server.prompts if role == "analyst"][1]
            assert "evidence names the lessons exp-0000; none is shown" in corrected

            shown = views.show(store, experiments[1])
            assert shown["lesson"]["level"] == "ablated"
            assert [e["experiment"] for e in shown["lesson"]["evidence"]] == ["abl-0002"]
            assert shown["ablation"]["carried_out_by"] == "abl-0002"
            assert shown["ablation"]["difference"] < -0.3
            assert views.show(store, experiments[2])["answers"] == "abl-0001"
            row = views.status(workspace, store, launched.campaign) | views.closer(store, launched.campaign)
            assert row["lessons"] == {"observed": 1, "ablated": 1, "replicated": 0, "retired": 0}
            assert (row["calibration"]["right"], row["calibration"]["predictions"]) == (2, 2)
            assert set(row["calibration"]["by_mode"]) == {"ablate", "improve"}
            text = status_text([row])
            assert "ablation asked for by abl-0001: the convolution: abl-0002 moved the score by -" in text
            assert "lessons: 1 observed, 1 ablated" in text

            replayed = replay_campaign(store, launched.campaign)
            assert replayed.identical, replayed.differences
            assert replayed.calls_answered == len(server.prompts) == 7
