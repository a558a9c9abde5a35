"""TorchScript files: the module carries its own code, which runs when the module is called."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import cast

import torch
from torch import nn

from repack.sources.errors import UnreadableFile, printable
from repack.sources.source import Source, sha256_of


def load(path: Path) -> Source:
    """Any TorchScript file, on the CPU, in evaluation mode, its parameters as float32.

    Raises:
        UnreadableFile: damaged, or it needs operators that this torch does not have.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit as a whole
            module = cast(nn.Module, torch.jit.load(str(path), map_location="cpu"))
    except (RuntimeError, ValueError, OSError) as error:
        raise UnreadableFile(
            path,
            f"a TorchScript file that torch {torch.__version__} cannot load ({printable(error)})",
        ) from error
    module.eval().float()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    network = str(getattr(module, "original_name", "") or type(module).__name__)
    return Source(module, "torchscript", network, (), path, sha256_of(path), "tensors")
