"""What the load tester does with an instance segmentation net: boxes with masks, drawn."""

from __future__ import annotations

from repack.tasks.detection.load_test import DetectionLoadTest


class InstancesLoadTest(DetectionLoadTest):
    """As a detector's hooks."""

    usual_one = False


HOOKS = InstancesLoadTest()
