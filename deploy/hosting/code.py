"""The code that archives bring along: imported once in a process, and the same for all of them."""

from __future__ import annotations

import atexit
import hashlib
import importlib
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

HANDLERS = "handlers"


class HostError(Exception):
    """An archive cannot be hosted here; ``str(error)`` is one line."""


_code: dict[str, str] = {}
"""Path inside the archive -> SHA-256, of all code that this process may import."""

_owner = ""
_folder: Path | None = None


def use(folder: Path, files: Mapping[str, str], name: str) -> None:
    """Makes an unpacked archive's code importable; nothing of it has run before it is checked.

    Args:
        files: path -> SHA-256, as the passport has them.
        name: the archive's, for errors.

    Raises:
        HostError: a file is missing or was changed, or this process already has other code of the
            same name.
    """
    global _owner  # noqa: PLW0603
    code = {path: digest for path, digest in files.items() if path.endswith(".py")}
    for path, expected in code.items():
        if _sha256(folder / path) != expected:
            raise HostError(f"{name}: {path} is missing or was changed since it was packed")
    if not _code and HANDLERS in sys.modules:
        _take_what_is_imported()
    differ = sorted(
        path
        for path in {*code, *_code}
        if code.get(path) != _code.get(path)
        and ((path in code and path in _code) or (_code and path.startswith(f"{HANDLERS}/")))
    )
    if differ:
        more = f" and {len(differ) - 1} more files" if differ[1:] else ""
        raise HostError(
            f"{name}: its code is of another version than that of {_owner}, which this process "
            f"has loaded ({differ[0]}{more} differ): give each a process of its own, or repack "
            "both with the same kit"
        )
    target = _importable()
    for path in code.keys() - _code.keys():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, target / path)
    importlib.invalidate_caches()
    _code.update(code)
    _owner = _owner or name


def _take_what_is_imported() -> None:
    global _owner  # noqa: PLW0603
    found = Path(str(sys.modules[HANDLERS].__file__)).parent
    for path in found.rglob("*.py"):
        _code[f"{HANDLERS}/{path.relative_to(found).as_posix()}"] = _sha256(path)
    _owner = str(found)


def _importable() -> Path:
    """A folder of this process, first in its search path, that outlives the archives' own: what
    a handler imports late must still be there when the archive that brought it is closed."""
    global _folder  # noqa: PLW0603
    if _folder is None:
        _folder = Path(tempfile.mkdtemp(prefix="kit-code-"))
        atexit.register(shutil.rmtree, _folder, ignore_errors=True)
        sys.path.insert(0, str(_folder))
    return _folder


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
