"""Archives that build again where they are loaded, engines as inputs, builds that fail in words."""

from __future__ import annotations

import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from handlers import passport as passports
from handlers.context import LocalContext
from handlers.entry import Entry
from handlers.errors import KitError
from handlers.passport import Passport
from handlers.runtimes import make
from repack import archive, cli
from repack import pipeline as flow
from tests.support import built
from tests.support.built import Asked, answered, build, found, options, relative_l2

pytestmark = pytest.mark.gpu

X = np.random.default_rng(6).standard_normal((3, 3, built.SIDE, built.SIDE)).astype(np.float32)


def network(folder: Path, extra: str = "") -> Path:
    """Two convolutions as ONNX, ``x`` to ``y``; ``extra`` is an operator put after them."""
    rng = np.random.default_rng(5)
    shapes = {"a.weight": (32, 3, 3, 3), "b.weight": (64, 32, 3, 3)}
    # A determinant of 32 rows is a product of 32 values: small ones keep it within 32-bit floats.
    spread = {"a.weight": 0.1, "b.weight": 0.01 if extra else 0.1}
    weights = [
        numpy_helper.from_array(rng.normal(0, spread[k], v).astype(np.float32), k)
        for k, v in shapes.items()
    ]
    last = "m" if extra else "y"
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["h"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "b.weight"], [last], "second", pads=[1, 1, 1, 1]),
    ]
    shape: list[int | str] = ["batch", 64, built.SIDE, built.SIDE]
    if extra:
        nodes.append(helper.make_node(extra, [last], ["y"], f"/head/{extra.lower()}"))
        shape = shape[:2]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, *shape[2:]])]
        if not extra
        else [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "two.onnx"
    onnx.save(model, path)
    return path


def repacked(store: Path, engines: Path, *flags: object) -> Path:
    """What ``model_repack.py`` does with these flags, in this process."""
    words = ["--level", "0", "--batch", "1,4", "--engine-cache", engines, "--model-store", store]
    return flow.repack(cli.parse([str(word) for word in (*words, *flags)]))


def asked(folder: Path, x: Any) -> tuple[int, dict[str, Any], Any]:
    """Status, runtime and answer of an unpacked archive to one input."""
    out = io.BytesIO()
    np.save(out, x)
    context = LocalContext(folder)
    entry = Entry()
    entry.initialize(context)
    (body,) = entry.handle([{"body": out.getvalue()}], context)
    answer = json.loads(body)
    if context.statuses != [200]:
        return context.statuses[0], answer, None
    (values,) = answer["outputs"].values()
    found = np.asarray(values["data"], np.float32).reshape(values["shape"])
    return 200, answer["runtime"], found


@pytest.fixture(scope="module")
def travelling(tmp_path_factory: pytest.TempPathFactory, engines: Path) -> Path:
    """An archive packed with ``--rebuild-on-load``."""
    store = tmp_path_factory.mktemp("travelling")
    flags = ["--trt", 1, "--precision", "f16", "--rebuild-on-load", "--name", "two"]
    return repacked(store, engines, "--weights", network(store), *flags)


def moved(packed: Path, folder: Path, spoil_check: bool = False) -> Path:
    """The archive, unpacked, as if it had been packed with another TensorRT."""
    archive.unpack(packed, folder)
    passport = Passport.read(folder)
    engine = passport.artefacts["accelerated"]
    changed = replace(engine.options, built={**engine.options.built, "tensorrt": "9.9.9"})
    files = dict(passport.files)
    if spoil_check:
        path = folder / changed.rebuild.check
        with np.load(path) as data:
            arrays = {k: data[k] + (k.startswith("out/")) for k in data.files}
        np.savez(path, **arrays)
        files[changed.rebuild.check] = passports.sha256(path)
    artefacts = {**passport.artefacts, "accelerated": replace(engine, options=changed)}
    text = replace(passport, artefacts=artefacts, files=files).to_json()
    (folder / passports.FILE).write_text(text)
    return folder


def test_at_home_nothing_is_built_again(travelling: Path, tmp_path: Path) -> None:
    archive.unpack(travelling, tmp_path / "a")
    status, runtime, _ = asked(tmp_path / "a", X)
    assert (status, runtime["fallback"]) == (200, None)
    assert not (tmp_path / "a" / "rebuilt").exists()


def test_elsewhere_one_worker_builds_and_all_serve(travelling: Path, tmp_path: Path) -> None:
    folder = moved(travelling, tmp_path / "a")
    sample = tmp_path / "x.npz"
    np.savez(sample, x=X)
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: answered(folder, sample), range(2)))
    for report, log in reports:
        assert report["status"] == 200
        assert report["runtime"]["name"] == "tensorrt"
        assert "built for tensorrt 9.9.9" in report["runtime"]["fallback"]
        assert "built again here" in report["runtime"]["fallback"]
        assert "FALLBACK" in log
    assert sum("engines for this machine" in log for _, log in reports) == 1
    (place,) = (folder / "rebuilt").iterdir()
    assert {p.name for p in place.glob("*.plan")} == {"model-0.plan", "model-1.plan"}
    status, runtime, answer = asked(folder, X)
    assert (status, runtime["name"]) == (200, "tensorrt")
    shutil.rmtree(folder / "rebuilt")
    archive.unpack(travelling, tmp_path / "b")
    assert relative_l2(asked(tmp_path / "b", X)[2], answer) < 1e-2


