"""Reading and writing frames: videos, folders, and every way they can be broken."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from stremn_ros.errors import InputError, StremnError
from stremn_ros.imaging import video


def make_frames(count=12, height=48, width=64):
    """Frames that differ, with one color channel that names the frame (survives compression)."""
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


def test_video_round_trip_keeps_order_color_rate_and_size(tmp_path):
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
    for arguments in (
        {"start": -1},
        {"start": 4, "end": 4},
        {"start": 0.5},
        {"end": 2.5},
        {"end": "2"},
        {"size": 0},
        {"size": (3, 0)},
        {"size": (3,)},
        {"size": ()},
        {"size": (3.5, 4)},
        {"size": 3.5},
        {"size": "34"},
        {"folder_fps": 0},
        {"folder_fps": float("nan")},
    ):
        with pytest.raises(InputError, match="needed"):
            video.open_frames(tmp_path, **arguments)


def test_a_damaged_image_is_named(tmp_path):
    folder = write_folder(tmp_path / "f", make_frames(4))
    (folder / "00002.png").write_bytes((folder / "00002.png").read_bytes()[:20])
    frames = iter(video.open_frames(folder))
    next(frames), next(frames)
    with pytest.raises(InputError, match=r"00002\.png"):
        next(frames)


def test_a_folder_whose_first_image_is_damaged_has_the_size_of_the_next(tmp_path):
    folder = write_folder(tmp_path / "f", make_frames(4))
    for name in ("00000.png", "00001.png"):
        (folder / name).write_bytes(b"damaged")
    frames = video.open_frames(folder)
    assert (frames.size, frames.count) == ((48, 64), 4)
    assert frames.names[0] == "00000.png"
    assert video.open_frames(folder, size=24).size == (24, 32)
    with pytest.raises(InputError, match=r"00000\.png: cannot be decoded"):
        next(iter(frames))
    assert len(list(video.open_frames(folder, 2))) == 2


def write_noise(path, count, size):
    """Frames that do not compress, of (columns, rows), by OpenCV alone."""
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, size)
    noise = np.random.default_rng(0)
    for _ in range(count):
        writer.write(noise.integers(0, 255, (*size[::-1], 3), np.uint8))
    writer.release()


def test_a_video_cut_short_is_an_error_and_not_a_short_video(tmp_path):
    """AVI keeps its header in front, so a cut file still opens and states the full count."""
    path = tmp_path / "a.avi"
    write_noise(path, 40, (64, 48))
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


# ---------------------------------------------------------------- a header's count is an estimate


def write_video(path, count=60, fps=25.0, shape=(48, 64)):
    with video.VideoWriter(path, fps) as writer:
        for frame in make_frames(count % 13 or 13, *shape)[np.arange(count) % (count % 13 or 13)]:
            writer.write(frame)
    return path


def trimmed(path, count=60, shown=30):
    """A clip cut by its edit list, as phones do it: the header counts the frames not shown, too."""
    write_video(path, count)
    data = bytearray(path.read_bytes())
    scale = data.find(b"mdhd") + 4 + 12
    ticks = struct.unpack(">I", data[scale : scale + 4])[0] // 25
    entry = data.find(b"elst") + 12
    struct.pack_into(">II", data, entry, shown * 40, (count - shown) * ticks)
    path.write_bytes(data)
    return path


def overcounted(path, stated=500):
    """An AVI of 12 frames whose header states another number."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for frame in make_frames(12):
        writer.write(frame)
    writer.release()
    data = bytearray(path.read_bytes())
    for at in (data.find(b"avih") + 8 + 16, data.find(b"strh") + 8 + 32):
        struct.pack_into("<I", data, at, stated)
    path.write_bytes(data)
    return path


def test_a_trimmed_clip_ends_where_it_ends(tmp_path, caplog):
    path = trimmed(tmp_path / "a.mp4")
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 60
    capture.release()
    source = video.open_frames(path)
    assert len(list(source)) == source.count == len(source.names) == 30
    assert "its header says 60" in caplog.text
    assert "damaged" not in caplog.text.replace("nothing shows that it is damaged", "")
    assert len(list(source)) == 30  # as often as you like
    assert len(list(video.open_frames(path, 10, 20))) == 10
    assert len(list(video.open_frames(path, 25, 50))) == 5
    with pytest.raises(InputError, match="has 30 frames, none of them"):
        list(video.open_frames(path, 40))


