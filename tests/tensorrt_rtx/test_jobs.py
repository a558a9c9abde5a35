"""Both ways to an engine start the same real process: packing, and rebuilding on load."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from handlers.engines import rebuild
from handlers.engines.build import BuildFailed, Job
from handlers.engines.job import run
from handlers.errors import KitError, RuntimeUnfit
from handlers.passport import sha256
from repack.backends.tensorrt import engines
from repack.backends.tensorrt import rebuild as pack_for_rebuild
from repack.backends.tensorrt.onnx_file import SOURCE
from tests.support import built
from tests.support.engines import on_its_way
from tests.support.rtx_models import weights

MACHINE = {"tensorrt": "1.7.1", "gpu": "none", "compute_capability": "8.6", "cuda": "13"}
SHAPE = ((1, 64), (2, 64), (4, 64))


@pytest.fixture
def machine(rtx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes for one with a GPU, which is asked about and never used."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("handlers.engines.versions.machine", lambda *_: MACHINE)


@pytest.mark.parametrize(("precision", "kind"), [("f16", "half"), ("int8", "int8")])
def test_engines_are_built_side_by_side_and_found_again(
    machine: None,
    precision: str,
    kind: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = on_its_way(tmp_path, precision)
    found = engines.build(given.request, "t", given.stage, given.work)
    assert found.files == ("t/model-b1.plan", "t/model-b4.plan")
    content = [(given.stage / file).read_bytes() for file in found.files]
    assert all(set(weights(engine)) == {kind} for engine in content)
    assert "took" in capsys.readouterr().err
    cache = given.request.options.engine_cache
    assert len(list(cache.glob("*.timing"))) == 2
    assert [f.stat().st_size > 0 for f in cache.glob("*.timing")] == [True, True]
    again = engines.build(given.request, "t", given.stage, given.work)
    assert again == found
    said = capsys.readouterr().err
    assert said.count("was built before") == 2
    assert "took" not in said
    json.dumps(asdict(found.options))


def test_shapes_between_two_limits_are_one_engine(machine: None, tmp_path: Path) -> None:
    model = built.flexible()
    given = on_its_way(tmp_path, "f16", model)
    profile = {"x": (built.LEAST[""], built.USUAL[""], built.MOST[""])}
    request = replace(given.request, batches=(), profile=profile)
    found = engines.build(request, "t", given.stage, given.work)
    assert found.files == ("t/model-b2.plan",)
    assert found.options.engines == (profile,)


def test_torch2trt_cannot_give_a_strongly_typed_network_16_bits(
    machine: None, tmp_path: Path
) -> None:
    given = on_its_way(tmp_path, "f16")
    with pytest.raises(KitError, match="torch2trt builds no f16 engine with TensorRT 10: --via"):
        engines.build(replace(given.request, via="torch2trt"), "t", given.stage, given.work)


def test_a_worker_builds_the_packed_file_again(machine: None, tmp_path: Path) -> None:
    given = on_its_way(tmp_path, "f16")
    made = engines.build(given.request, "t", given.stage, given.work)
    packed = pack_for_rebuild.pack(given.request, made, given.model, "t", given.stage, given.work)
    here = {**MACHINE, "gpu": "another"}
    found = rebuild.engines(given.stage, packed, here, typed=True)
    assert [path.name for path in found] == ["model-0.plan", "model-1.plan"]
    assert all(set(weights(path.read_bytes())) == {"half"} for path in found)
    hashes = [sha256(path) for path in found]
    assert rebuild.engines(given.stage, packed, here, typed=True) == found
    assert [sha256(path) for path in found] == hashes


def test_a_file_that_is_refused_is_tried_once(machine: None, tmp_path: Path) -> None:
    given = on_its_way(tmp_path, "f16")
    made = engines.build(given.request, "t", given.stage, given.work)
    packed = pack_for_rebuild.pack(given.request, made, given.model, "t", given.stage, given.work)
    (given.stage / "t" / "rebuild-f16.onnx").write_bytes(b"no model")
    for _ in range(2):
        with pytest.raises(RuntimeUnfit, match=r"failed \(TensorRT's ONNX parser: ") as refused:
            rebuild.engines(given.stage, packed, MACHINE, typed=True)
        assert "\n" not in str(refused.value)
        (given.stage / "t" / "rebuild-f16.onnx").unlink(missing_ok=True)  # read by a build only


def job(folder: Path, **changed: Any) -> Job:
    given = Job(
        onnx=str(folder / SOURCE),
        out=str(folder / "out.plan"),
        precision="f32",
        profiles={"x": SHAPE},
        level=0,
        workspace=1 << 30,
        timing=str(folder / "timing.cache"),
        outputs=("y",),
    )
    return replace(given, **changed)


def test_a_network_may_be_filled_by_a_function(rtx: Any, tmp_path: Path) -> None:
    answer = run(job(tmp_path, network="tests.support.rtx_parts:product"), tmp_path)
    assert answer.relaxed == ""
    assert weights((tmp_path / "out.plan").read_bytes()) == {"float": 64 * 64}


def test_a_calibrator_may_be_made_by_a_function(rtx: Any, tmp_path: Path) -> None:
    given = job(tmp_path, calibrator="tests.support.rtx_parts:calibrator", calibration="c.npz")
    with pytest.raises(BuildFailed, match=r"^ValueError: calibrator of 1\.7.* for c\.npz$"):
        run(given, tmp_path)
