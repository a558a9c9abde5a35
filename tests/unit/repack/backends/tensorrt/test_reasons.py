"""Why no engine was built: the node that TensorRT means, in the model's own words."""

from __future__ import annotations

from repack.backends.tensorrt.reasons import with_node
from tests.support import made


def test_a_reason_is_given_its_node_by_number_or_name() -> None:
    path = made.tiny_onnx()
    numbered = with_node(path, "TensorRT's ONNX parser: node 2: no importer")
    assert numbered.endswith("operator Conv, node 'second' (fed by Relu 'relu' and weight "
                             "'second.weight')")  # fmt: skip
    assert "operator Relu, node 'relu'" in with_node(path, "no kernel for {relu}")
    assert with_node(path, "out of luck") == "out of luck"
    assert with_node(path, "node 99: who knows") == "node 99: who knows"
