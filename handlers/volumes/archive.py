"""A zip of files, taken apart in memory and within bounds."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from handlers.errors import BadInput, ItemError, TooLarge
from handlers.memory import memory_limit, mib
from handlers.volumes.bounds import Buffer

MAX_FILES = 10_000
MAX_RATIO = 200
"""Bytes unpacked per byte packed; slices of noise-free background stay far below."""

IGNORED = ("DICOMDIR", "__MACOSX", "Thumbs.db")
"""Files and folders that come along with a series and are no part of it."""

DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError),
    *(RuntimeError, ValueError, KeyError),
)
"""What zipfile raises for damaged, encrypted or unknown members."""


class Files:
    """The plain files of a zip, checked before any is unpacked.

    Raises:
        BadInput: damaged, a path that leads outside, a link, or a name that is there twice.
        TooLarge: more files or bytes than are unpacked.
    """

    def __init__(self, data: Buffer):
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except DAMAGE as e:
            raise BadInput(f"the zip is damaged or truncated ({e})") from None
        infos = self._zip.infolist()
        if len(infos) > MAX_FILES:
            raise TooLarge(f"the zip claims {len(infos):,} files; at most {MAX_FILES:,}")
        total = sum(info.file_size for info in infos)
        if total > memory_limit():
            raise TooLarge(f"the zip unpacks to {mib(total)}; the limit is {mib(memory_limit())}")
        if total > MAX_RATIO * len(data) + (1 << 20):
            raise TooLarge(
                f"the zip's {len(data):,} bytes unpack to {total:,}; "
                f"at most {MAX_RATIO} times as many are taken"
            )
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            _check(info)
            if info.filename in self._infos:
                raise BadInput(f"the zip's member {info.filename!r} is there twice")
            self._infos[info.filename] = info

    @property
    def names(self) -> list[str]:
        """Paths of the files that may belong to a series, in the order of the zip."""
        return [name for name, info in self._infos.items() if _counts(info)]

    def read(self, name: str, most: int | None = None) -> bytes:
        """One file's bytes, or the first ``most`` of them.

        Raises:
            BadInput: damaged; names the file.
        """
        try:
            with self._zip.open(self._infos[name]) as f:
                return f.read(self._infos[name].file_size if most is None else most)
        except ItemError:
            raise
        except DAMAGE as e:
            raise BadInput(f"{name} in the zip is damaged or truncated ({e})") from None

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return ((name, self.read(name)) for name in self.names)


def _check(info: zipfile.ZipInfo) -> None:
    name = PurePosixPath(info.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in info.filename or ":" in info.filename:
        raise BadInput(f"the zip's member {info.filename!r} points outside of it")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BadInput(f"the zip's member {info.filename!r} is a link or device")


def _counts(info: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(info.filename).parts
    hidden = any(part.startswith(".") or part in IGNORED for part in parts)
    return not (info.is_dir() or hidden)
