"""How alike two templates are, and one template's content moved to another's cells."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F


def slot_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Similarity of two templates by their keys (paper, Eq. 1-2).

    Args:
        a, b: keys [..., HW, C]; the leading dimensions broadcast.

    Returns:
        [...]: the mean over a's cells of the largest cosine with any cell of b, in -1..1. Not
        symmetric: an object that fills more of ``b`` than of ``a`` explains all of ``a``.
    """
    return mutual_similarity(a, b)[0]


def mutual_similarity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``slot_similarity`` of (a, b) and of (b, a), from one table of cosines; shapes as there."""
    cosine = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).transpose(-1, -2)
    return cosine.amax(dim=-1).mean(dim=-1), cosine.amax(dim=-2).mean(dim=-1)


def align(a: Tensor, b: Tensor) -> Tensor:
    """Feature alignment module FAM (paper, Eq. 3): b's content at a's cells.

    Args:
        a, b: templates [..., HW, C].

    Returns:
        [..., HW, C]: for each cell of ``a`` the mean of b's cells, weighted by the softmax of the
        dot products, scaled by 1/sqrt(C) as in STM's code.
    """
    # one head: the ONNX exporter takes this operation with four dimensions only
    a, b = a.unsqueeze(-3), b.unsqueeze(-3)
    scale = 1.0 / math.sqrt(a.shape[-1])
    return F.scaled_dot_product_attention(a, b, b, scale=scale).squeeze(-3)
