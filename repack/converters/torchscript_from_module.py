"""PyTorch module -> TorchScript file: the portable form, and the reference runtime."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch

from handlers.errors import KitError
from repack.subjects import Subject


def convert(subject: Subject, path: Path) -> None:
    """Traces the module (a TorchScript module is taken as it is) and freezes it.

    Raises:
        KitError: the module cannot be traced.
    """
    if subject.module is None:
        raise KitError("an ONNX file has no module to trace")
    module = subject.module
    if not isinstance(module, torch.jit.ScriptModule):
        example = subject.random_inputs(seed=1, batch=2)
        given = tuple(torch.from_numpy(example[s.name]) for s in subject.inputs)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                module = torch.jit.trace(module, given, check_trace=False)
            except Exception as e:
                reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
                raise KitError(f"the module cannot be traced ({reason})") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(module.eval()) if hasattr(module, "training") else module
        # Not straight into the file: where the disk is full, torch ends the whole process.
        out = io.BytesIO()
        torch.jit.save(frozen, out)
    path.write_bytes(out.getbuffer())
