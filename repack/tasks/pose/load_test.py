"""What the load tester does with a pose estimator: boxes with points, drawn."""

from __future__ import annotations

from repack.tasks.detection.load_test import DetectionLoadTest


class PoseLoadTest(DetectionLoadTest):
    """As a detector's hooks."""

    usual_one = False


HOOKS = PoseLoadTest()
