"""Engines built again on load: who builds, who waits, what is believed, and what is said."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.artefact import Rebuild
from handlers.engines import build, rebuild, versions
from handlers.errors import RuntimeUnfit
from handlers.passport import TensorSpec, sha256
from repack.backends.tensorrt import engines as engine_plan
from repack.backends.tensorrt import int8
from repack.backends.tensorrt import onnx_file as onnx_for_engine
from repack.backends.tensorrt import rebuild as on_load
from repack.backends.tensorrt.engines import SOURCE, Plan
from repack.backends.tensorrt.reasons import ended, with_node
from repack.onnx import instance_norm
from repack.options import GpuOptions
from tests.support import built, made
from tests.support.tensorrt_8 import MACHINE, Of8, artefact_of, on_its_way

RECIPE = Rebuild(
    weakly_typed="t/rebuild.onnx",
    strongly_typed=None,
    ranges=None,
    check="t/rebuild.npz",
    relative_l2=1e-2,
    level=0,
    workspace=1 << 20,
)
ARTEFACT = artefact_of(rebuild=RECIPE)


def place(folder: Path) -> Path:
    """Where the first call left its record."""
    (found,) = (folder / "rebuilt").iterdir()
    return found


def spent(folder: Path) -> Path:
    """A folder in which a worker built an engine."""
    with pytest.raises(RuntimeUnfit):
        rebuild.engines(folder, ARTEFACT, MACHINE, typed=False)
    there = place(folder)
    (there / "model-0.plan").write_bytes(b"ftrt")
    record = {"engines": {"model-0.plan": sha256(there / "model-0.plan")}}
    (there / rebuild.RECORD).write_text(json.dumps(record))
    return there


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_a_failed_build_is_one_line_and_is_not_tried_again(tmp_path: Path) -> None:
    """Real: the building process runs and finds no TensorRT."""
    for _ in range(2):
        with pytest.raises(RuntimeUnfit, match="building it again failed") as refused:
            rebuild.engines(tmp_path, ARTEFACT, MACHINE, typed=False)
        assert "\n" not in str(refused.value)
        (place(tmp_path) / "job.json").unlink(missing_ok=True)  # written by a build only
    assert not (place(tmp_path) / "job.json").exists()


def test_what_an_earlier_worker_built_is_taken(tmp_path: Path) -> None:
    there = spent(tmp_path)
    assert rebuild.engines(tmp_path, ARTEFACT, MACHINE, typed=False) == [there / "model-0.plan"]


def test_a_touched_engine_is_not_believed(tmp_path: Path) -> None:
    there = spent(tmp_path)
    (there / "model-0.plan").write_bytes(b"ftrT")
    with pytest.raises(RuntimeUnfit, match="is not what was built"):
        rebuild.engines(tmp_path, ARTEFACT, MACHINE, typed=False)


def test_another_machine_has_its_own_engines(tmp_path: Path) -> None:
    spent(tmp_path)
    with pytest.raises(RuntimeUnfit, match="building it again failed"):
        rebuild.engines(tmp_path, ARTEFACT, {**MACHINE, "gpu": "NVIDIA L4"}, typed=False)
    assert len(list((tmp_path / "rebuilt").iterdir())) == 2


def test_a_worker_waits_for_the_one_that_builds(tmp_path: Path) -> None:
    there = spent(tmp_path)
    done: list[float] = []
    with (there / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def work() -> None:
            rebuild.engines(tmp_path, ARTEFACT, MACHINE, typed=False)
            done.append(time.monotonic())

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.3)
        assert not done
    thread.join(10)
    assert done


def test_without_a_file_for_this_tensorrt_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnfit, match="no ONNX file for this TensorRT"):
        rebuild.engines(tmp_path, ARTEFACT, MACHINE, typed=True)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "rebuilt").write_text("in the way")
    with pytest.raises(RuntimeUnfit, match="cannot be written"):
        rebuild.engines(tmp_path, ARTEFACT, MACHINE, typed=False)


class Answers:
    """A runtime that doubles, and adds ``error`` at one batch size."""

    def __init__(self, folder: Path, error: float = 0.0, at: int = 4):
        self.folder, self.options, self.error, self.at = folder, ARTEFACT.options, error, at
        self.inputs = (TensorSpec("x", "float32", ("batch", 3, 8, 8)),)
        self.asked: list[int] = []

    def infer(self, inputs: dict[str, Any], every: bool = False) -> dict[str, Any]:
        self.asked.append(len(inputs["x"]))
        return {"y": inputs["x"] * 2 + (self.error if len(inputs["x"]) == self.at else 0)}


def packed(folder: Path) -> Path:
    (folder / "t").mkdir()
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "t" / "rebuild.npz", **{"in/x": x, "out/y": x * 2})  # type: ignore[arg-type]
    return folder


def test_every_batch_size_is_compared(tmp_path: Path) -> None:
    right: Any = Answers(packed(tmp_path), 0.001)
    rebuild.check(right)
    assert right.asked == [1, 4]
    wrong: Any = Answers(tmp_path, 0.1)
    with pytest.raises(RuntimeUnfit, match="differs from the original"):
        rebuild.check(wrong)
    odd: Any = Answers(tmp_path, float("nan"), at=1)
    with pytest.raises(RuntimeUnfit, match="relative L2 error nan"):
        rebuild.check(odd)


def plan(precision: str, calibration: list[Any], via: str = "onnx") -> Plan:
    form: Any = None
    return Plan(form, via, precision, (1,), {}, GpuOptions(), calibration)


@pytest.mark.parametrize(("precision", "via"), [("int8", "torch2trt"), ("best", "onnx")])
def test_what_tensorrt_calibrates_is_refused_with_8(
    precision: str, via: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.engines.versions.library", lambda: Of8)
    with pytest.raises(Exception, match=r"--rebuild-on-load: .* is calibrated on pictures"):
        on_load.refuse(plan(precision, [1], via))
    for fine in (plan("f16", []), plan("f32", [1]), plan("best", []), plan("int8", [1])):
        on_load.refuse(fine)


def test_what_the_plugin_cannot_do_is_built_without_it_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = built.volume()
    asked = Plan(given.for_gpu(), "onnx", "f16", (1, 4), {}, GpuOptions(), [])
    monkeypatch.setattr("handlers.engines.versions.library", lambda: Of8)
    monkeypatch.setattr("handlers.engines.versions.machine", lambda *_: MACHINE)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    refused = {engine_plan.PLUGINS}

    def one(_: Plan, profiles: Any, source: Path, *__: Any) -> engine_plan.Engine:
        assert source.is_file()
        if source.name in refused:
            raise build.BuildFailed("no cuDNN")
        return engine_plan.Engine(f"{source.stem}-{profiles['x'][1][0]}.plan", "")

    monkeypatch.setattr(engine_plan, "_one", one)
    made_ = engine_plan.build(asked, "t", tmp_path, tmp_path)
    assert made_.files == ("t/engine-1.plan", "t/engine-4.plan")
    assert made_.options.plugins == ()
    said = "".join(capsys.readouterr())
    assert "no cuDNN; trying TensorRT's normalisation layer instead of its plugin" in said
    assert "slower than its plugin" in said
    refused.clear()
    made_ = engine_plan.build(asked, "t", tmp_path, tmp_path)
    assert made_.files == ("t/engine-plugins-1.plan", "t/engine-plugins-4.plan")
    assert made_.options.plugins == (instance_norm.PLUGIN,)
    assert "".join(capsys.readouterr()) == ""
    refused.update((engine_plan.PLUGINS, SOURCE))
    with pytest.raises(build.BuildFailed, match="no cuDNN"):
        engine_plan.build(asked, "t", tmp_path, tmp_path)
    assert "slower" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("plugins", [(), (instance_norm.PLUGIN,)])
def test_the_file_that_was_built_from_is_the_one_to_build_again(
    tmp_path: Path, plugins: tuple[str, ...]
) -> None:
    given = built.volume()
    form = given.for_gpu()
    work, stage = tmp_path / "work", tmp_path / "stage"
    work.mkdir()
    (stage / "t").mkdir(parents=True)
    onnx_for_engine.convert(form, work / SOURCE, work / engine_plan.PLUGINS)
    asked = Plan(form, "onnx", "f16", (1,), {}, GpuOptions(), [])
    artefact = artefact_of(batches=(1,), plugins=plugins)
    found = on_load.pack(asked, artefact, given, "t", stage, work)
    packed = (stage / found.options.rebuild.weakly_typed).read_bytes()
    assert (instance_norm.PLUGIN.encode() in packed) == bool(plugins)


def test_the_archive_gets_both_files_and_the_originals_answers(tmp_path: Path) -> None:
    given, asked, artefact, work, stage = on_its_way(tmp_path, "f16", False)
    found = on_load.pack(asked, artefact, given, "t", stage, work)
    recipe = found.options.rebuild
    assert all((stage / file).is_file() for file in found.files[1:])
    assert (recipe.weakly_typed, recipe.strongly_typed) == ("t/rebuild.onnx", "t/rebuild-f16.onnx")
    small, large = (stage / file for file in (recipe.strongly_typed, recipe.weakly_typed))
    assert small.stat().st_size < large.stat().st_size
    with np.load(stage / recipe.check) as data:
        want = given.ask({"x": data["in/x"]})["output"]
        np.testing.assert_allclose(data["out/output"], want, rtol=1e-5)
    json.dumps(asdict(found.options))


def test_int8_travels_as_layers_and_as_ranges(tmp_path: Path) -> None:
    given, asked, artefact, work, stage = on_its_way(tmp_path, "int8", True)
    path = int8.ranges_file(asked, work / SOURCE, work, versions.Flags(None))
    assert path == work / int8.RANGES
    told = versions.Int8.read(path)
    largest = max(float(np.abs(i["x"]).max()) for i in asked.calibration)
    assert 0.9 * largest < told.ranges["x"] <= largest
    assert not told.floats | told.between  # two layers: leaving out both ends would leave none
    recipe = on_load.pack(asked, artefact, given, "t", stage, work).options.rebuild
    assert (recipe.weakly_typed, recipe.ranges) == ("t/rebuild.onnx", int8.RANGES)
    assert recipe.strongly_typed == "t/rebuild-int8.onnx"
    assert versions.Int8.read(stage / "t" / recipe.ranges) == told


def test_int8_made_with_10_can_be_built_again_with_8(tmp_path: Path) -> None:
    """Nothing looked for ranges yet where TensorRT 10 was given int8 layers."""
    given, asked, artefact, work, stage = on_its_way(tmp_path, "int8", True)
    assert not (work / int8.RANGES).exists()
    found = on_load.pack(asked, artefact, given, "t", stage, work)
    recipe = found.options.rebuild
    assert (stage / recipe.weakly_typed).is_file()
    assert f"t/{recipe.ranges}" in found.files
    assert versions.Int8.read(stage / "t" / recipe.ranges).ranges["x"] > 1


def test_a_killed_build_is_one_line() -> None:
    assert "killed: mostly by the kernel, for want of host memory" in ended(-9, "")
    assert ended(-11, "a\nb").startswith("the building process was ended by signal 11 (b)")
    assert "exit status 3 (nothing was said)" in ended(3, "")
    assert all("\n" not in ended(code, "one\ntwo\n") for code in (-9, -11, 1))


def test_a_reason_is_given_its_node_by_number_or_name() -> None:
    path = made.tiny_onnx()
    numbered = with_node(path, "TensorRT's ONNX parser: node 2: no importer")
    assert numbered.endswith("operator Conv, node 'second' (fed by Relu 'relu' and weight "
                             "'second.weight')")  # fmt: skip
    assert "operator Relu, node 'relu'" in with_node(path, "no kernel for {relu}")
    assert with_node(path, "out of luck") == "out of luck"
    assert with_node(path, "node 99: who knows") == "node 99: who knows"
