"""Engines as inputs, as far as a machine without TensorRT can tell."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from handlers import runtimes
from handlers.artefact import Artefact, OnnxRuntimeOptions, TensorRTOptions
from handlers.errors import KitError, Unprocessable
from handlers.passport import TensorSpec
from handlers.runtimes.base import Runtime
from repack import archive, cli, inspect, packing, pipeline
from repack.backends.base import Found
from repack.backends.onnxruntime import OnnxRuntime
from repack.backends.tensorrt import TensorRT
from repack.gate import NOT_PROVEN
from repack.model import Arrays, Model, within
from repack.options import Options, Profiles, SourceOptions
from repack.sources import engine
from repack.sources.source import EngineFile
from tests.support import built, made

FIXED: Profiles = {"x": ((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8))}
WIDE: Profiles = {"x": ((1, 3, 16, 16), (2, 3, 24, 24), (4, 3, 32, 32))}


def test_engines_are_told_by_content_then_by_suffix(tmp_path: Path) -> None:
    files = {"a.bin": b"ftrt....", "b.engine": b"other", "c.plan": b"", "d.onnx": b"\x08\x07"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = [engine.holds(tmp_path / name) for name in files]
    assert found == [True, True, True, False]
    assert not engine.holds(tmp_path)
    assert not engine.holds(tmp_path / "none.engine")


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_without_tensorrt_it_is_named_with_the_install_command(tmp_path: Path) -> None:
    (tmp_path / "a.engine").write_bytes(b"ftrt")
    words = ["--weights", str(tmp_path / "a.engine"), "--model-store", str(tmp_path)]
    with pytest.raises(KitError, match=r"tensorrt cannot be loaded.*pip install tensorrt"):
        pipeline.repack(cli.parse(words))


def test_inputs_are_drawn_inside_the_profile() -> None:
    model = built.flexible()
    assert within(model, WIDE).random_inputs(1, batch=2)["x"].shape == (2, 3, 24, 24)
    fixed: Profiles = {"": ((4, 3, 16, 16), (4, 3, 24, 24), (4, 3, 32, 32))}
    assert within(model, fixed).inputs[0].shape == (4, 3, 24, 24)
    assert within(model, {}) is model
    assert within(model, {"x": ((1,), (1,), (1,))}) is model


def test_the_passport_is_shown_as_not_proven() -> None:
    found = {"label": "f16", "layers": {}, "flops": {}}
    artefact = Artefact("tensorrt", ("m.plan",), "f16", found, "tensors")
    gate: dict[str, Any] = {"passed": None, "note": NOT_PROVEN}
    assert "not proven" in "\n".join(inspect._artefact("accelerated", artefact, gate))


def test_shapes_of_an_engine_are_the_passports() -> None:
    assert engine.axes((-1, 3, -1, 8)) == ("batch", 3, "any", 8)
    assert engine.axes(np.array([2, 3])) == (2, 3)


class Played(Runtime):
    """TensorRT, played by ONNX Runtime: takes what the engine's profile takes, and no more."""

    name = "tensorrt"
    options_type = TensorRTOptions
    file = Path()

    def activate(self) -> None:
        assert (self.folder / self.artefact.files[0]).read_bytes().startswith(engine.MAGIC)
        played = Artefact(
            "onnxruntime", (self.file.name,), "f32", {}, "tensors", OnnxRuntimeOptions()
        )
        self.played = runtimes.make(self.file.parent, self.inputs, played, threads=1)
        self.played.activate()
        self.precision = self.played.precision

    def infer(self, inputs: Arrays, every: bool = False) -> Arrays:
        for name, (low, _, high) in self.options.engines[0].items():
            shape = inputs[name].shape
            if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
                raise Unprocessable(f"{name}: shape {list(shape)} came; built for {low} to {high}")
        return self.played.infer(inputs, every)


