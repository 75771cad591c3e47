"""Modes of proposing, and the bandit that chooses among them and among models.

    improve    one change to the parent that should raise its score
    ablate     remove or neutralise one component of the parent, to see whether it matters
    combine    take a mechanism of a second parent into the first
    transfer   use a published finding that fits what was observed of the parent
    explore    a mechanism that none of the shown programs has

**Bandit.** UCB1 (Auer, Cesa-Bianchi and Fischer 2002, "Finite-time analysis of the multiarmed bandit problem", Machine
Learning 47, figure 1): every arm once, then the arm j that maximises

    mean_j + sqrt(2 ln n / n_j)

with n_j the plays of the arm, n those of all, and rewards in [0, 1]. Plays are the visible proposals and nothing else,
so that the same memory gives the same choice. Those in flight are not visible: of the choices that lie between the
horizon and this one each is made in turn, and counts as a play that earned the arm's mean (0 for an arm that was never
played), so that experiments side by side do not all try one thing. Source of that: Desautels, Krause and Burdick 2014
(Journal of Machine Learning Research 15, 4053-4103), batches with hallucinated feedback.

**Reward** (`reward`): the gain over the parent divided by `FULL_GAIN`, within [0, 1]. What failed, was refused, or
repeated another earns 0: it cost a proposal all the same. A fixed unit rather than the largest gain so far keeps the
reward of a finished experiment from changing later. The gain is not divided by the room that is left above the parent:
noise is as large at the top as at the bottom, and would earn more there.

**Ablations** are no arm: their aim is information, and a useful one usually scores lower, so that a bandit on gains
would drop them. Every `ABLATE_EVERY`-th proposal is one, and every proposal for which one was asked; their scores do
not reward the model that proposed them either.

**Regret** is estimated as the sum over plays of the best mean among the arms that could be chosen then, less what the
chosen one earned: how much more the best arms would have earned, if their means are what they seem to be now. Source of
counting only arms that could be chosen: Kleinberg, Niculescu-Mizil and Sharma 2010 (Machine Learning 80, 245-272).

Not covered: which ablations are worth asking for (`ablations`), and the choice of the parent.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from memory.records import Experiment

Mode = Literal["improve", "ablate", "combine", "transfer", "explore"]
MODES: tuple[Mode, ...] = ("improve", "ablate", "combine", "transfer", "explore")

# Three times what seed noise explains between two programs of two seeds at tier smoke (docs/evaluation.md): a gain of
# this size is one beyond doubt.
FULL_GAIN = 0.1
_STEP = 256  # plays between two tallies that are kept
_ACCOUNTS = {"mode": "bandit", "model": "models"}
ABLATE_EVERY = 8


class Played(Protocol):
    """What is needed of an experiment; `memory.records.Experiment` has it."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def score(self) -> float | None: ...
    @property
    def parent_id(self) -> str | None: ...
    @property
    def selection(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Arm:
    """What is known of an arm. No mean and no bound before the first play."""

    name: str
    plays: int
    mean: float | None
    bound: float | None


@dataclass(frozen=True)
class Drawn:
    """A choice and what it was made from. `regret` is cumulative over the plays that are known."""

    arm: str
    arms: tuple[Arm, ...]
    plays: int
    regret: float

    def as_dict(self) -> dict[str, Any]:
        """As stored with the experiment."""
        return asdict(self)


def reward(score: float | None, parent_score: float | None) -> float:
    """What a proposal earned, see above. `score` is None for one that was not completed."""
    if score is None or parent_score is None:
        return 0.0
    return min(1.0, max(0.0, (score - parent_score) / FULL_GAIN))


@dataclass(frozen=True)
class Play:
    """An arm that was played, what it earned, and the arms that could have been chosen."""

    arm: str
    reward: float
    among: tuple[str, ...] = ()


@dataclass
class Tally:
    """What plays come to, summed in their order: floating-point sums depend on it, and so might a choice."""

    plays: int = 0
    rewards: dict[str, float] = field(default_factory=dict)  # of each arm, in the order of the first plays
    counts: dict[str, float] = field(default_factory=dict)
    kinds: Counter[tuple[str, tuple[str, ...]]] = field(default_factory=Counter)

    def add(self, played: Iterable[Play]) -> "Tally":
        """Takes in plays that come after those that it has."""
        for play in played:
            self.plays += 1
            self.counts[play.arm] = self.counts.get(play.arm, 0.0) + 1
            self.rewards[play.arm] = self.rewards.get(play.arm, 0.0) + play.reward
            self.kinds[play.arm, play.among] += 1
        return self

    def copy(self) -> "Tally":
        """One that grows apart from this one."""
        return Tally(self.plays, dict(self.rewards), dict(self.counts), Counter(self.kinds))


@dataclass
class Plays:
    """The plays of finished experiments, each worked out once. `key` is where the arm stands in the selection (the
    bandit's own account beside it, under `_ACCOUNTS`), `default` the arm of those from before there was a choice."""

    key: str
    default: str
    _found: list[Play | None] = field(default_factory=list)
    _scores: dict[str, float | None] = field(default_factory=dict)
    _tallies: list[Tally] = field(default_factory=lambda: [Tally()])  # of the first 0, `_STEP`, 2 `_STEP` ... found

    def of(self, visible: Sequence[Played]) -> Tally:
        """Those of the proposals that are not ablations. What is visible grows at its end only, whoever asks, and
        parents come before their children."""
        for one in visible[len(self._found) :]:
            self._scores[one.id] = one.score if one.status == "completed" else None
            self._found.append(self._play(one))
            if len(self._found) % _STEP == 0:
                self._tallies.append(self._tallied(len(self._found)))
        return self._tallied(len(visible))

    def _tallied(self, count: int) -> Tally:
        """Of the first `count`, from the nearest tally before: whoever asks, and in whatever order, for at most
        `_STEP` plays."""
        nearest = min(count // _STEP, len(self._tallies) - 1)
        rest = self._found[nearest * _STEP : count]
        return self._tallies[nearest].copy().add(play for play in rest if play is not None)

    def _play(self, one: Played) -> Play | None:
        if one.kind != "proposal" or one.selection.get("mode") == "ablate":
            return None
        account = one.selection.get(_ACCOUNTS[self.key], {})
        among = tuple(arm["name"] for arm in account.get("arms", ()))
        earned = reward(self._scores[one.id], self._scores.get(one.parent_id or ""))
        return Play(str(one.selection.get(self.key, self.default)), earned, among)


def plays(visible: Iterable[Played], key: str, default: str) -> list[Play]:
    """Those that `Plays.of` tallies, of experiments that are seen once."""
    found = Plays(key, default)
    found.of(list(visible))
    return [play for play in found._found if play is not None]


def draw(played: Sequence[Play] | Tally, arms: Sequence[str], pending: int = 0) -> Drawn:
    """The arm that UCB1 chooses after what was `played` and `pending` choices whose rewards are not known yet.

    Rewards of arms that may not be chosen now still count as plays: n is of all.

    Raises:
        ValueError: there is no arm.
    """
    if not arms:
        raise ValueError("a bandit needs an arm")
    known = played if isinstance(played, Tally) else Tally().add(played)
    counts: dict[str, float] = dict.fromkeys(arms, 0.0) | known.counts
    sums: dict[str, float] = dict.fromkeys(arms, 0.0) | known.rewards
    means = {arm: sums[arm] / count for arm, count in counts.items() if count}
    seen = dict(counts)
    for _ in range(pending):
        counts[_best(counts, means, arms)] += 1
    bounds = _bounds(counts, means)
    best = [count * max(means.get(name, 0.0) for name in (arm, *among)) for (arm, among), count in known.kinds.items()]
    return Drawn(
        arm=_best(counts, means, arms),
        arms=tuple(Arm(arm, int(seen[arm]), means.get(arm), bounds.get(arm)) for arm in arms),
        plays=known.plays,
        regret=sum(best) - sum(sums.values()),
    )


def _bounds(counts: Mapping[str, float], means: Mapping[str, float]) -> dict[str, float]:
    total = sum(counts.values())
    return {arm: means.get(arm, 0.0) + math.sqrt(2 * math.log(total) / count) for arm, count in counts.items() if count}


def _best(counts: Mapping[str, float], means: Mapping[str, float], arms: Sequence[str]) -> str:
    """An arm without a play, else the highest bound; of equal ones the first."""
    bounds = _bounds(counts, means)
    return max(arms, key=lambda arm: bounds.get(arm, math.inf))


def worth_combining(experiment: "Experiment") -> bool:
    """Whether a program has a mechanism to give: its score is beyond doubt above guessing."""
    return experiment.score is not None and experiment.score >= FULL_GAIN


def possible(wanted: Sequence[Mode], *, parent: "Experiment", others: bool, published: bool) -> tuple[Mode, ...]:
    """Those modes that can be asked for: a combination needs scored programs `others` than the parent's, a transfer an
    entry, an ablation a parent that came of a change."""
    impossible: set[Mode] = set()
    if not others:
        impossible.add("combine")
    if not published:
        impossible.add("transfer")
    if parent.kind != "proposal":
        impossible.add("ablate")
    left = tuple(mode for mode in wanted if mode not in impossible)
    return left or ("improve",)


def due(ordinal: int) -> bool:
    """Whether the proposal of this number, from 0, is to be an ablation if it can."""
    return ordinal % ABLATE_EVERY == ABLATE_EVERY - 1


def choose(
    played: Sequence[Play] | Tally, modes: Sequence[Mode], *, ordinal: int, pending: int
) -> tuple[Mode, dict[str, Any]]:
    """The mode of proposal number `ordinal`, and what to store of the choice."""
    arms = [mode for mode in modes if mode != "ablate"]
    drawn = draw(played, arms or ["improve"], pending)
    mode = "ablate" if "ablate" in modes and (due(ordinal) or not arms) else drawn.arm
    found: Mode = next(known for known in MODES if known == mode)
    return found, {"mode": found, "bandit": drawn.as_dict()}


def summary(experiments: Iterable[Played], key: str, default: str) -> dict[str, Any]:
    """Counts, mean rewards and regret of a campaign's proposals, for `move37 status`."""
    known = list(experiments)
    played = plays(known, key, default)
    drawn = draw(played, sorted({play.arm for play in played}) or [default])
    ablations = sum(1 for one in known if one.kind == "proposal" and one.selection.get("mode") == "ablate")
    return {
        "arms": [asdict(arm) for arm in drawn.arms if arm.plays],
        "ablations": ablations,
        "regret": drawn.regret,
    }
