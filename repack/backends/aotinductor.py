"""AOTInductor on an NVIDIA GPU: PyTorch's compiled kernels, one package per batch size."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from handlers.artefact import AotInductorOptions, Artefact
from handlers.errors import KitError
from repack.backends.base import Found
from repack.backends.element_types import NAMES
from repack.backends.torchscript_cuda import ONE_SIZE, TorchScriptCuda, prepared

if TYPE_CHECKING:
    import torch

    from handlers.runtimes.base import Runtime
    from repack.backends.conversion import Conversion
    from repack.model import GpuModel

RUN = "import sys; from repack.backends import aotinductor; aotinductor.compile_one(*sys.argv[1:])"
LOAD = "import sys, torch; torch._inductor.aoti_load_package(sys.argv[1], run_single_threaded=True)"


class AotInductor(TorchScriptCuda):
    """Packages that run with the PyTorch, and on the kind of GPU, that compiled them."""

    name = "aotinductor"
    title = "AOTInductor"

    def build(self, given: Conversion, precision: str, via: str, folder: str) -> Artefact:
        import torch

        if not given.batches:
            raise KitError(f"{self.name} {ONE_SIZE}")
        model = given.gpu_model
        packages, weights = convert(model, precision, given.batches, given.stage / folder)
        major, minor = torch.cuda.get_device_capability()
        built = {
            "torch": torch.__version__.split("+")[0],
            "compute_capability": f"{major}.{minor}",
        }
        options = AotInductorOptions(
            outputs=model.outputs,
            batches=given.batches,
            pixels=model.pixels,
            channels_last=True,
            built=built,
            weights=weights,
        )
        files = tuple(f"{folder}/{path.name}" for path in packages)
        return Artefact(self.name, files, precision, {}, model.output, options)

    def found(self, runtime: Runtime) -> Found:
        """From the weights of the program that was compiled: a package does not tell its types."""
        found, options = Found(), runtime.artefact.options
        assert isinstance(options, AotInductorOptions)  # noqa: S101
        for name, (count, values) in options.weights.items():
            kind = NAMES.get(name, name)
            found.layers[kind] += count
            found.multiplies[kind] += values
        return found


def convert(
    model: GpuModel, precision: str, batches: Sequence[int], folder: Path
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
    import torch

    found: list[Path] = []
    weights: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory(prefix="repack-inductor-") as tmp:
        for batch in batches:
            # Inductor does not choose the layout of volumes itself: on an H200 a window of a 3-D
            # U-Net took 7.3 ms as it came, and 4.6 channels last.
            module, given = prepared(model, precision, batch, last=True)
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
    import torch

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
    import torch

    found: dict[str, tuple[int, int]] = {}
    for value in program.state_dict.values():
        if isinstance(value, torch.Tensor) and value.dim() >= 2 and value.is_floating_point():
            name = str(value.dtype).removeprefix("torch.")
            layers, values = found.get(name, (0, 0))
            found[name] = layers + 1, values + value.numel()
    return found


def compile_one(exported: str, package: str) -> None:
    """Compiles one exported program."""
    import torch

    program = torch.export.load(exported)
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=package)
