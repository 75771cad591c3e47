"""Vectors of programs and hypotheses: what "near" means.

`HashedText` is the default and needs no download: features of the text, weighted, hashed into a fixed number of
dimensions with a sign (Weinberger et al. 2009, "Feature hashing for large scale multitask learning", arXiv:0902.2206,
equation 1). Nothing is fitted, so a text has the same vector for ever, whatever else is in the memory.
`EndpointText` is what an embeddings endpoint makes of texts; asking it is `agents/embeddings.py`'s business.

An encoder is known by its name, which holds its version: whoever changes a feature changes the name. Vectors of
different encoders are never compared.

Not covered: meaning. Two programs are near when they share names, operations and their order; a program rewritten in
other words is far, and `memory/identity.py` is what finds it.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol

from memory.errors import ValueRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    "Shape (n, d), rows of length 1."

Kind = Literal["program", "hypothesis"]

DIMENSIONS = 512
_VERSION = 1

_CODE = re.compile(
    r'"""[\s\S]*?"""' + r"|'''[\s\S]*?'''|\#[^\n]*"  # docstrings and comments say what a program claims to be
    r"|(?P<token>[^\W\d]\w*|\d[\w.]*|\*\*|//|->|[-+*/@%&|^<>=!:]=|[^\s\w])"
)
_WORD = re.compile(r"\w+")
_NOTHING = "nothing"  # the only feature of a text without any, so that no vector is zero


class Encoder(Protocol):
    """Turns texts into vectors; the same text into the same vector every time."""

    @property
    def name(self) -> str:
        """Which encoder, in which version: stored beside its vectors."""

    @property
    def dimensions(self) -> int:
        """d."""

    def encode(self, texts: Sequence[str]) -> "Vectors":
        """Vectors (n, d) of n texts, float32, each of length 1.

        Raises:
            ValueRefused: no vector can be made of one of the texts.
        """


class HashedText:
    """Hashed features of a program's tokens or of a hypothesis' words.

    Program: tokens, pairs of neighbouring tokens, and letter triples of the distinct names; without comments and
    triple-quoted strings. Hypothesis: words, pairs of neighbouring words, letter triples of the distinct words; without
    regard to case. A feature that occurs n times weighs 1 + ln n, so that `self` and brackets do not drown the rest.
    """

    def __init__(self, kind: Kind, dimensions: int = DIMENSIONS) -> None:
        self._kind = kind
        self._dimensions = dimensions

    @property
    def name(self) -> str:
        return f"hashed-{self._kind}-{self._dimensions}-v{_VERSION}"

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def encode(self, texts: Sequence[str]) -> "Vectors":
        import numpy as np
        from sklearn.feature_extraction import FeatureHasher

        if not texts:
            return np.zeros((0, self._dimensions), np.float32)
        hasher = FeatureHasher(self._dimensions, input_type="pair", dtype=np.float32)
        features = _of_program if self._kind == "program" else _of_words
        counted = (features(text.encode("utf-8", "backslashreplace").decode()) for text in texts)
        return _unit(hasher.transform(_weighted(one) for one in counted).toarray(), self.name)


class EndpointText:
    """Vectors that an embeddings endpoint makes, whoever asks it: `read` checks and scales an answer.

    They cost money and time: keep them in the store (`Store.put_vectors`, as `to_bytes`), and hand them to an index as
    they are (`Neighbours.sync_vectors`).
    """

    def __init__(self, name: str, dimensions: int) -> None:
        self._name = name
        self._dimensions = dimensions

    @property
    def name(self) -> str:
        return self._name

    @property
    def dimensions(self) -> int:
        return self._dimensions

    def encode(self, texts: Sequence[str]) -> "Vectors":
        """Not here: an index over these takes vectors, no texts."""
        raise TypeError(f"{self._name} is an endpoint, which has to be asked: hand its vectors in with `sync_vectors`")

    def read(self, rows: Sequence[Sequence[float]], count: int) -> "Vectors":
        """The answer to `count` texts, a row for each in their order.

        Raises:
            ValueRefused: another number of rows or dimensions, something that is no number, not finite, or zero.
        """
        import numpy as np

        what = f"what {self._name} made of {count} texts"
        if len(rows) != count:
            raise ValueRefused(what, f"it is {len(rows)} vectors")
        wrong = next((len(row) for row in rows if len(row) != self._dimensions), None)
        if wrong is not None:
            raise ValueRefused(
                f"what {self._name} made of {count} texts",
                f"a vector has {wrong} dimensions and not {self._dimensions}",
            )
        try:
            made = np.array(rows, np.float64).reshape(count, self._dimensions)
        except (TypeError, ValueError) as error:
            raise ValueRefused(
                f"what {self._name} made of {count} texts", f"it is not all numbers ({error})"
            ) from error
        return _unit(made, self._name)


def to_bytes(vector: "NDArray[np.float32]") -> bytes:
    """A vector (d,) as little-endian float32, for the store."""
    return bytes(vector.astype("<f4").tobytes())


def from_bytes(data: Sequence[bytes], encoder: Encoder) -> "Vectors":
    """Stored vectors as an array (n, d).

    Raises:
        ValueRefused: one of them has another number of dimensions than the encoder.
    """
    import numpy as np

    wrong = next((one for one in data if len(one) != 4 * encoder.dimensions), None)
    if wrong is not None:
        raise ValueRefused(
            f"a stored vector of {encoder.name}", f"it has {len(wrong)} bytes and not {4 * encoder.dimensions}"
        )
    return np.frombuffer(b"".join(data), "<f4").reshape(len(data), encoder.dimensions).astype(np.float32)


def _unit(vectors: "NDArray[np.floating[Any]]", name: str) -> "Vectors":
    import numpy as np

    wide = vectors.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0.0)
    bad = np.flatnonzero(~np.isfinite(largest[:, 0]) | (largest[:, 0] == 0))
    if bad.size:
        raise ValueRefused(f"the vector that {name} made of text {bad[0]}", "it is zero, or not finite")
    wide /= largest  # or squares of huge numbers would overflow
    unit: Vectors = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _weighted(counts: Counter[str]) -> Iterable[tuple[str, float]]:
    if not counts:
        return [(_NOTHING, 1.0)]
    return [(feature, 1.0 + math.log(count)) for feature, count in counts.items()]


def _of_program(text: str) -> Counter[str]:
    return _features([token for token in _CODE.findall(text) if token])


def _of_words(text: str) -> Counter[str]:
    return _features(_WORD.findall(text.casefold()))


def _features(tokens: Sequence[str]) -> Counter[str]:
    """Tokens, pairs of them, and letter triples of the distinct ones; the first letter keeps the three apart."""
    counts = Counter(f"t{token}" for token in tokens)
    counts.update(f"p{one} {other}" for one, other in pairwise(tokens))
    for token in set(tokens):
        if len(token) > 3:
            edged = f"<{token}>"
            counts.update(f"l{edged[start : start + 3]}" for start in range(len(edged) - 2))
    return counts
