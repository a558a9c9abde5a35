"""Runtimes: their libraries come late, may be missing, and are named when they are."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handlers.artefact import OPTIONS, Artefact, OpenVinoOptions
from handlers.context import LocalContext
from handlers.entry import Entry
from handlers.errors import ArchiveError, RuntimeMissing
from handlers.passport import FILE, Passport
from handlers.runtimes import RUNTIMES, load, make
from repack import archive
from tests.support import made

PROGRAM = """
import json, sys
from pathlib import Path

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from handlers.artefact import OPTIONS, Artefact, OpenVinoOptions
from handlers.context import LocalContext
from handlers.entry import Entry
from handlers.errors import KitError

entry, context = Entry(), LocalContext(Path(sys.argv[1]), sys.argv[3])
try:
    entry.initialize(context)
    (answer,) = entry.handle([{"body": Path(sys.argv[4]).read_bytes()}], context)
    report = {"statuses": context.statuses, "answer": json.loads(answer)}
    report["described"] = entry.handler.describe()["runtime"]
except KitError as e:
    report = {"refused": type(e).__name__, "message": str(e)}
report["imported"] = sorted({"torch", "onnxruntime", "openvino", "onnx"} & set(sys.modules))
print(json.dumps(report))
"""


def worker(
    folder: Path, missing: str, body: Path, artefact: str = "accelerated"
) -> dict[str, object]:
    """What a fresh process makes of the archive where some libraries are not installed."""
    room = made.folder() / "room"
    room.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), missing, artefact, str(body)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={
            "PYTHONPATH": str(folder),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(room),
            "HOME": str(room),
        },
    )
    assert list(room.iterdir()) == [], "a library left something in the temporary or home folder"
    assert done.returncode == 0, done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    report["log"] = done.stderr
    return report


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    archive.unpack(made.detector(), folder)
    return folder


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensors")
    archive.unpack(made.tensors(), folder)
    return folder


PICTURE = sorted(made.PICTURES.glob("*.jpg"))[0]


@pytest.fixture(scope="module")
def array(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("array") / "x.npy"
    np.save(path, np.ones((1, 3, 8, 8), np.float32))
    return path


def test_a_worker_imports_only_what_its_archive_needs(detector: Path) -> None:
    report = worker(detector, "none", PICTURE)
    assert report["statuses"] == [200]
    assert report["imported"] == ["onnxruntime"]
    assert report["described"] == {"name": "onnxruntime", "precision": "f32", "fallback": None}


def test_without_its_library_the_portable_module_serves_and_says_so(detector: Path) -> None:
    whole = worker(detector, "none", PICTURE)
    report = worker(detector, "onnxruntime", PICTURE)
    assert report["statuses"] == [200]
    assert report["imported"] == ["torch"]
    expected = (
        "onnxruntime cannot be loaded (No module named 'onnxruntime'): pip install onnxruntime; "
        "the portable torchscript module serves instead"
    )
    assert report["described"] == {"name": "torchscript", "precision": "f32", "fallback": expected}
    first, other = (r["answer"]["detections"] for r in (whole, report))  # type: ignore[index]
    assert len(first) == len(other) > 0
    for one, two in zip(first, other, strict=True):
        assert one["class"] == two["class"]
        np.testing.assert_allclose(one["box"], two["box"], atol=0.5)
        assert one["confidence"] == pytest.approx(two["confidence"], abs=1e-3)


def test_without_any_library_both_are_named(detector: Path) -> None:
    report = worker(detector, "onnxruntime,torch", PICTURE)
    assert report["refused"] == "RuntimeMissing"
    assert "pip install torch" in str(report["message"])
    assert "\n" not in str(report["message"])


@pytest.mark.parametrize("artefact", ["accelerated", "portable"])
def test_without_another_form_the_library_is_named(
    tensors: Path, array: Path, artefact: str
) -> None:
    report = worker(tensors, "onnxruntime", array, artefact)
    assert report["refused"] == "RuntimeMissing"
    assert report["message"] == (
        "onnxruntime cannot be loaded (No module named 'onnxruntime'): pip install onnxruntime"
    )
    assert report["imported"] == []


@pytest.mark.parametrize("library", ["numpy", "cv2", "PIL"])
def test_a_missing_package_of_the_handlers_is_named_too(detector: Path, library: str) -> None:
    report = worker(detector, library, PICTURE)
    assert report["refused"] == "RuntimeMissing"
    name = {"cv2": "opencv-python-headless", "PIL": "pillow"}.get(library, library)
    assert str(report["message"]).endswith(f"(No module named {library!r}): pip install {name}")


def test_a_flipped_byte_is_refused_before_any_runtime_is_imported(
    tmp_path: Path, array: Path
) -> None:
    record = archive.unpack(made.tensors(), tmp_path)
    model = tmp_path / record.artefacts["accelerated"].files[0]
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    report = worker(tmp_path, "none", array)
    assert report["refused"] == "ArchiveError"
    assert "changed since it was packed, so it is not loaded" in str(report["message"])
    assert report["imported"] == []


def test_portable_can_be_asked_for(detector: Path) -> None:
    report = worker(detector, "onnxruntime", PICTURE, "portable")
    assert report["described"] == {"name": "torchscript", "precision": "f32", "fallback": None}


def test_an_unknown_runtime_or_artefact_is_refused(tensors: Path, tmp_path: Path) -> None:
    record = Passport.read(tensors)
    with pytest.raises(ArchiveError, match="no artefact 'fast'; it holds accelerated, portable"):
        load(tensors, record, "fast", 1)
    text = record.to_json().replace('"runtime": "onnxruntime"', '"runtime": "abacus"')
    with pytest.raises(ArchiveError, match="runtime 'abacus'; known: torchscript, onnxruntime"):
        load(tensors, Passport.from_json(text), "accelerated", 1)
    assert FILE == "passport.json"
    assert set(RUNTIMES) >= {"torchscript", "onnxruntime", "openvino"}
    assert issubclass(RuntimeMissing, Exception)


FOREIGN = """
from dataclasses import dataclass
from handlers.artefact import Options
from handlers.runtimes.base import Runtime

