"""What the page shows, logged to Rerun (https://rerun.io): a viewer beside it, or a file .rrd.

Each source has, under its name: the picture; on it the masks as a segmentation image and the boxes
of the objects, both in the objects' colors and with their names; and the score of each object over
time. The frame's own time is on the timeline `stamp`, or `elapsed` where it counts from a start: of
a video, of a simulation.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stremn_ros import privacy
from stremn_ros.errors import InputError, StremnError
from stremn_ros.imaging.checks import name_of
from stremn_ros.imaging.palette import PALETTE
from stremn_ros.web.source import Picture, Source

log = logging.getLogger(__name__)

SUFFIX = ".rrd"
# Rerun wants times of one kind on a timeline
STAMP, ELAPSED = "stamp", "elapsed"
DATES_FROM = 10**17  # nanoseconds; what is less is no date but a time since some start
JPEG_QUALITY = 85
_EVERY = 0.01  # seconds between two looks for a new picture


class RerunLog:
    """Logs pictures from a thread of its own. The newest wins, so it holds no source up.

    Args:
        sources: by name. file: to record into; None: a viewer is opened.

    Raises:
        StremnError: rerun-sdk is not installed, or its viewer does not start.
        InputError: the file cannot be written.
    """

    def __init__(self, sources: Mapping[str, Source], file: Path | None = None) -> None:
        self._rerun = _imported()
        self._sources = {_entity(name): source for name, source in sources.items()}
        self._logged: dict[str, int] = {}  # number of the newest picture of each
        self._known: dict[str, dict[int, str]] = {}  # the names that Rerun knows
        self._stream = self._rerun.RecordingStream("stremn view")
        try:
            if file is None:
                self._stream.spawn()
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                self._stream.save(file)
        except OSError as error:
            raise InputError(f"{file}: cannot be written ({error.strerror or error})") from None
        except Exception as error:  # its library has its own
            what = "its viewer does not start" if file is None else f"{file}: cannot be written"
            raise StremnError(f"--rerun: {what} ({error})") from None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rerun", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Writes what is left, and ends the thread."""
        self._ending.set()
        self._thread.join()
        self._stream.flush()
        self._stream.disconnect()

    def _run(self) -> None:
        try:
            while True:
                ending = self._ending.is_set()
                for name, source in self._sources.items():
                    picture = source.newest
                    if picture is not None and picture.number != self._logged.get(name):
                        self._logged[name] = picture.number
                        self._log(name, picture)
                if ending:
                    return
                self._ending.wait(_EVERY)
        except Exception as error:  # the page goes on without it
            log.error("nothing more is logged to Rerun: %s", error)

    def _log(self, name: str, picture: Picture) -> None:
        rerun, stream = self._rerun, self._stream
        stream.reset_time()  # of the source before
        time = np.timedelta64(picture.time, "ns")
        if picture.time >= DATES_FROM:
            stream.set_time(STAMP, timestamp=np.datetime64(0, "ns") + time)
        else:
            stream.set_time(ELAPSED, duration=time)
        stream.set_time("position", sequence=picture.position)
        seen = [item for item in picture.objects if "box" in item]
        self._tell_names(name, seen)
        image = rerun.Image(picture.frame).compress(jpeg_quality=JPEG_QUALITY)
        stream.log(f"{name}/image", image)
        stream.log(f"{name}/image/masks", rerun.SegmentationImage(picture.labels))
        boxes = rerun.Boxes2D(
            array=np.array([item["box"] for item in seen], np.float32).reshape(-1, 4),
            array_format=rerun.Box2DFormat.XYWH,
            class_ids=[item["id"] for item in seen],
        )
        stream.log(f"{name}/image/boxes", boxes)
        for item in seen:
            if item.get("score") is not None:
                stream.log(f"{name}/score/{item['id']}", rerun.Scalars(float(item["score"])))

    def _tell_names(self, name: str, seen: list[Mapping[str, Any]]) -> None:
        """The objects' names and colors, where some are new."""
        known = self._known.setdefault(name, {})
        given = {item["id"]: str(item["name"]) for item in seen if item.get("name")}
        now = {item["id"]: name_of(item["id"], given) for item in seen}
        if now.items() <= known.items():
            return
        known.update(now)
        stream, rerun = self._stream, self._rerun
        classes = [(n, text, PALETTE[n].tolist()) for n, text in sorted(known.items())]
        context = rerun.AnnotationContext([(0, "background", (0, 0, 0, 0)), *classes])
        stream.log(f"{name}/image", context, static=True)
        for n in now:
            line = rerun.SeriesLines(colors=PALETTE[n].tolist(), names=known[n])
            stream.log(f"{name}/score/{n}", line, static=True)


def file_to_record(text: str) -> Path | None:
    """The file that ``--rerun`` names; None where it names none.

    Raises:
        InputError: its name does not end with .rrd: it is something else, perhaps the video.
    """
    if text and not text.endswith(SUFFIX):
        raise InputError(
            f"--rerun {text}: a file to record into ends with {SUFFIX}; for a viewer write --rerun "
            "alone, after the video"
        )
    return Path(text) if text else None


def _entity(name: str) -> str:
    """The path of a source in Rerun: its topic, or `camera`."""
    return name.strip("/") or "camera"


def _imported() -> Any:
    """Rerun, with its usage data off."""
    privacy.silence_rerun()
    try:
        import rerun
    except ImportError as error:
        raise StremnError(
            f"--rerun needs the package rerun-sdk, which does not import here ({error}): "
            "pip install 'stremn_ros[rerun]'"
        ) from None
    return rerun
