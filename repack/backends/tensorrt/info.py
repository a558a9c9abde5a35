"""What this machine has for TensorRT: ``model_repack.py --info``."""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from typing import Any

from handlers.engines import versions
from handlers.errors import RuntimeMissing


def main() -> int:
    """Prints it."""
    print(text())
    return 0


def text() -> str:
    """One line each: TensorRT, torch2trt, PyTorch, CUDA, driver, GPUs with compute capability."""
    import torch

    lines = []
    try:
        trt: Any = versions.library()
        kind = "strongly typed networks" if versions.dialect(trt).typed else "precision by flags"
        lines.append(f"TensorRT {trt.__version__} ({kind})")
    except RuntimeMissing as e:
        lines.append(f"TensorRT: none ({e})")
    lines.append("torch2trt: " + ("installed" if find_spec("torch2trt") else "not installed"))
    lines.append(f"PyTorch {torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    lines.append(f"driver: {_driver()}")
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        major, minor = torch.cuda.get_device_capability(i)
        name = torch.cuda.get_device_name(i)
        lines.append(f"GPU {i}: {name}, compute capability {major}.{minor}, {memory:.0f} GiB")
    if not torch.cuda.device_count():
        lines.append("GPU: none that PyTorch can use")
    return "\n".join(lines)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "none (no nvidia-smi)"
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "none"
