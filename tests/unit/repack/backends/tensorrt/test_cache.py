"""Engines built before: found by all that they were built from, and only if nobody touched them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repack.backends.tensorrt.cache import EngineCache, key


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    """A cache with one engine, "one"."""
    found = EngineCache(tmp_path / "engines")
    (tmp_path / "made.plan").write_bytes(b"ftrt and so on")
    found.keep("one", tmp_path / "made.plan", 12.0, {"level": 3, "layers": 60})
    return found


def test_what_was_kept_is_found(cache: EngineCache) -> None:
    path = cache.find("one")
    assert path is not None
    assert path.read_bytes() == b"ftrt and so on"
    assert path.stat().st_mode & 0o777 == 0o600
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert cache.find("another") is None
    assert sorted(p.name for p in cache.folder.iterdir()) == ["one.json", "one.plan"]


def test_a_changed_byte_is_not_found(
    cache: EngineCache, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cache.folder / "one.plan"
    path.write_bytes(b"ftrt and so oN")
    assert cache.find("one") is None
    assert "is not what was built: built again" in capsys.readouterr().err


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_another_user_could_have_written_is_not_found(
    cache: EngineCache, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache.folder / "one.plan").chmod(mode)
    assert cache.find("one") is None
    assert "could have been written by another user" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "", "no JSON", "[]", "{}"])
def test_an_engine_without_its_record_is_not_found(cache: EngineCache, text: str | None) -> None:
    record = cache.folder / "one.json"
    record.unlink() if text is None else record.write_text(text)
    assert cache.find("one") is None


def test_a_record_without_its_engine_is_not_found(cache: EngineCache) -> None:
    (cache.folder / "one.plan").unlink()
    assert cache.find("one") is None


RECIPE = {"precision": "f16", "profiles": {"x": [[1, 3], [1, 3], [1, 3]]}, "level": 3}
MACHINE = {"tensorrt": "8.6.0", "gpu": "NVIDIA H200", "compute_capability": "9.0"}


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {**RECIPE, "precision": "int8"}},
        {"recipe": {**RECIPE, "level": 4}},
        {"recipe": {**RECIPE, "profiles": {"x": [[1, 3], [4, 3], [4, 3]]}}},
        {"machine": {**MACHINE, "tensorrt": "8.6.1"}},
        {"machine": {**MACHINE, "gpu": "NVIDIA L4"}},
    ],
)
def test_every_option_and_version_makes_another_name(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"model")
    usual: dict[str, Any] = {"recipe": RECIPE, "machine": MACHINE}
    first = key(tmp_path / "m.onnx", (), **usual)
    assert key(tmp_path / "m.onnx", (), **usual) == first
    assert key(tmp_path / "m.onnx", (), **{**usual, **change}) != first


def test_the_model_and_the_calibration_are_in_the_name(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"model")
    (tmp_path / "n.onnx").write_bytes(b"model 2")
    first = [{"x": np.zeros((1, 3), np.float32)}]
    names = {
        key(tmp_path / "m.onnx", ()),
        key(tmp_path / "n.onnx", ()),
        key(tmp_path / "m.onnx", first),
        key(tmp_path / "m.onnx", [{"x": np.ones((1, 3), np.float32)}]),
        key(tmp_path / "m.onnx", [{"x": np.zeros((1, 3), np.float64)}]),
        key(tmp_path / "m.onnx", [{"y": np.zeros((1, 3), np.float32)}]),
    }
    assert len(names) == 6


def test_the_estimate_is_by_layers_at_the_same_level(cache: EngineCache) -> None:
    assert cache.estimate(120, 3) == pytest.approx(24)
    assert cache.estimate(120, 5) is None
    (cache.folder / "broken.json").write_text(json.dumps({"level": 3}))
    assert cache.estimate(30, 3) == pytest.approx(6)
