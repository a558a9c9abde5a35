"""AOTInductor packages: PyTorch's own compiled kernels, loaded without compiling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.artefact import AotInductorOptions
from handlers.errors import RuntimeUnfit
from handlers.runtimes.torchscript_cuda import DTYPES, TorchScriptCuda


class AotInductor(TorchScriptCuda):
    """Runs a package for each batch size.

    ``artefact.files`` are the packages, in the order of ``options.batches``. They run with the
    PyTorch that made them and on GPUs of the same compute capability.
    """

    name = "aotinductor"
    options_type = AotInductorOptions
    options: AotInductorOptions

    def open(self) -> None:
        torch = self.torch
        built = self.options.built
        here = {
            "torch": torch.__version__.split("+")[0],
            "compute_capability": "{}.{}".format(*torch.cuda.get_device_capability(self.device)),
        }
        differs = [f"{k} {built.get(k)} (here {v})" for k, v in here.items() if built.get(k) != v]
        if differs:
            raise RuntimeUnfit(f"the package was compiled for {', '.join(differs)}: not loaded")
        self.precision = self.artefact.precision_asked
        self._dtype = getattr(torch, DTYPES[self.precision])
        # Single-threaded: the package's own locks record events, which no CUDA graph may hold.
        self.packages = {
            batch: torch._inductor.aoti_load_package(
                str(self.folder / file), run_single_threaded=True, device_index=self.device.index
            )
            for batch, file in zip(self.options.batches, self.artefact.files, strict=True)
        }

    def model_for(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        return self.packages[next(iter(shapes.values()))[0]]
