"""Engines as inputs, as far as a machine without TensorRT can tell."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from handlers import runtimes
from handlers.artefact import Artefact, TensorRTOptions
from handlers.errors import KitError
from handlers.passport import TensorSpec
from handlers.runtimes.base import Runtime
from repack import archive, cli, packing
from repack import inspect as show
from repack import pipeline as flow
from repack.model import within
from repack.sources import engine as ready
from tests.support import built, made


def test_engines_are_told_by_content_then_by_suffix(tmp_path: Path) -> None:
    files = {"a.bin": b"ftrt....", "b.engine": b"other", "c.plan": b"", "d.onnx": b"\x08\x07"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = [ready.holds(tmp_path / name) for name in files]
    assert found == [True, True, True, False]
    assert not ready.holds(tmp_path)
    assert not ready.holds(tmp_path / "none.engine")


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_without_tensorrt_it_is_named_with_the_install_command(tmp_path: Path) -> None:
    (tmp_path / "a.engine").write_bytes(b"ftrt")
    words = ["--weights", str(tmp_path / "a.engine"), "--model-store", str(tmp_path)]
    with pytest.raises(KitError, match=r"tensorrt cannot be loaded.*pip install tensorrt"):
        flow.repack(cli.parse(words))


OPTIONS = TensorRTOptions(outputs=("y",), built={}, engines=(), via="given")


def told(**outputs: tuple[int | str, ...]) -> ready.Engine:
    """An engine of the small ONNX model's inputs."""
    specs = tuple(TensorSpec(n, "float32", shape) for n, shape in outputs.items())
    return ready.Engine((TensorSpec("x", "float32", (1, 3, 8, 8)),), specs, OPTIONS)


def options(original: Path) -> cli.Options:
    return cli.parse(["--original", str(original)])


def test_an_onnx_original_has_the_engines_names(tmp_path: Path) -> None:
    subject = ready.original(options(made.tiny_onnx()), told(y=(1, 4, 8, 8)))
    assert subject.inputs[0].shape == (1, 3, 8, 8)
    assert subject.original(subject.random_inputs(1))["y"].shape == (1, 4, 8, 8)
    with pytest.raises(KitError, match="outputs y, the engine's are other"):
        ready.original(options(made.tiny_onnx()), told(other=(1, 4, 8, 8)))


def test_a_torchscript_original_gets_the_engines_names() -> None:
    subject = ready.original(options(made.tiny_torchscript()), told(maps=(1, 4, 8, 8)))
    assert [s.name for s in subject.outputs] == ["maps"]
    assert set(subject.original(subject.random_inputs(1))) == {"maps"}
    with pytest.raises(KitError, match="1 outputs, the engine has a, b"):
        ready.original(options(made.tiny_torchscript()), told(a=(1,), b=(1,)))


def test_inputs_are_drawn_inside_the_profile() -> None:
    subject = built.subject(built.Net, "batch", 3, "height", "width")
    wide = {"x": ((1, 3, 16, 16), (2, 3, 24, 24), (4, 3, 32, 32))}
    assert within(subject, wide).random_inputs(1, batch=2)["x"].shape == (2, 3, 24, 24)
    fixed = {"": ((4, 3, 16, 16), (4, 3, 24, 24), (4, 3, 32, 32))}
    assert within(subject, fixed).inputs[0].shape == (4, 3, 24, 24)
    assert within(subject, {}) is subject
    assert within(subject, {"x": ((1,), (1,), (1,))}) is subject


@pytest.mark.parametrize(
    ("flops", "label"),
    [({"f16": 1.0}, "f16"), ({"f16": 0.6, "f32": 0.4}, "best"), ({}, "best")],
)
def test_an_engine_is_judged_by_what_it_runs_in(flops: dict[str, float], label: str) -> None:
    found = {"label": next(iter(flops), "unknown"), "layers": flops, "flops": flops}
    assert ready._label(found) == label


def test_the_passport_is_shown_as_not_proven() -> None:
    found = {"label": "f16", "layers": {}, "flops": {}}
    artefact = Artefact("tensorrt", ("m.plan",), "f16", found, "tensors")
    gate: dict[str, Any] = {"passed": None, "note": ready.NOT_PROVEN}
    assert "not proven" in "\n".join(show._artefact("accelerated", artefact, gate))


def test_shapes_of_an_engine_are_the_passports() -> None:
    assert ready.axes((-1, 3, -1, 8)) == ("batch", 3, "any", 8)
    assert ready.axes(np.array([2, 3])) == (2, 3)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine that ONNX Runtime plays: everything around it is real, but for the last try."""
    profile = {"x": ((1, 3, 8, 8),) * 3}
    options = replace(OPTIONS, engines=(profile,))
    engine = replace(told(y=(1, 4, 8, 8)), options=options)

    def play(work: Path, inputs: Any, artefact: Artefact, threads: int) -> Runtime:
        shutil.copy(made.tiny_onnx(), work / "m.onnx")
        as_onnx = replace(artefact, runtime="onnxruntime", files=("m.onnx",))
        return runtimes.make(work, inputs, as_onnx, threads)

    monkeypatch.setattr(ready, "read", lambda path: engine)
    monkeypatch.setattr(ready, "make", play)
    monkeypatch.setattr(packing, "_try_alone", lambda packed, sample: None)
    (tmp_path / "mine.engine").write_bytes(b"ftrt and so on")
    return tmp_path / "mine.engine"


def repacked(engine: Path, *flags: object) -> Path:
    words = ["--weights", engine, "--name", "mine", "--model-store", engine.parent, *flags]
    return flow.repack(cli.parse([str(word) for word in words]))


def test_without_an_original_everything_says_not_proven(
    stand_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stand_in.parent / "mine.report.html").write_text("of an older archive")
    packed = repacked(stand_in)
    passport = archive.verify(packed)
    assert list(passport.artefacts) == ["accelerated"]
    assert passport.gate["accelerated"]["passed"] is None
    assert "not proven" in passport.gate["accelerated"]["note"]
    found = json.loads(packed.with_suffix(".report.json").read_text())
    assert "not proven" in found["candidates"][0]["verdict"]
    page = packed.with_suffix(".report.html").read_text()
    assert "Not proven: nobody compared it with its original" in page
    assert "of an older archive" not in page
    assert "warning: not proven" in capsys.readouterr().err
    assert "gate      not proven" in show.text(passport, packed)


def test_with_its_original_it_is_gated_and_has_a_portable_form(stand_in: Path) -> None:
    packed = repacked(stand_in, "--original", made.tiny_onnx())
    passport = archive.verify(packed)
    assert set(passport.artefacts) == {"accelerated", "portable"}
    assert passport.gate["accelerated"]["passed"]
    assert packed.with_suffix(".report.html").exists()


def test_with_another_original_nothing_is_written(stand_in: Path) -> None:
    with pytest.raises(KitError, match=r"relative L2 error|values outside"):
        repacked(stand_in, "--original", other(stand_in.parent))
    assert not (stand_in.parent / "mine.mar").exists()


def other(folder: Path) -> Path:
    """The small model with another sign."""
    model = onnx.load(made.tiny_onnx())
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(model, folder / "other.onnx")
    return folder / "other.onnx"
