"""The requests' bodies, read into memory before anything is measured."""

from __future__ import annotations

from pathlib import Path

from handlers.errors import KitError

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def read(path: Path) -> list[tuple[str, bytes]]:
    """(name, bytes) of a file, or of a folder's files in the order of their names.

    A folder that holds pictures gives its pictures only; hidden files are passed over.

    Raises:
        KitError: nothing there.
    """
    if not path.exists():
        raise KitError(f"--input {path}: no such file or folder")
    if path.is_file():
        return [_load(path)]
    files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
    pictures = [f for f in files if f.suffix.lower() in PICTURES]
    if not files:
        raise KitError(f"--input {path}: the folder holds no files; at least one was expected")
    return [_load(f) for f in pictures or files]


def _load(path: Path) -> tuple[str, bytes]:
    try:
        return path.name, path.read_bytes()
    except OSError as e:
        raise KitError(f"--input {path} cannot be read: {e.strerror}") from None
