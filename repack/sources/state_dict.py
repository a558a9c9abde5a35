"""State dicts of any network that can be imported: ``--network module:Class``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from repack.sources.checks import check_tensors
from repack.sources.errors import NetworkMismatch, printable
from repack.sources.source import Source, sha256_of
from repack.sources.weights import Weights


def load(path: Path, weights: Weights, network: str) -> Source:
    """The state dict of ``path`` in a fresh instance of the class ``network``.

    Args:
        path: the file, for messages and the hash.
        weights: what was found in it.
        network: "package.module:Class", importable from the current folder or the Python path and
            constructed without arguments. Importing it runs the user's own code.

    Raises:
        NetworkMismatch: it cannot be imported or constructed.
        UnsupportedLayout: names or shapes of the tensors differ.
    """
    module = _construct(path, network)
    tensors = without_wrapper(weights.tensors)
    check_tensors(path, network, module.state_dict(), tensors)
    module.load_state_dict(tensors, strict=True)
    module.float().eval().requires_grad_(False)
    name = network.rpartition(":")[2]
    return Source(module, "state_dict", name, (), path, sha256_of(path), "tensors")


def without_wrapper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the "module." of data parallel or the "_orig_mod." of torch.compile."""
    for prefix in ("module.", "_orig_mod."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name[len(prefix) :]: tensor for name, tensor in tensors.items()}
    return tensors


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


def _construct(path: Path, network: str) -> nn.Module:
    place, colon, name = network.partition(":")
    if not colon or not name.isidentifier() or not all(p.isidentifier() for p in place.split(".")):
        raise NetworkMismatch(
            path,
            f"--network {printable(network, 80)!r}, expected module:Class",
        )
    try:
        with _current_folder_importable():
            found = getattr(importlib.import_module(place), name, None)
    except Exception as error:  # the user's module may raise anything
        raise NetworkMismatch(
            path,
            f"--network: module {place!r} cannot be imported ({type(error).__name__}: "
            f"{printable(error)}); run from its folder or put that on PYTHONPATH",
        ) from error
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        what = "has no" if found is None else "has something that is no torch.nn.Module named"
        raise NetworkMismatch(path, f"--network: module {place!r} {what} {name!r}")
    try:
        return found()
    except Exception as error:  # the user's class may raise anything
        raise NetworkMismatch(
            path,
            f"--network: {network} cannot be constructed without arguments "
            f"({type(error).__name__}: {printable(error)}); give its arguments defaults",
        ) from error
