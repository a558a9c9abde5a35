"""Models of others, packed and served, answer as in their own runtime.

``ANY_MODEL`` names the folder of ``any_model.py``'s environments and references.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.parity import any_model
from tests.parity.any_model_table import MODELS


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_models_of_others_answer_as_in_their_own_runtime(tmp_path: Path) -> None:
    if "ANY_MODEL" not in os.environ:
        pytest.skip("ANY_MODEL names no folder: see tests/parity/any_model.py")
    work = Path(os.environ["ANY_MODEL"]).resolve()
    results = {name: any_model.pack_all(name, work, tmp_path) for name in MODELS}
    any_model.ask_all(results, work, tmp_path)
    assert any_model.wrong(results) == []
