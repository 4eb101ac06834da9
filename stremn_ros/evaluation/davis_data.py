"""Folders of DAVIS and of YouTube-VOS: their sequences, frames and true masks."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stremn_ros.errors import InputError
from stremn_ros.imaging.listing import list_folders, list_images
from stremn_ros.imaging.mask_reading import VOID, has_void, read_mask
from stremn_ros.text_files import read_lines, read_text

log = logging.getLogger(__name__)
YEARS = ("2017", "2016", "480p")  # folders of ImageSets, the one preferred at a tie first


@dataclass
class DavisSequence:
    """One sequence: its images in order, and the annotation of each image that has one.

    binary: every object is one (DAVIS 2016, also when read from the masks of 2017). late: objects
    may come in later frames and are given there (YouTube-VOS). given_in: the names of the frames in
    which objects are given, by id, where that is known; else it is the first that shows them.
    """

    name: str
    images: list[Path]
    masks: list[Path | None]
    binary: bool = False
    late: bool = False
    given_in: dict[int, str] = field(default_factory=dict)

    def truth(self) -> Truth:
        """Reads all annotations; InputError names one that is damaged or of another size."""
        read: list[np.ndarray | None] = []
        values: set[int] = set()
        shape: tuple[int, ...] | None = None
        notes: list[str] = []
        for path in self.masks:
            if path is None:
                read.append(None)
                continue
            mask = read_mask(path)
            if shape is not None and mask.values.shape != shape:
                raise InputError(
                    f"{path}: is {list(mask.values.shape)}, the sequence's first annotation is "
                    f"{list(shape)}"
                )
            shape = mask.values.shape
            values |= set(mask.ids)
            notes += [f"{path.name} {note}" for note in mask.notes]
            read.append(mask.values)
        if notes:
            log.warning("%s: %s (%d such notes)", self.name, notes[0], len(notes))
        # 255 is the object where it stands alone (DAVIS 2016); beside ids it means "not scored"
        whole, unscored = values == {VOID}, has_void(values)
        void: list[np.ndarray | None] = []
        clean: list[np.ndarray | None] = []
        for item in read:
            outside = None
            if item is not None and unscored and (item == VOID).any():
                outside = item == VOID
            if item is not None and (whole or self.binary):
                item = ((item != 0) if outside is None else (item != 0) & ~outside).astype(np.uint8)
            elif item is not None and outside is not None:
                item = np.where(outside, 0, item).astype(np.uint8)
            clean.append(item)
            void.append(outside)
        ids = {1} if whole or self.binary else values - ({VOID} if unscored else set())
        given = self._given(clean, ids)
        drawn_as = VOID if whole else None
        return Truth(clean, void, given, sorted(ids - given.keys()), drawn_as)

    def _given(self, labels: list[np.ndarray | None], ids: set[int]) -> dict[int, int]:
        """The image in which each object is given, by id."""
        places = {path.stem: index for index, path in enumerate(self.images)}
        first: dict[int, int] = {}
        for index, item in enumerate(labels if self.late else labels[:1]):
            if item is None:
                continue
            for number in set(np.unique(item).tolist()) & ids - first.keys():
                if index >= places.get(self.given_in.get(number, ""), 0):
                    first[number] = index
        return dict(sorted(first.items()))


@dataclass
class Truth:
    """Annotations of a sequence: labels uint8 [H, W] or None for each image, and where void.

    given: the objects that are given and scored, with the image in which they are given. left_out:
    others, which the protocol never gives and nothing scores. drawn_as: 255 where the files have
    the one object (id 1 here) under that value, None where they have ids.
    """

    labels: list[np.ndarray | None]
    void: list[np.ndarray | None]
    given: dict[int, int]
    left_out: list[int]
    drawn_as: int | None

    @property
    def ids(self) -> list[int]:
        return list(self.given)


@dataclass
class Davis:
    """Sequences of a split on disk.

    year: the folder of ImageSets it came from, "folders", or "YouTube-VOS".
    """

    root: Path
    split: str
    year: str
    resolution: str
    sequences: list[DavisSequence]
    selected: bool = False  # a filter left some sequences of the split out

    @property
    def max_objects(self) -> int:
        """The largest number of objects that a sequence gives (for Segmenter.load)."""
        most = 1
        for sequence in self.sequences:
            if sequence.binary:
                continue
            ids: set[int] = set()
            for path in sequence.masks if sequence.late else sequence.masks[:1]:
                if path is not None:
                    ids.update(read_mask(path).ids)
            most = max(most, len(ids) - has_void(ids))
        return most


def open_davis(
    root: str | os.PathLike[str],
    split: str = "val",
    *,
    year: str = "auto",
    resolution: str = "480p",
    sequences: Sequence[str] | None = None,
) -> Davis:
    """Finds the sequences of a split in the official folder layout.

    root holds JPEGImages/RESOLUTION, Annotations/RESOLUTION and ImageSets. split: the name of a
    list (ImageSets/2016/val.txt, ImageSets/2017/val.txt or ImageSets/480p/val.txt), or "all" for
    every annotated folder, which needs no list. year: "2016", "2017" or "auto", the list with
    the most sequences. With the 2016 lists several objects in a mask count as one, as in that
    benchmark. sequences: only these. Raises InputError for anything that is missing.

    YouTube-VOS' layout is taken as well, where it is found: JPEGImages/NAME, Annotations/NAME with
    masks of some of the frames, and meta.json, which says in which frame each object is given.
    """
    root = Path(root)
    if _is_youtube_vos(root, resolution):
        return _open_youtube_vos(root, sequences)
    images, annotations = root / "JPEGImages" / resolution, root / "Annotations" / resolution
    for folder in (images, annotations):
        if not folder.is_dir():
            inner = [path for path in (root / "DAVIS", root / "DAVIS2017") if path.is_dir()]
            hint = f"; did you mean {inner[0]}?" if inner else ""
            raise InputError(
                f"{folder}: no such folder. DAVIS' layout is JPEGImages/{resolution}/NAME/*.jpg, "
                f"Annotations/{resolution}/NAME/*.png and ImageSets/YEAR/{split}.txt{hint}"
            )
    if year not in ("auto", "2016", "2017"):
        raise InputError(f'year {year!r}: "2016", "2017" or "auto" is needed')
    if split == "all":
        names = [path.name for path in list_folders(annotations) if list_images(path)]
        source = "2016" if year == "2016" else "folders"
    else:
        source, names = _read_split(root, split, year)
    if not names:
        raise InputError(f"{root}: the split {split} has no sequences")
    wanted = _wanted(names, sequences, f"the split {split} ({source})", ", ".join(names))
    binary = source in ("2016", "480p")
    found = [_find_sequence(name, images, annotations, binary) for name in wanted]
    return Davis(root, split, source, resolution, found, len(wanted) < len(names))


def _wanted(
    names: list[str], sequences: Sequence[str] | None, where: str, listed: str
) -> list[str]:
    """Those of the names that are asked for; InputError for one that is not there, or for none."""
    if sequences is None:
        return names
    unknown = [name for name in sequences if name not in names]
    if unknown or not sequences:
        raise InputError(
            f"sequences {', '.join(unknown) or '(none)'}: not in {where}, which has {listed}"
        )
    return [name for name in names if name in set(sequences)]


def _is_youtube_vos(root: Path, resolution: str) -> bool:
    folders = [root / name for name in ("JPEGImages", "Annotations")]
    return all(folder.is_dir() and not (folder / resolution).exists() for folder in folders) and (
        (root / "meta.json").is_file() or any(list_images(f) for f in list_folders(folders[1]))
    )


def _open_youtube_vos(root: Path, sequences: Sequence[str] | None) -> Davis:
    """All annotated sequences, or those named, in YouTube-VOS' layout."""
    annotations = root / "Annotations"
    given = _read_meta(root / "meta.json") if (root / "meta.json").is_file() else {}
    names = [path.name for path in list_folders(annotations) if list_images(path)]
    if not names:
        raise InputError(f"{annotations}: no sequences (NAME/*.png)")
    listed = f"{', '.join(names[:5])}{' and others' if len(names) > 5 else ''}"
    chosen = _wanted(names, sequences, str(annotations), listed)
    found = []
    for name in chosen:
        sequence = _find_sequence(name, root / "JPEGImages", annotations, False, late=True)
        sequence.given_in = given.get(name, {})
        found.append(sequence)
    return Davis(root, "all", "YouTube-VOS", "", found, len(chosen) < len(names))


