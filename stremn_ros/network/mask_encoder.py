"""The light memory encoder: templates of the frame's own features and the objects' masks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class MaskEncoder(nn.Module):
    """Brings masks down to stride 16, where they meet the query encoder's features on the way.

    A second image encoder would see the same frame again. This one costs a small part of it (as
    the mask encoders of XMem and Cutie do, with less).

    Args:
        channels: of the query encoder at strides 4 and 8.
    """

    outputs = 96

    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        c4, c8 = channels
        self.masks4 = nn.Conv2d(2, 32, 8, stride=4, padding=2)
        self.masks8 = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.image8 = nn.Conv2d(c4, 64, 3, stride=2, padding=1)
        self.masks16 = nn.Conv2d(64, self.outputs, 3, stride=2, padding=1)
        self.image16 = nn.Conv2d(c8, self.outputs, 3, stride=2, padding=1)

    def forward(self, masks: Tensor, stride4: Tensor, stride8: Tensor) -> Tensor:
        """Features of objects.

        Args:
            masks: [N, 2, H, W] probabilities: the object's, and the other objects' sum.
            stride4, stride8: of the frame's Query, one row that all objects share, or N rows.

        Returns:
            [N, 96, H / 16, W / 16].
        """
        x = F.relu(self.masks4(masks))
        x = F.relu(self.masks8(x) + self.image8(stride4))
        return self.masks16(x) + self.image16(stride8)
