"""The peak memory of a 256x256x128 CT, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import volumes

ROOT = Path(__file__).resolve().parents[4]
SHAPE = (128, 256, 256)

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from handlers.context import LocalContext
from handlers.passport import Passport
from handlers.runtimes import Loaded
from handlers.runtimes.base import Runtime
from handlers.segmentation import SegmentationHandler

class Net(Runtime):
    name = "none"
    def activate(self): ...
    def infer(self, inputs, every=False):
        (x,) = inputs.values()
        return {"OUTPUT__0": np.concatenate([x, -x], 1)}

def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(what)).split()[1]) << 10

passport = Passport.from_json(Path(sys.argv[1]).read_text())
artefact = passport.artefacts["portable"]
handler = SegmentationHandler(passport, Loaded(Net(Path(), artefact, passport.inputs), artefact))
context = LocalContext(Path())
handler.handle([{"body": Path(sys.argv[2]).read_bytes()}], context)
before = memory("VmRSS:")
body = bytearray(Path(sys.argv[3]).read_bytes())
handler.handle([{"body": body}], context)
assert context.statuses == [200], context.statuses
print(memory("VmHWM:") - before, context.response_headers[0]["X-Memory-Needed-Bytes"])
"""


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("spacing", [None, [1.5, 1.2, 1.2]])
def test_at_most_three_times_the_volume(
    tmp_path: Path, dtype: str, spacing: list[float] | None
) -> None:
    """The compressed file, reading, preparing, windows, mask and answer, beside the process."""
    rng = np.random.default_rng(1)
    voxels = (rng.normal(0, 9, SHAPE) + np.arange(256) * 5).astype(dtype)
    settings = volumes.settings(patch=[96, 96, 96], label_values=[0, 1], spacing=spacing)
    record = volumes.passport(settings, ("background", "vessel"), k=2)
    (tmp_path / "passport.json").write_text(record.to_json())
    (tmp_path / "small.nii.gz").write_bytes(volumes.nifti(voxels[:8, :8, :8], np.eye(4)))
    (tmp_path / "large.nii.gz").write_bytes(volumes.nifti(voxels, np.eye(4)))
    files = [str(tmp_path / n) for n in ("passport.json", "small.nii.gz", "large.nii.gz")]
    command = [sys.executable, "-c", PROGRAM, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak, needed = map(int, done.stdout.split())
    volume = 4 * voxels.size
    print(f"{dtype}, spacing {spacing}: {peak / volume:.2f} times the volume")
    assert volume < needed < 3 * volume
    assert peak < 3 * volume
