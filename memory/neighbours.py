"""Nearest neighbours over texts: an index that is kept in step with the store, one entry at a time.

Notable:
- A search is exact up to `exact_up_to` entries (200,000), by usearch's brute-force scan over
  eight-bit codes; above that it is approximate, by usearch's graph (HNSW; Malkov & Yashunin 2018, arXiv:1603.09320).
- What is returned is scored again in whole numbers: codes are bytes and their products add up below 2^24, where even
  float32 adds without rounding. A similarity is therefore the same on every machine, in any order of addition, on any
  number of threads, and equal ones are ordered by their keys.
- An exact answer depends on nothing but the entries that the asker may see. An approximate one also depends on
  what else is in the graph, and on when it was saved: prompts have to be reproducible, so leave it exact for them.
- The file is a convenience: what it lacks is added, what is wrong with it is logged once and it is made anew.

Not covered: what the vectors mean (memory/vectors.py), which keys exist and who may see them (the caller).
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory.vectors import Encoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Codes = NDArray[np.int8]

logger = logging.getLogger(__name__)

Among = AbstractSet[str] | Callable[[str], bool]

EXACT_UP_TO = 200_000

_FORMAT = "move37-neighbours-1"
_BATCH = 256  # texts encoded at a time
_ROOM = 128  # candidates beyond those asked for, so that a tie at the end is usually seen whole: a scan costs no more
_WIDEST = 1024  # candidates that a scan returns before it is cheaper to score every entry
_BLOCK = 8192  # entries scored at a time
_LENGTH = 4096.0  # of a code at most: products of two add up to at most 2^24, exactly, in float32
_SLACK = 1e-3  # by how much usearch's distance of two codes may be off; seen: below 1e-6
_EXPANSION = 256  # how many entries of the graph a search looks at


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry and its cosine similarity to what was asked, from -1 to 1."""

    key: str
    similarity: float


