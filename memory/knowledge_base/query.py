"""Questions to the knowledge base: by symptom, by word, and how its entries fared. Deterministic, without randomness.

Not covered: meaning. Words are compared as they are spelt; symptoms come from a closed vocabulary (`memory.symptoms`).
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from memory.errors import NotFound, ValueRefused
from memory.knowledge_base.entries import Entry, Track, entries, near
from memory.symptoms import SYMPTOMS

_WORD = re.compile(r"[a-z0-9]+")
_PREFIX = 4  # a word of at least this many letters also finds longer ones that begin with it
_TITLE, _TAG, _IDEA = 3.0, 2.0, 1.0  # what a word counts where it stands


@dataclass(frozen=True)
class Match:
    """An entry that was found, how well it fits, and which symptoms or words it was found by."""

    entry: Entry
    weight: float
    by: tuple[str, ...]


def on_track(track: Track) -> tuple[Entry, ...]:
    """The entries that concern a track; "both" means whichever."""
    return tuple(one for one in entries() if track == "both" or one.track in {track, "both"})


def for_symptoms(
    symptoms: Iterable[str], *, track: Track = "both", limit: int | None = None, exclude: Collection[str] = ()
) -> tuple[Match, ...]:
    """The entries with at least one of these symptoms, best first, ties by id.

    The weight is the sum of log((N + 1) / n) over the shared symptoms, N being the entries of the track and n those
    with the symptom: one that few entries treat says more. (Source: inverse document frequency, Spärck Jones 1972.)

    Raises:
        NotFound: a symptom that is not in the vocabulary; the message names what is spelt alike.
        ValueRefused: a negative limit.
    """
    wanted = sorted(set(symptoms))
    for symptom in wanted:
        if symptom not in SYMPTOMS:
            raise NotFound("symptom", symptom, near(symptom, SYMPTOMS) or "`move37 knowledge --symptoms` lists them")
    pool = on_track(track)
    counts = Counter(symptom for one in pool for symptom in one.symptoms)
    rarity = {symptom: math.log((len(pool) + 1) / counts[symptom]) for symptom in wanted if counts[symptom]}
    found = []
    for one in pool:
        shared = tuple(symptom for symptom in wanted if symptom in one.symptoms)
        if shared and one.id not in exclude:
            found.append(Match(one, math.fsum(rarity[symptom] for symptom in shared), shared))
    return _best(found, limit)


def search(text: str, limit: int | None = None, *, track: Track = "both") -> tuple[Match, ...]:
    """The entries in whose title, id, tags or idea words of `text` stand: those with most words first, ties by id.

    Among entries with equally many words the place counts (title, then tags and id, then idea), each word weighted by
    its rarity.

    Raises:
        ValueRefused: a negative limit.
    """
    wanted = sorted(set(_WORD.findall(text.lower())))
    placed = [(one, _places(one.id)) for one in on_track(track)]
    hits = {word: {one.id: _place(places, word) for one, places in placed} for word in wanted}
    rarity = {word: math.log((len(placed) + 1) / max(1, sum(map(bool, hits[word].values())))) for word in wanted}
    found = []
    for one, _ in placed:
        by = tuple(word for word in wanted if hits[word][one.id])
        if by:
            found.append(Match(one, math.fsum(rarity[word] * hits[word][one.id] for word in by), by))
    found.sort(key=lambda match: -len(match.by))
    return _best(found, limit, by_words=True)


def _best(found: list[Match], limit: int | None, *, by_words: bool = False) -> tuple[Match, ...]:
    if limit is not None and limit < 0:
        raise ValueRefused(f"a limit of {limit}", "it cannot be negative")
    ordered = sorted(found, key=lambda match: (-len(match.by) if by_words else 0, -match.weight, match.entry.id))
    return tuple(ordered[:limit])


@functools.cache
def _places(entry_id: str) -> dict[str, float]:
    """The words of an entry, each with what it counts where it stands best."""
    (one,) = (e for e in entries() if e.id == entry_id)
    places: dict[str, float] = {}
    for text, worth in ((one.idea, _IDEA), (" ".join((one.id, *one.tags)), _TAG), (one.title, _TITLE)):
        places |= dict.fromkeys(_WORD.findall(text.lower()), worth)
    return places


def _place(places: Mapping[str, float], word: str) -> float:
    if word in places:
        return places[word]
    if len(word) < _PREFIX:
        return 0.0
    return max((worth for known, worth in places.items() if known.startswith(word)), default=0.0) / 2


@dataclass(frozen=True)
class Usage:
    """How experiments fared whose researcher was shown an entry. An association: nothing says that it was the cause.

    Entries are shown in company and to parents that had the symptom, so they share gains and regression to the mean.

    Attributes:
        shown: to how many experiments.
        measured: of those, how many have a known gain over their parent.
        gained: of those, how many gained more than nothing.
        mean_gain: over the measured ones, losses included; None where there are none.
    """

    entry: str
    shown: int
    measured: int
    gained: int
    mean_gain: float | None


def usage(uses: Iterable[tuple[str, str]], gains: Mapping[str, float | None]) -> tuple[Usage, ...]:
    """Per entry what became of the experiments it was shown to, ordered by entry.

    Args:
        uses: pairs of experiment and entry; a pair that comes twice counts once.
        gains: experiment to gain over its parent; None or absent where it has none (unfinished, failed, no parent).

    Raises:
        ValueRefused: a gain that is not finite.
    """
    for experiment, gain in gains.items():
        if gain is not None and not math.isfinite(gain):
            raise ValueRefused(f"the gain of experiment {experiment!r}", f"it is {gain}")
    shown: dict[str, list[str]] = {}
    for experiment, name in sorted(set(uses)):
        shown.setdefault(name, []).append(experiment)
    rows = []
    for name, experiments in sorted(shown.items()):
        known = [gain for one in experiments if (gain := gains.get(one)) is not None]
        mean = math.fsum(known) / len(known) if known else None
        rows.append(Usage(name, len(experiments), len(known), sum(gain > 0 for gain in known), mean))
    return tuple(rows)
