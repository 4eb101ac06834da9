"""Reading and writing frames: videos, folders, and every way they can be broken."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stremn_ros import video
from stremn_ros.errors import InputError


def make_frames(count=12, height=48, width=64):
    """Frames that differ, with one colour channel that names the frame (survives compression)."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for index in range(count):
        frames[index, :, :, 0] = 10 + 18 * index
        frames[index, :, :, 2] = 230 - 18 * index
    return frames


def write_folder(folder, frames, names=None):
    folder.mkdir(exist_ok=True)
    for index, frame in enumerate(frames):
        video.write_image(folder / (names[index] if names else f"{index:05d}.png"), frame)
    return folder


def red(frame):
    return float(frame[:, :, 0].mean())


def test_video_round_trip_keeps_order_colour_rate_and_size(tmp_path):
    frames = make_frames()
    with video.VideoWriter(tmp_path / "new" / "a.mp4", fps=12.5) as writer:
        for frame in frames:
            writer.write(frame)
        assert not (tmp_path / "new" / "a.mp4").exists()  # it appears when it is whole
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.mp4"]
    source = video.open_frames(tmp_path / "new" / "a.mp4")
    assert (source.count, source.size, source.fps) == (12, (48, 64), 12.5)
    for _ in range(2):  # can be iterated again
        got = list(source)
        assert len(got) == 12
        for frame, was in zip(got, frames, strict=True):
            assert (frame.dtype, frame.shape) == (np.uint8, (48, 64, 3))
            assert np.abs(frame.astype(int) - was).mean() < 6  # RGB, not BGR


def test_video_range_and_size(tmp_path):
    with video.VideoWriter(tmp_path / "a.mp4") as writer:
        for frame in make_frames():
            writer.write(frame)
    source = video.open_frames(tmp_path / "a.mp4", start=3, end=7, size=24)
    got = list(source)
    assert source.count == len(source) == len(got) == 4
    assert source.size == (24, 32) == got[0].shape[:2]
    assert [round((red(frame) - 10) / 18) for frame in got] == [3, 4, 5, 6]
    assert next(iter(video.open_frames(tmp_path / "a.mp4", size=(20, 50)))).shape == (20, 50, 3)
    assert len(list(video.open_frames(tmp_path / "a.mp4", start=10, end=99))) == 2
    with pytest.raises(InputError, match="12 frames"):
        video.open_frames(tmp_path / "a.mp4", start=40)


def test_odd_sizes_are_padded_not_cut(tmp_path):
    frames = make_frames(3, 47, 63)
    with video.VideoWriter(tmp_path / "a.mp4") as writer:
        for frame in frames:
            writer.write(frame)
    assert video.open_frames(tmp_path / "a.mp4").size == (48, 64)


def test_folder_is_read_in_natural_order(tmp_path):
    names = [f"img{index}.png" for index in range(12)]
    folder = write_folder(tmp_path / "f", make_frames(), names)
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_text("not an image")
    source = video.open_frames(folder, folder_fps=5)
    assert (source.names, source.fps, source.count) == (names, 5, 12)
    assert np.array_equal(np.stack(list(source)), make_frames())
    part = video.open_frames(folder, start=2, end=4)
    assert part.names == ["img2.png", "img3.png"]
    assert len(list(part)) == 2


def test_grey_and_alpha_images_become_rgb(tmp_path):
    grey = np.full((10, 12), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "0.png"), grey)
    cv2.imwrite(str(tmp_path / "1.png"), np.dstack([grey, grey, grey + 50, grey]))
    first, second = video.open_frames(tmp_path)
    assert first.shape == second.shape == (10, 12, 3)
    assert second[0, 0].tolist() == [140, 90, 90]


def test_missing_empty_and_unreadable(tmp_path):
    with pytest.raises(InputError, match="no such"):
        video.open_frames(tmp_path / "nothing.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        video.open_frames(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("this is no video" * 100)
    with pytest.raises(InputError, match="cannot be opened as a video"):
        video.open_frames(tmp_path / "text.mp4")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="no images"):
        video.open_frames(tmp_path / "folder")
    video.write_image(tmp_path / "one.png", make_frames(1)[0])
    with pytest.raises(InputError, match="single image"):
        video.open_frames(tmp_path / "one.png")
    for arguments in ({"start": -1}, {"start": 4, "end": 4}, {"size": 0}, {"size": (3, 0)}):
        with pytest.raises(InputError):
            video.open_frames(tmp_path, **arguments)


def test_a_damaged_image_is_named(tmp_path):
    folder = write_folder(tmp_path / "f", make_frames(4))
    (folder / "00002.png").write_bytes((folder / "00002.png").read_bytes()[:20])
    frames = iter(video.open_frames(folder))
    next(frames), next(frames)
    with pytest.raises(InputError, match=r"00002\.png"):
        next(frames)


def test_a_video_cut_short_is_an_error_and_not_a_short_video(tmp_path):
    """AVI keeps its header in front, so a cut file still opens and states the full count."""
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    noise = np.random.default_rng(0)
    for _ in range(40):
        writer.write(noise.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    assert len(list(video.open_frames(path))) == 40
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"frame \d+ of 40 cannot be decoded"):
        list(video.open_frames(path))


def write_all(path, frames, error=None):
    with video.VideoWriter(path) as writer:
        for frame in frames:
            writer.write(frame)
        if error is not None:
            raise error


def test_writer_leaves_nothing_behind_on_an_error(tmp_path):
    path, good = tmp_path / "a.mp4", make_frames(1)[0]
    with pytest.raises(RuntimeError, match="on purpose"):
        write_all(path, [good], RuntimeError("on purpose"))
    with pytest.raises(InputError, match="no frame"):
        write_all(path, [])
    with pytest.raises(InputError, match="the first was"):
        write_all(path, [good, make_frames(1, 50, 64)[0]])
    with pytest.raises(InputError, match="uint8"):
        write_all(path, [np.zeros((4, 4, 3), np.float32)])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"\.mp4"):
        video.VideoWriter(tmp_path / "a.gif")