class Neighbours:
    """An index over texts known by keys. A key's text never changes, as finished rows never do.

    Any thread may call any method at any time; calls wait for each other.
    """

    def __init__(self, encoder: Encoder, *, exact_up_to: int = EXACT_UP_TO) -> None:
        import numpy as np

        self._encoder = encoder
        self._exact_up_to = exact_up_to
        self._keys: list[str] = []
        self._place: dict[str, int] = {}
        self._codes: Codes = np.zeros((0, encoder.dimensions), np.int8)  # grows by doubling
        self._graph: Any = None
        self._lock = threading.RLock()

    @property
    def encoder(self) -> str:
        """The name of the encoder whose vectors these are."""
        return self._encoder.name

    @property
    def approximate(self) -> bool:
        """Whether there are so many entries that searches are approximate."""
        return len(self._keys) > self._exact_up_to

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._place

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that are not in the index, in their order: only their texts have to be read."""
        with self._lock:
            return [key for key in dict.fromkeys(keys) if key not in self._place]

    def sync(self, items: Iterable[tuple[str, str]]) -> int:
        """Adds what is new of (key, text) pairs; the rest is left as it is. Returns how many were new.

        Raises:
            ValueRefused: the encoder makes no vector of a text; the batches before it are added.
        """
        with self._lock:
            fresh = iter({key: text for key, text in items if key not in self._place}.items())
            added = 0
            while batch := list(islice(fresh, _BATCH)):
                vectors = self._encoder.encode([text for _, text in batch])
                added += self._append([key for key, _ in batch], vectors)
            return added

    def sync_vectors(self, vectors: "Mapping[str, NDArray[np.float32]]") -> int:
        """Adds what is new of vectors that this encoder made before (shape (d,) each). Returns how many were new."""
        import numpy as np

        with self._lock:
            keys = [key for key in vectors if key not in self._place]
            return self._append(keys, np.stack([vectors[key] for key in keys])) if keys else 0

    def nearest(
        self, text: str, k: int, *, among: Among | None = None, exclude: Collection[str] = ()
    ) -> list[Neighbour]:
        """The k entries nearest to a text, the nearest first, equal ones by key; fewer if there are no more.

        Args:
            text: in the sense of the encoder.
            k: at least 1.
            among: the entries that may be seen, as a set of keys, or as a predicate that is asked for few of them.
            exclude: entries that are not wanted, such as the one that asks.
        """
        return self._nearest(_coded(self._encoder.encode([text]))[0], k, among, frozenset(exclude))

    def nearest_to(
        self, key: str, k: int, *, among: Among | None = None, exclude: Collection[str] = ()
    ) -> list[Neighbour]:
        """The k entries nearest to one of the index, itself left out; nothing is encoded.

        Raises:
            KeyError: it is not in the index.
        """
        with self._lock:
            query = self._codes[self._place[key]].copy()
        return self._nearest(query, k, among, frozenset((*exclude, key)))

    def similarity(self, key: str, other: str) -> float:
        """The cosine of two entries.

        Raises:
            KeyError: one of them is not in the index.
        """
        with self._lock:
            one, two = self._codes[self._place[key]].copy(), self._codes[self._place[other]].copy()
        return float(_similarities(one, two[None])[0])

    def save(self, path: Path) -> None:
        """Writes the index to a file, in one piece."""
        import numpy as np
        from safetensors.numpy import save

        with self._lock:
            tensors = {"codes": self._codes[: len(self._keys)], "keys": _bytes(json.dumps(self._keys).encode())}
            if self._graph is not None:
                tensors["graph"] = np.frombuffer(self._graph.save(), np.uint8)
            data = save(tensors, metadata=self._described(tensors))
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_bytes(data)
        part.replace(path)

    @classmethod
    def load(cls, path: Path, encoder: Encoder, *, exact_up_to: int = EXACT_UP_TO) -> "Neighbours":
        """The index of a file, or an empty one where there is no file, or none that can be used: that is logged."""
        index = cls(encoder, exact_up_to=exact_up_to)
        if not path.exists():
            return index
        try:
            index._read(path)
        except _Unusable as error:
            logger.warning("the index of neighbours %s is made anew: %s", path, error)
            return cls(encoder, exact_up_to=exact_up_to)
        return index

    def _read(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                found = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise _Unusable(f"it cannot be read ({error})") from error
        if found.get("encoder") != self._encoder.name:
            raise _Unusable(f"its vectors are of {found.get('encoder')!r} and not of {self._encoder.name!r}")
        if not {"codes", "keys"} <= tensors.keys() or found != self._described(tensors):
            raise _Unusable("it is damaged, or of another version")
        self._keys = json.loads(tensors["keys"].tobytes())
        self._place = {key: place for place, key in enumerate(self._keys)}
        self._codes = tensors["codes"]
        if "graph" in tensors:
            self._graph = _empty_graph(self._encoder.dimensions)
            self._graph.load(tensors["graph"].tobytes())

    def _described(self, tensors: "Mapping[str, NDArray[Any]]") -> dict[str, str]:
        digest = blake2b(digest_size=16)
        for name in sorted(tensors):
            digest.update(f"{name}{tensors[name].shape}{tensors[name].dtype}".encode())
            digest.update(tensors[name].tobytes())
        return {
            "format": _FORMAT,
            "encoder": self._encoder.name,
            "count": str(len(tensors["codes"])),
            "digest": digest.hexdigest(),
        }

    def _append(self, keys: Sequence[str], vectors: "NDArray[np.float32]") -> int:
        import numpy as np

        start, end = len(self._keys), len(self._keys) + len(keys)
        codes = _coded(vectors)
        if end > len(self._codes):
            grown = np.zeros((max(end, 2 * len(self._codes), _BATCH), self._encoder.dimensions), np.int8)
            grown[:start] = self._codes[:start]
            self._codes = grown
        self._codes[start:end] = codes
        self._keys.extend(keys)
        self._place.update(zip(keys, range(start, end), strict=True))
        return len(keys)

    def _nearest(self, query: "Codes", k: int, among: Among | None, exclude: frozenset[str]) -> list[Neighbour]:
        if k < 1:
            raise ValueError(f"at least one neighbour has to be asked for, not {k}")
        with self._lock:
            if not callable(among) and among is not None and 4 * len(among) < len(self._keys):
                return self._best(query, [self._place[key] for key in among - exclude if key in self._place], k)
            fetch = k + len(exclude) + _ROOM
            while fetch <= _WIDEST and fetch < len(self._keys):
                places, distances = self._candidates(query, fetch)
                if not len(places):
                    break
                found = self._best(query, [p for p in places if _seen(self._keys[p], among, exclude)], k)
                closed = len(found) == k and found[-1].similarity > 1.0 - float(distances[-1]) + _SLACK
                if closed or (self.approximate and len(found) == k):
                    return found
                fetch *= 4
            every = [p for p, key in enumerate(self._keys) if _seen(key, among, exclude)]
            return self._best(query, every, k)

    def _candidates(self, query: "Codes", count: int) -> "tuple[NDArray[Any], NDArray[Any]]":
        """Places and distances of the nearest entries, as usearch sees them."""
        from usearch.index import search

        if not self.approximate:
            codes = self._codes[: len(self._keys)]
            found = search(codes, query[None], count, exact=True, threads=1)
        else:
            found = self._grown_graph().search(query, count, threads=1)
        return found.keys, found.distances

    def _grown_graph(self) -> Any:
        """The graph with every entry in it, added in their order by one thread."""
        import numpy as np

        if self._graph is None:
            self._graph = _empty_graph(self._encoder.dimensions)
        held = len(self._graph)
        if held < len(self._keys):
            self._graph.add(np.arange(held, len(self._keys)), self._codes[held : len(self._keys)], threads=1)
        return self._graph

    def _best(self, query: "Codes", places: Sequence[int], k: int) -> list[Neighbour]:
        """The k nearest of some entries, scored exactly."""
        import numpy as np

        if not places:
            return []
        chosen = np.asarray(places)
        similarities = np.concatenate(
            [_similarities(query, self._codes[chosen[at : at + _BLOCK]]) for at in range(0, len(chosen), _BLOCK)]
        )
        if len(chosen) > k:
            least = np.partition(similarities, -k)[-k]
            kept = np.flatnonzero(similarities >= least)
            chosen, similarities = chosen[kept], similarities[kept]
        scored = [Neighbour(self._keys[p], float(s)) for p, s in zip(chosen, similarities, strict=True)]
        return sorted(scored, key=lambda one: (-one.similarity, one.key))[:k]


class _Unusable(Exception):
    """A file of an index that cannot be used; never leaves this module."""


def _seen(key: str, among: Among | None, exclude: frozenset[str]) -> bool:
    if key in exclude:
        return False
    if among is None:
        return True
    return among(key) if callable(among) else key in among


def _coded(vectors: "NDArray[np.float32]") -> "Codes":
    """Vectors (n, d) as bytes: each scaled to the range of a byte, and never longer than `_LENGTH`."""
    import numpy as np

    wide = vectors.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    scale = np.minimum(127.0 / largest, (_LENGTH - np.sqrt(vectors.shape[1])) / lengths)
    codes: Codes = np.rint(wide * scale).astype(np.int8)
    return codes


def _similarities(query: "Codes", codes: "Codes") -> "NDArray[np.float64]":
    """Cosines of (d,) with (n, d); every sum is a whole number that float32 holds exactly."""
    import numpy as np

    wide, asked = codes.astype(np.float32), query.astype(np.float32)
    products = (wide @ asked).astype(np.float64)
    squares = np.einsum("nd,nd->n", wide, wide).astype(np.float64)
    similarities: NDArray[np.float64] = products / np.sqrt(squares * float(asked @ asked))
    return similarities


def _empty_graph(dimensions: int) -> Any:
    from usearch.index import Index

    return Index(ndim=dimensions, metric="cos", dtype="i8", expansion_search=_EXPANSION)


def _bytes(data: bytes) -> "NDArray[np.uint8]":
    import numpy as np

    return np.frombuffer(data, np.uint8)