def _read_meta(path: Path) -> dict[str, dict[int, str]]:
    """Of meta.json: the frame in which each object is given, by sequence and id."""
    try:
        videos = json.loads(read_text(path))["videos"]
        return {
            name: {
                int(number): min(item["frames"])
                for number, item in video["objects"].items()
                if item.get("frames")
            }
            for name, video in videos.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: is not of YouTube-VOS, which has videos, their objects, and of each object "
            f"its frames ({type(error).__name__}: {error})"
        ) from None


def _read_split(root: Path, split: str, year: str) -> tuple[str, list[str]]:
    lists = {}
    for name in YEARS:
        path = root / "ImageSets" / name / f"{split}.txt"
        # The lists under 480p are those of DAVIS 2016, one line per frame
        if (year == "auto" or year == name or (year == "2016" and name == "480p")) and (
            path.is_file()
        ):
            lists[name] = list(dict.fromkeys(_sequence_names(path)))
    if not lists:
        there = sorted(f"{path.parent.name}/{path.stem}" for path in root.glob("ImageSets/*/*.txt"))
        raise InputError(
            f"{root / 'ImageSets'}: no list {split}.txt for year {year} (there is "
            f'{", ".join(there) or "nothing"}); split "all" takes every annotated folder'
        )
    source = max(lists, key=lambda name: len(lists[name]))
    return source, lists[source]


