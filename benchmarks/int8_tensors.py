"""What int8 costs a detector, by which layers keep their floats; simulated on a CPU.

    python benchmarks/int8_tensors.py [--model n] [--count 300] [--kept 1,1 2,1 2,4]

TensorRT 8 holds what a layer in int8 gives in int8, too, for all who read it. So here the weights
of all convolutions but the kept ones are rounded per channel, and every activation, sum, union and
pooled map, but for what lies between kept layers, is rounded to 255 steps over its range; ONNX
Runtime does the rest in 32-bit floats. ``--kept`` is the number of layers kept before the outputs
and after the inputs. ``n`` is the shipped YOLOv5n, ``s`` the YOLOv5s grown from it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks import grown, work  # noqa: E402
from examples.shapes import evaluate  # noqa: E402
from handlers import images  # noqa: E402
from repack.backends.tensorrt import onnx_file  # noqa: E402
from repack.model import GpuModel  # noqa: E402
from repack.networks.yolov5 import YOLOv5  # noqa: E402
from repack.onnx import float_layers, typed  # noqa: E402

SIDE = 640
CALIBRATION, SEED = 32, 33
HELD = ("Mul", "Add", "Concat", "MaxPool", "Resize")
"""Operators whose results lie in memory: activations (SiLU ends in Mul), sums, unions, maps."""


def main() -> None:
    """Prints mAP50-95 of the network in floats and of each choice of kept layers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["n", "s"], default="n")
    parser.add_argument("--count", type=int, default=300, help="held-out scenes")
    parser.add_argument("--kept", nargs="+", default=["1,1", "2,1", "2,4"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="int8-") as tmp:
        folder = Path(tmp)
        weights = evaluate.WEIGHTS if given.model == "n" else grown.yolov5s(folder / "s.pt")
        model = work.detector(weights)
        form = model.for_gpu()
        onnx_file.convert(form, folder / "floats.onnx")
        scenes = work.scenes(folder / "calibration", CALIBRATION, SEED)
        shown = [images.decode(path.read_bytes())[None] for path in sorted(scenes.iterdir())]
        ranges = typed.ranges(folder / "floats.onnx", [form.feed({"images": x}) for x in shown])
        module = cast(nn.Module, model.source.module)
        whole = Ran(folder / "floats.onnx", form, module)
        before = evaluate.evaluate(whole, given.count).map50_95
        print(f"{given.model}, {given.count} scenes, floats: {before:.4f}", flush=True)
        for kept in given.kept:
            float_layers.AT_OUTPUTS, float_layers.AT_INPUTS = map(int, kept.split(","))
            file = onnx.load(folder / "floats.onnx")
            rounded(file.graph, ranges)
            onnx.save(file, folder / "rounded.onnx")
            after = evaluate.evaluate(Ran(folder / "rounded.onnx", form, module), given.count)
            lost = 100 * (before - after.map50_95)
            print(f"kept {kept}: {after.map50_95:.4f}, {lost:.2f} points lost", flush=True)


def rounded(graph: GraphProto, ranges: Mapping[str, float]) -> None:
    """Rounds weights and tensors as described above, in place."""
    floats = float_layers.ends(graph)
    free = set(float_layers.between(graph, floats)) | {value.name for value in graph.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    values = {tensor.name: tensor for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        if node.op_type in float_layers.QUANTISED and node.name not in floats:
            _round_weights(values[node.input[1]])
        node.input[:] = [renamed.get(name, name) for name in node.input]
        nodes.append(node)
        name = node.output[0]
        # An activation that only a sum reads is added by the same kernel.
        added = [reader.op_type for reader in readers.get(name, [])] == ["Add"]
        if node.op_type in HELD and name not in free and not added:
            scale, zero = f"{name}/scale", f"{name}/zero"
            graph.initializer.append(
                helper.make_tensor(scale, TensorProto.FLOAT, [], [ranges[name] / 127])
            )
            graph.initializer.append(helper.make_tensor(zero, TensorProto.INT8, [], [0]))
            steps, renamed[name] = f"{name}/steps", f"{name}/rounded"
            nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [steps]))
            nodes.append(
                helper.make_node("DequantizeLinear", [steps, scale, zero], [renamed[name]])
            )
    del graph.node[:]
    graph.node.extend(nodes)


def _round_weights(tensor: TensorProto) -> None:
    weights = numpy_helper.to_array(tensor)
    largest = np.abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True)
    scale = np.where(largest > 0, largest, 1) / 127
    steps = np.round(weights / scale) * scale
    tensor.CopyFrom(numpy_helper.from_array(steps.astype(np.float32), tensor.name))


class Ran(nn.Module):
    """An ONNX file with the detector's maps, as the module that ``evaluate`` takes."""

    def __init__(self, path: Path, form: GpuModel, module: nn.Module):
        super().__init__()
        self.session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.head = cast(YOLOv5, module).head

    def forward(self, x: Tensor) -> Tensor:
        """Boxes ``[N, boxes, 5 + classes]`` of pictures ``[N, 3, H, W]`` in 0..1."""
        (given,) = self.session.get_inputs()
        maps = [
            np.ascontiguousarray(
                found.reshape(len(found), 3, -1, *found.shape[2:]).transpose(0, 1, 3, 4, 2)
            )
            for found in self.session.run(None, {given.name: x.numpy()})
        ]
        return torch.from_numpy(self.head.boxes(maps))


if __name__ == "__main__":
    main()
