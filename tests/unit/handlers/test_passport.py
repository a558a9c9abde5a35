"""The archive's record: written, read again, refused where it does not hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handlers.errors import ArchiveError
from handlers.passport import FILE, FORMAT, Artefact, Passport, TensorSpec, sha256

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
            "openvino", ("a.xml", "a.bin"), "bf16", {"label": "bf16"}, "detections", {"x": 1}
        ),
        "portable": Artefact("torchscript", ("m.pt",), "f32", {}, "boxes"),
    },
    gate={"accelerated": {"passed": True}},
    versions={"python": "3.11"},
    files={"m.pt": "1" * 64},
)


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
        (changed(lambda d: d.pop("labels")), "lacks or misnames a field ('labels')"),
        (changed(lambda d: d.pop("task")), "lacks or misnames a field"),
        (changed(lambda d: d.update(colour=1)), "lacks or misnames a field"),
        (changed(lambda d: d["inputs"][0].pop("dtype")), "lacks or misnames a field ('dtype')"),
        (changed(lambda d: d["inputs"][0].update(range=["a", 1])), "lacks or misnames a field"),
        (changed(lambda d: d["artefacts"]["portable"].pop("files")), "lacks or misnames a field"),
        (changed(lambda d: d.update(artefacts=[])), "lacks or misnames a field"),
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
