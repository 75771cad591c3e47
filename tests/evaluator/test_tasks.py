"""The generators against slow, obvious readers of the same sequences; and their streams against each other."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator.errors import UnknownTask, UnknownTrack
from evaluator.tasks import registry, streams
from evaluator.tasks.mqar import MultiQueryRecall
from evaluator.tasks.recall import InContextRecall, NoisyRecall
from evaluator.tasks.sampling import distinct, repeats, smallest
from evaluator.tasks.selective_copying import SelectiveCopying
from evaluator.tasks.task import Batch, Task

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=25, deadline=None)
SELF_CONTAINED = tuple(name for name in registry.names("sequence") if name != "token_lm")  # that one needs an extra


def draw(task: Task, seed: int, size: int = 8) -> tuple[Batch, np.ndarray]:
    rng = np.random.default_rng(seed)
    table = task.table(rng) if task.corpus_name is None else task.corpus("train")
    return task.batch(rng, size, table), table


@pytest.mark.parametrize("name", SELF_CONTAINED)
@few
@given(seed=seeds)
def test_batches_are_well_formed_and_fixed_by_the_seed(name: str, seed: int) -> None:
    task = registry.get(name)
    batch, _ = draw(task, seed)
    again, _ = draw(task, seed)
    for field in ("tokens", "targets", "trained", "scored", "unpredictable"):
        np.testing.assert_array_equal(getattr(batch, field), getattr(again, field))
        assert getattr(batch, field).shape == (8, task.length)
    for values in (batch.tokens, batch.targets):
        assert values.dtype == np.int64
        assert values.min() >= 0
        assert values.max() < task.vocabulary
    assert batch.scored.any()
    assert batch.trained[batch.scored].all()
    assert not (batch.scored & batch.unpredictable).any()


@few
@given(seed=seeds)
def test_the_global_generator_is_never_touched(seed: int) -> None:
    before = np.random.get_state()[1].copy()
    for name in SELF_CONTAINED:
        draw(registry.get(name), seed)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


@few
@given(seed=seeds, vocabulary=st.sampled_from([4, 16, 32]), length=st.integers(7, 50))
def test_recall_labels_are_what_a_reader_with_a_dictionary_expects(seed: int, vocabulary: int, length: int) -> None:
    batch, _ = draw(InContextRecall(vocabulary=vocabulary, length=length), seed)
    for row in range(8):
        known: dict[int, int] = {}
        for position in range(length):
            token, target = batch.tokens[row, position], batch.targets[row, position]
            if position + 1 < length:
                assert batch.tokens[row, position + 1] == target
            is_key = position % 2 == 0
            assert (token < vocabulary // 2) == is_key
            assert batch.scored[row, position] == (is_key and token in known)
            assert batch.unpredictable[row, position] == (not is_key)
            if is_key:
                assert known.setdefault(token, target) == target


@few
@given(seed=seeds, noise=st.sampled_from([0.0, 0.2, 0.6]), length=st.integers(13, 50))
def test_noisy_recall_is_recall_once_the_noise_is_dropped(seed: int, noise: float, length: int) -> None:
    task = NoisyRecall(vocabulary=32, length=length, noise=noise)
    batch, _ = draw(task, seed)
    for row in range(8):
        known: dict[int, int] = {}
        pending = False
        for position in range(length):
            token, target = batch.tokens[row, position], batch.targets[row, position]
            if pending:  # the value of the key just before: nothing comes between them
                assert 8 <= token < 16
                pending = False
                assert not batch.scored[row, position]
                continue
            is_key = token < 8
            assert is_key or token >= 16
            assert batch.scored[row, position] == (is_key and token in known)
            if is_key:
                assert known.setdefault(token, target) == target
                pending = True


def test_noisy_recall_has_the_fraction_of_noise_that_it_promises() -> None:
    batch, _ = draw(NoisyRecall(noise=0.2), 0, size=4000)
    assert np.mean(batch.tokens >= 16) == pytest.approx(0.2, abs=0.01)


@few
@given(seed=seeds, sizes=st.sampled_from([(32, 32, 4), (64, 48, 8), (16, 9, 3)]))
def test_mqar_answers_are_those_of_the_pairs_at_the_start(seed: int, sizes: tuple[int, int, int]) -> None:
    vocabulary, length, pairs = sizes
    batch, _ = draw(MultiQueryRecall(vocabulary=vocabulary, length=length, pairs=pairs), seed)
    for tokens, targets, scored in zip(batch.tokens, batch.targets, batch.scored, strict=True):
        pairing = dict(zip(tokens[0 : 2 * pairs : 2], tokens[1 : 2 * pairs : 2], strict=True))
        assert len(pairing) == pairs
        asked = [position for position in range(2 * pairs, length) if tokens[position] != 0]
        assert sorted(tokens[asked]) == sorted(pairing)
        assert list(np.flatnonzero(scored)) == asked
        assert all(targets[position] == pairing[tokens[position]] for position in asked)


def test_mqar_asks_near_the_pairs_more_often_as_the_power_law_says() -> None:
    """The first slot behind the pairs is asked by the first pair with the share of its weight: 1 of sum i^-0.99."""
    task = MultiQueryRecall(vocabulary=512, length=64, pairs=4)
    batch, _ = draw(task, 1, size=20_000)
    weights = np.arange(1, 57) ** -0.99
    asked_first = batch.tokens[:, 8] == batch.tokens[:, 0]
    assert np.mean(asked_first) == pytest.approx(weights[0] / weights.sum(), rel=0.05)


@few
@given(seed=seeds, below=st.integers(3, 60), count=st.integers(1, 8))
def test_distinct_draws_are_distinct_and_in_range(seed: int, below: int, count: int) -> None:
    count = min(count, below)
    drawn = distinct(np.random.default_rng(seed), 50, below, count)
    assert drawn.shape == (50, count)
    assert drawn.min() >= 0
    assert drawn.max() < below
    assert all(len(set(row)) == count for row in drawn.tolist())


def test_distinct_draws_are_uniform_over_ordered_choices() -> None:
    """9 values, 2 of them in order: 72 choices, chi-squared with 71 degrees of freedom (mean 71, deviation 12)."""
    drawn = distinct(np.random.default_rng(0), 72_000, 9, 2)
    counts = np.bincount(drawn[:, 0] * 9 + drawn[:, 1], minlength=81)
    seen = counts[counts > 0]
    assert seen.size == 72
    assert ((seen - 1000) ** 2 / 1000).sum() < 71 + 5 * 12


@few
@given(st.lists(st.lists(st.floats(0, 1e6), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(1, 6))
def test_smallest_agrees_with_sorting(rows: list[list[float]], count: int) -> None:
    keys = np.array(rows) + 1.0
    places = smallest(keys.copy(), count)
    picked = np.take_along_axis(keys, places, axis=1)
    np.testing.assert_allclose(picked, np.sort(keys, axis=1)[:, :count], rtol=1e-10)
    assert all(len(set(row)) == count for row in places.tolist())


@few
@given(seed=seeds)
def test_selective_copying_wants_the_content_in_order(seed: int) -> None:
    task = SelectiveCopying()
    batch, _ = draw(task, seed)
    for tokens, targets, scored in zip(batch.tokens, batch.targets, batch.scored, strict=True):
        content = [token for token in tokens if token < task.vocabulary - 2]
        assert list(np.flatnonzero(tokens == task.vocabulary - 1)) == [task.length - task.copied - 1]
        assert list(targets[scored]) == content
        assert list(np.flatnonzero(scored)) == list(range(task.length - task.copied, task.length))


@few
@given(seed=seeds)
def test_memorisation_follows_its_table(seed: int) -> None:
    task = registry.get("memorisation")
    batch, table = draw(task, seed)
    assert sorted(table) == list(range(table.size, 2 * table.size))
    for tokens, targets, scored in zip(batch.tokens, batch.targets, batch.scored, strict=True):
        for position in np.flatnonzero(scored):
            assert tokens[position] == 2 * table.size
            assert targets[position] == table[tokens[position - 1]]


@few
@given(
    st.lists(st.lists(st.integers(0, 5), min_size=7, max_size=7), min_size=1, max_size=4), st.sampled_from([1, 1 << 40])
)
def test_repeats_agree_with_a_set(rows: list[list[int]], scale: int) -> None:
    expected = [[token in row[:position] for position, token in enumerate(row)] for row in rows]
    assert repeats(scale * np.array(rows, dtype=np.int64)).tolist() == expected


@pytest.mark.parametrize(
    ("name", "chance"),
    [
        ("recall", 0.125),
        ("mqar", 0.0625),
        ("selective_copying", 0.071),
        ("noisy_recall", 0.125),
        ("memorisation", 0.016),
    ],
)
def test_chance_is_what_a_blind_guess_gets(name: str, chance: float) -> None:
    task = registry.get(name)
    assert task.chance == pytest.approx(chance, abs=5e-4)
    batch, _ = draw(task, 7, size=12000)
    targets = batch.targets[batch.scored]
    frequencies = np.bincount(targets) / targets.size
    assert frequencies.max() == pytest.approx(task.chance, rel=0.1)


def test_keys_of_recall_cannot_be_predicted() -> None:
    batch, _ = draw(registry.get("recall"), 3, size=4000)
    keys = batch.targets[batch.unpredictable]
    assert np.bincount(keys).max() / keys.size == pytest.approx(registry.get("recall").canary_chance, rel=0.05)


def test_every_role_data_set_task_and_seed_has_a_stream_of_its_own() -> None:
    roles = ("train", "evaluation", "initialisation", "table")
    named = {
        streams.words(role, task=task, seed=seed, data=data)
        for role, task, seed, data in product(roles, registry.names("sequence"), range(20), ("selection", "claim"))
    }
    assert len(named) == 4 * len(registry.names("sequence")) * 20 * 2


@few
@given(seed=seeds)
def test_train_selection_and_claim_sequences_do_not_overlap(seed: int) -> None:
    task = registry.get("recall")
    rows: list[set[bytes]] = []
    for role, data in product(("train", "evaluation"), ("selection", "claim")):
        stream = streams.words(role, task=task.name, seed=seed, data=data)
        batch = task.batch(streams.generator(stream), 64, task.table(streams.generator(stream)))
        rows.append({row.tobytes() for row in batch.tokens})
    assert len(set.union(*rows)) == sum(map(len, rows))


def test_a_salt_changes_the_evaluation_stream_alone() -> None:
    def words(role: streams.Role, salt: str) -> streams.Words:
        return streams.words(role, task="recall", seed=1, data="selection", salt=salt)

    assert words("evaluation", "") != words("evaluation", "secret")
    for role in ("train", "initialisation", "table"):
        assert words(role, "") == words(role, "secret")


def test_unknown_names_are_typed_errors_that_name_the_known_ones() -> None:
    with pytest.raises(UnknownTask, match="selective_copying"):
        registry.get("sorting")
    with pytest.raises(UnknownTrack, match="sequence"):
        registry.names("audio")
