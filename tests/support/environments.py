"""Environments of their own, for packages that the kit's cannot hold; kept from run to run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest


def made(name: str, packages: Sequence[str]) -> Path:
    """A virtual environment with these packages, made where it is not there; else skips."""
    digest = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:8]
    python = sysconfig.get_python_version()
    folder = Path(tempfile.gettempdir()) / f"kit-{name}-{os.getuid()}-{python}-{digest}"
    if (folder / "ready").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *packages]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        pytest.skip(f"{name}: {', '.join(packages)}: {(lines or ['pip failed'])[-1]}")
    (folder / "ready").touch()
    return folder


@cache
def beside(name: str, requirements: Path) -> Path:
    """An interpreter with these packages and this one's, made where there is none; else skips."""
    wanted = requirements.read_text(encoding="utf-8")
    own = f"kit-with-{name}-{os.getuid()}-{sysconfig.get_python_version()}"
    folder = Path(tempfile.gettempdir()) / own
    ready, found = folder / "ready", folder / "bin" / "python"
    if ready.is_file() and ready.read_text(encoding="utf-8") == f"{sys.prefix}\n{wanted}":
        return found
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)  # ours, and no one else's
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(found), "-m", "pip", "install", "-q", "--no-deps", "-r", str(requirements)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{name} is not available: {(done.stderr.strip() or '?').splitlines()[-1]}")
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "kit.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    ready.write_text(f"{sys.prefix}\n{wanted}", encoding="utf-8")
    return found
