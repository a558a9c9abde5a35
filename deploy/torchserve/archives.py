"""The archives of the model store: which can be served, and why the others cannot."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from deploy.torchserve.settings import NAME
from handlers.errors import ArchiveError, KitError
from handlers.passport import Passport, sha256
from repack.archive import DAMAGE, MANIFEST, Guest, foreign_code, verify, verify_guest

FOREIGN = (
    "this archive's code is not the kit's ({}): packed by another version of the kit, or changed;"
    " an archive is code, so serve it only if you trust its maker"
)

TRACING = "handlers/tracing.py"
GUEST = "guest"
NOT_PROVEN = (
    "a guest, which another program made: nothing of it was compared or proven, and its code runs"
    " as it came; serve it only if you trust its maker"
)


@dataclass(frozen=True)
class Archive:
    """An archive that passed its check.

    Attributes:
        path: the .mar file.
        version: the model's version, as TorchServe reads it.
        task: what the passport says the model does, such as "detection" or "tensors".
        sha256: of the file.
        unpacked: bytes that its files take on disk.
        passport: its record; None of a guest, which another program made.
        foreign: what of its code is not this kit's; empty where all of it is.
        handler: what TorchServe's manifest names.
    """

    path: Path
    version: str
    task: str
    sha256: str
    unpacked: int
    passport: Passport | None
    foreign: str = ""
    handler: str = "handlers.entry"

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def traces(self) -> bool:
        """Whether its code can send traces."""
        return self.passport is not None and TRACING in self.passport.files


def check(path: Path, guests: bool = False) -> Archive:
    """Checks one archive before anything of it is used.

    Args:
        guests: one that another program made will do.

    Raises:
        ArchiveError: one line that names the file and what is wrong with it.
    """
    if not NAME.fullmatch(path.stem):
        raise ArchiveError(
            f"{path.name}: a model's name has letters, digits, dots, dashes and underscores only"
        )
    passport: Passport | None = None
    try:
        passport = verify(path)
    except Guest:
        if not guests:
            raise
        verify_guest(path)
    with zipfile.ZipFile(path) as zipped:
        model = json.loads(zipped.read(MANIFEST))["model"]
        unpacked = sum(entry.file_size for entry in zipped.infolist())
    return Archive(
        path,
        str(model.get("modelVersion") or "1.0"),
        passport.task if passport else GUEST,
        sha256(path),
        unpacked,
        passport,
        foreign_code(passport) if passport else "",
        model["handler"],
    )


def survey(store: Path, guests: bool = False) -> tuple[list[Archive], list[str]]:
    """All archives of the store: those to serve, and one line for each that is refused.

    Args:
        guests: those that another program made are served, too.
    """
    served, refused = [], []
    for path in sorted(store.glob("*.mar")):
        try:
            served.append(check(path, guests))
        except (ArchiveError, OSError, *DAMAGE) as e:
            refused.append(str(e) if path.name in str(e) else f"{path.name}: {e}")
    return served, refused


def require(name: str, store: Path, served: list[Archive], refused: list[str]) -> Archive:
    """The named archive.

    Raises:
        KitError: it is not there or was refused; says what the store holds instead.
    """
    for archive in served:
        if archive.name == name:
            return archive
    for line in refused:
        if f"{name}.mar" in line:
            raise KitError(f"{line}: repack it, or name another model with NAME=")
    others = ", ".join(a.name for a in served) or "no archive that can be served"
    raise KitError(f"no {name}.mar in {store} (it holds {others}): repack it, or set NAME=")
