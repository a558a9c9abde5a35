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
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import nibabel
import numpy as np
import requests
from numpy.typing import NDArray

from handlers.context import LocalContext
from handlers.entry import Entry
from repack import archive
from tests.support.servers import serving, settings_for

LEAST_DICE = 0.999
REPACK = Path(__file__).resolve().parents[2] / "repack" / "model_repack.py"


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


Ask = Callable[[Sequence[Path]], bytes]
"""A case's files to the answer's bytes."""


@contextmanager
def locally(packed: Path, work: Path) -> Iterator[Ask]:
    """The archive's own handler in this process."""
    archive.unpack(packed, work / packed.stem)
    context = LocalContext(work / packed.stem)
    entry = Entry()
    entry.initialize(context)

    def ask(files: Sequence[Path]) -> bytes:
        parts = {f"{i}": bytearray(file.read_bytes()) for i, file in enumerate(files)}
        (answer,) = entry.handle([{"body": parts["0"]} if len(parts) == 1 else parts], context)
        if context.statuses != [200]:
            raise SystemExit(f"error: {packed.name}: {answer[:300].decode()}")
        return answer

    yield ask


@contextmanager
def served(packed: Path, work: Path) -> Iterator[Ask]:
    """The archive in a real TorchServe, asked over HTTP."""
    settings = settings_for(packed.parent, work / f"run-{packed.stem}", name=packed.stem)
    url = f"http://127.0.0.1:{settings.port}/predictions/{packed.stem}"

    def ask(files: Sequence[Path]) -> bytes:
        if len(files) == 1:
            answer = requests.post(url, data=files[0].read_bytes(), headers=BINARY, timeout=300)
        else:
            form = {f"{i}": (file.name, file.read_bytes()) for i, file in enumerate(files)}
            answer = requests.post(url, files=form, timeout=300)
        if answer.status_code != 200:
            raise SystemExit(f"error: {packed.name}: {answer.text[:300]}")
        return answer.content

    with serving(settings):
        yield ask


BINARY = {"Content-Type": "application/octet-stream"}


def answered(
    reference: Reference,
    work: Path,
    form: Sequence[str] = ("torchscript", "f32"),
    way: Callable[[Path, Path], AbstractContextManager[Ask]] = locally,
) -> Iterator[tuple[str, Mapping[int, float], bool]]:
    """Case, Dice per label, and whether the grid is the scan's, of the kit's own archive."""
    backend, precision = form
    name = reference.name.replace("_", "-")
    store = work / f"store-{name}"
    flags = [*reference.flags, "--name", name, "--model-store", str(store)]
    command = [sys.executable, str(REPACK), *flags, "--backend", backend, "--precision", precision]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    with way(Path(done.stdout.strip()), work) as ask:
        for files, expected in reference.cases:
            (work / "mask.nii.gz").write_bytes(ask(files))
            mask, scan = opened(work / "mask.nii.gz"), opened(files[0])
            theirs = np.asarray(opened(expected).dataobj).astype(int)
            ours = np.asarray(mask.dataobj).astype(int)
            grid = bool(np.allclose(mask.affine, scan.affine, atol=1e-4))
            yield expected.name, dice(ours, theirs), grid


def opened(path: Path) -> Any:
    """A NIfTI as nibabel has it."""
    return nibabel.load(path)


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
    given.add_argument("--served", action="store_true", help="through a real TorchServe")
    options = given.parse_args()
    good, way = True, served if options.served else locally
    with tempfile.TemporaryDirectory() as tmp:
        for reference in {"nnunet": nnunet, "monai": monai}[options.package](options.folder):
            for case, found, grid in answered(reference, Path(tmp), options.form.split(","), way):
                fine = bool(found) and min(found.values()) >= LEAST_DICE and grid
                good = good and fine
                shown = ", ".join(f"{label}: {value:.5f}" for label, value in found.items())
                place = "" if grid else ", ANOTHER GRID"
                print(f"{reference.name} {case}: Dice {shown}{place}{'' if fine else '  DIFFERS'}")
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
