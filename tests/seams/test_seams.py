"""A runtime and a task of a third party come in by the tables alone, and are served.

Their files lie in this folder. Nothing of the product names them, and nothing of the product but
its own module and the tables names a backend.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from handlers import crops
from handlers.errors import ArchiveError, KitError
from handlers.passport import Passport
from repack import archive, pipeline
from repack.backends import BACKENDS
from repack.options import Options, SourceOptions
from repack.tasks import TASKS
from tests.support import made
from tests.support.bench import bench

HERE = Path(__file__).parent
SIDE = 32


@pytest.fixture(autouse=True)
def third_party(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This folder's modules can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(HERE))
    yield
    for path in HERE.glob("*.py"):
        sys.modules.pop(path.stem, None)


def the(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def options(folder: Path, weights: Path, **values: Any) -> Options:
    return Options(SourceOptions(weights), name="seam", model_store=folder, **values)


def test_a_runtime_from_the_table_to_the_served_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "opencv-dnn", the("opencv_backend", "OpenCv")())
    asked = options(tmp_path, made.tiny_onnx(), backend="opencv-dnn", precision="f32")
    packed = pipeline.repack(asked)
    passport = archive.verify(packed)
    artefact = passport.artefacts["accelerated"]
    assert (artefact.runtime, artefact.precision_found["label"]) == ("opencv-dnn", "f32")
    assert passport.gate["accelerated"]["passed"] is True
    assert passport.runtimes == {"opencv-dnn": "opencv_runtime:OpenCvDnn"}
    assert "opencv_runtime.py" in passport.files
    given = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    body = json.dumps({"inputs": {"x": given.tolist()}}).encode()
    with bench({"seam": packed}, ("seam", body)) as served:
        served.server.wait_ready("seam")
        answer = served.ask(body, "seam", Content_Type="application/json").json()
    assert answer["runtime"] == {"name": "opencv-dnn", "precision": "f32", "fallback": None}
    session = ort.InferenceSession(str(made.tiny_onnx()), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": given})
    have = np.array(answer["outputs"]["y"]["data"])
    assert np.abs(have - want).max() < 1e-4


def test_auto_measures_it_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(BACKENDS, "opencv-dnn", the("opencv_backend", "OpenCv")())
    pipeline.repack(options(tmp_path, made.tiny_onnx(), precision="f32"))
    rows = re.findall(r"^ +(\S+) +f32 .* passed$", capsys.readouterr().err, re.MULTILINE)
    assert {"opencv-dnn", "onnxruntime"} <= set(rows)


def test_an_artefact_for_another_runtime_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "opencv-dnn", the("opencv_backend", "Liar")())
    with pytest.raises(KitError, match="built an artefact for runtime 'onnxruntime': refused"):
        pipeline.repack(options(tmp_path, made.tiny_onnx(), backend="opencv-dnn"))
    assert not list(tmp_path.glob("*.mar"))


def test_a_runtime_that_answers_for_another_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = the("opencv_backend", "OpenCv")()
    monkeypatch.setattr(type(backend), "runtime", "opencv_runtime:OtherName")
    monkeypatch.setitem(BACKENDS, "opencv-dnn", backend)
    with pytest.raises(KitError, match=r"'opencv-dnn'.*'someone-else'"):
        pipeline.repack(options(tmp_path, made.tiny_onnx(), backend="opencv-dnn"))
    assert not list(tmp_path.glob("*.mar"))


class Net(nn.Module):
    """Twelve numbers of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 5, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x).relu().mean((2, 3))
        return found


def test_a_task_from_the_table_to_the_served_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "embedding", the("embedding_task", "EMBEDDING"))
    torch.manual_seed(3)
    weights = tmp_path / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript as a whole
        torch.jit.save(torch.jit.script(Net().eval()), str(weights))
    asked = options(
        tmp_path / "store",
        weights,
        task="embedding",
        backend="onnxruntime",
        samples=made.PICTURES,
        input_shapes={"input_0": ("batch", 3, SIDE, SIDE)},
    )
    packed = pipeline.repack(asked)
    passport = archive.verify(packed)
    assert passport.task == "embedding"
    assert passport.gate["accelerated"]["task"]["least_cosine"] > 0.9999
    assert "embedding_handler.py" in passport.files
    pictures = sorted(made.PICTURES.glob("*.jpg"))[:2]
    with bench({"seam": packed}, ("seam", pictures[0].read_bytes())) as served:
        served.server.wait_ready("seam")
        vectors = [
            np.array(served.ask(p.read_bytes(), "seam").json()["embedding"]) for p in pictures
        ]
        refused = served.ask(b"no picture", "seam").reason(400)
    assert "picture" in refused or "image" in refused
    for path, vector in zip(pictures, vectors, strict=True):
        pixels = crops.read(path.read_bytes(), SIDE, SIDE).pixels
        torch.manual_seed(3)
        with torch.inference_mode():
            row = Net()(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255).numpy()
        assert vector == pytest.approx(row[0] / np.linalg.norm(row), abs=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_an_archive_that_lacks_its_runtime_is_refused(tmp_path: Path) -> None:
    runtimes = importlib.import_module("handlers.runtimes")
    told = Passport.from_json((made.ROOT / "tests/data/passport_format_1.json").read_text())
    artefact = next(iter(told.artefacts.values()))
    unknown = replace(artefact, runtime="opencv-dnn")
    with pytest.raises(ArchiveError, match="runtime 'opencv-dnn'; known: torchscript"):
        runtimes.make(tmp_path, told.inputs, unknown, 1)


PRODUCT = ("handlers", "repack", "deploy", "qpstest")
TABLES = {
    "handlers/artefact.py",
    "handlers/runtimes/__init__.py",
    "repack/backends/__init__.py",
}
OWN = re.compile(r"(handlers/runtimes|handlers/engines|repack/backends)/")


def test_no_product_file_names_a_backend_beside_its_module_and_the_tables() -> None:
    """A string that is a backend's name, in code: docstrings may speak of it."""
    listed = subprocess.run(
        ["git", "ls-files", *(f"{p}/**.py" for p in PRODUCT)],
        cwd=made.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    named: dict[str, set[str]] = {}
    for file in listed:
        if file in TABLES or OWN.match(file):
            continue
        for node in ast.walk(ast.parse((made.ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in set(BACKENDS):
                named.setdefault(file, set()).add(str(node.value))
    assert named == FAMILIES


FAMILIES = {
    "repack/sources/source.py": {"torchscript"},
    "repack/sources/torchscript.py": {"torchscript"},
    "handlers/passport.py": {"torchscript"},
}
"""A source family has the name of a file format, which a backend has too; and passports of format 1
are read."""
