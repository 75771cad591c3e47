"""The compiled scanner of texts: where it answers, it says what the definition says; where it is missing, keys stay."""

import logging
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hatch_build
from benchmarks.honest import grammar_programs, references
from benchmarks.identity_pairs import different_pairs
from memory import compiled, identity
from memory.compiled import TextScanner, Unsure
from memory.identity import l0

HONEST = dict(references()) | dict(grammar_programs(20))


@pytest.fixture(scope="module")
def scanner() -> TextScanner:
    found = identity.scanner()
    if found is None:
        pytest.skip("the scanner is not compiled: no C compiler was here when Move37 was installed")
    return found


@pytest.fixture
def nothing_found_yet() -> Iterator[None]:
    identity.scanner.cache_clear()
    yield
    identity.scanner.cache_clear()


def agrees(scanner: TextScanner, text: str) -> bool:
    """Whether the scanner answered; what it answers is what the definition says."""
    try:
        found = scanner.canonical(text)
    except Unsure:
        return False
    assert (None if found is None else bytes(found)) == identity._canonical(text)
    return True


@pytest.mark.parametrize("name", HONEST)
def test_programs_as_they_are_written_are_answered(scanner: TextScanner, name: str) -> None:
    assert agrees(scanner, HONEST[name])
    assert scanner.canonical(HONEST[name]) is not None


def test_adversarial_pairs_read_the_same(scanner: TextScanner) -> None:
    answered = [agrees(scanner, text) for pair in different_pairs() for text in (pair.left, pair.right)]
    assert sum(answered) > 0.9 * len(answered)


ATOMS = [
    *("1e", "E5", "1.", ".5", "if", "f", "rb", "0x", "'a b'", "''", "==", "e", "j", "J", "1", "x2e", "é", "\u2028"),
    *(" ", "  ", "\t", "\\\n", " \\\n", "\n", "\n    ", "\n  ", "\n \t", "# c\n", "\n#x\n", "\n\\\n", "#", "\r"),
    *("(", ")", "[", "]", "{", "}", "'", '"', "'''", '"""', "\\", "!", "!=", "=", "-", "+", "*", "/", "<", ">", "."),
    *("..", ":", ",", "@", "$", "?", "`", "\x7f", "\x00", "f'{", "f'{{", "}'", "fR", "\ud800", "_", ";", "\x0c"),
]


@settings(max_examples=800, deadline=None)
@given(st.lists(st.sampled_from(ATOMS), max_size=24).map("".join))
def test_pieces_in_any_order_read_the_same(text: str) -> None:
    found = identity.scanner()
    assert found is None or agrees(found, text) in (True, False)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_damaged_programs_read_the_same(data: st.DataObject) -> None:
    lines = data.draw(st.sampled_from(list(HONEST.values()))).split("\n")
    start = data.draw(st.integers(0, max(0, len(lines) - 8)))
    text = "\n".join(lines[start : start + 8])
    for _ in range(data.draw(st.integers(0, 3))):
        at, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 2))
        text = text[:at] + data.draw(st.sampled_from(ATOMS)) + text[at + length :]
    found = identity.scanner()
    assert found is None or agrees(found, text) in (True, False)


@pytest.mark.parametrize(
    "piece", [*("x", "'a'", "(", "()", "\n", "x\n", " ", "if x:\n "), *("'", '"', "#", "x y", "1 .", "é")]
)
@pytest.mark.parametrize("count", [1, 126, 127, 128, 50_000])
def test_long_texts_read_the_same(scanner: TextScanner, piece: str, count: int) -> None:
    agrees(scanner, piece * count)


def test_deep_blocks_are_left_to_the_definition(scanner: TextScanner) -> None:
    deep = ["".join(f"{' ' * level}if x:\n" for level in range(depth)) + " " * depth + "x" for depth in (99, 100, 101)]
    assert [agrees(scanner, text) for text in deep] == [True, True, False]
    assert len({l0(text) for text in deep}) == 3


def test_threads_do_not_share_their_room(scanner: TextScanner) -> None:
    texts = list(HONEST.values())
    expected = {text: bytes(scanner.canonical(text) or b"") for text in texts}
    wrong: list[str] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(300):
            text = rng.choice(texts)
            if bytes(scanner.canonical(text) or b"") != expected[text]:
                wrong.append(text)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.usefixtures("nothing_found_yet")
def test_without_a_library_keys_are_the_same_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usual = [l0(text) for text in HONEST.values()]
    identity.scanner.cache_clear()
    monkeypatch.setattr(TextScanner.__init__, "__defaults__", (tmp_path / "missing.so",))
    with caplog.at_level(logging.WARNING):
        assert [l0(text) for text in HONEST.values()] == usual
    assert len(caplog.records) == 1
    assert compiled.REMEDY in caplog.text


def test_a_library_of_another_source_is_not_used(
    scanner: TextScanner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "memory").mkdir()
    changed = tmp_path / hatch_build.SOURCE
    changed.write_bytes(compiled.SOURCE.read_bytes() + b"\n")
    assert hatch_build.build(tmp_path) is None
    with pytest.raises(OSError, match="another version"):
        TextScanner(identity._KINDS, tmp_path / hatch_build.LIBRARY)
    monkeypatch.setattr(compiled, "SOURCE", changed)
    assert agrees(TextScanner(identity._KINDS, tmp_path / hatch_build.LIBRARY), "x = 1")


def test_another_library_is_not_used(scanner: TextScanner, tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / hatch_build.SOURCE).write_text("int other(void) { return 0; }\n")
    assert hatch_build.build(tmp_path) is None
    with pytest.raises(OSError, match="built_of"):
        TextScanner(identity._KINDS, tmp_path / hatch_build.LIBRARY)


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_the_installation_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: str
) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / hatch_build.SOURCE).write_bytes(compiled.SOURCE.read_bytes())
    monkeypatch.setenv("CC", compiler)
    assert compiler in str(hatch_build.build(tmp_path))
    assert [path.name for path in (tmp_path / "memory").iterdir()] == [hatch_build.SOURCE.name]
