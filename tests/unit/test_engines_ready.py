"""Engines as inputs, as far as a machine without TensorRT can tell."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.errors import KitError
from handlers.passport import TensorSpec
from repack import cli, flow, show
from repack.engines import ready
from repack.subjects import within
from tests.faults import made
from tests.gpu import built


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


def told(**outputs: tuple[int | str, ...]) -> ready.Engine:
    """An engine of the small ONNX model's inputs."""
    specs = tuple(TensorSpec(n, "float32", shape) for n, shape in outputs.items())
    return ready.Engine((TensorSpec("x", "float32", (1, 3, 8, 8)),), specs, {})


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
    from handlers.passport import Artefact

    found = {"label": "f16", "layers": {}, "flops": {}}
    artefact = Artefact("tensorrt", ("m.plan",), "f16", found, "tensors")
    gate: dict[str, Any] = {"passed": None, "note": ready.NOT_PROVEN}
    assert "not proven" in "\n".join(show._artefact("accelerated", artefact, gate))


def test_shapes_of_an_engine_are_the_passports() -> None:
    assert ready.axes((-1, 3, -1, 8)) == ("batch", 3, "any", 8)
    assert ready.axes(np.array([2, 3])) == (2, 3)
