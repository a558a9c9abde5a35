"""The versions of a model that one server has.

TorchServe takes no model once it runs (its model API is off: it would load any folder of the
machine). So each model is registered with a few spare versions, which have no workers and an empty
folder. A new archive is unpacked into one of these folders, and its workers started.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from deploy.torchserve.archives import Archive
from handlers import passport as passports
from handlers.passport import Passport
from repack import archive

SPARES = ("~1", "~2", "~3")
"""Their names in TorchServe, which no archive's version can have. A model serves one version and
keeps another, and a third one is loaded: more than three are not needed."""

STORE = "models.checked"
"""Folder beside the sockets with the unpacked archives: what was checked is what is served."""


def folder(temp: Path, model: str, version: str) -> Path:
    """Where a version by its name in TorchServe is unpacked; the first has the model's name."""
    return temp / STORE / (model + version if version in SPARES else model)


def handler(temp: Path, model: str) -> str:
    """What all versions of a model have in their manifests: TorchServe reads it at its start."""
    manifest = folder(temp, model, "") / archive.MANIFEST
    return str(json.loads(manifest.read_bytes())["model"]["handler"])


def empty(temp: Path, model: str, version: str) -> Path:
    """Makes a spare version's folder, with what TorchServe needs to register it."""
    found = folder(temp, model, version)
    shutil.rmtree(found, ignore_errors=True)
    manifest = {
        "runtime": "python",
        "model": {"modelName": model, "modelVersion": version, "handler": handler(temp, model)},
        "archiverVersion": archive.ARCHIVER_VERSION,
    }
    (found / archive.MANIFEST).parent.mkdir(parents=True)
    (found / archive.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    # Of a folder that holds but one other, TorchServe takes that one.
    (found / "spare").touch()
    return found


def fill(temp: Path, model: str, version: str, given: Archive) -> None:
    """Unpacks an archive as one of the versions; raises as ``repack.archive.unpack``."""
    found = folder(temp, model, version)
    shutil.rmtree(found, ignore_errors=True)
    (archive.unpack if given.passport else archive.unpack_guest)(given.path, found)


def passport(temp: Path, model: str, version: str) -> Passport | None:
    """A version's record; None of a guest."""
    found = folder(temp, model, version)
    return Passport.read(found) if (found / passports.FILE).is_file() else None


def packed(temp: Path, model: str, version: str, target: Path) -> None:
    """Writes a version's archive again, from its folder.

    Raises:
        ArchiveError: the folder was changed since.
    """
    found, record = folder(temp, model, version), passport(temp, model, version)
    if record is None:
        code = (p for p in found.rglob("*") if p.parent.name != "__pycache__")
        archive.pack(found, target, [str(p.relative_to(found)) for p in code])
        archive.verify_guest(target)
    else:
        archive.pack(found, target, {*record.files, passports.FILE})
        archive.verify(target)


def spare(served: Mapping[str, str]) -> str | None:
    """A spare version that none of the served ones (version -> its name in TorchServe) has."""
    return next((name for name in SPARES if name not in served.values()), None)
