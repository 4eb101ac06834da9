"""Where a thing will be, predicted from where it was. No state, no files."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REACH = 4  # pixels a frame: the fastest movement that is tracked
SMALLEST_SPREAD = 0.3  # pixels; below it the transport's gradient vanishes
WIDTH, CELL_WIDTH, STATE = 256, 64, 16
FARTHEST_OFF = 3.0  # pixels: where a past place is off a straight line, by more is by this


class Steer(nn.Module):
    """Paths of things, a step at a time, from where they were in the frames before.

    What is known of a thing gives a first velocity and a state; a cell then looks at where the
    thing has come to, changes both, and moves it on, so what happens at a place (an edge to bounce
    off) is learned once for all steps. Rows and columns are steered by the same weights, one axis
    at a time with the other beside it, and what is mirrored moves as in a mirror.

    Args:
        features: what else is known of a thing; horizon: steps ahead; past: earlier frames.
    """

    def __init__(self, features: int, horizon: int, past: int) -> None:
        super().__init__()
        self.features, self.horizon, self.past = features, horizon, past
        measured = 2 * (2 + 3 * past) + past + 1
        self.begin = nn.Sequential(
            nn.Linear(measured + features, WIDTH),
            nn.LeakyReLU(0.2),
            nn.Linear(WIDTH, WIDTH),
            nn.LeakyReLU(0.2),
            nn.Linear(WIDTH, WIDTH),
            nn.LeakyReLU(0.2),
            nn.Linear(WIDTH, 1 + STATE),
        )
        self.cell = nn.Sequential(
            nn.Linear(2 + STATE, CELL_WIDTH),
            nn.LeakyReLU(0.2),
            nn.Linear(CELL_WIDTH, CELL_WIDTH),
            nn.LeakyReLU(0.2),
            nn.Linear(CELL_WIDTH, 2 + STATE),
        )
        for part in (self.begin, self.cell):
            last = part[-1]
            assert isinstance(last, nn.Linear)
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)
        first = self.begin[0]
        assert isinstance(first, nn.Linear)
        # of no influence until they have learned to be: paths can be learned without them
        nn.init.zeros_(first.weight[:, measured:])

    def forward(
        self, centers: Tensor, size: tuple[int, int], where: Tensor, match: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Displacement and its standard deviation, in pixels, each [B, L, T, 2] (rows, columns).

        Args:
            centers: of gravity in the newest frame, in pixels [B, L, 2]; size: rows and columns of
            the frame; where: displacement in the frames before it, the newest first, in pixels
            [B, L, K, 2], K from 1 to ``past``; match: how sure that is [B, L, K], at most 1;
            features: [B, L, F].
        """
        known = where.shape[2]
        ages = torch.arange(1, known + 1, device=where.device, dtype=where.dtype)
        speeds = where / ages[:, None]
        # of the last frame alone it is too coarse, where there are more
        constant = -speeds[:, :, min(1, known - 1) : 4].mean(dim=2)
        # fractions of a pixel tell the velocity; beside the distances they would be lost
        off = where + constant[:, :, None] * ages[:, None]
        missing = self.past - known
        half = (torch.tensor(size, device=where.device, dtype=where.dtype) - 1.0) / 2.0
        # things lie on whole pixels, and the rounded center is the same on every one of them
        place = centers.round() / half - 1.0
        axes = torch.cat(
            [
                place[:, :, None],
                (centers / half - 1.0)[:, :, None],
                F.pad(where, (0, 0, 0, missing)) / (REACH * 2.0),
                F.pad(speeds, (0, 0, 0, missing)) / (REACH / 2.0),
                F.pad(off.clamp(-FARTHEST_OFF, FARTHEST_OFF), (0, 0, 0, missing)),
            ],
            dim=2,
        ).transpose(2, 3)
        shared = torch.cat([F.pad(match, (0, missing)), features], dim=2)
        shared = shared[:, :, None].expand(-1, -1, 2, -1)
        which = torch.tensor([0.0, 1.0], device=where.device, dtype=where.dtype)
        which = which.view(1, 1, 2, 1).expand(*shared.shape[:2], -1, -1)
        both = torch.cat([axes, axes.flip(2)], dim=3)
        sides = torch.tensor([1.0, -1.0], device=where.device, dtype=where.dtype)
        sides = sides.view(2, 1, 1, 1, 1)
        rest = torch.cat([which, shared], dim=3).expand(2, -1, -1, -1, -1)
        begun = self.begin(torch.cat([sides * both, rest], dim=4))
        velocity = sides * constant[..., None] + REACH * begun[..., :1]
        state = begun[..., 1:]
        start = sides * place[..., None]
        moved = torch.zeros_like(velocity)
        path, spread = [], []
        for step in range(1, self.horizon + 1):
            now = start + moved / half[:, None]
            change = self.cell(torch.cat([now, velocity / REACH, state], dim=4))
            velocity = velocity + REACH * change[..., :1]
            state = state + change[..., 2:]
            moved = moved + velocity
            path.append((moved[0] - moved[1]) / 2.0)
            wide = F.softplus(change[..., 1:2].mean(dim=0) + 0.5)
            spread.append(0.5 * (1.0 + 0.3 * step) * wide + SMALLEST_SPREAD)
        return tuple(  # type: ignore[return-value]
            torch.cat(steps, dim=3).transpose(2, 3) for steps in (path, spread)
        )
