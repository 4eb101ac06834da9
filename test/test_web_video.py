"""A video on the live page, without ROS: what is followed, corrected, exported. The tiny model."""

from __future__ import annotations

import csv
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import cv2
import numpy as np
import pytest
from shapes import DISC, SQUARE, TINY_MODEL, iou, scene
from web_helpers import wait_until

from stremn_ros.cli import main
from stremn_ros.errors import InputError, StremnError
from stremn_ros.imaging.video import VideoWriter, open_frames, write_image
from stremn_ros.imaging.visualization import read_label_png
from stremn_ros.segmenter import Segmenter
from stremn_ros.web import frames as frames_module
from stremn_ros.web import video_source
from stremn_ros.web.frames import CameraFrames, VideoFrames
from stremn_ros.web.requests import Hints, Request
from stremn_ros.web.source import KEPT_FRAMES
from stremn_ros.web.video_source import VideoSource

FRAMES = 24
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    for number in range(FRAMES):
        write_image(path / f"p{number:02d}.png", scene(number)[0])
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, 20) as writer:
        for number in range(FRAMES):
            writer.write(scene(number)[0])
    return path


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.load(str(TINY_MODEL), runtime="torch", max_objects=3)


@pytest.fixture
def source(folder: Path, segmenter: Segmenter, tmp_path: Path) -> Iterator[VideoSource]:
    segmenter.reset()
    made = VideoSource(VideoFrames(folder), "pictures", segmenter, folder, tmp_path / "out")
    wait_until(lambda: made.newest, "the first picture")
    yield made
    made.close()


def do(source: VideoSource, action: str, **fields: object) -> dict:
    return source.do(Request(1, action, **fields))


def point(number: int, object_id: int) -> Hints:
    """A click on the middle of an object."""
    ys, xs = np.nonzero(scene(number)[1] == object_id)
    return Hints(inside=((float(xs.mean()), float(ys.mean())),))


def play_to_the_end(source: VideoSource) -> None:
    do(source, "play")
    wait_until(lambda: not source.status()["playing"], "the end of the video")


