"""Sources and models as the command line would load them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from repack import pipeline, sources
from repack.model import Model
from repack.options import ClassifierOptions, DetectorOptions, Options, SourceOptions
from repack.sources.source import Source


def load(path: Path, network: str | None = None, **options: Any) -> Source:
    """The source in a file or folder; options are those of ``SourceOptions``."""
    return sources.load(SourceOptions(path, network=network, **options))


def model(path: Path, task: str = "auto", **options: Any) -> Model:
    """The model in a file or folder; options are those of ``Options``."""
    return pipeline.load(Options(SourceOptions(path), task=task, **options))


def detector(path: Path, imgsz: int, **settings: Any) -> Model:
    """A detector on pictures of ``imgsz`` pixels."""
    return model(path, detector=DetectorOptions(imgsz, **settings))


def classifier(source: Source, shapes: Mapping[str, Any] | None = None, **asked: Any) -> Model:
    """A source as a classifier; options are those of ``ClassifierOptions``."""
    from repack.tasks.classification.model import classifier as made

    return made(source, shapes or {}, ClassifierOptions(**asked))


def sized(options: Options, **gpu: Any) -> Options:
    """The options with other ones for a GPU."""
    return replace(options, gpu=replace(options.gpu, **gpu))
