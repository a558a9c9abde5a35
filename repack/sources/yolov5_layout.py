"""Which YOLOv5 a set of tensors is, or why it is none that the kit reads."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from repack.networks.yolov5 import SIZES
from repack.sources import checks
from repack.sources.errors import UnsupportedLayout, printable
from repack.sources.weights import Weights, modules_of

READ = (
    "the kit reads YOLOv5 n, s, m, l and x detectors of releases 6 and 7, and other kinds where "
    "the whole .pt is given"
)
MAX_CLASSES = 100_000
MAX_ANCHORS = 64


@dataclass(frozen=True)
class Layout:
    """One YOLOv5 detector: a key of ``SIZES``, classes, anchors per cell."""

    size: str
    classes: int
    per_cell: int


def canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of the network itself ("model.0.conv.weight").

    Wrappers (data parallel, AutoShape, the bare list of layers) put something before them.
    """
    names = dict(tensors)
    stem = re.compile(r"(.*?)(?:model\.)?0\.conv\.(?:conv\.)?(?:weight|bias)$")
    before = next((m[1] for name in names if (m := stem.match(name))), "")
    if not all(name.startswith(before) for name in names):
        return names
    names = {name[len(before) :]: tensor for name, tensor in names.items()}
    if names and not any(name.startswith("model.") for name in names) and "0.conv.weight" in names:
        names = {f"model.{name}": tensor for name, tensor in names.items()}
    return names


def foreign_layout(tensors: Mapping[str, Tensor]) -> str | None:
    """What the tensors are instead of a YOLOv5 detector of releases 6 and 7, where that shows."""

    def any_name(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in tensors)

    anchors = next((t for n, t in tensors.items() if re.fullmatch(r"model\.\d+\.anchors", n)), None)
    checks = (
        (any_name(r"\.proto\."), "a segmentation head (proto)"),
        (any_name(r"\.dfl\."), "a YOLOv8-style detection head (dfl)"),
        (any_name(r"^model\.\d+\.linear\.weight$"), "a classification head (linear)"),
        (
            any_name(r"^model\.0\.conv\.conv\.(weight|bias)$"),
            "a Focus stem, which is YOLOv5 of release 5 or older",
        ),
        (
            anchors is not None and anchors.ndim == 3 and anchors.shape[0] == 4,
            "four output scales, which is a P6 model (1280 pixels)",
        ),
        (
            fused(tensors),
            "batch norms folded into the convolutions (a fused model): save it before fuse()",
        ),
    )
    return next((meaning for found, meaning in checks if found), None)


def fused(tensors: Mapping[str, Tensor]) -> bool:
    """Whether batch norms are folded into the convolutions."""
    stems = ("model.0.conv.bias", "model.0.conv.conv.bias")
    return any(n in tensors for n in stems) and not any(".bn." in n for n in tensors)


def looks_like_yolo(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a YOLO of some kind, so that its layout is worth naming."""
    return any(re.match(r"model\.0\.conv\.(conv\.)?(weight|bias)$", name) for name in tensors)


def infer(path: Path, tensors: Mapping[str, Tensor]) -> Layout:
    """The layout, from channels, repeats and the head's shapes.

    Raises:
        UnsupportedLayout: it is none of the published ones; the message names what it is.
    """
    foreign = foreign_layout(tensors)
    if foreign is not None:
        raise UnsupportedLayout(path, f"{foreign}; {READ}")
    size = size_of(path, tensors)
    anchors = _tensor(path, tensors, "model.24.anchors", 3)
    head = _tensor(path, tensors, "model.24.m.0.weight", 4)
    scales, per_cell, pair = anchors.shape
    if scales != 3 or pair != 2 or not 1 <= per_cell <= MAX_ANCHORS:
        raise UnsupportedLayout(path, f"anchors of shape {list(anchors.shape)}, expected [3, n, 2]")
    classes, rest = divmod(head.shape[0], per_cell)
    if rest or not 1 <= classes - 5 <= MAX_CLASSES:
        raise UnsupportedLayout(
            path,
            f"a head of {head.shape[0]} channels for {per_cell} anchors, expected "
            f"{per_cell} x (5 + classes)",
        )
    return Layout(size, classes - 5, per_cell)


def size_of(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """The key of ``SIZES``, from channels and repeats.

    Raises:
        UnsupportedLayout: none of them.
    """
    stem = _tensor(path, tensors, "model.0.conv.weight", 4)
    if tuple(stem.shape[2:]) != (6, 6):
        raise UnsupportedLayout(
            path, f"a stem of kernel {list(stem.shape[2:])}, expected [6, 6]; {READ}"
        )
    width = stem.shape[0]
    repeats = len({n.split(".")[3] for n in tensors if re.match(r"model\.2\.m\.\d+\.", n)})
    sizes = {
        (math.ceil(64 * s.width / 8) * 8, max(round(3 * s.depth), 1)): n for n, s in SIZES.items()
    }
    if (width, repeats) not in sizes:
        known = ", ".join(f"{name[-1]} has {c} and {r}" for (c, r), name in sizes.items())
        raise UnsupportedLayout(
            path, f"{width} stem channels and {repeats} repeats in the first C3; {known}"
        )
    return sizes[width, repeats]


def _tensor(path: Path, tensors: Mapping[str, Tensor], name: str, dimensions: int) -> Tensor:
    found = tensors.get(name)
    if found is None:
        some = ", ".join(printable(n, 60) for n in list(tensors)[:3])
        raise UnsupportedLayout(path, f"no tensor {name} among {len(tensors)} ({some}); {READ}")
    if found.ndim != dimensions:
        raise UnsupportedLayout(
            path, f"{name} of shape {list(found.shape)}, expected {dimensions} dimensions"
        )
    return found


def check_strides(path: Path, weights: Weights) -> None:
    """Refuses a whole module whose maps are of other strides than ours.

    Raises:
        UnsupportedLayout: by the strides that it has.
    """
    if weights.root is None:
        return
    heads = (m for prefix, m in modules_of(path, weights.root) if prefix.endswith("model.24."))
    strides = next((checks.numbers(head.state.get("stride")) for head in heads), None)
    if strides is not None and strides != (8.0, 16.0, 32.0):
        raise UnsupportedLayout(path, f"output strides {strides}, expected 8, 16 and 32; {READ}")
