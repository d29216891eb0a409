"""What this machine's processor is called and can do."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import psutil

#: As many as are counted.
MOST_CORES: Final = 64
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


def resident_bytes(pid: int | None = None) -> int:
    """Memory that a process holds, this one by default. Raises psutil.Error where that cannot be told."""
    return int(psutil.Process(pid).memory_info().rss)


def share_freed_memory() -> None:
    """All threads allocate from one place, so that what one has freed another can use; where the C library is glibc.

    Otherwise each model thread keeps what loading its networks took for a moment. Before the threads start.
    """
    if _glibc is not None:
        _glibc.mallopt(_M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Gives the system back what this process has freed; where the C library is glibc."""
    if _glibc is not None:
        _glibc.malloc_trim(0)


def instruction_sets() -> tuple[str, ...] | None:
    """Those of INSTRUCTION_SETS that the processor has; None where the system does not tell."""
    info = _cpuinfo()
    flags = info.get("flags") or info.get("Features")
    if flags is None:
        return None
    have = set(flags.split())
    return tuple(name for name in INSTRUCTION_SETS if name in have)


def lacks_avx2() -> bool:
    """Whether an x86 processor is known to have no AVX2, or is told to hide it (oneDNN's ONEDNN_MAX_CPU_ISA)."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX"):
        return True
    found = instruction_sets()
    return found is not None and "avx2" not in found


def graphics() -> tuple[str, ...]:
    """The graphics adapters and their drivers, as far as the system tells without loading one; empty: none known.

    For telling whether they changed, not for showing. Of drivers outside the kernel it tells the file and its date.
    """
    if sys.platform == "win32":
        return _windows_graphics()
    if sys.platform == "darwin":
        # Metal comes with the system, and every Mac with Apple's processor has its GPU.
        return (f"Metal of macOS {platform.mac_ver()[0]}",) if platform.machine() == "arm64" else ()
    adapters = tuple(_uevent(node) for node in sorted(DRM.glob("renderD*")))
    if Path("/dev/dxg").exists():  # Windows' GPU inside WSL
        adapters += ("dxg",)
    if not adapters:
        return ()
    drivers = (file for folder in (*VULKAN_DRIVERS, OPENCL_DRIVERS) for file in sorted(folder.glob("*")))
    dated = tuple(f"{file} {file.stat().st_mtime_ns}" for file in drivers if file.is_file())
    return (*adapters, f"kernel {platform.release()}", *dated)


def intel_compute() -> bool:
    """Whether there is an Intel GPU with a driver that OpenVINO can use; loads none."""
    if sys.platform == "win32":
        return any("intel" in adapter.lower() for adapter in _windows_graphics())
    if sys.platform == "darwin":
        return False
    has_driver = any("intel" in file.name.lower() for file in OPENCL_DRIVERS.glob("*.icd"))
    return has_driver and any("PCI_ID=8086:" in _uevent(node) for node in DRM.glob("renderD*"))


_M_ARENA_MAX: Final = -8
_glibc: Final = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None

DRM: Final = Path("/sys/class/drm")
VULKAN_DRIVERS: Final = (Path("/usr/share/vulkan/icd.d"), Path("/etc/vulkan/icd.d"))
OPENCL_DRIVERS: Final = Path("/etc/OpenCL/vendors")


def _uevent(node: Path) -> str:
    """Driver and PCI numbers of a Linux graphics device, in one line."""
    try:
        return " ".join((node / "device" / "uevent").read_text().split())
    except OSError:
        return node.name


def _windows_graphics() -> tuple[str, ...]:
    """Name and driver version of every display adapter in the registry."""
    found: list[str] = []
    if sys.platform == "win32":
        import winreg

        adapters = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, adapters) as display:
                for number in range(winreg.QueryInfoKey(display)[0]):
                    name = winreg.EnumKey(display, number)
                    if name.isdigit():
                        with winreg.OpenKey(display, name) as adapter:
                            parts = (winreg.QueryValueEx(adapter, part)[0] for part in ("DriverDesc", "DriverVersion"))
                            found.append(" ".join(map(str, parts)))
        except OSError:
            return tuple(found)
    return tuple(found)


def _cpuinfo() -> dict[str, str]:
    """The first processor's entry of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in lines}


@cache
def cuda_driver_present() -> bool:
    """Whether an NVIDIA driver can be loaded: much cheaper to ask than torch, which takes seconds to import."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def physical_cores() -> int:
    """Cores this process may use: hyper-threads counted once, the affinity and a container's quota respected."""
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:  # no affinity on macOS and Windows
        return max(1, os.cpu_count() or 1)
    siblings = set()
    for cpu in allowed:
        try:
            siblings.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            siblings.add(str(cpu))
    return max(1, min(len(siblings), _quota()))


def _quota() -> int:
    """Whole cores that the control group grants, rounded up."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return MOST_CORES if quota == "max" else max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return MOST_CORES
