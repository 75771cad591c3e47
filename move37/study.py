"""Studies: arms that differ in one thing, at equal budget, over several seeds of the search.

An arm is a change of the configuration. Every arm runs one campaign per seed; with a seed, all arms share starters,
training seeds and evaluation data, so arms are compared in pairs. The reference arm is the control.

Notable:
* campaigns take turns by seed, so that a study that is cut off has compared all arms on the seeds that are done;
* a study is its campaigns, by name: started again, it continues what is there and skips what is finished;
* the outcome of a campaign is the best score of its experiments, starters included. It is the maximum of noisy scores,
  in every arm alike: a difference between arms is fair, the level is too high (`move37 evaluate` on fresh seeds says by
  how much).

Not covered: how a campaign runs (`launch`), what an effect must be to count as a finding (`evaluator.findings`).
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evaluator.statistics import Interval, holm, mean_interval, paired_difference
from memory.records import Campaign
from memory.store import Store
from move37.config import CampaignConfig, Part, validate
from move37.errors import ConfigError
from move37.launch import stored_config

FEWEST_SEEDS = 5  # below, an interval of a paired difference says next to nothing
_LONGEST_STUDY = 20  # characters of a study's name: a campaign's name has 40


@dataclass(frozen=True)
class Arm:
    """A name, and what differs from the study's configuration, by dotted key."""

    name: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """What is compared. The first arm is the reference."""

    name: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    config: CampaignConfig

    def campaigns(self) -> Iterator[tuple[Arm, int, CampaignConfig]]:
        """Every campaign of the study, in the order in which they run."""
        for seed in self.seeds:
            for arm in self.arms:
                yield arm, seed, self.campaign(arm, seed)

    def campaign(self, arm: Arm, seed: int) -> CampaignConfig:
        """The configuration of one campaign of the study."""
        data = self.config.frozen()
        data.update(name=f"{self.name}-{arm.name}-s{seed}", seed=seed)
        for dotted, value in arm.changes.items():
            section, _, key = dotted.rpartition(".")
            (data[section] if section else data)[key] = value
        return validate(data)


def few_shot(counts: Sequence[int]) -> tuple[Arm, ...]:
    """An arm per number of exemplars; the smallest is the reference.

    Raises:
        ConfigError: less than two numbers.
    """
    wanted = sorted(set(counts))
    if len(wanted) < 2:
        raise ConfigError("a comparison needs two numbers of exemplars at least, e.g. --n 0,3 or --n 0..6")
    return tuple(Arm(f"n{count}", {"search.exemplars": count}) for count in wanted)


def ablations(parts: Sequence[Part]) -> tuple[Arm, ...]:
    """The whole system as the reference, and an arm without each of the parts.

    Raises:
        ConfigError: no part is named.
    """
    if not parts:
        raise ConfigError("name what to do without, e.g. --without memory,exemplars")
    return (
        Arm("full", {"search.without": []}),
        *(Arm(f"no-{part}", {"search.without": [part]}) for part in dict.fromkeys(parts)),
    )


def planned(store: Store, name: str, arms: tuple[Arm, ...], seeds: Sequence[int], config: CampaignConfig) -> Study:
    """A study, new or as far as it got. `config` is resolved (`launch.resolved`); the salt of its evaluation data gives
    way to that of the campaigns that were begun, so that all are measured on the same data.

    Raises:
        ConfigError: a seed is named twice or there are too few, the name is too long, or campaigns of that name were
            run under other settings.
    """
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"--seeds names a seed twice: {', '.join(map(str, seeds))}")
    if len(seeds) < FEWEST_SEEDS:
        raise ConfigError(
            f"{len(seeds)} seeds are too few to say anything of an effect: give {FEWEST_SEEDS} or more, e.g. --seeds 5"
        )
    if len(name) > _LONGEST_STUDY:
        raise ConfigError(f"the study's name '{name}' is longer than {_LONGEST_STUDY} characters")
    study = Study(name, arms, tuple(seeds), config)
    stored = {campaign.name: campaign for campaign in store.campaigns()}
    begun = next((stored[wanted.name] for _, _, wanted in study.campaigns() if wanted.name in stored), None)
    if begun is not None:
        objective = config.objective.model_copy(update={"salt": stored_config(begun).objective.salt})
        study = replace(study, config=config.model_copy(update={"objective": objective}))
    for _, _, wanted in study.campaigns():
        if wanted.name in stored and stored_config(stored[wanted.name]).config_hash() != wanted.config_hash():
            raise ConfigError(
                f"'{wanted.name}' was run under other settings, so it cannot be a part of this study: "
                "give the same settings, or another --name"
            )
    return study


