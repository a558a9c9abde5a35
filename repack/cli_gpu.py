"""The flags of ``model_repack.py`` that matter on an NVIDIA GPU."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from handlers.engines.build import LEVELS, Shape
from handlers.errors import KitError

ROOT = Path(__file__).resolve().parents[1]
BATCHES = (1, 4, 16)
"""Engines that a detector gets by default: a lone request, light load, and what nvJPEG decodes at
once (benchmarks/README.md)."""

VIAS = ("auto", "torch2trt", "onnx")


@dataclass(frozen=True)
class GpuOptions:
    """What the user asked for on a GPU.

    Attributes:
        via: "auto" (torch2trt where it is installed and passes the gate, else ONNX) or one route.
        batches: sizes that are built, each fixed; a smaller batch is padded.
        least, usual, most: shapes of one engine with a dynamic profile, by input name ("" where
            the model has one input); empty for fixed sizes.
        level: TensorRT's builder optimisation level, 0 to 5.
        workspace_mb: device memory that one kernel may work in, MiB.
        engine_cache: folder of engines built before.
        rebuild: build again what the cache has.
        rebuild_on_load: pack the ONNX file too; a worker with another TensorRT or GPU builds once.
    """

    via: str = "auto"
    batches: tuple[int, ...] = BATCHES
    least: dict[str, Shape] | None = None
    usual: dict[str, Shape] | None = None
    most: dict[str, Shape] | None = None
    level: int = 3
    workspace_mb: int = 4096
    engine_cache: Path = ROOT / ".engines"
    rebuild: bool = False
    rebuild_on_load: bool = False

    @property
    def profile(self) -> dict[str, tuple[Shape, Shape, Shape]]:
        """Per input name least, usual and largest shape; empty for fixed sizes."""
        if not (self.least and self.usual and self.most):
            return {}
        return {k: (v, self.usual[k], self.most[k]) for k, v in self.least.items()}


def add_flags(found: argparse.ArgumentParser) -> None:
    """Adds the flags, as a group of their own."""
    add = found.add_argument_group("on an NVIDIA GPU").add_argument
    d = GpuOptions()
    add("--via", choices=VIAS, default=d.via, help="road to the TensorRT engine")
    add(
        "--batch",
        default=",".join(map(str, d.batches)),
        help="batch sizes that are built; smaller ones are padded",
    )
    for flag, which in (("--min", "least"), ("--opt", "usual"), ("--max", "largest")):
        add(
            flag,
            action="append",
            default=[],
            metavar="[NAME=]1x3x640x640",
            help=f"{which} shape of an input: one engine for all shapes between, not --batch",
        )
    add("--level", type=int, choices=LEVELS, default=d.level, help="TensorRT's search for kernels")
    add("--workspace", type=int, default=d.workspace_mb, metavar="MIB", help="for one kernel")
    add("--engine-cache", type=Path, default=d.engine_cache, metavar="DIR")
    add("--rebuild", action="store_true", help="build engines that the cache has, too")
    add(
        "--rebuild-on-load",
        action="store_true",
        help="pack the ONNX file: where TensorRT or the GPU differ, a worker builds once",
    )


def read(given: argparse.Namespace) -> GpuOptions:
    """The flags, checked.

    Raises:
        KitError: a value that cannot be, or flags that contradict each other.
    """
    shapes = [_shapes(flag, getattr(given, flag)) for flag in ("min", "opt", "max")]
    if any(shapes) and not all(shapes):
        raise KitError("--min, --opt and --max belong together: give all three for each input")
    if any(set(s) != set(shapes[0]) for s in shapes):
        raise KitError("--min, --opt and --max name different inputs")
    for name in shapes[0]:
        low, usual, high = (s[name] for s in shapes)
        if not len(low) == len(usual) == len(high) or not all(
            a <= b <= c for a, b, c in zip(low, usual, high, strict=True)
        ):
            shown = " ".join("x".join(map(str, s)) for s in (low, usual, high))
            raise KitError(f"--min --opt --max {shown}: expected each axis to grow or stay")
    if given.workspace < 1:
        raise KitError(f"--workspace {given.workspace}: expected MiB, at least 1")
    return GpuOptions(
        given.via,
        () if shapes[0] else _batches(given.batch),
        shapes[0] or None,
        shapes[1] or None,
        shapes[2] or None,
        given.level,
        given.workspace,
        given.engine_cache,
        given.rebuild,
        given.rebuild_on_load,
    )


def _batches(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(re.fullmatch(r"[1-9]\d{0,3}", part) for part in parts):
        raise KitError(f"--batch {text!r}: expected sizes such as 1,4,16")
    return tuple(sorted({int(part) for part in parts}))


def _shapes(flag: str, given: Sequence[str]) -> dict[str, Shape]:
    found = {}
    for text in given:
        name, _, axes = text.rpartition("=")
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", axes):
            raise KitError(f"--{flag} {text!r}: expected [NAME=]1x3x640x640")
        found[name] = tuple(int(n) for n in axes.split("x"))
    return found
