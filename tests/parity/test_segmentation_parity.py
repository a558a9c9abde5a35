"""Masks of a real TorchServe against those of the real packages (README.md here).

``NNUNET_REFERENCE`` and ``MONAI_REFERENCE`` name the folders that the scripts wrote.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.parity import compare_segmentation
from tests.parity.compare_segmentation import LEAST_DICE, Reference, answered, served


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("package", ["nnunet", "monai"])
def test_masks_equal_those_of_the_real_package(package: str, tmp_path: Path) -> None:
    variable = f"{package.upper()}_REFERENCE"
    if variable not in os.environ:
        pytest.skip(f"{variable} names no folder: see tests/parity/README.md")
    references: Callable[[Path], Iterator[Reference]] = getattr(compare_segmentation, package)
    count = 0
    for reference in references(Path(os.environ[variable])):
        for case, found, grid in answered(reference, tmp_path, way=served):
            assert found, (reference.name, case)
            assert min(found.values()) >= LEAST_DICE, (reference.name, case, found)
            assert grid, (reference.name, case)
            count += 1
    assert count
