"""Compares the kit's masks with those of nnunetv2 and of MONAI; exit code 3 where they differ.

Runs in the kit's environment, from the project's root, on what ``make_nnunet_reference.py`` and
``make_monai_reference.py`` wrote:

    python tests/parity/compare_segmentation.py nnunet FOLDER
    python tests/parity/compare_segmentation.py monai FOLDER

Each reference is repacked by ``model_repack.py``, its archive unpacked, and each unseen case
answered by the archive's own handler: from the scan's file to the mask's file. Dice must be at
least 0.999 for every label, and the mask's affine that of the scan.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import nibabel
import numpy as np
from numpy.typing import NDArray

from handlers.context import LocalContext
from handlers.entry import Entry
from repack import archive, flow
from repack.cli import parse

LEAST_DICE = 0.999


@dataclass(frozen=True)
class Reference:
    """One trained model of another package, with that package's masks.

    Attributes:
        flags: for ``model_repack.py``.
        cases: the files of each unseen case, one per channel, and the expected mask.
    """

    name: str
    flags: Sequence[str]
    cases: Sequence[tuple[Sequence[Path], Path]]


def nnunet(folder: Path) -> Iterator[Reference]:
    """What ``make_nnunet_reference.py`` wrote: a folder of masks per model and choice of folds."""
    for masks in sorted((folder / "masks").iterdir()):
        dataset, plans, configuration, folds, *mirror = masks.name.split("__")
        results = folder / "results" / dataset / f"nnUNetTrainer__{plans}__{configuration}"
        flags = ["--weights", str(results), "--folds", ",".join(folds.removeprefix("folds"))]
        flags += ["--mirror", "1"] if mirror else []
        cases = [
            (sorted((folder / "cases" / dataset).glob(mask.name.replace(".nii", "_*.nii"))), mask)
            for mask in sorted(masks.glob("*.nii.gz"))
        ]
        yield Reference(masks.name, flags, cases)


def monai(folder: Path) -> Iterator[Reference]:
    """What ``make_monai_reference.py`` wrote: a folder of masks per bundle."""
    for masks in sorted((folder / "masks").iterdir()):
        cases = [([folder / "cases" / m.name], m) for m in sorted(masks.glob("*.nii.gz"))]
        yield Reference(masks.name, ["--weights", str(folder / masks.name)], cases)


def answered(
    reference: Reference, work: Path, form: Sequence[str] = ("torchscript", "f32")
) -> Iterator[tuple[str, Mapping[int, float], bool]]:
    """Case, Dice per label, and whether the grid is the scan's, of the kit's own archive."""
    backend, precision = form
    name = reference.name.replace("_", "-")
    flags = [*reference.flags, "--name", name, "--model-store", str(work / "store")]
    packed = flow.repack(parse([*flags, "--backend", backend, "--precision", precision]))
    archive.unpack(packed, work / name)
    context = LocalContext(work / name)
    entry = Entry()
    entry.initialize(context)
    for files, expected in reference.cases:
        parts = {f"{i}": bytearray(file.read_bytes()) for i, file in enumerate(files)}
        row = {"body": parts["0"]} if len(parts) == 1 else parts
        context.begin()
        (answer,) = entry.handle([row], context)
        if context.statuses != [200]:
            raise SystemExit(f"error: {reference.name}: {answer[:300].decode()}")
        (work / "mask.nii.gz").write_bytes(answer)
        mask, scan = nibabel.load(work / "mask.nii.gz"), nibabel.load(files[0])
        theirs = np.asarray(nibabel.load(expected).dataobj).astype(int)
        ours = np.asarray(mask.dataobj).astype(int)
        yield (
            expected.name,
            dice(ours, theirs),
            bool(np.allclose(mask.affine, scan.affine, atol=1e-4)),
        )


def dice(ours: NDArray[np.int_], theirs: NDArray[np.int_]) -> dict[int, float]:
    """By label value, of all labels that either has."""
    labels = sorted({*np.unique(ours), *np.unique(theirs)} - {0})
    return {
        int(v): 2
        * int(((ours == v) & (theirs == v)).sum())
        / int((ours == v).sum() + (theirs == v).sum())
        for v in labels
    }


def main() -> int:
    """Prints one line per case; 3 where one is below the limit."""
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    given.add_argument("package", choices=["nnunet", "monai"])
    given.add_argument("folder", type=Path)
    given.add_argument("--form", default="torchscript,f32", help="backend,precision")
    options = given.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as tmp:
        for reference in {"nnunet": nnunet, "monai": monai}[options.package](options.folder):
            for case, found, grid in answered(reference, Path(tmp), options.form.split(",")):
                fine = bool(found) and min(found.values()) >= LEAST_DICE and grid
                good = good and fine
                shown = ", ".join(f"{label}: {value:.5f}" for label, value in found.items())
                place = "" if grid else ", ANOTHER GRID"
                print(f"{reference.name} {case}: Dice {shown}{place}{'' if fine else '  DIFFERS'}")
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
