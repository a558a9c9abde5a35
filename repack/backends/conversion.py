"""One model's conversion: what the backends share, so that a step that several need runs once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from handlers.errors import KitError
from repack.model import Arrays, GpuModel, Model
from repack.onnx import export
from repack.options import GpuOptions


class Conversion:
    """What a backend builds from.

    Attributes:
        model: what is converted.
        stage: folder that artefacts are built in, each in a folder of its own.
        calibration: inputs for int8.
        gpu: what the user asked for on a GPU.
    """

    def __init__(
        self,
        model: Model,
        stage: Path,
        calibration: Sequence[Arrays] = (),
        gpu: GpuOptions | None = None,
    ):
        self.model = model
        self.stage = stage
        self.calibration = calibration
        self.gpu = gpu or GpuOptions()

    @cached_property
    def onnx(self) -> Path | KitError:
        """The model as ONNX, or why there is none."""
        model = self.model
        if model.module is None and model.write_onnx is None:
            return model.source.graph
        folder = self.stage / "onnx"
        folder.mkdir(parents=True)
        exported, finished = folder / "exported.onnx", folder / "finished.onnx"
        try:
            if model.write_onnx is not None:
                model.write_onnx(exported)
            else:
                export.convert(model, exported)
        except KitError as e:
            return e
        if model.export is None:
            return exported
        model.export.finish(exported, finished)
        return finished

    def onnx_file(self) -> Path:
        """The model as ONNX.

        Raises:
            KitError: the exporter does not take it.
        """
        if isinstance(self.onnx, KitError):
            raise self.onnx
        return self.onnx

    @property
    def onnx_output(self) -> str:
        """What the ONNX file ends in."""
        return self.model.export.output if self.model.export else self.model.output

    @cached_property
    def gpu_model(self) -> GpuModel:
        """The model as the runtimes on a GPU take it.

        Raises:
            KitError: there is no module, and no ONNX file either.
        """
        found = replace(self.model.for_gpu(), symbolic=self.model.symbolic)
        if found.module is not None:
            return found
        if found.write is None:
            return replace(found, onnx=self.onnx_file())
        file = self.stage / "onnx-gpu" / "model.onnx"
        file.parent.mkdir(parents=True)
        found.write(file)
        return replace(found, onnx=file)

    @property
    def batches(self) -> tuple[int, ...]:
        """Sizes that are built for a GPU, an artefact's file for each; empty for a profile."""
        first = next((s[0] for s in self.gpu_model.shapes.values()), "batch")
        if self.gpu.profile:
            return ()
        return self.gpu.batches if isinstance(first, str) else (int(first),)
