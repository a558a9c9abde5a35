"""A package that cannot be loaded is told in one line, whatever it does to the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.errors import KitError
from repack.backends import aotinductor as converter

CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


def test_a_crash_while_loading_is_told_and_ends_nothing_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converter, "LOAD", CRASH)
    with pytest.raises(KitError, match=r"loading the package ends a process \(SIGSEGV") as told:
        converter._try_loading(tmp_path / "model.pt2")
    assert "\n" not in str(told.value)


def test_a_file_that_is_no_package_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"no package")
    with pytest.raises(KitError, match="the package does not load") as told:
        converter._try_loading(tmp_path / "model.pt2")
    assert "\n" not in str(told.value)
