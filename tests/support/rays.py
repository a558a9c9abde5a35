"""A real Ray: its environment, networks of their own, and the kit served there."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements-ray.txt"
NEW_NETWORK = 0x40000000
LONGEST_START = 120.0
"""Seconds."""


@cache
def python() -> Path:
    """An interpreter with Ray and this one's packages, made where there is none; else skips."""
    wanted = REQUIREMENTS.read_text(encoding="utf-8")
    name = f"kit-with-ray-{os.getuid()}-{sysconfig.get_python_version()}"
    folder = Path(tempfile.gettempdir()) / name
    ready, found = folder / "ready", folder / "bin" / "python"
    if ready.is_file() and ready.read_text(encoding="utf-8") == f"{sys.prefix}\n{wanted}":
        return found
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)  # ours, and no one else's
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(found), "-m", "pip", "install", "-q", "--no-deps", "-r", str(REQUIREMENTS)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"Ray is not to be had: {(done.stderr.strip() or '?').splitlines()[-1]}")
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "kit.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    ready.write_text(f"{sys.prefix}\n{wanted}", encoding="utf-8")
    return found


@contextmanager
def network() -> Iterator[None]:
    """A network with nothing but loopback, for this thread and what it starts; else skips."""
    python()  # from here on there is no package index
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/net").open() as before:
        if libc.unshare(NEW_NETWORK):
            pytest.skip(f"a network of its own: {os.strerror(ctypes.get_errno())}")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            libc.setns(before.fileno(), NEW_NETWORK)


@dataclass(frozen=True)
class Reply:
    """Status, headers in small letters, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> object:
        return json.loads(self.body)


def ask(
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
    method: str | None = None,
) -> Reply:
    """One request, by a client without habits of its own."""
    given = {"Content-Type": "", **headers} if body is not None else dict(headers)
    request = urllib.request.Request(url, body, given, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return Reply(answer.status, _small(answer.headers.items()), answer.read())
    except urllib.error.HTTPError as e:
        return Reply(e.code, _small(e.headers.items()), e.read())


def _small(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    return {k.lower(): v for k, v in headers}


@dataclass
class Served:
    """``python -m deploy.ray`` in the background.

    Attributes:
        log: what it has printed.
    """

    process: subprocess.Popen[bytes]
    log: Path
    port: int
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def command(*flags: str | Path) -> list[str]:
    return [str(python()), "-m", "deploy.ray", *map(str, flags)]


def run(*flags: str | Path, seconds: float = 180) -> subprocess.CompletedProcess[str]:
    """``python -m deploy.ray`` to its end."""
    return subprocess.run(
        command(*flags), capture_output=True, text=True, check=False, cwd=ROOT, timeout=seconds
    )


@contextmanager
def serving(folder: Path, store: Path, *flags: str | Path, port: int = 21000) -> Iterator[Served]:
    """Serves a store on a cluster of its own; ends it afterwards."""
    log = folder / "ray.log"
    line = command("--model-store", store, "--port", str(port), *flags)
    with log.open("wb") as out:
        process = subprocess.Popen(line, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
    served = Served(process, log, port)
    try:
        end = time.monotonic() + LONGEST_START
        while "serving until Ctrl-C" not in served.said():
            assert process.poll() is None, served.said()
            assert time.monotonic() < end, served.said()
            time.sleep(0.2)
        yield served
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
