"""Static gates: each refusal has its reason and line, and nothing of the program runs."""

import resource
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluator import compiling
from evaluator.errors import CompilerUnavailable, UnknownTrack
from evaluator.static_gate import MAX_PROGRAM_BYTES, STATIC_GATES, static_gates

GOOD = "import torch\n\ndef build_mixer(d_model, layer_index, n_layers):\n    return torch.nn.Identity()\n"
DEF = "def build_mixer(d_model, layer_index, n_layers): pass\n"


def last(source: str | bytes) -> tuple[str, str, int | None]:
    verdict = static_gates(source)[-1]
    assert verdict.message or verdict.passed
    return verdict.gate, verdict.reason, verdict.line


@pytest.mark.parametrize(
    "source",
    [
        GOOD,
        GOOD.encode(),
        GOOD.replace("build_mixer", "build_block"),
        GOOD.replace("d_model,", "d_model, /,"),
        "def build_mixer(*sizes): pass",
        "def build_mixer(a, b, c, d=4, *, e=5): pass",
        "from __future__ import annotations\nimport torch.nn.functional as F\nfrom einops import rearrange\n" + DEF,
        '"""An odd \\d escape."""\n' + DEF,
    ],
)
def test_programs_that_pass(source: str | bytes) -> None:
    verdicts = static_gates(source)
    assert [verdict.gate for verdict in verdicts] == list(STATIC_GATES)
    assert all(verdict.passed for verdict in verdicts)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("#" * (MAX_PROGRAM_BYTES + 1), ("text", "too_large", 1)),
        (GOOD + "\0", ("text", "nul_byte", 5)),
        (b"# \xff\n" + GOOD.encode(), ("text", "not_utf8", 1)),
        ("x = '\ud800'\n" + GOOD, ("text", "not_utf8", 1)),
        (DEF + "def f(:\n", ("syntax", "does_not_parse", 2)),
        ("x = " + "(" * 5000 + ")" * 5000, ("syntax", "does_not_parse", 1)),
        ("return 1\n" + DEF, ("syntax", "does_not_compile", 1)),
        (DEF + "def f(a, a): pass\n", ("syntax", "does_not_compile", 2)),
        ("import torch\n", ("contract", "contract_missing", None)),
        ("async def build_mixer(a, b, c): pass\n", ("contract", "contract_missing", 1)),
        ("class A:\n    def build_mixer(a, b, c): pass\n", ("contract", "contract_missing", 2)),
        ("\ndef build_mixer(a, b): pass\n", ("contract", "contract_signature", 2)),
        ("def build_mixer(a, b, c, d): pass\n", ("contract", "contract_signature", 1)),
        ("def build_mixer(a, b, c, *, d): pass\n", ("contract", "contract_signature", 1)),
        (DEF + DEF.replace("mixer", "block"), ("contract", "contract_signature", 2)),
        (DEF + "import os\n", ("imports", "import_not_allowed", 2)),
        (DEF + "import torch, subprocess\n", ("imports", "import_not_allowed", 2)),
        (DEF + "from . import x\n", ("imports", "import_not_allowed", 2)),
        (DEF + "from torch import hub\n", ("imports", "import_not_allowed", 2)),
        (DEF + "import torch.utils.cpp_extension\n", ("imports", "import_not_allowed", 2)),
        (DEF + "def f():\n    return __import__('os')\n", ("imports", "import_not_allowed", 3)),
        (DEF + "import importlib\n", ("imports", "import_not_allowed", 2)),
    ],
)
def test_programs_that_are_refused(source: str | bytes, expected: tuple[str, str, int | None]) -> None:
    assert last(source) == expected


def test_deep_nesting_is_a_verdict_and_not_a_crash() -> None:
    for source in ("x = " + "-" * 30000 + "1", "x = " + "[" * 190 + "]" * 190, "x = " + "+".join(["1"] * 12000)):
        assert static_gates(source)[-1].gate in STATIC_GATES


def nested_finally(depth: int) -> str:
    levels = (" " * level for level in range(depth))
    return "".join(f"{level}try: 1\n{level}finally:\n" for level in levels) + " " * depth + "pass\n" + DEF


def test_a_program_that_explodes_while_compiling_costs_the_host_nothing() -> None:
    source = nested_finally(19)
    assert len(source) < 1024
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    verdict = static_gates(source)[-1]
    assert (verdict.gate, verdict.reason, verdict.line) == ("syntax", "does_not_compile", None)
    assert "too much memory or time" in verdict.message
    assert time.monotonic() - began < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB
    assert static_gates(nested_finally(4))[-1].passed


def test_compiling_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(
        compiling, "_CHILD", compiling._CHILD.replace("    compile(", "    while True: pass\n    compile(")
    )
    assert "too much memory or time" in static_gates(GOOD)[-1].message


def test_an_interpreter_that_does_not_start_is_not_the_program_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for executable in ("/no/such/python", "/bin/false"):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(CompilerUnavailable):
            static_gates(GOOD)


def test_compiling_leaves_the_environment_and_the_folder_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("resource.py").write_text("raise SystemExit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert static_gates(GOOD)[-1].passed


def test_a_campaign_may_widen_the_imports() -> None:
    source = DEF + "import numpy\n"
    assert not static_gates(source)[-1].passed
    assert static_gates(source, extra_imports=frozenset({"numpy"}))[-1].passed


def test_nothing_of_the_program_runs() -> None:
    assert static_gates(DEF + "raise SystemExit(3)\n")[-1].passed


def test_an_unknown_track_is_an_error() -> None:
    with pytest.raises(UnknownTrack):
        static_gates(GOOD, track="audio")


@settings(deadline=None)
@given(st.text(max_size=80) | st.binary(max_size=80))
def test_any_text_gets_verdicts(source: str | bytes) -> None:
    verdicts = static_gates(source)
    assert [verdict.gate for verdict in verdicts] == list(STATIC_GATES[: len(verdicts)])
    assert all(verdict.passed for verdict in verdicts[:-1])
