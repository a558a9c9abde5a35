"""Builds the images with buildah, and runs one as a container engine would, without one.

Each box has its own process, mount and network namespace: the image's entry point is process 1, the
root is read-only, and the default ports are free. Needs root, and Debian's packages for a base.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("buildah", "mmdebstrap", "unshare", "nsenter", "ip", "mount", "chroot", "curl")
UID = 10001
ADDRESS = "192.0.2.10"
"""The box's own address besides loopback (RFC 5737), where a published port would lead."""

PIP_KEPT = ("index-url", "extra-index-url", "find-links")

ENTER = f"""
ip link set lo up
ip address add {ADDRESS}/32 dev lo
mount --make-rprivate /
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount --rbind /sys "$1/sys"
mount -t tmpfs -o mode=1777,nosuid,noexec tmpfs "$1/tmp"
mount --bind "$2" "$1/models"
shift 2
exec "$@"
"""


def missing() -> str | None:
    """Why no image can be built here, or None."""
    lacking = [tool for tool in TOOLS if not shutil.which(tool)]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    if os.geteuid() != 0:
        return "needs root"
    done = subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], check=False)
    return None if done.returncode == 0 else "namespaces cannot be made here"


@dataclass(frozen=True)
class Buildah:
    """buildah with a storage of its own, so that all it made is gone with the folder."""

    folder: Path

    def __call__(self, *arguments: str | Path) -> str:
        """Runs one command; returns what it printed.

        Raises:
            RuntimeError: it failed; the end of what it said.
        """
        place = [f"--root={self.folder}/storage", f"--runroot={self.folder}/run"]
        done: subprocess.CompletedProcess[str] = subprocess.run(
            ["buildah", *place, *arguments],
            cwd=ROOT,
            env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(
                f"buildah {arguments[0]}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
            )
        return done.stdout.strip()

    def build(self, file: str, tag: str, base: str, *options: str | Path) -> str:
        """Builds a Dockerfile of the checkout on a base; returns what the build said."""
        argument = f"BASE=localhost/{base}"
        common = ["bud", "--format", "docker", "-f", file, "-t", tag, "--build-arg", argument]
        return self(*common, *options, ".")

    def debian(self, tag: str) -> None:
        """Makes an image of a minimal Debian 12, Python not among its packages."""
        root = self.folder / "root"
        subprocess.run(
            ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "bookworm", root],
            check=True,
        )
        made = self("from", "scratch")
        self("add", "--quiet", made, root, "/")
        self("commit", "--quiet", "--rm", made, f"localhost/{tag}")
        shutil.rmtree(root)


def pip_settings() -> dict[str, str]:
    """This machine's pip configuration, its environment variables over its files."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, str] = {}
    for line in sorted(done.stdout.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, text = line.partition("=")
        found[name.rpartition(".")[2]] = str(ast.literal_eval(text))
    return found


def pip_options(folder: Path) -> list[str | Path]:
    """Hands this machine's pip settings to a build: as secrets, local folders as volumes."""
    settings = pip_settings()
    lines = [f"{k} = {' '.join(settings[k].split())}\n" for k in PIP_KEPT if k in settings]
    (folder / "pip.conf").write_text("[global]\n" + "".join(lines))
    options: list[str | Path] = ["--secret", f"id=pip,src={folder / 'pip.conf'}"]
    if certificates := settings.get("cert"):
        options += ["--secret", f"id=ca,src={certificates}"]
    for word in " ".join(lines).split():
        parts = urlsplit(word)
        path = Path(parts.path)
        if parts.scheme in ("", "file") and path.is_absolute() and path.is_dir():
            shared = path.parent if parts.scheme else path  # an index links to files beside it
            options += ["--volume", f"{shared}:{shared}:ro"]
    return options


@dataclass
class Box:
    """A running container.

    Attributes:
        process: ``unshare``, which ends with the box's process 1 and has its exit status.
        config: the image's configuration, as ``docker inspect`` names it.
    """

    process: subprocess.Popen[str]
    config: Mapping[str, Any]

    @property
    def first(self) -> psutil.Process:
        """Process 1 of the box."""
        return psutil.Process(self.process.pid).children()[0]

    def processes(self) -> list[psutil.Process]:
        return [self.first, *self.first.children(recursive=True)]

    def ask(self, *arguments: str) -> tuple[int, bytes]:
        """Runs curl inside the box's network; returns the HTTP status (0: none) and the body."""
        enter = ["nsenter", "-t", str(self.first.pid), "--net"]
        command = [*enter, "curl", "-sS", "-m", "30", "-w", "\n%{http_code}", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        body, _, status = done.stdout.rpartition(b"\n")
        return int(status or 0), body

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command as ``docker exec`` does: same user, environment and working folder."""
        enter = ["nsenter", "-t", str(self.first.pid), "--mount", "--pid", "--net", "--root"]
        enter += ["-S", str(UID), "-G", str(UID)]
        full = [*enter, *in_environment(self.config, {}), *command]
        return subprocess.run(full, capture_output=True, text=True, check=False, timeout=60)

    def health(self) -> subprocess.CompletedProcess[str]:
        """Runs the image's own health check."""
        kind, *command = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.execute(*command)

    def wait_healthy(self, limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while self.process.poll() is None and time.monotonic() < end:
            if self.health().returncode == 0:
                return
            time.sleep(1)
        raise AssertionError("not healthy in time" if self.process.poll() is None else "ended")


def in_environment(config: Mapping[str, Any], variables: Mapping[str, str]) -> list[str]:
    """The start of a command line that gives the image's environment and working folder."""
    given = [f"{key}={value}" for key, value in variables.items()]
    return ["env", "-i", f"--chdir={config['WorkingDir']}", *config["Env"], *given]


def is_entered(isolator: int, program: str) -> bool:
    """Whether the box's process 1 has become the image's program."""
    children = psutil.Process(isolator).children()
    return bool(children) and children[0].name() == program


@contextmanager
def running(
    root: Path, config: Mapping[str, Any], store: Path, log: Path, **variables: str
) -> Iterator[Box]:
    """Starts the image's entry point; all is gone afterwards."""
    user, _, group = str(config["User"]).partition(":")
    assert user.isdecimal(), "the image's user is a number"
    isolate = ["unshare", "--mount", "--pid", "--net", "--fork"]
    enter = ["sh", "-ec", ENTER, "sh", str(root), str(store)]
    inside = ["chroot", f"--userspec={user}:{group}", str(root)]
    entry: Sequence[str] = [*config["Entrypoint"], *(config.get("Cmd") or ())]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*isolate, *enter, *inside, *in_environment(config, variables), *entry],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        while process.poll() is None and not is_entered(process.pid, entry[0]):
            time.sleep(0.05)
        yield Box(process, config)
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children():
                child.kill()  # process 1: the kernel ends all others of its namespace with it
        process.wait(30)


def configuration(buildah: Buildah, image: str) -> dict[str, Any]:
    """What the image's Dockerfile set, in Docker's own names."""
    described = json.loads(buildah("inspect", "--type", "image", image))
    found: dict[str, Any] = described["Docker"]["config"]
    return found
