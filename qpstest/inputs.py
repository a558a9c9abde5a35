"""The requests' bodies, read into memory before anything is measured."""

from __future__ import annotations

from pathlib import Path

from handlers.errors import KitError
from qpstest.masks import is_volume

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def read(path: Path) -> list[tuple[str, bytes]]:
    """(name, bytes) of a file, or of a folder's files in the order of their names.

    A folder that holds pictures or volumes gives those only; hidden files are passed over.

    Raises:
        KitError: nothing there.
    """
    if not path.exists():
        raise KitError(f"--input {path}: no such file or folder")
    if path.is_file():
        return [_load(path)]
    files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
    known = [f for f in files if f.suffix.lower() in PICTURES or is_volume(f)]
    if not files:
        raise KitError(f"--input {path}: the folder holds no files; at least one was expected")
    return [_load(f) for f in known or files]


def are_volumes(path: Path) -> bool:
    """Whether the file, or the first file of the folder that ``read`` would take, is a volume."""
    if path.is_dir():
        visible = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
        return next(
            (is_volume(f) for f in visible if f.suffix.lower() in PICTURES or is_volume(f)), False
        )
    return is_volume(path)


def _load(path: Path) -> tuple[str, bytes]:
    try:
        return path.name, path.read_bytes()
    except OSError as e:
        raise KitError(f"--input {path} cannot be read: {e.strerror}") from None
