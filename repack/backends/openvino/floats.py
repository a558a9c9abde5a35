"""What int8 leaves in floats of OpenVINO's graph: its two ends, told by what reads what."""

from __future__ import annotations

from typing import Any

from repack.onnx.float_layers import MOVING, SOFTMAX

HEAVY = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"}
"""OpenVINO's operations whose multiplications make up a network's cost."""


def left(model: Any) -> set[str]:
    """Names of the operations that int8 leaves as they are."""
    return _first(model) | _tail(model)


def _first(model: Any) -> set[str]:
    """The first layers behind inputs of floats.

    Such an input has no bounds, and int8 cuts off what lies outside the calibration's: with it the
    vessels net's masks of other windows fell to a Dice of 0.17. A picture of bytes has bounds.

    None where they are half of the layers or more.
    """
    found: set[str] = set()
    waiting = [p for p in model.get_parameters() if p.get_element_type().is_real()]
    seen = {node.get_friendly_name() for node in waiting}
    while waiting:
        for output in waiting.pop().outputs():
            for target in output.get_target_inputs():
                node = target.get_node()
                if node.get_type_name() in HEAVY:
                    found.add(node.get_friendly_name())
                elif node.get_type_name() != "ShapeOf" and node.get_friendly_name() not in seen:
                    seen.add(node.get_friendly_name())
                    waiting.append(node)
    layers = sum(op.get_type_name() in HEAVY for op in model.get_ops())
    return found if 2 * len(found) < layers else set()


def _tail(model: Any) -> set[str]:
    """What leads to the outputs and to no layer: a detector's decoding, with its coordinates of
    pixels beside scores of 0..1, and suppression. It costs next to nothing.

    Among it a layer that averages by a softmax's shares, as the sides of a box are decoded in
    YOLOv8 and its kin. With the tail in int8 a YOLOv8n lost 8.8 points of mAP50-95, with it in
    floats 0.5, and with the last convolutions beside it 0.4.
    """
    found: set[str] = set()
    means = _means(model)
    for node in reversed(model.get_ordered_ops()):
        name = node.get_friendly_name()
        readers = {
            target.get_node().get_friendly_name()
            for output in node.outputs()
            for target in output.get_target_inputs()
        }
        if readers <= found and (node.get_type_name() not in HEAVY or name in means):
            found.add(name)
    return found


def _means(model: Any) -> set[str]:
    """The layers that multiply a softmax's shares by constants."""
    shares: set[str] = set()
    found: set[str] = set()
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), node.get_friendly_name()
        fed = [value.get_node() for value in node.input_values()]
        if kind == SOFTMAX:
            shares.add(name)
        elif fed and fed[0].get_friendly_name() in shares:
            if kind in MOVING:
                shares.add(name)
            elif kind in HEAVY and fed[1].get_type_name() == "Constant":
                found.add(name)
    return found
