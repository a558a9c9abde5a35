"""TensorRT for RTX, under the name that the kit imports.

Its API is that of TensorRT 11, and it builds engines on a machine without a GPU if it is told which
GPU to build for. Nothing else differs from the bindings. This folder goes onto the search path:
``sys.path`` for a test, ``PYTHONPATH`` for the processes that it starts.
"""

from __future__ import annotations

from typing import Any

import tensorrt_rtx_bindings as rtx

__version__ = rtx.__version__


class Builder(rtx.Builder):  # type: ignore[misc]
    """Builds for compute capability 8.6."""

    def create_builder_config(self) -> Any:
        config = super().create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(rtx.ComputeCapability.SM86, 0)
        return config

    def __del__(self) -> None:
        """Not the bindings' own, which only warns: a subclass's is called."""


def __getattr__(name: str) -> Any:
    return getattr(rtx, name)
