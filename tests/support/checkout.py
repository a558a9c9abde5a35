"""A copy of the checkout to start run.sh from, in a folder whose path is long and odd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from deploy.environment import read_stamp, wanted
from deploy.torchserve import state
from deploy.torchserve.client import Client
from deploy.torchserve.settings import ROOT, make
from tests.support.servers import free_ports

ODD = Path("a folder with spaces, with ärger and 漢字", "and a long name " * 8)
UNSET = "needs the environment that make test sets up"


def set_up() -> bool:
    """Whether this environment is one that run.sh takes as it is."""
    files = [ROOT / "requirements.txt", ROOT / "requirements-no-deps.txt"]
    return wanted(files).items() <= (read_stamp(Path(sys.prefix)) or {}).items()


class Checkout:
    """A copy of what run.sh needs, with settings and processes of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("handlers", "repack", "deploy"):
            skip = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=skip)
        for name in ("run.sh", *(f.name for f in ROOT.glob("requirements*.txt"))):
            shutil.copy(ROOT / name, folder / name)
        pictures = folder / "examples" / "pictures"
        pictures.mkdir(parents=True)
        (pictures / "a.jpg").write_bytes(b"x" * 321)
        self.store = folder / "model_store"
        self.store.mkdir()
        self.port, self.grpc_port = free_ports()
        self.environment = {
            **{k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR")},
            "LC_ALL": "C",
            "PYTHON": sys.executable,
            "VENV": sys.prefix,
            "PORT": str(self.port),
            "GRPC_PORT": str(self.grpc_port),
            "WORKERS": "1",
        }

    def command(self, *arguments: str) -> list[str]:
        return ["bash", str(self.folder / "run.sh"), *arguments]

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env={**self.environment, **variables},
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def begin(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def client(self) -> Client:
        texts = {"port": str(self.port), "grpc_port": str(self.grpc_port)}
        return Client(make({**texts, "run_dir": str(self.folder / ".run")}))

    def server(self) -> state.State:
        found = state.read(self.folder / ".run")
        assert found is not None
        return found

    def processes(self) -> list[psutil.Process]:
        """Front ends and workers that were started from this checkout."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            variables = process.info["environ"] or {}
            if str(self.folder) in variables.get("PYTHONPATH", ""):
                found.append(process)
        return found

    def all_gone(self) -> bool:
        """Whether no process, socket folder or state of this checkout is left."""
        end = time.monotonic() + 5
        while self.processes() and time.monotonic() < end:
            time.sleep(0.1)
        return not self.processes() and state.read(self.folder / ".run") is None


@contextmanager
def checked_out(folder: Path) -> Iterator[Checkout]:
    """A copy below this folder; its server is stopped at the end, and nothing of it is left."""
    found = Checkout(folder / ODD / "kit")
    yield found
    found.run("--stop", DRAIN_TIMEOUT="0")
    assert found.all_gone()


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The single line of stderr of a run that ended with a mistake of the user."""
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]