def test_a_rebuilt_engine_that_differs_does_not_serve(travelling: Path, tmp_path: Path) -> None:
    folder = moved(travelling, tmp_path / "a", spoil_check=True)
    status, runtime, _ = asked(folder, X)
    assert (status, runtime["name"]) == (200, "onnxruntime")
    assert "the rebuilt engine differs from the original (y: relative L2" in runtime["fallback"]


def test_a_failed_rebuild_is_not_tried_by_every_worker(travelling: Path, tmp_path: Path) -> None:
    folder = moved(travelling, tmp_path / "a")
    passport = Passport.read(folder)
    file = passport.artefacts["accelerated"].options.rebuild.weakly_typed
    (folder / file).write_bytes(b"no ONNX file at all")
    files = {**passport.files, file: passports.sha256(folder / file)}
    (folder / passports.FILE).write_text(replace(passport, files=files).to_json())
    for _ in range(2):
        status, runtime, _ = asked(folder, X)
        assert (status, runtime["name"]) == (200, "onnxruntime")
        assert "building it again failed" in runtime["fallback"]
        assert "\n" not in runtime["fallback"]
    (record,) = (folder / "rebuilt").glob("*/engines.json")
    assert "error" in json.loads(record.read_text())


def test_what_tensorrt_calibrates_is_not_to_be_rebuilt(tmp_path: Path, engines: Path) -> None:
    given = built.net()
    calibration = [given.random_inputs(3)]
    asks = options(engines, rebuild_on_load=True)
    with pytest.raises(KitError, match="--rebuild-on-load: best via onnx is calibrated"):
        build(Asked(given, asks, "best", calibration), tmp_path)


def test_int8_is_rebuilt_from_its_ranges(tmp_path: Path, engines: Path) -> None:
    given = built.net()
    calibration = [given.random_inputs(seed) for seed in range(40, 48)]
    asks = options(engines, rebuild_on_load=True, batches=(1,))
    artefact = built.artefact(Asked(given, asks, "int8", calibration), tmp_path)
    elsewhere = {**artefact.options.built, "tensorrt": "9.9.9"}
    artefact = replace(artefact, options=replace(artefact.options, built=elsewhere))
    runtime = make(tmp_path, given.inputs, artefact, threads=1)
    runtime.activate()
    assert "built again here" in runtime.note
    assert found(runtime)["flops"].get("int8", 0) > 0