def test_a_count_that_is_far_off_either_way_is_no_error(tmp_path):
    for value in (500, 0, 3, 2**31):
        path = overcounted(tmp_path / "a.avi", value)
        assert len(list(video.open_frames(path))) == 12
        source = video.open_frames(path, 5)  # beyond the 3 that it states
        assert len(list(source)) == source.count == 7, value
        assert len(list(video.open_frames(path, 5, 9))) == 4


def test_the_rate_is_the_mean_where_frames_come_at_no_fixed_one(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 20)
    assert video.open_frames(path).fps == 25
    monkeypatch.setattr(video, "_packets", lambda path: (20, 4.75))
    assert video.open_frames(path).fps == 4.75
    monkeypatch.setattr(video, "_packets", lambda path: (0, 25.3))  # rounding
    assert video.open_frames(path).fps == 25


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
def test_a_file_that_has_fewer_bytes_than_it_says_is_cut_short(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_noise(path, 40, (64, 48))
    assert len(list(video.open_frames(path))) == 40
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    frames = []
    with pytest.raises(
        InputError, match=r"cut short, it has .* bytes and says that it has"
    ) as error:
        frames.extend(iter_into(frames, video.open_frames(path)))
    if suffix == ".mp4":  # its index is at the end
        assert not frames
    else:
        assert isinstance(error.value, video.VideoCutShortError)
        assert 10 < len(frames) < 35
        # for who keeps what came
        readable = video.WhatComes(video.open_frames(path))
        assert len(list(readable)) == len(frames)
        assert isinstance(readable.error, video.VideoCutShortError)
        # a part before the cut is whole
        assert len(list(video.open_frames(path, 2, 9))) == 7


def iter_into(frames, source):
    for frame in source:
        frames.append(frame)
    return []


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mp4", "ts"])
def test_an_end_of_zeros_is_a_download_that_was_not_finished(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_noise(path, 20, (160, 120))
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half:] = bytes(len(data) - half)
    path.write_bytes(data)
    # what tells where the frames are stands at the end of an MP4
    error = InputError if suffix == "mp4" else video.VideoCutShortError
    with pytest.raises(error, match="its end is empty"):
        list(video.open_frames(path))


VOID = b"\xec" + struct.pack(">Q", (1 << 56) | 8192) + bytes(8192)  # Matroska's room left free


@pytest.mark.parametrize(
    ("suffix", "more"),
    [
        ("mp4", struct.pack(">I4s", 8200, b"free") + bytes(8192)),
        ("mp4", bytes(8192)),
        ("mkv", VOID),
        ("mkv", bytes(8192)),
        ("avi", bytes(8192)),
        ("avi", None),
    ],
    ids=["free", "mp4-zeros", "void", "mkv-zeros", "avi-zeros", "own-header"],
)
def test_a_whole_video_is_not_damaged_whatever_follows_it(tmp_path, suffix, more):
    path = tmp_path / f"a.{suffix}"
    write_noise(path, 12, (64, 48))
    data = bytearray(path.read_bytes())
    if more is None:  # a length that counts its own 8 bytes
        data[4:8] = len(data).to_bytes(4, "little")
    path.write_bytes(data + (more or b""))
    assert len(list(video.open_frames(path))) == 12


def test_what_is_no_file_is_not_read_to_its_end(tmp_path):
    """A device may have none."""
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))\n"
        "from pathlib import Path\n"
        "from stremn_ros.imaging.cut_short import cut_short\n"
        "assert cut_short(Path('/dev/zero')) == ''\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    (tmp_path / "a.png").symlink_to("/dev/null")
    with pytest.raises(InputError, match="is no file, an image file is needed"):
        video.read_image(tmp_path / "a.png")


