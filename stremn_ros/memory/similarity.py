"""How alike two templates are, and one template's content moved to another's cells."""

from __future__ import annotations

import math

import torch
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


def change(frame_key: Tensor, keys: Tensor, shares: Tensor) -> Tensor:
    """How much objects look different from what their templates show: Eq. 1 of their cells alone.

    Args:
        frame_key: [HW, C] of a frame. keys: [N, M, C] of one object's cells in each row.
        shares: [N, HW], 0..1, of each cell that each object covers in the frame. Cells of which it
            covers half count, or the one it covers most where there is none.

    Returns:
        [N], 0..2: 1 - the mean over these cells of the largest cosine with any of ``keys``.
    """
    most = shares.amax(dim=1, keepdim=True).clamp(min=1e-6, max=0.5)
    counted = (shares >= most).to(keys.dtype)
    cosine = F.normalize(frame_key, dim=-1) @ F.normalize(keys, dim=-1).transpose(-1, -2)
    alike = (cosine.amax(dim=-1) * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1.0)
    return 1.0 - alike


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


def selective_terms(query_key: Tensor, memory_key: Tensor) -> tuple[Tensor, Tensor]:
    """Two vectors whose dot product is the affinity ``selective``, before its scale.

    Args:
        query_key: [..., hw, 2 Ck + 1]; memory_key: [..., M, Ck + 1].

    Returns:
        [..., hw, 2 Ck + 1] and [..., M, 2 Ck + 1].
    """
    channels = memory_key.shape[-1] - 1
    q, e = query_key[..., :channels], query_key[..., channels + 1 :]
    k, s = memory_key[..., :channels], memory_key[..., channels:]
    # -s sum e (q - k)^2 = e.(-s k^2) + (2 e q).(s k) - (sum e q^2) s
    weighted = e * q
    query = torch.cat([e, 2.0 * weighted, -(weighted * q).sum(dim=-1, keepdim=True)], dim=-1)
    scaled = s * k
    return query, torch.cat([-scaled * k, scaled, s], dim=-1)
