"""Judges predictions on clips: a model and the baselines side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from stremn_ros.clip_state import forecast, to_images
from stremn_ros.errors import InputError
from stremn_ros.evaluation.plotting import new_figure, save_figure
from stremn_ros.evaluation.prediction_metrics import (
    Lpips,
    absolute_error,
    can_measure_ssim,
    psnr,
    squared_error,
    ssim,
)
from stremn_ros.evaluation.prediction_pictures import prediction_sheet
from stremn_ros.imaging.motion import FlowExtrapolation
from stremn_ros.imaging.video import write_image
from stremn_ros.model_folder import find_model, load_prediction_network
from stremn_ros.network.conv_lstm import ConvLstm
from stremn_ros.predictor import own_defaults
from stremn_ros.runtime.choose import choose_device

Images = NDArray[np.uint8]
# clips uint8 [N, T, H, W, C] and a horizon -> [N, horizon, C, H, W] in 0..1
Method = Callable[[Images, int], Tensor]
PICTURES = 6  # sheets of the first clips
MOST_PSNR = 100.0  # dB, of equal frames, so that a mean is finite
COPY, FLOW = "copy_last", "optical_flow"
METRICS = ("mse", "mae", "ssim", "ssim_gaussian", "psnr")


def to_tensor(images: Images) -> Tensor:
    """uint8 [..., H, W, C] -> float [..., C, H, W] in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, -3))).float() / 255.0


def copy_last(clips: Images, horizon: int) -> Tensor:
    """The newest frame again and again."""
    return to_tensor(np.repeat(clips[:, -1:], horizon, axis=1))


def optical_flow() -> Method:
    """The last movement goes on, by OpenCV's DIS optical flow."""
    flow = FlowExtrapolation()

    def method(clips: Images, horizon: int) -> Tensor:
        return to_tensor(np.stack([flow(clip[-2], clip[-1], horizon) for clip in clips]))

    return method


def model_method(model: str, colours: int, device: str = "auto") -> Method:
    """A model as a method.

    Raises:
        ModelError, InputError: it cannot be used on such frames.
        RuntimeUnavailableError: no such device.
    """
    folder = find_model(model)
    network, spec = load_prediction_network(folder)
    own = {} if isinstance(network, ConvLstm) else own_defaults(folder, spec)
    wanted = network.config.colours
    chosen = choose_device(device)
    network = network.to(chosen)
    options = {
        name: own[key]
        for name, key in (("slots", "slots"), ("rule", "update_rule"), ("update_every",) * 2)
        if key in own
    }

    def method(clips: Images, horizon: int) -> Tensor:
        tensor = to_tensor(clips)
        if colours != wanted:
            tensor = _recolored(tensor, wanted)
        future = forecast(network, tensor.to(chosen), horizon, **options)
        result = future.frames.cpu()
        return result if colours == wanted else _recolored(result, colours)

    return method


def _recolored(frames: Tensor, colours: int) -> Tensor:
    if colours == 3:
        return frames.expand(*frames.shape[:-3], 3, *frames.shape[-2:])
    weights = frames.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (frames * weights).sum(dim=-3, keepdim=True)


@dataclass
class Scores:
    """Sums over frames, by step ahead.

    Without scikit-image the structural similarities are left out where `needs_ssim` is False.
    """

    horizon: int
    needs_ssim: bool = True
    clips: int = 0
    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def add(self, prediction: Tensor, truth: Tensor, lpips: Lpips | None) -> None:
        """Predictions and truth, [N, horizon, C, H, W] in 0..1."""
        count = len(truth)
        a, b = prediction.flatten(0, 1), truth.flatten(0, 1)
        values = {
            "mse": squared_error(a, b),
            "mae": absolute_error(a, b),
            "psnr": psnr(a, b).clamp(max=MOST_PSNR),
        }
        if self.needs_ssim or can_measure_ssim():
            values |= {"ssim": ssim(a, b), "ssim_gaussian": ssim(a, b, gaussian=True)}
        if lpips is not None:
            values["lpips"] = lpips(a, b)
        for name, value in values.items():
            total = value.view(count, self.horizon).double().sum(dim=0).numpy()
            self.sums[name] = self.sums.get(name, np.zeros(self.horizon)) + total
        self.clips += count

    def steps(self, metric: str) -> NDArray[np.float64]:
        """Mean of a metric for each step ahead."""
        return self.sums[metric] / self.clips

    def mean(self, metric: str) -> float:
        """Mean of a metric over clips and steps."""
        return float(self.steps(metric).mean())

    def as_dict(self) -> dict[str, Any]:
        """Means, and the means of each step."""
        result: dict[str, Any] = {name: round(self.mean(name), 4) for name in self.sums}
        result["steps"] = {name: np.round(self.steps(name), 4).tolist() for name in self.sums}
        return result


