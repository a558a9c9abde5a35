"""The volume benchmark's table says what was found beside what was wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import volumes
from benchmarks.volumes_table import table

FOLDER = Path(volumes.__file__).parent / "results"
RESULTS = [FOLDER / "volumes.json", *sorted(FOLDER.glob("volumes_vnni*.json"))]


def run(side: str, infer: float, p50: float) -> dict[str, Any]:
    stages = {"decode": 40.0, "infer": infer, "encode": 0.5}
    latency = {"p50": p50}
    return {"side": side, "runtime": "openvino", "precision": "bf16", "stages_ms": stages,
            "latency_ms": latency}  # fmt: skip


def test_ratios_and_memory_by_hand() -> None:
    memory = {"loaded": 200.0, "one_window": 300.0, "peak": 350.0}
    fast, slow = volumes.SIDES
    text = table(
        {
            "command": "python benchmarks/volumes.py",
            "date": "2026-01-01",
            "machine": {"cpu": "a CPU", "cores": 2, "load_average": [0.5]},
            "weights_sha256": "0" * 64,
            "shape_zyx": (4, 5, 6),
            "volume_float32_mb": 20.0,
            "runs": [run(fast, 100.0, 150.0), run(slow, 800.0, 900.0)],
            "memory_mb": {fast: memory, slow: memory},
            "dice": {
                "against_the_original": {fast: {"airway": 0.9991}, slow: {"airway": 1.0}},
                "against_the_truth": {"original": {"airway": 0.9}, fast: {"airway": 0.89}},
            },
        },
        volumes.SIDES,
    )
    assert "# A volume of 6x5x4 voxels" in text
    assert "| infer | 800 | 100 | 8.00 |" in text
    assert "| preprocess | - | - | - |" in text  # no such stage came
    assert "| encode | 0 | 0 | - |" in text  # under a millisecond: no ratio
    assert "| end to end against served TorchScript | 6.00 x | 5 x |" in text
    assert "| Dice against the original, airway | 0.99910 | 0.998 |" in text
    assert "in float32 volumes of 20 MB | 2.50 | 3 |" in text


@pytest.mark.parametrize("recorded", RESULTS, ids=lambda path: path.stem)
def test_the_recorded_table_is_that_of_the_recorded_figures(recorded: Path) -> None:
    figures = json.loads(recorded.read_text(encoding="utf-8"))
    assert recorded.with_suffix(".md").read_text("utf-8") == table(figures, volumes.SIDES)
