"""What of nnU-Net's a path may be: a results folder, something around or inside of one, or another
of its files, which is named with what to give instead."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath

from repack.sources.content import zip_names
from repack.sources.errors import UnsupportedLayout

CHECKPOINT = "checkpoint_final.pth"
RESULTS = ("plans.json", "dataset.json")
V1_FILES = ("plans.pkl", "model_final_checkpoint.model", "model_best.model")

V1 = (
    "is of nnU-Net v1, which the kit does not read: train with nnunetv2, or export the network to "
    "ONNX or TorchScript and give that with --volumes"
)


def is_results(folder: Path) -> bool:
    """Whether a folder looks like nnU-Net's results of one configuration."""
    return all((folder / name).is_file() for name in RESULTS)


def found(path: Path) -> tuple[Path, str | None] | None:
    """The results folder that ``path`` stands for, and the fold where it is one; None where it is
    nothing of nnU-Net's.

    A dataset's folder stands for its only configuration, a fold's folder and its final checkpoint
    for that fold.

    Raises:
        UnsupportedLayout: something else of nnU-Net's; one line says what to give instead.
    """
    if path.is_file():
        return _file(path)
    if not path.is_dir():
        return None
    if is_results(path):
        return path, None
    if path.name.startswith("fold_") and is_results(path.parent):
        return path.parent, path.name.removeprefix("fold_")
    inside = [
        p.parent for pattern in ("*", "*/*") for p in sorted(path.glob(f"{pattern}/plans.json"))
    ]
    inside = [folder for folder in inside if is_results(folder)]
    if len(inside) == 1 and inside[0].parent == path:
        return inside[0], None
    if inside:
        shown = ", ".join(str(folder.relative_to(path)) for folder in inside[:4])
        raise UnsupportedLayout(
            path, f"a folder of {len(inside)} nnU-Net results: give one of them, such as {shown}"
        )
    if any((path / name).is_file() for name in V1_FILES):
        raise UnsupportedLayout(path, f"a folder that {V1}")
    kinds = {"imagesTr": "raw data", "dataset_fingerprint.json": "preprocessed data"}
    kind = next((what for name, what in kinds.items() if (path / name).exists()), None)
    if kind and (path / "dataset.json").is_file():
        raise UnsupportedLayout(
            path, f"nnU-Net's {kind}, without a trained network: give the folder of its results"
        )
    return None


def _file(path: Path) -> tuple[Path, str | None] | None:
    results = path.parent.parent
    if path.parent.name.startswith("fold_") and is_results(results) and path.suffix == ".pth":
        if path.name == CHECKPOINT:
            return results, path.parent.name.removeprefix("fold_")
        raise UnsupportedLayout(
            path, f"a checkpoint of a training that went on: give {CHECKPOINT}, or {results}"
        )
    if path.name in V1_FILES or path.name.endswith(".model.pkl"):
        raise UnsupportedLayout(path, f"a file that {V1}")
    for folder in _packed(path):
        raise UnsupportedLayout(
            path, f"nnU-Net's export of a model: unpack it (unzip) and give {folder} of it"
        )
    return None


def _packed(path: Path) -> list[PurePosixPath]:
    """The results folders inside of a zip."""
    names = {PurePosixPath(name) for name in zip_names(path) or ()}
    folders = sorted(name.parent for name in names if name.name == RESULTS[0])
    return [folder for folder in folders if folder / RESULTS[1] in names]


def refuse_alone(path: Path, keys: Collection[str]) -> None:
    """Refuses a checkpoint of nnU-Net's without what lies around it.

    Args:
        keys: of the dictionary in the file.
    """
    if {"trainer_name", "init_args"} <= set(keys):
        raise UnsupportedLayout(
            path,
            "an nnU-Net checkpoint alone: how it prepares volumes is in plans.json and "
            f"dataset.json; give the results folder, which holds them beside fold_*/{CHECKPOINT}",
        )
    if "plot_stuff" in keys:
        raise UnsupportedLayout(path, f"a checkpoint that {V1}")
