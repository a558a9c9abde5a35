"""Every difference between TensorRT 8.6, 10 and 11 that the kit meets, in one place.

8.6 takes a network in 32-bit floats and is told by flags which precisions it may use, and each
tensor's range for int8; its own calibrator finds these where there is no ONNX file, or TensorRT is
to choose. From 10 on the kit builds strongly typed networks, the only kind that 11 has: the
precision is in the ONNX file (16-bit weights, QuantizeLinear and DequantizeLinear).

``Flags`` holds the names that only the first way needs, ``Typed`` those of the second; every other
name that the kit uses exists in all three versions. ``tests/unit/handlers/engines/test_names.py``
looks all of them up in the published bindings. 8.6 was run on a GPU. What builds with ``Typed`` is
run against TensorRT for RTX, whose API is that of 11 (``tests/tensorrt_rtx``). No engine of 10 or
11 was run.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handlers.errors import RuntimeMissing

logger = logging.getLogger(__name__)


def library() -> Any:
    """The ``tensorrt`` package, its own plugins registered: an engine may hold some.

    Raises:
        RuntimeMissing: it is not installed, or its shared library cannot be loaded.
    """
    try:
        import tensorrt
    except (ImportError, OSError) as e:
        raise RuntimeMissing("tensorrt", e) from None
    with _registering:
        _register(tensorrt)
    return tensorrt


_registering = threading.Lock()


@functools.cache
def _register(trt: Any) -> Any:
    """Registers TensorRT's plugins once; returns the log that they write to from then on."""

    def error(said: str) -> None:
        logger.error("TensorRT's plugins: %s", " ".join(said.split()))

    log = sink(trt, error, lambda said: None)
    if not trt.init_libnvinfer_plugins(log, ""):
        logger.error("TensorRT did not register its own plugins")
    return log


def sink(trt: Any, error: Callable[[str], object], warning: Callable[[str], object]) -> Any:
    """A logger for TensorRT that passes on its errors and its warnings."""

    class Sink(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.Logger.ERROR, trt.Logger.INTERNAL_ERROR):
                error(message)
            elif severity == trt.Logger.WARNING:
                warning(message)

    return Sink()


@dataclass(frozen=True)
class Int8:
    """What TensorRT 8 is told of int8.

    Attributes:
        ranges: the largest value of each tensor, by name.
        float_layers: those that are not to run in int8.
        float_tensors: between these, or from them to the outputs: not to be held in int8 either.
            Where there are any, types are demanded: if only preferred, 8.6 passes over them.
    """

    ranges: Mapping[str, float] = field(default_factory=dict)
    float_layers: frozenset[str] = frozenset()
    float_tensors: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: Path | None) -> Int8:
        """From a JSON file: "ranges", "floats" (layers), "between" (tensors); nothing without."""
        if path is None:
            return cls()
        told = json.loads(path.read_text(encoding="utf-8"))
        return cls(told["ranges"], frozenset(told["floats"]), frozenset(told["between"]))