@pytest.fixture(scope="module")
def plan(travelling: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the small network, batch 1."""
    folder = tmp_path_factory.mktemp("plan")
    archive.unpack(travelling, folder / "a")
    name = archive.verify(travelling).artefacts["accelerated"].files[0]
    return Path(shutil.copy(folder / "a" / name, folder / "mine.engine"))


def test_an_engine_is_packed_as_it_is_and_called_not_proven(
    plan: Path, tmp_path: Path, engines: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    packed = repacked(tmp_path, engines, "--weights", plan, "--name", "mine")
    assert "not proven" in capfd.readouterr().err
    passport = archive.verify(packed)
    assert list(passport.artefacts) == ["accelerated"]
    assert passport.gate["accelerated"]["passed"] is None
    assert "not proven" in passport.gate["accelerated"]["note"]
    report = json.loads(packed.with_suffix(".report.json").read_text())
    assert "not proven" in report["candidates"][0]["verdict"]
    archive.unpack(packed, tmp_path / "a")
    status, runtime, answer = asked(tmp_path / "a", X[:1])
    assert (status, runtime["name"], runtime["fallback"]) == (200, "tensorrt", None)
    assert answer.shape == (1, 64, built.SIDE, built.SIDE)
    status, refused, _ = asked(tmp_path / "a", X)
    assert (status, refused["type"]) == (422, "Unprocessable")


def test_an_engine_with_its_original_goes_through_the_gate(
    plan: Path, tmp_path: Path, engines: Path
) -> None:
    flags = ["--weights", plan, "--original", network(tmp_path), "--name", "mine"]
    passport = archive.verify(repacked(tmp_path, engines, *flags))
    assert set(passport.artefacts) == {"accelerated", "portable"}
    assert passport.gate["accelerated"]["passed"]
    assert passport.gate["accelerated"]["inputs"] == {"random": 3, "samples": 0}


def test_an_engine_with_another_original_fails_the_gate(
    plan: Path, tmp_path: Path, engines: Path
) -> None:
    model = onnx.load(network(tmp_path))
    weight = model.graph.initializer[0]
    values = -numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "other.onnx")
    flags = ["--weights", plan, "--original", tmp_path / "other.onnx", "--name", "mine"]
    with pytest.raises(KitError, match="relative L2 error"):
        repacked(tmp_path, engines, *flags)
    assert not (tmp_path / "mine.mar").exists()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: d[:24] + bytes([8, 5, 3, 1]) + d[28:], "written by TensorRT 8.5.3.1"),
        (lambda d: d[: len(d) // 2], "refuses it"),
        (lambda d: b"none" + d[4:], "a TensorRT engine starts with"),
    ],
)
def test_an_engine_that_cannot_be_is_one_line(
    plan: Path, tmp_path: Path, engines: Path, spoil: Any, words: str
) -> None:
    path = tmp_path / "bad.engine"
    path.write_bytes(spoil(plan.read_bytes()))
    with pytest.raises(KitError, match=words) as refused:
        repacked(tmp_path, engines, "--weights", path)
    assert "\n" not in str(refused.value)


def test_an_operator_that_tensorrt_lacks_is_named_with_its_node(
    tmp_path: Path, engines: Path
) -> None:
    flags = ["--weights", network(tmp_path, "Det"), "--trt", 1, "--precision", "f16"]
    with pytest.raises(KitError, match="operator Det, node '/head/det'") as refused:
        repacked(tmp_path, engines, *flags)
    assert "fed by Conv 'second'" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_too_little_workspace_is_one_line_or_still_right(tmp_path: Path, engines: Path) -> None:
    """1 MiB: TensorRT finds kernels without workspace, or says in one line that it finds none."""
    given = built.volume()
    try:
        made = build(Asked(given, options(engines, workspace_mb=1, batches=(1,))), tmp_path)
    except KitError as e:
        assert str(e).startswith("TensorRT f16 via onnx: ")
        assert "\n" not in str(e)
        return
    x = given.random_inputs(4)
    assert relative_l2(given.ask(x)["output"], made.runtime.infer(x)["output"]) < 1e-2
