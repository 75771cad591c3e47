"""Where every random draw of a trial comes from.

Each role has its own `np.random.SeedSequence`: same (task, seed, data), same stream whatever the program is, so that
programs are compared on paired data; another role or data set has another spawn key, so no stream is ever shared.

The sandbox is told `words` (derived one-way through BLAKE2b) for its training data, its initialisation and, where the
task has one, its fixed table; never the trial's seed. What it is not told it could still guess: seeds are small and the
generators are public. `salt` closes that: a secret of the host, mixed into the evaluation stream only.
"""

import hashlib
import json
from typing import Literal

import numpy as np

Data = Literal["selection", "claim"]
Role = Literal["train", "evaluation", "initialisation", "table"]

_ROLE_KEY: dict[str, int] = {"train": 0, "evaluation": 1, "initialisation": 2, "table": 3}
_DATA_KEY: dict[str, int] = {"selection": 0, "claim": 1}

Words = tuple[int, ...]


def words(role: Role, *, task: str, seed: int, data: Data, salt: str = "") -> Words:
    """128 bits, as four 32-bit words, that name one stream. They do not reveal those of another role."""
    secret = salt if role == "evaluation" else ""
    text = json.dumps([role, task, seed, data, secret], ensure_ascii=True)
    digest = hashlib.blake2b(text.encode("ascii"), digest_size=16, person=b"move37.streams").digest()
    sequence = np.random.SeedSequence(int.from_bytes(digest, "little"), spawn_key=(_ROLE_KEY[role], _DATA_KEY[data]))
    return tuple(int(word) for word in sequence.generate_state(4))


def generator(stream: Words) -> np.random.Generator:
    """A fresh generator at the start of the stream that `words` named."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(stream))))
