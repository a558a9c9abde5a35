"""Tells what a file is from its bytes; its name plays no part."""

from __future__ import annotations

import enum
import re
import zipfile
from pathlib import Path

from repack.sources.errors import UnreadableFile, UnsupportedLayout

EXPECTED = "expected a PyTorch checkpoint, a TorchScript file or an ONNX file"

_FOREIGN = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run 'git lfs pull'"),
    (b"\x89HDF\r\n", f"an HDF5 (Keras) file, {EXPECTED}"),
    (b"\x1f\x8b", "a gzip file: unpack it first"),
    (b"BZh", "a bzip2 file: unpack it first"),
    (b"\xfd7zXZ", "an xz file: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file: unpack it first"),
    (b"GGUF", f"a GGUF file, {EXPECTED}"),
    (b"\x93NUMPY", f"a NumPy array, {EXPECTED}"),
    (b"\xff\xd8\xff", f"a JPEG picture, {EXPECTED}"),
    (b"\x89PNG", f"a PNG picture, {EXPECTED}"),
)
_HTML = re.compile(rb"\s*(<!doctype html|<html|<head|<\?xml)", re.IGNORECASE)
_SAFETENSORS = re.compile(rb".{6}\x00\x00\{\s*\"", re.DOTALL)
_TEXT_PICKLE = re.compile(rb"\(*[ci][\w.]+\n[\w.]+\n|\([ldt]p|\(S['\"]|[\]}][q(.]")
_ONNX_START = re.compile(rb"\x08[\x01-\x7f]")


class Kind(enum.Enum):
    """The containers that ``load`` reads."""

    CHECKPOINT = "checkpoint"
    TORCHSCRIPT = "TorchScript"
    ONNX = "ONNX"


def sniff(path: Path) -> Kind:
    """What ``path`` holds.

    Raises:
        UnreadableFile: missing, a folder, not a plain file, not permitted, empty or truncated.
        UnsupportedLayout: some other kind of file, which the message names.
    """
    head = _head(path)
    if head.startswith(b"PK"):
        return _sniff_zip(path, head)
    for start, meaning in _FOREIGN:
        if head.startswith(start):
            raise UnsupportedLayout(path, meaning)
    if _HTML.match(head):
        raise UnsupportedLayout(
            path,
            "an HTML or XML page saved under this name: download it again",
        )
    if _SAFETENSORS.match(head):
        raise UnsupportedLayout(path, f"a safetensors file, {EXPECTED}")
    if head[257:262] == b"ustar":
        raise UnsupportedLayout(path, "a tar file (also the format before torch 0.4): save it anew")
    if head[0] == 0x80 or _TEXT_PICKLE.match(head):
        return Kind.CHECKPOINT
    if _ONNX_START.match(head):
        return Kind.ONNX
    raise UnsupportedLayout(path, f"starts with {head[:8].hex(' ')}, {EXPECTED}")


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise UnreadableFile(path, "a folder, expected a file: name the checkpoint inside it")
    if not path.exists():
        raise UnreadableFile(path, "no such file")
    if not path.is_file():
        raise UnreadableFile(path, "not a plain file")
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise UnreadableFile(path, f"cannot be read ({error.strerror})") from error
    if not head:
        raise UnreadableFile(path, f"empty (0 bytes), {EXPECTED}")
    return head


def zip_names(path: Path) -> list[str] | None:
    """The members of a zip; None where the file is no zip that can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None


def _sniff_zip(path: Path, head: bytes) -> Kind:
    names = zip_names(path)
    if names is None:
        size = path.stat().st_size
        raise UnreadableFile(
            path,
            f"starts like a torch.save file, but has no end ({size} bytes): get it again",
        )
    bases = {name.rpartition("/")[2] for name in names if name.count("/") <= 1}
    if "constants.pkl" in bases:
        return Kind.TORCHSCRIPT
    if "data.pkl" in bases:
        return Kind.CHECKPOINT
    if any(name.startswith("MAR-INF/") for name in names):
        raise UnsupportedLayout(path, "a TorchServe archive, expected the checkpoint in it")
    if "archive_format" in bases or "serialized_exported_program.json" in bases:
        raise UnsupportedLayout(path, f"a torch.export program, {EXPECTED}")
    first = ", ".join(names[:3]) or "nothing"
    raise UnsupportedLayout(path, f"a zip holding {first}, {EXPECTED}")
