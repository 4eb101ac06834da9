"""What came of the demo: its checks, figures and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stremn_ros.files import write_json
from stremn_ros.imaging import visualization
from stremn_ros.imaging.masks import ids_in, iou
from stremn_ros.imaging.video import VideoWriter, write_image

LAST_FRAME_IOU = 0.6  # a mask that sits on the object; one that left it or took the scene does not
TILES = 12


@dataclass
class Followed:
    """What was published and what came back; frames and messages by stamp, in nanoseconds.

    Attributes:
        video: its name. start: the first frame played. rate: frames published per second.
        model: name or folder. labels: of the seed. check_path: mask of the last frame, if any.
        out: folder of the results. mask_times: of their arrival, monotonic seconds.
        delays: seconds from a frame's stamp to its mask. problem: of the video.
        runtime: of the node.
    """

    video: str
    start: int
    rate: float
    model: str
    labels: np.ndarray
    check_path: Path | None
    out: Path
    frames: dict[int, np.ndarray] = field(default_factory=dict)
    masks: dict[int, np.ndarray] = field(default_factory=dict)
    objects: dict[int, Any] = field(default_factory=dict)
    mask_times: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    problem: str = ""
    runtime: str = ""

    def report(self, expected: int, counters: dict[str, int]) -> int:
        """Writes and prints all of it; 0 where every check holds, else 1.

        Args:
            expected: frames of the video. counters: of the node.
        """
        stamps = sorted(self.frames)
        seed_stamp = stamps[0]
        seeded = _resized(self.labels, self.frames[seed_stamp].shape[:2])
        shown: dict[int, np.ndarray | None] = {
            stamp: seeded if stamp == seed_stamp else self.masks.get(stamp) for stamp in stamps
        }
        ids = ids_in(self.labels)
        last = stamps[-1]
        states = (
            {item.id: int(item.state) for item in self.objects[last].objects}
            if (last in self.objects)
            else {}
        )
        published = len(stamps)
        dropped = counters["dropped"] + counters["lost in transport"]
        latencies = [message.latency * 1000 for message in self.objects.values()]
        span = self.mask_times[-1] - self.mask_times[0] if len(self.mask_times) > 1 else 0.0
        checks = {
            "the video could be read to its end": not self.problem,
            "the source published every frame of the video": published == expected,
            "every published frame was segmented or counted as dropped": published
            == counters["segmented"] + dropped,
            "a mask was received for every frame segmented": len(self.masks)
            == len(self.objects)
            == counters["segmented"],
            "every mask has the stamp of a published frame": set(self.masks) <= set(stamps),
            "no frame failed": counters["failed"] == 0,
            "every object is tracked in the last frame": all(
                states.get(number) == 0 for number in ids
            ),
        }
        summary: dict[str, Any] = {
            "video": self.video,
            "first_frame": self.start,
            "size": [*self.frames[seed_stamp].shape[1::-1]],
            "model": self.model,
            "runtime": self.runtime,
            "frames": {
                "published": published,
                "received": len(self.masks),
                "segmented": counters["segmented"],
                "dropped": dropped,
            },
            "published_rate_hz": self.rate,
            "frames_per_second": round((len(self.mask_times) - 1) / span, 2) if span else None,
            # in the node, from the arrival of a frame to its mask
            "latency_ms": _percentiles(latencies),
            # from the stamp of a frame to its mask in this process
            "end_to_end_latency_ms": _percentiles([delay * 1000 for delay in self.delays]),
        }
        if self.check_path is not None:
            right = _resized(visualization.read_label_png(self.check_path), seeded.shape)
            found = shown[last]
            iou = _iou(found, right) if found is not None else 0.0
            summary["last_frame_iou"] = round(iou, 3)
            checks[f"IoU with the mask drawn for the last frame is {LAST_FRAME_IOU} or more"] = (
                iou >= LAST_FRAME_IOU
            )
        summary["checks"] = checks
        summary["ok"] = all(checks.values())
        self._write_pictures(stamps, shown)
        write_json(self.out / "summary.json", summary)
        self._print(summary)
        return 0 if summary["ok"] else 1

    def _write_pictures(self, stamps: list[int], shown: dict[int, np.ndarray | None]) -> None:
        # in place of a frame that the node dropped the picture before it stays, as on a screen
        picture = self.frames[stamps[0]]
        with VideoWriter(self.out / "overlay.mp4", self.rate) as writer:
            for stamp in stamps:
                labels = shown[stamp]
                if labels is not None:
                    picture = visualization.overlay(self.frames[stamp], labels)
                writer.write(picture)
        # the first and the last frame, and between them such that have a mask
        between = [i for i, stamp in enumerate(stamps) if shown[stamp] is not None]
        between = sorted({0, *between, len(stamps) - 1})
        picks = np.unique(np.linspace(0, len(between) - 1, TILES).round().astype(int))
        chosen = [between[pick] for pick in picks]
        captions = []
        for index in chosen:
            text = f"frame {self.start + index}"
            if index == 0:
                text += ": the seed"
            elif shown[stamps[index]] is None:
                text += ": dropped"
            elif stamps[index] in self.objects:
                scores = [item.score for item in self.objects[stamps[index]].objects]
                text += "".join(f", score {score:.2f}" for score in scores)
            captions.append(text)
        picked = [stamps[index] for index in chosen]
        empty = np.zeros(self.frames[stamps[0]].shape[:2], np.uint8)
        sheet = visualization.contact_sheet(
            [self.frames[stamp] for stamp in picked],
            [labels if (labels := shown[stamp]) is not None else empty for stamp in picked],
            columns=4,
            captions=captions,
        )
        write_image(self.out / "contact_sheet.png", sheet)

    def _print(self, summary: dict[str, Any]) -> None:
        frames, latency = summary["frames"], summary["latency_ms"]
        print(
            f"\n{frames['published']} frames published, {frames['segmented']} segmented, "
            f"{frames['dropped']} dropped; {frames['received']} masks received\n"
            f"{summary['frames_per_second']} frames per second (published at "
            f"{summary['published_rate_hz']:g} Hz) on {summary['runtime']}\n"
            f"latency p50 {latency['p50']} ms, p95 {latency['p95']} ms"
        )
        for text, good in summary["checks"].items():
            print(f"{'ok    ' if good else 'FAILED'} {text}")
        for name in ("overlay.mp4", "contact_sheet.png", "summary.json"):
            print(self.out / name)


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(np.asarray(values), (50, 95))
    return {"p50": round(float(p50), 1), "p95": round(float(p95), 1)}


def _resized(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if labels.shape == tuple(shape[:2]):
        return labels
    return cv2.resize(labels, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)


def _iou(found: np.ndarray, right: np.ndarray) -> float:
    """Of one object or more: the mean over the ids that should be there."""
    return float(np.mean([iou(found == number, right == number) for number in ids_in(right)]))
