"""Archives whose checksums agree with each other and that TorchServe could still not serve."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.torchserve.archives import survey
from handlers import passport as passports
from handlers.errors import ArchiveError
from handlers.passport import Passport
from repack import archive
from tests.support.archives import RECORD, build

MODEL = {"modelName": "m", "modelVersion": "1.0", "handler": "handlers.entry"}


def consistent(folder: Path, manifest: str | None, record: Passport = RECORD) -> Path:
    """An archive with this manifest (None: without one) and right checksums."""
    stage = folder / "stage"
    archive.stage_handlers(stage)
    if manifest is not None:
        (stage / "MAR-INF").mkdir()
        (stage / archive.MANIFEST).write_text(manifest)
    files = {
        str(p.relative_to(stage)): passports.sha256(p) for p in stage.rglob("*") if p.is_file()
    }
    (stage / passports.FILE).write_text(replace(record, files=files).to_json())
    archive.pack(stage, folder / "bad.mar")
    return folder / "bad.mar"


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (None, "no MAR-INF/MANIFEST.json"),
        ("[]", "names no model with a handler"),
        ('{"model": {"modelName": "m"}}', "names no model with a handler"),
        ("{", "no whole archive"),
        (json.dumps({"model": MODEL | {"modelVersion": "2.0"}}), "expected the same"),
    ],
)
def test_a_manifest_that_torchserve_cannot_use(
    tmp_path: Path, manifest: str | None, words: str
) -> None:
    path = consistent(tmp_path, manifest)
    with pytest.raises(ArchiveError, match=words):
        archive.verify(path)


def test_a_version_that_is_no_part_of_an_address(tmp_path: Path) -> None:
    version = "1/../x y"
    manifest = json.dumps({"model": MODEL | {"modelVersion": version}})
    path = consistent(tmp_path, manifest, replace(RECORD, version=version))
    with pytest.raises(ArchiveError, match="expected the same, of letters"):
        archive.verify(path)


def test_a_bad_archive_is_named_and_the_good_one_is_served(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    build(tmp_path, "m.mar").rename(store / "m.mar")
    consistent(tmp_path, None).rename(store / "bad.mar")
    served, refused = survey(store)
    assert [a.name for a in served] == ["m"]
    assert len(refused) == 1
    assert "bad.mar" in refused[0]
