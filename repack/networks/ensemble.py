"""Several trained copies of one network, answering as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn


class Mean(nn.Module):
    """The mean of what its members answer.

    Input: whatever each member takes. Output: as each member's. A sliding window's weighted sum is
    linear, so the mean of logits per window is the mean of the members' whole volumes.
    """

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        total = cast(Tensor, self.members[0](x))
        for member in list(self.members)[1:]:
            total = total + member(x)
        return total / len(self.members)
