"""Windows of the user's own volumes: prepared and cut by the handler that will serve the model."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers import windows
from handlers.errors import ItemError, KitError
from handlers.tensors import Tensors, check
from handlers.volumes import preparing, reading
from handlers.volumes.recipe import Recipe
from handlers.volumes.recipe import read as read_recipe
from repack.model import Model
from repack.samples import Sample
from repack.tasks.segmentation.model import INPUT, random_windows

ENDINGS = (".nii", ".nii.gz", ".mha", ".nrrd", ".zip")
WINDOWS = 4
"""Windows taken from each volume: those whose values vary most, since air tells little."""

_CHANNEL = re.compile(r"(.+)_(\d{4})(\.nii\.gz|\.nii|\.mha|\.nrrd)")


def read(folder: Path, model: Model, flag: str) -> list[Sample]:
    """Up to ``WINDOWS`` windows of every volume of a folder, and every window kept as ``.npy``.

    Volumes are NIfTI, MHA, NRRD or zips of a DICOM series. Where the net has several channels, they
    are one file with a fourth axis, or files named as nnU-Net does: ``NAME_0000.nii.gz``, .... An
    ``.npy`` file is a window as the net takes it, ``[channels, *patch]`` float32.

    Raises:
        KitError: nothing usable there, or a file that cannot be read.
    """
    files = sorted(p for p in folder.iterdir() if p.is_file())
    volumes = _cases([p for p in files if p.name.lower().endswith(ENDINGS)], model)
    arrays = [p for p in files if p.suffix == ".npy"]
    if not volumes and not arrays:
        raise KitError(f"{flag} {folder}: holds no {', '.join(ENDINGS)} or .npy file")
    recipe, found = recipe_of(model), []
    for case in volumes:
        try:
            found += [Sample(case[0], {INPUT: w[None]}) for w in _windows(case, recipe)]
        except ItemError as e:
            raise KitError(f"{case[0]}: {e}") from None
    return found + [_array(path, model) for path in arrays]


def recipe_of(model: Model) -> Recipe:
    """What the handler reads in the passport that the model will get."""
    return read_recipe(model.settings, model.source.labels, model.outputs)


def _cases(paths: Sequence[Path], model: Model) -> list[list[Path]]:
    """Files of one case together, in the order of their channels."""
    if len(model.settings["channels"]) == 1:
        return [[path] for path in paths]
    cases: dict[str, list[Path]] = {}
    for path in paths:
        match = _CHANNEL.fullmatch(path.name)
        cases.setdefault(match[1] if match else path.name, []).append(path)
    return list(cases.values())


def _windows(case: Sequence[Path], recipe: Recipe) -> list[NDArray[np.float32]]:
    parts = [(str(i), path.read_bytes()) for i, path in enumerate(case)]
    if len(parts) == 1:
        volume = reading.read(parts[0][1], lambda layout: _check(layout.channels, recipe))
    else:
        volume = reading.read_channels(parts, recipe.channel_names, lambda layout: None)
    prepared = preparing.prepare(volume, recipe)
    kept: list[tuple[float, int, NDArray[np.float32]]] = []
    seen = 0

    def look(patches: NDArray[np.float32]) -> NDArray[np.float32]:
        nonlocal seen
        for patch in patches:
            seen += 1
            heapq.heappush(kept, (float(patch.std()), -seen, patch.copy()))
            if len(kept) > WINDOWS:
                heapq.heappop(kept)
        return np.zeros((len(patches), recipe.outputs, *patches.shape[2:]), np.float32)

    plain = replace(recipe.windows, mirror=(), batch=1)
    slab = windows.slab(prepared.data.shape[1:], plain, recipe.outputs)
    for _ in windows.planes(prepared.data, plain, look, slab):
        pass
    best = [patch for _, _, patch in sorted(kept, key=lambda entry: entry[:2], reverse=True)]
    return [patch[:, 0] if recipe.flat else patch for patch in best]


def _check(channels: int, recipe: Recipe) -> None:
    names = recipe.channel_names
    if channels != len(names):
        raise ItemError(f"{channels} values a voxel, expected {len(names)} ({', '.join(names)})")


def _array(path: Path, model: Model) -> Sample:
    (spec,) = model.inputs
    try:
        value = np.load(path, allow_pickle=False)
    except Exception as e:  # NumPy's reader raises many types for damaged files
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise KitError(f"{path}: no array file ({reason})") from None
    value = value[None] if value.ndim == len(spec.shape) - 1 else value
    given: Tensors = {INPUT: value}
    try:
        return Sample(path, {INPUT: check(given, spec)})
    except ItemError as e:
        raise KitError(f"{path}: {e}") from None


def example(model: Model, samples: Sequence[Sample], folder: Path) -> Path:
    """Writes a made-up NIfTI of a patch's size, values 0 to 255, that the archive must answer."""
    import nibabel

    path = folder / "example.nii.gz"

    settings = model.settings
    patch = [int(n) for n in settings["patch"]]
    sides = [2, *patch] if len(patch) == 2 else patch
    channels = len(settings["channels"])
    drawn = random_windows(np.random.default_rng(2), [1, channels, *sides])[0]
    values = np.clip(128 + 40 * drawn, 0, 255)
    order = settings.get("transpose_forward", [0, 1, 2])
    back = [int(i) for i in np.argsort(order)]
    spacing = list(settings["spacing"] or [1.0] * 3)
    spacing = ([1.0] if len(spacing) == 2 else []) + spacing
    zyx: NDArray[Any] = values.transpose(0, *(1 + i for i in back))
    stored = zyx.transpose(3, 2, 1, 0) if channels > 1 else zyx[0].transpose(2, 1, 0)
    mm = [spacing[i] for i in back][::-1]
    image = nibabel.Nifti1Image(np.ascontiguousarray(stored, np.float32), np.diag([*mm, 1.0]))
    nibabel.save(image, path)
    return path
