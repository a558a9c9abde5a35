"""What an engine file's header and TensorRT's inspector tell, read off real files of 8.6."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from handlers.artefact import TensorRTOptions
from handlers.engines.versions import foreign, written_by
from repack.backends.tensorrt import TensorRT
from repack.tolerances import shortfall

HEADER = bytes.fromhex("66747274000000000100000000000000 0458fb00000000000806000c00000000")
"""An engine's first 32 bytes: YOLOv5s in 16 bits, built by TensorRT 8.6.0.12 on an H200."""

LAYERS = Path(__file__).resolve().parents[3] / "data" / "tensorrt_8_6_layers.json"
"""A cut of what TensorRT 8.6's inspector said of two engines: 16-bit convolutions of a detector,
32-bit ones and a transposed one of a volume's network, and layers without weights."""


def test_the_version_is_in_the_header() -> None:
    assert written_by(HEADER) == "8.6.0.12"
    assert written_by(HEADER[:27]) is None
    assert written_by(b"PK\x03\x04" + HEADER[4:]) is None
    assert written_by(b"") is None


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        ("8.6.0", None),
        ("8.6", None),
        ("8.6.0.12", None),
        ("8.6.1", "8.6.0.12"),
        ("8.6.1.post1", "8.6.0.12"),
        ("8.5.0", "8.6.0.12"),
        ("10.16.1.11", "8.6.0.12"),
    ],
)
def test_another_version_is_told(installed: str, found: str | None) -> None:
    assert foreign(HEADER, installed) == found


def test_headers_of_unknown_layout_are_left_to_tensorrt() -> None:
    """Of 10 and 11 no file was seen: what stands there is no reason to refuse their engines."""
    unknown = HEADER[:24] + bytes([1, 2, 3, 4]) + HEADER[28:]
    assert foreign(unknown, "10.16.1.11") is None
    assert foreign(b"no engine at all, and long enough", "8.6.0") is None


class Told:
    """A runtime whose inspector says what a real one said."""

    name = "tensorrt"
    precision = "f16"

    def __init__(self, layers: list[Any], floats: tuple[str, ...] = ()):
        options = TensorRTOptions(outputs=(), built={}, engines=(), via="onnx", float_layers=floats)
        self.artefact = SimpleNamespace(options=options)
        self.text = json.dumps({"Layers": layers})
        self.trt = self
        self.engines = [self]

    @property
    def LayerInformationFormat(self) -> Told:  # noqa: N802
        return self

    JSON = "json"

    def create_engine_inspector(self) -> Told:
        return self

    def get_engine_information(self, kind: str) -> str:
        assert kind == "json"
        return self.text


def layers() -> list[Any]:
    found: list[Any] = json.loads(LAYERS.read_text(encoding="utf-8"), strict=False)["Layers"]
    return found


def found_in(runtime: Any) -> dict[str, Any]:
    return TensorRT().found(runtime).report(runtime)


def test_the_precision_is_counted_by_multiplications() -> None:
    runtime: Any = Told(layers())
    found = found_in(runtime)
    counts = [layer for layer in layers() if isinstance(layer, dict) and "Count" in str(layer)]
    kinds = [layer["Weights"]["Type"] for layer in counts]
    assert found["layers"]["f16"] == pytest.approx(kinds.count("Half") / len(kinds), abs=1e-3)
    assert set(found["flops"]) == {"f16", "f32"}
    assert sum(found["flops"].values()) == pytest.approx(1, abs=1e-3)
    assert found["label"] == "f16"


def test_one_convolutions_multiplications() -> None:
    """3456 weights at 320 x 320 places; the others' share tells that number."""
    first, second = (layer for layer in layers()[:2])
    n, _, h, w = first["Outputs"][0]["Dimensions"]
    _, _, h2, w2 = second["Outputs"][0]["Dimensions"]
    second = {**second, "Weights": {**second["Weights"], "Type": "Int8"}}
    runtime: Any = Told([first, second])
    a = n * h * w * first["Weights"]["Count"]
    b = n * h2 * w2 * second["Weights"]["Count"]
    flops = found_in(runtime)["flops"]
    assert flops["f16"] == pytest.approx(a / (a + b), abs=1e-3)
    assert flops["int8"] == pytest.approx(b / (a + b), abs=1e-3)


def test_what_int8_leaves_in_floats_on_purpose_does_not_count_against_it() -> None:
    first, second = (layer for layer in layers()[:2])
    third = {**first, "Weights": {**first["Weights"], "Type": "Int8"}}
    first, second = {**first, "Name": "a + act"}, {**second, "Name": "b || c"}
    third["Name"] = "d"
    runtime: Any = Told([first, *[third] * 3])
    found = found_in(runtime)
    assert "kept" not in found
    assert "multiply-adds: f16 25%, int8 75%)" in str(shortfall("int8", found))
    runtime = Told([first, *[third] * 3], ("a", "act"))
    found = found_in(runtime)
    assert found["kept"] == 0.25
    assert shortfall("int8", found) is None
    # Named, but in int8 all the same: nothing was kept. And most must be in int8.
    assert "kept" not in found_in(Told([third, third], ("d",)))
    found = found_in(Told([first, first, first, third], ("a",)))
    lack = shortfall("int8", found)
    assert lack == (
        "asked int8, found f16 (multiply-adds: f16 75%, int8 25%; 75% left in floats on purpose)"
    )
    found = found_in(Told([first, third, second, third], ("c",)))
    assert 0 < found["kept"] < 1


def test_a_transposed_convolution_multiplies_at_its_inputs_places() -> None:
    transposed = next(x for x in layers() if isinstance(x, dict) and "Deconv" in x["LayerType"])
    plain = {**transposed, "LayerType": "CaskConvolution"}
    plain["Weights"] = {**plain["Weights"], "Type": "Int8"}
    runtime: Any = Told([transposed, plain])
    flops = found_in(runtime)["flops"]
    assert flops["int8"] / (1 - flops["int8"]) == pytest.approx(8, rel=0.01)


def test_an_engine_that_tells_nothing_is_unknown_and_fails() -> None:
    runtime: Any = Told(["a name", "another"])
    found = found_in(runtime)
    assert found["label"] == "unknown"
    assert "none known" in str(shortfall("f16", found))
