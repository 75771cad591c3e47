"""What is recorded of the machine with every trial, and how a replay compares it."""

from pathlib import Path
from typing import Any

import pytest

from move37 import machine
from move37.retraining import DECISIVE, environment_differences

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
stepping\t: 1
flags\t\t: fpu sse sse2 ssse3 fma avx avx2 avx512f hypervisor sha_ni smep
power management:

processor\t: 1
model name\t: another one
"""
ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm sve bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd40
"""


@pytest.fixture(autouse=True)
def forget() -> Any:
    machine.fingerprint.cache_clear()
    yield
    machine.fingerprint.cache_clear()


def read(text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(machine, "CPUINFO", file)
    return machine.fingerprint()


def test_the_processor_is_told_by_name_family_model_and_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(X86, tmp_path, monkeypatch)
    assert found["processor"] == "AMD EPYC"
    assert found["cpu"] == {
        "vendor": "AuthenticAMD",
        "family": "25",
        "model": "17",
        "arithmetic": "avx avx2 avx512f fma sse sse2 ssse3",
        "flags": "fpu hypervisor sha_ni smep",
    }


def test_an_arm_processor_has_other_words_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(ARM, tmp_path, monkeypatch)
    assert found["cpu"] == {
        "vendor": "0x41",
        "family": "8",
        "model": "0xd40",
        "arithmetic": "asimd bf16 fp sve",
        "flags": "evtstrm",
    }
    assert found["processor"]


def test_where_the_kernel_tells_nothing_the_platform_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "processor", lambda: "arm")
    found = read(None, tmp_path, monkeypatch)
    assert (found["processor"], found["cpu"]) == ("arm", {})


def test_a_differing_flag_is_named_and_excuses_only_if_it_computes() -> None:
    here = {"processor": "AMD EPYC", "cpu": {"family": "25", "model": "17", "arithmetic": "avx avx2", "flags": "fpu"}}
    there = {**here, "cpu": {**here["cpu"], "arithmetic": "avx avx2 avx512f", "flags": "fpu hypervisor"}}  # type: ignore[dict-item]
    found = environment_differences(there, here)
    assert found == {"cpu.arithmetic": ("avx512f", ""), "cpu.flags": ("hypervisor", "")}
    assert DECISIVE & found.keys() == {"cpu.arithmetic"}
    other = {**here, "cpu": {**here["cpu"], "model": "1"}}  # type: ignore[dict-item]
    assert environment_differences(other, here) == {"cpu.model": ("1", "17")}


def test_a_trial_from_before_is_compared_by_what_it_has() -> None:
    here = {"processor": "AMD EPYC", "cpu": {"family": "25", "arithmetic": "avx"}}
    assert environment_differences({"processor": "AMD EPYC"}, here) == {}
    assert environment_differences({"processor": "Other"}, here) == {"processor": ("Other", "AMD EPYC")}
