"""What the runtimes on an NVIDIA GPU share: buffers made once, one stream, a CUDA graph per size.

A model is built for one or more batch sizes. A request of fewer items is padded to the next size,
and the padding's answers are cut off; one of more items runs in pieces.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from handlers.artefact import DeviceOptions
from handlers.errors import RuntimeMissing, RuntimeUnfit, Unprocessable
from handlers.runtimes.base import Runtime

if TYPE_CHECKING:
    import torch
    from torch import Tensor

logger = logging.getLogger(__name__)

MOST_SIZES = 8
"""Sets of buffers that are kept; a profile of free axes could ask for any number."""


class Size:
    """One set of input shapes: the buffers, and the graph that replays the model on them.

    Attributes:
        inputs: device tensors to fill, as the model takes them.
        outputs: device tensors that ``run`` overwrites.
        model: what a runtime keeps for each size: an execution context, a compiled package.
        after: what a handler has captured to follow the model, and keeps for this size.
    """

    def __init__(self, inputs: dict[str, Tensor], outputs: dict[str, Tensor], model: Any = None):
        self.inputs = inputs
        self.outputs = outputs
        self.model = model
        self.graph: Callable[[], Any] | None = None
        self.after: Callable[[], Any] | None = None

    @property
    def batch(self) -> int:
        return int(next(iter(self.inputs.values())).shape[0])


class DeviceRuntime(Runtime):
    """A runtime on one NVIDIA GPU."""

    options_type: ClassVar[type[DeviceOptions]] = DeviceOptions
    on_gpu = True
    options: DeviceOptions

    def activate(self) -> None:
        try:
            import torch
        except ImportError as e:
            raise RuntimeMissing("torch", e) from None
        if not torch.cuda.is_available():
            raise RuntimeUnfit(
                f"{self.name} needs an NVIDIA GPU that PyTorch {torch.__version__} can use, "
                "and this machine has none"
            )
        number = self.gpu or 0
        if number >= torch.cuda.device_count():
            raise RuntimeUnfit(f"GPU {number} asked for; there are {torch.cuda.device_count()}")
        if self.options.pixels:
            try:
                import torchvision  # noqa: F401
            except ImportError as e:
                raise RuntimeMissing("torchvision", e) from None
        self.torch = torch
        self.device = torch.device("cuda", number)
        torch.cuda.set_device(self.device)
        self.stream: torch.cuda.Stream = torch.cuda.Stream(self.device)
        self.sizes: dict[tuple[tuple[int, ...], ...], Size] = {}
        self.batches = sorted(self.options.batches)
        self.open()
        for batch in self.batches:
            if all(isinstance(n, int) for spec in self.inputs for n in spec.shape[1:]):
                self.size({s.name: (batch, *map(int, s.shape[1:])) for s in self.inputs})

    @abstractmethod
    def open(self) -> None:
        """Loads the model; torch, the device and the stream are there."""

    @abstractmethod
    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Size:
        """Buffers for the model's own input shapes, and whatever one call on them needs.

        Raises:
            Unprocessable: a shape that the model was not built for.
        """

    @abstractmethod
    def call(self, size: Size) -> None:
        """Runs the model on a size's buffers, queued on ``stream``."""

    def size(self, shapes: Mapping[str, tuple[int, ...]]) -> Size:
        """The buffers for the passport's input shapes, made and captured on first use."""
        own = {name: self._own(name, shape) for name, shape in shapes.items()}
        key = tuple(own.values())
        if key not in self.sizes:
            while len(self.sizes) >= max(MOST_SIZES, len(self.batches)):
                self.sizes.pop(next(iter(self.sizes)))
            self.sizes[key] = self._captured(self.prepare(own))
        return self.sizes[key]

    def run(self, size: Size) -> None:
        """Queues the model on a size's buffers, by its graph where it has one."""
        if size.graph is not None:
            size.graph()
        else:
            self.call(size)

    def infer(
        self, inputs: dict[str, NDArray[Any]], every: bool = False
    ) -> dict[str, NDArray[Any]]:
        first = next(iter(inputs.values()))
        rows = len(first) if first.ndim else 1
        whole = self.bucket(rows)
        if whole >= rows:
            return self._infer_padded(inputs, rows, whole)
        pieces = [
            self._infer_padded(
                {k: v[i : i + whole] for k, v in inputs.items()}, min(whole, rows - i), whole
            )
            for i in range(0, rows, whole)
        ]
        return {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}

    def view(self, outputs: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
        """The first rows of a size's outputs, in the shapes that the gate and handlers know."""
        found = {}
        for name, tensor in outputs.items():
            seen = tensor if self.head is None else self.head.seen(tensor)
            found[name] = seen[:rows] if seen.dim() else seen
        return found

    def time(self, batch: int, calls: int = 50) -> float:
        """Milliseconds of one call on a batch: graph replays between two events of the GPU."""
        torch = self.torch
        size = self.size({s.name: (batch, *map(int, s.shape[1:])) for s in self.inputs})
        with torch.cuda.stream(self.stream):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(3):
                self.run(size)
            begin.record()
            for _ in range(calls):
                self.run(size)
            end.record()
            end.synchronize()
        return float(begin.elapsed_time(end)) / calls

    @property
    def largest(self) -> int:
        """Most items of one call."""
        return self.batches[-1]

    def bucket(self, rows: int) -> int:
        """The batch to run ``rows`` items in: the next size, or the largest one for pieces."""
        return next(
            (b for b in self.batches if b >= rows), self.batches[-1] if self.batches else rows
        )

    def _own(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A passport's shape as the model takes it."""
        if name in self.options.pixels:
            n, height, width, channels = shape
            return n, channels, height, width
        return shape

    def captured(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """Work on this stream as a CUDA graph: a call replays it and gives the same tensors.

        Raises:
            RuntimeError: the work waits for the GPU, or allocates outside of PyTorch.
        """
        torch = self.torch
        with torch.inference_mode(), torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            for _ in range(2):  # first calls allocate, which no graph may
                work()
            self.stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Another thread may decode, and allocate, meanwhile: only this one is recorded.
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                result = work()

        def replay() -> Any:
            graph.replay()
            return result

        return replay

    def _captured(self, size: Size) -> Size:
        try:
            size.graph = self.captured(lambda: self.call(size))
        except RuntimeError as e:
            logger.warning("no CUDA graph for %s: %s", self.name, str(e).splitlines()[0])
        return size

    def _infer_padded(
        self, inputs: dict[str, NDArray[Any]], rows: int, whole: int
    ) -> dict[str, NDArray[Any]]:
        torch = self.torch
        free = {s.name: isinstance(s.shape[0], str) if s.shape else False for s in self.inputs}
        shapes = {
            name: (whole, *value.shape[1:]) if free[name] else value.shape
            for name, value in inputs.items()
        }
        size = self.size(shapes)
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            for name, value in inputs.items():
                target = size.inputs[name]
                given = torch.from_numpy(np.ascontiguousarray(value)).to(self.device)
                if name in self.options.pixels:
                    given = given.permute(0, 3, 1, 2).to(target.dtype) / 255
                target[: len(value)].copy_(given)
                if len(value) < len(target):
                    target[len(value) :].zero_()
            self.run(size)
            cut = rows if any(free.values()) else whole
            found = {
                name: (t.float() if t.is_floating_point() else t).cpu()
                for name, t in self.view(size.outputs, cut).items()
            }
        return {name: np.ascontiguousarray(t.numpy()) for name, t in found.items()}


def unfit_shape(name: str, came: tuple[int, ...], low: object, high: object) -> Unprocessable:
    """The error for a shape outside of what a model was built for."""
    return Unprocessable(
        f"{name}: shape {list(came)} came; the engine was built for {low} to {high}"
    )
