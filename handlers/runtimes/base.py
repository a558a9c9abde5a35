"""What every runtime offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from handlers.artefact import Artefact, Options, understood
from handlers.errors import ArchiveError
from handlers.heads import Head
from handlers.passport import TensorSpec


class Runtime(ABC):
    """Runs one artefact.

    Args:
        folder: where the archive was unpacked.
        artefact: what to load.
        inputs: the model's inputs.
        threads: how many threads it may use.
        gpu: number of the GPU to use, where it uses one.
        head: what ends the model, where it is a detector.

    Attributes:
        name: the runtime's key in ``RUNTIMES``.
        options_type: class of its artefacts' options.
        on_gpu: whether it runs on a GPU.
        precision: element type that the model runs in here: "f32", "f16", "bf16" or "int8"; what
            it was found to be when it was packed, until ``activate`` has asked the library.
        note: what ``activate`` had to do otherwise than packed; "" where nothing.
    """

    name: str
    options: Any
    options_type: ClassVar[type[Options]] = Options
    on_gpu: ClassVar[bool] = False
    note = ""

    def __init__(
        self,
        folder: Path,
        artefact: Artefact,
        inputs: tuple[TensorSpec, ...],
        threads: int = 1,
        gpu: int | None = None,
        head: Head | None = None,
    ):
        try:
            artefact = understood(artefact, self.options_type)
        except ValueError as e:
            raise ArchiveError(f"the passport lacks or misnames a field ({e})") from None
        self.folder = folder
        self.artefact = artefact
        self.options = artefact.options
        self.inputs = inputs
        self.threads = threads
        self.gpu = gpu
        self.head = head
        self.precision = artefact.precision_found.get("label", artefact.precision_asked)

    @abstractmethod
    def activate(self) -> None:
        """Imports the library and loads the model.

        Raises:
            RuntimeUnfit: the library is not installed, or this machine cannot run the artefact.
        """

    @abstractmethod
    def infer(
        self, inputs: dict[str, NDArray[Any]], every: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Runs the model once.

        Args:
            inputs: a contiguous array for each input, of its dtype and shape.
            every: all outputs of the graph; otherwise only those that the handler reads
                (``wanted``).

        Returns:
            An array for each output, by name; valid until the next call.
        """

    def wanted(self, outputs: Sequence[str]) -> list[str]:
        """The outputs that the handler reads: the one that the artefact ends in and those that a
        detector's head has beside it, or all tensors."""
        end = self.artefact.output
        if end not in outputs:
            return list(outputs)
        return [end, *(self.head.beside if self.head is not None else ())]

    def warm_up(self) -> None:
        """Two calls on mid-range values, where the input's size is known: first calls are slow."""
        feed = {}
        for spec in self.inputs:
            if any(isinstance(n, str) for n in spec.shape[1:]):
                return
            shape = tuple(n if isinstance(n, int) else 1 for n in spec.shape)
            low, high = spec.range or (0, 1)
            value = spec.values[0] if spec.values else (low + high) / 2
            feed[spec.name] = np.full(shape, value, spec.dtype)
        for _ in range(2):
            self.infer(feed)
