"""What an nnU-Net v2 results folder says in ``plans.json`` and ``dataset.json``.

Read as data, both layouts of the plans: since nnunetv2 2.4 with "architecture", before that with
"UNet_class_name" and its neighbours. What the kit's volume handler does not do is refused by name.
"""

from __future__ import annotations

from typing import Any

from repack.sources.errors import UnsupportedLayout
from repack.sources.facts import Facts

ORIENTATIONS = {"SimpleITKIO": None, "NibabelIO": None, "NibabelIOWithReorient": "RAS"}
"""nnU-Net's readers, and the orientation that each turns a volume to."""

NORMALISATIONS = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "RescaleTo01Normalization": "rescale_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
    "NoNormalization": "none",
}

RESAMPLING = "resample_data_or_seg_to_shape"

OVERLAP, SIGMA = 0.5, 1 / 8
"""Of nnU-Net's predictor: neighbouring windows share half a patch; the Gaussian weight's sigma is
an eighth of the patch's side (``inference/sliding_window_prediction.py``)."""


def configuration(plans: Facts, name: str) -> Facts:
    """A configuration with all that it inherits.

    Raises:
        UnsupportedLayout: not in the plans, inherits in a circle, or the second step of a cascade.
    """
    known = plans.within("configurations")
    merged: dict[str, Any] = {}
    step: str | None = name
    visited: list[str] = []
    while step is not None:
        if step in visited or step not in known.data:
            raise plans.wrong("configurations", list(known.data), f"one named {step!r}")
        visited.append(step)
        own = known.within(step)
        merged = {**own.data, **merged}
        step = own.text("inherits_from") if "inherits_from" in own.data else None
    if merged.get("previous_stage"):
        raise UnsupportedLayout(
            plans.path,
            f"configuration {name} is the second step of a cascade, which needs the first one's "
            "masks as input: convert 3d_fullres or 3d_lowres",
        )
    return Facts(plans.path, merged, f"configurations.{name}")


