"""Measures nvJPEG through torchvision: how many pictures a second, by how many at once.

    python benchmarks/nvjpeg.py [--pictures 64] [--seconds 1]
    python benchmarks/nvjpeg.py --folder DIR

Files of a folder, or 1280x720 scenes at JPEG quality 96. ``handlers.gpu.detector.CHUNK`` comes from
here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks import work  # noqa: E402

BATCHES = (1, 4, 8, 16, 32, 64)


def main() -> None:
    """Decodes batches of each size for a while; prints a table."""
    import torchvision
    from torchvision.io import decode_jpeg

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="decode these files instead")
    parser.add_argument("--seconds", type=float, default=1.0, help="per batch size")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        folder = given.folder or work.pictures(Path(tmp) / "p", given.pictures, 5)
        paths = sorted(folder.iterdir())
        files = [torch.frombuffer(bytearray(p.read_bytes()), dtype=torch.uint8) for p in paths]
    mean = sum(map(len, files)) / len(files) / 1e3
    print(f"{torch.cuda.get_device_name()}, torchvision {torchvision.__version__}, {mean:.0f} KB")
    for batch in BATCHES:
        chosen = [files[i % len(files)] for i in range(batch)]
        for _ in range(3):
            decode_jpeg(chosen, device="cuda")
        torch.cuda.synchronize()
        begin, done = time.perf_counter(), 0
        while time.perf_counter() - begin < given.seconds:
            decode_jpeg(chosen, device="cuda")
            done += batch
        torch.cuda.synchronize()
        print(f"{batch:>3} at once: {done / (time.perf_counter() - begin):,.0f} pictures/s")


if __name__ == "__main__":
    main()
