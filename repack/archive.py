"""The .mar file: written whole or not at all, and checked before anything of it is used.

A .mar is a zip with ``MAR-INF/MANIFEST.json``, as TorchServe reads it. It is written here and not
by torch-model-archiver, because that one flattens folders, works in a shared temporary folder named
after the model and writes the archive in place.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import lzma
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from handlers import passport as passports
from handlers.errors import ArchiveError, KitError
from handlers.passport import Passport

MANIFEST = "MAR-INF/MANIFEST.json"
ARCHIVER_VERSION = "0.12.0"
"""The torch-model-archiver whose manifest layout this follows."""

MAX_MEMBERS = 10_000
MAX_UNPACKED = 16 << 30
MAX_RATIO = 200
"""Bounds of an archive: files, bytes unpacked, and bytes unpacked per byte packed."""

STORED = {".pt", ".bin", ".onnx", ".engine", ".plan"}
"""Weights hardly shrink and are read at every start: they are stored, not compressed."""

DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, IndexError, KeyError, RuntimeError, ValueError),
)
"""What zipfile raises for damaged archives."""

VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""What TorchServe's addresses can hold as a version."""

RUNTIMES = ("python", "python3")
"""What a manifest may name: with another one TorchServe would load none of the models."""

HANDLERS = Path(passports.__file__).parent

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""What may lie under an archive's name and is no file; opening a pipe would wait for ever."""


def stage_handlers(stage: Path) -> None:
    """Copies the ``handlers`` package into an archive's staging folder."""
    for path in sorted(HANDLERS.rglob("*.py")):
        target = stage / "handlers" / path.relative_to(HANDLERS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def stage_module(stage: Path, reference: str) -> None:
    """Copies a module that an archive needs and ``handlers`` does not hold; others are there.

    Args:
        reference: "module:Class" of a handler or a runtime.

    Raises:
        KitError: there is no such module, or it is no file of Python source.
    """
    module = reference.partition(":")[0]
    if module.partition(".")[0] == HANDLERS.name:
        return
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise KitError(f"{reference}: no module {module} of Python source, which the archive needs")
    target = stage / f"{module.replace('.', '/')}.py"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(spec.origin, target)


def finish_stage(stage: Path, passport: Passport) -> Passport:
    """Writes the manifest and the passport, with the hash of every file staged before it."""
    (stage / "MAR-INF").mkdir()
    (stage / MANIFEST).write_text(_manifest(passport), encoding="utf-8")
    hashes = {
        str(p.relative_to(stage).as_posix()): passports.sha256(p)
        for p in sorted(stage.rglob("*"))
        if p.is_file()
    }
    passport = Passport(**{**passport.__dict__, "files": hashes})
    (stage / passports.FILE).write_text(passport.to_json(), encoding="utf-8")
    return passport


def _manifest(passport: Passport) -> str:
    manifest = {
        "runtime": "python",
        "model": {
            "modelName": passport.name,
            "modelVersion": passport.version,
            "handler": "handlers.entry",
        },
        "archiverVersion": ARCHIVER_VERSION,
    }
    return json.dumps(manifest, indent=1) + "\n"


def foreign_code(passport: Passport) -> str:
    """What of an archive's code is not this kit's, in one line; empty where all of it is.

    An archive's checksums come with the archive: whoever changes its code can write them anew. So
    the kit compares with its own files: those of ``handlers``, what else Python could import, and
    the manifest that names the handler. The code inside a model's own files cannot be compared.
    """
    own = {
        f"{HANDLERS.name}/{p.relative_to(HANDLERS).as_posix()}": passports.sha256(p)
        for p in HANDLERS.rglob("*.py")
    }
    own[MANIFEST] = hashlib.sha256(_manifest(passport).encode()).hexdigest()
    models = {PurePosixPath(f).parts[0] for a in passport.artefacts.values() for f in a.files}
    found = {
        name: digest
        for name, digest in passport.files.items()
        if name in own
        or name.endswith((".py", ".pyc"))
        or (name.endswith(".so") and PurePosixPath(name).parts[0] not in models)
    }
    parts = {
        "changed": [n for n in own if n in found and found[n] != own[n]],
        "added": [n for n in found if n not in own],
        "missing": [n for n in own if n not in found],
    }
    told = [
        f"{sorted(names)[0]}{f' and {len(names) - 1} more' if names[1:] else ''} {what}"
        for what, names in parts.items()
        if names
    ]
    return ", ".join(told)


def pack(stage: Path, temporary: Path, names: Collection[str] | None = None) -> None:
    """Zips a staging folder, or these files of it; the same files give the same bytes."""
    paths = stage.rglob("*") if names is None else (stage / name for name in names)
    with zipfile.ZipFile(temporary, "w") as z:
        for path in sorted(p for p in paths if p.is_file()):
            info = zipfile.ZipInfo(str(path.relative_to(stage).as_posix()), (1980, 1, 1, 0, 0, 0))
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.create_system = 3
            stored = path.suffix in STORED
            info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            with path.open("rb") as source, z.open(info, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)


class Draft:
    """A temporary file beside the archive that takes its place only when all went well.

    Use as a context manager; ``commit`` renames. Without it, or after an error, the draft is
    removed and an older archive of the same name stays as it was.
    """

    def __init__(self, target: Path):
        self.target = target
        self.path = Path()

    def __enter__(self) -> Draft:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".tmp", f".{self.target.name}.", self.target.parent)
        os.close(handle)
        self.path = Path(name)
        self.path.chmod(0o644)
        return self

    def commit(self) -> None:
        """Makes the draft the archive, in one step."""
        with self.path.open("rb") as f:
            os.fsync(f.fileno())
        self.path.replace(self.target)

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)


