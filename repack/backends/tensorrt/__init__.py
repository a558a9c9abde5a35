"""TensorRT: engines built by ONNX or torch2trt, each in a process of its own, and cached."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from handlers.artefact import TensorRTOptions
from handlers.errors import KitError
from repack.backends.base import Backend, Found, TritonBackend, gpu_missing, narrowed

if TYPE_CHECKING:
    from pathlib import Path

    from handlers.artefact import Artefact
    from handlers.runtimes.base import Runtime
    from repack.backends.conversion import Conversion
    from repack.model import Model
    from repack.options import GpuOptions


class TensorRT(Backend):
    """An engine for each batch size, or one with an optimization profile."""

    name = "tensorrt"
    title = "TensorRT"
    packages = ("tensorrt", "torch2trt", "torchvision")
    device = "gpu"
    precisions = ("f16", "int8", "best", "f32")
    auto = ("f16", "int8")
    from_onnx = True
    triton = TritonBackend("tensorrt", "model.plan")

    def unavailable(self) -> str | None:
        return gpu_missing(self.title)

    def takes(self, model: Model) -> str | None:
        return narrowed(model, self.title)

    def routes(self, model: Model, options: GpuOptions, precision: str) -> Sequence[str]:
        """int8 by ONNX only, unless asked for otherwise: the file holds ranges that keep the layers
        next to inputs and outputs as they are."""
        if options.via != "auto":
            return (options.via,)
        able = model.module is not None and options.batches and find_spec("torch2trt") is not None
        return ("torch2trt", "onnx") if able and precision != "int8" else ("onnx",)

    def build(self, given: Conversion, precision: str, via: str, folder: str) -> Artefact:
        from repack.backends.tensorrt import engines, profiles, rebuild
        from repack.backends.tensorrt.request import EngineRequest

        work = given.stage / "engine"
        work.mkdir(exist_ok=True)
        model, options = given.gpu_model, given.gpu
        asked = EngineRequest(
            model,
            via,
            precision,
            given.batches,
            profiles.named(model, options.profile),
            options,
            given.calibration,
        )
        if not options.rebuild_on_load:
            return engines.build(asked, folder, given.stage, work)
        rebuild.refuse(asked)
        made = engines.build(asked, folder, given.stage, work)
        return rebuild.pack(asked, made, given.model, folder, given.stage, work)

    def for_triton(
        self, folder: Path, artefact: Artefact, outputs: Sequence[str], target: Path
    ) -> None:
        options = artefact.options
        assert isinstance(options, TensorRTOptions)  # noqa: S101
        if options.batches or len(artefact.files) > 1 or options.via == "torch2trt":
            built = f"for the batches {options.batches}" if options.batches else options.via
            raise KitError(
                f"engines built {built} came; Triton takes one engine with an optimization "
                "profile, by ONNX: repack with --via onnx --min, --opt and --max"
            )
        shutil.copyfile(folder / artefact.files[0], target)

    def found(self, runtime: Runtime) -> Found:
        """From TensorRT's own inspector, layer by layer of the fused graph."""
        from repack.backends.tensorrt import inspector

        options = runtime.artefact.options
        assert isinstance(options, TensorRTOptions)  # noqa: S101
        found, floats = Found(), set(options.float_layers)
        for parts, kind, multiplies in inspector.layers(runtime):
            found.add(kind, multiplies)
            if kind != "int8" and parts & floats:
                found.left += multiplies
        found.label = found.main
        return found
