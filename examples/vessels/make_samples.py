"""Write synthetic scans and windows for the kit's commands.

    python examples/vessels/make_samples.py --scans out/scans --count 2 --shape 128 256 256
    python examples/vessels/make_samples.py --windows out/windows --count 8 --seed 4

Scans are NIfTI files of int16 Hounsfield units (for curl and qpstest); windows are normalised
arrays as the network takes them (for ``--calibration`` and ``--samples`` of model_repack.py).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from examples.vessels.cases import Case, Shape, case
from examples.vessels.plain import PATCH, normalised

SAMPLES_SEED, CALIBRATION_SEED = 3, 4
"""Series that neither training nor the held-out figures use."""


def nifti(made: Case) -> nib.Nifti1Image:
    """The scan as NIfTI: x to the right, y to the front, z to the head, from the corner."""
    z, y, x = made.spacing
    image = nib.Nifti1Image(made.scan.transpose(2, 1, 0), np.diag([x, y, z, 1.0]))
    image.header.set_xyzt_units("mm")
    return image


def scans(folder: Path, seed: int, count: int, shape: Shape) -> None:
    """``case00.nii.gz`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        nib.save(nifti(case(seed, index, shape)), folder / f"case{index:02}.nii.gz")


def windows(folder: Path, seed: int, count: int) -> None:
    """``window00.npy`` and so on: ``float32 [1, 1, *PATCH]``, whole cases of the window's size."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        scan = torch.from_numpy(case(seed, index, PATCH).scan)
        np.save(folder / f"window{index:02}.npy", normalised(scan).numpy()[None, None])


def main(arguments: list[str] | None = None) -> None:
    """Write what was asked for."""
    parser = argparse.ArgumentParser(description="Synthetic scans and windows as files.")
    parser.add_argument("--scans", type=Path, metavar="DIR", help="NIfTI files go here")
    parser.add_argument("--windows", type=Path, metavar="DIR", help="the network's inputs go here")
    parser.add_argument("--count", type=int, default=2)
    parser.add_argument("--seed", type=int, default=SAMPLES_SEED, help="series; 1 and 2 are in use")
    parser.add_argument("--shape", type=int, nargs=3, default=PATCH, metavar=("Z", "Y", "X"))
    options = parser.parse_args(arguments)
    if not options.scans and not options.windows:
        parser.error("--scans DIR or --windows DIR was expected")
    if options.scans:
        depth, height, width = options.shape
        scans(options.scans, options.seed, options.count, (depth, height, width))
    if options.windows:
        windows(options.windows, options.seed, options.count)


if __name__ == "__main__":
    main()
