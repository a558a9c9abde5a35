"""Non-maximum suppression appended to a detector's ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from handlers.boxes import CLASS_OFFSET


def append(source: Path, target: Path, confidence: float, iou: float, limit: int) -> None:
    """Adds output "detections" beside "boxes".

    Args:
        source: ONNX file with output "boxes" ``[N, B, 5 + classes]``, as ``handlers.boxes.nms``.
        target: the new file, with output "detections" ``[M, 7]`` float32 too: index in the batch,
            x1, y1, x2, y2 in pixels, confidence, class index. The same boxes as
            ``handlers.boxes.nms`` gives: classes are kept apart by an offset per class.
        confidence: boxes of at most this confidence are dropped.
        iou: overlap above which the less confident box of a class is dropped.
        limit: most boxes kept per picture.
    """
    model = onnx.load(source)
    graph = model.graph
    constants: dict[str, NDArray[Any]] = {
        "nms_0": np.array([0], np.int64),
        "nms_2": np.array([2], np.int64),
        "nms_4": np.array([4], np.int64),
        "nms_5": np.array([5], np.int64),
        "nms_end": np.array([np.iinfo(np.int64).max], np.int64),
        "nms_half": np.array(0.5, np.float32),
        "nms_offset": np.array(CLASS_OFFSET, np.float32),
        "nms_limit": np.array([limit], np.int64),
        "nms_iou": np.array([iou], np.float32),
        "nms_confidence": np.array([confidence], np.float32),
        "nms_columns": np.array([0, 2], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        graph.node.append(
            helper.make_node(op, inputs, [output], f"nms_{op}_{output}", **attributes)
        )

    def columns(first: str, last: str, output: str) -> None:
        node("Slice", ["boxes", first, last, "nms_2"], output)

    columns("nms_0", "nms_2", "nms_centre")
    columns("nms_2", "nms_4", "nms_size")
    columns("nms_4", "nms_5", "nms_objectness")
    columns("nms_5", "nms_end", "nms_classes")
    node("Mul", ["nms_size", "nms_half"], "nms_halfsize")
    node("Sub", ["nms_centre", "nms_halfsize"], "nms_low")
    node("Add", ["nms_centre", "nms_halfsize"], "nms_high")
    node("Concat", ["nms_low", "nms_high"], "nms_corners", axis=2)
    node("Mul", ["nms_classes", "nms_objectness"], "nms_scores")
    node("ReduceMax", ["nms_scores", "nms_2"], "nms_best", keepdims=1)
    node("ArgMax", ["nms_scores"], "nms_class_index", axis=2, keepdims=1)
    node("Cast", ["nms_class_index"], "nms_class", to=TensorProto.FLOAT)
    node("Mul", ["nms_class", "nms_offset"], "nms_shift")
    node("Add", ["nms_corners", "nms_shift"], "nms_apart")
    node("Transpose", ["nms_best"], "nms_by_class", perm=[0, 2, 1])
    node(
        "NonMaxSuppression",
        ["nms_apart", "nms_by_class", "nms_limit", "nms_iou", "nms_confidence"],
        "nms_selected",
    )
    node("Gather", ["nms_selected", "nms_columns"], "nms_where", axis=1)
    node("Gather", ["nms_selected", "nms_0"], "nms_picture_index", axis=1)
    node("Cast", ["nms_picture_index"], "nms_picture", to=TensorProto.FLOAT)
    for value in ("corners", "best", "class"):
        node("GatherND", [f"nms_{value}", "nms_where"], f"nms_{value}_kept")
    node(
        "Concat",
        ["nms_picture", "nms_corners_kept", "nms_best_kept", "nms_class_kept"],
        "detections",
        axis=1,
    )
    graph.output.append(
        helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["found", 7])
    )
    onnx.checker.check_model(model)
    onnx.save(model, target)
