"""The two containers that ``torch.save`` writes, opened without ``torch.load``.

Sizes in the file are checked against what the file really holds before anything is allocated.
"""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch

from repack.sources.errors import UnreadableFile, UnsupportedLayout
from repack.sources.pickle_names import InertClass, Storage, StorageType
from repack.sources.pickles import PickleReader

MAX_PICKLE_BYTES = 64 * 2**20
"""The structure of a checkpoint; its tensors are stored beside it and count on their own."""

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)


def read_checkpoint(path: Path) -> object:
    """What ``torch.save`` put into ``path``, classes as inert stand-ins.

    Args:
        path: a zip holding ``data.pkl``, or a file of the format before torch 1.6.

    Raises:
        UnsafePickle: the pickle asks for something that could run code.
        UnreadableFile: truncated, damaged or not written by ``torch.save``.
    """
    with path.open("rb") as stream:
        if stream.read(2) == b"PK":
            return _read_zip(path)
        stream.seek(0)
        return _read_legacy(path, stream)


def _storage_request(pid: object) -> tuple[torch.dtype, str, int]:
    """Element type, key and element count of a persistent id, checked."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        raise ValueError("a reference to something that is no storage")
    kind, key, count = pid[1], pid[2], pid[4]
    if not isinstance(kind, StorageType) or not isinstance(key, str):
        raise ValueError("a storage of unknown type")
    if type(count) is not int or not 0 <= count <= 2**50:
        raise ValueError("a storage of impossible size")
    return kind.dtype, key, count


def _elements(data: bytearray, dtype: torch.dtype, count: int) -> Storage:
    """The first ``count`` elements, sharing memory with ``data``."""
    if not count:
        return Storage(torch.empty(0, dtype=dtype))
    return Storage(torch.frombuffer(data, dtype=dtype, count=count))


class _ZipStorages:
    """The storages beside ``data.pkl``, each read once and never more than the file holds."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str, limit: int):
        self.archive = archive
        self.prefix = prefix
        self.left = limit
        self.data: dict[str, bytearray] = {}

    def __call__(self, pid: object) -> Storage:
        dtype, key, count = _storage_request(pid)
        if key not in self.data:
            self.data[key] = bytearray(self.record(f"data/{key}", self.left))
            self.left -= len(self.data[key])
        size = count * dtype.itemsize
        if size > len(self.data[key]):
            raise ValueError(f"storage {key} of {size} bytes holds {len(self.data[key])}")
        return _elements(self.data[key], dtype, count)

    def record(self, name: str, limit: int) -> bytes:
        info = self.archive.getinfo(self.prefix + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"record {name} is compressed, which torch.save never does")
        if info.file_size > limit:
            raise ValueError(f"record {name} of {info.file_size} bytes, at most {limit}")
        return self.archive.read(info)


def _read_zip(path: Path) -> object:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickles = [n for n in names if n.rpartition("/")[2] == "data.pkl" and n.count("/") <= 1]
            if len(pickles) != 1:
                raise UnreadableFile(path, f"a zip with {len(pickles)} data.pkl, expected 1")
            storages = _ZipStorages(
                archive, pickles[0].removesuffix("data.pkl"), path.stat().st_size
            )
            if f"{storages.prefix}byteorder" in names:
                _check_order(
                    path, storages.record("byteorder", 16).strip().decode("ascii", "replace")
                )
            pickle = storages.record("data.pkl", MAX_PICKLE_BYTES)
            return PickleReader(path, storages).read(io.BytesIO(pickle))
    except (*_ZIP_FAULTS, KeyError, ValueError) as error:
        raise UnreadableFile(path, f"the zip is damaged ({error}); get the file again") from error


def _check_order(path: Path, order: str) -> None:
    if order != "little" or sys.byteorder != "little":
        raise UnsupportedLayout(path, f"{order}-endian numbers on a {sys.byteorder}-endian machine")


class _LegacyStorages:
    """Storages of the old format: mentioned by the pickle first, filled from the file's tail."""

    def __init__(self, limit: int):
        self.left = limit
        self.data: dict[str, tuple[bytearray, torch.dtype]] = {}

    def __call__(self, pid: object) -> object:
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            if not isinstance(pid[1], InertClass):
                raise ValueError("a class that is none")
            return pid[1]  # pid[2:] is the class's source text, which nobody reads
        dtype, key, count = _storage_request(pid)
        size = count * dtype.itemsize
        if key not in self.data:
            if size > self.left:
                raise ValueError(f"storage {key} of {size} bytes, the file has {self.left} left")
            self.left -= size
            self.data[key] = (bytearray(size), dtype)
        data, known = self.data[key]
        if len(data) != size or known != dtype:
            raise ValueError(f"storage {key} mentioned with two sizes or types")
        storage = _elements(data, dtype, count)
        view = pid[5] if isinstance(pid, tuple) and len(pid) > 5 else None
        return storage if view is None else _view(storage, view)

    def fill(self, stream: BinaryIO, keys: list[str]) -> None:
        for key in keys:
            data, dtype = self.data[key]
            count = struct.unpack("<q", stream.read(8))[0]
            if count * dtype.itemsize != len(data):
                raise ValueError(f"storage {key} of {len(data)} bytes has {count} elements")
            body = stream.read(len(data))
            if len(body) != len(data):
                raise ValueError(f"storage {key} is cut short")
            data[:] = body


def _view(storage: Storage, view: object) -> Storage:
    if not isinstance(view, tuple) or len(view) != 3:
        raise ValueError("a storage view of unknown form")
    _, offset, count = view
    if type(offset) is not int or type(count) is not int or offset < 0 or count < 0:
        raise ValueError("a storage view of impossible size")
    if offset + count > storage.values.numel():
        raise ValueError("a storage view outside its storage")
    return Storage(storage.values[offset : offset + count])


def _read_legacy(path: Path, stream: BinaryIO) -> object:
    def part(persistent: Callable[[object], object] | None = None) -> object:
        reader = PickleReader(path) if persistent is None else PickleReader(path, persistent)
        return reader.read(stream)

    first = part()
    if first != _MAGIC:
        raise UnsupportedLayout(
            path,
            f"a plain pickle of a {type(first).__name__}, expected a file that torch.save wrote: "
            "save it with torch.save(model.state_dict(), file)",
        )
    if part() != _PROTOCOL:
        raise UnsupportedLayout(path, "a torch.save format of an unknown protocol")
    system = part()
    little = isinstance(system, dict) and system.get("little_endian", True)
    _check_order(path, "little" if little else "big")
    storages = _LegacyStorages(path.stat().st_size)
    found = part(storages)
    keys = part()
    try:
        if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
            raise ValueError("no list of storages")
        if sorted(keys) != sorted(storages.data):
            raise ValueError(f"{len(keys)} storages, its pickle mentions {len(storages.data)}")
        storages.fill(stream, keys)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise UnreadableFile(path, f"the file is cut short or damaged ({error})") from error
    return found
