"""`stremn label`: masks equal the segmenter's, corrections, borders, files, stops and resumes."""

from __future__ import annotations

import csv
import html
import json
import os
import random
import signal
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from recordings_forks import Forks, descendants, kill_one
from recordings_helpers import SIZE, camera, file_of, hashes, scenes, seeds_file, stamps, write_bag
from shapes import DISC, SQUARE, TINY_MODEL, iou, scene

from stremn_ros.cli import main
from stremn_ros.data.videos import VideoClips
from stremn_ros.errors import InputError
from stremn_ros.evaluation.davis_data import open_davis
from stremn_ros.hint_masks import HintMasks
from stremn_ros.imaging.masks import measured
from stremn_ros.imaging.video import VideoWriter, open_frames, read_image, write_image
from stremn_ros.imaging.visualization import read_label_png
from stremn_ros.recordings import tasks
from stremn_ros.recordings.cameras import plan_cameras
from stremn_ros.recordings.exporting import (
    FORMATS,
    LabelStudio,
    Target,
    checked_formats,
    run_lengths,
)
from stremn_ros.recordings.job import label
from stremn_ros.recordings.joining import EDGE, TIE, FrameObject, Labelled, surer
from stremn_ros.recordings.manifest import hash_of, read_manifest, write_manifest
from stremn_ros.recordings.passes import PassFolder, Seen, Settings
from stremn_ros.recordings.plan import SeedPoint, make_sections
from stremn_ros.recordings.sources import Index
from stremn_ros.recordings.spec import Job
from stremn_ros.recordings.tasks import PassTask, Task
from stremn_ros.recordings.track import Track
from stremn_ros.recordings.workers import Outcome, Processes, Serial
from stremn_ros.segmenter import ObjectState, Segmenter

KILLS = int(os.environ.get("STREMN_TEST_KILLS", "5"))
ALL = ("davis", "coco", "cvat", "label-studio")
OPTIONS = {"processing_size": 64}
SETTINGS = Settings(
    str(TINY_MODEL), "cpu", "torch", False, tuple(OPTIONS.items()), stretch=7, click_model=""
)
MODEL = ["--model", str(TINY_MODEL), "--runtime", "torch", "--processing-size", "64"]


def truth(step: int, object_id: int = 0) -> np.ndarray:
    mask = scene(step, SIZE)[1]
    return np.where(mask == object_id, mask, 0).astype(np.uint8) if object_id else mask


def job_of(recording: Path, seeds: Path | str, out: Path, **changes: Any) -> Job:
    return replace(Job((str(recording),), str(seeds), out, settings=SETTINGS), **changes)


def masks_of(out: Path, name: str = "drive") -> list[np.ndarray]:
    folder = out / "davis" / "Annotations" / "480p" / name
    return [read_label_png(path) for path in sorted(folder.glob("*.png"))]


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "objects.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Stopped(Serial):
    """Ends as by Ctrl-C before the first pass."""

    def run(self, first: Any, *rest: Any) -> None:
        if any(isinstance(task, PassTask) for task in first):
            raise KeyboardInterrupt
        super().run(first, *rest)


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return write_bag(tmp_path / "drive", "mcap", camera("mcap", scenes(20)))


# ---------------------------------------------------------------- what is labelled


@pytest.mark.parametrize("kind", ["mcap", "sqlite3", "bag1"])
def test_one_seed_at_the_start_gives_the_bits_of_the_segmenter(kind: str, tmp_path: Path) -> None:
    frames = scenes(20)
    bag = write_bag(tmp_path / "drive", kind, camera(kind, frames))
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    label(job_of(bag, seeds, tmp_path / "out"))
    segmenter = Segmenter.load(
        str(TINY_MODEL), device="cpu", runtime="torch", max_objects=2, **OPTIONS
    )
    segmenter.seed(frames[0], truth(0))
    expected = [truth(0), *(segmenter.step(frame).labels for frame in frames[1:])]
    found = masks_of(tmp_path / "out")
    assert len(found) == 20
    assert all(np.array_equal(a, b) for a, b in zip(found, expected))
    assert iou(found[-1], truth(19), SQUARE) > 0.3


def test_a_seed_in_the_middle_acts_both_ways_and_objects_come_later(
    drive: Path, tmp_path: Path
) -> None:
    seeds = seeds_file(
        tmp_path,
        {"frame": 8, "id": DISC, "name": "disc", "mask": truth(8)},
        {"time": stamps(20)[12] / 1e9, "id": SQUARE, "mask": truth(12)},
    )
    result = label(job_of(drive, seeds, tmp_path / "out"))
    rows = rows_of(tmp_path / "out")
    origins = {(int(row["frame"]), int(row["id"])): row["origin"] for row in rows}
    for object_id, seeded in ((DISC, 8), (SQUARE, 12)):
        found = [origins[n, object_id] for n in range(20)]
        assert found == ["backward"] * seeded + ["given"] + ["forward"] * (19 - seeded)
    for number, mask in enumerate(masks_of(tmp_path / "out")):
        assert iou(mask, truth(number), DISC) > 0.3
        assert iou(mask, truth(number), SQUARE) > 0.3
    assert result["tracks"][0]["objects"]["1"]["name"] == "disc"
    assert {row["stamp"] for row in rows} == {f"{t // 10**9}.{t % 10**9:09d}" for t in stamps(20)}


def test_a_later_seed_corrects_and_the_change_is_where_both_agree(
    drive: Path, tmp_path: Path
) -> None:
    half = truth(0, DISC)  # of the disc; only the second seed shows all of it
    half[:, : int(np.nonzero(half)[1].mean())] = 0
    seeds = seeds_file(
        tmp_path,
        {"frame": 0, "id": DISC, "mask": half},
        {"frame": 14, "id": DISC, "mask": truth(14, DISC)},
    )
    result = label(job_of(drive, seeds, tmp_path / "out"))
    join = result["tracks"][0]["joins"][0]
    assert join["seeds"] == [0, 14]
    origins = [row["origin"] for row in rows_of(tmp_path / "out")]
    near = ["forward"] * (join["at"] - 1) + ["backward"] * (14 - join["at"])
    assert (origins[0], *origins[14:]) == ("given", "given", *["forward"] * 5)
    # the pass whose seed is nearer, but where the other is surer
    assert sum(a == b for a, b in zip(origins[1:14], near)) > 6
    masks = masks_of(tmp_path / "out")
    assert iou(masks[13], truth(13), DISC) > 0.4
    assert iou(masks[19], truth(19), DISC) > 0.4
    agreements = {int(r["frame"]): float(r["agreement"]) for r in rows_of(tmp_path / "out")[1:14]}
    inner = {n: value for n, value in agreements.items() if abs(n - 7) <= 14 * (0.5 - EDGE)}
    good = [n for n, value in inner.items() if value >= max(inner.values()) - TIE]
    assert join["at"] in good
    assert abs(join["at"] - 7) == min(abs(n - 7) for n in good)


