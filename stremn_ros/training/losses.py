"""Losses of the segmentation task."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST_SHARE = 1e-4  # added to a share before its logarithm is taken


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


def presence_loss(presence: list[Tensor], labels: Tensor, given: Tensor) -> Tensor:
    """Cross entropy of the presence head, over the frames after an object was given.

    Args:
        presence: for frames 1..T-1 logits [B, O]; labels: [B, T, H, W] with 0..O; given: [B, O].

    Returns:
        A scalar, the mean over frames and objects; zero when none counts.
    """
    logits = torch.stack(presence, dim=1)
    objects = torch.arange(1, logits.shape[2] + 1, device=labels.device)
    there = (labels[:, 1:, :, :, None] == objects).flatten(2, 3).any(dim=2)
    frames = torch.arange(1, labels.shape[1], device=labels.device)[None, :, None]
    counts = frames > given[:, None]
    loss = F.binary_cross_entropy_with_logits(logits, there.to(logits.dtype), reduction="none")
    return (loss * counts).sum() / counts.sum().clamp(min=1)


def quality_loss(
    quality: list[Tensor], logits: list[Tensor], labels: Tensor, given: Tensor
) -> Tensor:
    """Cross entropy of the predicted IoU with the IoU that the mask has.

    Args:
        quality: for frames 1..T-1 logits [B, O]; logits: for the same frames [B, O + 1, H, W],
            aggregated; labels: [B, T, H, W] with 0..O; given: [B, O].

    Returns:
        A scalar, the mean over frames and objects that are given before the frame and are there
        or are predicted to be; zero when none counts.
    """
    losses, counted = [], []
    objects = torch.arange(1, quality[0].shape[1] + 1, device=labels.device)[:, None, None]
    for t, (predicted, maps) in enumerate(zip(quality, logits, strict=True), 1):
        guess = maps.detach().max(dim=1).indices[:, None] == objects  # [B, O, H, W]
        truth = labels[:, t, None] == objects
        union = (guess | truth).flatten(2).sum(dim=2)
        iou = (guess & truth).flatten(2).sum(dim=2) / union.clamp(min=1)
        counts = (union > 0) & (given < t)
        loss = F.binary_cross_entropy_with_logits(predicted.float(), iou.float(), reduction="none")
        losses.append((loss * counts).sum())
        counted.append(counts.sum())
    return torch.stack(losses).sum() / torch.stack(counted).sum().clamp(min=1)


def matching_loss(matches: list[Tensor], shares: Tensor, given: Tensor) -> Tensor:
    """How far each cell reads from cells of other things than it shows itself: trains the keys.

    The cross entropy of the share of an object in what a cell reads with its share in the cell, the
    mean over the object's cells plus the mean over all others.

    Args:
        matches: for frames 1..T-1 [B, O, h, w], as of ``unroll.Unrolled``; shares: the same of the
            true masks, [B, T, O, h, w]; given: [B, O].

    Returns:
        A scalar, the mean over frames and objects that are given before the frame; zero when none
        is.
    """
    losses, counted = [], []
    for t, match in enumerate(matches, 1):
        found, share = match.float().flatten(2), shares[:, t].flatten(2)
        # log p stays finite where nothing of the object is read, and so does its gradient
        inside = -(share * (found + LEAST_SHARE).log()).sum(dim=2)
        outside = -((1.0 - share) * (1.0 - found + LEAST_SHARE).log()).sum(dim=2)
        cells = share.sum(dim=2)
        others = share.shape[2] - cells
        loss = inside / cells.clamp(min=1.0) + outside / others.clamp(min=1.0)
        counts = given < t
        losses.append((loss * counts).sum())
        counted.append(counts.sum())
    return torch.stack(losses).sum() / torch.stack(counted).sum().clamp(min=1)


def known_labels(labels: Tensor, given: Tensor, t: int) -> Tensor:
    """Labels [B, H, W] of frame t without the objects that are not given before it.

    Args:
        labels: [B, T, H, W] with 0..O; given: [B, O] as in ``unroll.Unrolled``.
    """
    known = F.pad(given < t, (1, 0), value=True)  # of the background as well
    now = labels[:, t].long()
    return torch.where(known.gather(1, now.flatten(1)).view_as(now), now, 0)


def mean_iou(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean intersection over union of the objects present, for the log. Same shapes as above."""
    predicted = logits.max(dim=1).indices
    scores = []
    for number in range(1, logits.shape[1]):
        truth, guess = labels == number, predicted == number
        union = (truth | guess).flatten(1).sum(dim=1)
        present = truth.flatten(1).any(dim=1)
        overlap = (truth & guess).flatten(1).sum(dim=1)
        scores.append((overlap / union.clamp(min=1))[present])
    found = torch.cat(scores)
    return found.mean() if len(found) else logits.new_tensor(float("nan"))
