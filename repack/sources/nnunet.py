"""nnU-Net v2: a results folder as training leaves it, one fold or an ensemble of folds.

The networks come from `dynamic-network-architectures`, which nnU-Net itself uses; its classes and
the layers they are told to use are on an allow-list, and nothing else of the plans is imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from repack.networks.ensemble import Mean
from repack.progress import say
from repack.sources import nnunet_plans as plans_of
from repack.sources.checkpoint import read_checkpoint
from repack.sources.checks import check_tensors
from repack.sources.content import Kind, sniff
from repack.sources.errors import UnreadableFile, UnsupportedLayout, printable
from repack.sources.facts import Facts, read
from repack.sources.nnunet_places import CHECKPOINT
from repack.sources.source import Source, sha256_of_files
from repack.sources.state_dict import without_wrapper
from repack.sources.weights import find_weights

PACKAGE = "dynamic-network-architectures==0.4.4"

NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
LAYERS = {
    "conv_op": ("Conv2d", "Conv3d"),
    "norm_op": ("InstanceNorm2d", "InstanceNorm3d", "BatchNorm2d", "BatchNorm3d"),
    "dropout_op": ("Dropout", "Dropout2d", "Dropout3d"),
    "nonlin": ("LeakyReLU", "ReLU", "GELU", "SiLU", "ELU", "PReLU"),
}
"""Arguments of the networks that name a class of ``torch.nn``, and the ones they may name."""

BLOCKS = ("BasicBlockD", "BottleneckD")

SAME_NETWORK = re.compile(
    r"nnUNetTrainer(_\d+epochs?|NoDeepSupervision|_NoMirroring|NoMirroring|DA5|BN)?"
)
"""Trainers that build the network of the plans."""


@dataclass(frozen=True)
class Fold:
    """One trained fold, read without running its pickle.

    Attributes:
        file: the checkpoint.
        tensors: of the network, by state-dict name.
        configuration: "3d_fullres" and the like.
        trainer: the training class's name.
        mirror: axes of the patch that the training mirrored.
    """

    file: Path
    tensors: Mapping[str, Tensor]
    configuration: str
    trainer: str
    mirror: tuple[int, ...]


def load(folder: Path, folds: Sequence[str] | None = None, mirror: bool = False) -> Source:
    """The network of a results folder, in evaluation mode, without deep supervision.

    Args:
        folder: holds plans.json, dataset.json and fold_*/checkpoint_final.pth.
        folds: "0", "1", ..., "all"; None takes every numbered fold there. Several answer with the
            mean of their logits, as nnU-Net's predictor does.
        mirror: answer with the mean over mirrored windows, as nnU-Net's predictor does by default;
            4 (2-D) to 8 (3-D) times the work.

    Raises:
        SourceError: one line; what is missing, damaged, or not what the kit's handler does.
    """
    plans = Facts(folder / "plans.json", read(folder / "plans.json"))
    dataset = Facts(folder / "dataset.json", read(folder / "dataset.json"))
    folds_read = [_read(file) for file in _files(folder, folds)]
    first = folds_read[0]
    for fold in folds_read[1:]:
        if fold.configuration != first.configuration:
            raise UnsupportedLayout(
                fold.file,
                f"configuration {fold.configuration}, fold {first.file.parent.name} "
                f"has {first.configuration}",
            )
    facts = plans_of.configuration(plans, first.configuration)
    settings = plans_of.settings(plans, facts, dataset)
    answer, labels, values, outputs = plans_of.answer(dataset)
    settings |= {"answer": answer, "label_values": values}
    if mirror:
        settings["windows"]["mirror"] = [a for a in first.mirror if a < len(settings["patch"])]
    name, arguments = plans_of.architecture(facts)
    channels = len(settings["channels"])
    members = [_network(facts, name, arguments, (channels, outputs), fold) for fold in folds_read]
    module = members[0] if len(members) == 1 else Mean(members)
    module.eval().requires_grad_(False)
    files = [plans.path, dataset.path, *(fold.file for fold in folds_read)]
    which = ", ".join(fold.file.parent.name for fold in folds_read)
    network = f"{name.rpartition('.')[2]} {first.configuration}, {which}"
    digest = sha256_of_files(folder, files)
    return Source(
        module, "nnunet", network, labels, folder, digest, "segmentation", settings=settings
    )


def _files(folder: Path, folds: Sequence[str] | None) -> list[Path]:
    there = sorted(p.parent.name for p in folder.glob(f"fold_*/{CHECKPOINT}"))
    names = [f"fold_{fold}" for fold in folds or ()]
    if not names:
        names = [name for name in there if name != "fold_all"] or there
    if not names:
        others = sorted({p.name for p in folder.glob("fold_*/checkpoint_*.pth")})
        there_is = f" (there is {', '.join(others)})" if others else ""
        raise UnreadableFile(folder, f"no fold_*/{CHECKPOINT}{there_is}: has the training ended?")
    missing = [name for name in names if name not in there]
    if missing:
        have = ", ".join(there) or "none"
        raise UnreadableFile(folder, f"no {missing[0]}/{CHECKPOINT}; there is {have}")
    return [folder / name / CHECKPOINT for name in names]


def _read(file: Path) -> Fold:
    if sniff(file) is not Kind.CHECKPOINT:
        raise UnreadableFile(file, f"a {sniff(file).value} file, expected nnU-Net's checkpoint")
    weights = find_weights(file, read_checkpoint(file))
    around = Facts(file, weights.around)
    axes = around.data.get("inference_allowed_mirroring_axes") or ()
    if not isinstance(axes, list | tuple) or not all(a in (0, 1, 2) for a in axes):
        raise around.wrong("inference_allowed_mirroring_axes", axes, "axes of the patch")
    return Fold(
        file,
        without_wrapper(weights.tensors),
        around.within("init_args").text("configuration"),
        around.text("trainer_name"),
        tuple(int(a) for a in axes),
    )


def _network(
    facts: Facts, name: str, arguments: Mapping[str, Any], channels: tuple[int, int], fold: Fold
) -> nn.Module:
    """The plans' network with one fold's tensors; built without storage, filled from the file."""
    if not SAME_NETWORK.fullmatch(fold.trainer):
        say(
            f"    note: {printable(fold.file)}: trained by {printable(fold.trainer, 60)}, which "
            "the kit does not know; the network is that of the plans"
        )
    kind, given = _class(facts, name), _resolved(facts, arguments)
    given |= {"deep_supervision": False}
    try:
        with torch.device("meta"):
            module: nn.Module = kind(input_channels=channels[0], num_classes=channels[1], **given)
    except Exception as error:  # the package raises many types for arguments that do not fit
        raise facts.wrong(
            "architecture", printable(error, 160), f"arguments that {kind.__name__} takes"
        ) from None
    check_tensors(fold.file, f"the plans' {kind.__name__}", module.state_dict(), fold.tensors)
    own = {key: tensor.float() for key, tensor in fold.tensors.items()}
    module.load_state_dict(own, strict=True, assign=True)
    return module


def _class(facts: Facts, name: str) -> Any:
    package, _, short = name.rpartition(".")
    if short not in NETWORKS or package.partition(".")[0] not in ("", _MODULE):
        raise facts.wrong("network_class_name", name, f"{_MODULE}'s {' or '.join(NETWORKS)}")
    return getattr(_package(facts.path, "architectures.unet"), short)


_MODULE = "dynamic_network_architectures"


def _package(path: Path, part: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"{_MODULE}.{part}")
    except ImportError as error:
        raise UnsupportedLayout(
            path,
            f"nnU-Net's networks need a package that is not installed ({printable(error, 80)}): "
            f"pip install --no-deps {PACKAGE}",
        ) from error


def _resolved(facts: Facts, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with classes in place of their names, where a name is expected."""
    given = dict(arguments)
    for key, known in LAYERS.items():
        name = given.get(key)
        if name is None:
            continue
        package, _, short = str(name).rpartition(".")
        if short not in known or not f"{package}.".startswith("torch.nn."):
            raise facts.wrong(key, name, f"torch.nn's {', '.join(known)}")
        given[key] = getattr(nn, short)
    if given.get("block") is not None:
        package, _, short = str(given["block"]).rpartition(".")
        if short not in BLOCKS or package.partition(".")[0] != _MODULE:
            raise facts.wrong("block", given["block"], f"{_MODULE}'s {' or '.join(BLOCKS)}")
        given["block"] = getattr(_package(facts.path, "building_blocks.residual"), short)
    return given
