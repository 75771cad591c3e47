"""The shape of a learning curve in words: what an analyst would otherwise have to guess from four numbers."""

import statistics
from collections.abc import Mapping, Sequence

from memory.records import Trial

AT_CHANCE = 0.05  # share of the way from chance to 1 up to which a point is called guessing
STEADY = 0.05  # change of that share within which a stretch is called flat
SOLVED = 0.95

Points = Sequence[tuple[float, float]]


def shape(points: Points, chance: float) -> str:
    """In words, e.g. `at chance until 50 %, then rises; still rising at the end`. `points` are (fraction, accuracy)."""
    if not points:
        return "not recorded"
    shares = [(accuracy - chance) / (1.0 - chance) if chance < 1.0 else accuracy for _, accuracy in points]
    if max(shares) <= AT_CHANCE:
        return "at chance throughout"
    parts = [_begin(points, shares), _middle(shares), _end(shares)]
    return "; ".join(part for part in parts if part)


def _begin(points: Points, shares: Sequence[float]) -> str:
    first = next(place for place, share in enumerate(shares) if share > AT_CHANCE)
    if first:
        return f"at chance until {_percent(points[first - 1][0])}, then rises"
    if shares[0] >= SOLVED:
        return f"solved by {_percent(points[0][0])}"
    if max(shares) - shares[0] <= STEADY:
        return f"above chance from {_percent(points[0][0])} on, and no better later"
    return f"above chance from {_percent(points[0][0])} on, then rises"


def _middle(shares: Sequence[float]) -> str:
    best = max(shares)
    return "falls back at the end" if best - shares[-1] > STEADY else ""


def _end(shares: Sequence[float]) -> str:
    if len(shares) < 2 or max(shares) - shares[-1] > STEADY:
        return ""
    if shares[-1] >= SOLVED:
        return "solved at the end"
    rose = shares[-1] - shares[-2]
    if rose > STEADY:
        return "still rising at the end"
    return "flat at the end" if max(shares) - min(shares) > STEADY else ""


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def mean_curves(trials: Sequence[Trial]) -> dict[str, list[tuple[float, float]]]:
    """The mean over seeds per task, of completed trials whose curves have the same points."""
    found: dict[str, list[tuple[float, float]]] = {}
    for task, curves in _by_task(trials).items():
        at = [fraction for fraction, _ in next(iter(curves.values()))]
        whole = [curve for curve in curves.values() if [fraction for fraction, _ in curve] == at]
        found[task] = [
            (points[0][0], statistics.fmean(accuracy for _, accuracy in points)) for points in zip(*whole, strict=True)
        ]
    return found


def shapes(trials: Sequence[Trial], chances: Mapping[str, float]) -> dict[str, str]:
    """The shape per task; where seeds differ in it, each one's."""
    found = {}
    for task, curves in _by_task(trials).items():
        words = {seed: shape(curve, chances.get(task, 0.0)) for seed, curve in curves.items()}
        alike = len(set(words.values())) == 1
        found[task] = (
            next(iter(words.values())) if alike else " / ".join(f"seed {seed}: {said}" for seed, said in words.items())
        )
    return found


def _by_task(trials: Sequence[Trial]) -> dict[str, dict[int, list[tuple[float, float]]]]:
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for trial in sorted(trials, key=lambda t: t.seed):
        if trial.state == "completed" and trial.curve:
            curve = [(float(point["fraction"]), float(point["accuracy"])) for point in trial.curve]
            found.setdefault(trial.task, {})[trial.seed] = curve
    return found
