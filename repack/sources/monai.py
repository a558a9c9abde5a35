"""MONAI bundles: a trained network with its inferer and its transforms, as its config says.

The config is read as data (``repack.sources.bundle``), never executed. The network comes from the
installed `monai` package with the bundle's state dict, or is the bundle's own TorchScript file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from repack.sources import torchscript
from repack.sources.bundle import INFERENCE, METADATA, Bundle, Config
from repack.sources.checkpoint import read_checkpoint
from repack.sources.checks import check_tensors
from repack.sources.errors import UnreadableFile, UnsupportedLayout, printable
from repack.sources.facts import Facts
from repack.sources.monai_transforms import finish, preparation, unused, windows
from repack.sources.source import Source, sha256_of, sha256_of_files
from repack.sources.state_dict import without_wrapper
from repack.sources.weights import find_weights

STATE_DICT, SCRIPT = "models/model.pt", "models/model.ts"

NETWORKS = (
    *("UNet", "BasicUNet", "BasicUNetPlusPlus", "AttentionUnet", "DynUNet", "VNet", "SegResNet"),
    *("SegResNetVAE", "SegResNetDS", "UNETR", "SwinUNETR", "FlexibleUNet", "HighResNet"),
)
"""Classes of ``monai.networks.nets`` that a config may name."""

PACKAGE = "monai==1.6.1"

AXES_ZYX = [2, 1, 0]
"""MONAI's arrays are x, y, z; the kit's are z, y, x."""


def load(path: Path) -> Source:
    """The network of a bundle, its settings out of its config.

    Args:
        path: a bundle's folder, or a zip of it.

    Raises:
        SourceError: one line; what is missing, damaged, or not what the kit's handler does.
    """
    bundle = Bundle(path)
    name = next((n for n in INFERENCE if bundle.has(n)), None)
    if name is None:
        raise UnreadableFile(path, f"a MONAI bundle without {INFERENCE[0]} (or .yaml)")
    config = Config(path / name, bundle.config(name), unused)
    metadata = Facts(path / METADATA, bundle.config(METADATA))
    settings, labels = _settings(config, metadata)
    module, network, file = _module(bundle, config)
    if bundle.zip:
        digest = sha256_of(path)
    else:
        digest = sha256_of_files(path, [path / name, path / METADATA, path / file])
    return Source(module, "monai", network, labels, path, digest, "segmentation", settings=settings)


def _settings(config: Config, metadata: Facts) -> tuple[dict[str, Any], tuple[str, ...]]:
    formats = metadata.within("network_data_format")
    channels = _channels(formats.within("inputs").within("image"), "channel")
    before = config.section("preprocessing")
    after, inferer = config.section("postprocessing"), config.section("inferer")
    prepared, finished = preparation(before, len(channels)), finish(after)
    patch, sliding = windows(inferer)
    labels = _labels(formats.within("outputs").within("pred"), finished.answer)
    settings = {
        "framework": "monai",
        "channels": [{"name": c, "normalisation": prepared.normalisation} for c in channels],
        "orientation": prepared.orientation,
        "spacing": prepared.spacing,
        "transpose_forward": AXES_ZYX,
        "crop": None,
        "patch": patch,
        "resampling": {
            "data": {"order": prepared.resampling, "order_z": 0, "separate_z": False},
            "logits": {"order": 0 if finished.nearest else 1, "order_z": 0, "separate_z": False},
        },
        "windows": sliding,
        "answer": finished.answer,
        "label_values": list(range(len(labels))),
        "monai": {
            "order": prepared.order,
            "crop": prepared.crop,
            "invert_at": finished.invert_at,
            "preprocessing": before.data["transforms"],
            "postprocessing": after.data["transforms"],
            "inferer": dict(inferer.data),
        },
    }
    return settings, labels


def _channels(facts: Facts, what: str) -> list[str]:
    """The names in a "channel_def", or numbered ones."""
    count = int(facts.number("num_channels"))
    if not 1 <= count <= 4096:
        raise facts.wrong("num_channels", count, "1 to 4096")
    named = facts.data.get("channel_def") or {}
    if not isinstance(named, Mapping):
        raise facts.wrong("channel_def", named, "a mapping from channel to name")
    return [str(named.get(str(i), f"{what} {i}")) for i in range(count)]


def _labels(pred: Facts, answer: Mapping[str, Any]) -> tuple[str, ...]:
    names = _channels(pred, "label")
    if answer["kind"] == "argmax":
        return tuple(names)
    if len(names) > 1:
        raise pred.wrong(
            "num_channels",
            len(names),
            "1 where a threshold decides: overlapping masks do not fit into one file",
        )
    return ("background", names[0])


def _module(bundle: Bundle, config: Config) -> tuple[nn.Module, str, str]:
    """The network, its name, and the file it came from."""
    key = "network_def" if "network_def" in config.data else "network"
    section = config.section(key, ("_target_",))
    target = section.text("_target_")
    package, _, short = target.rpartition(".")
    known = short in NETWORKS and package.partition(".")[0] in ("", "monai")
    built = _built(config.section(key), short) if known and bundle.has(STATE_DICT) else None
    if built is not None:
        with bundle.file(STATE_DICT) as file:
            tensors = without_wrapper(find_weights(file, read_checkpoint(file)).tensors)
        where = bundle.path / STATE_DICT
        check_tensors(where, f"the config's {short}", built.state_dict(), tensors)
        built.load_state_dict(tensors, strict=True)
        return built.float().eval().requires_grad_(False), short, STATE_DICT
    if bundle.has(SCRIPT):
        with bundle.file(SCRIPT) as file:
            script = torchscript.load(file).module
        if script is not None:
            return script, f"{short} (TorchScript)", SCRIPT
    if not known:
        raise section.wrong(
            "_target_", target, f"one of MONAI's {', '.join(NETWORKS)}, or {SCRIPT}"
        )
    if not bundle.has(STATE_DICT):
        raise UnreadableFile(bundle.path, f"neither {STATE_DICT} nor {SCRIPT} in the bundle")
    raise UnsupportedLayout(
        bundle.path,
        f"its network {short} needs a package that is not installed: pip install {PACKAGE}, or "
        f"export the bundle with 'python -m monai.bundle ckpt_export', which writes {SCRIPT}",
    )


def _built(section: Facts, short: str) -> nn.Module | None:
    """A fresh instance of a class of MONAI's, or None where MONAI is not installed."""
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of MONAI's optional packages
            from monai.networks import nets
    except ImportError:
        return None
    arguments = {k: v for k, v in section.data.items() if not k.startswith("_")}
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            built: nn.Module = getattr(nets, short)(**arguments)
    except Exception as error:  # MONAI raises many types for arguments that do not fit
        raise section.wrong(
            "", printable(error, 160), f"arguments that monai's {short} takes"
        ) from None
    return built
