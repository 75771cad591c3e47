"""Fuzzy recall, compression, state tracking and the byte model, against slow readers of the same sequences."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator.errors import CorpusUnavailable, ImpossibleSize
from evaluator.tasks import registry
from evaluator.tasks.byte_lm import ByteLanguageModel
from evaluator.tasks.compression import Compression
from evaluator.tasks.fuzzy_recall import FuzzyRecall
from evaluator.tasks.state_tracking import GROUPS, StateTracking, multiplication, prefix_products
from evaluator.tasks.task import MOST_LENGTH

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=25, deadline=None)
NO_TABLE = np.zeros(0, dtype=np.int64)


def motifs(tokens: list[int], half: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """(start, end, tokens) of the maximal runs of key tokens and of value tokens: where they alternate, motifs end."""
    runs, start = [], 0
    for position in range(1, len(tokens) + 1):
        if position == len(tokens) or (tokens[position] < half) != (tokens[start] < half):
            runs.append((start, position, tuple(tokens[start:position])))
            start = position
    return runs


@few
@given(seed=seeds, sizes=st.sampled_from([(16, 48, 3, 4), (16, 40, 1, 8), (8, 33, 4, 4), (128, 60, 3, 16)]))
def test_fuzzy_recall_is_recall_of_motifs(seed: int, sizes: tuple[int, int, int, int]) -> None:
    vocabulary, length, motif, keys = sizes
    task = FuzzyRecall(vocabulary=vocabulary, length=length, motif=motif, keys=keys)
    batch = task.batch(np.random.default_rng(seed), 8, NO_TABLE)
    half = vocabulary // 2
    np.testing.assert_array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    for tokens, last, scored in zip(batch.tokens.tolist(), batch.targets[:, -1], batch.scored, strict=True):
        runs = motifs([*tokens, int(last)], half)
        known: dict[tuple[int, ...], tuple[int, ...]] = {}
        expected: set[int] = set()
        for (_, _, key), (start, end, value) in zip(runs[0::2], runs[1::2], strict=False):
            assert key[0] < half <= value[0]
            assert max(len(key), len(value)) <= motif
            assert len(set(key)) == len(key)
            assert len(set(value)) == len(value)
            if key in known:
                assert known[key][: len(value)] == value  # the last one may be cut by the sequence's end
                if len(key) == motif:
                    expected |= set(range(start - 1, end - 1))
            known.setdefault(key, value)
        assert len(known) <= keys
        assert set(np.flatnonzero(scored)) == expected


def test_fuzzy_recall_always_has_a_longest_key_to_ask_for() -> None:
    batch = FuzzyRecall(length=96).batch(np.random.default_rng(0), 500, NO_TABLE)
    assert np.mean(batch.scored.any(axis=1)) > 0.98


@few
@given(seed=seeds)
def test_compression_wants_its_content_back(seed: int) -> None:
    task = Compression()
    batch = task.batch(np.random.default_rng(seed), 8, NO_TABLE)
    assert task.head == "autoencoder"
    np.testing.assert_array_equal(batch.tokens, batch.targets)
    assert (batch.tokens[:, -1] == task.vocabulary - 1).all()
    assert (batch.tokens[:, :-1] < task.vocabulary - 1).all()
    assert batch.scored[:, :-1].all()
    assert not batch.scored[:, -1].any()


@few
@given(seed=seeds, group=st.sampled_from(GROUPS), length=st.integers(3, 40))
def test_state_tracking_multiplies_one_element_after_another(seed: int, group: str, length: int) -> None:
    task = StateTracking(group=group, length=length)
    batch = task.batch(np.random.default_rng(seed), 3, NO_TABLE)
    table = multiplication(group)
    assert task.vocabulary == table.shape[0]
    for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
        state = 0
        for token, target in zip(tokens, targets, strict=True):
            state = table[state, token]
            assert state == target


@pytest.mark.parametrize(("group", "order"), [("Z2", 2), ("Z60", 60), ("S3", 6), ("A4", 12), ("S4", 24), ("A5", 60)])
def test_multiplication_tables_are_groups(group: str, order: int) -> None:
    table = multiplication(group)
    elements = np.arange(order)
    assert table.shape == (order, order)
    np.testing.assert_array_equal(table[0], elements)
    np.testing.assert_array_equal(table[:, 0], elements)
    for square in (table, table.T):  # a Latin square: every element has an inverse
        np.testing.assert_array_equal(np.sort(square, axis=1), np.broadcast_to(elements, table.shape))
    np.testing.assert_array_equal(table[table[:, :, None], elements], table[elements[:, None, None], table])
    assert (table == table.T).all() == group.startswith("Z")


def test_the_symmetric_group_composes_permutations() -> None:
    elements = list(permutations(range(3)))
    for a, b in np.ndindex(6, 6):
        composed = tuple(elements[a][elements[b][i]] for i in range(3))
        assert elements[multiplication("S3")[a, b]] == composed


def test_prefix_products_of_one_element_are_its_powers() -> None:
    np.testing.assert_array_equal(
        prefix_products(np.full((1, 7), 2), multiplication("Z60"))[0], [2, 4, 6, 8, 10, 12, 14]
    )


@pytest.mark.parametrize("task", [FuzzyRecall(), Compression(), StateTracking(), StateTracking(group="A5")])
def test_no_constant_answer_beats_chance(task: FuzzyRecall | Compression | StateTracking) -> None:
    batch = task.batch(np.random.default_rng(7), 12_000, NO_TABLE)
    targets = batch.targets[batch.scored]
    assert np.bincount(targets).max() / targets.size == pytest.approx(task.chance, rel=0.1)


def test_the_byte_model_reads_windows_of_the_text() -> None:
    task = ByteLanguageModel(length=20)
    text = task.corpus("claim")
    batch = task.batch(np.random.default_rng(0), 30, text)
    whole = text.tobytes()
    assert batch.tokens.dtype == np.int64
    for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
        window = bytes([*tokens.tolist(), int(targets[-1])])
        assert window in whole
        assert bytes(targets.tolist()) == window[1:]
    assert batch.scored.all()
    assert 0 < task.scored_columns <= task.length


def test_a_window_longer_than_the_text_is_refused() -> None:
    with pytest.raises(ImpossibleSize, match="up to 9"):
        ByteLanguageModel(length=10).batch(np.random.default_rng(0), 1, np.zeros(10, dtype=np.uint8))
    batch = ByteLanguageModel(length=9).batch(np.random.default_rng(0), 5, np.arange(10, dtype=np.uint8))
    assert batch.targets[:, -1].tolist() == [9] * 5


def test_a_task_without_text_says_so() -> None:
    with pytest.raises(CorpusUnavailable, match="recall"):
        registry.get("recall").corpus("train")


@pytest.mark.parametrize(
    "spec",
    [
        "recall:vocabulary=7", "recall:vocabulary=2", "recall:length=2", f"recall:length={MOST_LENGTH + 1}",
        "recall:vocabulary=65538", "noisy_recall:vocabulary=10", "noisy_recall:noise=0.95", "noisy_recall:noise=-0.1",
        "mqar:pairs=0", "mqar:pairs=16", "mqar:length=11", "selective_copying:copied=0", "selective_copying:length=16",
        "memorisation:length=31", "memorisation:vocabulary=4", "fuzzy_recall:motif=5", "fuzzy_recall:keys=9",
        "fuzzy_recall:vocabulary=17", "recall:vocabulary=4096", "noisy_recall:length=3", "fuzzy_recall:length=9",
        "compression:vocabulary=2", "state_tracking:group=Z7", "state_tracking:length=1",
    ],
)  # fmt: skip
def test_sizes_that_cannot_be_made_are_refused_with_what_can(spec: str) -> None:
    name, sizes = registry.parse(spec)
    with pytest.raises(ImpossibleSize, match=rf"task '{name}' cannot be made with .*; possible: ."):
        registry.get(name).resized(sizes)


@pytest.mark.parametrize("name", [name for name in registry.names("sequence") if name != "token_lm"])
def test_the_smallest_sizes_make_batches(name: str) -> None:
    """What validation lets through, the generator can make."""
    smallest = {
        "recall": "vocabulary=4:length=3", "noisy_recall": "vocabulary=8:length=16:noise=0.8",
        "mqar": "vocabulary=4:length=3:pairs=1", "selective_copying": "vocabulary=4:length=3:copied=1",
        "memorisation": "vocabulary=5:length=4", "fuzzy_recall": "vocabulary=4:length=4:motif=1:keys=2",
        "compression": "vocabulary=3:length=3", "state_tracking": "group=Z2:length=3", "byte_lm": "length=3",
    }  # fmt: skip
    _, sizes = registry.parse(f"{name}:{smallest[name]}")
    task = registry.get(name).resized(sizes)
    table = task.corpus("claim") if task.corpus_name else task.table(np.random.default_rng(0))
    batch = task.batch(np.random.default_rng(0), 40, table)
    assert batch.tokens.shape == (40, task.length)
    assert max(batch.tokens.max(), batch.targets.max()) < task.vocabulary
    assert batch.scored.any()
