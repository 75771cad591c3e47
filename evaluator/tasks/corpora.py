"""Text corpora: documents split by content, and made to share no long stretch across splits. Host side; NumPy only.

Notable:
- A document's split is a function of its content, so neither order nor names decide, and equal documents are one.
- Near-copies (licence texts, repeated tables, files that were forked from one another) would let an evaluation be
  answered from memory. So every line of an evaluation split that touches a block of text which also stands in the
  training split is cut out, until none is left: no run of `2 BLOCK - 1` bytes is in two splits. Then it is checked.

The search: the earlier split is indexed by its blocks at every multiple of `BLOCK`, the later one by those at every
offset; a shared run of 2 BLOCK - 1 bytes contains one of the former. Blocks are compared by a 64-bit polynomial hash: a
false match cuts a line too many, and there is no false miss.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from evaluator.errors import CorpusUnavailable, ImpossibleSize
from evaluator.tasks.task import Batch, Split, nothing

BLOCK = 100  # bytes
SPLITS: tuple[Split, ...] = ("train", "selection", "claim")

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
_BASE = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2^64


@dataclass(frozen=True)
class Separated:
    """Documents by split, and what it took: copies left out, and the share of each evaluation split's bytes cut."""

    documents: dict[Split, tuple[bytes, ...]]
    copies: int
    cut: dict[Literal["selection", "claim"], float]

    def digest(self) -> str:
        """SHA-256 over the splits in order, every document with its length."""
        total = hashlib.sha256()
        for split in SPLITS:
            total.update(f"{split} {len(self.documents[split])}\n".encode("ascii"))
            for document in self.documents[split]:
                total.update(len(document).to_bytes(8, "little"))
                total.update(document)
        return total.hexdigest()


def separated(documents: Iterable[bytes], *, evaluation: float) -> Separated:
    """Split documents, each evaluation split getting a share of `evaluation` of them, and take out what is shared.

    Raises:
        CorpusUnavailable: a split has no text, or the check at the end fails.
    """
    distinct: dict[bytes, bytes] = {}
    count = 0
    for document in documents:
        count += 1
        distinct.setdefault(hashlib.sha256(document).digest(), document)
    parts: dict[Split, list[bytes]] = {split: [] for split in SPLITS}
    for digest in sorted(distinct):
        parts[_split(digest, evaluation)].append(distinct[digest])
    train = blocks(parts["train"])
    selection, cut_selection = _without(parts["selection"], train)
    earlier = np.union1d(train, blocks(selection))
    claim, cut_claim = _without(parts["claim"], earlier)
    done: dict[Split, tuple[bytes, ...]] = {"train": tuple(parts["train"]), "selection": selection, "claim": claim}
    result = Separated(done, count - len(distinct), {"selection": cut_selection, "claim": cut_claim})
    check(result)
    return result


def check(separated_text: Separated) -> None:
    """Raises: CorpusUnavailable: a split is empty, or two splits share a document or a run of `2 BLOCK - 1` bytes."""
    parts = separated_text.documents
    for split in SPLITS:
        if not any(parts[split]):
            raise CorpusUnavailable(f"its {split} split is empty", "take a corpus of more documents")
    for first, second in combinations(SPLITS, 2):
        index, known = blocks(parts[first]), set(parts[first])
        if any(text in known or _shared(text, index).any() for text in parts[second]):
            raise CorpusUnavailable(f"its {first} and {second} splits share text", "report this as a bug")


def _split(digest: bytes, evaluation: float) -> Split:
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < 1.0 - 2.0 * evaluation:
        return "train"
    return "selection" if place < 1.0 - evaluation else "claim"


def _without(documents: Sequence[bytes], index: Hashes) -> tuple[tuple[bytes, ...], float]:
    """The documents less the lines that touch a block in `index`, and the share of bytes cut."""
    kept = tuple(_cut(document, index) for document in documents)
    before = max(1, sum(map(len, documents)))
    return tuple(filter(None, kept)), 1.0 - sum(map(len, kept)) / before


def _cut(document: bytes, index: Hashes) -> bytes:
    """What a cut brings together could match anew: repeated until nothing does."""
    while (found := _shared(document, index)).any():
        touched = np.zeros(len(document) + 1, dtype=np.int64)
        starts = np.flatnonzero(found)
        np.add.at(touched, starts, 1)
        np.add.at(touched, starts + BLOCK, -1)
        inside = np.cumsum(touched) > 0
        lines = document.splitlines(keepends=True)
        ends = np.cumsum([len(line) for line in lines])
        hit = [inside[end - len(line) : end].any() for line, end in zip(lines, ends, strict=True)]
        document = b"".join(line for line, bad in zip(lines, hit, strict=True) if not bad)
    return document


def blocks(documents: Iterable[bytes]) -> Hashes:
    """Sorted hashes of the blocks at every multiple of `BLOCK` of every document."""
    weights = np.array([pow(_BASE, BLOCK - 1 - place, 2**64) for place in range(BLOCK)], dtype=np.uint64)
    hashes = [np.zeros(0, dtype=np.uint64)]
    for document in documents:
        whole = len(document) // BLOCK * BLOCK
        if whole:
            text = np.frombuffer(document, dtype=np.uint8, count=whole).reshape(-1, BLOCK)
            hashes.append((text.astype(np.uint64) + np.uint64(1)) @ weights)
    return np.unique(np.concatenate(hashes))


def rolling(document: bytes) -> Hashes:
    """Hashes of the blocks at every offset: sum of (byte + 1) base^(BLOCK - 1 - place), modulo 2^64.

    From prefix sums of (byte + 1) base^-i, since the base has an inverse.
    """
    size = len(document)
    if size < BLOCK:
        return np.zeros(0, dtype=np.uint64)
    upwards = _powers(_BASE, size)
    downwards = _powers(pow(_BASE, -1, 2**64), size)
    text = np.frombuffer(document, dtype=np.uint8).astype(np.uint64) + np.uint64(1)
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(text * downwards, dtype=np.uint64)])
    hashes: Hashes = (sums[BLOCK:] - sums[:-BLOCK]) * upwards[BLOCK - 1 :]
    return hashes


def _powers(base: int, count: int) -> Hashes:
    factors = np.full(count, base, dtype=np.uint64)
    factors[0] = 1
    powers: Hashes = np.multiply.accumulate(factors)
    return powers


def _shared(document: bytes, index: Hashes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """At which offsets of the document a block of the index begins."""
    hashes = rolling(document)
    places = np.minimum(np.searchsorted(index, hashes), max(0, index.size - 1))
    return index[places] == hashes if index.size else np.zeros(hashes.shape, dtype=np.bool_)


def window_batch(rng: np.random.Generator, size: int, length: int, text: np.ndarray[Any, Any], *, task: str) -> Batch:
    """Random windows of a text, every next token trained and scored.

    Raises:
        ImpossibleSize: a window with its last target is longer than the text.
    """
    if text.size <= length:
        raise ImpossibleSize(task, "length", length, f"up to {text.size - 1}, the tokens of this split less one")
    starts = rng.integers(0, text.size - length, size=size)
    windows = text[starts[:, None] + np.arange(length + 1)].astype(np.int64)
    tokens = np.ascontiguousarray(windows[:, :-1])
    everywhere = ~nothing(tokens)
    return Batch(tokens, np.ascontiguousarray(windows[:, 1:]), everywhere, everywhere, nothing(tokens))
