"""The command line's flags for classifiers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from handlers.errors import KitError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pictures, RGB, of values between 0 and 1: what nearly
every published classifier was trained with."""

MAX_SIDE = 4096
"""Largest side of a classifier's input, pixels."""

Three = tuple[float, float, float]


@dataclass(frozen=True)
class ClassifierOptions:
    """What the user asked of a classifier.

    Attributes:
        labels: file with one class name a line; None for numbers.
        mean, std: of the training pictures, RGB, of values between 0 and 1.
        resize, crop: pixels; None for what follows from the model's input.
        top_k: how many classes an answer holds.
        scores: what the model gives: "logits", "probabilities", or "auto" to look.
    """

    labels: Path | None = None
    mean: Three = IMAGENET_MEAN
    std: Three = IMAGENET_STD
    resize: int | None = None
    crop: int | None = None
    top_k: int = 5
    scores: str = "auto"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the classifier's flags in a group of their own."""
    group = parser.add_argument_group("classifiers")
    add = group.add_argument
    add(
        "--task",
        default="auto",
        choices=["auto", "classification", "tensors"],
        help="what the model does; auto is what its file says, or classification with --labels",
    )
    add("--labels", type=Path, metavar="FILE", help="class names, one a line, in the model's order")
    add("--mean", default=IMAGENET_MEAN, type=_three, metavar="R,G,B", help="of values 0 to 1")
    add("--std", default=IMAGENET_STD, type=_three, metavar="R,G,B", help="of values 0 to 1")
    add("--resize", type=int, metavar="PIXELS", help="shorter side (default: 256/224 of the crop)")
    add("--crop", type=int, metavar="PIXELS", help="side of the centre (default: the model's, 224)")
    add("--top-k", type=int, default=5, metavar="K", help="classes per answer")
    add(
        "--scores",
        default="auto",
        choices=["auto", "logits", "probabilities"],
        help="what the model answers; auto looks at its answers",
    )


def asked(given: argparse.Namespace) -> ClassifierOptions | None:
    """The classifier's options, checked; None where no classifier is asked for.

    Raises:
        KitError: a value that cannot be.
    """
    if given.task == "tensors" and given.labels:
        raise KitError("--task tensors has no use for --labels: leave one of them out")
    if given.task != "classification" and given.labels is None:
        return None
    for flag, value in (("--resize", given.resize), ("--crop", given.crop)):
        if value is not None and not 1 <= value <= MAX_SIDE:
            raise KitError(f"{flag} {value}: expected 1 to {MAX_SIDE} pixels")
    if given.top_k < 1:
        raise KitError(f"--top-k {given.top_k}: expected at least 1")
    if not all(s > 0 for s in given.std):
        raise KitError(f"--std {_shown(given.std)}: expected numbers above 0")
    return ClassifierOptions(
        labels=given.labels,
        mean=given.mean,
        std=given.std,
        resize=given.resize,
        crop=given.crop,
        top_k=given.top_k,
        scores=given.scores,
    )


def _shown(values: Sequence[float]) -> str:
    return ",".join(f"{v:g}" for v in values)


def _three(text: str) -> Three:
    """One number for all channels or three, each as ``0.5`` or ``1/255``."""
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(re.fullmatch(r"[\d./]+", p.strip()) for p in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected one number or three, such as 0.5 or 0.485,0.456,0.406"
        )
    try:
        values = [float(Fraction(p.strip())) for p in parts]
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers such as 0.5") from None
    red, green, blue = values * 3 if len(values) == 1 else values
    return red, green, blue
