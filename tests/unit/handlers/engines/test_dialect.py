"""What TensorRT 8 is told of int8, and how its contexts share a profile.

Around a stand-in: the real one runs on a GPU only (``tests/gpu``).
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from handlers.artefact import Artefact, TensorRTOptions
from handlers.engines import build, versions
from handlers.engines.versions import Flags, Int8
from handlers.runtimes.tensorrt_ import TensorRT

NAMES = ("TF32", "FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS", "OBEY_PRECISION_CONSTRAINTS")
TRT: Any = SimpleNamespace(
    float16="half",
    float32="float",
    int8="int8",
    BuilderFlag=SimpleNamespace(**{name: name for name in NAMES}),
    LayerType=SimpleNamespace(
        **{"CONVOLUTION": "conv", "DECONVOLUTION": "deconv", "MATRIX_MULTIPLY": "mm"},
        **{"ACTIVATION": "activation", "ELEMENTWISE": "elementwise", "UNARY": "unary"},
        CAST="cast",
    ),
)


class Config:
    """Remembers its flags."""

    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.int8_calibrator: Any = None

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)


class Layer:
    """One layer, named as what it gives last."""

    def __init__(self, kind: str, *outputs: Any):
        self.name, self.type, self.outputs = outputs[-1].name, kind, outputs
        self.num_outputs = len(outputs)
        self.precision: str | None = None
        self.types: dict[int, str] = {}

    def get_output(self, i: int) -> Any:
        return self.outputs[i]

    def set_output_type(self, i: int, kind: str) -> None:
        self.types[i] = kind


class Network:
    """Four convolutions, as TensorRT shows them; the last two read the second one's activation.

    x > first > act > middle > wide > last, and wide > side
    """

    def __init__(self) -> None:
        kinds = {"first": "conv", "act": "unary", "middle": "conv", "wide": "unary"}
        kinds |= {"last": "conv", "side": "conv"}
        self.tensors = {n: SimpleNamespace(name=n, dtype="float") for n in ("x", *kinds)}
        self.layers = [Layer(kind, self.tensors[name]) for name, kind in kinds.items()]
        self.num_layers, self.num_inputs, self.num_outputs = len(kinds), 1, 1

    def get_layer(self, i: int) -> Any:
        return self.layers[i]

    def get_input(self, i: int) -> Any:
        return self.tensors["x"]

    def get_output(self, i: int) -> Any:
        return self.tensors["last"]


def test_ranges_and_floats_reach_the_network() -> None:
    config, network = Config(), Network()
    ranges = {"x": 1.0, "first": 2.5, "act": 2.0, "unknown": 9.0}
    floats = frozenset({"first", "last"})
    Flags(TRT).ask(config, network, "int8", None, Int8(ranges, floats))
    assert {"FP16", "INT8", "PREFER_PRECISION_CONSTRAINTS"} == config.flags
    assert config.int8_calibrator is None
    told = {n: t.dynamic_range for n, t in network.tensors.items() if hasattr(t, "dynamic_range")}
    assert told == {"x": (-1.0, 1.0), "first": (-2.5, 2.5), "act": (-2.0, 2.0)}
    precisions = {layer.name: layer.precision for layer in network.layers}
    assert precisions == {
        **{"first": "half", "act": None, "middle": "int8"},
        **{"wide": None, "last": "half", "side": "int8"},
    }
    assert (network.tensors["x"].dtype, network.tensors["last"].dtype) == ("half", "half")


def test_tensors_between_layers_in_floats_are_a_demand() -> None:
    config, network = Config(), Network()
    told = Int8(
        dict.fromkeys(network.tensors, 3.0),
        frozenset({"middle", "last"}),
        frozenset({"middle", "wide", "last"}),
    )
    Flags(TRT).ask(config, network, "int8", None, told)
    assert {"FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"} == config.flags
    precisions = {layer.name: layer.precision for layer in network.layers}
    assert precisions == {
        **{"first": "int8", "act": None, "middle": "half"},
        **{"wide": "half", "last": "half", "side": "int8"},
    }
    given = {layer.name: layer.types for layer in network.layers if layer.types}
    assert given == {"middle": {0: "half"}, "wide": {0: "half"}, "last": {0: "half"}}
    assert all(t.dynamic_range == (-3.0, 3.0) for t in network.tensors.values())


def test_a_cast_says_its_own_type() -> None:
    """TensorRT 8.6.0 fails where a cast is told another ("castLayer.cpp::validate")."""
    network = Network()
    network.layers[1] = Layer("cast", network.tensors["act"])
    told = Int8({"act": 1.0}, frozenset(), frozenset({"act"}))
    Flags(TRT).ask(Config(), network, "int8", None, told)
    assert (network.layers[1].precision, network.layers[1].types) == (None, {})


def test_of_what_sums_over_channels_only_the_result_is_demanded() -> None:
    network = Network()
    both = [network.tensors["x"], network.tensors["act"]]
    network.layers[1] = Layer("normalization", *both)
    told = Int8({"act": 1.0}, frozenset(), frozenset({"act"}))
    Flags(TRT).ask(Config(), network, "int8", None, told)
    assert (network.layers[1].precision, network.layers[1].types) == (None, {1: "half"})


def test_16_bits_ask_for_no_int8() -> None:
    config, network = Config(), Network()
    Flags(TRT).ask(config, network, "f16", None, Int8())
    assert {"FP16", "PREFER_PRECISION_CONSTRAINTS"} == config.flags
    assert {layer.precision for layer in network.layers} == {"half", None}


class Talking:
    """``tensorrt`` as far as it is logged to, and as its plugins are registered."""

    class ILogger:
        def log(self, severity: str, message: str) -> None:
            raise AssertionError("not replaced")

    Logger = SimpleNamespace(ERROR="error", INTERNAL_ERROR="internal", WARNING="warning")

    def __init__(self, registers: bool):
        self.registers = registers
        self.given: list[Any] = []

    def init_libnvinfer_plugins(self, log: Any, namespace: str) -> bool:
        self.given.append(log)
        log.log("error", "no\n handles")
        log.log("warning", "slow")
        return self.registers


@pytest.mark.parametrize("registers", [True, False])
def test_plugins_are_registered_once_and_their_errors_logged(
    registers: bool, caplog: pytest.LogCaptureFixture
) -> None:
    trt: Any = Talking(registers)
    assert versions._register(trt) is versions._register(trt) is trt.given[0]
    assert len(trt.given) == 1
    said = [record.message for record in caplog.records]
    expected = ["TensorRT's plugins: no handles"]
    assert said == [
        *expected,
        *([] if registers else ["TensorRT did not register its own plugins"]),
    ]


def test_a_builds_errors_are_kept_and_its_warnings_are_not() -> None:
    log = build.Log(Talking(True))
    for severity in ("error", "internal", "warning", "info"):
        log.sink.log(severity, f"{severity}\nsaid")
    assert log.errors == ["error\nsaid", "internal\nsaid"]
    assert log.reason("none") == "internal said"


class Engine:
    """Lends its profile to so many contexts at a time; to further ones it lends none."""

    def __init__(self, lends: int):
        self.lends = lends
        self.held: list[object] = []

    def create_execution_context(self) -> Any:
        free = len(self.held) < self.lends
        context = Context(self, 0 if free else -1)
        return context


OPTIONS = TensorRTOptions(outputs=(), built={}, engines=(), via="onnx")


class Context:
    def __init__(self, engine: Engine, profile: int):
        self.engine = engine
        self.active_optimization_profile = profile
        if profile >= 0:
            engine.held.append(self.token())

    def token(self) -> int:
        return id(self)

    def __del__(self) -> None:
        if self.token() in self.engine.held:
            self.engine.held.remove(self.token())


@pytest.mark.parametrize(("lends", "kept"), [(1, 1), (9, 3)])
def test_a_profile_that_is_lent_once_goes_to_the_newest(lends: int, kept: int) -> None:
    runtime = TensorRT(Path(), Artefact("tensorrt", (), "f16", {}, "tensors", OPTIONS), ())
    runtime.sizes = {}
    stream: Any = SimpleNamespace(synchronize=lambda: None)
    runtime.stream = stream
    engine = Engine(lends)
    for shape in ((1,), (2,), (3,)):
        context = runtime._context(engine)
        assert context.active_optimization_profile == 0
        runtime.sizes[shape,] = context
        del context
    assert len(runtime.sizes) == kept
