"""A real Ray: its environment, networks of their own, and the kit served there."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest

from tests.support import environments

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements-ray.txt"
NEW_NETWORK = 0x40000000
LONGEST_START = 120.0
"""Seconds."""


def python() -> Path:
    """An interpreter with Ray and this one's packages, made where there is none; else skips."""
    return environments.beside("ray", REQUIREMENTS)


@cache
def variables() -> Mapping[str, str]:
    """The environment of what is started here: with a token of this run, so that Ray neither reads
    one from the home folder nor writes one there."""
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return {**os.environ, **own, "RAY_USAGE_STATS_ENABLED": "0"}


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

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def begun(line: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Begins a program that writes into a log."""
    with log.open("wb") as out:
        return subprocess.Popen(
            line, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=variables()
        )


def wait_said(process: subprocess.Popen[bytes], log: Path, words: str) -> None:
    """Waits until a program has written the words."""
    end = time.monotonic() + LONGEST_START
    while words not in (said := log.read_text(encoding="utf-8", errors="replace")):
        assert process.poll() is None and time.monotonic() < end, said
        time.sleep(0.1)


@contextmanager
def node(
    folder: Path, address: str, head: str = "", cpus: int = 1, port: int = 21700
) -> Iterator[subprocess.Popen[bytes]]:
    """A node of a cluster: the head, or one that joins the ``head`` at HOST:PORT.

    Args:
        folder: for its log.
        address: 127.0.0.1, 127.0.0.2, ...: each is a machine of its own to Ray.
        cpus: how many of them Ray may take it to have.
    """
    short = tempfile.mkdtemp(prefix="r-")  # sockets' names have at most 107 bytes
    role = ["--address", head] if head else ["--head", f"--port={port}", f"--temp-dir={short}"]
    role += [] if head else ["--include-dashboard=false"]
    line = [str(python().parent / "ray"), "start", *role, "--block", f"--num-cpus={cpus}"]
    line += [f"--node-ip-address={address}", "--object-store-memory=200000000"]
    log = folder / f"{address}.log"
    process = begun(line, log)
    try:
        wait_said(process, log, "Ray runtime started")
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()  # asked to end, a node drains for 30 s
        process.kill()
        process.wait()
        shutil.rmtree(short, ignore_errors=True)


def parts(process: subprocess.Popen[bytes], name: str) -> list[psutil.Process]:
    """Processes under this one whose title holds the name, such as "raylet"."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if name in " ".join(child.cmdline()[:1]):
                found.append(child)
    return found


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that was started here, with what it started."""
    children = []
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


def command(*flags: str | Path) -> list[str]:
    return [str(python()), "-m", "deploy.ray", *map(str, flags)]


def run(*flags: str | Path, seconds: float = 180) -> subprocess.CompletedProcess[str]:
    """``python -m deploy.ray`` to its end."""
    return subprocess.run(
        command(*flags),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=seconds,
        env=variables(),
    )


@contextmanager
def serving(folder: Path, store: Path, *flags: str | Path, port: int = 21000) -> Iterator[Served]:
    """Serves a store on a cluster of its own; ends it afterwards."""
    log = folder / "ray.log"
    line = command("--model-store", store, "--port", str(port), *flags)
    process = begun(line, log)
    served = Served(process, log, port)
    try:
        wait_said(process, log, "serving until Ctrl-C")
        yield served
    finally:
        end(process)
