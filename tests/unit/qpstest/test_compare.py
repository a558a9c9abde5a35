"""Histograms, files merged and files compared."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.errors import KitError
from qpstest import compare, histograms, stats
from qpstest.cli import main

DICE = random.Random(5)  # noqa: S311


def seconds(count: int) -> list[float]:
    return [DICE.lognormvariate(-3, 0.6) for _ in range(count)]


def run(
    values: list[float], rate: float, date: str = "10:00:00.000", **more: Any
) -> dict[str, Any]:
    return {
        "mode": 3, "batch": 1, "concurrency": None, "rate": 10.0, "arrivals": "poisson",
        "throughput": rate, "requests": len(values), "succeeded": len(values), "errors": {},
        "seconds": len(values) / rate, "latency_ms": stats.latency_ms(values),
        "histogram": histograms.encode(values),
        "date": f"2026-11-27T{date}+00:00", **more,
    }  # fmt: skip


def test_a_merged_histogram_is_that_of_all_requests() -> None:
    first, second = seconds(3000), seconds(500)
    total = histograms.merge([histograms.encode(first), histograms.encode(second)])
    found = histograms.latency_ms(total)
    exact = stats.latency_ms([*first, *second])
    for name, value in exact.items():
        assert found[name] == pytest.approx(value, rel=0.02), name
    assert found["p99"] == pytest.approx(np.percentile([*first, *second], 99) * 1e3, rel=0.02)
    values, counts = histograms.values(total)
    assert sum(counts) == 3500
    assert values == sorted(values)
    assert set(histograms.latency_ms(histograms.merge([])).values()) == {None}
    with pytest.raises(KitError, match="a histogram cannot be read"):
        histograms.merge(["nonsense"])


def test_merged_runs_add_up_where_they_ran_at_once() -> None:
    a, b = run(seconds(1000), 100.0), run(seconds(1000), 100.0)
    (merged,) = compare.merge([[a], [b]])
    assert merged["throughput"] == pytest.approx(200.0)
    assert merged["succeeded"] == 2000
    later = run(seconds(1000), 100.0, "10:05:00.000", errors={"400": 2})
    (merged,) = compare.merge([[a], [later]])
    assert merged["throughput"] == pytest.approx(100.0)
    assert merged["errors"] == {"400": 2}
    with pytest.raises(KitError, match="has no histogram"):
        compare.merge([[{**a, "histogram": None}]])


def test_ratios_and_what_counts_as_worse() -> None:
    base = run(seconds(500), 100.0)
    text, worse = compare.compare([base], [base], 5.0)
    assert not worse
    assert "1.000" in text
    assert "as good" in text
    slower = {**base, "throughput": 90.0}
    text, worse = compare.compare([base], [slower], 5.0)
    assert worse
    assert "0.900" in text
    assert "worse: throughput" in text
    assert not compare.compare([base], [slower], 11.0)[1]
    apart = {**slower, "rounds": [80.0, 90.0, 100.0]}
    text, worse = compare.compare([base], [apart], 5.0)
    assert not worse  # its own rounds lie 22 % apart
    assert "22.2%" in text
    tail = {**base, "latency_ms": {**base["latency_ms"], "p99": base["latency_ms"]["p99"] * 1.2}}
    assert "worse: p99" in compare.compare([base], [tail], 5.0)[0]
    dead = {**base, "throughput": 0.0, "latency_ms": dict.fromkeys(base["latency_ms"])}
    assert compare.compare([base], [dead], 5.0)[1]
    with pytest.raises(KitError, match="no mode and load in common"):
        compare.compare([base], [{**base, "rate": 11.0}], 5.0)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = run(seconds(500), 100.0)
    for name, entry in (("a", base), ("b", {**base, "throughput": 50.0})):
        (tmp_path / name).write_text(json.dumps({"runs": [entry]}))
    a, b, broken = (str(tmp_path / name) for name in "abc")
    assert main(["--compare", a, a]) == 0
    assert main(["--compare", a, b]) == 3
    assert main(["--compare", b, a]) == 0  # faster is not worse
    assert main(["--compare", a, b, "--tolerance", "60"]) == 0
    Path(broken).write_text("{}")
    assert main(["--compare", a, broken]) == 1
    assert main(["--compare", a, str(tmp_path / "none")]) == 1
    assert main(["--compare", a, b, "--tolerance", "-1"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert "holds no runs: a file that qpstest --json wrote was expected" in said[0]
    assert "No such file" in said[1]
    assert all(line.startswith("error: ") for line in said)
