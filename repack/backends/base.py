"""What a backend is: it builds artefacts of a model, and reads back what was built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from handlers.errors import KitError
from repack.options import GpuOptions

if TYPE_CHECKING:
    from pathlib import Path

    from handlers.artefact import Artefact
    from handlers.runtimes.base import Runtime
    from repack.backends.conversion import Conversion
    from repack.model import Model

NO_MODULE = "an ONNX file has no module to trace"


@dataclass
class Found:
    """What runs in which element type, as the loaded artefact itself tells.

    Attributes:
        layers: heavy layers (convolutions, matrix products) by type: "f32", "f16", ....
        multiplies: their multiply-adds by type, batch 1.
        label: what the whole is called; "" for what the runtime calls itself.
        left: multiply-adds of layers that int8 leaves in floats on purpose.
    """

    layers: Counter[str] = field(default_factory=Counter)
    multiplies: Counter[str] = field(default_factory=Counter)
    label: str = ""
    left: int = 0

    def add(self, kind: str, multiplies: int) -> None:
        """Counts one layer."""
        self.layers[kind] += 1
        self.multiplies[kind] += multiplies

    @property
    def main(self) -> str:
        """The type that most multiplications run in, "unknown" where none is known."""
        return self.multiplies.most_common(1)[0][0] if self.multiplies else "unknown"

    def named(self) -> Found:
        """The same, called by the type that all of it runs in, where it is one."""
        if len(self.multiplies) == 1 and any(self.multiplies.values()):
            self.label = self.main
        return self

    def report(self, runtime: Runtime) -> dict[str, Any]:
        """As the passport has it: ``{"label", "layers": {"bf16": 0.98, ...}, "flops": {...}}``,
        shares of 1, and "kept", the share that int8 leaves in floats on purpose, where it does."""
        total = sum(self.multiplies.values())
        found: dict[str, Any] = {
            "label": self.label or runtime.precision,
            "layers": _shares(self.layers),
            "flops": _shares(self.multiplies),
        }
        return found | ({"kept": round(self.left / total, 4)} if self.left else {})


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = sum(counts.values())
    return {k: round(v / total, 4) for k, v in sorted(counts.items())} if total else {}


@dataclass(frozen=True)
class TritonBackend:
    """Triton's own backend for a runtime's files.

    Attributes:
        name: as Triton calls it.
        file: what it calls a model's file.
        threads: its parameter with the number of threads; "" where it has none.
        note: what it does otherwise than the kit's runtime, for every answer; "" where nothing.
    """

    name: str
    file: str
    threads: str = ""
    note: str = ""


class Backend(ABC):
    """Turns a model into artefacts for one runtime. One object stands in the table ``BACKENDS``.

    Attributes:
        name: the runtime's key in ``handlers.runtimes.RUNTIMES``, and the value of ``--backend``.
        title: its own spelling, for people.
        packages: distributions whose versions the passport records.
        device: what it runs on.
        precisions: what it can be asked for, in the order in which they are tried.
        auto: those of them that ``--precision auto`` tries; int8 only where there is something to
            calibrate on.
        from_onnx: made of the model's ONNX file, so that an error may name one of its nodes.
        runtime: "module:Class" of its runtime, where that is not in the kit's own table; the module
            goes into the archive.
        portable: runs in f32 on every machine: can be the archive's portable artefact.
        triton: what runs its files in Triton; None where there is nothing.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    device: ClassVar[Literal["cpu", "gpu"]] = "cpu"
    precisions: ClassVar[tuple[str, ...]]
    auto: ClassVar[tuple[str, ...]]
    from_onnx: ClassVar[bool] = False
    portable: ClassVar[bool] = False
    runtime: ClassVar[str] = ""
    triton: ClassVar[TritonBackend | None] = None

    def unavailable(self) -> str | None:
        """Why this machine cannot run the backend at all; None where it can."""
        return None

    def takes(self, model: Model) -> str | None:
        """Why it can make nothing of this model; None where it can be tried."""
        return None

    def lacks(self, precision: str) -> str | None:
        """Why this machine does not run the precision; None where it does."""
        return None

    def routes(self, model: Model, options: GpuOptions, precision: str) -> Sequence[str]:
        """Ways to the same artefact, in the order in which they are tried; "" is the only one."""
        return ("",)

    @abstractmethod
    def build(self, given: Conversion, precision: str, via: str, folder: str) -> Artefact:
        """Builds one artefact into ``given.stage / folder``, which exists.

        Returns:
            Its files (paths below ``given.stage``) and options; ``precision_found`` is empty yet.

        Raises:
            KitError: the model has something that the backend does not take, or a library or
                device is missing.
        """

    def for_triton(
        self, folder: Path, artefact: Artefact, outputs: Sequence[str], target: Path
    ) -> None:
        """Writes an artefact as the file that ``triton`` takes, and those beside it.

        Args:
            folder: an unpacked archive.
            outputs: those that the file ends in; the artefact has them.
            target: the file.

        Raises:
            KitError: the artefact is none that Triton's backend takes.
        """
        raise KitError(f"{self.title}: Triton has no backend that takes its artefacts")

    @abstractmethod
    def found(self, runtime: Runtime) -> Found:
        """What an activated runtime of this backend runs in which type."""


def narrowed(model: Model, title: str) -> str | None:
    """Why a runtime that computes 64-bit floats in 32 bits does not take a model; else None."""
    if model.float64:
        return f"{title} computes the model's float64 in 32 bits"
    return None


def gpu_missing(what: str) -> str | None:
    """The line for a backend that needs an NVIDIA GPU; None where PyTorch sees one."""
    import torch

    if torch.cuda.is_available():
        return None
    return f"{what} needs an NVIDIA GPU, and this machine has none"


def refuse_without_module(model: Model) -> None:
    """Raises ``KitError`` where there is only an ONNX file."""
    if model.module is None:
        raise KitError(NO_MODULE)
