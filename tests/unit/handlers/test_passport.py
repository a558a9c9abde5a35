"""The archive's record: written, read again, refused where it does not hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handlers.artefact import (
    OPTIONS,
    Artefact,
    OpenVinoOptions,
    Rebuild,
    TensorRTOptions,
    TorchScriptOptions,
    decoded,
    understood,
)
from handlers.errors import ArchiveError
from handlers.passport import FILE, FORMAT, Passport, TensorSpec, sha256

RECORD = Passport(
    name="fd1",
    version="1.0",
    task="detection",
    handler="handlers.detection:DetectionHandler",
    source={"file": "a.pt", "sha256": "0" * 64},
    inputs=(TensorSpec("images", "uint8", ("batch", 320, 320, 3), (0.0, 255.0), "NHWC"),),
    outputs=(TensorSpec("boxes", "float32", ("batch", 6300, 11)),),
    labels=("circle", "Kreis \u00fc"),
    settings={"confidence": 0.25},
    artefacts={
        "accelerated": Artefact(
            "openvino",
            ("a.xml", "a.bin"),
            "bf16",
            {"label": "bf16"},
            "detections",
            OpenVinoOptions(execution_type="bf16"),
        ),
        "portable": Artefact(
            "torchscript", ("m.pt",), "f32", {}, "boxes", TorchScriptOptions(outputs=("boxes",))
        ),
        "foreign": Artefact("opencv", ("m.onnx",), "f32", {}, "boxes", {"threads": [1]}),
    },
    gate={"accelerated": {"passed": True}},
    versions={"python": "3.11"},
    files={"m.pt": "1" * 64},
    runtimes={"opencv": "opencv_runtime:OpenCv"},
)
DATA = Path(__file__).resolve().parents[2] / "data"


def test_round_trip() -> None:
    text = RECORD.to_json()
    assert Passport.from_json(text) == RECORD
    assert Passport.from_json(text.encode()) == RECORD
    assert Passport.from_json(text).to_json() == text


def changed(change: Callable[[dict[str, Any]], Any]) -> str:
    data = json.loads(RECORD.to_json())
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", f"passport format list, this kit reads {FORMAT}"),
        ("{}", "passport format None"),
        (changed(lambda d: d.update(format=FORMAT + 1)), f"passport format {FORMAT + 1}"),
        (changed(lambda d: d.pop("labels")), "field (passport: 'labels' is missing)"),
        (changed(lambda d: d.pop("task")), "lacks or misnames a field"),
        (changed(lambda d: d.update(colour=1)), "lacks or misnames a field"),
        (changed(lambda d: d["inputs"][0].pop("dtype")), "passport: inputs: 'dtype' is missing"),
        (changed(lambda d: d["inputs"][0].update(range=["a", 1])), "range: ['a', 1]"),
        (changed(lambda d: d["inputs"][0].update(range=[1])), "range: [1]"),
        (changed(lambda d: d.update(name=["x" * 100])), "name: ['xxx"),
        (changed(lambda d: d["artefacts"]["portable"].pop("files")), "lacks or misnames a field"),
        (changed(lambda d: d["artefacts"]["portable"].pop("options")), "torchscript: 'outputs' is"),
        (
            changed(lambda d: d["artefacts"]["accelerated"]["options"].update(colour=1)),
            "(options of openvino: 'colour' is not known)",
        ),
        (
            changed(lambda d: d["artefacts"]["accelerated"]["options"].update(execution_type=1)),
            "(options of openvino: execution_type: 1)",
        ),
        (changed(lambda d: d.update(artefacts=[])), "lacks or misnames a field"),
        (changed(lambda d: d.update(artefacts={"portable": None})), "lacks or misnames a field"),
        (changed(lambda d: d.update(format=1, artefacts=[])), "lacks or misnames a field"),
        (changed(lambda d: d.update(format=1, artefacts={"a": {}})), "lacks or misnames a field"),
        (changed(lambda d: d.update(files=["m.pt"])), "lacks or misnames a field"),
        (changed(lambda d: d.update(files={"m.pt": 3})), "lacks or misnames a field"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text: str | bytes, words: str) -> None:
    with pytest.raises(ArchiveError) as caught:
        Passport.from_json(text, "fd1.mar")
    message = str(caught.value)
    assert message.startswith("fd1.mar: ")
    assert words in message
    assert "\n" not in message


def test_every_runtimes_options_are_read_as_they_were_written() -> None:
    device: dict[str, Any] = {
        "outputs": ("a", "b"), "batches": (1, 4), "pixels": ("x",), "channels_last": True,
    }  # fmt: skip
    own: dict[str, dict[str, Any]] = {
        "torchscript": {"outputs": ("a",)},
        "openvino": {"execution_type": "bf16"},
        "onnxruntime": {},
        "torchscript-cuda": device,
        "aotinductor": {**device, "built": {"torch": "2.11"}, "weights": {"float16": (2, 96)}},
        "tensorrt": {
            **device,
            "built": {"tensorrt": "8.6.0"},
            "engines": ({"x": ((1, 3), (2, 3), (4, 3))},),
            "via": "onnx",
            "plugins": ("p",),
            "float_layers": ("first",),
            "relaxed": True,
            "rebuild": Rebuild(
                weakly_typed="a.onnx",
                strongly_typed=None,
                ranges=None,
                check="a.npz",
                relative_l2=0.01,
                level=2,
                workspace=1 << 30,
            ),
        },
    }
    assert set(own) == set(OPTIONS)
    for name, values in own.items():
        artefact = Artefact(name, ("m",), "f32", {}, "tensors", OPTIONS[name](**values))
        record = replace(RECORD, artefacts={"accelerated": artefact})
        assert Passport.from_json(record.to_json()) == record
        assert hash(type(artefact.options)) and artefact.options.__dataclass_params__.frozen


def test_options_of_a_foreign_runtime_wait_for_its_class() -> None:
    artefact = Passport.from_json(RECORD.to_json()).artefacts["foreign"]
    assert artefact.options == {"threads": [1]}
    with pytest.raises(ValueError, match="options of opencv: 'outputs' is missing, 'threads' is"):
        understood(artefact, TorchScriptOptions)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(int, True), (int, 1.0), (bool, 1), (str, None), (tuple[int, ...], "12"), (float, "1"),
     (tuple[int, int], [1]), (dict[str, int], {"a": "b"}), (int | None, "x")],
)  # fmt: skip
def test_another_type_is_refused(kind: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^x: "):
        decoded(kind, value, "x")


def test_a_passport_of_format_1_is_read_as_it_would_be_written_today() -> None:
    text = (DATA / "passport_format_1.json").read_text()
    found = Passport.from_json(text)
    assert Passport.from_json(found.to_json()) == found
    assert found.format == FORMAT == 2
    assert found.artefacts["accelerated"].options == OpenVinoOptions(execution_type="f32")
    assert found.artefacts["portable"].options == TorchScriptOptions(outputs=("boxes",))
    assert found.settings["confidence"] == 0.25
    assert found.settings["head"]["name"] == "yolov5"
    assert found.settings["head"]["classes"] == len(found.labels)
    old = json.loads(text)
    same = ("name", "version", "task", "source", "gate", "versions", "files")
    assert {k: json.loads(found.to_json())[k] for k in same} == {k: old[k] for k in same}


def test_an_engine_of_format_1_is_read_too() -> None:
    found = Passport.from_json((DATA / "passport_format_1_tensorrt.json").read_text())
    options: TensorRTOptions = found.artefacts["accelerated"].options
    assert options.outputs == ("raw_8", "raw_16", "raw_32")
    assert options.pixels == ("images",)
    assert options.float_layers == ("/model.0/conv/Conv",)
    assert not options.relaxed
    assert options.engines[1]["images"] == ((16, 3, 320, 320),) * 3
    assert options.rebuild is not None
    assert options.rebuild.weakly_typed == "tensorrt-onnx-int8/rebuild.onnx"
    assert options.rebuild.strongly_typed == "tensorrt-onnx-int8/rebuild-int8.onnx"
    assert options.rebuild.ranges == "engine-int8.json"
    head = found.settings["head"]
    assert head["strides"] == [8, 16, 32]
    assert head["anchors"][2][1] == pytest.approx([156, 198], abs=200)
    assert set(head) == {"name", "anchors", "strides", "classes"}


def test_no_passport(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no passport"):
        Passport.read(tmp_path)


def written(folder: Path) -> Passport:
    (folder / "sub").mkdir()
    (folder / "sub" / "m.pt").write_bytes(bytes(range(256)) * 20)
    record = Passport(**{**RECORD.__dict__, "files": {"sub/m.pt": sha256(folder / "sub" / "m.pt")}})
    (folder / FILE).write_text(record.to_json())
    return Passport.read(folder)


def test_right_files_pass(tmp_path: Path) -> None:
    written(tmp_path).check_files(tmp_path)


@pytest.mark.parametrize("position", [0, 1000, 5119])
def test_one_flipped_bit_is_refused_with_both_checksums(tmp_path: Path, position: int) -> None:
    record = written(tmp_path)
    path = tmp_path / "sub" / "m.pt"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveError) as caught:
        record.check_files(tmp_path)
    expected = record.files["sub/m.pt"]
    assert str(caught.value) == (
        f"sub/m.pt: checksum {sha256(path)[:12]}..., the passport says {expected[:12]}...: "
        "changed since it was packed, so it is not loaded"
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    record = written(tmp_path)
    (tmp_path / "sub" / "m.pt").unlink()
    with pytest.raises(ArchiveError, match=r"sub/m\.pt: named in the passport, but not in"):
        record.check_files(tmp_path)
