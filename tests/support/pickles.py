"""Checkpoints for the tests of ``repack.sources``, all made in code."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from repack.networks import blocks, yolov5

PUBLISHED = {
    blocks.Conv: "models.common",
    blocks.Bottleneck: "models.common",
    blocks.C3: "models.common",
    blocks.SPPF: "models.common",
    yolov5.Concat: "models.common",
    yolov5.Detect: "models.yolo",
    yolov5.YOLOv5: "models.yolo",
}
"""Where the published checkpoints' pickles say that these classes live."""


def network(size: str = "yolov5n", classes: int = 2, seed: int = 0) -> yolov5.YOLOv5:
    """A small detector with random weights, rounded to fp16 and back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = yolov5.YOLOv5(size, classes)
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
                norm.running_mean.normal_(0, 0.1)
    return module.half().float().eval()


@contextmanager
def published_names(package: str = "") -> Iterator[None]:
    """Our classes under the names of the published pickles, so that ``torch.save`` writes those."""
    modules: dict[str, types.ModuleType] = {}
    before = {c: (c.__module__, c.__qualname__) for c in PUBLISHED}
    for c, place in PUBLISHED.items():
        name = package + place
        for i, _ in enumerate(name.split(".")):
            part = ".".join(name.split(".")[: i + 1])
            modules.setdefault(part, types.ModuleType(part))
        setattr(modules[name], c.__name__, c)
        c.__module__ = name
    hidden = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(hidden)
        for c, (module, qualname) in before.items():
            c.__module__, c.__qualname__ = module, qualname


def save_whole(path: Path, content: object, package: str = "", legacy: bool = False) -> Path:
    """``torch.save`` of pickled whole modules under the published names."""
    with published_names(package), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the old format wants the classes' source
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def zip_with(
    path: Path,
    pickled: bytes,
    storages: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """A file like those of ``torch.save``, of a pickle and storages of the test's making."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", b"3\n")
    return path


class Attack:
    """Pickles to a call of ``function(*args)``."""

    def __init__(self, function: Callable[..., Any], *args: object):
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def text(value: str) -> bytes:
    """The opcode that pushes ``value``."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def stack_global(module: str, name: str) -> bytes:
    """The opcodes that push ``module.name`` in protocol 4."""
    return text(module) + text(name) + b"\x93"


def pickled(value: object, protocol: int = 2) -> bytes:
    """``pickle.dumps``."""
    stream = io.BytesIO()
    pickle.Pickler(stream, protocol).dump(value)
    return stream.getvalue()
