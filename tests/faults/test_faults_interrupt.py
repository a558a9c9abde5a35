"""Ctrl-C and SIGTERM in the middle of a repack leave the store as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("delay_s", "number"),
    [
        (0.3, signal.SIGTERM),
        (2.0, signal.SIGINT),
        pytest.param(0.3, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(2.0, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_export_writes_nothing(
    tmp_path: Path, number: signal.Signals, delay_s: float
) -> None:
    """PyTorch's exporter catches whatever is raised inside it, the interrupt included."""
    store, work = tmp_path / "store", tmp_path / "work"
    store.mkdir()
    work.mkdir()
    (store / "fd1.mar").write_bytes(b"the old archive")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "repack" / "model_repack.py"), "--imgsz", "64",
         "--model-store", str(store)],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env=os.environ | {"TMPDIR": str(work)},
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "converting to onnxruntime" in line:
                break
        time.sleep(delay_s)
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 128 + number, rest
    assert rest.splitlines()[-1] == "stopped; the model store is as it was"
    assert "Traceback" not in rest
    assert (store / "fd1.mar").read_bytes() == b"the old archive"
    assert [p.name for p in store.iterdir()] == ["fd1.mar"]
    assert list(work.iterdir()) == []


SWALLOWING = """
import os, signal, sys
sys.path[0] = sys.argv[1]
from repack import interrupts
from repack.progress import step
interrupts.listen()
try:
    with step("a library at work"):
        try:
            os.kill(os.getpid(), int(sys.argv[2]))
        except BaseException:
            pass  # as PyTorch's exporter does, now and then
except interrupts.Interrupted as e:
    sys.exit(128 + e.number)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_library_that_swallows_the_signal_does_not_keep_it(number: signal.Signals) -> None:
    command = [sys.executable, "-c", SWALLOWING, str(ROOT), str(int(number))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 128 + number, done.stderr
