"""Segmentation nets on their way into an archive: one window in, its logits out.

A window is ``INPUT__0``, float32 ``[batch, channels, *patch]``, prepared as the settings say; its
answer is ``OUTPUT__0``, float32 logits ``[batch, outputs, *patch]``. Cutting volumes into windows
and putting masks together again is the handler's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handlers.errors import KitError
from handlers.passport import TensorSpec
from repack.model import Arrays, Model
from repack.options import Options
from repack.raw_tensors import tensors
from repack.sources.source import Source

INPUT, OUTPUT = "INPUT__0", "OUTPUT__0"

LAYOUTS = {2: "NCHW", 3: "NCDHW"}
"""By number of the patch's axes."""


def make(source: Source, options: Options) -> Model:
    """A segmentation net on windows of its settings' patch, any number at once.

    Args:
        source: its settings as ``repack.sources`` gives them.
        options: its input shapes are refused: the settings' patch says them.

    Raises:
        KitError: the net does not run on such windows, or answers something else than logits of
            the windows' size.
    """
    if source.task != "segmentation":
        raise KitError(
            f"{source.path}: says nothing of volumes: add --volumes YAML, which says how the net "
            "was trained"
        )
    if options.input_shapes or options.input_values:
        raise KitError(
            "a segmentation net's input is its settings' patch: no --input-shape or --input-values"
        )
    settings = source.settings
    patch = [int(n) for n in settings["patch"]]
    channels, outputs = len(settings["channels"]), outputs_of(settings)
    layout = LAYOUTS[len(patch)]
    taken = TensorSpec(INPUT, "float32", ("batch", channels, *patch), None, layout)
    given = TensorSpec(OUTPUT, "float32", ("batch", outputs, *patch), None, layout)
    if source.module is None:
        return _from_onnx(source, taken, given)
    module = source.module.eval()

    def original(windows: Arrays) -> Arrays:
        with torch.inference_mode():
            answer = module(torch.from_numpy(windows[INPUT]))
        return {OUTPUT: answer.numpy() if isinstance(answer, Tensor) else answer}

    _try(source, original, taken, given)
    return Model(source, (taken,), (given,), module, original, dict(settings), draw=_drawing(taken))


def outputs_of(settings: Mapping[str, Any]) -> int:
    """How many channels the logits must have."""
    answer = settings["answer"]
    if answer["kind"] == "regions":
        return len(answer["order"])
    labels = len(settings["label_values"])
    return labels if answer["kind"] == "argmax" else labels - 1


def _try(source: Source, original: Any, taken: TensorSpec, given: TensorSpec) -> None:
    """One window through the net, before anything is converted."""
    size = [1, *map(int, taken.shape[1:])]
    shown = "x".join(map(str, size))
    try:
        answer = original({INPUT: np.zeros(size, np.float32)})[OUTPUT]
    except Exception as e:  # the user's module may raise anything
        reason = (str(e).strip().splitlines() or [type(e).__name__])[-1]
        raise KitError(
            f"{source.path}: the net does not run on a {shown} window ({reason})"
        ) from None
    if not isinstance(answer, np.ndarray):
        raise KitError(
            f"{source.path}: the net answers a {type(answer).__name__}; expected one tensor of "
            "logits (deep supervision off)"
        )
    if list(answer.shape) != [1, *given.shape[1:]]:
        wanted = "x".join(map(str, [1, *given.shape[1:]]))
        found = "x".join(map(str, answer.shape))
        raise KitError(
            f"{source.path}: the net answers {found} for a {shown} window; expected {wanted} "
            "(one channel per label or region)"
        )


def _from_onnx(source: Source, taken: TensorSpec, given: TensorSpec) -> Model:
    """An ONNX net under its own names, known to the kit by ``INPUT`` and ``OUTPUT``."""
    own = tensors(source, {})
    if len(own.inputs) != 1 or len(own.outputs) != 1:
        raise KitError(
            f"{source.path}: {len(own.inputs)} inputs and {len(own.outputs)} outputs; a "
            "segmentation net has one of each"
        )
    name, answer = own.inputs[0].name, own.outputs[0].name
    if isinstance(own.inputs[0].shape[0], int):
        raise KitError(
            f"{source.path}: {name} has a fixed batch of {own.inputs[0].shape[0]}; export it with "
            "a free batch axis"
        )

    def original(windows: Arrays) -> Arrays:
        return {OUTPUT: own.ask({name: windows[INPUT]})[answer]}

    _try(source, original, taken, given)
    return Model(
        source,
        (taken,),
        (given,),
        None,
        original,
        dict(source.settings),
        draw=_drawing(taken),
        write_onnx=lambda target: renamed(source.graph, target),
    )


def renamed(path: Path, target: Path) -> None:
    """An ONNX file with one input and one output, saved anew under ``INPUT`` and ``OUTPUT``."""
    import onnx

    model = onnx.load(path)
    graph = model.graph
    constant = {t.name for t in graph.initializer}
    (own,) = [i.name for i in graph.input if i.name not in constant]
    names = {own: INPUT, graph.output[0].name: OUTPUT}
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for list_of in (node.input, node.output):
            list_of[:] = [names.get(name, name) for name in list_of]
    onnx.save(model, target)


def _drawing(taken: TensorSpec) -> Callable[[np.random.Generator, int], Arrays]:
    """Windows with shapes in them, as ``Model.draw``."""
    sides = [int(n) for n in taken.shape[1:]]
    return lambda rng, batch: {taken.name: random_windows(rng, [batch, *sides])}


def random_windows(rng: np.random.Generator, sizes: Sequence[int]) -> NDArray[np.float32]:
    """Made-up windows ``[batch, channels, *patch]``: smooth shapes under a little noise.

    Zero mean and unit deviation. White noise alone would fall to no label in particular; real
    volumes hold shapes of several sizes, and so do these.
    """
    from scipy import ndimage

    batch, channels, *patch = sizes
    made = np.empty(sizes, np.float32)
    for place in np.ndindex(batch, channels):
        total = 0.1 * rng.standard_normal(patch)
        for share in (0.15, 0.06):
            field = rng.standard_normal(patch)
            smooth = ndimage.gaussian_filter(
                field, [max(n * share, 0.5) for n in patch], mode="wrap"
            )
            total += smooth / max(float(smooth.std()), 1e-6)
        made[place] = (total - total.mean()) / total.std()
    return made