Make = Callable[..., Path]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes an engine of the small network: all is real but for TensorRT and the last try."""

    def made_(profile: Profiles = FIXED, **outputs: tuple[int | str, ...]) -> Path:
        names = tuple(outputs or {"y": ()})
        options = TensorRTOptions(outputs=names, built={}, engines=(profile,), via="given")
        shape: tuple[int | str, ...] = (1, 3, 8, 8)
        if profile is not FIXED:
            shape = ("batch", 3, "any", "any")
        told = EngineFile(
            (TensorSpec("x", "float32", shape),),
            tuple(TensorSpec(n, "float32", (shape[0], 4, *shape[2:])) for n in names),
            options,
        )
        monkeypatch.setattr(engine, "read", lambda path: told)
        return tmp_path / "mine.engine"

    monkeypatch.setitem(runtimes.RUNTIMES, "tensorrt", f"{__name__}:Played")
    monkeypatch.setattr(Played, "file", any_size(tmp_path / "any.onnx"))
    monkeypatch.setattr(TensorRT, "found", lambda _, played: OnnxRuntime().found(played.played))
    monkeypatch.setattr(packing, "_try_alone", lambda packed, sample: None)
    (tmp_path / "mine.engine").write_bytes(b"ftrt and so on")
    return made_


def any_size(path: Path) -> Path:
    """The small model with free sides."""
    model = onnx.load(made.tiny_onnx())
    for value in (*model.graph.input, *model.graph.output):
        for i in (2, 3):
            value.type.tensor_type.shape.dim[i].dim_param = f"side_{i}"
    onnx.save(model, path)
    return path


def loaded(path: Path, original: Path | None = None) -> Model:
    return pipeline.load(Options(SourceOptions(path, original)))


def repacked(path: Path, *flags: object) -> Path:
    words = ["--weights", path, "--name", "mine", "--model-store", path.parent, *flags]
    return pipeline.repack(cli.parse([str(word) for word in words]))


def test_an_onnx_original_has_the_engines_names(stand_in: Make) -> None:
    model = loaded(stand_in(), made.tiny_onnx())
    assert model.inputs[0].shape == (1, 3, 8, 8)
    assert model.ask(model.random_inputs(1))["y"].shape == (1, 4, 8, 8)
    with pytest.raises(KitError, match="outputs y, the engine's are other"):
        loaded(stand_in(other=()), made.tiny_onnx())


def test_a_torchscript_original_gets_the_engines_names(stand_in: Make) -> None:
    model = loaded(stand_in(maps=()), made.tiny_torchscript())
    assert [s.name for s in model.outputs] == ["maps"]
    assert set(model.ask(model.random_inputs(1))) == {"maps"}
    with pytest.raises(KitError, match="1 outputs, the engine has a, b"):
        loaded(stand_in(a=(), b=()), made.tiny_torchscript())


@pytest.mark.parametrize(
    ("flops", "label"),
    [
        ({"f16": 10}, "f16"),
        ({"int8": 9, "f16": 1}, "int8"),
        ({"f16": 6, "f32": 4}, "best"),
        ({"fp8": 10}, "best"),
        ({}, "best"),
    ],
)
def test_an_engine_is_judged_by_what_it_runs_in(
    flops: dict[str, int], label: str, stand_in: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Found(Counter(flops), Counter(flops))
    found.label = found.main
    monkeypatch.setattr(TensorRT, "found", lambda *_: found)
    model = loaded(stand_in())
    assert model.built is not None
    assert model.built.artefact.precision_asked == label


def test_an_engine_is_served_as_raw_tensors(stand_in: Make) -> None:
    for task, words in (
        ("classification", "mine is made for tensors: leave --task and --labels out"),
        ("detection", "a TensorRT engine holds no detector"),
        ("segmentation", "says nothing of volumes"),
    ):
        with pytest.raises(KitError, match=words):
            pipeline.load(Options(SourceOptions(stand_in()), task=task))


def test_without_an_original_everything_says_not_proven(
    stand_in: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stand_in()
    (path.parent / "mine.report.html").write_text("of an older archive")
    packed = repacked(path)
    passport = archive.verify(packed)
    assert list(passport.artefacts) == ["accelerated"]
    assert passport.artefacts["accelerated"].precision_found["label"] == "f32"
    assert passport.gate["accelerated"]["passed"] is None
    assert "not proven" in passport.gate["accelerated"]["note"]
    found = json.loads(packed.with_suffix(".report.json").read_text())
    assert "not proven" in found["candidates"][0]["verdict"]
    page = packed.with_suffix(".report.html").read_text()
    assert "Not proven: nobody compared it with its original" in page
    assert "of an older archive" not in page
    assert "warning: not proven" in capsys.readouterr().err
    assert "gate      not proven" in inspect.text(passport, packed)


@pytest.mark.parametrize("original", [False, True])
def test_all_that_an_engine_is_asked_lies_inside_its_profile(
    stand_in: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, original: bool
) -> None:
    samples: list[Arrays] = []

    def tried(packed: Path, sample: Path) -> None:
        samples.append(dict(np.load(sample)))

    monkeypatch.setattr(packing, "_try_alone", tried)
    flags = ["--original", any_size(tmp_path / "original.onnx")] if original else []
    passport = archive.verify(repacked(stand_in(WIDE), *flags))
    assert passport.gate["accelerated"]["passed"] is (True if original else None)
    assert passport.inputs[0].shape == ("batch", 3, "any", "any")
    assert [s["x"].shape for s in samples] == [(1, 3, 24, 24)]


def test_with_its_original_it_is_gated_and_has_a_portable_artefact(stand_in: Make) -> None:
    packed = repacked(stand_in(), "--original", made.tiny_onnx())
    passport = archive.verify(packed)
    assert set(passport.artefacts) == {"accelerated", "portable"}
    assert passport.artefacts["accelerated"].runtime == "tensorrt"
    assert passport.gate["accelerated"]["passed"]
    assert packed.with_suffix(".report.html").exists()


def test_with_another_original_nothing_is_written(stand_in: Make) -> None:
    path = stand_in()
    with pytest.raises(KitError, match=r"relative L2 error|values outside"):
        repacked(path, "--original", other(path.parent))
    assert not (path.parent / "mine.mar").exists()


def other(folder: Path) -> Path:
    """The small model with another sign."""
    model = onnx.load(made.tiny_onnx())
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(model, folder / "other.onnx")
    return folder / "other.onnx"
