"""``model_repack.py`` as a user meets it: one line for a mistake, 3 for a model that differs."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from handlers.artefact import Artefact
from repack import archive
from repack.backends.conversion import Conversion
from repack.backends.onnxruntime import OnnxRuntime
from tests.support import made
from tests.support.nnunet import unpacked

CASES = {
    "missing file": (("--weights", "none.pt"), "none.pt: no such file"),
    "a folder": (("--weights", "."), "a folder, expected a file"),
    "an empty file": (("--weights", "{empty}"), "empty (0 bytes)"),
    "a picture": (("--weights", "{picture}"), "a JPEG picture, expected"),
    "wrong name": (("--name", "../fd1"), "--name '../fd1': expected letters, digits"),
    "name with a slash": (("--name", "a/b"), "--name 'a/b': expected letters, digits"),
    "both --trt and --backend": (
        ("--trt", "0", "--backend", "openvino"),
        "--trt 0 and --backend openvino both name what runs the model: give one",
    ),
    "--trt 1": (("--trt", "1"), "use --backend auto"),
    "bf16 with torchscript": (
        ("--backend", "torchscript", "--precision", "bf16"),
        "--backend torchscript --precision bf16: no backend builds that from a YOLOv5 checkpoint "
        "here; torchscript offers f32",
    ),
    "int8 without calibration": (
        ("--weights", "{onnx}", "--backend", "openvino", "--precision", "int8"),
        "--calibration",
    ),
    "imgsz": (("--imgsz", "100"), "--imgsz 100: expected a multiple of 32"),
    "no imgsz": (("--imgsz", "0"), "--imgsz 0: expected a multiple of 32"),
    "conf": (("--conf", "1.5"), "--conf 1.5: expected a number between 0 and 1"),
    "iou": (("--iou", "0"), "--iou 0.0: expected a number between 0 and 1"),
    "max-det": (("--max-det", "0"), "--max-det 0: expected at least 1"),
    "input shape": (("--input-shape", "1x3x-4"), "--input-shape '1x3x-4': expected"),
    "no samples folder": (("--samples", "none", "--imgsz", "64"), "--samples none: no such folder"),
    "empty samples": (("--samples", "{nothing}", "--imgsz", "64"), "holds no .bmp, .jpeg, .jpg"),
    "damaged sample": (("--samples", "{damaged}", "--imgsz", "64"), "a.jpg: the JPEG is damaged"),
    "wrong labels": (
        ("--samples", "{words}", "--imgsz", "64"),
        "a.txt, line 1: 'circle 1 2'; expected: class cx cy w h",
    ),
    "labels of another model": (
        ("--samples", "{classes}", "--imgsz", "64"),
        "a.txt, line 2: class 80; the model has classes 0 to ",
    ),
    "labels that are no text": (("--samples", "{binary}", "--imgsz", "64"), "a.txt: no label file"),
    "samples are the calibration": (
        ("--samples", "{labelled}", "--calibration", "{labelled}", "--imgsz", "64"),
        "--samples and --calibration hold the same files",
    ),
    "samples of another kind": (
        ("--weights", "{onnx}", "--samples", "{labelled}"),
        "holds no .npy, .npz file",
    ),
    "empty array": (("--weights", "{onnx}", "--samples", "{arrays}"), "a.npy: no array file"),
    "pickled array": (("--weights", "{onnx}", "--samples", "{pickled}"), "a.npz: no array file"),
    "array of another shape": (
        ("--weights", "{onnx}", "--samples", "{shapes}"),
        "x: shape [1, 2] came; expected ['batch', 3, 8, 8]",
    ),
    "no shape": (("--weights", "{torchscript}"), "add --input-shape 1x3x224x224"),
    "a shape that does not run": (
        ("--weights", "{torchscript}", "--input-shape", "1x4x8x8"),
        "the model does not run on input_0=float32:1x4x8x8",
    ),
    "a shape for another input": (
        ("--weights", "{onnx}", "--input-shape", "z=1x3x8x8"),
        "--input-shape names z; the model has x",
    ),
    "a classifier that is none": (
        ("--task", "classification", "--weights", "{onnx}"),
        "expected one output [2, classes]",
    ),
    "a detector as a classifier": (
        ("--task", "classification"),
        "yolov5n is made for detection: leave --task and --labels out",
    ),
    "a segmentation net as a classifier": (
        ("--task", "classification", "--weights", "{results}"),
        "is made for segmentation: leave --task and --labels out",
    ),
    "symbolic that is no code": (
        ("--symbolic", "{picture}", "--weights", "{onnx}"),
        "shapes01.jpg: cannot be read",
    ),
    "folds that are none": (("--folds", "0;1"), "--folds '0;1': expected such as 0,1,2 or all"),
    "folds of a detector": (("--folds", "0"), "no nnU-Net results folder: leave --folds out"),
    "mirror of a detector": (("--mirror", "1"), "no nnU-Net results folder: leave --mirror out"),
    "volumes that are not there": (
        ("--weights", "{onnx}", "--volumes", "none.yaml"),
        "none.yaml: cannot be read (No such file",
    ),
    "volumes of a folder": (
        ("--weights", "{results}", "--volumes", "none.yaml"),
        "an nnU-Net results folder: leave --volumes out",
    ),
    "a shape for a results folder": (
        ("--weights", "{results}", "--input-shape", "1x1x8x8x8"),
        "a segmentation net's input is its settings' patch: no --input-shape",
    ),
    "torchscript from onnx": (
        ("--weights", "{onnx}", "--backend", "torchscript"),
        "an ONNX file has no module to trace: use --backend auto",
    ),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files and folders that the cases name."""
    root = tmp_path_factory.mktemp("cases")
    picture = sorted(made.PICTURES.glob("*.jpg"))[0]
    for name in ("nothing", "damaged", "words", "classes", "binary", "labelled"):
        (root / name).mkdir()
        if name != "nothing":
            shutil.copyfile(picture, root / name / "a.jpg")
    (root / "damaged" / "a.jpg").write_bytes(picture.read_bytes()[:5000])
    (root / "words" / "a.txt").write_text("circle 1 2\n")
    (root / "classes" / "a.txt").write_text("0 .5 .5 .1 .1\n80 .5 .5 .1 .1\n")
    (root / "binary" / "a.txt").write_bytes(b"\xff\xfe\x00\x81")
    for name in ("arrays", "pickled", "shapes"):
        (root / name).mkdir()
    (root / "arrays" / "a.npy").write_bytes(b"")
    np.savez(root / "pickled" / "a.npz", x=np.array([{}], dtype=object))
    np.save(root / "shapes" / "a.npy", np.zeros((1, 2), np.float32))
    (root / "empty").write_bytes(b"")
    unpacked(root / "results")
    return {
        **{p.name: str(p) for p in root.iterdir()},
        "picture": str(picture),
        "onnx": str(made.tiny_onnx()),
        "torchscript": str(made.tiny_torchscript()),
    }


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command in this process: exit code, standard output, standard error."""
    first = sys.path[0]
    from repack import model_repack

    sys.path[0] = first

    def call(*flags: str) -> tuple[int, str, str]:
        words = ["model_repack.py", *flags, "--model-store", str(tmp_path / "store")]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr("tempfile.tempdir", str(made.folder()))
        code = model_repack.main()
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_mistake_is_one_line(run: Run, places: dict[str, str], tmp_path: Path, case: str) -> None:
    flags, words = CASES[case]
    code, out, err = run(*(flag.format(**places) for flag in flags))
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    (line,) = (x for x in err.splitlines() if x.startswith("error: "))
    assert err.endswith(f"{line}\n")
    assert words in line
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("flags", [("--backend", "magic"), ("--trt", "2"), ("--colour", "red")])
def test_unknown_flags_exit_with_two(run: Run, flags: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*flags)
    assert caught.value.code == 2


TINY = ("--backend", "onnxruntime", "--precision", "f32", "--name", "tiny")


def test_success_prints_the_path_alone(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*TINY, "--weights", str(made.tiny_onnx()))
    assert (code, out) == (0, f"{tmp_path}/store/tiny.mar\n")
    assert re.search(r"onnxruntime +f32 +f32 .* passed", err)
    assert archive.verify(Path(out.strip())).name == "tiny"


def test_weights_beside_an_onnx_file_come_along(run: Run, tmp_path: Path) -> None:
    model = onnx.load(made.tiny_onnx())
    path = tmp_path / "split.onnx"
    onnx.save(model, path, save_as_external_data=True, location="split.data", size_threshold=0)
    assert (tmp_path / "split.data").stat().st_size > 1000
    code, out, err = run(*TINY, "--weights", str(path))
    assert code == 0, err
    record = archive.unpack(Path(out.strip()), tmp_path / "out")
    assert (tmp_path / "out" / record.artefacts["portable"].files[0]).stat().st_size > 4000


def test_a_model_that_differs_exits_with_three_and_replaces_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real conversion, with one weight of its result changed on the way."""
    code, out, _ = run(*TINY, "--weights", str(made.tiny_onnx()))
    assert code == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "store").iterdir()}
    build = OnnxRuntime.build

    def damaged(
        self: OnnxRuntime, given: Conversion, precision: str, via: str, folder: str
    ) -> Artefact:
        artefact = build(self, given, precision, via, folder)
        path = given.stage / artefact.files[0]
        model = onnx.load(path)
        values = numpy_helper.to_array(model.graph.initializer[0]).copy()
        values.flat[7] += 0.02
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "first.weight"))
        onnx.save(model, path)
        return artefact

    monkeypatch.setattr(OnnxRuntime, "build", damaged)
    code, out, err = run(*TINY, "--version", "2.0", "--weights", str(made.tiny_onnx()))
    assert (code, out) == (3, "")
    assert "the gate failed:" in err
    assert "output y: max_abs" in err
    assert re.search(r"differs: y: [\d,]+ values outside rtol 0.0001, atol 0.0009", err)
    assert {p.name: p.read_bytes() for p in (tmp_path / "store").iterdir()} == before
