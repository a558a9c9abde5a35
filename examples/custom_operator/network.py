"""A small network with an operator of its own, which no exporter can know.

    python examples/custom_operator/network.py net.pt

writes its random weights as a state dict, and the traced network beside it.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


@torch.library.custom_op("kit_example::soft_clip", mutates_args=())
def soft_clip(x: Tensor, limit: float) -> Tensor:
    """``x`` bent into ``-limit`` to ``limit``, any shape."""
    return limit * torch.tanh(x / limit)


@soft_clip.register_fake
def _(x: Tensor, limit: float) -> Tensor:
    return torch.empty_like(x)


class Net(nn.Module):
    """``[N, 3, H, W]`` float32 to ``[N, 4, H, W]``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        bent: Tensor = torch.ops.kit_example.soft_clip(self.first(x), 0.5)
        result: Tensor = torch.asinh(self.second(bent))
        return result


def main() -> int:
    target = Path(sys.argv[1])
    torch.manual_seed(0)
    net = Net().eval()
    torch.save(net.state_dict(), target)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(net, torch.zeros(1, 3, 16, 16), check_trace=False)
        torch.jit.save(traced, str(target.with_suffix(".torchscript")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
