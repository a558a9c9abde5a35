"""PyTorch module -> AOTInductor packages: its compiler's kernels, one package per batch size."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from handlers.errors import KitError
from repack.backends.gpu_model import DeviceForm
from repack.backends.torchscript_cuda import prepared

RUN = (
    "import sys, torch; from repack.backends import aotinductor_from_module as a; "
    "a.compile_one(*sys.argv[1:])"
)
LOAD = "import sys, torch; torch._inductor.aoti_load_package(sys.argv[1], run_single_threaded=True)"


def convert(
    form: DeviceForm, precision: str, batches: Sequence[int], folder: Path
) -> tuple[list[Path], dict[str, tuple[int, int]]]:
    """Compiles a package for each batch size, each in its own process.

    A process of its own, because a compiled package, loaded where it was compiled, has crashed
    (PyTorch 2.11), and because the compiler keeps gigabytes.

    Returns:
        The packages, and per element type how many weights the program has and their values: a
        package does not tell the types of its own.

    Raises:
        KitError: no GPU, no compiler (Triton, a C++ compiler), or it does not take the model.
    """
    found, weights = [], {}
    with tempfile.TemporaryDirectory(prefix="repack-inductor-") as tmp:
        for batch in batches:
            # Inductor does not choose the layout of volumes itself: on an H200 a window of a 3-D
            # U-Net took 7.3 ms as it came, and 4.6 channels last.
            module, given = prepared(form, precision, batch, last=True)
            exported, package = Path(tmp) / f"b{batch}.pt2", folder / f"model-b{batch}.pt2"
            with torch.no_grad():
                program = torch.export.export(module, given)
                torch.export.save(program, exported)
            weights = _weights(program)
            environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(Path(tmp) / "cache")}
            done = subprocess.run(
                [sys.executable, "-c", RUN, str(exported), str(package)],
                capture_output=True,
                text=True,
                cwd=Path(__file__).resolve().parents[2],
                env=environment,
                check=False,
            )
            if done.returncode or not package.is_file():
                last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
                raise KitError(f"AOTInductor does not compile this model ({last})")
            _try_loading(package)
            found.append(package)
    return found, weights


def _try_loading(package: Path) -> None:
    """Loads a package in a process of its own: one that ends its process must not end this one.

    Raises:
        KitError: it cannot be loaded.
    """
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(package)], capture_output=True, text=True, check=False
    )
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise KitError(
            f"AOTInductor compiled this model, but loading the package ends a process ({name}, "
            f"PyTorch {torch.__version__})"
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise KitError(f"AOTInductor compiled this model, but the package does not load ({last})")


def _weights(program: torch.export.ExportedProgram) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for value in program.state_dict.values():
        if isinstance(value, torch.Tensor) and value.dim() >= 2 and value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            weights, values = found.get(kind, (0, 0))
            found[kind] = weights + 1, values + value.numel()
    return found


def compile_one(exported: str, package: str) -> None:
    """Compiles one exported program."""
    program = torch.export.load(exported)
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=package)
