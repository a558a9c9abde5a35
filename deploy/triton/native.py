"""An archive's network for a backend of Triton's own: what it is asked, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.triton.config import Network, Spec
from handlers import heads
from handlers.artefact import Artefact, DeviceOptions
from handlers.errors import KitError
from handlers.passport import Passport, TensorSpec
from repack.backends import BACKENDS
from repack.backends.base import Backend
from repack.tasks import TASKS


def backend_of(artefact: Artefact) -> Backend:
    """What built the artefact.

    Raises:
        KitError: Triton has nothing of its own that runs it.
    """
    backend = BACKENDS.get(artefact.runtime)
    if backend is None or backend.triton is None:
        able = ", ".join(b.title for b in BACKENDS.values() if b.triton)
        raise KitError(
            f"--native: Triton is given no {artefact.runtime}; it has backends for {able}: leave "
            "--native out, or repack"
        )
    return backend


def network(passport: Passport, artefact: Artefact) -> Network:
    """The network's tensors: of a detector its raw maps or its rows, as many rows as pictures.

    Raises:
        KitError: it ends in boxes that are as many as were found, and names no raw maps.
    """
    options = artefact.options
    pixels = options.pixels if isinstance(options, DeviceOptions) else ()
    inputs = tuple(_pixels(s) if s.name in pixels else _spec(s) for s in passport.inputs)
    profiles = getattr(options, "engines", ())
    most = min((shapes[2][0] for p in profiles for shapes in p.values()), default=0)
    outputs = tuple(_spec(spec) for spec in passport.outputs)
    head = heads.of(passport.settings)
    if head is not None and artefact.output != "boxes":
        if not head.raw:
            raise KitError(f"--native: {passport.name} names no raw maps: repack its model")
        outputs = _maps(head, passport.inputs[0]) or outputs
    first = [s.shape[:1] for s in (*passport.inputs, *passport.outputs)]
    task = TASKS.get(passport.task)  # rows of raw tensors may mean anything: a call stays whole
    batched = task is not None and task.batches
    batched &= all(axis and isinstance(axis[0], str) for axis in first) and len({*first}) == 1
    return Network(inputs, outputs, batched, tuple(pixels), most)


def _spec(spec: TensorSpec) -> Spec:
    return Spec(spec.name, spec.dtype, _shape(spec.shape))


def _shape(shape: Sequence[int | str]) -> tuple[int, ...]:
    return tuple(n if isinstance(n, int) else -1 for n in shape)


def _pixels(spec: TensorSpec) -> Spec:
    n, height, width, channels = _shape(spec.shape)
    return Spec(spec.name, "float32", (n, channels, height, width))


def _maps(head: heads.Head, image: TensorSpec) -> tuple[Spec, ...]:
    axes = dict(zip(image.layout, image.shape, strict=True))
    sides = head.sides(int(axes["H"]), int(axes["W"]))
    grids = head.grids(sides)
    names = head.raw if sides else ()
    return tuple(
        Spec(name, "float32", (-1, *grid.shape[:3], head.values))
        for name, grid in zip(names, grids, strict=True)
    )
