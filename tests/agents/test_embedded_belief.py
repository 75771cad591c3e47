"""What the grammar believes after measurements."""

from __future__ import annotations

import numpy as np
import pytest

from agents.embedded.belief import Observation, believe
from agents.embedded.genome import Mixer, Serial, leaf
from agents.embedded.priors import expected_score

CONVOLVED = Mixer(Serial(leaf("ShortConvolution"), leaf("SoftmaxAttention")))
LINEAR = Mixer(Serial(leaf("ShortConvolution"), leaf("LinearAttention")))
NARROW = Mixer(Serial(leaf("ShortConvolution", kernel_size=3), leaf("SoftmaxAttention")))
STATE = Mixer(leaf("DiagonalSSM"))
TASKS = ("recall", "mqar")


def test_without_measurements_the_priors_order() -> None:
    designs = [CONVOLVED, LINEAR, STATE]
    belief = believe([], designs, TASKS, 2)
    order = sorted(designs, key=lambda one: -expected_score(one, 2, TASKS))
    assert [designs[index] for index in np.argsort(-belief.mean)] == order
    assert np.ptp(believe([], designs, TASKS, 2, informed=False).mean) == 0.0


@pytest.mark.parametrize("informed", [True, False])
def test_what_was_measured_is_believed_and_what_is_alike_follows(informed: bool) -> None:
    seen = [Observation(CONVOLVED, 0.1), Observation(STATE, 0.8)]
    belief = believe(seen, [CONVOLVED, STATE, NARROW, LINEAR], TASKS, 2, informed=informed)
    assert belief.mean[:2] == pytest.approx([0.1, 0.8], abs=0.06)
    assert abs(belief.mean[2] - 0.1) < 0.15  # another kernel size
    assert belief.deviation[0] < belief.deviation[2] < belief.deviation[3]


def test_tasks_are_told_apart_where_they_are_shown_apart() -> None:
    seen = [Observation(CONVOLVED, 0.5, {"recall": 0.9, "mqar": 0.1}), Observation(STATE, 0.05)]
    per_task = believe(seen, [NARROW], TASKS, 2).per_task[0]
    assert per_task[0] > per_task[1] + 0.2
    assert believe(seen, [NARROW], TASKS, 2).mean[0] == pytest.approx(per_task.mean())


def test_improvement_is_never_negative_and_grows_with_doubt() -> None:
    belief = believe([Observation(CONVOLVED, 0.9)], [CONVOLVED, NARROW, STATE], TASKS, 2)
    assert (belief.improvement(0.9) >= 0).all()
    assert (belief.improvement(0.2) > belief.improvement(0.9)).all()
