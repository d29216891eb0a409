"""What this machine's processor is called and can do."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

#: What 8-bit and bfloat16 networks run on, as Linux names it.
INSTRUCTION_SETS: Final = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16",
)  # fmt: skip


def cpu_model() -> str:
    """Its name, or the architecture where the system does not tell."""
    found = _cpuinfo().get("model name")
    if found is None and sys.platform == "darwin":
        answer = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        found = answer.stdout.strip() or None
    return found or platform.processor() or platform.machine()


def instruction_sets() -> tuple[str, ...] | None:
    """Those of INSTRUCTION_SETS that the processor has; None where the system does not tell."""
    info = _cpuinfo()
    flags = info.get("flags") or info.get("Features")
    if flags is None:
        return None
    have = set(flags.split())
    return tuple(name for name in INSTRUCTION_SETS if name in have)


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in lines}