def test_a_pass_knows_its_next_seed_and_forgets_nothing_at_a_correction(tmp_path: Path) -> None:
    frames = scenes(24)
    bag = write_bag(tmp_path / "drive", "sqlite3", camera("sqlite3", frames))
    given = {0: truth(0), 9: truth(9, DISC), 17: truth(17)}
    seeds = seeds_file(tmp_path, *({"frame": n, "mask": mask} for n, mask in given.items()))
    found: dict[str, list[np.ndarray]] = {}

    class Passes(Serial):
        """Does the passes, and no more."""

        def run(self, first: Any, done: Any, look: Any, tell: Any) -> None:
            passes = [task for task in first if isinstance(task, PassTask)]
            if not passes:
                super().run(first, done, look, tell)
                return
            for task in passes:
                task.run(tell)
                track = Track.load(Path(task.folder))
                each = track.passes[task.number]
                files = PassFolder(track, each, SETTINGS.stretch)
                numbers = range(each.start, each.end, 1 if each.forward else -1)
                found[each.name] = [files.read(number).labels for number in numbers]
            raise InputError("that is enough")

    with pytest.raises(InputError, match="that is enough"):
        label(job_of(bag, seeds, tmp_path / "out"), Passes())
    for name, order in (("0000-forward", range(23)), ("0000-backward", range(17, 0, -1))):
        segmenter = Segmenter.load(
            str(TINY_MODEL), device="cpu", runtime="torch", max_objects=2, **OPTIONS
        )
        first, middle, last = (order[0], 9, 17 if order[0] == 0 else 0)
        for number, labels in zip(order, found[name]):
            if number == first:
                segmenter.seed(frames[number], given[number])
                segmenter.learn(frames[middle], given[middle], ids=[DISC])
                segmenter.learn(frames[last], given[last], ids=[SQUARE])
                expected = given[number]
            elif number == middle:
                result = segmenter.segment(frames[number]).labels
                expected = np.where(given[number], given[number], result * (result != DISC))
                segmenter.correct(frames[number], given[number], learn=False)
                segmenter.learn(frames[last], given[last], ids=[DISC])
                segmenter.remember()
            elif number == last:
                expected = given[number]
                segmenter.segment(frames[number])
                segmenter.correct(frames[number], given[number], learn=False)
                segmenter.remember()
            else:
                expected = segmenter.step(frames[number]).labels
            assert np.array_equal(labels, expected), (name, number)
        assert min(segmenter.slots_used.values()) == 4


def test_where_the_farther_pass_is_surer_it_is_taken() -> None:
    tracked, unsure, lost = (
        Seen(state, score)
        for state, score in (
            (ObjectState.TRACKED, 0.95),
            (ObjectState.TRACKED, 0.88),
            (ObjectState.LOST, 0.0),
        )
    )
    for near, far, taken in (
        (tracked, unsure, "near"),
        (unsure, tracked, "far"),
        (lost, unsure, "far"),
        (None, tracked, "far"),
        (tracked, None, "near"),
        (Seen(ObjectState.TRACKED, 0.91), tracked, "near"),  # they hardly differ
        (lost, lost, "near"),
    ):
        assert surer(near, far) == (taken == "far")


def test_nothing_crosses_an_accepted_frame(tmp_path: Path) -> None:
    frames = scenes(20)
    entries = [
        {"frame": 0, "mask": truth(0)},
        {"frame": 10, "mask": truth(10), "accepted": True},
    ]
    found = []
    for number, changed in enumerate((False, True)):
        shown = list(frames)
        if changed:  # what is before the border is another scene
            shown[1:10] = [255 - frame for frame in frames[1:10]]
        folder = tmp_path / str(number)
        folder.mkdir()
        bag = write_bag(folder / "drive", "mcap", camera("mcap", shown))
        label(job_of(bag, seeds_file(folder, *entries), folder / "out"))
        found.append(masks_of(folder / "out"))
    assert any(not np.array_equal(a, b) for a, b in zip(found[0][1:10], found[1][1:10]))
    assert all(np.array_equal(a, b) for a, b in zip(found[0][10:], found[1][10:]))
    accepted = (tmp_path / "0" / "out" / "davis" / "ImageSets" / "accepted.txt").read_text()
    assert accepted == "drive 10\n"


def test_sections_cover_every_frame_once() -> None:
    rng = random.Random(5)
    for _ in range(300):
        frames = rng.randrange(1, 12)
        chosen = sorted(rng.sample(range(frames), rng.randrange(1, frames + 1)))
        seeds = [SeedPoint(n, (1,), rng.random() < 0.5) for n in chosen]
        sections = make_sections(frames, seeds)
        assert sections[0].first == 0
        assert sections[-1].last == frames - 1
        borders = {seed.frame for seed in seeds if seed.accepted}
        for section in sections:
            assert section.seeds
            for each in section.passes():
                inside = set(range(min(each.start, each.end), max(each.start, each.end) + 1))
                assert not (inside - {each.start}) & borders
                assert inside <= set(range(section.first, section.last + 1))
                assert each.start in {seed.frame for seed in section.seeds}
                assert [each.position(n) is not None for n in range(frames)].count(True) == len(
                    each
                )