@dataclass(frozen=True)
class Outcome:
    """What one campaign came to. `best_so_far`: after each experiment, in index order; empty slots before a score."""

    seed: int
    campaign: str
    best: float | None
    best_so_far: tuple[float | None, ...]
    completed: int
    duplicates: int
    experiments: int
    tokens: int
    device_s: float


def outcome(store: Store, campaign: Campaign) -> Outcome:
    """The outcome of a campaign, from the store."""
    experiments = store.outline(campaign.id)
    curve: list[float | None] = []
    best: float | None = None
    for one in experiments:
        if one.status == "completed" and one.score is not None:
            best = one.score if best is None else max(best, one.score)
        curve.append(best)
    spent = store.spent(campaign.id)
    return Outcome(
        seed=campaign.seed,
        campaign=campaign.name,
        best=best,
        best_so_far=tuple(curve),
        completed=sum(one.status == "completed" for one in experiments),
        duplicates=sum(one.status == "duplicate" for one in experiments),
        experiments=len(experiments),
        tokens=spent.tokens,
        device_s=spent.device_s,
    )


@dataclass(frozen=True)
class Effect:
    """An arm beside the reference, over the seeds that both finished.

    Attributes:
        scores: final scores of the arm, in order of the seeds; `level` is their mean with its interval.
        difference: mean of arm minus reference, paired by seed; None for the reference.
        size: standardised mean of the paired differences (Cohen's d_z with Hedges' correction); None where the
            differences do not spread, or for the reference.
        p: two-sided sign-flip test, adjusted by Holm for the number of arms; None for the reference.
        area: mean over seeds and experiments of the best score so far: how early the arm was good.
    """

    arm: str
    scores: tuple[float, ...]
    level: Interval
    difference: Interval | None
    size: float | None
    p: float | None
    area: float
    completed: float
    duplicates: float
    tokens: float
    device_s: float


def effects(study: Study, outcomes: Mapping[str, Sequence[Outcome]]) -> list[Effect]:
    """Every arm against the first, on the seeds that all arms finished with a score. Empty if there is none.

    Source of the size: Hedges 1981, Journal of Educational Statistics 6(2), 107-128 (correction 1 - 3 / (4 df - 1)),
    on the differences of pairs (Cohen's d_z).
    """
    by_seed = {arm.name: {x.seed: x for x in outcomes.get(arm.name, ()) if x.best is not None} for arm in study.arms}
    seeds = [seed for seed in study.seeds if all(seed in found for found in by_seed.values())]
    if not seeds:
        return []
    finals = {name: [float(found[seed].best or 0.0) for seed in seeds] for name, found in by_seed.items()}
    reference = study.arms[0].name
    compared = {
        name: paired_difference(values, finals[reference]) for name, values in finals.items() if name != reference
    }
    adjusted = holm({name: found.p for name, found in compared.items() if found.p is not None})
    found = []
    for name, values in finals.items():
        own = [by_seed[name][seed] for seed in seeds]
        apart = [a - b for a, b in zip(values, finals[reference], strict=True)]
        found.append(
            Effect(
                arm=name,
                scores=tuple(values),
                level=mean_interval(values),
                difference=compared[name].interval if name in compared else None,
                size=_size(apart) if name in compared else None,
                p=adjusted.get(name),
                area=statistics.fmean(statistics.fmean(s or 0.0 for s in one.best_so_far) for one in own),
                completed=statistics.fmean(one.completed / one.experiments for one in own),
                duplicates=statistics.fmean(one.duplicates / one.experiments for one in own),
                tokens=statistics.fmean(one.tokens for one in own),
                device_s=statistics.fmean(one.device_s for one in own),
            )
        )
    return found


def _size(differences: Sequence[float]) -> float | None:
    if len(differences) < 2:
        return None
    spread = statistics.stdev(differences)
    if math.isclose(spread, 0.0, abs_tol=1e-12):
        return None
    freedom = len(differences) - 1
    return statistics.fmean(differences) / spread * (1 - 3 / (4 * freedom - 1))
