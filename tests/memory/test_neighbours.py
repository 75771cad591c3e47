"""Vectors and nearest neighbours: the same answers from the same entries, whatever came in when."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory.errors import ValueRefused
from memory.neighbours import Neighbour, Neighbours
from memory.vectors import EndpointText, HashedText, from_bytes, to_bytes

REFERENCES = Path(__file__).parents[2] / "evaluator" / "references"
WORDS = HashedText("hypothesis", 64)
CODE = HashedText("program")


def source(name: str) -> str:
    return (REFERENCES / f"{name}.py").read_text()


class Drawn:
    """An encoder whose vectors are drawn for each text, with many that are equal."""

    name = "drawn"
    dimensions = 16

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows = [np.random.default_rng(int(text) % 97).standard_normal(self.dimensions) for text in texts]
        made = np.array(rows, np.float32).reshape(len(texts), self.dimensions)
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def numbered(start: int, stop: int) -> list[tuple[str, str]]:
    return [(f"e-{number:04d}", str(number)) for number in range(start, stop)]


def built(items: Sequence[tuple[str, str]], **settings: int) -> Neighbours:
    index = Neighbours(Drawn(), **settings)
    index.sync(items)
    return index


def brute_force(items: Sequence[tuple[str, str]], text: str, k: int) -> list[str]:
    """By float64 cosines of the vectors themselves; equal vectors by key."""
    encoder = Drawn()
    query = encoder.encode([text])[0].astype(np.float64)
    cosines = encoder.encode([text for _, text in items]).astype(np.float64) @ query
    ranked = sorted(zip(cosines, items, strict=True), key=lambda pair: (-round(pair[0], 9), pair[1][0]))
    return [key for _, (key, _) in ranked[:k]]


class TestHashedText:
    def test_vectors_have_length_one_and_do_not_depend_on_company(self) -> None:
        texts = [source("delta_net"), source("mlp"), "", "\ud800 lone", "x"]
        together = CODE.encode(texts)
        assert together.shape == (5, 512)
        assert together.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-6)
        for text, vector in zip(texts, together, strict=True):
            np.testing.assert_array_equal(CODE.encode([text])[0], vector)
        assert CODE.encode([]).shape == (0, 512)

    def test_the_features_of_this_version_do_not_change(self) -> None:
        """Whoever changes them changes the version in the name, or stored vectors would be compared with others."""
        assert HashedText("hypothesis", 8).name == "hashed-hypothesis-8-v1"
        made = HashedText("hypothesis", 8).encode(["A short convolution helps recall"])[0]
        seen = [-0.301511, 0.150756, -0.753778, 0.301511, 0.150756, 0.150756, -0.301511, -0.301511]
        np.testing.assert_allclose(made, seen, atol=1e-5)
        made = HashedText("program", 8).encode(["x = self.proj(x)  # comment\n"])[0]
        seen = [0.297308, 0.0, 0.743269, 0.400347, -0.148654, 0.297308, -0.297308, 0.0]
        np.testing.assert_allclose(made, seen, atol=1e-5)

    def test_comments_and_docstrings_do_not_count(self) -> None:
        plain = "def f(x):\n    return x * 2\n"
        told = '"""Doubles: a great new idea."""\n\ndef f(x):\n    # twice\n    return x * 2\n'
        np.testing.assert_array_equal(CODE.encode([plain]), CODE.encode([told]))

    def test_relatives_are_nearer_than_strangers(self) -> None:
        names = [p.stem for p in REFERENCES.glob("*.py") if p.stem != "__init__"]
        index = Neighbours(CODE)
        index.sync((name, source(name)) for name in names)
        assert index.nearest_to("softmax_attention", 1)[0].key == "attention_with_convolution"
        assert index.nearest_to("retention", 1)[0].key == "retention_with_convolution"
        renamed = source("linear_attention").replace("q_", "query_").replace("v_", "value_")
        assert index.nearest(renamed, 1)[0].key == "linear_attention"


class TestEndpointText:
    def test_scales(self) -> None:
        toy = EndpointText("toy", 2)
        np.testing.assert_allclose(toy.read([[3.0, 4.0], [3e200, 4e200]], 2), [[0.6, 0.8]] * 2, rtol=1e-6)
        assert toy.read([], 0).shape == (0, 2)

    @pytest.mark.parametrize(
        "answer",
        [
            [[1.0, 2.0]],
            [[1.0], [2.0]],
            [[0.0, 0.0]] * 2,
            [[float("nan"), 1.0]] * 2,
            [[float("inf"), 1.0]] * 2,
            [["one", 1.0]] * 2,
            [[None, 1.0]] * 2,
        ],
    )
    def test_refuses_what_is_no_vector_for_each_text(self, answer: list[list[float]]) -> None:
        with pytest.raises(ValueRefused, match="toy"):
            EndpointText("toy", 2).read(answer, 2)

    def test_an_index_over_it_takes_vectors_only(self) -> None:
        toy = EndpointText("toy", 2)
        index = Neighbours(toy)
        index.sync_vectors(dict(zip("ab", toy.read([[3.0, 4.0], [4.0, 3.0]], 2), strict=True)))
        assert [one.key for one in index.nearest_to("a", 1)] == ["b"]
        with pytest.raises(TypeError, match="sync_vectors"):
            index.nearest("a", 1)

    def test_bytes_and_back(self) -> None:
        vectors = WORDS.encode(["one", "two"])
        np.testing.assert_array_equal(from_bytes([to_bytes(v) for v in vectors], WORDS), vectors)
        with pytest.raises(ValueRefused, match="4 bytes"):
            from_bytes([b"1234"], WORDS)


class TestSearch:
    def test_empty_and_small(self) -> None:
        index = Neighbours(Drawn())
        assert index.nearest("1", 3) == []
        index.sync(numbered(0, 2))
        assert [one.key for one in index.nearest("1", 3)] == ["e-0001", "e-0000"]
        with pytest.raises(ValueError, match="at least one"):
            index.nearest("1", 0)
        with pytest.raises(KeyError):
            index.nearest_to("nobody", 1)

    def test_the_same_text_has_similarity_one(self) -> None:
        index = built(numbered(0, 300))
        assert index.nearest("5", 4) == [Neighbour(f"e-{n:04d}", 1.0) for n in (5, 102, 199, 296)]
        assert [one.key for one in index.nearest_to("e-0005", 2)] == ["e-0102", "e-0199"]

    @settings(max_examples=40, deadline=None)
    @given(count=st.integers(1, 600), k=st.integers(1, 40), query=st.integers(0, 200))
    def test_agrees_with_brute_force(self, count: int, k: int, query: int) -> None:
        items = numbered(0, count)
        found = built(items).nearest(str(query), k)
        assert len(found) == min(k, count)
        assert found == sorted(found, key=lambda one: (-one.similarity, one.key))
        wanted = brute_force(items, str(query), k)
        encoder = Drawn()
        exact = {key: float(encoder.encode([t])[0] @ encoder.encode([str(query)])[0]) for key, t in items}
        for one, other in zip(found, wanted, strict=True):  # eight bits may swap entries that are almost equally near
            assert one.similarity == pytest.approx(exact[one.key], abs=0.02)
            assert exact[one.key] == pytest.approx(exact[other], abs=0.02)

    @settings(max_examples=25, deadline=None)
    @given(data=st.data(), count=st.integers(2, 400))
    def test_order_and_portions_do_not_matter(self, data: st.DataObject, count: int) -> None:
        items = numbered(0, count)
        whole = built(items)
        pieces = Neighbours(Drawn())
        left = data.draw(st.permutations(items))
        while left:
            size = data.draw(st.integers(1, len(left)))
            assert pieces.sync([*left[:size], items[0]] if items[0][0] in pieces else left[:size]) == size
            left = left[size:]
        query = str(data.draw(st.integers(0, 120)))
        assert pieces.nearest(query, 7) == whole.nearest(query, 7)
        assert pieces.sync(items) == 0

    @settings(max_examples=40, deadline=None)
    @given(count=st.integers(1, 600), step=st.integers(1, 60), k=st.integers(1, 12), query=st.integers(0, 120))
    def test_what_may_not_be_seen_changes_nothing(self, count: int, step: int, k: int, query: int) -> None:
        items = numbered(0, count)
        allowed = {key for number, (key, _) in enumerate(items) if number % step == 0}
        hidden = set(dict(items)) - allowed
        alone = built([item for item in items if item[0] in allowed]).nearest(str(query), k)
        index = built(items)
        assert index.nearest(str(query), k, among=allowed) == alone
        assert index.nearest(str(query), k, among=lambda key: key in allowed) == alone
        assert index.nearest(str(query), k, exclude=hidden) == alone

    def test_ties_beyond_the_first_look_are_seen(self) -> None:
        """A thousand equal entries: the smallest keys win, wherever they were added."""
        items = [(f"e-{number:04d}", "7") for number in range(1500)]
        assert [one.key for one in built(items[::-1]).nearest("7", 2)] == ["e-0000", "e-0001"]

    def test_missing_and_stored_vectors(self) -> None:
        index = built(numbered(0, 3))
        assert index.missing(["e-0004", "e-0001", "e-0003", "e-0004"]) == ["e-0004", "e-0003"]
        vectors = dict(zip(["e-0002", "e-0003"], Drawn().encode(["2", "3"]), strict=True))
        assert index.sync_vectors(vectors) == 1
        assert index.sync_vectors(vectors) == 0
        assert index.nearest("3", 4) == built(numbered(0, 4)).nearest("3", 4)
        assert len(index) == 4
        assert "e-0003" in index


class TestGraph:
    def test_portions_do_not_matter(self) -> None:
        """Added by one thread in one order, the graph is the same however the entries arrived."""
        whole, pieces = built(numbered(0, 900), exact_up_to=100), Neighbours(Drawn(), exact_up_to=100)
        for start in range(0, 900, 90):
            pieces.sync(numbered(start, start + 90))
            pieces.nearest("1", 1)
        assert pieces.approximate
        queries = [str(number) for number in range(60)]
        assert [pieces.nearest(q, 5) for q in queries] == [whole.nearest(q, 5) for q in queries]

    def test_finds_what_an_exact_search_finds(self) -> None:
        rng = np.random.default_rng(3)
        vectors = {f"e-{n:04d}": row for n, row in enumerate(rng.standard_normal((2000, 16)).astype(np.float32))}
        graph, exact = Neighbours(Drawn(), exact_up_to=10), Neighbours(Drawn())
        for index in (graph, exact):
            index.sync_vectors(vectors)
        hits = sum(
            len({o.key for o in graph.nearest_to(key, 10)} & {o.key for o in exact.nearest_to(key, 10)})
            for key in list(vectors)[:100]
        )
        assert hits >= 950

    def test_a_horizon_holds_there_too(self) -> None:
        index = built(numbered(0, 600), exact_up_to=10)
        found = index.nearest("5", 5, among=lambda key: key < "e-0050")
        assert found[0] == Neighbour("e-0005", 1.0)
        assert len(found) == 5
        assert all(one.key < "e-0050" for one in found)


class TestFile:
    @pytest.mark.parametrize("exact_up_to", [1000, 50])
    def test_round_trip_and_going_on(self, tmp_path: Path, exact_up_to: int) -> None:
        path = tmp_path / "n.index"
        index = built(numbered(0, 200), exact_up_to=exact_up_to)
        index.nearest("1", 1)
        index.save(path)
        again = Neighbours.load(path, Drawn(), exact_up_to=exact_up_to)
        assert [again.nearest(str(q), 5) for q in range(20)] == [index.nearest(str(q), 5) for q in range(20)]
        assert again.sync(numbered(0, 230)) == 30
        assert again.nearest("229", 1, exclude=[f"e-{n:04d}" for n in range(200)])[0].key == "e-0229"
        assert [path.name] == [p.name for p in tmp_path.iterdir()]

    def test_no_file_is_an_empty_index(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert len(Neighbours.load(tmp_path / "none", Drawn())) == 0
        assert not caplog.records

    @pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "empty", "directory"])
    def test_a_damaged_file_is_told_once_and_made_anew(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
    ) -> None:
        path = tmp_path / "n.index"
        built(numbered(0, 50)).save(path)
        data = path.read_bytes()
        path.unlink()
        if damage == "directory":
            path.mkdir()
        else:
            half = len(data) // 2
            flipped = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
            path.write_bytes({"cut": data[:half], "flipped": flipped, "foreign": b"x" * 99, "empty": b""}[damage])
        with caplog.at_level(logging.WARNING):
            index = Neighbours.load(path, Drawn())
        assert len(caplog.records) == 1
        assert "made anew" in caplog.text
        assert index.sync(numbered(0, 50)) == 50
        assert index.nearest("7", 1)[0].key == "e-0007"

    def test_vectors_of_another_encoder_are_not_used(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = tmp_path / "n.index"
        built(numbered(0, 5)).save(path)
        index = Neighbours.load(path, WORDS)
        assert len(index) == 0
        assert index.encoder == "hashed-hypothesis-64-v1"
        assert "'drawn' and not of 'hashed-hypothesis-64-v1'" in caplog.text
