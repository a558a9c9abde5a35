"""What is converted: a model with named inputs and outputs, and the original's own answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from handlers.artefact import Artefact
from handlers.errors import KitError
from handlers.passport import TensorSpec
from repack import inputs
from repack.onnx import nodes, original
from repack.options import Profiles, Shapes
from repack.patience import answering
from repack.sources.source import Source

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Export:
    """What is exported to ONNX where that is not ``Model.module`` itself.

    Attributes:
        module: takes the model's inputs; None where ``Model.write_onnx`` writes the file.
        outputs: the names of what it gives; the original answers them too.
        finish: writes the exported file anew with the graph's end: ``finish(exported, finished)``.
        output: what the finished graph ends in, as ``handlers.artefact.Artefact.output``.
    """

    module: nn.Module | None
    outputs: tuple[str, ...]
    finish: Callable[[Path, Path], None]
    output: str


@dataclass(frozen=True)
class GpuModel:
    """A model as the runtimes on a GPU take it.

    Attributes:
        module: float32, on the CPU; None where the source is an ONNX file.
        shapes: per input its shape as the module takes it; a word is an axis of any length.
        dtypes: per input NumPy's name of its element type.
        outputs: their names.
        pixels: inputs taken as ``[N, 3, H, W]`` in 0..1 in place of uint8 ``[N, H, W, 3]``.
        channels_last: pictures and volumes lie as cuDNN reads them fastest.
        output: what it ends in, as ``handlers.artefact.Artefact.output``.
        onnx: the source's ONNX file where there is no module.
        write: writes the ONNX file instead, where that is not the one that other backends have.
        symbolic: as ``Model.symbolic``.
    """

    module: nn.Module | None
    shapes: Shapes
    dtypes: Mapping[str, str]
    outputs: tuple[str, ...]
    pixels: tuple[str, ...] = ()
    channels_last: bool = False
    output: str = "tensors"
    onnx: Path | None = None
    write: Callable[[Path], None] | None = None
    symbolic: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def feed(self, given: Arrays) -> Arrays:
        """Inputs as the passport has them -> as the module takes them."""
        return {
            name: np.ascontiguousarray(value.transpose(0, 3, 1, 2)).astype(np.float32) / 255
            if name in self.pixels
            else value
            for name, value in given.items()
        }

    def sized(self, batch: int) -> dict[str, tuple[int, ...]]:
        """The shapes with the batch axis set.

        Raises:
            ValueError: another axis is of any length; its message is the input's name.
        """
        found = {}
        for name, shape in self.shapes.items():
            if any(isinstance(n, str) for n in shape[1:]):
                raise ValueError(name)
            first = batch if isinstance(shape[0], str) else shape[0]
            found[name] = (first, *(int(n) for n in shape[1:]))
        return found


@dataclass(frozen=True)
class Built:
    """An artefact that the user built: packed as it is.

    Attributes:
        file: where it lies; ``artefact.files`` holds its name alone.
        profile: the shapes that it takes.
    """

    file: Path
    artefact: Artefact
    profile: Profiles


@dataclass(frozen=True)
class Model:
    """One model on its way into an archive; its task makes it (``repack.tasks``).

    Attributes:
        source: where it came from.
        inputs: what the converted model takes.
        outputs: what it gives.
        module: what is traced; None where the source is an ONNX file.
        original: the unconverted model's answer to inputs as in ``inputs``; the gate's reference.
            It may give more than ``outputs``: whatever an artefact may be compared in. None where
            there is no original to ask.
        settings: what the handler needs to know, as written into the passport.
        output: what ``module`` ends in, as ``handlers.artefact.Artefact.output``.
        symbolic: the user's ONNX operators, as ``repack.onnx.symbolic.load`` gives them.
        write_onnx: for an ONNX source whose graph is changed first: writes the graph that takes
            ``inputs``; None where it is converted as it is.
        export: what is exported to ONNX; None for ``module`` itself.
        on_gpu: the same model for a GPU; None for ``module`` or the ONNX file as they are.
        draw: made-up inputs ``(random numbers, batch) -> arrays``; None for values spread over
            each input's range.
        built: the user's own artefact, where nothing is to be built.
        own_types: element types beside "f32" that the file's own layers are in, such as "int8" of a
            quantised one: they are no loss of precision.
        half: the file itself rounds to 16-bit floats from layer to layer, so nothing that answers
            as it does lies within f32's bounds: what is asked for f32 is held to f16's.
        sorts: chooses the best of a list inside, so that rows of equal rank come in any order.
        notes: what was assumed, and what was taken from the file, a line each.
    """

    source: Source
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    module: nn.Module | None
    original: Callable[[Arrays], Arrays] | None
    settings: dict[str, Any] = field(default_factory=dict)
    output: str = "tensors"
    symbolic: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    write_onnx: Callable[[Path], None] | None = None
    export: Export | None = None
    on_gpu: GpuModel | None = None
    draw: Callable[[np.random.Generator, int], Arrays] | None = None
    built: Built | None = None
    own_types: frozenset[str] = frozenset()
    half: bool = False
    sorts: bool = False
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        return self.source.task

    def random_inputs(self, seed: int, batch: int = 1) -> Arrays:
        """Made-up inputs, the same for one seed."""
        rng = np.random.default_rng(seed)
        if self.draw is not None:
            return self.draw(rng, batch)
        return inputs.made_up(self.inputs, rng, batch)

    def ask(self, given: Arrays) -> Arrays:
        """The original's answer.

        Raises:
            KitError: there is no original.
        """
        if self.original is None:
            raise KitError(f"{self.source.path}: holds no original to compare with")
        try:
            with answering(self.source.path):
                return self.original(given)
        except KitError:
            raise
        except Exception as e:  # runtimes raise many types for inputs that a model does not take
            raise KitError(self._refusal(e, given)) from None

    def _refusal(self, error: Exception, given: Arrays) -> str:
        """Why the original does not run on inputs that its shapes allow."""
        shown = ", ".join(
            f"{k}={'x'.join(map(str, v.shape)) or f'{v} (one value)'}" for k, v in given.items()
        )
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        if self.module is None:
            again = partial(original.run, self.source, given)
            reason = nodes.reason(self.source.graph, error, again)
        free = [s for s in self.inputs if any(isinstance(n, str) for n in s.shape)]
        told = "; ".join(f"{s.name} is {'x'.join(map(str, s.shape))}" for s in free)
        hints = [f"sizes that it takes by --input-shape or --samples ({told})"] if free else []
        unknown = [s for s in self.inputs if s.dtype.startswith(("int", "uint"))]
        if any(s.range is None and not s.values for s in unknown):
            hints.append("values that mean something by --input-values")
        hint = f": give {', or '.join(hints)}" if hints else ""
        return f"{self.source.path}: the model does not run on {shown}: {reason}{hint}"

    @property
    def float64(self) -> bool:
        """Whether it computes in 64-bit floats."""
        kinds = {spec.dtype for spec in (*self.inputs, *self.outputs)}
        return "float64" in kinds or "f64" in self.own_types

    def for_gpu(self) -> GpuModel:
        """The model as the runtimes on a GPU take it."""
        return self.on_gpu or GpuModel(
            self.module,
            {s.name: s.shape for s in self.inputs},
            {s.name: s.dtype for s in self.inputs},
            tuple(s.name for s in self.outputs),
        )


def within(model: Model, profile: Profiles) -> Model:
    """The model whose made-up inputs fit an optimization profile; for drawing inputs only.

    Args:
        profile: by input name, or by "" where there is one input; empty leaves the model as it is.
    """
    inputs = []
    for spec in model.inputs:
        if not profile:
            return model
        limits = profile.get(spec.name) or profile.get("")
        if limits is None or len(limits[1]) != len(spec.shape):
            return model  # refused, with its name, where the engine is built
        low, usual, high = limits
        axes = [n if isinstance(n, int) else usual[i] for i, n in enumerate(spec.shape)]
        if isinstance(spec.shape[0], str) and low[0] == 1 and high[0] > 1:
            inputs.append(replace(spec, shape=(spec.shape[0], *axes[1:])))
        else:
            inputs.append(replace(spec, shape=tuple(axes)))
    return replace(model, inputs=tuple(inputs))
