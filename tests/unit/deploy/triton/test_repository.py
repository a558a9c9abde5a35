"""A model repository: from a verified archive only, whole or not at all, never over another."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.triton import repository
from deploy.triton.__main__ import main
from deploy.triton.config import Word, text
from handlers.artefact import Artefact, TensorRTOptions
from tests.support import archives
from tests.support.archives import RECORD

ACCELERATED = replace(RECORD, artefacts={"accelerated": RECORD.artefacts["portable"]})


def build(folder: Path) -> Path:
    return archives.build(folder, record=ACCELERATED)


def refused(capsys: pytest.CaptureFixture[str], *flags: object) -> str:
    assert main([*map(str, flags)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_model_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed, models = build(tmp_path), tmp_path / "models"
    assert main([str(packed), "--repository", str(models)]) == 0
    before = files(models)
    line = refused(capsys, packed, "--repository", models, "--batch-size", "1", "--instances", "7")
    assert f"{models / 'm'} is there already" in line
    assert files(models) == before
    assert main([str(packed), "--repository", str(models), "--name", "other"]) == 0
    assert sorted(p.name for p in models.iterdir()) == ["m", "other"]


def test_a_changed_archive_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed, models = build(tmp_path), tmp_path / "models"
    packed.write_bytes(packed.read_bytes()[:-200])
    assert "m.mar" in refused(capsys, packed, "--repository", models)
    assert not models.exists() or not list(models.iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--batch-size", "4"), "one request at a time"),
        (("--sample", "/nowhere"), "--sample /nowhere: cannot be read"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str
) -> None:
    models = tmp_path / "models"
    assert words in refused(capsys, build(tmp_path), "--repository", models, *flags)
    assert not models.exists() or not list(models.iterdir())


def test_all_that_the_model_imports_of_the_kit_travels(tmp_path: Path) -> None:
    packed, models = build(tmp_path), tmp_path / "models"
    assert main([str(packed), "--repository", str(models)]) == 0
    version = models / "m" / "1"
    code = [p for p in version.rglob("*.py") if "archive" not in p.relative_to(version).parts]
    assert {repository.HERE / "model.py"} <= {repository.HERE / p.name for p in code}
    for path in code:
        if path.name == "unpacking.py":  # runs where there is a .mar, and a kit to check it
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("deploy"):
                there = version / (node.module or "").replace(".", "/")
                assert there.with_suffix(".py").is_file() or there.is_dir(), (path, node.module)


def test_text_is_protobufs() -> None:
    told = {"name": 'a"b', "kind": Word("KIND_CPU"), "dims": [1, -1], "on": True, "m": {"n": 1}}
    assert (
        text(told) == 'name: "a\\"b"\nkind: KIND_CPU\ndims: 1\ndims: -1\non: true\nm {\n  n: 1\n}\n'
    )


def test_an_archive_that_is_packed_for_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, archives.build(tmp_path), "--repository", tmp_path / "models")
    assert "no accelerated artefact" in line


@pytest.mark.parametrize(
    ("options", "flags", "line"),
    [
        ({"batches": (1, 4, 16)}, (), "preferred_batch_size: 16"),
        ({"batches": (1, 4, 16)}, ("--batch-size", "4"), "max_batch_size: 4"),
        ({"engines": ({"x": ((1, 3), (2, 3), (8, 3))},)}, (), "max_batch_size: 8"),
        ({"batches": (1,)}, (), "max_batch_size: 1"),
    ],
)
def test_batches_are_those_that_were_built(
    tmp_path: Path, options: dict[str, Any], flags: tuple[str, ...], line: str
) -> None:
    told = TensorRTOptions(
        **{"outputs": ("y",), "built": {}, "engines": (), "via": "onnx", **options}
    )
    artefact = Artefact("tensorrt", ("portable/model.pt",), "f16", {}, "tensors", told)
    record = replace(RECORD, task="other", artefacts={"accelerated": artefact})
    packed = archives.build(tmp_path, record=record)
    assert main([str(packed), "--repository", str(tmp_path / "models"), *flags]) == 0
    config = (tmp_path / "models" / "m" / "config.pbtxt").read_text().split("\n")
    assert line in [each.strip() for each in config]
    assert "  kind: KIND_GPU" in config
