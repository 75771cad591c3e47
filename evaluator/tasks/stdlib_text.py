"""The text that every machine has: the sources of the standard library of the interpreter that runs the host.

Left out: tests (no prose and much repetition), the tables of `encodings`, `idlelib`, and whatever was installed.
Text differs between versions of Python, so its digest and the version enter the objective's hash.
"""

import functools
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evaluator.errors import CorpusUnavailable
from evaluator.tasks import corpora
from evaluator.tasks.task import Split

_LEFT_OUT = frozenset(
    {"__pycache__", "dist-packages", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages"}
    | {"test", "tests", "turtledemo"}
)
_EVALUATION = 0.05  # of the documents, for each of selection and claim


@functools.cache
def separated() -> corpora.Separated:
    """The corpus of this process, built at the first question and kept.

    Raises:
        CorpusUnavailable: the interpreter has no readable sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    return corpora.separated(_sources(root), evaluation=_EVALUATION)


@functools.cache
def tokens(split: Split) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Raises: CorpusUnavailable: as `separated`."""
    return np.frombuffer(b"".join(separated().documents[split]), dtype=np.uint8)


@functools.cache
def digest() -> str:
    return separated().digest()


def _sources(root: Path) -> Iterator[bytes]:
    remedy = "run under an interpreter that ships its standard library as .py files"
    found = False
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT and not name.startswith("config-"))
        for name in sorted(files):
            if name.endswith(".py"):
                try:
                    text = (Path(folder) / name).read_bytes()
                except OSError as error:
                    raise CorpusUnavailable(
                        f"{name} of the standard library cannot be read: {error}", remedy
                    ) from error
                found = True
                yield text
    if not found:
        raise CorpusUnavailable(f"{root} holds no Python sources", remedy)
