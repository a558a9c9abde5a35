from __future__ import annotations

from pathlib import Path

from deploy.torchserve.server import Server
from deploy.torchserve.settings import make
from deploy.torchserve.state import State

USUAL = """WARNING: sun.reflect.Reflection.getCallerClass is not supported.
nvidia-smi not available or failed: Cannot run program "nvidia-smi": Exec failed, error: 2
"""


def test_what_every_start_without_a_gpu_says_is_no_cause(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "java.log"
    server = Server(make({"run_dir": str(tmp_path)}), State(1, 0.0, "", {}, {}))
    log.write_text(USUAL)
    assert server.last_words() == f"see {log.parent}"
    log.write_text(USUAL + "java.lang.OutOfMemoryError: Java heap space\n")
    assert server.last_words() == "java.lang.OutOfMemoryError: Java heap space"