def architecture(facts: Facts) -> tuple[str, dict[str, Any]]:
    """The network's class name (without its package) and its arguments, as written."""
    if "architecture" in facts.data:
        found = facts.within("architecture")
        return found.text("network_class_name"), dict(found.within("arch_kwargs").data)
    name = facts.text("UNet_class_name")
    dimensions = len(facts.sizes("patch_size", (2, 3)))
    per_encoder_stage = facts.data.get("n_conv_per_stage_encoder")
    if not isinstance(per_encoder_stage, list):
        raise facts.wrong("n_conv_per_stage_encoder", per_encoder_stage, "a list")
    stages = range(len(per_encoder_stage))
    base, most = facts.number("UNet_base_num_features"), facts.number("unet_max_num_features")
    per_stage = "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage"
    return name, {
        "n_stages": len(stages),
        "features_per_stage": [int(min(base * 2**i, most)) for i in stages],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": facts.data.get("conv_kernel_sizes"),
        "strides": facts.data.get("pool_op_kernel_sizes"),
        per_stage: per_encoder_stage,
        "n_conv_per_stage_decoder": facts.data.get("n_conv_per_stage_decoder"),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def settings(plans: Facts, facts: Facts, dataset: Facts) -> dict[str, Any]:
    """How nnU-Net prepares volumes and makes masks, as the volume handler's settings.

    Axes are those after ``transpose_forward``; spacing in mm. A 2-D configuration has two numbers
    in "patch" and "spacing": the first axis of a volume keeps its own.
    """
    _expect(facts, "preprocessor_name", "DefaultPreprocessor")
    _expect(plans, "label_manager", "LabelManager", "LabelManager")
    reader = plans.text("image_reader_writer")
    if reader not in ORIENTATIONS:
        raise plans.wrong("image_reader_writer", reader, f"one of {', '.join(ORIENTATIONS)}")
    order = plans.data.get("transpose_forward")
    if not isinstance(order, list) or sorted(order) != [0, 1, 2]:
        raise plans.wrong("transpose_forward", order, "an order of 0, 1 and 2")
    patch = facts.sizes("patch_size", (2, 3))
    return {
        "framework": "nnunet",
        "channels": _channels(plans, facts, dataset),
        "orientation": ORIENTATIONS[reader],
        "spacing": facts.numbers("spacing", (len(patch),)),
        "transpose_forward": order,
        "crop": "nonzero",
        "patch": patch,
        "resampling": {
            "data": _resampling(facts, "resampling_fn_data"),
            "logits": _resampling(facts, "resampling_fn_probabilities"),
        },
        "windows": {"overlap": OVERLAP, "gaussian": True, "sigma": SIGMA, "mirror": []},
    }


def _expect(facts: Facts, key: str, expected: str, default: str | None = None) -> None:
    found = facts.text(key, default)
    if found != expected:
        raise facts.wrong(key, found, f"{expected}, the one that the kit's handler does")


def _resampling(facts: Facts, name: str) -> dict[str, Any]:
    _expect(facts, name, RESAMPLING)
    kwargs = facts.within(f"{name}_kwargs")
    separate = kwargs.data.get("force_separate_z")
    if separate is not None and not isinstance(separate, bool):
        raise kwargs.wrong("force_separate_z", separate, "true, false or null")
    orders = {key: kwargs.number(key, 0 if key == "order_z" else None) for key in _ORDERS}
    for key, value in orders.items():
        if value not in range(6):
            raise kwargs.wrong(key, value, "a spline order from 0 to 5")
    return {**{key: int(value) for key, value in orders.items()}, "separate_z": separate}


_ORDERS = ("order", "order_z")


def channel_names(dataset: Facts) -> list[str]:
    """The input channels' names; "modality" is what early files call them."""
    key = "modality" if "modality" in dataset.data else "channel_names"
    found = dataset.within(key)
    names = [found.data.get(str(i)) for i in range(len(found.data))]
    if not names or not all(isinstance(name, str) for name in names):
        raise dataset.wrong(key, dict(found.data), 'names under "0", "1", ...')
    return [str(name) for name in names]


def _channels(plans: Facts, facts: Facts, dataset: Facts) -> list[dict[str, Any]]:
    names = channel_names(dataset)
    schemes, masked = (facts.data.get(k) for k in ("normalization_schemes", "use_mask_for_norm"))
    for key, value in (("normalization_schemes", schemes), ("use_mask_for_norm", masked)):
        if not isinstance(value, list) or len(value) != len(names):
            raise facts.wrong(key, value, f"{len(names)} entries, one per channel")
    key = "foreground_intensity_properties_per_channel"
    if key not in plans.data:
        key = "foreground_intensity_properties_by_modality"
    channels = []
    for i, (name, scheme) in enumerate(zip(names, schemes or [], strict=True)):
        kind = NORMALISATIONS.get(scheme) if isinstance(scheme, str) else None
        if kind is None:
            known = ", ".join(NORMALISATIONS)
            raise facts.wrong("normalization_schemes", scheme, f"one of {known}")
        numbers = {}
        if kind == "ct":
            found = plans.within(key).within(str(i))
            numbers = {ours: found.number(theirs) for ours, theirs in _CT.items()}
        if kind == "zscore" and (masked or [])[i] is True:
            kind = "zscore_nonzero"
        channels.append({"name": name, "normalisation": {"kind": kind, **numbers}})
    return channels


_CT = {"lower": "percentile_00_5", "upper": "percentile_99_5", "mean": "mean", "std": "std"}


def answer(dataset: Facts) -> tuple[dict[str, Any], tuple[str, ...], list[int], int]:
    """How logits become a mask: the "answer" setting, label names, label values, output channels.

    Labels that are lists of values make regions, trained with one sigmoid each: channel i of the
    output, above one half, writes ``regions_class_order[i]``, later ones over earlier ones. The
    names are those of the values that the mask can hold.
    """
    labels = dict(dataset.within("labels").data)
    labels.pop("ignore", None)
    if labels.get("background") != 0:
        raise dataset.wrong("labels.background", labels.get("background"), "0")
    values = {name: _values(dataset, name, value) for name, value in labels.items()}
    if not any(len(v) > 1 for v in values.values()):
        names = {v[0]: name for name, v in values.items()}
        if sorted(names) != list(range(len(names))) or len(names) != len(values):
            raise dataset.wrong("labels", labels, "each value from 0 once, without a gap")
        kept = sorted(names)
        return {"kind": "argmax"}, tuple(names[v] for v in kept), kept, len(kept)
    regions = {name: v for name, v in values.items() if set(v) != {0}}
    order = dataset.data.get("regions_class_order")
    whole = isinstance(order, list) and all(type(v) is int and v > 0 for v in order)
    if not whole or not isinstance(order, list) or len(order) != len(regions):
        raise dataset.wrong("regions_class_order", order, f"{len(regions)} labels, one per region")
    named = dict(zip(order, regions, strict=True))
    kept = [0, *sorted(named)]
    return (
        {"kind": "regions", "order": order, "names": list(regions)},
        ("background", *(named[v] for v in kept[1:])),
        kept,
        len(order),
    )


def _values(dataset: Facts, name: str, value: object) -> list[int]:
    found = value if isinstance(value, list) else [value]
    if not found or not all(type(v) is int and 0 <= v < 2**16 for v in found):
        raise dataset.wrong(f"labels.{name}", value, "a whole number, or a list of them")
    return list(found)
