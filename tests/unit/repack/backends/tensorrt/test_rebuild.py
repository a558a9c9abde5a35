"""What an archive gets so that a worker can build its engines again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.artefact import Artefact, Rebuild
from handlers.engines.versions import Int8
from repack.backends.tensorrt import onnx_file, rebuild
from repack.backends.tensorrt.request import EngineRequest
from repack.onnx import instance_norm, typed
from repack.options import GpuOptions
from tests.support import built
from tests.support.engines import Of8, OnItsWay, on_its_way


def request(precision: str, calibration: list[Any], via: str = "onnx") -> EngineRequest:
    model: Any = None
    return EngineRequest(model, via, precision, (1,), {}, GpuOptions(), calibration)


@pytest.mark.parametrize(("precision", "via"), [("int8", "torch2trt"), ("best", "onnx")])
def test_what_tensorrt_calibrates_is_refused_with_8(
    precision: str, via: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.engines.versions.library", lambda: Of8)
    with pytest.raises(Exception, match=r"--rebuild-on-load: .* is calibrated on pictures"):
        rebuild.refuse(request(precision, [1], via))
    for fine in (request("f16", []), request("f32", [1]), request("best", []),
                 request("int8", [1])):  # fmt: skip
        rebuild.refuse(fine)


def packed(given: OnItsWay) -> tuple[Artefact, Rebuild]:
    """The artefact, and what it records of building again."""
    found = rebuild.pack(given.request, given.artefact, given.model, "t", given.stage, given.work)
    return found, found.options.rebuild


@pytest.mark.parametrize("plugins", [[], [instance_norm.PLUGIN]])
def test_the_file_that_was_built_from_is_the_one_to_build_again(
    tmp_path: Path, plugins: list[str]
) -> None:
    given = on_its_way(tmp_path, "f16", built.volume())
    options = replace(given.artefact.options, plugins=tuple(plugins))
    given = replace(given, artefact=replace(given.artefact, options=options))
    _, recorded = packed(given)
    content = (given.stage / str(recorded.weakly_typed)).read_bytes()
    assert (instance_norm.PLUGIN.encode() in content) == bool(plugins)


def test_the_archive_gets_both_files_and_the_originals_answers(tmp_path: Path) -> None:
    given = on_its_way(tmp_path, "f16")
    found, recorded = packed(given)
    assert all((given.stage / file).is_file() for file in found.files[1:])
    assert (recorded.weakly_typed, recorded.strongly_typed) == (
        "t/rebuild.onnx",
        "t/rebuild-f16.onnx",
    )
    sizes = [
        (given.stage / str(file)).stat().st_size
        for file in (recorded.strongly_typed, recorded.weakly_typed)
    ]
    assert sizes[0] < sizes[1]
    with np.load(given.stage / recorded.check) as data:
        want = given.model.ask({"x": data["in/x"]})["output"]
        np.testing.assert_allclose(data["out/output"], want, rtol=1e-5)
    json.dumps(asdict(found.options))


def test_32_bits_need_one_file_for_every_tensorrt(tmp_path: Path) -> None:
    found, recorded = packed(on_its_way(tmp_path, "f32"))
    assert recorded.weakly_typed == recorded.strongly_typed == "t/rebuild.onnx"
    assert sorted(found.files[1:]) == ["t/rebuild.npz", "t/rebuild.onnx"]


def test_a_model_without_a_typed_file_is_for_8_alone_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def half(source: Path, target: Path) -> None:
        raise ValueError("an odd operator\nand more")

    monkeypatch.setattr(typed, "half", half)
    found, recorded = packed(on_its_way(tmp_path, "f16"))
    assert recorded.strongly_typed is None
    assert not [file for file in found.files if "f16" in file]
    said = capsys.readouterr().err
    assert "no rebuilding with TensorRT 10 or later (an odd operator)" in said


def test_int8_travels_as_layers_and_as_ranges(tmp_path: Path) -> None:
    given = on_its_way(tmp_path, "int8")
    path = onnx_file.int8_ranges(given.request, given.work)
    told = Int8.read(path)
    largest = max(float(np.abs(i["x"]).max()) for i in given.request.calibration)
    assert 0.9 * largest < told.ranges["x"] <= largest
    # Two layers: leaving out both ends would leave none.
    assert not told.float_layers | told.float_tensors
    _, recorded = packed(given)
    assert (recorded.weakly_typed, recorded.ranges) == ("t/rebuild.onnx", onnx_file.RANGES)
    assert recorded.strongly_typed == "t/rebuild-int8.onnx"
    assert Int8.read(given.stage / "t" / str(recorded.ranges)) == told


def test_int8_made_with_10_can_be_built_again_with_8(tmp_path: Path) -> None:
    """Nothing looked for ranges yet where TensorRT 10 was given int8 layers."""
    given = on_its_way(tmp_path, "int8")
    assert not (given.work / onnx_file.RANGES).exists()
    found, recorded = packed(given)
    assert (given.stage / str(recorded.weakly_typed)).is_file()
    assert f"t/{recorded.ranges}" in found.files
    assert Int8.read(given.stage / "t" / str(recorded.ranges)).ranges["x"] > 1