def test_hints_make_masks_and_a_video_is_labelled(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for frame in scenes(6, (120, 160)):
            writer.write(frame)
    seeds = seeds_file(
        tmp_path,
        {"frame": 2, "id": 5, "name": "square", "box": [100, 35, 45, 45]},
        {"time": 0.2, "id": 7, "points": [[50, 62]]},
    )
    label(job_of(tmp_path / "clip.mp4", seeds, tmp_path / "out"))
    masks = masks_of(tmp_path / "out", "clip")
    assert len(masks) == 6
    right = scene(2, (120, 160))[1]
    assert ((masks[2] == 5) & (right == SQUARE)).sum() > 0.8 * (right == SQUARE).sum()
    assert ((masks[2] == 7) & (right == DISC)).sum() > 0.6 * (right == DISC).sum()
    frames = list(open_frames(tmp_path / "clip.mp4"))
    shown = read_image(tmp_path / "out" / "davis" / "JPEGImages" / "480p" / "clip" / "00003.jpg")
    assert np.abs(shown.astype(int) - frames[3]).mean() < 3


def test_two_cameras_of_one_recording_and_two_recordings(tmp_path: Path) -> None:
    records = camera("mcap", scenes(4), "/left/image") + camera("mcap", scenes(4), "/right/image")
    one = write_bag(tmp_path / "one", "mcap", records)
    two = write_bag(tmp_path / "two", "mcap", camera("mcap", scenes(3)))
    seeds = seeds_file(
        tmp_path,
        {"recording": "one", "topic": "/left/image", "frame": 0, "mask": truth(0)},
        {"recording": "one", "topic": "/right/image", "frame": 3, "mask": truth(3)},
        {"recording": str(two), "frame": 1, "mask": truth(1)},
    )
    job = job_of(one, seeds, tmp_path / "out", recordings=(str(one), str(two)))
    result = label(job)
    counts = {track["name"]: track["labelled"] for track in result["tracks"]}
    assert counts == {"one_left_image": 4, "one_right_image": 4, "two": 3}
    assert len(masks_of(tmp_path / "out", "one_right_image")) == 4
    only = label(
        replace(job, out=tmp_path / "left", topics=("/left/image",), recordings=(str(one),))
    )
    assert [track["topic"] for track in only["tracks"]] == ["/left/image"]


def test_a_recording_that_cannot_be_read_does_not_stop_the_others(
    drive: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(b"no bag at all")
    seeds = seeds_file(
        tmp_path,
        {"recording": "broken.mcap", "frame": 0, "mask": truth(0)},
        {"recording": "drive", "frame": 0, "mask": truth(0)},
    )
    job = job_of(drive, seeds, tmp_path / "out", recordings=(str(broken), str(drive)))
    with pytest.raises(InputError, match=r"1 of 2 cameras could not be labelled: .*broken\.mcap"):
        label(job)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["state"] == "running"
    assert list(manifest["errors"]) == [str(broken)]
    assert [track["labelled"] for track in manifest["tracks"]] == [20]
    assert len(masks_of(tmp_path / "out")) == 20


def test_a_recording_that_is_missing_or_was_mended_is_tried_again(
    drive: Path, tmp_path: Path
) -> None:
    # the recordings have one name, and keep theirs in the results
    (tmp_path / "other").mkdir()
    broken, gone = tmp_path / "other" / "drive", tmp_path / "gone.mcap"
    broken.mkdir()
    (broken / "drive.mcap").write_bytes(b"no bag at all")
    named = (broken, gone, drive)
    entries = ({"recording": str(each), "frame": 0, "mask": truth(0)} for each in named)
    out = tmp_path / "out"
    job = job_of(
        drive, seeds_file(tmp_path, *entries), out, recordings=tuple(map(str, named)), formats=ALL
    )
    with pytest.raises(InputError, match="2 of 3 cameras could not be labelled: "):
        label(job)
    manifest = json.loads((out / "manifest.json").read_text())
    assert sorted(manifest["errors"]) == sorted(map(str, (broken, gone)))
    assert [track["name"] for track in manifest["tracks"]] == ["drive-2"]
    again = replace(job, resume=True)
    with pytest.raises(InputError, match="2 of 3 cameras could not be labelled: "):
        label(again)
    # what was labelled must not change, and what was not may
    content = file_of(drive).read_bytes()
    file_of(drive).write_bytes(content[:-2] + b"xx")
    with pytest.raises(InputError, match="cannot go on: the recordings changed"):
        label(again)
    file_of(drive).write_bytes(content)
    mended = write_bag(tmp_path / "mended", "mcap", camera("mcap", scenes(6)))
    file_of(mended).rename(broken / "drive.mcap")
    file_of(write_bag(tmp_path / "third", "mcap", camera("mcap", scenes(4)))).rename(gone)
    result = label(again)
    counts = {track["name"]: track["labelled"] for track in result["tracks"]}
    assert counts == {"drive": 6, "gone": 4, "drive-2": 20}
    label(replace(job, out=tmp_path / "whole"))
    assert hashes(out) == hashes(tmp_path / "whole")


def test_what_was_made_of_a_damaged_recording_is_not_gone_on_with(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tmp_path / "clip.mp4"
    for count in (20, 9):
        with VideoWriter(tmp_path / f"{count}.mp4", 10) as writer:
            for frame in scenes(count):
                writer.write(frame)
    (tmp_path / "20.mp4").rename(clip)
    entries = ({"recording": name, "frame": 0, "mask": truth(0)} for name in ("drive", "clip.mp4"))
    out = tmp_path / "out"
    recordings = str(drive), str(clip)
    job = job_of(drive, seeds_file(tmp_path, *entries), out, recordings=recordings)
    # the last step of the clip fails, when its passes are done and some of its files are there
    finish = tasks.finish_track

    def fails(track: Track, *others: Any) -> None:
        finish(track, *others)
        if track.name == "clip":
            (track.folder / "finished.json").unlink()
            raise InputError("it was changed meanwhile")

    monkeypatch.setattr(tasks, "finish_track", fails)
    with pytest.raises(InputError, match="it was changed meanwhile"):
        label(job)
    monkeypatch.undo()
    (tmp_path / "9.mp4").rename(clip)
    result = label(replace(job, resume=True))
    assert [track["labelled"] for track in result["tracks"]] == [20, 9]
    label(replace(job, out=tmp_path / "whole"))
    assert hashes(out) == hashes(tmp_path / "whole")


@pytest.mark.parametrize("change", ["one more", "one less"])
def test_a_folder_that_changes_while_it_is_labelled_is_told(change: str, tmp_path: Path) -> None:
    folder = tmp_path / "drive"
    for number, frame in enumerate(scenes(5)):
        write_image(folder / f"{number}.png", frame)

    class Meanwhile(Serial):
        def run(self, first: Any, *rest: Any) -> None:
            if any(isinstance(task, PassTask) for task in first):
                if change == "one more":
                    write_image(folder / "1_.png", scenes(1)[0])
                else:
                    (folder / "1.png").unlink()
            super().run(first, *rest)

    job = job_of(folder, seeds_file(tmp_path, {"frame": 0, "mask": truth(0)}), tmp_path / "out")
    with pytest.raises(InputError, match=r"pictures now, and had 5 when it was first read"):
        label(job, Meanwhile())


def test_results_inside_of_the_recording_s_folder_can_be_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for number, frame in enumerate(scenes(6)):
        write_image(folder / f"{number}.png", frame)
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    job = job_of(folder, seeds, folder / "labels")

    with pytest.raises(KeyboardInterrupt):
        label(job, Stopped())
    assert label(replace(job, resume=True))["tracks"][0]["labelled"] == 6


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, frame in enumerate(scenes(3)):
        write_image(tmp_path / "folder" / f"{number}.png", frame)
    inner = Path.open

    def refuses(path: Path, *others: Any) -> Any:
        if path.name == "1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return inner(path, *others)

    monkeypatch.setattr(Path, "open", refuses)
    with pytest.raises(InputError, match=r"folder/1\.png: cannot be read \(Permission denied"):
        hash_of(tmp_path / "folder")


@pytest.mark.parametrize(
    ("kind", "seed"), [("folder", "file"), ("mcap", "file"), ("mcap", "/stremn/seed")]
)
def test_a_damaged_first_picture_costs_one_frame(kind: str, seed: str, tmp_path: Path) -> None:
    records = camera("mcap", scenes(8), encoding=".png")
    records[0][3].data = records[0][3].data[:60]
    mask = camera("mcap", [truth(3)], "/stremn/seed", "mono8", [stamps(8)[3]])
    recording = tmp_path / "drive"
    if kind == "mcap":
        write_bag(recording, "mcap", [*records, *mask])
    for number, (_, _, _, message) in enumerate(records if kind == "folder" else []):
        recording.mkdir(exist_ok=True)
        (recording / f"{number}.png").write_bytes(bytes(message.data))
    seeds = seed if seed != "file" else seeds_file(tmp_path, {"frame": 3, "mask": truth(3)})
    formats = (*ALL, "mcap-sidecar")
    track = label(job_of(recording, seeds, tmp_path / "out", formats=formats))["tracks"][0]
    assert (track["labelled"], track["undecodable"]) == (7, 1)
    assert any("frame 0 cannot be decoded" in text for text in track["problems"])
    assert iou(masks_of(tmp_path / "out")[0], truth(1), DISC) > 0.3


def test_a_recorded_seed_is_held_against_its_own_frame(tmp_path: Path) -> None:
    # the camera is turned at frame 4, and frames 3 and 6 cannot be decoded
    frames = [*scenes(4), *(np.swapaxes(frame, 0, 1).copy() for frame in scenes(8)[4:])]
    records = camera("mcap", frames)
    for number in (3, 6):
        records[number][3].encoding = "weird8"
    given = {2: truth(2), 3: truth(3), 4: truth(4), 5: truth(5).T.copy(), 6: truth(6).T.copy()}
    for number, mask in given.items():
        records += camera("mcap", [mask], "/stremn/seed", "mono8", [stamps(8)[number]])
    bag = write_bag(tmp_path / "drive", "mcap", sorted(records, key=lambda record: record[2]))
    track = label(job_of(bag, "/stremn/seed", tmp_path / "out"))["tracks"][0]
    assert [seed["frame"] for seed in track["seeds"]] == [2, 5]
    said = "\n".join(track["problems"])
    assert "seed 2 on /stremn/seed: " in said
    assert "frame 3 cannot be decoded: " in said
    assert "seed 3 on /stremn/seed: the mask is 60x80 (rows x columns), frame 4 is 80x60" in said
    assert said.count("it is left out") == 3
    # where none is left, nothing is labelled
    none = [record for record in records if record[0] != "/stremn/seed"]
    none += camera("mcap", [truth(3)], "/stremn/seed", "mono8", [stamps(8)[3]])
    bag = write_bag(tmp_path / "none", "mcap", none)
    with pytest.raises(InputError, match=r"no seed on /stremn/seed can be used: .* frame 3"):
        label(job_of(bag, "/stremn/seed", tmp_path / "nothing"))


def test_a_recording_whose_recorded_seeds_are_of_no_use_does_not_stop_the_others(
    tmp_path: Path,
) -> None:
    bags = []
    for name, number in (("good", 1), ("bad", 3)):
        records = camera("mcap", scenes(5))
        records[3][3].encoding = "weird8"
        records += camera("mcap", [truth(number)], "/stremn/seed", "mono8", [stamps(5)[number]])
        bags.append(str(write_bag(tmp_path / name, "mcap", records)))
    job = job_of(Path(), "/stremn/seed", tmp_path / "out", recordings=tuple(bags))
    with pytest.raises(InputError, match=r"1 of 2 cameras could not be .*bad: no seed"):
        label(job)
    tracks = json.loads((tmp_path / "out" / "manifest.json").read_text())["tracks"]
    assert [track["name"] for track in tracks] == ["good"]


def test_what_is_said_of_a_mask_is_told(tmp_path: Path) -> None:
    inverted = np.where(truth(2) > 0, 0, 255).astype(np.uint8)
    records = camera("mcap", scenes(4))
    records += camera("mcap", [inverted], "/stremn/seed", "mono8", [stamps(4)[2]])
    bag = write_bag(tmp_path / "drive", "mcap", records)
    seeds = seeds_file(tmp_path, {"frame": 2, "id": 1, "mask": inverted})
    for name, given, where in (
        ("file", str(seeds), "seeds.yaml: seed 1: the mask mask0.png: "),
        ("topic", "/stremn/seed", "seed 1 on /stremn/seed: "),
    ):
        problems = label(job_of(bag, given, tmp_path / name))["tracks"][0]["problems"]
        assert [text.partition("the object covers")[0] for text in problems] == [where]
        assert "if the mask is inverted" in problems[0]


def test_a_doubtful_mask_of_hints_is_told(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HintMasks, "agreement", lambda *others, **hints: 0.1)
    seeds = seeds_file(tmp_path, {"frame": 2, "id": 1, "box": [10, 10, 40, 40]})
    (problem,) = label(job_of(drive, seeds, tmp_path / "out"))["tracks"][0]["problems"]
    assert problem.startswith("seeds.yaml: seed 1: the mask made of its hints is doubtful")


def test_seeds_that_were_recorded_are_taken_at_their_stamps(tmp_path: Path) -> None:
    frames = scenes(8)
    masks = [
        camera("mcap", [truth(step)], "/stremn/seed", "mono8", [stamps(8)[step]])[0]
        for step in (2, 6)
    ]
    # the mask of frame 2 came late, a third one fits no frame
    late = [(a, b, when + 250_000_000, m) for a, b, when, m in masks]
    strange = camera("mcap", [truth(1)], "/stremn/seed", "mono8", [stamps(8)[1] + 5])
    records = sorted([*camera("mcap", frames), *late, *strange], key=lambda record: record[2])
    bag = write_bag(tmp_path / "drive", "mcap", records)
    result = label(job_of(bag, "/stremn/seed", tmp_path / "out"))
    track = result["tracks"][0]
    assert [seed["frame"] for seed in track["seeds"]] == [2, 6]
    assert "no frame has its stamp" in " ".join(track["problems"])
    found = masks_of(tmp_path / "out")
    assert np.array_equal(found[2], truth(2))
    assert np.array_equal(found[6], truth(6))


def test_a_bag_that_was_cut_is_labelled_as_far_as_it_goes(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "drive", "mcap", camera("mcap", scenes(150)))
    whole = file_of(bag).read_bytes()
    file_of(bag).write_bytes(whole[: int(0.6 * len(whole))])
    seeds = seeds_file(tmp_path, {"frame": 3, "mask": truth(3)})
    result = label(job_of(bag, seeds, tmp_path / "out"))
    track = result["tracks"][0]
    assert 40 < track["labelled"] < 150
    assert "cut short" in " ".join(track["problems"])
    assert "cut short" in (tmp_path / "out" / "report.html").read_text()


def test_a_frame_that_cannot_be_decoded_is_left_out_and_named(tmp_path: Path) -> None:
    records = camera("mcap", scenes(8), encoding=".png")
    records[4][3].data = records[4][3].data[:60]
    bag = write_bag(tmp_path / "drive", "mcap", records)
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    formats = ("davis", "coco", "label-studio")
    result = label(job_of(bag, seeds, tmp_path / "out", formats=formats))
    track = result["tracks"][0]
    assert (track["labelled"], track["undecodable"]) == (7, 1)
    assert any("frame 4 cannot be decoded" in text for text in track["problems"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(html.escape(text) in page for text in track["problems"])
    # nothing says where the objects are in that frame, so Label Studio shows none there
    task = json.loads((tmp_path / "out" / "label_studio" / "drive.json").read_text())[0]
    for found in task["predictions"][0]["result"]:
        assert shown_in(found["value"]["sequence"], 8) == [1, 2, 3, 4, 6, 7, 8]
    names = sorted(p.stem for p in (tmp_path / "out").glob("davis/Annotations/480p/*/*.png"))
    assert names == ["00000", "00001", "00002", "00003", "00005", "00006", "00007"]


# ---------------------------------------------------------------- what is wrong, in words


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"id": 1, "box": [1, 1, 9, 9]}, "give either time .* or frame"),
        ({"frame": 0, "time": 1.0, "id": 1, "box": [1, 1, 9, 9]}, "give either time"),
        ({"frame": 99, "id": 1, "box": [1, 1, 9, 9]}, "the recording has the frames 0 to 19"),
        ({"time": 5.0, "id": 1, "box": [1, 1, 9, 9]}, "the stamps go from 1700000000.000000"),
        ({"frame": 0, "id": 1}, "say where the object is"),
        ({"frame": 0, "box": [1, 1, 9, 9]}, "the id is missing"),
        ({"frame": 0, "id": 300, "box": [1, 1, 9, 9]}, "ids are 1..255"),
        ({"frame": 0, "id": 1, "box": [1, 1, 9]}, r"box has 3 entries, a list of four"),
        ({"frame": 0, "id": 1, "box": [70, 1, 40, 9]}, "reaches outside the image"),
        (
            {"frame": 0, "id": 1, "points": [[90, 1]]},
            r"seed 1: points on the object: \(90, 1\) lies",
        ),
        ({"frame": 0, "id": 1, "poligon": [[1, 1]]}, "did you mean polygon"),
        ({"frame": "first", "id": 1, "box": [1, 1, 9, 9]}, "it takes whole numbers"),
        ({"frame": 0, "id": 1, "mask": "absent.png"}, "absent.png"),
        ({"frame": 0, "mask": np.ones((5, 5), np.uint8)}, "is 5x5 .* the frames are 60x80"),
        ({"frame": 0, "mask": np.zeros(SIZE, np.uint8)}, "is empty"),
        ({"frame": 0, "id": 3, "mask": scene(0, SIZE)[1]}, r"holds the objects \[1, 2\]"),
        ({"frame": 0, "topic": "/front", "mask": scene(0, SIZE)[1]}, "no image topic /front"),
        ({"recording": "other", "frame": 0, "id": 1, "box": [1, 1, 9, 9]}, "has no seed of"),
        ({"time": 1700000000000000000, "id": 1, "box": [1, 1, 9, 9]}, "in seconds, .* nanosec"),
        ({"time": 1e300, "id": 1, "box": [1, 1, 9, 9]}, "the stamp of a frame in seconds"),
        ({"time": -1e300, "id": 1, "box": [1, 1, 9, 9]}, "the stamp of a frame in seconds"),
        ({"frame": 0, "mask": "a\0b.png"}, "seed 1: a text of it has a zero"),
        ({"frame": 0, "recording": "a\0b", "mask": "b.png"}, "seed 1: a text of it has a zero"),
        ({"frame": 0, "mask": ""}, "say where the object is"),
        ({"frame": 0, "name": "cup", "mask": scene(0, SIZE)[1]}, "'cup' is of no object: give the"),
        ({"frame": 0, "id": 1, "name": "a\1b", "mask": truth(0)}, r"'a\\x01b' has '\\x01' in it"),
        ({"frame": 0, "id": 1, "name": "\ud800", "mask": truth(0)}, "which cannot be printed"),
        ({"frame": 0, "id": 1, "name": "x" * 129, "mask": truth(0)}, "129 characters; 128 are the"),
    ],
)
def test_a_wrong_seed_is_told_with_what_would_be_right(
    entry: dict[str, Any], said: str, drive: Path, tmp_path: Path
) -> None:
    job = job_of(drive, seeds_file(tmp_path, entry), tmp_path / "out")
    with pytest.raises(InputError, match=said):
        label(job)
    # a seed that was put right needs no other folder
    seeds_file(tmp_path, {"frame": 19, "mask": truth(19)})
    if said == "is empty":
        assert label(job)["state"] == "complete"


def test_a_seed_is_of_the_recording_that_it_names(tmp_path: Path) -> None:
    for name in ("x", "y", "z"):
        (tmp_path / name).mkdir()
        for number, frame in enumerate(scenes(2)):
            write_image(tmp_path / name / "drive" / f"{number}.png", frame)
    paths = [str(tmp_path / name / "drive") for name in ("x", "y")]

    def planned(folder: str, *named: str) -> list[str]:
        entries = ({"recording": name, "frame": 0, "mask": truth(0)} for name in named)
        seeds = seeds_file(tmp_path / folder, *entries)
        job = job_of(Path(), seeds, tmp_path / "out", recordings=tuple(paths))
        return [f"{each.recording} {len(each.entries)}" for each in plan_cameras(job)[0]]

    # beside one of them its name is that one's path, and says nothing of the other
    with pytest.raises(InputError, match=rf"has no seed of {paths[1]}"):
        planned("x", "drive")
    with pytest.raises(InputError, match=rf"has no seed of {paths[0]}"):
        planned("y", "drive")
    assert planned("x", "drive", "y/drive") == [f"{paths[0]} 1", f"{paths[1]} 1"]
    assert planned("z", "x/drive", paths[1]) == [f"{paths[0]} 1", f"{paths[1]} 1"]
    for folder in ("z", "z/drive"):
        with pytest.raises(
            InputError, match=rf"drive, which may be {paths[0]} or {paths[1]}: give"
        ):
            planned(folder, "drive")
    # a link has the name that it was given by, and that of what it leads to
    (tmp_path / "link").symlink_to(tmp_path / "x" / "drive")
    paths[0] = str(tmp_path / "link")
    for name in ("link", "x/drive"):
        assert planned("z", name, "y/drive") == [f"{paths[0]} 1", f"{paths[1]} 1"]


@pytest.mark.parametrize("kind", ["a video", "a bag"])
def test_a_seeds_file_that_is_missing_is_no_topic(kind: str, tmp_path: Path) -> None:
    recording = tmp_path / "clip.mp4"
    with VideoWriter(recording, 10) as writer:
        for frame in scenes(2):
            writer.write(frame)
    if kind == "a bag":
        recording = write_bag(tmp_path / "drive", "mcap", camera("mcap", scenes(2)))
    for name in ("typo.yaml", "typo.yml"):
        with pytest.raises(InputError, match=rf"{name} cannot be read: No such file"):
            label(job_of(recording, str(tmp_path / name), tmp_path / "out"))
    said = "which has no topics, and there is no seeds file /stremn/seed"
    if kind == "a bag":
        said = "has no topic /stremn/seed of type"
    with pytest.raises(InputError, match=said):
        label(job_of(recording, "/stremn/seed", tmp_path / "out"))


def test_an_object_has_one_name(drive: Path, tmp_path: Path) -> None:
    seeds = seeds_file(
        tmp_path,
        {"frame": 0, "id": 1, "name": "cup", "mask": truth(0)},
        {"frame": 5, "id": 1, "name": "mug", "mask": truth(5)},
    )
    with pytest.raises(InputError, match="is called 'mug' here and 'cup' before"):
        label(job_of(drive, seeds, tmp_path / "out"))


def test_every_option_of_the_segmenter_reaches_the_run(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = []

    def stop(job: Job, *others: object) -> dict[str, list[object]]:
        jobs.append(job)
        return {"tracks": []}

    monkeypatch.setattr("stremn_ros.recordings.job.label", stop)
    values = {"min_score": 0.25, "update_change": 0.1, "smallest_part": 0.5, "lost_after": 7}
    said = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    said = [word.replace("_", "-") for word in said]
    seeds = tmp_path / "seeds.yaml"
    seeds.write_text("seeds: []\n")
    assert (
        main(["label", str(drive), "--seeds", str(seeds), "--out", str(tmp_path / "o"), *said]) == 0
    )
    assert dict(jobs[0].settings.options) == values


def test_formats_are_checked() -> None:
    assert checked_formats("coco, davis") == ("davis", "coco")
    with pytest.raises(InputError, match=f"there are {', '.join(FORMATS)}"):
        checked_formats("yolo")
    with pytest.raises(InputError, match="bag holds all that mcap-sidecar does"):
        checked_formats("bag,mcap-sidecar")


# ---------------------------------------------------------------- files


def test_coco_cvat_and_label_studio_hold_the_same_masks(drive: Path, tmp_path: Path) -> None:
    seeds = seeds_file(tmp_path, {"frame": 4, "id": SQUARE, "name": "a & b", "mask": truth(4)})
    out = tmp_path / "out"
    label(job_of(drive, seeds, out, formats=("davis", "coco", "cvat", "label-studio")))
    masks = masks_of(out)
    coco = json.loads((out / "coco" / "drive.json").read_text())
    assert len(coco["images"]) == 20
    assert [category["name"] for category in coco["categories"]] == ["a & b"]
    for found in coco["annotations"]:
        mask = masks[found["image_id"]] == found["track_id"]
        assert np.array_equal(coco_mask.decode(found["segmentation"]), mask)
        assert found["area"] == mask.sum()
    assert len(coco["annotations"]) == sum((mask == SQUARE).any() for mask in masks)
    for image in coco["images"]:
        assert (out / "davis" / "JPEGImages" / "480p" / image["file_name"]).is_file()

    root = ElementTree.parse(out / "cvat" / "drive.xml").getroot()
    assert root.findtext("meta/task/labels/label/name") == "a & b"
    track = root.find("track")
    assert track is not None
    assert track.get("label") == "a & b"
    for shape in track.findall("mask[@outside='0']"):
        left, top, width, height = (
            int(shape.get(k, "")) for k in ("left", "top", "width", "height")
        )
        lengths = [int(value) for value in shape.get("rle", "").split(", ")]
        flat = np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(height, width)
        own = masks[int(shape.get("frame", ""))][top : top + height, left : left + width] == SQUARE
        assert np.array_equal(flat.astype(bool), own)

    task = json.loads((out / "label_studio" / "drive.json").read_text())[0]
    found = task["predictions"][0]["result"][0]
    assert found["value"]["labels"] == ["a & b"]
    boxes = found["value"]["sequence"]
    there = [n + 1 for n, mask in enumerate(masks) if (mask == SQUARE).any()]
    assert [box["frame"] for box in boxes] == shown_in(boxes, 20) == there
    assert found["value"]["framesCount"] / found["value"]["duration"] == pytest.approx(10)
    ys, xs = np.nonzero(masks[0] == SQUARE)
    assert boxes[0]["x"] == pytest.approx(100 * xs.min() / SIZE[1], abs=1e-3)
    assert boxes[0]["height"] == pytest.approx(100 * (np.ptp(ys) + 1) / SIZE[0], abs=1e-3)


def test_an_object_without_a_name_is_called_as_no_other_one(drive: Path, tmp_path: Path) -> None:
    labels = scene(4, SIZE)[1]
    seeds = seeds_file(
        tmp_path,
        {"frame": 4, "id": DISC, "name": f"object {SQUARE}", "mask": labels},
        {"frame": 4, "id": SQUARE, "mask": labels},
    )
    out = tmp_path / "out"
    label(job_of(drive, seeds, out, formats=("coco", "cvat", "label-studio")))
    names = {f"object {SQUARE}", f"object {SQUARE} (without a name)"}
    coco = json.loads((out / "coco" / "drive.json").read_text())
    assert {category["name"] for category in coco["categories"]} == names
    root = ElementTree.parse(out / "cvat" / "drive.xml").getroot()
    assert {track.get("label") for track in root.findall("track")} == names
    task = json.loads((out / "label_studio" / "drive.json").read_text())[0]
    found = task["predictions"][0]["result"]
    assert {part["value"]["labels"][0] for part in found} == names


def shown_in(boxes: list[dict[str, Any]], frames: int) -> list[int]:
    """The frames in which Label Studio shows a region (isInLifespan of its VideoRegion)."""
    shown = []
    for frame in range(1, frames + 1):
        last = next((box for box in reversed(boxes) if box["frame"] <= frame), None)
        if last is not None and (last["enabled"] or last["frame"] == frame):
            shown.append(frame)
    return shown


def test_an_object_that_is_away_is_shown_where_it_is_and_nowhere_else(tmp_path: Path) -> None:
    track = Track("drive", "drive", "", [SeedPoint(0, (3,))], [])
    stamps = np.arange(6, dtype=np.int64) * 100_000_000
    track.__dict__["index"] = Index("", stamps, fps=10.0)
    writer = LabelStudio(Target(track, tmp_path, tmp_path / "work"))
    there = [True, True, False, False, True, False]
    for frame, seen in enumerate(there):
        labels = np.zeros(SIZE, np.uint8)
        labels[5:9, 5 : 9 + frame] = 3 * seen
        area, box, centroid = measured(labels, 3)
        found = FrameObject(3, ObjectState.TRACKED, 1.0, area, box, centroid, "", "forward")
        writer.add(Labelled(frame, int(stamps[frame]), labels, [found]), None)
    writer.finish()
    task = json.loads((tmp_path / "label_studio" / "drive.json").read_text())[0]
    value = task["predictions"][0]["result"][0]["value"]
    assert shown_in(value["sequence"], 6) == [n + 1 for n, seen in enumerate(there) if seen]
    assert value["duration"] == 0.6


@pytest.mark.parametrize("kind", ["folder", "video", "bag"])
def test_a_name_in_an_unknown_encoding_is_written(kind: str, tmp_path: Path) -> None:
    recording = tmp_path / os.fsdecode(b"f\xfcr")  # Latin-1
    if kind == "folder":
        for number, frame in enumerate(scenes(3)):
            write_image(recording / f"{number}.png", frame)
    elif kind == "video":
        recording = recording.with_suffix(".mp4")
        with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
            for frame in scenes(3):
                writer.write(frame)
        (tmp_path / "clip.mp4").rename(recording)
    else:
        recording = write_bag(recording, "mcap", camera("mcap", scenes(3)))
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    result = label(job_of(recording, seeds, tmp_path / "out", formats=(*ALL, "mcap")))
    assert result["tracks"][0]["labelled"] == 3
    assert {row["recording"] for row in rows_of(tmp_path / "out")} == {
        str(recording).replace("\udcfc", r"\udcfc")
    }
    assert r"f\udcfcr" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_an_object_that_other_tools_would_not_see_is_refused(drive: Path, tmp_path: Path) -> None:
    one = {"frame": 0, "id": 255, "mask": truth(0, DISC)}
    seeds = seeds_file(tmp_path, one, {"frame": 0, "id": SQUARE, "mask": truth(0, SQUARE)})
    job = job_of(drive, seeds, tmp_path / "out")
    with pytest.raises(InputError, match=r"an object has the id 255, .* another id"):
        label(job)
    # other formats have no such number, and alone it is the object
    label(replace(job, formats=("coco",)))
    label(job_of(drive, seeds_file(tmp_path, one), tmp_path / "alone"))
    sequence = open_davis(tmp_path / "alone" / "davis", "train").sequences[0]
    assert sequence.truth().ids == [1]


def test_a_name_that_looks_like_a_formula_is_none_in_the_table(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "=drive", "mcap", camera("mcap", scenes(2)))
    seeds = seeds_file(tmp_path, {"frame": 0, "id": 1, "name": "=1+1", "mask": truth(0, DISC)})
    label(job_of(bag, seeds, tmp_path / "out"))
    rows = rows_of(tmp_path / "out")
    assert {row["name"] for row in rows} == {"'=1+1"}
    assert not any(str(value).startswith("=") for row in rows for value in row.values())


def test_run_lengths_begin_with_zeros() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((3, 5)) < rng.random()
        lengths = run_lengths(mask)
        assert np.array_equal(
            np.repeat(np.arange(len(lengths)) % 2, lengths).astype(bool), mask.ravel()
        )


def test_what_is_written_is_what_training_reads(drive: Path, tmp_path: Path) -> None:
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    label(job_of(drive, seeds, tmp_path / "out"))
    clips = VideoClips(tmp_path / "out" / "davis")
    assert list(clips.sequences) == ["drive"]
    clip = clips.sample(np.random.default_rng(0), frames=3, size=48, objects=2, gap=2)
    assert clip is not None


# ---------------------------------------------------------------- stops


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as made:
        yield made


def words(recording: Path, seeds: Path, out: Path, *more: str) -> list[str]:
    return [
        *("label", str(recording), "--seeds", str(seeds), "--out", str(out), "--quiet"),
        *("--stretch", "5", *MODEL, "--format", ",".join(ALL), *more),
    ]


def whole(recording: Path, seeds: Path, out: Path) -> dict[str, str]:
    """The files of a run in one go."""
    label(job_of(recording, seeds, out, formats=ALL, settings=replace(SETTINGS, stretch=5)))
    return hashes(out)


def test_a_run_killed_again_and_again_ends_with_the_same_files(
    forks: Forks, tmp_path: Path
) -> None:
    bag = write_bag(tmp_path / "drive", "mcap_zstd", camera("mcap_zstd", scenes(30)))
    seeds = seeds_file(
        tmp_path,
        {"frame": 4, "mask": truth(4)},
        {"frame": 22, "id": DISC, "mask": truth(22)},
    )
    out, said = tmp_path / "out", tmp_path / "said"
    rng = random.Random(2)
    kills = 0
    for attempt in range(40):
        pid = forks.start(words(bag, seeds, out, "--resume"), said)
        begun = len(list(out.rglob("*.zip")))
        deadline = time.monotonic() + 60
        if attempt % 3:  # at any moment; else once something was done
            deadline = time.monotonic() + rng.uniform(0.0, 1.5)
        while len(list(out.rglob("*.zip"))) <= begun and time.monotonic() < deadline:
            time.sleep(0.005)
            if (out / "objects.csv").exists():
                break
        time.sleep(rng.uniform(0.0, 0.2))
        if kills < KILLS:
            os.kill(pid, signal.SIGKILL)
        code = forks.wait(pid)
        assert code in (0, -signal.SIGKILL), said.read_text()
        if code == 0:
            break
        kills += 1
    assert code == 0
    assert kills >= 3
    assert hashes(out) == whole(bag, seeds, tmp_path / "whole")


def test_a_run_goes_on_only_with_what_it_was_made_from(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # two masks of one name, in folders of their own
    (tmp_path / "right").mkdir()
    seeds_file(tmp_path / "right", {"frame": 5, "mask": truth(5)})
    seeds = seeds_file(
        tmp_path, {"frame": 5, "mask": "right/mask0.png"}, {"frame": 0, "mask": truth(0)}
    )
    (tmp_path / "mask1.png").rename(tmp_path / "mask0.png")
    seeds.write_text(seeds.read_text().replace("mask1", "mask0"))
    out = tmp_path / "out"
    job = job_of(drive, seeds, out)

    with pytest.raises(KeyboardInterrupt):
        label(job, Stopped())
    with pytest.raises(InputError, match="holds a run already: --resume"):
        label(job)
    again = replace(job, resume=True)
    text = seeds.read_text()
    seeds.write_text(text + "\n# a note\n")
    with pytest.raises(InputError, match="cannot go on: the seeds changed"):
        label(again)
    seeds.write_text(text)
    masks = [tmp_path / "mask0.png", tmp_path / "right" / "mask0.png"]
    for mask, other in (masks, masks[::-1]):
        kept = mask.read_bytes()
        mask.write_bytes(other.read_bytes())
        with pytest.raises(InputError, match="cannot go on: the seeds changed"):
            label(again)
        mask.write_bytes(kept)
    with pytest.raises(InputError, match="the options of the model differ"):
        label(replace(again, settings=replace(SETTINGS, options=(("processing_size", 48),))))
    with pytest.raises(InputError, match="--format was davis and is davis,coco"):
        label(replace(again, formats=("davis", "coco")))
    hints = seeds_file(tmp_path / "right", {"frame": 0, "id": DISC, "box": [17, 23, 18, 18]})
    hinted = job_of(drive, hints, tmp_path / "hinted")
    with pytest.raises(KeyboardInterrupt):
        label(hinted, Stopped())
    other = replace(hinted, resume=True, settings=replace(SETTINGS, click_model="clicks_lite0"))
    with pytest.raises(InputError, match="--click-model was '' and is 'clicks_lite0'"):
        label(other)
    content = file_of(drive).read_bytes()
    file_of(drive).write_bytes(content[:-2] + b"xx")
    with pytest.raises(InputError, match="cannot go on: the recordings changed"):
        label(again)
    file_of(drive).write_bytes(content)
    assert label(again)["state"] == "complete"
    assert label(again)["state"] == "complete"  # nothing is left to do
    assert not (out / "work").exists()


def test_what_a_power_cut_damaged_is_made_again(drive: Path, tmp_path: Path) -> None:
    job = job_of(drive, seeds_file(tmp_path, {"frame": 5, "mask": truth(5)}), tmp_path / "whole")
    label(job)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".manifest.json.tmp").touch()
    job = replace(job, out=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        label(job, Stopped())
    for name in ("track.json", "index.npz", "seeds/000005.png"):
        (tmp_path / "out" / "work" / "drive" / name).write_bytes(b"")
        with pytest.raises(KeyboardInterrupt):
            label(replace(job, resume=True), Stopped())
    label(replace(job, resume=True))
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run", []),
        ("run", {}),
        ("run", {"recordings": {}}),
        ("run", {"recordings": [3]}),
        ("run", {"recordings": [{"path": 3}]}),
        ("state", "done"),
        ("state", []),
        ("errors", []),
        ("tracks", None),
        ("tracks", [{}]),
        ("tracks", [{"name": "drive", "labelled": None, "problems": []}]),
        ("format", None),
        ("format", 1),  # its parts of the report are others, and it has no click model
    ],
)
def test_a_manifest_that_was_changed_is_no_manifest(name: str, value: Any, tmp_path: Path) -> None:
    run = {"recordings": [{"path": "drive"}]}
    track = {"name": "drive", "labelled": 3, "problems": []}
    write_manifest(tmp_path, "complete", run, [track], {})
    values = read_manifest(tmp_path)
    assert values is not None
    (tmp_path / "manifest.json").write_text(json.dumps({**values, name: value}))
    with pytest.raises(InputError, match=r"manifest\.json: is no manifest of `stremn label`"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_manifest_that_is_no_json_is_damaged(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json: is damaged"):
        read_manifest(tmp_path)


def test_a_disk_that_refuses_leaves_what_is_whole_and_says_how_to_go_on(
    forks: Forks, drive: Path, tmp_path: Path
) -> None:
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    out, said = tmp_path / "out", tmp_path / "said"
    # no file may be larger than this: the memory's is
    code = forks.wait(forks.start(words(drive, seeds, out), said, largest_file=40_000))
    text = said.read_text()
    assert code == 2, text
    assert "cannot be written" in text
    assert "with --resume goes on" in text
    assert "Traceback" not in text
    assert not list(out.rglob("*.zip"))
    assert not list(out.rglob("*.part"))
    assert forks.wait(forks.start(words(drive, seeds, out, "--resume"), said)) == 0
    assert hashes(out) == whole(drive, seeds, tmp_path / "whole")


def test_an_interrupt_keeps_what_was_done(forks: Forks, drive: Path, tmp_path: Path) -> None:
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    out, said = tmp_path / "out", tmp_path / "said"
    pid = forks.start(words(drive, seeds, out), said)
    deadline = time.monotonic() + 60
    while not list(out.rglob("*.zip")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(pid, signal.SIGINT)
    assert forks.wait(pid) == 130
    text = said.read_text()
    assert "with --resume goes on" in text
    assert "Traceback" not in text
    assert list(out.rglob("*.zip"))
    assert not list(out.rglob("*.part"))


@pytest.mark.usefixtures("half_the_threads")
def test_two_workers_give_the_files_of_one(drive: Path, tmp_path: Path) -> None:
    seeds = seeds_file(
        tmp_path,
        {"frame": 4, "mask": truth(4)},
        {"frame": 12, "mask": truth(12), "accepted": True},
    )
    settings = replace(SETTINGS, stretch=2)
    one = job_of(drive, seeds, tmp_path / "one", formats=("davis", "coco"), settings=settings)
    label(one)
    label(replace(one, out=tmp_path / "two"), Processes(2))
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")

    # a worker is killed in the run; workers are copies of a process that imported for them
    def workers() -> list[int]:
        servers = {pid: parent for pid, parent, w in descendants(os.getpid()) if "forkserver" in w}
        return [pid for pid, parent in servers.items() if parent in servers]

    with ThreadPoolExecutor() as threads:
        killed = threads.submit(kill_one, tmp_path / "killed", workers)
        label(replace(one, out=tmp_path / "killed"), Processes(2))
        assert killed.result()
    assert hashes(tmp_path / "one") == hashes(tmp_path / "killed")


@dataclass(frozen=True)
class Deadly(Task):
    """Its process dies as often as it is told to, and then it is done."""

    name: str
    folder: str
    deaths: int

    def run(self, tell: Any) -> str:
        marks = Path(self.folder)
        count = len(list(marks.glob(f"{self.name}*")))
        if count < self.deaths:
            (marks / f"{self.name}{count}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.name


def test_tasks_of_a_worker_that_dies_are_done_again(tmp_path: Path) -> None:
    found: list[str] = []

    def done(task: Task, outcome: Outcome) -> list[Task]:
        found.append(outcome.value)
        return [Deadly("second", str(tmp_path), 1)] if task.name == "first" else []

    first = [Deadly("first", str(tmp_path), 1), Deadly("other", str(tmp_path), 0)]
    with Processes(2) as workers:
        workers.run(first, done, lambda running: None, lambda count: None)
        assert sorted(found) == ["first", "other", "second"]
        # a task that no worker survives
        with pytest.raises(InputError, match="a worker process died 3 times"):
            workers.run(
                [Deadly("never", str(tmp_path), 9)], done, lambda running: None, lambda count: None
            )