def test_a_click_is_followed_to_the_end(source: VideoSource) -> None:
    assert source.abilities >= {"step", "seek", "export"}
    shown = do(source, "preview", stamp=0, hints=point(0, DISC))
    mask = cv2.imdecode(np.frombuffer(shown["mask"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert iou(mask, scene(0)[1] == DISC, 1) > 0.9
    assert source.newest.objects == (), "a preview seeds nothing"
    told = do(source, "follow", stamp=0, hints=point(0, DISC), name="disc")
    assert told["object"] == 1
    assert [(item["name"], item["state"]) for item in source.newest.objects] == [("disc", "GIVEN")]
    play_to_the_end(source)
    assert source.newest.position == FRAMES - 1
    assert iou(source.newest.labels, scene(FRAMES - 1)[1] == DISC, 1) > 0.5
    assert [item["state"] for item in source.newest.objects] == ["TRACKED"]
    assert source.status()["problem"] == ""


def test_step_and_seek_show_exactly_that_frame_with_its_masks(source: VideoSource) -> None:
    do(source, "follow", stamp=0, hints=point(0, DISC))
    kept = {}
    for number in range(1, 6):
        do(source, "step")
        assert source.newest.position == number
        assert np.array_equal(source.newest.frame, scene(number)[0])
        kept[number] = source.newest.labels
    for number in (2, 5, 1):
        do(source, "seek", number=number)
        assert np.array_equal(source.newest.frame, scene(number)[0])
        assert np.array_equal(source.newest.labels, kept[number])
    do(source, "seek", number=10**12)
    assert source.newest.position == FRAMES - 1
    with pytest.raises(InputError, match="last frame"):
        do(source, "step")


def test_a_correction_in_the_middle_goes_on_from_there(source: VideoSource) -> None:
    do(source, "follow", stamp=0, hints=point(0, DISC))
    play_to_the_end(source)
    do(source, "seek", number=8)
    before = source.newest.labels
    do(source, "follow", stamp=8, hints=point(8, SQUARE), name="square")
    labels = source.newest.labels
    assert iou(labels, scene(8)[1], SQUARE) > 0.9
    assert np.array_equal(labels == 1, (before == 1) & (labels != 2)), "the other stays"
    do(source, "seek", number=12)
    assert not source.newest.labels.any(), "what came after the correction is made again"
    do(source, "seek", number=3)
    assert set(np.unique(source.newest.labels)) == {0, 1}, "what came before it stays"
    do(source, "seek", number=8)
    play_to_the_end(source)
    truth = scene(FRAMES - 1)[1]
    assert iou(source.newest.labels, truth == DISC, 1) > 0.5
    assert iou(source.newest.labels, truth, SQUARE) > 0.5


def test_seed_again_remove_and_reset(source: VideoSource) -> None:
    do(source, "follow", stamp=0, hints=point(0, DISC), name="it")
    do(source, "follow", stamp=0, hints=point(0, SQUARE), object_id=1)
    assert iou(source.newest.labels, scene(0)[1] == SQUARE, 1) > 0.9
    assert [item["name"] for item in source.newest.objects] == ["it"]
    with pytest.raises(InputError, match="object 7 is not followed"):
        do(source, "follow", stamp=0, hints=point(0, DISC), object_id=7)
    do(source, "follow", stamp=0, hints=point(0, DISC))
    do(source, "step")
    do(source, "remove", object_id=1)
    assert set(np.unique(source.newest.labels)) == {0, 2}
    assert [item["id"] for item in source.newest.objects] == [2]
    with pytest.raises(StremnError, match="object 1 is not tracked"):
        do(source, "remove", object_id=1)
    do(source, "reset")
    assert source.newest.objects == ()
    assert not source.newest.labels.any()
    with pytest.raises(InputError, match="no masks yet"):
        do(source, "export")


def test_too_many_objects_and_old_pictures_are_refused_and_change_nothing(
    source: VideoSource,
) -> None:
    do(source, "follow", stamp=0, hints=point(0, DISC))
    do(source, "follow", stamp=0, hints=point(0, SQUARE))
    # the left half of the square as a third object
    ys, xs = np.nonzero(scene(0)[1] == SQUARE)
    half = polygon((int(xs.min()), int(ys.min()), int(np.ptp(xs)) // 2, int(np.ptp(ys))))
    middle = (float(xs.min()) + 4, float(ys.mean()))
    do(source, "follow", stamp=0, hints=Hints(polygon=half, inside=(middle,)))
    before = source.newest
    assert [item["id"] for item in before.objects] == [1, 2, 3]
    with pytest.raises(InputError, match="3 objects are followed"):
        do(source, "follow", stamp=0, hints=point(0, DISC))
    assert source.newest is before
    with pytest.raises(InputError, match="no longer kept"):
        do(source, "preview", stamp=99, hints=point(0, DISC))
    with pytest.raises(InputError, match="outside the image"):
        do(source, "preview", stamp=0, hints=Hints(inside=((5000.0, 5.0),)))


def polygon(box: tuple[int, int, int, int]) -> tuple[tuple[float, float], ...]:
    x, y, w, h = box
    return ((x, y), (x + w, y), (x + w, y + h), (x, y + h))


def test_looking_at_frames_before_the_seed_changes_no_mask(source: VideoSource) -> None:
    def followed(look_back: bool) -> list[np.ndarray]:
        do(source, "reset")
        do(source, "seek", number=10)
        do(source, "follow", stamp=10, hints=point(10, DISC))
        shown = []
        for number in range(11, 19):
            if look_back and number == 15:
                do(source, "seek", number=0)
                for _ in range(3):
                    do(source, "step")
                    assert [item["state"] for item in source.newest.objects] == ["NOT SEGMENTED"]
                do(source, "seek", number=14)
            do(source, "step")
            assert source.newest.position == number
            shown.append(source.newest.labels)
        return shown

    for one, other in zip(followed(False), followed(True), strict=True):
        assert np.array_equal(one, other)
    # and a correction still drops what came after it
    do(source, "seek", number=0)
    do(source, "step")
    do(source, "seek", number=12)
    do(source, "follow", stamp=12, hints=point(12, SQUARE))
    do(source, "step")
    assert {item["id"]: item["state"] for item in source.newest.objects} == {
        1: "TRACKED",
        2: "TRACKED",
    }


def test_the_id_of_an_object_that_was_removed_is_given_to_no_other(source: VideoSource) -> None:
    do(source, "follow", stamp=0, hints=point(0, DISC), name="disc")
    for _ in range(3):
        do(source, "step")
    do(source, "remove", object_id=1)
    assert do(source, "follow", stamp=3, hints=point(3, SQUARE), name="square")["object"] == 2
    do(source, "reset")
    assert do(source, "follow", stamp=3, hints=point(3, SQUARE), name="square")["object"] == 1


def test_there_is_nothing_to_play_after_the_last_frame(source: VideoSource) -> None:
    do(source, "seek", number=FRAMES - 1)
    with pytest.raises(InputError, match="last frame"):
        do(source, "play")
    assert not source.status()["playing"]
    do(source, "seek", number=FRAMES - 3)
    play_to_the_end(source)


def test_the_export_is_what_was_seen(source: VideoSource) -> None:
    do(source, "follow", stamp=0, hints=point(0, DISC), name="=disc, 1")
    shown = {0: source.newest.labels}
    for number in range(1, 5):
        do(source, "step")
        shown[number] = source.newest.labels
    told = do(source, "export")
    out = Path(told["message"].removeprefix("frames 0 to 4 written to "))
    assert out.name == "pictures0-1"
    assert sorted(path.name for path in (out / "masks").iterdir()) == [
        f"p{number:02d}.png" for number in range(5)
    ]
    for number, labels in shown.items():
        assert np.array_equal(read_label_png(out / "masks" / f"p{number:02d}.png"), labels)
    assert sum(1 for _ in open_frames(out / "overlay.mp4")) == 5
    rows = list(csv.DictReader((out / "objects.csv").open()))
    assert [int(row["frame"]) for row in rows] == list(range(5))
    assert rows[0]["state"] == "GIVEN"
    assert rows[0]["name"] == "'=disc, 1", "a spreadsheet takes it for no formula"
    assert int(rows[4]["area"]) == int((shown[4] == 1).sum())
    assert do(source, "export")["message"].endswith("-2"), "nothing is written over"


def test_a_clip_is_read_exactly_and_one_that_is_cut_short_says_so(
    clip: Path, tmp_path: Path
) -> None:
    every = list(open_frames(clip))
    frames = VideoFrames(clip)
    for number in (0, 7, 3, FRAMES - 1, 0):
        assert np.array_equal(frames.get(number), every[number])
    assert frames.get(FRAMES) is None
    assert frames.count == FRAMES
    frames.close()
    data = (clip.parent / "clip.mp4").read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError):
        VideoFrames(cut)


def test_a_request_that_takes_too_long_is_answered(
    source: VideoSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_source, "SEED_PATIENCE", 0.2)
    monkeypatch.setattr(source, "_reset", lambda: time.sleep(1.0) or {})
    with pytest.raises(StremnError, match=r"no answer within"):
        do(source, "reset")
    monkeypatch.undo()
    assert do(source, "pause")["message"] == "paused", "it goes on"


def test_a_long_seek_does_not_keep_it_from_ending(
    folder: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = VideoFrames(folder)
    frames._reading = itertools.repeat(scene(0)[0])  # hours of video
    monkeypatch.setattr(frames_module, "CACHED_BYTES", 0)
    segmenter.reset()
    source = VideoSource(frames, "long", segmenter)
    worker = threading.Thread(target=lambda: source.do(Request(1, "seek", number=10**15)))
    worker.start()
    wait_until(lambda: source.status()["doing"], "the seek")
    begun = time.monotonic()
    source.close()
    worker.join(30)
    assert not worker.is_alive()
    assert time.monotonic() - begun < 10


def test_old_frames_are_dropped_from_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module, "CACHED_BYTES", 3 * scene(0)[0].nbytes)
    frames = VideoFrames(folder)
    frames.get(10)
    assert len(frames._kept) == 3
    assert np.array_equal(frames.get(2), scene(2)[0])


class FakeCapture:
    """A webcam of 200 Hz that shows the scene; unplugged after so many frames."""

    def __init__(self, number: int, frames: int = 10_000) -> None:
        self.opened, self.left, self.count = number == 0, frames, 0

    def isOpened(self) -> bool:
        return self.opened

    def get(self, what: int) -> float:
        return 200.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.005)
        self.left -= 1
        self.count += 1
        if self.left < 0:
            return False, None
        return True, cv2.cvtColor(scene(self.count // 20)[0], cv2.COLOR_RGB2BGR)

    def release(self) -> None:
        self.opened = False


def test_a_webcam_drops_what_it_cannot_follow(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module.cv2, "VideoCapture", FakeCapture)
    with pytest.raises(InputError, match="no camera 3"):
        CameraFrames(3)
    segmenter.reset()
    camera = CameraFrames(0)
    time.sleep(0.1)
    assert camera.dropped == 0, "nobody has asked for one yet"
    source = VideoSource(camera, "webcam", segmenter)
    try:
        assert not source.abilities & {"seek", "step", "export"}
        picture = wait_until(lambda: source.newest, "a picture")
        middle = segmentable(picture.frame)
        do(source, "follow", stamp=picture.stamp, hints=Hints(inside=(middle,)))

        def followed() -> bool:
            now = source.newest
            truth = now.frame[..., 0].astype(int) - now.frame[..., 2] > 60
            return bool(now.objects) and iou(now.labels, truth, 1) > 0.5

        wait_until(followed, "the disc")
        wait_until(lambda: source.status()["dropped"] > 0, "dropped frames")
        assert len(source._records) <= 1, "a stream without an end is not kept"
        do(source, "pause")
        number, dropped = source.newest.number, source.status()["dropped"]
        time.sleep(0.2)
        assert source.newest.number <= number + 1
        assert source.status()["dropped"] == dropped, "nobody wanted them"
        do(source, "play")
        wait_until(lambda: source.status()["dropped"] > dropped, "dropped frames")
    finally:
        source.close()


def test_a_webcams_picture_is_held_while_a_person_draws_on_it(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module.cv2, "VideoCapture", FakeCapture)
    segmenter.reset()
    source = VideoSource(CameraFrames(0), "webcam", segmenter)
    try:
        picture = wait_until(lambda: source.newest, "a picture")
        hints = Hints(inside=(segmentable(picture.frame),))
        do(source, "hold", stamp=picture.stamp)
        wait_until(lambda: source.newest.stamp > picture.stamp + 2 * KEPT_FRAMES, "newer pictures")
        with pytest.raises(InputError, match="no longer kept"):
            do(source, "preview", stamp=picture.stamp + 1, hints=hints)
        with pytest.raises(InputError, match="no longer kept"):
            do(source, "hold", stamp=picture.stamp + 1)
        do(source, "pause")
        segmenter.seed(np.zeros_like(picture.frame), np.eye(*picture.labels.shape, dtype=np.uint8))
        for number in (2, 3):
            segmenter.seed(picture.frame, number * np.eye(*picture.labels.shape, dtype=np.uint8))
        with pytest.raises(InputError, match="start with --max-objects 4"):
            do(source, "follow", stamp=picture.stamp, hints=hints)
        segmenter.remove(2)
        assert do(source, "follow", stamp=picture.stamp, hints=hints)["object"] == 2
    finally:
        source.close()


def segmentable(frame: np.ndarray) -> tuple[float, float]:
    ys, xs = np.nonzero(frame[..., 0].astype(int) - frame[..., 2] > 60)
    return float(xs.mean()), float(ys.mean())


def test_a_webcam_that_is_unplugged_is_said(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames_module.cv2, "VideoCapture", lambda number: FakeCapture(number, 5))
    segmenter.reset()
    source = VideoSource(CameraFrames(0), "webcam", segmenter)
    try:
        wait_until(lambda: "unplugged" in source.status()["problem"], "the message")
        assert not source.status()["playing"]
    finally:
        source.close()


# ---------------------------------------------------------------- the command


def test_wrong_arguments_are_said(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, says in (
        ([], "say what to show"),
        (["a.mp4", "--node", "/stremn"], "say what to show"),
        ([str(tmp_path / "none.mp4")], "no such file"),
        (["a.mp4", "--port", "70000"], "--port is 70000"),
        (["a.mp4", "--host", "http://x"], "is no address"),
        # which would be left out of account
        ([str(clip), "--camera", "left"], "--camera is for --node"),
        ([str(clip), "--image-topic", "/left"], "--image-topic is for a node or a recording"),
        (["0", "--image-topic", "/left"], "and 0 is none"),
    ):
        assert main(["view", *words]) == 2
        assert says in capsys.readouterr().err


def test_the_command_serves_the_page_and_ends_at_ctrl_c(clip: Path, tmp_path: Path) -> None:
    log = (tmp_path / "log").open("w+")
    command = [sys.executable, "-m", "stremn_ros.cli", "view", str(clip), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--model", str(TINY_MODEL), "--runtime", "torch"],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        said = lambda: (tmp_path / "log").read_text()  # noqa: E731
        wait_until(lambda: "open http" in said() or process.poll() is not None, "the link", 180)
        link = said().split("open ", 1)[1].split()[0]
        assert link.startswith("http://127.0.0.1:")
        assert "token" not in link

        async def get() -> str:
            async with aiohttp.ClientSession() as session, session.get(link) as answer:
                return await answer.text()

        import asyncio

        assert "page.js" in asyncio.run(get())
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
    assert code == 0, said()
    assert "Traceback" not in said()
