"""What is recorded of a refused attempt: the verdict, with the gate's details beside it and never over it."""

from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from evaluator.verdict import Verdict
from move37 import steps


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Verdict("identity", False, "duplicate", "Tried.", detail={"duplicate_of": "tiny-0000"}), "duplicate"),
        (Verdict("shape", False, "wrong_shape", "No.", 3, {"reason": "ok", "gate": "x", "line": 9}), "gate_failed"),
    ],
)
def test_a_detail_never_overrides_the_verdict(verdict: Verdict, outcome: str) -> None:
    loop, attempt = MagicMock(), SimpleNamespace(experiment_id="tiny-0001", number=1)
    loop.config.search.repairs = 1
    loop.config.search.edit_from_lines = 0
    loop.store.close_attempt.return_value = SimpleNamespace(outcome=outcome, number=1)
    steps._refused(loop, cast(Any, attempt), verdict)
    _, _, closed_as, recorded = loop.store.close_attempt.call_args.args
    assert closed_as == outcome
    assert {key: recorded[key] for key in verdict.as_dict()} == verdict.as_dict()
    assert recorded.get("duplicate_of") == verdict.detail.get("duplicate_of")
