from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deploy.torchserve.config import HERE

LOADED = "'libtorch' in open('/proc/self/maps').read()"


def run(code: str, *more: Path) -> str:
    """Runs code as a worker would start, with these folders after the worker site."""
    path = os.pathsep.join(str(p) for p in (HERE / "worker_site", *more))
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_worker_does_not_load_torch_until_it_is_used() -> None:
    code = f"""
import sys
import ts.model_service_worker
import ts.protocol.otf_message_handler as protocol
print("torch" in sys.modules, {LOADED})
ids = {{0: "r"}}
assert protocol.create_predict_response([b"bytes"], ids, "ok", 200).count(b"bytes") == 1
print("torch" in sys.modules, {LOADED})
import torch
print(protocol.torch.Tensor is torch.Tensor, {LOADED})
assert len(protocol.create_predict_response([torch.zeros(3)], ids, "ok", 200)) > 100
"""
    assert run(code).splitlines() == ["False False", "False False", "True True"]


def test_torch_that_was_imported_first_stays() -> None:
    code = "import torch; import ts.protocol.otf_message_handler as p; print(p.torch is torch)"
    assert run(code) == "True"


def test_line_per_batch_is_left_out_and_no_other() -> None:
    code = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
logging.info("Backend received inference at: %d", 1)
logging.info("other")
logging.getLogger("a.b").info("[METRICS]x")
"""
    assert run(code).splitlines() == ["other", "[METRICS]x"]


def test_the_machines_own_sitecustomize_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os.environ['SEEN'] = 'yes'\n")
    assert run("import os; print(os.environ.get('SEEN'))", tmp_path) == "yes"
