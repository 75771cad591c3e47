"""The cost profile as the host sees it: the conversation, a strict reading of the answer, the roofline. No torch here.

Programs are measured in the sandbox (`evaluator.profiling`). Every number is the container's claim: it is bounded and
checked for contradictions here, shown to people and agents, and never part of a score.

FLOPs, bytes and state size are counted and repeat exactly. Times are those of a machine at a moment.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evaluator import tiers
from evaluator.errors import WireError
from evaluator.phases import PROTOCOL_VERSION, Phase
from evaluator.text import quoted
from evaluator.wire import Frame, FrameKind, control

DEVICES = ("cpu", "cuda")
MOST_LAYERS = 128

_MOST_COUNT = 2**62  # more than any program that a sandbox can run
_MOST_RATE = 1e30
_ROUNDING = 1e-6
Counts = Mapping[str, type]


@dataclass(frozen=True)
class Roofline:
    """What a machine can do at most, measured in the same job: matrix products, and a copy of a large tensor.

    Source: Williams, Waterman & Patterson 2009, "Roofline: an insightful visual performance model for multicore
    architectures", Communications of the ACM 52(4).
    """

    peak_flops_per_s: float
    bandwidth_bytes_per_s: float

    @property
    def ridge(self) -> float:
        """FLOPs per byte above which the arithmetic is the limit, and the memory below."""
        return self.peak_flops_per_s / self.bandwidth_bytes_per_s

    def attainable(self, intensity: float) -> float:
        """FLOP/s at `intensity` FLOPs per byte: min(peak, intensity x bandwidth)."""
        return min(self.peak_flops_per_s, intensity * self.bandwidth_bytes_per_s)

    def seconds(self, flops: float, moved: float) -> float:
        """The least time for so many FLOPs and bytes, one overlapping the other."""
        return max(flops / self.peak_flops_per_s, moved / self.bandwidth_bytes_per_s)


@dataclass(frozen=True)
class Pass:
    """One way of running the whole model on one batch, counted and timed.

    Attributes:
        flops_per_token: matrix products and convolutions, attention under the math backend; no elementwise work or FFT.
        bytes_per_token: read and written by every operation that is no view, as if nothing were fused or cached.
        operations: of those, in one pass: each costs some microseconds of launching, whatever its size.
        seconds: median wall time of the batch after warm-up; `cpu_s` the median CPU time.
        spread: interquartile range of the wall times over their median.
        predicted_s: sum over operations of the roofline's least time for each. Above the measured time, the data lay in
            a cache or a fused kernel did not move them; below it, launching and slow kernels took the rest.
    """

    flops_per_token: float
    bytes_per_token: float
    operations: int
    seconds: float
    spread: float
    cpu_s: float
    repeats: int
    predicted_s: float

    @property
    def intensity(self) -> float:
        """FLOPs per byte moved."""
        return self.flops_per_token / self.bytes_per_token

    def as_dict(self, tokens: int, roofline: Roofline) -> dict[str, float]:
        """With what follows from the numbers for a batch of `tokens`."""
        return {
            **asdict(self),
            "tokens_per_s": tokens / self.seconds,
            "intensity": self.intensity,
            "attainable_flops_per_s": roofline.attainable(self.intensity),
            "achieved_flops_per_s": self.flops_per_token * tokens / self.seconds,
            "measured_over_predicted": self.seconds / self.predicted_s,
        }


@dataclass(frozen=True)
class StateSize:
    """How many numbers a layer hands on per sequence: rank of d outputs from t on / d inputs before t, at two cuts.

    That is the dimension of the smallest linear system with this input-output map, so it does not depend on how the
    program is written. Source: Ho & Kalman 1966, "Effective construction of linear state-variable models from
    input/output functions"; as a measure of sequence mixers: Parnichkun et al. 2025 (arXiv 2504.19561). They freeze
    an input-dependent operator; here it is the Jacobian, in which inputs also act through gates, keys and weights.

    Attributes:
        d_model: the width that was probed, at most the tier's: larger states than `limits` cannot be seen.
        tolerance: singular values below this part of the largest were not counted. 1e-12, or more for a program that
            computes in float32 inside, where that is the size of its rounding.
        cuts: t, and 2t.
        limits: the largest rank that the probe could have found, for each layer at each cut.
        ranks: found, for each layer at each cut.

    Not covered: a state that decays below the probe's tolerance within t steps; what passes through discrete choices
    (no gradient); a state of constant size above the limit, which looks like one that grows.
    """

    d_model: int
    tolerance: float
    cuts: tuple[int, int]
    limits: tuple[tuple[int, int], ...]
    ranks: tuple[tuple[int, int], ...]

    @property
    def floats(self) -> int:
        """Numbers per sequence over all layers after 2t steps: at least so many, where `at_least`."""
        return sum(late for _, late in self.ranks)

    @property
    def at_least(self) -> bool:
        """Whether some layer still had in its state all that the probe could see: softmax attention's cache does."""
        return any(found[1] == limit[1] > 0 for found, limit in zip(self.ranks, self.limits, strict=True))

    @property
    def growth(self) -> float:
        """Largest ratio over layers of the rank at 2t to that at t: 1 is a constant state. A lower bound if `at_least`.

        Constant states of the references came out at 1.00 to 1.12 where they fit under the limits, since slow modes
        show only later.
        """
        return max((late / early for early, late in self.ranks if early), default=1.0)

    def as_dict(self) -> dict[str, Any]:
        return {
            "d_model": self.d_model,
            "tolerance": self.tolerance,
            "cuts": list(self.cuts),
            "limits": [list(pair) for pair in self.limits],
            "ranks": [list(pair) for pair in self.ranks],
            "floats": self.floats,
            "at_least": self.at_least,
            "growth": self.growth,
        }


