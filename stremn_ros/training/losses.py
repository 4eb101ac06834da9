"""Losses of the segmentation task."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def segmentation_loss(logits: Tensor, labels: Tensor, region_weight: float = 0.5) -> Tensor:
    """Cross entropy over {background, objects} plus the Dice loss of each object.

    Args:
        logits: [B, O + 1, H, W], aggregated; labels: [B, H, W] with 0..O.

    Returns:
        A scalar, the mean over the batch. An object absent from a frame still counts in the
        cross entropy; its Dice term is near one whenever anything is predicted.
    """
    labels = labels.long()
    cross_entropy = F.cross_entropy(logits, labels)
    objects = logits.shape[1] - 1
    probabilities = logits.softmax(dim=1)[:, 1:].flatten(2)
    truth = F.one_hot(labels, objects + 1)[..., 1:].movedim(-1, 1).flatten(2).to(logits.dtype)
    overlap = (probabilities * truth).sum(dim=-1)
    total = probabilities.sum(dim=-1) + truth.sum(dim=-1)
    dice = 1.0 - (2.0 * overlap + 50.0) / (total + 50.0)
    return cross_entropy + region_weight * dice.mean()


def mean_iou(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean intersection over union of the objects present, for the log. Same shapes as above."""
    predicted = logits.argmax(dim=1)
    scores = []
    for number in range(1, logits.shape[1]):
        truth, guess = labels == number, predicted == number
        union = (truth | guess).flatten(1).sum(dim=1)
        present = truth.flatten(1).any(dim=1)
        overlap = (truth & guess).flatten(1).sum(dim=1)
        scores.append((overlap / union.clamp(min=1))[present])
    found = torch.cat(scores)
    return found.mean() if len(found) else logits.new_tensor(float("nan"))