def _sequence_names(path: Path) -> Iterator[str]:
    """Lines are "bear", or "/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png"."""
    for line in read_lines(path):
        first = line.split()[0]
        yield first.rstrip("/").split("/")[-2] if first.strip("/").count("/") else line.strip("/")


def _by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by the frame's name; InputError where a frame has two, as each would count."""
    found: dict[str, Path] = {}
    for path in paths:
        if (other := found.setdefault(path.stem, path)) != path:
            raise InputError(
                f"{path.parent}: {other.name} and {path.name} are of one frame; leave one of them"
            )
    return found


def _find_sequence(
    name: str, images: Path, annotations: Path, binary: bool, late: bool = False
) -> DavisSequence:
    for folder in (images / name, annotations / name):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder, but the split has the sequence {name}")
    frames = list_images(images / name)
    masks = _by_stem(list_images(annotations / name))
    lost = sorted(set(masks) - set(_by_stem(frames)))
    if lost:
        raise InputError(f"{masks[lost[0]]}: there is no image of this name in {images / name}")
    if late and len(masks) < 2:
        raise InputError(
            f"{annotations / name}: {len(masks)} annotations; scoring needs at least 2, one that "
            "is given and one to compare with (the validation set of YouTube-VOS comes with the "
            "first only: its server scores)"
        )
    if not late and (not frames or frames[0].stem not in masks):
        raise InputError(f"{annotations / name}: the first frame has no annotation")
    if not late and len(masks) < 3:
        raise InputError(
            f"{annotations / name}: {len(masks)} annotations; scoring needs at least 3, as the "
            "first and the last are not scored (the test splits of DAVIS come without)"
        )
    return DavisSequence(name, frames, [masks.get(path.stem) for path in frames], binary, late)
