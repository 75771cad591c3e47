"""Text splits: disjoint, checked, the same every time; and the path of a Hugging Face corpus on small local data."""

import importlib
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator.errors import CorpusUnavailable
from evaluator.tasks import corpora, stdlib_text
from evaluator.tasks.corpora import BLOCK, Separated
from evaluator.tasks.token_lm import TokenLanguageModel

RUN = 2 * BLOCK - 1
WORDS = ("tensor", "causal", "state", "gate", "mixer", "length", "recall", "decay", "kernel", "token", "höhe", "数")


def prose(seed: int, words: int = 200) -> bytes:
    rng = random.Random(seed)
    lines = [" ".join(rng.choices(WORDS, k=8)) + f" {rng.random()}" for _ in range(words // 8)]
    return "\n".join(lines).encode()


def shared_run(first: bytes, second: bytes) -> bool:
    """Whether a run of `RUN` bytes stands in both. Slow and obvious."""
    return any(second[start : start + RUN] in first for start in range(len(second) - RUN + 1))


@settings(max_examples=30, deadline=None)
@given(text=st.binary(max_size=4 * BLOCK))
def test_both_ways_to_hash_a_block_agree(text: bytes) -> None:
    everywhere = corpora.rolling(text)
    assert everywhere.size == max(0, len(text) - BLOCK + 1)
    aligned = everywhere[::BLOCK]
    np.testing.assert_array_equal(np.unique(aligned), corpora.blocks([text]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), offset=st.integers(0, 300), before=st.integers(0, 300))
def test_a_long_run_of_another_split_is_cut_out_and_a_short_one_is_kept(seed: int, offset: int, before: int) -> None:
    train, own = prose(seed), prose(seed + 1)
    for length, kept in ((RUN, False), (BLOCK - 1, True)):
        stolen = train[offset : offset + length]
        text = own[:before] + b"\n\x00" + stolen + b"\x00\n" + own[before:]  # no neighbour makes the run longer
        rest = corpora._cut(text, corpora.blocks([train]))
        assert not shared_run(train, rest)
        assert (rest == text) == kept


def test_splits_share_no_document_and_no_long_run() -> None:
    common = prose(999, 400)
    documents = [prose(seed) + (b"\n" + common if seed % 3 == 0 else b"") for seed in range(60)]
    result = corpora.separated(documents + documents[:7], evaluation=0.2)
    parts = result.documents
    assert result.copies == 7
    assert sum(map(len, parts.values())) == 60
    assert min(result.cut.values()) > 0.05
    joined = {split: b"".join(parts[split]) for split in corpora.SPLITS}
    for later in ("selection", "claim"):
        assert not any(shared_run(joined["train"], text) for text in parts[later])
    assert not any(shared_run(joined["selection"], text) for text in parts["claim"])


def test_a_split_depends_on_content_and_on_nothing_else() -> None:
    documents = [prose(seed) for seed in range(40)]
    shuffled = random.Random(0).sample(documents, len(documents))
    assert corpora.separated(documents, evaluation=0.2) == corpora.separated(shuffled, evaluation=0.2)
    more = corpora.separated([*documents, prose(77)], evaluation=0.2)
    assert more.digest() != corpora.separated(documents, evaluation=0.2).digest()


@pytest.mark.parametrize("later", ["selection", "claim"])
def test_the_check_finds_what_is_shared(later: str) -> None:
    clean: dict[str, tuple[bytes, ...]] = {split: (prose(index),) for index, split in enumerate(corpora.SPLITS)}
    corpora.check(Separated(clean, 0, {}))
    leaky = clean | {later: (prose(5) + clean["train"][0][17 : 17 + RUN],)}
    with pytest.raises(CorpusUnavailable, match=f"train and {later} splits share"):
        corpora.check(Separated(leaky, 0, {}))
    short = clean | {"train": (b"short",), later: (b"short",)}
    with pytest.raises(CorpusUnavailable, match=f"train and {later} splits share"):
        corpora.check(Separated(short, 0, {}))
    with pytest.raises(CorpusUnavailable, match=f"{later} split is empty"):
        corpora.check(Separated(clean | {later: ()}, 0, {}))


def test_the_standard_library_is_split_by_file_and_little_is_cut() -> None:
    result = stdlib_text.separated()
    corpora.check(result)
    sizes = {split: stdlib_text.tokens(split).size for split in corpora.SPLITS}
    assert sizes["train"] > 3_000_000
    assert min(sizes["selection"], sizes["claim"]) > 100_000
    assert max(result.cut.values()) < 0.1
    assert not any(b"import unittest\n\nclass Test" in text for text in result.documents["train"])
    assert len(stdlib_text.digest()) == 64
    assert any(random.__doc__.encode() in text for split in corpora.SPLITS for text in result.documents[split])


def test_an_interpreter_without_sources_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusUnavailable, match=r"holds no Python sources; run under"):
        list(stdlib_text._sources(tmp_path))


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusUnavailable, match=r"'datasets' cannot be imported .*move37\[full\]"):
        TokenLanguageModel(dataset="nobody/missing").corpus("train")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("datasets", "tokenizers"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the package {name} is not installed (extra `full`)")
    folder = tmp_path_factory.mktemp("texts")
    for index in range(80):
        (folder / f"{index}.txt").write_bytes(prose(index))
    return folder


def test_text_files_become_tokens_that_lose_no_byte(texts: Path) -> None:
    task = TokenLanguageModel(vocabulary=400, length=32, dataset=str(texts), megabytes=1)
    train, claim = task.corpus("train"), task.corpus("claim")
    assert train.dtype == np.int32
    assert train.max() < 400
    assert 1.0 < task.bytes_per_token < 20.0
    total = sum(path.stat().st_size + 2 for path in texts.glob("*.txt"))
    everything = sum(task.corpus(split).size for split in corpora.SPLITS)
    assert everything * task.bytes_per_token == pytest.approx(total, rel=0.05)
    batch = task.batch(np.random.default_rng(0), 5, claim)
    np.testing.assert_array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    digest = task.parameters()["corpus"]
    assert isinstance(digest, str)
    assert len(digest) == 64


def test_a_saved_data_set_and_a_tokenizer_of_ones_own_take_the_same_path(texts: Path, tmp_path: Path) -> None:
    datasets, tokenizers = importlib.import_module("datasets"), importlib.import_module("tokenizers")
    rows = [path.read_text() for path in sorted(texts.glob("*.txt"))]
    datasets.Dataset.from_dict({"text": rows}).save_to_disk(str(tmp_path / "saved"))
    coder = tokenizers.ByteLevelBPETokenizer()
    coder.train_from_iterator(rows, vocab_size=300, show_progress=False)
    coder.save(str(tmp_path / "tokenizer.json"))
    task = TokenLanguageModel(
        vocabulary=300, length=32, dataset=str(tmp_path / "saved"), tokenizer=str(tmp_path / "tokenizer.json"),
        megabytes=1,
    )  # fmt: skip
    train = task.corpus("train")
    assert train.max() < 300
    own = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert own.decode(train[:50].tolist()) in "\n\n".join(rows)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokenizer": "lossy.json"}, "does not give back the text"),
        ({"tokenizer": "large.json"}, "has 30. tokens, more than vocabulary=257"),
        ({"tokenizer": "garbage.json"}, "tokenizer"),
        ({"dataset": "empty"}, "neither a data set saved to disk nor .txt files"),
        ({"dataset": "untitled"}, "has no column 'text'"),
    ],
)
def test_what_is_wrong_with_a_corpus_is_said(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], says: str
) -> None:
    datasets, tokenizers = importlib.import_module("datasets"), importlib.import_module("tokenizers")
    monkeypatch.chdir(tmp_path)
    coder = tokenizers.Tokenizer(tokenizers.models.WordLevel({"tensor": 0, "?": 1}, unk_token="?"))
    coder.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    coder.save("lossy.json")
    large = tokenizers.Tokenizer(tokenizers.models.WordLevel({str(i): i for i in range(300)}, unk_token="1"))
    large.save("large.json")
    Path("garbage.json").write_text(json.dumps({"no": "tokenizer"}))
    Path("empty").mkdir()
    datasets.Dataset.from_dict({"words": ["a"]}).save_to_disk("untitled")
    task = TokenLanguageModel(**({"vocabulary": 257, "dataset": str(texts), "megabytes": 1} | changes))
    with pytest.raises(CorpusUnavailable, match=says):
        task.corpus("train")
