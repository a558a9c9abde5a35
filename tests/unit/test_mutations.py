"""Mends that the mutation run takes out are still there, in the one place that it knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.mutations import ROOT, Mutation, tables, written

EVERY = [one for table in tables().values() for one in table]


@pytest.mark.parametrize("one", EVERY, ids=lambda one: f"{one.row}-{one.what}")
def test_a_mend_can_be_taken_out(one: Mutation) -> None:
    text = one.taken_out(ROOT)
    if one.file.endswith(".py"):
        compile(text, one.file, "exec")
    test = one.test.split(" ", 1)[0].partition("::")[0]
    assert (ROOT / test).exists(), f"row {one.row}: no {test}"


def test_a_mend_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\nx = 1\n")
    for old, count in (("x = 2", 0), ("x = 1", 2)):
        gone = Mutation(7, "tests", "a mend", "a.py", old, "")
        with pytest.raises(ValueError, match=f"row 7: a.py has {count} times"):
            gone.taken_out(tmp_path)


def test_results_go_under_their_heading_and_those_of_earlier_runs_stay() -> None:
    one, other = (Mutation(n, "tests", "a mend", "a.py", "x", "y") for n in (1, 2))
    text = "# Title\n\n## Rows\n\nold\n\n## Server\n\nkept\n"
    first = written(text, "Rows", [one, other], {one: "red"})
    assert first.endswith("\n## Server\n\nkept\n")
    assert (
        "| 1 | `tests` | a mend (`a.py`) | yes |\n| 2 | `tests` | a mend (`a.py`) | not run |\n"
        in first
    )
    second = written(first, "Rows", [one, other], {other: "green"})
    assert "a mend (`a.py`) | yes |\n| 2 | `tests` | a mend (`a.py`) | green |\n" in second
    assert "old" not in second
