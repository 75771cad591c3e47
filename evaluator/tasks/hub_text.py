"""Text from a Hugging Face data set, through a byte-lossless tokenizer, in three disjoint splits. Host side only.

The optional extra `full` brings the two libraries; they are imported when a corpus is asked for. Whatever goes wrong
with them, with the network or with names is one typed error, `CorpusUnavailable`.
Notable:
- `dataset` is a name on the hub (streamed), or a folder: a data set saved to disk, or text files, one document each.
- `tokenizer` is "bpe" (a byte-level BPE of exactly `vocabulary` tokens, trained on the training split), a name on the
  hub, or a `tokenizer.json`. Bits per byte mean something only if no byte is lost: that is checked on evaluation text.
- Documents are read until `megabytes` are there, then split by their content, so the same settings give the same text
  as long as the data set does; its digest enters the objective's hash.
Not covered: keeping the result on disk. It is kept in memory until the process ends.
"""

import functools
import hashlib
import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from evaluator.errors import CorpusUnavailable
from evaluator.tasks import corpora
from evaluator.tasks.task import Split

_EVALUATION = 0.01  # of the documents, for each of selection and claim: 8 MB each of 800 MB
_MOST_TOKENS = (1 << 28) - (1 << 16)  # int32, in one frame of at most 1 GiB
_TRAINED_ON = 50_000_000  # bytes that a tokenizer is trained on
_SEPARATOR = "\n\n"
_CHUNK = 1000  # documents
_CHECKED = 20  # documents whose text is read back from its tokens

Tokens = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class HubCorpus:
    """Tokens by split, bytes behind one token of the evaluation splits, and a digest of text and tokens."""

    tokens: dict[Split, Tokens]
    bytes_per_token: float
    digest: str


@functools.lru_cache(maxsize=2)
def hub_corpus(dataset: str, config: str, tokenizer: str, vocabulary: int, megabytes: int) -> HubCorpus:
    """Raises: CorpusUnavailable: a package, the network, a name or a tokenizer is not as it has to be."""
    texts = _until(_documents(dataset, config), megabytes * 1_000_000)
    parts = corpora.separated(texts, evaluation=_EVALUATION if megabytes > 1 else 0.1)
    coder = _tokenizer(tokenizer, vocabulary, parts.documents["train"])
    tokens = {split: _encoded(coder, parts.documents[split]) for split in corpora.SPLITS}
    if tokens["train"].size > _MOST_TOKENS:
        raise CorpusUnavailable(
            f"{tokens['train'].size} training tokens do not fit into one message to the sandbox",
            f"ask for fewer megabytes than {megabytes}",
        )
    size = {split: sum(map(len, texts)) + len(_SEPARATOR) * len(texts) for split, texts in parts.documents.items()}
    evaluated = tokens["selection"].size + tokens["claim"].size
    digest = hashlib.sha256(parts.digest().encode("ascii"))
    for split in corpora.SPLITS:
        digest.update(tokens[split].tobytes())
    return HubCorpus(tokens, (size["selection"] + size["claim"]) / max(1, evaluated), digest.hexdigest())


def _documents(dataset: str, config: str) -> Iterator[bytes]:
    datasets = _library("datasets")
    with _blamed(f"data set {dataset!r} (config {config!r})", "check its name and the network, or name a folder"):
        folder = Path(dataset)
        if folder.is_dir():
            rows = _saved(datasets, folder)
        else:
            rows = datasets.load_dataset(dataset, config or None, split="train", streaming=True)
        for row in rows:
            if not isinstance(row.get("text"), str):
                raise CorpusUnavailable(f"data set {dataset!r} has no column 'text'", "take one that has")
            if row["text"]:
                yield row["text"].encode("utf-8")


def _saved(datasets: Any, folder: Path) -> Iterable[Any]:
    """The rows of a folder: what `save_to_disk` wrote, or text files."""
    if (folder / "dataset_info.json").exists():
        return datasets.load_from_disk(str(folder))  # type: ignore[no-any-return]
    files = sorted(str(path) for path in folder.rglob("*.txt"))
    if not files:
        raise CorpusUnavailable(
            f"{folder} holds neither a data set saved to disk nor .txt files", "name a folder that does"
        )
    return datasets.load_dataset(  # type: ignore[no-any-return]
        "text", data_files=files, sample_by="document", split="train", streaming=True
    )


def _until(documents: Iterator[bytes], wanted: int) -> Iterator[bytes]:
    total = 0
    for document in documents:
        yield document
        total += len(document)
        if total >= wanted:
            return


def _tokenizer(name: str, vocabulary: int, train: tuple[bytes, ...]) -> Any:
    tokenizers = _library("tokenizers")
    with _blamed(f"tokenizer {name!r}", "name one of the hub, a tokenizer.json, or bpe"):
        if name == "bpe":
            coder = _trained(tokenizers, vocabulary, train)
        elif Path(name).is_file():
            coder = tokenizers.Tokenizer.from_file(name)
        else:
            coder = tokenizers.Tokenizer.from_pretrained(name)
    if (size := coder.get_vocab_size()) > vocabulary:
        raise CorpusUnavailable(
            f"tokenizer {name!r} has {size} tokens, more than vocabulary={vocabulary}", f"ask for vocabulary={size}"
        )
    return coder


def _trained(tokenizers: Any, vocabulary: int, train: tuple[bytes, ...]) -> Any:
    coder = tokenizers.Tokenizer(tokenizers.models.BPE())
    coder.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    coder.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    part = (document.decode("utf-8", "replace") for document in _until(iter(train), _TRAINED_ON))
    coder.train_from_iterator(part, trainer)
    return coder


def _encoded(coder: Any, documents: tuple[bytes, ...]) -> Tokens:
    """Raises: CorpusUnavailable: the tokenizer loses text."""
    pieces = [np.zeros(0, dtype=np.int32)]
    texts = (document.decode("utf-8", "replace") + _SEPARATOR for document in documents)
    first = True
    while chunk := list(islice(texts, _CHUNK)):
        codes = [one.ids for one in coder.encode_batch(chunk, add_special_tokens=False)]
        if first and [coder.decode(ids) for ids in codes[:_CHECKED]] != chunk[:_CHECKED]:
            raise CorpusUnavailable("the tokenizer does not give back the text it was given", "take a byte-level one")
        first = False
        pieces.extend(np.array(ids, dtype=np.int32) for ids in codes)
    return np.concatenate(pieces)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CorpusUnavailable(
            f"the package {name!r} cannot be imported ({error})", "install the extra: pip install 'move37[full]'"
        ) from error


@contextmanager
def _blamed(what: str, remedy: str) -> Iterator[None]:
    """The libraries hand on what HTTP clients, file systems and parsers raise: anything may come out of them."""
    try:
        yield
    except CorpusUnavailable:
        raise
    except Exception as error:
        raise CorpusUnavailable(f"{what}: {type(error).__name__}: {str(error)[:300]}", remedy) from error
