"""Optimization profiles: the min, opt and max shapes that the user gave, held against the model."""

from __future__ import annotations

from handlers.errors import KitError
from repack.model import GpuModel
from repack.options import Profiles


def named(model: GpuModel, given: Profiles) -> Profiles:
    """The profile by the model's own input names.

    Args:
        given: by input name, or by "" where the model has one input; empty for fixed sizes.

    Raises:
        KitError: other inputs than the model's, or shapes that it does not have.
    """
    names = list(model.shapes)
    if set(given) == {""} and len(names) == 1:
        given = {names[0]: given[""]}
    if given and set(given) != set(names):
        raise KitError(
            f"--min, --opt, --max name {', '.join(given)}; the model has {', '.join(names)}"
        )
    for name, (low, _, high) in given.items():
        shape = model.shapes[name]
        if len(low) != len(shape):
            raise KitError(f"--min {name}: {len(low)} axes; the model's are {shape}")
        for least, most, own in zip(low, high, shape, strict=True):
            if isinstance(own, int) and not least == most == own:
                raise KitError(f"--min --max {name}: the model's own shape is {shape}")
    return given