@dataclass
class PredictionResult:
    """What an evaluation found.

    Attributes:
        settings: data, frames seen and predicted, and the like.
        scores: by method, over all clips; videos: by video, by method.
    """

    settings: dict[str, Any]
    scores: dict[str, Scores]
    videos: dict[str, dict[str, Scores]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        result: dict[str, Any] = {
            **self.settings,
            "clips": next(iter(self.scores.values())).clips,
            "methods": {name: scores.as_dict() for name, scores in self.scores.items()},
        }
        if self.videos:
            result["videos"] = {
                video: {name: scores.as_dict() for name, scores in methods.items()}
                for video, methods in self.videos.items()
            }
        return result

    def table(self, metrics: Iterable[str] = METRICS) -> str:
        """For people: a line a method, and PSNR by video where there are several."""
        metrics = list(metrics)
        if any("lpips" in scores.sums for scores in self.scores.values()):
            metrics.append("lpips")
        width = max(len(name) for name in self.scores) + 2
        lines = [" " * width + "".join(f"{metric:>15}" for metric in metrics)]
        for name, scores in self.scores.items():
            row = "".join(f"{scores.mean(metric):15.3f}" for metric in metrics)
            lines.append(f"{name:<{width}}{row}")
        if len(self.videos) > 1:
            names = list(self.scores)
            longest = max(len(video) for video in self.videos) + 2
            lines += ["", f"{'PSNR':<{longest}}" + "".join(f"{name:>18}" for name in names)]
            for video, methods in self.videos.items():
                values = [methods[name].mean("psnr") for name in names]
                best = max(values)
                row = "".join(f"{value:17.2f}{'*' if value == best else ' '}" for value in values)
                lines.append(f"{video:<{longest}}{row}")
        return "\n".join(lines)


def in_batches(
    clips: Iterable[tuple[str, Images]], size: int
) -> Iterator[tuple[list[str], Images]]:
    """Clips of one shape, up to ``size`` at a time."""
    names: list[str] = []
    waiting: list[Images] = []
    for name, frames in clips:
        if waiting and frames.shape != waiting[0].shape:
            yield names, np.stack(waiting)
            names, waiting = [], []
        names.append(name)
        waiting.append(frames)
        if len(waiting) == size:
            yield names, np.stack(waiting)
            names, waiting = [], []
    if waiting:
        yield names, np.stack(waiting)


def evaluate_prediction(
    batches: Iterable[tuple[list[str], Images]],
    methods: Mapping[str, Method],
    observe: int,
    horizon: int,
    *,
    lpips: Lpips | None = None,
    total: int | None = None,
    by_video: bool = False,
    pictures: Path | None = None,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
    on_batch: Callable[[PredictionResult], None] | None = None,
) -> PredictionResult:
    """Judges methods on clips.

    Args:
        batches: names, and uint8 [N, observe + horizon, H, W, C]; a clip of the video V is named
            ``V:frame``.
        methods: by name; their predictions are clipped to 0..1 and not rounded.
        total: clips, for the progress bar.
        by_video: also keep the scores of each video.
        pictures: folder for sheets of the first clips and, ``steps.png``, the errors by step.
        on_batch: given the result so far, marked as partial, after each batch.

    Raises:
        InputError: no clip at all, or one that is too short.
    """
    scores = {name: Scores(horizon) for name in methods}
    videos: dict[str, dict[str, Scores]] = {}
    drawn = 0
    everything = {"observe": observe, "horizon": horizon, **(settings or {})}
    with tqdm(total=total, unit="clip", disable=not progress) as bar:
        for names, clips in batches:
            if clips.shape[1] != observe + horizon:
                raise InputError(
                    f"{names[0]} has {clips.shape[1]} frames; {observe} + {horizon} are needed"
                )
            truth = to_tensor(clips[:, observe:])
            found = {}
            for name, method in methods.items():
                found[name] = method(clips[:, :observe], horizon).clamp(0.0, 1.0)
                scores[name].add(found[name], truth, lpips)
                for n, clip in enumerate(names if by_video else []):
                    video = videos.setdefault(clip.rsplit(":", 1)[0], {})
                    own = video.setdefault(name, Scores(horizon))
                    own.add(found[name][n : n + 1], truth[n : n + 1], lpips)
            for n, clip in enumerate(names):
                if pictures is None or drawn >= PICTURES:
                    break
                sheet = prediction_sheet(
                    _rgb(clips[n, :observe]),
                    _rgb(clips[n, observe:]),
                    {name: _rgb(to_images(frames[n])) for name, frames in found.items()},
                    clip,
                )
                write_image(pictures / f"{drawn:02d}.png", sheet)
                drawn += 1
            bar.update(len(names))
            if on_batch is not None:
                on_batch(PredictionResult({**everything, "partial": True}, scores, videos))
    if not next(iter(scores.values())).clips:
        raise InputError("there was no clip to judge on")
    if pictures is not None:
        _draw_steps(scores, pictures / "steps.png")
    return PredictionResult(everything, scores, videos)


def _rgb(images: Images) -> Images:
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def _draw_steps(scores: Mapping[str, Scores], path: Path) -> None:
    figure = new_figure(9, 3.6, dpi=110)
    axes = figure.subplots(1, 2)
    for axis, metric, title in zip(
        axes, ("mse", "psnr"), ("squared error per frame", "PSNR (dB)"), strict=True
    ):
        for name, own in scores.items():
            axis.plot(range(1, own.horizon + 1), own.steps(metric), "o-", label=name)
        axis.set_xlabel("steps ahead")
        axis.set_title(title)
        axis.grid(alpha=0.3)
    axes[0].legend()
    save_figure(figure, path)
