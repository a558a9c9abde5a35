"""What the load tester does with a semantic segmentation net: pictures in, label maps drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repack.tasks.load_test import PicturesLoadTest

NAMED = 3
"""Classes in the title, the largest."""


class SemanticLoadTest(PicturesLoadTest):
    """The hooks of a semantic segmentation net."""

    holds = "classes"

    def drawing(self, picture: Any, answer: Mapping[str, Any]) -> Any:
        from handlers import semantic

        found = label_map(answer)
        names = {c["class_id"]: c["class"] for c in answer["classes"]}
        return semantic.draw(picture, found, [names.get(i, "") for i in range(found.max() + 1)])

    def title(self, answer: Mapping[str, Any]) -> str:
        return ", ".join(f"{c['class']} {c['share']:.1%}" for c in answer["classes"][:NAMED])

    def agreement(
        self, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
    ) -> str:
        from repack.tasks.semantic.compare import confusion, ious

        maps = [(label_map(a), label_map(b)) for a, b in zip(ours, theirs, strict=True)]
        known = 1 + max(int(found.max()) for pair in maps for found in pair)
        table = confusion(*maps[0], known)
        for a, b in maps[1:]:
            table += confusion(a, b, known)
        there = table.sum(0) + table.sum(1) > 0
        return (
            f"{table.trace() / table.sum():.3%} of the pixels in the same class, mean intersection "
            f"over union {ious(table)[there].mean():.4f}"
        )


HOOKS = SemanticLoadTest()


def label_map(answer: Mapping[str, Any]) -> Any:
    """The class of each pixel, ``[height, width]``, of the run lengths in an answer."""
    import numpy as np

    height, width = answer["image"]["height"], answer["image"]["width"]
    found = np.zeros(height * width, np.uint16)
    for one in answer["classes"]:
        counts = one["mask"]["counts"]
        found[np.repeat(np.arange(len(counts)) % 2, counts) > 0] = one["class_id"]
    return found.reshape(width, height).T
