"""int8 with TensorRT 8: what is demanded, what of it becomes a wish, and that both are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handlers.engines import build, rebuild, versions
from repack.backends.tensorrt import engines as engine_plan
from repack.backends.tensorrt import job
from repack.backends.tensorrt import onnx_file as onnx_for_engine
from repack.backends.tensorrt.engines import SOURCE, Plan
from repack.options import GpuOptions, Profiles
from tests.support.tensorrt_8 import FORM, MACHINE, SHAPE, Of8, on_its_way


@pytest.mark.parametrize("wished", ["", "no 16 bits for b"])
def test_what_could_not_be_had_in_16_bits_is_said(
    wished: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, asked, _, work, stage = on_its_way(tmp_path, "int8", True)
    monkeypatch.setattr("handlers.engines.versions.library", lambda: Of8)
    monkeypatch.setattr("handlers.engines.versions.machine", lambda *_: MACHINE)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    engines = {1: engine_plan.Engine("1.plan", ""), 4: engine_plan.Engine("4.plan", wished)}
    monkeypatch.setattr(engine_plan, "_one", lambda _, profiles, *__: engines[profiles["x"][1][0]])
    found = engine_plan.build(asked, "t", stage, work)
    assert found.files == ("t/1.plan", "t/4.plan")
    assert found.options.relaxed == bool(wished)
    assert found.options.float_layers == ()  # two layers
    said = "".join(capsys.readouterr())
    assert ("note: no 16 bits for b: layers next to inputs and outputs" in said) == bool(wished)
    (work / SOURCE).unlink()
    onnx_for_engine.convert(FORM, work / SOURCE)
    found = engine_plan.build(replace(asked, form=FORM), "t", stage, work)
    assert len(found.options.float_layers) == 5


def test_a_cached_engine_still_says_what_was_only_wished_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, asked, _, work, stage = on_its_way(tmp_path, "int8", True)
    asked = replace(asked, options=GpuOptions(engine_cache=tmp_path / "cache"))
    runs = []

    def run(plan: Plan, recipe: Any, source: Path, ranges: Any, folder: Path, *_: Any) -> Any:
        runs.append(recipe)
        (folder / "model-b1.plan").write_bytes(b"ftrt")
        return 1.0, "no 16 bits for b"

    monkeypatch.setattr(engine_plan, "_run", run)
    dialect = versions.Flags(None)
    for _ in range(2):
        profiles: Profiles = {"x": ((1, 3, 8, 8),) * 3}
        given = asked, profiles, work / SOURCE, None, stage
        made_ = engine_plan._one(*given, MACHINE, dialect)
        assert made_ == engine_plan.Engine("model-b1.plan", "no 16 bits for b")
    assert len(runs) == 1
    assert "was built before" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("reason", "between", "builds"),
    [
        ("Could not find any implementation for node a", {"y"}, 2),
        ("Could not find any implementation for node a", set(), 1),
        ("out of memory", {"y"}, 1),
    ],
)
def test_types_that_no_kernel_has_become_wishes(
    reason: str, between: set[str], builds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def tries(source: Path, recipe: build.Recipe, *_: Any) -> bytes:
        tried.append(recipe.int8)
        if len(tried) == 1:
            raise build.BuildFailed(reason)
        return b"plan"

    monkeypatch.setattr(build, "_from_onnx", tries)
    demands = versions.Int8({"y": 1.0}, frozenset({"a"}), frozenset(between))
    recipe = build.Recipe("int8", {}, int8=demands)
    if builds == 2:
        assert build.from_onnx(Path("m.onnx"), recipe) == (b"plan", reason)
        assert tried == [demands, replace(demands, between=frozenset())]
    else:
        with pytest.raises(build.BuildFailed, match=reason):
            build.from_onnx(Path("m.onnx"), recipe)
    assert len(tried) == builds


@pytest.mark.parametrize("program", [job, rebuild])
def test_both_programs_hand_over_what_int8_demands(
    program: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = {"ranges": {"y": 2.0}, "floats": ["a"], "between": ["y"]}
    (tmp_path / "ranges.json").write_text(json.dumps(told))
    given: list[versions.Int8] = []

    def from_onnx(source: Path, recipe: build.Recipe, *_: Any) -> build.Built:
        given.append(recipe.int8)
        return build.Built(b"plan", "no kernel")

    monkeypatch.setattr(build, "from_onnx", from_onnx)
    monkeypatch.setattr("torch.cuda.set_device", lambda _: None)
    monkeypatch.setattr("torch.zeros", lambda *_, **__: None)
    common = {"onnx": "m.onnx", "precision": "int8", "level": 0, "workspace": 1}
    common["ranges"] = str(tmp_path / "ranges.json")
    profiles = {"x": SHAPE}
    (tmp_path / "job.json").write_text(
        json.dumps(
            {
                **common,
                **{"profiles": profiles, "calibration": None, "via": "onnx", "timing": "t"},
                **{"out": str(tmp_path / "out.plan"), "engines": [profiles], "gpu": 0},
            }
        )
    )
    assert program.main(tmp_path / "job.json" if program is job else tmp_path) == 0
    assert given == [versions.Int8({"y": 2.0}, frozenset({"a"}), frozenset({"y"}))]
    answer = json.loads(capsys.readouterr().out)
    assert answer["wished"] == "no kernel"
