"""Every probe in every backend: hostile programs end as they must, and leave nothing behind.

The probes are data (`probes/`), the bench that runs them asserts what has to hold for each. The quick tier runs by
default; the others carry the marker `thorough`. The process backend, which isolates nothing, gets only probes that do
no more than say wrong things.
"""

import re
from pathlib import Path

import pytest

from tests.sandbox.probes.bench import Bench
from tests.sandbox.probes.probe import Probe
from tests.sandbox.probes.suite import (
    GAPS,
    GAPS_WITHOUT_CGROUP,
    ISOLATED,
    PROBES,
    REFERENCE,
    as_markdown,
    gaps_here,
    matrix,
)

BACKENDS = [
    pytest.param("docker", marks=pytest.mark.docker),
    pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
    pytest.param("landlock", marks=pytest.mark.landlock),
    "process",
]


def listed():
    """Backend and probe: all of them where something isolates, and those that only talk where nothing does."""
    cases = []
    for backend in BACKENDS:
        level, marks = (backend, ()) if isinstance(backend, str) else (backend.values[0], tuple(backend.marks))
        for probe in PROBES:
            if level == "process" and not probe.pure:
                continue
            tier = () if probe.fast else (pytest.mark.thorough,)
            name = f"{level}-{re.sub(r'[^a-zA-Z0-9]+', '-', probe.name)}"
            cases.append(pytest.param(level, probe, id=name, marks=(*marks, *tier)))
    return cases


@pytest.fixture(scope="module", params=BACKENDS)
def bench(request):
    with Bench(request.param) as bench:
        yield bench


@pytest.mark.parametrize(("bench", "probe"), listed(), indirect=["bench"])
async def test_a_hostile_program_is_contained(bench: Bench, probe: Probe) -> None:
    gap = gaps_here(bench.level).get(probe.name)
    if gap is not None and not gap.asserted:
        pytest.skip(f"not contained by {bench.level}: {gap.why}")
    evidence = await bench.run(probe)
    if gap is None:
        probe.judge(evidence)
        return
    with pytest.raises(AssertionError):  # it is contained now? Then its entry in GAPS has to go
        probe.judge(evidence)


async def test_the_sandbox_is_still_usable_after_all_that(bench: Bench) -> None:
    await bench.assert_usable()


def test_the_suite_is_complete() -> None:
    numbers = [probe.number for probe in PROBES if probe.number != "own"]
    assert sorted(numbers) == sorted(REFERENCE)
    assert len(PROBES) - len(numbers) >= 14
    names = [probe.name for probe in PROBES]
    assert len(set(names)) == len(names)
    assert all(probe.tries and probe.stops for probe in PROBES)


@pytest.mark.parametrize("level", ISOLATED)
def test_gaps_are_few_and_named(level: str) -> None:
    gaps = GAPS[level] | GAPS_WITHOUT_CGROUP[level]
    assert set(gaps) <= {probe.name for probe in PROBES}
    assert len(PROBES) - len(gaps) >= 50
    assert all(gap.why for gap in gaps.values())


def test_the_matrix_has_a_line_for_every_probe() -> None:
    assert [row.number for row in matrix()][: len(REFERENCE)] == list(REFERENCE)
    assert len(matrix()) == len(PROBES)
    table = as_markdown()
    assert all(f"| {probe.name} |" in table for probe in PROBES)
    assert all(f"- {name}, {level}: " in table for level in ISOLATED for name in GAPS[level])


def test_the_documentation_shows_the_matrix_as_it_is() -> None:
    """Made anew with `python -m tests.sandbox.probes.suite`."""
    page = Path(__file__).parents[2] / "docs" / "probes.md"
    assert page.read_text().rstrip().endswith(as_markdown().rstrip())
