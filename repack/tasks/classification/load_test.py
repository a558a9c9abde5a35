"""What the load tester does with a classifier: pictures in, classes out, written over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repack.tasks.load_test import PicturesLoadTest


class ClassificationLoadTest(PicturesLoadTest):
    """A classifier's hooks."""

    holds = "classes"

    def title(self, answer: Mapping[str, Any]) -> str:
        best = answer["classes"][0] if answer["classes"] else None
        return f"{best['class']} {best['probability']:.3f}" if best else "no class"

    def agreement(
        self, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
    ) -> str:
        same, apart = 0, 0.0
        for a, b in zip(ours, theirs, strict=True):
            first = {c["class"]: c["probability"] for c in a["classes"]}
            second = {c["class"]: c["probability"] for c in b["classes"]}
            same += next(iter(first), None) == next(iter(second), None)
            apart = max([apart, *(abs(first[c] - second[c]) for c in first if c in second)])
        return (
            f"the same first class for {same} of {len(ours)} pictures, "
            f"probabilities within {apart:.4f}"
        )


HOOKS = ClassificationLoadTest()