def verify(path: Path) -> Passport:
    """Checks a finished archive without unpacking it anywhere.

    Structure (a readable zip, plain files inside their own folder, no links, within the bounds),
    a passport, and every file's SHA-256 against it.

    Returns:
        The archive's passport.

    Raises:
        ArchiveError: one line with the archive's name and what is wrong.
    """
    with _opened(path) as (z, members):
        if passports.FILE not in members:
            raise Guest(
                f"{path.name}: no {passports.FILE}: not made by this kit; repack its model "
                "with python repack/model_repack.py, or serve it as it is: bash run.sh --guests"
            )
        with z.open(members[passports.FILE]) as f:
            passport = Passport.from_json(f.read(MAX_MEMBERS * 1024), path.name)
        _check_hashes(z, members, passport, path)
        version = manifest_of(z, members, path).get("modelVersion")
        if version != passport.version or not VERSION.fullmatch(passport.version):
            raise ArchiveError(
                f"{path.name}: version {version!r} in the manifest, {passport.version!r} in the "
                "passport; expected the same, of letters, digits, '.', '_' and '-'"
            )
        return passport


class Guest(ArchiveError):
    """An archive that another program made."""


def verify_guest(path: Path) -> None:
    """Checks what can be checked of another program's archive: its structure, and its manifest.

    Raises:
        ArchiveError: one line with the archive's name and what is wrong.
    """
    with _opened(path) as (z, members):
        model = manifest_of(z, members, path)
        for member in z.infolist():
            with z.open(member) as f:
                while f.read(1 << 20):  # zipfile compares the checksum at its end
                    pass
        version = str(model.get("modelVersion") or "1.0")
        if not VERSION.fullmatch(version):
            raise ArchiveError(f"{path.name}: version {version!r}; expected letters and digits")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    try:
        _require_file(path)
        with zipfile.ZipFile(path) as z:
            if min((entry.header_offset for entry in z.infolist()), default=0):
                # A TorchScript file is a zip too, and ends a truncated archive like a whole one.
                raise zipfile.BadZipFile("its first file does not begin it")
            yield z, _members(z, path)
    except DAMAGE as e:
        raise ArchiveError(
            f"{path.name}: no whole archive ({e}): truncated or damaged, copy or repack it again"
        ) from None
    except OSError as e:
        raise ArchiveError(f"{path}: cannot be read ({e.strerror or e})") from None


