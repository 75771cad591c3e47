"""What a number may depend on outside its program: the machine and the interpreter, as recorded with every trial.

The name of a processor says little (a virtual machine's is often a family's), so what the kernels are chosen by is
recorded too: vendor, family, model, and the instructions that compute, apart from the other flags.

Not covered: several kinds of cores in one machine (the first is described), microcode, caches.
"""

import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")

_NAMES = {  # on x86, on ARM
    "vendor": ("vendor_id", "CPU implementer"),
    "family": ("cpu family", "CPU architecture"),
    "model": ("model", "CPU part"),
}
_FLAGS = ("flags", "Features")
_ARITHMETIC = re.compile(
    r"s?sse\w*|pni|3dnow(?:ext)?|avx\w*|fma\w*|f16c|amx\w*"
    r"|fp|fphp|asimd\w*|sve\w*|sme(?:2|_\w*)?|bf16|i8mm"
)


@cache
def fingerprint() -> dict[str, Any]:
    """Platform, processor, interpreter. `cpu` is empty where the kernel tells nothing of it."""
    fields = _first_processor()
    return {
        "platform": platform.platform(),
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "cpu": _cpu(fields),
        "host_python": platform.python_version(),
        "machine": platform.machine(),
    }


def _first_processor() -> dict[str, str]:
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _cpu(fields: dict[str, str]) -> dict[str, str]:
    found = {name: fields[key] for name, keys in _NAMES.items() for key in keys if key in fields}
    flags = sorted({flag for key in _FLAGS for flag in fields.get(key, "").split()})
    if flags:
        found["arithmetic"] = " ".join(flag for flag in flags if _ARITHMETIC.fullmatch(flag))
        found["flags"] = " ".join(flag for flag in flags if not _ARITHMETIC.fullmatch(flag))
    return found
