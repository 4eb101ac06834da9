"""Whether a mask is still of the object that was seeded, by what it reads of the seed.

The network's own score says how well a mask fits what the memory holds. Once the memory has taken
in something else, which the object touched, that fits, too. The seed stays as it was: an object's
cells read mostly the object in it, those of other things mostly what is beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F

from stremn_ros.gating.carried import Carried
from stremn_ros.gating.likeness import Likeness

STEADY = 0.95  # of what is usual, from frame to frame: what turns looks less like its seed
STRANGE = 0.55  # part of what is usual below which a doubtful mask is of something else


class Familiarity:
    """How much each object's mask reads of its seed, against how much is usual.

    Args:
        likeness: of the frame. before: what the memory carries of the frame before, of the objects
            of the first rows. logits: [O + 1, h, w] of the frame, aggregated.
    """

    def __init__(self, likeness: Likeness, before: Mapping[str, Tensor], logits: Tensor) -> None:
        count = len(logits) - 1
        self._places = before["seeded"][:count, 0].float()
        # a file may say anything
        self._usual = before["usual"][:count, 0].clamp(0.0, 1.0).tolist()
        masks = logits[1:] == logits.amax(dim=0)  # many times as fast as one_hot of argmax
        h, w = self._places.shape[-2:]
        covered = F.adaptive_avg_pool2d(masks.float(), (h, w))
        shares = (likeness.inside(n, covered[n], self._places[n]) for n in range(count))
        self._shares = list(shares)

    def judged(self, scores: Sequence[float], sure: float) -> list[float]:
        """Scores of which those below ``sure`` are lower where a mask reads much less than usual.

        They are multiplied by the part of the usual that it reads.
        """
        judged = list(scores)
        for n, (share, usual) in enumerate(zip(self._shares, self._usual, strict=True)):
            if share is not None and scores[n] < sure and share < STRANGE * usual:
                judged[n] *= share / usual
        return judged

    def carried(self) -> Carried:
        """What the memory carries to the next frame; 0: nothing is known yet."""
        usual = [
            known if share is None else STEADY * (known or share) + (1.0 - STEADY) * share
            for share, known in zip(self._shares, self._usual, strict=True)
        ]
        return {"usual": self._places.new_tensor(usual)[:, None]}