def unpack(path: Path, folder: Path) -> Passport:
    """Checks an archive and unpacks it into a folder.

    Raises:
        ArchiveError: as ``verify``.
        KitError: the folder's disk is full or not writable.
    """
    passport = verify(path)
    _extract(path, folder, [*passport.files, passports.FILE])
    return passport


def unpack_guest(path: Path, folder: Path) -> None:
    """Checks another program's archive and unpacks it into a folder; raises as ``unpack``."""
    verify_guest(path)
    _extract(path, folder, None)


def _extract(path: Path, folder: Path, names: Sequence[str] | None) -> None:
    try:
        with zipfile.ZipFile(path) as z:
            z.extractall(folder, names)
    except OSError as e:
        raise KitError(f"{folder}: cannot unpack {path.name} ({e.strerror or e})") from None


def disk_error(e: OSError, where: Path) -> KitError:
    """The user's line for a failed write."""
    if e.errno == errno.ENOSPC:
        return KitError(f"{where}: the disk is full; the archives there are as they were")
    return KitError(f"{where}: cannot be written ({e.strerror or e})")


def _require_file(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise ArchiveError(f"{path.name}: a link to {str(path.readlink())!r}, where no file is")
    if kind := KINDS.get(stat.S_IFMT(path.stat().st_mode)):
        raise ArchiveError(f"{path.name}: {kind}; expected a file")


def _members(z: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    infos = z.infolist()
    if len(infos) > MAX_MEMBERS:
        raise ArchiveError(f"{path.name}: {len(infos):,} files, at most {MAX_MEMBERS:,}")
    total = sum(i.file_size for i in infos)
    bound = min(MAX_UNPACKED, MAX_RATIO * path.stat().st_size)
    if total > bound:
        raise ArchiveError(
            f"{path.name}: unpacks to {total:,} bytes from {path.stat().st_size:,}; "
            f"at most {bound:,} are allowed"
        )
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = PurePosixPath(info.filename)
        if (
            name.is_absolute()
            or ".." in name.parts
            or "\\" in info.filename
            or ":" in info.filename
        ):
            raise ArchiveError(f"{path.name}: member {info.filename!r} points outside the archive")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ArchiveError(f"{path.name}: member {info.filename!r} is a link or device")
        if info.filename in members:
            raise ArchiveError(f"{path.name}: member {info.filename!r} is there twice")
        members[info.filename] = info
    for member in members:
        parents = {str(parent) for parent in PurePosixPath(member).parents}
        if parents & members.keys():
            raise ArchiveError(f"{path.name}: member {member!r} lies inside another file")
    return members


def manifest_of(
    z: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], path: Path
) -> dict[str, Any]:
    """The model that an archive's manifest names.

    Raises:
        ArchiveError: there is none, or it has no handler.
    """
    if MANIFEST not in members:
        raise ArchiveError(f"{path.name}: no {MANIFEST}, which TorchServe needs")
    manifest = json.loads(z.read(MANIFEST))
    model = manifest.get("model") if isinstance(manifest, dict) else None
    if model and (runtime := manifest.get("runtime", "python")) not in RUNTIMES:
        raise ArchiveError(f"{path.name}: runtime {runtime!r}; expected {' or '.join(RUNTIMES)}")
    if not isinstance(model, dict) or not isinstance(model.get("handler"), str):
        raise ArchiveError(f"{path.name}: {MANIFEST} names no model with a handler")
    return model


def _check_hashes(
    z: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], passport: Passport, path: Path
) -> None:
    present = {name for name in members if not name.endswith("/")} - {passports.FILE}
    for names, what in (
        (present - set(passport.files), "not named in its passport"),
        (set(passport.files) - present, "named in its passport but missing"),
    ):
        if names:
            raise ArchiveError(f"{path.name}: {sorted(names)[0]!r} is {what}")
    for name, expected in passport.files.items():
        digest = hashlib.sha256()
        with z.open(members[name]) as f:
            while block := f.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != expected:
            raise ArchiveError(
                f"{path.name}: {name} has checksum {digest.hexdigest()[:12]}..., its passport says "
                f"{expected[:12]}...: changed since it was packed"
            )
