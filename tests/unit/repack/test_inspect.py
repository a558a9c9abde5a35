"""What ``inspect`` shows of an archive, and how it refuses one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from handlers.passport import Passport
from repack import inspect
from tests.support import made


def test_the_passport_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def shown(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inspect", *words])
        code = inspect.main()
        found = capsys.readouterr()
        return code, found.out, found.err

    code, out, _ = shown(str(made.detector()))
    assert code == 0
    for words in (
        "fd1.mar: fd1 1.0, detection, ",
        "checksums right",
        "made from   yolov5n_shapes.pt (yolov5 yolov5n, sha256 ",
        "input       images: uint8 [batch, 320, 320, 3], 0 to 255 NHWC",
        "confidence 0.25",
        "runtime   onnxruntime, ends in detections",
        "runtime   torchscript, ends in boxes",
        "precision asked f32, found f32 (multiply-adds: f32 100%)",
        "gate      passed on 3 random, 12 samples inputs",
        "mAP50 ",
    ):
        assert words in out, words
    code, out, _ = shown(str(made.tensors()), "--json")
    assert Passport.from_json(out).name == "tiny"
    (tmp_path / "cut.mar").write_bytes(made.tensors().read_bytes()[:-100])
    code, out, err = shown(str(tmp_path / "cut.mar"))
    assert (code, out) == (1, "")
    assert err.startswith("error: cut.mar: no whole archive")
    assert err.count("\n") == 1