class Flags:
    """TensorRT 8.6: precision by builder flags; int8 by ranges, or by a calibrator.

    8.6.0 refuses the file with int8 layers that later versions read (its "chooseHigherPrecision"
    fails), so the ranges are given to the network's tensors instead.
    """

    typed = False

    def __init__(self, trt: Any):
        self.trt = trt

    def network(self, builder: Any) -> Any:
        return builder.create_network(
            1 << int(self.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        )

    def ask(self, config: Any, network: Any, precision: str, calibrator: Any, int8: Int8) -> None:
        """Lets the builder use a precision; in 16 bits, inputs and outputs are of 16 bits too."""
        flag = self.trt.BuilderFlag
        config.clear_flag(flag.TF32)  # 10 bits of mantissa are not 32-bit floats
        half, single = self.trt.float16, self.trt.float32
        if precision in ("f16", "int8", "best"):
            config.set_flag(flag.FP16)
            tensors = [network.get_output(i) for i in range(network.num_outputs)]
            if calibrator is None:  # which fills the inputs with 32-bit floats
                tensors += [network.get_input(i) for i in range(network.num_inputs)]
            for tensor in tensors:
                if tensor.dtype == single:
                    tensor.dtype = half
        if int8.ranges or calibrator is not None:
            config.set_flag(flag.INT8)
            config.int8_calibrator = calibrator
        for tensor in self._tensors(network):
            if tensor.name in int8.ranges:
                tensor.dynamic_range = (-int8.ranges[tensor.name], int8.ranges[tensor.name])
        if precision in ("f16", "int8"):
            # Left alone, the builder takes whatever kernel is fastest, 32-bit ones too.
            prefer, obey = flag.PREFER_PRECISION_CONSTRAINTS, flag.OBEY_PRECISION_CONSTRAINTS
            config.set_flag(obey if int8.float_tensors else prefer)
            kind = half if precision == "f16" else self.trt.int8
            for i in range(network.num_layers):
                self._type(network.get_layer(i), kind, int8)

    def _type(self, layer: Any, kind: Any, int8: Int8) -> None:
        half, types = self.trt.float16, self.trt.LayerType
        heavy = types.CONVOLUTION, types.DECONVOLUTION, types.MATRIX_MULTIPLY
        if layer.type in heavy:  # whose multiplications make up a network's cost
            layer.precision = half if layer.name in int8.float_layers else kind
        if layer.type == types.CAST:  # it says its own type, and 8.6 fails where it is told another
            return
        for i in range(layer.num_outputs):
            if layer.get_output(i).name in int8.float_tensors:
                layer.set_output_type(i, half)
                # Sums over whole channels stay in 32 bits.
                if layer.type in (types.ACTIVATION, types.ELEMENTWISE, types.UNARY):
                    layer.precision = half

    def _tensors(self, network: Any) -> Iterator[Any]:
        """The network's inputs, and what its layers give."""
        yield from (network.get_input(i) for i in range(network.num_inputs))
        for i in range(network.num_layers):
            layer = network.get_layer(i)
            yield from (layer.get_output(k) for k in range(layer.num_outputs))

    def share(self, config: Any) -> None:
        """Lets several execution contexts take one profile, as later versions always do."""
        config.set_preview_feature(self.trt.PreviewFeature.PROFILE_SHARING_0806, True)

    def calibrator_class(self) -> Any:
        """Ranges by relative entropy, TensorRT's own choice for convolutional networks."""
        return self.trt.IInt8EntropyCalibrator2


class Typed:
    """TensorRT 10 and 11: the network's own types are the precision."""

    typed = True

    def __init__(self, trt: Any):
        self.trt = trt

    def network(self, builder: Any) -> Any:
        return builder.create_network(
            1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        )

    def ask(self, config: Any, network: Any, precision: str, calibrator: Any, int8: Int8) -> None:
        """What the ONNX file holds is what runs; 32-bit floats are not to be TF32's 19 bits."""
        config.clear_flag(self.trt.BuilderFlag.TF32)

    def share(self, config: Any) -> None:
        """Nothing to do: every context may take any profile."""


Dialect = Flags | Typed


def dialect(trt: Any) -> Dialect:
    """How to talk to the installed TensorRT: strongly typed where it can be."""
    can = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    return Typed(trt) if can else Flags(trt)


MUST_MATCH = ("tensorrt", "gpu", "compute_capability")
"""What an engine is bound to: TensorRT's whole version, and the GPU it was tuned on."""


def machine(trt: Any, torch: Any, device: Any) -> dict[str, str]:
    """What an engine built here is bound to, and the rest that helps a person."""
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "tensorrt": str(trt.__version__),
        "gpu": str(torch.cuda.get_device_name(device)),
        "compute_capability": f"{major}.{minor}",
        "cuda": str(torch.version.cuda),
    }


def written_by(engine: bytes) -> str | None:
    """The TensorRT version in an engine file's header ("8.6.0.12"), None where it shows none.

    The header's layout is not documented: read off files of 8.6, "ftrt", then four bytes of version
    at offset 24.
    """
    if engine[:4] != b"ftrt" or len(engine) < 28:
        return None
    return ".".join(str(n) for n in engine[24:28])


def foreign(engine: bytes, installed: str) -> str | None:
    """The version that wrote an engine, where it is surely not the installed one; else None.

    Only 8's headers are known: of another installed version, only an 8's engine is told.

    Args:
        engine: the file's first bytes.
        installed: ``tensorrt.__version__``.
    """
    written = written_by(engine)
    if written is None:
        return None
    ours = [int(n) for n in re.findall(r"\d+", installed)[:3]]
    theirs = [int(n) for n in written.split(".")[:3]]
    if 8 not in (ours[0], theirs[0]):
        return None
    return None if ours == theirs[: len(ours)] else written
