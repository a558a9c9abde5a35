"""Engines that were built before, found by everything that they were built from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.passport import sha256
from repack.model import Arrays
from repack.progress import say


def key(source: Path, calibration: Sequence[Arrays], **rest: Any) -> str:
    """The engine's name: a hash of the model, the calibration inputs and all options and versions.

    Args:
        source: the ONNX file that the model was written to, whichever route builds the engine.
        rest: whatever else decides, as JSON.
    """
    digest = hashlib.sha256(sha256(source).encode())
    digest.update(json.dumps(rest, sort_keys=True).encode())
    for given in calibration:
        for name, value in sorted(given.items()):
            digest.update(name.encode() + str(value.dtype).encode() + value.tobytes())
    return digest.hexdigest()[:32]


class EngineCache:
    """A folder of engines, each with a record of its hash and of how long it took.

    An engine is code that will run: one whose bytes are not those of its record, or that another
    user could have written, is built again.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def find(self, name: str) -> Path | None:
        """The engine of this name, if it is whole and nobody else's."""
        path = self.folder / f"{name}.plan"
        record = self._record(name)
        if record is None or not path.is_file():
            return None
        if path.stat().st_uid != os.getuid() or path.stat().st_mode & 0o022:
            say(f"    {path} could have been written by another user: built again")
            return None
        if sha256(path) != record.get("sha256"):
            say(f"    {path} is not what was built: built again")
            return None
        return path

    def about(self, name: str) -> dict[str, Any]:
        """What was recorded with an engine."""
        return self._record(name) or {}

    def keep(self, name: str, engine: Path, seconds: float, about: Mapping[str, Any]) -> Path:
        """Moves an engine in; its record last, so that no half-written one is ever found."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / f"{name}.plan"
        temporary = self.folder / f".{name}.{os.getpid()}"
        temporary.write_bytes(engine.read_bytes())
        temporary.chmod(0o600)
        temporary.replace(path)
        record = {"sha256": sha256(path), "seconds": seconds, **about}
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.folder / f"{name}.json")
        return path

    def timing(self, name: str) -> Path:
        """The file that TensorRT's kernel timings are kept in, for one machine and precision."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.folder / f"{name}.timing"

    def estimate(self, layers: int, level: int) -> float | None:
        """Seconds that a build may take, from the earlier ones at this level; None without any."""
        rates = []
        for path in self.folder.glob("*.json"):
            record = self._record(path.stem) or {}
            if record.get("level") == level and record.get("layers"):
                rates.append(record["seconds"] / record["layers"])
        return layers * sorted(rates)[len(rates) // 2] if rates else None

    def _record(self, name: str) -> dict[str, Any] | None:
        try:
            record = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None
