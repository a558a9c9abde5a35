"""The passport: what an archive says about itself, and the check that it is true."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from handlers.artefact import Artefact, decoded, understood
from handlers.errors import ArchiveError

FILE = "passport.json"
FORMAT = 2
"""Version of the passport's own layout; a worker refuses one that it does not know."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the model.

    Attributes:
        name: as the runtime knows it.
        dtype: NumPy's name of the element type.
        shape: a number, or a word for an axis of any length ("batch").
        range: lowest and highest value expected, where known.
        values: the only values expected; empty for all.
        layout: one letter an axis, for example "NHWC"; empty where it has no meaning.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    range: tuple[float, float] | None = None
    layout: str = ""
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Passport:
    """What an archive holds, where it came from and how well it answers like the original.

    Attributes:
        runtimes: "module:Class" in the archive's folder, by name, for each runtime of its artefacts
            that is not the kit's own (``handlers.runtimes``).
    """

    name: str
    version: str
    task: str
    handler: str
    source: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    settings: dict[str, Any]
    artefacts: dict[str, Artefact]
    gate: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    runtimes: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> str:
        """The same passport gives the same text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: object = FILE) -> Passport:
        """Reads a passport; one of format 1 as format 2 has it.

        Raises:
            ArchiveError: not JSON, another format version, or a field is missing, unknown or of
                another type.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise ArchiveError(f"{where}: the passport is not JSON ({e})") from None
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        if found not in (1, FORMAT):
            raise ArchiveError(f"{where}: passport format {found}, this kit reads {FORMAT}")
        try:
            passport: Passport = decoded(cls, _upgraded(data) if found == 1 else data, "passport")
            artefacts = {k: understood(a) for k, a in passport.artefacts.items()}
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            raise ArchiveError(f"{where}: the passport lacks or misnames a field ({e})") from None
        return replace(passport, artefacts=artefacts)

    @classmethod
    def read(cls, folder: Path) -> Passport:
        """Reads the passport of an unpacked archive.

        Raises:
            ArchiveError: no passport there, or one that cannot be read.
        """
        path = folder / FILE
        try:
            return cls.from_json(path.read_bytes(), path)
        except OSError as e:
            raise ArchiveError(f"{path}: no passport ({e.strerror})") from None

    def check_files(self, folder: Path) -> None:
        """Compares every file with its recorded SHA-256, before anything of it is loaded.

        Raises:
            ArchiveError: a file is missing or differs, by name with both hashes.
        """
        for name, expected in self.files.items():
            path = folder / name
            if not path.is_file():
                raise ArchiveError(f"{name}: named in the passport, but not in the archive")
            found = sha256(path)
            if found != expected:
                raise ArchiveError(
                    f"{name}: checksum {found[:12]}..., the passport says {expected[:12]}...: "
                    "changed since it was packed, so it is not loaded"
                )


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """A passport of format 1 in the keys of format 2."""
    from handlers import heads  # which needs NumPy: a worker reads its passport without

    every: dict[str, Any] = {}
    artefacts = {}
    for name, artefact in data["artefacts"].items():
        options = dict(artefact.get("options", {}))
        every |= options
        options = {k: v for k, v in options.items() if k not in ("anchors", "strides", "raw_maps")}
        renamed = {"floats": "float_layers", "wished": "relaxed"}
        options = {renamed.get(k, k): v for k, v in options.items()}
        if artefact["runtime"] == "torchscript":
            options.setdefault("outputs", ["output"])
        if options.get("rebuild"):
            told = {"weakly_typed": "flags", "strongly_typed": "typed", "ranges": "ranges"}
            rest = {k: v for k, v in options["rebuild"].items() if k not in told.values()}
            found = {new: options["rebuild"].get(old) for new, old in told.items()}
            options["rebuild"] = {**rest, **found}
        artefacts[name] = {**artefact, "options": options}
    settings = dict(data["settings"])
    if data["task"] == "detection":
        settings[heads.SETTING] = heads.before(every, len(data["labels"]))
    return {**data, "artefacts": artefacts, "settings": settings, "format": FORMAT}
