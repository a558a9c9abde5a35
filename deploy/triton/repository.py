"""A model repository of Triton's, written from a verified archive: whole, or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from deploy.torchserve.settings import ROOT
from deploy.triton import config, native
from deploy.triton.config import Serving
from handlers.errors import KitError
from repack import archive
from repack.archive import disk_error

HERE = Path(__file__).resolve().parent
VERSION = "1"
"""Triton counts a model's versions; the archive's own is in its answers."""

SAMPLE = "sample"

CODE = (
    "deploy/__init__.py", "deploy/hosting/*.py", "deploy/torchserve/__init__.py",
    "deploy/torchserve/guard/__init__.py", "deploy/torchserve/guard/forms.py",
    "deploy/torchserve/guard/http.py", "deploy/triton/__init__.py", "deploy/triton/network.py",
)  # fmt: skip
"""What the model imports of the kit; all else is in the archive."""


def write(packed: Path, repository: Path, name: str, serving: Serving, sample: Path | None) -> Path:
    """Writes the model, self-contained: the archive unpacked, and the code that loads it.

    Args:
        packed: the archive.
        sample: an input that each instance answers before it is ready.

    Returns:
        The model's folder.

    Raises:
        KitError: the archive is refused, the sample cannot be read, the repository has such a
            model already, or cannot be written.
    """
    with _draft(repository, name) as folder:
        version = folder / VERSION
        version.mkdir()
        archive.unpack(packed, version / "archive")
        _copy_code(version)
        if sample is not None:
            (folder / "warmup").mkdir()
            body = _read(sample)
            (folder / "warmup" / SAMPLE).write_bytes(len(body).to_bytes(4, "little") + body)
        told = config.whole(name, serving, SAMPLE if sample else None)
        (folder / "config.pbtxt").write_text(config.text(told), encoding="utf-8")
    return repository / name


def write_native(packed: Path, repository: Path, name: str, serving: Serving) -> Path:
    """Writes two models: the network for a backend of Triton's own, and all else in Python.

    Returns and raises as ``write``; and raises where Triton has no such backend.
    """
    beside = f"{name}_network"
    with _draft(repository, name) as folder, _draft(repository, beside) as own:
        version = folder / VERSION
        version.mkdir()
        passport = archive.unpack(packed, version / "archive")
        _copy_code(version)
        artefact = passport.artefacts["accelerated"]
        backend = native.backend_of(artefact)
        told = native.network(passport, artefact)
        assert backend.triton is not None  # noqa: S101
        (own / VERSION).mkdir()
        outputs = [spec.name for spec in told.outputs]
        target = own / VERSION / backend.triton.file
        backend.for_triton(version / "archive", artefact, outputs, target)
        most = min(filter(None, (told.most, serving.batch))) if told.batched else 0
        network = replace(serving, batch=most or serving.batch)
        text = config.text(config.network(beside, network, told, backend.triton))
        (own / "config.pbtxt").write_text(text, encoding="utf-8")
        asked = {
            "runtime": artefact.runtime,
            "told": {
                "model": beside, "outputs": outputs, "pixels": told.pixels, "most": most,
                "note": backend.triton.note,
            },
        }  # fmt: skip
        front = replace(serving, gpu=False)
        whole = config.whole(name, front, None, {"network": json.dumps(asked)})
        (folder / "config.pbtxt").write_text(config.text(whole), encoding="utf-8")
    return repository / name


def _copy_code(version: Path) -> None:
    shutil.copyfile(HERE / "model.py", version / "model.py")
    for path in (path for pattern in CODE for path in ROOT.glob(pattern)):
        target = version / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _read(sample: Path) -> bytes:
    try:
        return sample.read_bytes()
    except OSError as e:
        raise KitError(f"--sample {sample}: cannot be read ({e.strerror})") from None


@contextmanager
def _draft(repository: Path, name: str) -> Iterator[Path]:
    """A folder that becomes the model when the block ends well, and is gone where it does not.

    Raises:
        KitError: the repository has the model already, or cannot be written.
    """
    target = repository / name
    if target.exists() or target.is_symlink():
        raise KitError(
            f"{target} is there already, and nothing of it was changed: remove it, or give another "
            "--name or --repository"
        )
    try:
        repository.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=repository))
    except OSError as e:
        raise disk_error(e, repository) from None
    try:
        folder.chmod(0o755)  # Triton may be another user
        yield folder
        folder.rename(target)
    except OSError as e:
        raise disk_error(e, repository) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
