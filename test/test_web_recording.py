"""A recording on the live page: any frame, each camera a tab, and seeds for `stremn label`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from shapes import DISC, TINY_MODEL, iou, scene
from web_helpers import wait_until

pytest.importorskip("rosbags")

from recordings_helpers import camera, scenes, stamps, write_bag

from stremn_ros.cli import main
from stremn_ros.cli.view import _cameras_of
from stremn_ros.errors import InputError
from stremn_ros.imaging.visualization import read_label_png
from stremn_ros.recordings.sources import read_indexes
from stremn_ros.segmenter import Segmenter
from stremn_ros.web import recording_frames
from stremn_ros.web.recording_frames import RecordingFrames
from stremn_ros.web.requests import Hints, Request
from stremn_ros.web.video_source import VideoSource

FRAMES = 16
SIZE = (120, 160)
LEFT, RIGHT = "/left/image_raw", "/right/image_raw/compressed"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras; of the right one, frame 3 is damaged."""
    left = camera("mcap", scenes(FRAMES, SIZE), LEFT)
    right = camera("mcap", scenes(FRAMES, SIZE), RIGHT, ".png")
    right[3][3].data = right[3][3].data[:20]
    records = sorted([*left, *right], key=lambda record: record[2])
    return write_bag(tmp_path_factory.mktemp("bags") / "drive", "mcap", records)


def opened(bag: Path, topic: str) -> RecordingFrames:
    return RecordingFrames(bag, read_indexes(bag, [topic])[topic])


@pytest.fixture
def source(bag: Path, tmp_path: Path) -> Iterator[VideoSource]:
    segmenter = Segmenter.load(str(TINY_MODEL), runtime="torch", max_objects=3)
    made = VideoSource(opened(bag, LEFT), "drive", segmenter, bag, tmp_path / "out", None, LEFT)
    wait_until(lambda: made.newest, "the first picture")
    yield made
    made.close()


def do(source: VideoSource, action: str, **fields: object) -> dict:
    return source.do(Request(1, action, **fields))


def click(number: int, object_id: int) -> Hints:
    ys, xs = np.nonzero(scene(number, SIZE)[1] == object_id)
    return Hints(inside=((float(xs.mean()), float(ys.mean())),))


@pytest.mark.parametrize("topic", [LEFT, RIGHT])
def test_any_frame_is_that_frame(bag: Path, topic: str) -> None:
    frames = opened(bag, topic)
    step = (stamps(2)[1] - stamps(2)[0]) / 1e9
    assert frames.fps == pytest.approx(1.0 / step, rel=1e-6)
    assert (frames.count, frames.live) == (FRAMES, False)
    for number in (0, 1, 2, 9, 10, 4, FRAMES - 1, 0):
        assert np.array_equal(frames.get(number), scene(number, SIZE)[0]), number
    assert frames.get(FRAMES) is None
    assert frames.dropped == 0
    frames.interrupt()
    assert frames.get(7) is None
    frames.close()


