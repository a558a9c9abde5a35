"""Request bodies that the tests share."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

ARRAY = np.arange(192, dtype=np.float32).reshape(1, 3, 8, 8) / 192


def npy(value: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, value)
    return out.getvalue()


def form(*parts: tuple[str, str, bytes]) -> tuple[bytes, str]:
    """A multipart form of (field, file name, content), and its content type."""
    lines = []
    for field, file, content in parts:
        extra = f'; filename="{file}"\r\nContent-Type: image/jpeg' if file else ""
        head = f'--edge\r\nContent-Disposition: form-data; name="{field}"{extra}\r\n\r\n'
        lines.append(head.encode() + content + b"\r\n")
    return b"".join(lines) + b"--edge--\r\n", "multipart/form-data; boundary=edge"