@dataclass(frozen=True, kw_only=True)
class Factor(Options):
    factor: int

class Multiplier(Runtime):
    name = "multiplier"
    options_type = Factor
    def activate(self): ...
    def infer(self, inputs, every=False):
        return {k: v * self.options.factor for k, v in inputs.items()}

class Liar(Multiplier):
    name = "onnxruntime"

NUMBER = 3
"""


def foreign(where: str, **options: object) -> Passport:
    artefact = Artefact("multiplier", ("m",), "f32", {}, "tensors", options)
    return replace(BARE, artefacts={"accelerated": artefact}, runtimes={"multiplier": where})


BARE = Passport("x", "1.0", "tensors", "", {}, (), (), (), {}, {}, {}, {})


def test_an_archive_may_bring_a_runtime_along(tmp_path: Path) -> None:
    (tmp_path / "multiplier_runtime.py").write_text(FOREIGN)
    record = foreign("multiplier_runtime:Multiplier", factor=3)
    runtime = load(tmp_path, Passport.from_json(record.to_json()), "accelerated", 1).runtime
    assert runtime.infer({"x": np.ones(2)})["x"].tolist() == [3, 3]


def test_what_a_runtime_of_the_archive_needs_is_named(tmp_path: Path) -> None:
    (tmp_path / "multiplier_runtime.py").write_text("import abacus_of_wood\n" + FOREIGN)
    with pytest.raises(RuntimeMissing, match="pip install abacus_of_wood"):
        load(tmp_path, foreign("multiplier_runtime:Multiplier", factor=3), "accelerated", 1)


@pytest.mark.parametrize(
    ("where", "options", "said"),
    [
        ("multiplier_runtime:Liar", {"factor": 3},
         "asks for runtime 'multiplier', and Liar is 'onnxruntime'"),
        ("multiplier_runtime:Multiplier", {}, "options of multiplier: 'factor' is missing"),
        ("multiplier_runtime:Multiplier", {"factor": 1.5}, "options of multiplier: factor: 1.5"),
        ("multiplier_runtime:NUMBER", {"factor": 3}, "which is no runtime"),
        ("multiplier_runtime:Nothing", {"factor": 3}, "which is no runtime"),
        ("no_such_file:Multiplier", {"factor": 3}, "no such file in the archive"),
        ("../multiplier_runtime:Multiplier", {"factor": 3}, "no such file in the archive"),
    ],
)  # fmt: skip
def test_a_runtime_that_is_not_what_it_is_called_is_refused(
    where: str, options: dict[str, object], said: str, tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    for folder in (tmp_path, inside):
        (folder / "multiplier_runtime.py").write_text(FOREIGN)
    with pytest.raises(ArchiveError) as refused:
        load(inside, foreign(where, **options), "accelerated", 1)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_runtime_of_the_kit_must_answer_to_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, "openvino", RUNTIMES["onnxruntime"])
    options = OpenVinoOptions()
    artefact = Artefact("openvino", ("m.xml",), "f32", {}, "tensors", options)
    with pytest.raises(ArchiveError, match="'openvino', and OnnxRuntime is 'onnxruntime'"):
        make(tmp_path, (), artefact, 1)


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_names_its_options(name: str, tmp_path: Path) -> None:
    options = OPTIONS[name].__new__(OPTIONS[name])
    artefact = Artefact(name, ("m",), "f32", {}, "tensors", options)
    assert make(tmp_path, (), artefact, 1).options_type is OPTIONS[name]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_answers_of_a_batch_do_not_share_memory(
    backend: str, tmp_path: Path, tensors: Path
) -> None:
    """A runtime may use its output buffers again for the next call."""
    folder = tensors
    if backend == "openvino":
        flags = ("--backend", "openvino", "--precision", "f32", "--name", "tiny")
        made.repacked(*flags, "--weights", made.tiny_onnx(), "--model-store", tmp_path)
        folder = tmp_path / "unpacked"
        archive.unpack(tmp_path / "tiny.mar", folder)
    entry, context = Entry(), LocalContext(folder)
    entry.initialize(context)
    assert entry.handler.runtime.name == backend
    rows = [{"body": {"inputs": np.full((1, 3, 8, 8), v).tolist()}} for v in (0.0, 1.0)]
    together = [json.loads(a)["outputs"]["y"]["data"] for a in entry.handle(rows, context)]
    alone = [json.loads(entry.handle([r], context)[0])["outputs"]["y"]["data"] for r in rows]
    assert together == alone
    assert together[0] != together[1]