def test_a_damaged_frame_shows_the_one_before_it_and_is_counted(
    bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = opened(bag, RIGHT)
    frames.get(2)
    assert np.array_equal(frames.get(3), scene(2, SIZE)[0])
    assert frames.dropped == 1
    assert "frame 3 cannot be decoded" in frames.problem
    assert np.array_equal(frames.get(4), scene(4, SIZE)[0])
    shown = list(frames.footage(FRAMES - 1).frames)
    assert len(shown) == FRAMES
    assert np.array_equal(shown[3], scene(2, SIZE)[0])
    assert np.array_equal(frames.get(9), scene(9, SIZE)[0]), "it goes on after an export"
    frames.close()

    # also for who comes from another place
    frames = opened(bag, RIGHT)
    for before in (9, 4, None):
        if before is None:
            frames.close()
            frames = opened(bag, RIGHT)
        else:
            frames.get(before)
        frames._kept.clear()
        assert np.array_equal(frames.get(3), scene(2, SIZE)[0]), before
        assert np.array_equal(frames.get(4), scene(4, SIZE)[0])
    frames.close()
    monkeypatch.setattr(recording_frames, "LOOKS_BACK", 0)
    first = opened(bag, RIGHT)
    assert not first.get(3).any(), "nothing was decoded before it"
    first.close()


def test_seeds_of_the_page_are_what_stremn_label_takes(
    bag: Path, source: VideoSource, tmp_path: Path
) -> None:
    do(source, "follow", stamp=0, hints=click(0, DISC), name="disc")
    do(source, "play")
    wait_until(lambda: not source.status()["playing"], "the end of the recording")
    assert source.newest.position == FRAMES - 1
    assert iou(source.newest.labels, scene(FRAMES - 1, SIZE)[1], DISC) > 0.5
    do(source, "seek", number=9)
    do(source, "follow", stamp=9, hints=click(9, DISC), object_id=1)
    do(source, "follow", stamp=9, hints=click(9, 2), name="square")
    do(source, "remove", object_id=2)
    folder = Path(do(source, "export")["message"].partition("written to ")[2])
    assert len(list((folder / "masks").iterdir())) == 10
    assert (folder / "overlay.mp4").is_file()
    seeds = yaml.safe_load((folder / "seeds.yaml").read_text())
    expected = {"recording": "drive", "topic": LEFT, "id": 1, "name": "disc"}
    assert [{**seed, "frame": None, "mask": None} for seed in seeds] == [
        {**expected, "frame": None, "mask": None}
    ] * 2, "the square was removed again"
    assert [seed["frame"] for seed in seeds] == [0, 9]
    mask = read_label_png(folder / seeds[1]["mask"])
    assert iou(mask, scene(9, SIZE)[1], DISC) > 0.9

    code = main(
        [
            "label", str(bag), "--seeds", str(folder / "seeds.yaml"), "--out",
            str(tmp_path / "labels"), "--model", str(TINY_MODEL), "--quiet",
        ]
    )  # fmt: skip
    assert code == 0
    written = sorted((tmp_path / "labels" / "davis" / "Annotations").rglob("*.png"))
    assert len(written) == FRAMES
    assert np.array_equal(read_label_png(written[9]), mask)


def test_the_cameras_of_a_recording(bag: Path, tmp_path: Path) -> None:
    assert set(_cameras_of(bag, "")) == {LEFT, RIGHT}
    assert set(_cameras_of(bag, RIGHT)) == {RIGHT}
    assert _cameras_of(tmp_path, "") == {}, "a folder of images"
    with pytest.raises(InputError, match=re.escape(LEFT)):
        _cameras_of(bag, "/other")


def test_the_command_serves_a_tab_for_each_camera(bag: Path, tmp_path: Path) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    command = [
        sys.executable, "-m", "stremn_ros.cli", "view", str(bag), "--port", "0",
        "--model", str(TINY_MODEL), "--runtime", "torch", "--out", str(tmp_path),
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        timer = threading.Timer(120.0, process.kill)
        timer.start()
        link = next(
            found[0] for line in process.stdout if (found := re.search(r"http://\S+", line))
        )
        timer.cancel()

        async def tabs() -> list[str]:
            async with aiohttp.ClientSession() as session:
                where = link.rstrip("/") + "/live"
                async with session.ws_connect(where, origin=link.rstrip("/")) as socket:
                    async for message in socket:
                        if message.type == aiohttp.WSMsgType.TEXT and "hello" in message.json():
                            return message.json()["hello"]["cameras"]
            return []

        import asyncio

        assert asyncio.run(tabs()) == [LEFT, RIGHT]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_a_bag_that_is_none_is_refused_before_a_model_is_loaded(tmp_path: Path, capsys) -> None:
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(b"no bag")
    assert main(["view", str(broken), "--model", "none_such"]) != 0
    assert "broken.mcap" in capsys.readouterr().err
