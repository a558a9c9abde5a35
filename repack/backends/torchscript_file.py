"""TorchScript files that depend on the model alone."""

from __future__ import annotations

import io
from pathlib import Path

import torch

TRACES = ".debug_pkl"
"""End of the records that hold, for each operator, the Python stack that traced it: folders of the
machine, which nobody who loads the file needs."""

VERSIONS = ("version", ".data/version")
"""Where the format's version stands: in the second from 6 on, which newer operators ask for."""

WRITERS = (*VERSIONS, ".data/serialization_id")
"""Records that PyTorch's writer makes itself."""


def save(module: torch.jit.ScriptModule, path: Path) -> None:
    """Saves a module without stack traces: the same model gives the same bytes in any folder.

    The file is rewritten by PyTorch's own reader and writer, which keep weights aligned.

    Raises:
        OSError: the file cannot be written.
    """
    # Not straight into the file: where the disk is full, torch ends the whole process.
    saved, kept = io.BytesIO(), io.BytesIO()
    torch.jit.save(module, saved)
    saved.seek(0)
    reader = torch._C.PyTorchFileReader(saved)
    writer = torch._C.PyTorchFileWriter(kept)
    records = reader.get_all_records()
    for name in records:
        if name not in WRITERS and not name.endswith(TRACES):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    (version,) = (name for name in records if name in VERSIONS)
    writer.set_min_version(int(reader.get_record(version)))
    writer.write_end_of_file()
    path.write_bytes(kept.getbuffer())
