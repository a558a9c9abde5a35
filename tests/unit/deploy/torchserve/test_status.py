"""What --status shows of what it found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from deploy.torchserve import status
from deploy.torchserve.settings import ROOT


def version(**other: Any) -> dict[str, Any]:
    found = {
        "guest": False, "backend": "onnxruntime", "precision": "f32", "fallback": None,
        "workers": [{"process": 7, "status": "READY", "memory_mib": 111}],
        "batch_size": 4, "waiting": 2,
    }  # fmt: skip
    return found | other


def test_what_degrades_and_what_is_not_proven_is_said() -> None:
    none: dict[str, Any] = {"backend": None, "precision": None, "workers": []}
    models = {
        "fd1": {
            "default": "2.0",
            "versions": {"2.0": version(fallback="no bf16 here"), "1.0": version()},
        },
        "stock": {"default": "1.0", "versions": {"1.0": version(guest=True, **none)}},
    }
    found = {
        "process": 1, "since": "today", "guard": False, "models": models,
        "addresses": {"predictions": "127.0.0.1:8080"}, "logs": "logs",
    }  # fmt: skip
    assert status.lines(found) == [
        "running since today, process 1",
        "the guard has ended, so nothing is answered: bash run.sh --stop, then start",
        "fd1 2.0: onnxruntime, f32, batch 4, 2 waiting",
        "  FALLBACK: no bf16 here",
        "  worker 7: READY, 111 MiB",
        "fd1 1.0, not the default: onnxruntime, f32, batch 4, 2 waiting",
        "  worker 7: READY, 111 MiB",
        "stock 1.0: batch 4, 2 waiting",
        "  a guest: not proven",
        "predictions: 127.0.0.1:8080",
        "logs: logs",
    ]


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, str(ROOT / "deploy" / "torchserve" / "serve.py"), "--status"]
    done = subprocess.run(
        [*command, "--run-dir", str(tmp_path)], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")
