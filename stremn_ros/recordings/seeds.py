"""Seeds: masks that a person gave, by file or on a recorded topic, each of one frame of a camera.

A seeds file is a list in YAML:

    - {recording: drive.mcap, topic: /camera/image_raw, frame: 0, id: 1, name: cup, mask: cup.png}
    - {recording: drive.mcap, time: 1700000012.4, id: 2, box: [210, 120, 90, 110]}
    - {recording: drive.mcap, frame: 310, id: 1, polygon: [[3, 4], [60, 4], [60, 50]]}
    - {recording: drive.mcap, frame: 500, mask: frame500.png, accepted: true}

`time` is the stamp of a frame in seconds, `frame` its number from 0; one of them is given.
`recording` and `topic` may be left out where there is only one. A box is x, y, width, height.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError
from stremn_ros.hint_masks import HintMasks
from stremn_ros.imaging.checks import check_name
from stremn_ros.imaging.mask_reading import VOID, clean, read_mask
from stremn_ros.imaging.masks import ids_in
from stremn_ros.mappings import build
from stremn_ros.messages import image_read
from stremn_ros.messages.reading import NANOSECONDS
from stremn_ros.recordings.bag import IMAGE
from stremn_ros.recordings.bags import open_bag
from stremn_ros.recordings.sources import Index, Source, usable_stamp
from stremn_ros.text_files import read_yaml

MAX_ID = 255
_MOST_SECONDS = 1 << 32  # of a ROS time
_LEAST_TOLERANCE = 1_000_000  # nanoseconds by which a time may miss a frame's stamp
Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class SeedEntry:
    """An entry of a seeds file, as it is written there; see the module's text.

    Attributes:
        id: 1..255; without one, a mask seeds every object that it holds.
        points: (x, y) on the object.
        accepted: the frame is a border that nothing crosses.
        folder: that the path of a mask is relative to.
    """

    recording: str | None = None
    topic: str | None = None
    time: float | None = None
    frame: int | None = None
    id: int | None = None
    name: str = ""
    mask: str | None = None
    box: tuple[int, int, int, int] | None = None
    points: list[tuple[float, float]] | None = None
    polygon: list[tuple[float, float]] | None = None
    accepted: bool = False
    where: str = field(default="", init=False)
    folder: Path = field(default=Path(), init=False)

    def __post_init__(self) -> None:
        if (self.time is None) == (self.frame is None):
            raise InputError("give either time (a stamp in seconds) or frame (a number from 0)")
        if self.frame is not None and self.frame < 0:
            raise InputError(f"frame is {self.frame}; the first frame is 0")
        if self.time is not None and not 0 <= self.time < _MOST_SECONDS:
            raise InputError(
                f"time is {self.time:g}; it is the stamp of a frame in seconds, such as "
                "1700000012.4, not in milliseconds or nanoseconds"
            )
        if any("\0" in text for text in (self.recording, self.topic, self.mask) if text):
            raise InputError(r"a text of it has a zero byte (\0), which no name may have")
        check_name(self.name)
        if self.id is not None and not 1 <= self.id <= MAX_ID:
            raise InputError(f"id is {self.id}; ids are 1..{MAX_ID}")
        hints = self.box is not None or bool(self.points) or bool(self.polygon)
        if bool(self.mask) == hints:
            raise InputError(
                "say where the object is: by a mask (a file), or by box, points, polygon (any of "
                "these three, or several)"
            )
        if hints and self.id is None:
            raise InputError(f"the id is missing (1..{MAX_ID}: which object this is)")
        if self.name and self.id is None:
            raise InputError(
                f"the name {self.name!r} is of no object: give the id that it has in the mask "
                f"(1..{MAX_ID})"
            )


@dataclass(frozen=True, eq=False)
class Seed:
    """What is given of one frame.

    Attributes:
        labels: uint8 [H, W], 0 where nothing is given, n = object n.
        accepted: nothing crosses this frame.
    """

    frame: int
    labels: Labels
    accepted: bool = False

    @property
    def ids(self) -> list[int]:
        """The ids of the objects, sorted."""
        return ids_in(self.labels)


def read_seeds(path: Path) -> list[SeedEntry]:
    """The entries of a seeds file.

    Raises:
        InputError: it cannot be read, is no list, or an entry is wrong; the message names the entry
            and what would be right.
    """
    values = read_yaml(path)
    if not isinstance(values, list) or not values:
        raise InputError(
            f"{path}: a list of seeds is needed, each such as "
            "'- {frame: 0, id: 1, name: cup, box: [210, 120, 90, 110]}'"
        )
    entries = []
    for number, value in enumerate(values, 1):
        where = f"{path.name}: seed {number}"
        entry = build(SeedEntry, value, where)
        object.__setattr__(entry, "where", where)
        object.__setattr__(entry, "folder", path.parent)
        entries.append(entry)
    return entries


def topic_of(seeds: str) -> str:
    """The topic that seeds are on; empty where they are in a file."""
    path = Path(seeds)
    is_file = path.is_file() or path.suffix.lower() in (".yaml", ".yml")  # it may be missing
    return seeds if seeds.startswith("/") and not is_file else ""


def mask_files(entries: Sequence[SeedEntry]) -> list[Path]:
    """The files of masks that the entries name, each once, sorted."""
    return sorted({entry.folder / entry.mask for entry in entries if entry.mask})


def names_of(entries: Sequence[SeedEntry]) -> dict[int, str]:
    """The objects' names by id.

    Raises:
        InputError: one object has two names.
    """
    names: dict[int, str] = {}
    for entry in entries:
        if entry.name and entry.id is not None:
            known = names.setdefault(entry.id, entry.name)
            if known != entry.name:
                raise InputError(
                    f"{entry.where}: object {entry.id} is called {entry.name!r} here and "
                    f"{known!r} before; an id is one object in all of a recording"
                )
    return names


def recordings_of(entry: SeedEntry, places: Mapping[str, Path]) -> list[str]:
    """The recordings that an entry is of: it names a path, or the last parts of one.

    There are several only where it names none, or where one is given by several paths.

    Args:
        places: of the recordings: their paths without links, by the paths that were given.

    Raises:
        InputError: the last parts are those of several.
    """
    if entry.recording is None:
        return list(places)
    named = Path(entry.recording.replace("://", "/"))  # what is at a URL is fetched (``remote``)
    for base in (entry.folder, Path()):
        wanted = (base / named).resolve()
        if exact := [each for each, place in places.items() if place == wanted]:
            return exact
    parts = named.parts
    found = [
        each
        for each, place in places.items()
        if parts in (place.parts[-len(parts) :], Path(each).absolute().parts[-len(parts) :])
    ]
    if not found and len(parts) == 1:
        found = [each for each in places if Path(each).stem == named.name]
    if len({places[each] for each in found}) > 1:
        raise InputError(
            f"{entry.where}: recording is {entry.recording}, which may be {' or '.join(found)}: "
            "give more of its path"
        )
    return found


def frame_of(entry: SeedEntry, index: Index) -> int:
    """The number of the frame that an entry is of.

    Raises:
        InputError: the recording has none with that number or near that time.
    """
    stamps = index.stamps
    if entry.frame is not None:
        if entry.frame >= len(stamps):
            raise InputError(
                f"{entry.where}: frame is {entry.frame}; the recording has the frames 0 to "
                f"{len(stamps) - 1}"
            )
        return entry.frame
    assert entry.time is not None
    wanted = round(entry.time * NANOSECONDS)
    nearest = int(np.abs(stamps - wanted).argmin())
    steps = np.diff(stamps)
    usual = float(np.median(steps)) / 2 if len(steps) else 0.0
    if abs(int(stamps[nearest]) - wanted) > max(usual, _LEAST_TOLERANCE):
        shown = [f"{int(value) / NANOSECONDS:.6f}" for value in stamps[[0, nearest, -1]]]
        raise InputError(
            f"{entry.where}: time is {entry.time:.6f}, and no frame has a stamp near it: the "
            f"stamps go from {shown[0]} to {shown[2]}, the nearest is {shown[1]} (frame {nearest})"
        )
    return nearest


def make_seeds(
    entries: Sequence[SeedEntry], source: Source, masks: Callable[[], HintMasks]
) -> tuple[list[Seed], list[str]]:
    """The seeds of a camera, one for each frame that has any, in the order of the frames, and what
    people should know of their masks.

    Where masks of one frame overlap, the later in the list has the pixels.

    Args:
        masks: loads what makes the masks of hints; it is called once, where there are any.

    Raises:
        InputError: an entry that does not fit the recording; the message names it.
    """
    by_frame: dict[int, list[SeedEntry]] = {}
    for entry in entries:
        by_frame.setdefault(frame_of(entry, source.index), []).append(entry)
    masks = functools.cache(masks)
    seeds = []
    notes: list[str] = []
    for number in sorted(by_frame):
        try:
            frame = source.frame(number)
        except InputError as error:
            raise InputError(f"{by_frame[number][0].where}: {error}") from None
        labels = np.zeros(frame.shape[:2], np.uint8)
        for entry in by_frame[number]:
            own, said = _mask_of(entry, frame, masks)
            notes += [f"{entry.where}: {text}" for text in said]
            labels = np.where(own, own, labels)
        given = {entry.id for entry in by_frame[number] if entry.id is not None}
        if hidden := sorted(given - set(np.unique(labels).tolist())):
            raise InputError(
                f"{by_frame[number][0].where}: object {hidden[0]} has no pixel left in frame "
                f"{number}: the seeds after it in the list cover it"
            )
        accepted = any(entry.accepted for entry in by_frame[number])
        seeds.append(Seed(number, labels, accepted))
    return seeds, notes


def _mask_of(
    entry: SeedEntry, frame: NDArray[np.uint8], masks: Callable[[], HintMasks]
) -> tuple[Labels, list[str]]:
    """The labels that an entry gives, and what people should know of them."""
    try:
        if not entry.mask:
            return _mask_of_hints(entry, frame, masks())
        labels, said = read_mask(entry.folder / entry.mask).labels()
    except InputError as error:
        raise InputError(f"{entry.where}: {error}") from None
    if labels.shape != frame.shape[:2]:
        raise InputError(
            f"{entry.where}: the mask {entry.mask} is {labels.shape[0]}x{labels.shape[1]} (rows x "
            f"columns), the frames are {frame.shape[0]}x{frame.shape[1]}"
        )
    present = ids_in(labels)
    if not present:
        raise InputError(f"{entry.where}: the mask {entry.mask} is empty (all zero)")
    notes = [f"the mask {entry.mask}: {text}" for text in said]
    if entry.id is None:
        return labels, notes
    if len(present) > 1 and entry.id not in present:
        raise InputError(
            f"{entry.where}: the mask {entry.mask} holds the objects {present}, and none of them "
            f"is {entry.id}"
        )
    own = labels == entry.id if entry.id in present else labels > 0
    return own.astype(np.uint8) * np.uint8(entry.id), notes


def _mask_of_hints(
    entry: SeedEntry, frame: NDArray[np.uint8], masks: HintMasks
) -> tuple[Labels, list[str]]:
    hints: dict[str, Any] = {"box": entry.box, "polygon": entry.polygon, "inside": entry.points}
    made = masks.make(frame, **hints)
    # how little the mask depends on its hints is costly to find, and a predicted IoU says more
    agreement = 1.0 if made.predicted is not None else masks.agreement(frame, made.mask, **hints)
    doubt = made.doubt(agreement)
    notes = [f"the mask made of its hints is doubtful, as {doubt}: look at it"] if doubt else []
    return made.mask * np.uint8(entry.id or 0), notes


def recorded_seeds(source: Source, topic: str) -> tuple[list[Seed], list[str]]:
    """The seeds that a topic of a bag holds (the node's ``~/seed``), and what is wrong with some.

    A mask is of the frame whose stamp it carries; one without a stamp is of the newest frame that
    had been recorded. One of a stamp that no frame has is left out, as the node refuses it, and so
    is one of a frame that cannot be decoded or has another size.

    Raises:
        InputError: the recording has no such topic, or no seed on it can be used.
    """
    recording, index = source.path, source.index
    seeds: dict[int, Labels] = {}
    notes: list[str] = []
    shape_of = functools.cache(lambda number: source.frame(number).shape[:2])
    with open_bag(recording, index.scanned) as bag:
        if bag.topics.get(topic) != IMAGE:
            images = sorted(name for name, kind in bag.topics.items() if kind == IMAGE)
            raise InputError(
                f"{recording}: has no topic {topic} of type {IMAGE}; topics of that type are "
                f"{', '.join(images) or 'none'}"
            )
        count = 0
        for _, when, data in bag.messages([topic]):
            count += 1
            where = f"seed {count} on {topic}"
            try:
                message = bag.decode(topic, data)
                labels, said = clean(image_read.decode_labels(message)).labels(alone=VOID)
                number = _frame_at(index, usable_stamp(message), when)
                shape = shape_of(number)
                if labels.shape != shape:
                    raise InputError(
                        f"the mask is {labels.shape[0]}x{labels.shape[1]} (rows x columns), frame "
                        f"{number} is {shape[0]}x{shape[1]}"
                    )
                if not labels.any():
                    raise InputError("the mask is all zero")
            except InputError as error:
                notes.append(f"{where}: {error}; it is left out")
                continue
            notes += [f"{where}: {text}" for text in said]
            before = seeds.get(number)
            seeds[number] = labels if before is None else np.where(labels, labels, before)
    if not seeds:
        why = "; ".join(notes[:3]) or f"{topic} has no message"
        raise InputError(f"{recording}: no seed on {topic} can be used: {why}")
    return [Seed(number, seeds[number]) for number in sorted(seeds)], notes


def _frame_at(index: Index, stamp: int, when: int) -> int:
    if stamp:
        place = int(np.searchsorted(index.stamps, stamp))
        if place < len(index.stamps) and index.stamps[place] == stamp:
            return place
        exact = np.flatnonzero(index.stamps == stamp)  # stamps that jump back
        if len(exact):
            return int(exact[0])
        raise InputError(f"no frame has its stamp, {stamp / NANOSECONDS:.6f}")
    before = np.flatnonzero(index.recorded[index.places] <= when)
    if not len(before):
        raise InputError("it has no stamp, and no frame was recorded before it")
    return int(before[-1])
