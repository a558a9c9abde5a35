"""What the load tester does with boxes at an angle: drawn."""

from __future__ import annotations

from repack.tasks.detection.load_test import DetectionLoadTest


class OrientedLoadTest(DetectionLoadTest):
    """As a detector's hooks."""

    usual_one = False


HOOKS = OrientedLoadTest()