@dataclass(frozen=True)
class CostReport:
    """What a program costs at a tier, as the container claims it.

    Attributes:
        reached_parameters: with a non-zero gradient from a batch of sequences, all parameters jittered.
        active_parameters: with a non-zero gradient from the output at one position of one sequence, on average. Fewer
            than those reached where tokens are routed (experts) or units rest (ReLU).
        saved_bytes_per_token: kept by the forward pass for the backward pass, without parameters, as the model runs.
        memory_rise_bytes: how much one training step raised the peak of the process's resident memory (on an
            accelerator: the peak of what was allocated). 0 where an earlier peak hides it.
        length_exponent: as `gating.CostProfile.length_exponent`.
    """

    device: str
    threads: int
    vocabulary: int
    batch: int
    length: int
    parameters: int
    mixer_parameters: int
    reached_parameters: int
    active_parameters: int
    parameter_bytes: int
    saved_bytes_per_token: float
    memory_rise_bytes: int
    length_exponent: float
    roofline: Roofline
    inference: Pass
    training: Pass
    state: StateSize

    @property
    def tokens(self) -> int:
        """In one timed batch."""
        return self.batch * self.length

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values, with what is derived: rates, intensities, growth."""
        plain = {name: getattr(self, name) for name in ("device", *_COUNTS, *_RATES)}
        return plain | {
            "roofline": {**asdict(self.roofline), "ridge": self.roofline.ridge},
            "inference": self.inference.as_dict(self.tokens, self.roofline),
            "training": self.training.as_dict(self.tokens, self.roofline),
            "state": self.state.as_dict(),
        }


_COUNTS = (
    "threads", "vocabulary", "batch", "length", "parameters", "mixer_parameters", "reached_parameters",
    "active_parameters", "parameter_bytes", "memory_rise_bytes",
)  # fmt: skip
_RATES = ("saved_bytes_per_token", "length_exponent")
_ROOFLINE: Counts = {"peak_flops_per_s": float, "bandwidth_bytes_per_s": float}
_PASS: Counts = {
    "flops_per_token": float, "bytes_per_token": float, "operations": int, "seconds": float, "spread": float,
    "cpu_s": float, "repeats": int, "predicted_s": float,
}  # fmt: skip
_POSITIVE = {
    "peak_flops_per_s", "bandwidth_bytes_per_s", "bytes_per_token", "seconds", "repeats", "predicted_s", "threads",
    "vocabulary", "batch", "length", "parameters", "d_model",
}  # fmt: skip


def profile_phases(source: str, *, track: str, tier: str, task: str | None = None) -> tuple[Phase, ...]:
    """The single phase of a profile job.

    Args:
        task: measure the model of this task, at its length, batch and vocabulary; None: the tier's longest ranking
            task's length, with a small vocabulary.

    Raises:
        UnknownTrack, UnknownTier, UnknownTask: a name that does not exist.
        UnknownAxis, ImpossibleSize, TaskSpecMalformed: the sizes in `task` are none of the task's.
    """
    chosen = tiers.get(track, tier)
    message = {"type": "job", "kind": "profile", "protocol": PROTOCOL_VERSION, "track": track, "tier": tier}
    if task is not None:
        chosen.plan(task)
        message["task"] = task
    program = Frame(FrameKind.PROGRAM, source.encode("utf-8"))
    return (Phase("profile", (control(message), program), None, 2 * chosen.gates_timeout_s),)


def read_profile_reply(reply: Mapping[str, Any]) -> CostReport:
    """The report in the `done` message of a profile job.

    Raises:
        WireError: anything missing, left over, negative, not finite, of an impossible size, or at odds with the rest.
    """
    whole = reply.get("profile")
    nested = {"roofline", "inference", "training", "state", "device"}
    if not isinstance(whole, dict) or not set(whole) > nested:
        raise WireError("a profile reply carries no cost profile")
    flat = {name: value for name, value in whole.items() if name not in nested}
    numbers = _numbers(flat, {**dict.fromkeys(_COUNTS, int), **dict.fromkeys(_RATES, float)}, "profile")
    if whole["device"] not in DEVICES:
        raise WireError(f"a profile's device must be one of {', '.join(DEVICES)}, not {quoted(whole['device'])}")
    report = CostReport(
        device=whole["device"],
        roofline=Roofline(**_numbers(whole["roofline"], _ROOFLINE, "roofline")),
        inference=Pass(**_numbers(whole["inference"], _PASS, "inference")),
        training=Pass(**_numbers(whole["training"], _PASS, "training")),
        state=_read_state(whole["state"]),
        **numbers,
    )
    _check_consistent(report)
    return report


def _numbers(value: object, names: Counts, what: str) -> dict[str, Any]:
    """`value` if it is an object of exactly these numbers, each of a possible size."""
    if not isinstance(value, dict) or set(value) != set(names):
        raise WireError(f"a profile reply's {what} must have exactly the fields {', '.join(names)}")
    found: dict[str, Any] = {}
    for name, kind in names.items():
        number = value[name]
        if type(number) is not int and (kind is int or type(number) is not float):
            raise WireError(f"a profile reply's {name} ({what}) is not a number of the right kind: {quoted(number)}")
        if not 0 <= number <= (_MOST_COUNT if kind is int else _MOST_RATE):  # false for NaN too
            raise WireError(f"a profile reply's {name} ({what}) is of no possible size: {quoted(number)}")
        if name in _POSITIVE and number <= 0:
            raise WireError(f"a profile reply's {name} ({what}) must be above zero")
        found[name] = kind(number)
    return found


def _read_state(value: object) -> StateSize:
    pairs = {"cuts", "limits", "ranks"}
    if not isinstance(value, dict) or not set(value) > pairs:
        raise WireError("a profile reply carries no state")
    flat = {name: number for name, number in value.items() if name not in pairs}
    numbers = _numbers(flat, {"d_model": int, "tolerance": float}, "state")
    limits, ranks = _pairs(value["limits"]), _pairs(value["ranks"])
    (cuts,) = _pairs([value["cuts"]])
    if not 0 < len(ranks) == len(limits):
        raise WireError("a profile reply's state must give ranks and limits for the same layers")
    if any(rank > limit for pair in zip(ranks, limits, strict=True) for rank, limit in zip(*pair, strict=True)):
        raise WireError("a profile reply's state claims a rank above what its probe can find")
    return StateSize(cuts=cuts, limits=limits, ranks=ranks, **numbers)


def _pairs(value: object) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list) or len(value) > MOST_LAYERS:
        raise WireError(f"a profile reply's state must be a list of at most {MOST_LAYERS} layers")
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or any(type(number) is not int for number in pair):
            raise WireError(f"a profile reply's state holds something else than pairs of integers: {quoted(pair)}")
        if not all(0 <= number <= _MOST_COUNT for number in pair):
            raise WireError(f"a profile reply's state holds an impossible number: {quoted(pair)}")
    return tuple((first, second) for first, second in value)


def _check_consistent(report: CostReport) -> None:
    for name in ("mixer_parameters", "reached_parameters", "active_parameters"):
        if getattr(report, name) > report.parameters:
            raise WireError(f"a profile reply claims more {name} than parameters")
    for name in ("inference", "training"):
        one: Pass = getattr(report, name)
        least = report.roofline.seconds(one.flops_per_token * report.tokens, one.bytes_per_token * report.tokens)
        # A sum of maxima is never below the maximum of the sums.
        if one.predicted_s < least * (1.0 - _ROUNDING):
            raise WireError(f"a profile reply's {name} predicts less time than its own FLOPs and bytes take")
