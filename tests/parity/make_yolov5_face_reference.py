"""A small checkpoint of the public YOLOv5-face project's own code, and what that answers.

Runs in the environment of ``make_yolov5_reference.py``, with a checkout of the project:

    python make_yolov5_face_reference.py CHECKOUT OUT

writes ``yolov5n-face_tiny.pt.xz`` and ``.npz``, the files under tests/data/: random weights of a
tenth of the channels, batch statistics of two pictures.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import lzma
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch


def main() -> None:
    checkout, out = (Path(argument) for argument in sys.argv[1:3])
    sys.path.insert(0, str(checkout))
    import yaml
    from models import yolo

    torch.manual_seed(2)
    told = yaml.safe_load((checkout / "models" / "yolov5n.yaml").read_text())
    network = yolo.Model({**told, "width_multiple": 0.1})
    given = np.random.default_rng(2).integers(0, 256, (2, 8, 12, 3), np.uint8)
    given = given.repeat(8, 1).repeat(8, 2)
    batch = torch.from_numpy(given).permute(0, 3, 1, 2).float() / 255
    settle(network, torch.cat((batch, batch.flip(2))))
    network.names = ["face"]
    with torch.no_grad():
        answer = network.half().float().eval()(batch)[0].numpy()
    path = out / "yolov5n-face_tiny.pt"
    torch.save({"model": network.half(), "ema": None, "epoch": -1}, path)
    packed = lzma.compress(path.read_bytes(), preset=9 | lzma.PRESET_EXTREME)
    path.with_suffix(".pt.xz").write_bytes(packed)
    path.unlink()
    np.savez_compressed(path.with_suffix(".npz"), inputs=given, answer=answer)
    print(len(packed), answer.shape)


@torch.no_grad()
def settle(network: Any, batch: torch.Tensor) -> None:
    """Batch statistics, then a head whose values spread as a trained one's."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.3
            torch.nn.init.uniform_(module.weight, 0.8, 1.6)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    network.train()
    for _ in range(6):
        network(batch)
    network.eval()
    head = network.model[-1]
    for convolution in head.m:
        torch.nn.init.normal_(convolution.weight)
        convolution.bias.zero_()
    wanted = torch.ones(head.no)
    wanted[:4] = wanted[5:15] = 0.6
    for convolution, values in zip(head.m, network(batch)[1], strict=True):
        seen = values.movedim((1, 4), (0, 1)).flatten(2)  # [anchors, values, cells of all]
        share = wanted / seen.std(2)
        convolution.weight.view(head.na, head.no, -1).mul_(share[..., None])
        bias = convolution.bias.view(head.na, head.no)
        bias -= seen.mean(2) * share
        bias[:, 4] -= 3.0
        bias[:, 15:] += 1.5


if __name__ == "__main__":
    main()
