"""The scorer of the rule ``learned``: how good it would be to fuse slot i into slot j.

After the authors' later version (arXiv 2109.06474v2), which learns the choice with Gumbel-Softmax;
the architecture is our own, as small as it can be.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PairScorer(nn.Module):
    """Scores every ordered pair of an object's unlocked slots.

    Args:
        channels: C of the templates; width: of the description of one template.
    """

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        self.describe = nn.Linear(channels, width)
        self.judge = nn.Sequential(nn.Linear(3 * width + 4, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, templates: Tensor, similarity: Tensor) -> Tensor:
        """Templates [N, n, C, h, w], oldest first, and S(i, j) [N, n, n] -> scores [N, n, n]."""
        count = templates.shape[1]
        about = torch.tanh(self.describe(templates.mean(dim=(-2, -1))))  # [N, n, width]
        i = about[:, :, None].expand(-1, -1, count, -1)
        j = about[:, None].expand(-1, count, -1, -1)
        age = torch.linspace(1.0, 0.0, count, device=about.device, dtype=about.dtype)
        similarity = similarity.to(about.dtype)
        numbers = torch.stack(
            [
                similarity,
                similarity.transpose(1, 2),
                age[:, None].expand_as(similarity),
                age.expand_as(similarity),
            ],
            dim=-1,
        )
        score: Tensor = self.judge(torch.cat([i, j, i * j, numbers], dim=-1))
        return score.squeeze(-1)
