"""Labels of sigmoids that lie in each other: which is written over which, where nobody said it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from repack.model import Arrays, Model
from repack.progress import say
from repack.tasks.segmentation import compare
from repack.tasks.segmentation.model import OUTPUT

INSIDE = 0.5
"""Two labels are nested where they share more than this part of the smaller one."""


def settled(model: Model, answers: Sequence[Arrays]) -> Model:
    """The model with an order of its labels, told by the original's answers.

    A label that lies in another one must be written after it. Labels that do not overlap stay in
    the order of the list, and so do those of which no answer holds anything. What is chosen is
    said, and so is a label that never reaches a mask.
    """
    if not answers:
        return model
    settings, labels = model.settings, model.source.labels
    answer = settings["answer"]
    if answer["kind"] == "sigmoid_threshold" and len(labels) > 2 and "written" not in answer:
        order, known = _order(answers, model)
        names = ", then ".join(labels[1 + i] for i in order)
        if not known:
            say(
                f"    warning: not every label is found in the gate's inputs, so which lies in "
                f"which is not known: written are {names}; give --samples that hold all, or "
                "answer.order in the YAML"
            )
        elif order != sorted(order):
            say(
                f"    note: labels lie in each other: written are {names}, each over those before; "
                "for another order give answer.order in the YAML"
            )
        settings = {**settings, "answer": {**answer, "written": order}}
    for name in compare.hidden(answers, settings, labels):
        say(f"    warning: no mask holds {name}: wherever it is found, another is written over it")
    return replace(model, settings=settings)


def _order(answers: Sequence[Arrays], model: Model) -> tuple[list[int], bool]:
    """The channels in the order of writing, the larger before what lies in it; and whether each
    label was found."""
    count = len(model.source.labels) - 1
    both = np.zeros((count, count))
    for answer in answers:
        found = [mask.reshape(-1) for mask in compare.masks(answer[OUTPUT], model.settings)]
        both += [[np.count_nonzero(a & b) for b in found] for a in found]
    sizes = both.diagonal()
    least = np.minimum(sizes[:, None], sizes[None])
    nested = (both > INSIDE * least) & ~np.eye(count, dtype=bool)
    order = sorted(range(count), key=lambda i: -sizes[i]) if nested.any() else range(count)
    return list(order), bool(sizes.all())
