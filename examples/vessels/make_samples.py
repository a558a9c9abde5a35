"""Write synthetic scans as files: for curl, qpstest, and the gate and int8 of model_repack.py.

    python examples/vessels/make_samples.py --out scans --count 2 --shape 128 256 256
    python examples/vessels/make_samples.py --out calibration --count 8 --seed 4

NIfTI files (``case00.nii.gz``, ...) of int16 Hounsfield units; their truth is a function of the
same seed and index, ``examples.vessels.cases.case``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from examples.vessels.cases import Case, Shape, case
from examples.vessels.plain import PATCH

SAMPLES_SEED, CALIBRATION_SEED = 3, 4
"""Series that neither training nor the held-out figures use."""


def nifti(made: Case) -> nib.Nifti1Image:
    """The scan as NIfTI: x to the right, y to the front, z to the head."""
    z, y, x = made.spacing
    image = nib.Nifti1Image(made.scan.transpose(2, 1, 0), np.diag([x, y, z, 1.0]))
    image.header.set_xyzt_units("mm")
    return image


def write(folder: Path, count: int, seed: int = SAMPLES_SEED, shape: Shape = PATCH) -> Path:
    """The first cases of a series as ``case00.nii.gz`` and so on; returns ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        nib.save(nifti(case(seed, index, shape)), folder / f"case{index:02}.nii.gz")
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Write what was asked for."""
    parser = argparse.ArgumentParser(description="Synthetic scans as NIfTI files.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--count", type=int, default=2)
    parser.add_argument("--seed", type=int, default=SAMPLES_SEED, help="series; 1 and 2 are in use")
    parser.add_argument("--shape", type=int, nargs=3, default=PATCH, metavar=("Z", "Y", "X"))
    options = parser.parse_args(arguments)
    depth, height, width = options.shape
    write(options.out, options.count, options.seed, (depth, height, width))


if __name__ == "__main__":
    main()
