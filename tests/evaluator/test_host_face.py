"""The host face stays light: no torch, no program executed; and what the objective's hash covers."""

import subprocess
import sys
from pathlib import Path

import pytest

from evaluator import objective, tiers
from evaluator.errors import UnknownTask, UnknownTier, UnknownTrack, WireError
from evaluator.verdict import Verdict, failed, passed

ROOT = Path(__file__).resolve().parents[2]
HOST_MODULES = (
    "wire", "phases", "trial", "gating", "static_gate", "tasks.registry", "tasks.streams", "tiers", "objective",
    "catalogue", "errors", "verdict", "scoring", "tracks", "text", "compiling", "profile", "measured", "statistics",
    "findings", "halving", "identities",
)  # fmt: skip


def test_the_host_face_imports_no_torch() -> None:
    imports = ", ".join(f"evaluator.{name}" for name in HOST_MODULES)
    code = f"import sys, {imports}; print(sorted(set(sys.modules) & {{'torch', 'einops', 'safetensors', 'scipy'}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_objective_is_frozen_in_every_part() -> None:
    def digest(
        tier: str = "smoke",
        tasks: tuple[str, ...] = ("recall", "mqar"),
        seeds: tuple[int, ...] = (0, 1),
        salt: str = "",
    ) -> str:
        return objective.objective_hash("sequence", tier, tasks, seeds, salt=salt)

    assert digest() == digest(tasks=("mqar", "recall"))
    different = [digest(), digest(tier="standard"), digest(tasks=("recall",)), digest(seeds=(0, 2)), digest(salt="s")]
    assert len(set(different)) == len(different)


def test_the_scorer_version_is_part_of_the_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    before = objective.objective_hash("sequence", "smoke", ["recall"], [0])
    monkeypatch.setattr(objective, "SCORER_VERSION", "other")
    assert objective.objective_hash("sequence", "smoke", ["recall"], [0]) != before


def test_a_salt_is_never_written_into_the_objective() -> None:
    assert "hunter2" not in str(objective.objective("sequence", "smoke", ["recall"], [0], salt="hunter2"))


def test_unknown_names_say_which_exist() -> None:
    with pytest.raises(UnknownTier, match="micro, smoke, standard, full"):
        tiers.get("sequence", "huge")
    with pytest.raises(UnknownTrack, match="sequence"):
        tiers.get("vision", "smoke")
    with pytest.raises(UnknownTask, match="noisy_recall"):
        tiers.get("sequence", "smoke").plan("fuzzy")


def test_verdicts_round_trip_and_contradictions_are_refused() -> None:
    for verdict in (passed("shape", "fine", tried=3), failed("shape", "wrong_shape", "No.", line=4)):
        assert Verdict.from_dict(verdict.as_dict()) == verdict
    good = passed("shape").as_dict()
    for wrong in ({}, good | {"passed": False}, good | {"line": "4"}, good | {"extra": 1}, good | {"detail": []}):
        with pytest.raises(WireError):
            Verdict.from_dict(wrong)
