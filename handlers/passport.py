"""The passport: what an archive says about itself, and the check that it is true."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from handlers.errors import ArchiveError

FILE = "passport.json"
FORMAT = 1
"""Version of the passport's own layout; a worker refuses one that it does not know."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the model.

    Attributes:
        name: as the runtime knows it.
        dtype: NumPy's name of the element type.
        shape: a number, or a word for an axis of any length ("batch").
        range: lowest and highest value expected, where known.
        layout: one letter an axis, for example "NHWC"; empty where it has no meaning.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    range: tuple[float, float] | None = None
    layout: str = ""


@dataclass(frozen=True)
class Artefact:
    """One form of the model that a runtime can load.

    Attributes:
        runtime: a key of ``handlers.runtimes.RUNTIMES``.
        files: paths inside the archive, the one to open first.
        precision_asked: "f32", "bf16" or "int8".
        precision_found: what the runtime reported after loading it where it was made:
            ``{"label": "bf16", "layers": {"bf16": 0.9, ...}, "flops": {...}}``, shares of 1.
        output: what the graph ends in: "detections" (non-maximum suppression inside), "boxes"
            (decoded boxes) or "tensors".
        options: settings that the runtime applies when it loads the files.
    """

    runtime: str
    files: tuple[str, ...]
    precision_asked: str
    precision_found: dict[str, Any]
    output: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Passport:
    """What an archive holds, where it came from and how well it answers like the original."""

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
    format: int = FORMAT

    def to_json(self) -> str:
        """The same passport gives the same text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: object = FILE) -> Passport:
        """Reads a passport.

        Raises:
            ArchiveError: not JSON, another format version, or a missing field.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise ArchiveError(f"{where}: the passport is not JSON ({e})") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ArchiveError(f"{where}: passport format {found}, this kit reads {FORMAT}")
        try:
            data["inputs"] = tuple(_spec(s) for s in data["inputs"])
            data["outputs"] = tuple(_spec(s) for s in data["outputs"])
            data["artefacts"] = {k: _artefact(a) for k, a in data["artefacts"].items()}
            data["labels"] = tuple(data["labels"])
            data["files"] = {k: _checksum(v) for k, v in data["files"].items()}
            return cls(**data)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise ArchiveError(f"{where}: the passport lacks or misnames a field ({e})") from None

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


def _checksum(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} in place of a checksum")
    return value


def _spec(data: Mapping[str, Any]) -> TensorSpec:
    span = data.get("range")
    return TensorSpec(
        data["name"],
        data["dtype"],
        tuple(data["shape"]),
        (float(span[0]), float(span[1])) if span else None,
        data.get("layout", ""),
    )


def _artefact(data: Mapping[str, Any]) -> Artefact:
    return Artefact(**{**data, "files": tuple(data["files"])})