def test_what_comes_raises_where_nothing_came(tmp_path):
    folder = write_folder(tmp_path / "f", make_frames(3))
    (folder / "00000.png").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"00000\.png"):
        list(video.WhatComes(video.open_frames(folder)))
    for path in folder.iterdir():
        path.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"00000\.png"):
        video.open_frames(folder)
    readable = video.WhatComes(iter([]))
    assert list(readable) == []
    assert readable.error is None


# ---------------------------------------------------------------- names

NAMES = (
    "2024-05-01T10:30:00.mp4", "12:30.mp4", "http:x.mp4", "file:x.mp4", "pipe:0.mp4",
    "concat:a|b.mp4", "rtsp:x.mp4", "data:a,b.mp4", "subfile,,start,1,end,2,,:a.mp4", "a:b.mp4",
    "clip_%03d.mp4", "100%.mp4", "%d.mp4", "x?y#z.mp4", "a!b.mp4", "@a.mp4", "-a.mp4", " a .mp4",
    "n\nl.mp4", "ümläut.mp4", "\U0001f600.mp4", "caf\udce9.mp4", "a'b\"c.mp4",
)  # fmt: skip


@pytest.mark.parametrize("folder", ["plain", "2024:05 %d", "caf\udce9"])
def test_a_name_is_a_file_whatever_is_in_it(tmp_path, monkeypatch, folder):
    """For FFmpeg a colon makes a protocol of it; OpenCV ends the process at what is not UTF-8."""
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    for name in NAMES:
        write_video(Path(name), 4)
        for path in (Path(name), tmp_path / folder / name, f"./{name}"):
            source = video.open_frames(path)
            assert source.count == len(list(source)) == 4, name
    assert sorted(os.listdir()) == sorted(NAMES)


# ---------------------------------------------------------------- what mpeg4 can hold


@pytest.mark.parametrize(
    "fps",
    [0.0001, 0.005, 0.3, 1 / 3, 24000 / 1001, 59.94, 66.667, 196.263, 211.222, 239.76, 655.361,
     999.999, 6553.65, 12345.678, 65535.0, 7e4, 1e9],
)  # fmt: skip
def test_every_rate_can_be_written(tmp_path, fps):
    path = write_video(tmp_path / "a.mp4", 3, fps)
    assert video.fitting_rate(fps) == pytest.approx(min(max(fps, 0.005), 65535), rel=0.005)
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(video.fitting_rate(fps), rel=0.005)
    assert len(list(video.open_frames(path))) == 3


@pytest.mark.parametrize(
    ("size", "written"),
    [((1, 1), (2, 2)), ((1, 9), (2, 10)), ((9000, 40), (8190, 36)), ((40, 20000), (16, 8190))],
)
def test_every_size_can_be_written(tmp_path, size, written, caplog):
    path = write_video(tmp_path / "a.mp4", 2, shape=size)
    assert video.open_frames(path).size == written == video.fitting_size(size)
    assert ("mpeg4 has no larger ones" in caplog.text) == (max(size) > 8190)


def test_what_cannot_be_opened_says_why_before_the_first_frame(tmp_path, monkeypatch):
    class Closed:
        def __init__(self, *arguments):
            pass

        def isOpened(self):
            return False

        def release(self):
            pass

    monkeypatch.setattr(video.cv2, "VideoWriter", Closed)
    Closed.fourcc = staticmethod(lambda *letters: 0)

    def reason():
        writer = video.VideoWriter(tmp_path / "a.mp4")
        with pytest.raises(StremnError) as error:
            writer.open((48, 64))
        return str(error.value)

    assert "no mpeg4 encoder for 48x64 at 24 Hz" in reason()
    monkeypatch.setattr(video.os, "access", lambda *arguments: False)
    assert f"no permission to write in {tmp_path}" in reason()
    monkeypatch.undo()
    monkeypatch.setattr(video.cv2, "VideoWriter", Closed)
    monkeypatch.setattr(video.cv2, "getBuildInformation", lambda: "  FFMPEG:   NO\n")
    assert "built without FFmpeg" in reason()
