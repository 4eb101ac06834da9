"""Pictures of an evaluation: strips of frames with masks, bars of the sequences."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from stremn_ros.evaluation.davis_data import DavisSequence, Truth
from stremn_ros.evaluation.davis_result import DavisResult, SequenceScore
from stremn_ros.evaluation.plotting import new_figure, save_figure
from stremn_ros.imaging.video import read_image, write_image
from stremn_ros.imaging.visualization import contact_sheet, drawable, overlay


def strip(
    sequence: DavisSequence, truth: Truth, shown: dict[int, np.ndarray], frame_j: dict[int, float]
) -> np.ndarray:
    """The given mask, three frames on the way, the worst frame and the last scored, in a row."""
    worst = min(frame_j, key=lambda index: frame_j[index])
    times = sorted(frame_j)
    chosen = {times[round(share * (len(times) - 1))] for share in (0.25, 0.5, 0.75, 1.0)}
    if worst in chosen:
        chosen.add(times[round(0.1 * (len(times) - 1))])
    frames, captions = [], []
    for index in sorted({min(truth.given.values()), worst} | chosen):
        frame = overlay(read_image(sequence.images[index]), shown[index], outline=False)
        thickness = max(1, round(frame.shape[1] / 430))
        right = truth.labels[index]
        if right is not None and index in frame_j:
            for label in truth.ids:
                contours, _ = cv2.findContours(
                    (right == label).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
                )
                cv2.drawContours(frame, contours, -1, (255, 255, 255), thickness)
        frames.append(frame)
        name = sequence.images[index].stem
        if index not in frame_j:
            captions.append(f"{sequence.name} {name} given")
        else:
            tag = " worst" if index == worst else ""
            captions.append(f"{sequence.name} {name}{tag}  J {100 * frame_j[index]:.1f}")
    while len(frames) < 6:  # a very short sequence
        frames.append(np.zeros_like(frames[0]))
        captions.append("")
    return contact_sheet(frames, None, 6, captions, tile_width=300)


def draw(result: DavisResult, folder: Path) -> None:
    ranked = sorted(result.sequences, key=lambda sequence: sequence.j + sequence.f)
    strips: list[np.ndarray] = []
    for sequence in ranked[:5]:
        if sequence.picture is not None:
            head = np.full((34, sequence.picture.shape[1], 3), 24, np.uint8)
            text = (
                f"{drawable(sequence.name)}   J&F {50 * (sequence.j + sequence.f):.1f}   "
                f"J {100 * sequence.j:.1f}   F {100 * sequence.f:.1f}"
            )
            if not strips:
                text += "   (tint: predicted, white line: true outline)"
            cv2.putText(
                head, text, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 220, 120), 1, cv2.LINE_AA
            )
            strips.append(np.concatenate([head, sequence.picture]))
    write_image(folder / "worst_sequences.png", np.concatenate(strips))
    _draw_bars(ranked, result, folder / "scores.png")


def _draw_bars(ranked: list[SequenceScore], result: DavisResult, path: Path) -> None:
    figure = new_figure(8, 1.4 + 0.32 * len(ranked))
    axes = figure.add_subplot()
    rows = np.arange(len(ranked))
    axes.barh(rows + 0.2, [100 * sequence.j for sequence in ranked], 0.38, label="J (region)")
    axes.barh(rows - 0.2, [100 * sequence.f for sequence in ranked], 0.38, label="F (contour)")
    names = [sequence.name.encode(errors="replace").decode() for sequence in ranked]
    axes.set_yticks(rows, names, parse_math=False)
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    mean = 50 * (result.mean("j") + result.mean("f"))
    axes.axvline(mean, color="black", linestyle="--", linewidth=1, label=f"mean J&F {mean:.1f}")
    axes.set_xlim(0, 100)
    axes.set_xlabel("percent")
    axes.set_title("Partial result" if result.partial else f"Split {result.settings['split']}")
    axes.legend(loc="lower right", fontsize=9)  # the worst, with the shortest bars, are below
    save_figure(figure, path)
