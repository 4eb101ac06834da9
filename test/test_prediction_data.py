"""Moving MNIST, KTH, Human3.6M and videos: what is drawn and what is read."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stremn_ros.data import moving_mnist
from stremn_ros.data.moving_mnist import (
    MovingMnistTest,
    draw_paths,
    draw_sequences,
    read_digits,
    trajectories,
)
from stremn_ros.data.prediction_batches import PredictBatches, PredictPhase
from stremn_ros.data.prediction_clips import FrameStore, find_videos, video_clips, video_names
from stremn_ros.data.prediction_sets import human36m_clips, kth_clips
from stremn_ros.errors import InputError
from stremn_ros.imaging.video import VideoWriter, write_image


def digits(count: int = 12) -> NDArray[np.uint8]:
    """Blocks that can be told apart."""
    rng = np.random.default_rng(3)
    made = np.zeros((count, 28, 28), np.uint8)
    for digit in made:
        top, left = rng.integers(4, 10, 2)
        digit[top : top + 14, left : left + 9] = rng.integers(100, 256)
    return made


def write_idx(path: Path, images: NDArray[np.uint8], compress: bool = True) -> None:
    header = np.array([2051, *images.shape], ">u4").tobytes()
    data = header + images.tobytes()
    path.write_bytes(gzip.compress(data) if compress else data)


def test_digits_drift_straight_and_bounce_off_the_edges() -> None:
    ways = trajectories(np.random.default_rng(0), 400, 60)
    assert ways.min() == 0
    assert ways.max() == 36
    steps = np.diff(ways, axis=1)
    assert np.hypot(*np.moveaxis(steps, -1, 0)).max() <= 3.6 + np.sqrt(2)
    # away from the edges the way of ten frames is ten times a step, up to whole pixels
    for way in ways:
        for t in range(50):
            piece = way[t : t + 11]
            if piece.min() > 4 and piece.max() < 32:
                assert np.abs((piece[5] - piece[0]) - (piece[10] - piece[5])).max() <= 2
    turns = np.sign(steps[:, 1:]) * np.sign(steps[:, :-1]) < 0
    assert turns.any(axis=(1, 2)).mean() > 0.9
    at_edge = (ways[:, 1:-1] <= 4) | (ways[:, 1:-1] >= 32)
    assert at_edge[turns].all()
    # no direction is preferred
    angle = np.arctan2(*np.moveaxis((ways[:, 3] - ways[:, 0]).astype(float), -1, 0))
    assert np.abs(np.histogram(angle, 4, (-np.pi, np.pi))[0] - 100).max() < 45


def test_sequences_show_the_brighter_of_two_digits_where_they_meet() -> None:
    drawn = digits()
    frames = draw_sequences(np.random.default_rng(5), drawn, 3, 20)
    assert frames.shape == (3, 20, 64, 64)
    assert frames.dtype == np.uint8
    rng = np.random.default_rng(5)
    which = rng.integers(0, len(drawn), (2, 3))
    ways = [trajectories(rng, 3, 20) for _ in range(2)]
    for n in range(3):
        for t in range(20):
            expected = np.zeros((64, 64), np.uint8)
            for k in range(2):
                y, x = ways[k][n, t]
                part = expected[y : y + 28, x : x + 28]
                np.maximum(part, drawn[which[k, n]], out=part)
            np.testing.assert_array_equal(frames[n, t], expected)


def test_paths_are_those_of_digits() -> None:
    """Displacements from the newest place, the newest of the past first; few are off."""
    drawn = draw_paths(np.random.default_rng(2), 400, 6, 3)
    ways = trajectories(np.random.default_rng(2), 400, 9)
    newest = ways[:, 5]
    assert np.abs(drawn.centers - newest - 14.0).max() < 0.5
    np.testing.assert_array_equal(drawn.coming, ways[:, 6:] - newest[:, None])
    past = ways[:, 4::-1] - newest[:, None]
    off = (drawn.where != past).any(axis=2)
    assert 0.02 < off.mean() < 0.12
    assert drawn.match[off].max() < 0.9
    assert drawn.match[~off].min() > 0.75
    assert drawn.where.shape == (400, 5, 2)


def test_the_test_set_is_the_same_whatever_the_batches(tmp_path: Path) -> None:
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", digits())
    whole = np.concatenate(list(MovingMnistTest(tmp_path, 7).batches(7)))
    parts = np.concatenate(list(MovingMnistTest(tmp_path, 7).batches(3)))
    np.testing.assert_array_equal(whole, parts)
    assert len(MovingMnistTest(tmp_path)) == 10_000
    assert len({frames.tobytes() for frames in whole}) == 7


def test_the_published_file_is_read_when_it_is_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    published = rng.integers(0, 256, (20, 4, 64, 64), dtype=np.uint8)
    np.save(tmp_path / moving_mnist.PUBLISHED, published)
    for root in (tmp_path, tmp_path / moving_mnist.PUBLISHED):
        test = MovingMnistTest(root, 3)
        assert "published" in test.source
        got = np.concatenate(list(test.batches(2)))
        np.testing.assert_array_equal(got, published.swapaxes(0, 1)[:3])
    with pytest.raises(InputError, match="there are 1 to 4"):
        MovingMnistTest(tmp_path, 5)
    np.save(tmp_path / moving_mnist.PUBLISHED, published[:10])
    with pytest.raises(InputError, match="20, n, 64, 64"):
        MovingMnistTest(tmp_path, 2)
    np.save(tmp_path / moving_mnist.PUBLISHED, published.astype(np.float32))
    with pytest.raises(InputError, match="is float32; it must be an array of uint8"):
        MovingMnistTest(tmp_path, 2)
    with (tmp_path / moving_mnist.PUBLISHED).open("wb") as file:
        np.savez(file, published)
    with pytest.raises(InputError, match="is an archive of arrays; it must be"):
        MovingMnistTest(tmp_path, 2)
    (tmp_path / moving_mnist.PUBLISHED).write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        MovingMnistTest(tmp_path, 2)


def test_idx_files_that_cannot_be_used_say_so(tmp_path: Path) -> None:
    good = digits()
    for compress in (True, False):
        write_idx(tmp_path / "images", good, compress)
        np.testing.assert_array_equal(read_digits(tmp_path / "images"), good)
    (tmp_path / "images").write_bytes((tmp_path / "images").read_bytes()[:-1])
    with pytest.raises(InputError, match="cut short"):
        read_digits(tmp_path / "images")
    write_idx(tmp_path / "images", good)
    damaged = bytearray((tmp_path / "images").read_bytes())
    for at in (10, 60, len(damaged) // 2):
        damaged[at : at + 60] = 60 * b"\xff"
        (tmp_path / "images").write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read"):
            read_digits(tmp_path / "images")
    (tmp_path / "images").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(InputError, match="cannot be read"):
        read_digits(tmp_path / "images")
    with pytest.raises(InputError, match="t10k"):
        MovingMnistTest(tmp_path / "nowhere")


def test_batches_depend_on_seed_and_number_alone() -> None:
    phases = [PredictPhase(2, batch=2, observe=(4, 6)), PredictPhase(9, batch=3, one_digit=1.0)]
    stream = PredictBatches(phases, seed=1, horizon=5, digits=digits())
    again = PredictBatches(phases, seed=1, horizon=5, digits=digits())
    later = again[3]
    first = stream[0]
    assert first.observe in (4, 6)
    assert first.frames.shape == (2, first.observe + 5, 1, 64, 64)
    assert stream[3].frames.equal(later.frames)
    assert not stream[3].frames.equal(stream[4].frames)
    assert len(stream) == 11
    # one digit: its pixels never differ in number but where it is cut, which it never is
    lit = (later.frames > 0).flatten(2).sum(dim=2)
    assert (lit == lit[:, :1]).all()


def draw_video(folder: Path, count: int, size: tuple[int, int] = (40, 60)) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(folder.name))
    picture = cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (200, 100))
    for n in range(count):
        cv2.imwrite(str(folder / f"{n:05d}.png"), picture[: size[0], 2 * n : 2 * n + size[1]])


def test_videos_are_found_sampled_and_cut_into_clips(tmp_path: Path) -> None:
    for name, count in (("one", 12), ("two", 9), ("short", 4)):
        draw_video(tmp_path / name, count)
    assert [path.name for path in find_videos(tmp_path, exclude=["two"])] == ["one", "short"]
    (tmp_path / "list.txt").write_text("two\none\n")
    assert [path.name for path in find_videos(tmp_path / "list.txt")] == ["one", "two"]
    assert find_videos(tmp_path / "one") == [tmp_path / "one"]
    with pytest.raises(InputError, match="three"):
        find_videos(tmp_path, only=["three"])
    with pytest.raises(InputError, match="no such"):
        find_videos(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no videos"):
        find_videos(tmp_path / "empty")

    clips = list(video_clips(find_videos(tmp_path), 32, 5, 3))
    names = [clip.name for clip in clips]
    assert names == ["one:0", "one:3", "one:6", "two:0", "two:3"]
    assert {clip.frames.shape for clip in clips} == {(5, 32, 32, 3)}
    np.testing.assert_array_equal(clips[0].frames[3:], clips[1].frames[:2])

    store = FrameStore([tmp_path / "one", tmp_path / "two"], 32)
    rng = np.random.default_rng(0)
    for _ in range(10):
        clip = store.sample(rng, 4, 24, 3)
        assert clip.shape == (4, 24, 24, 3)
        assert clip.std() > 0
    with pytest.raises(InputError, match="no video has 40 frames"):
        store.sample(rng, 40, 24, 1)


def test_videos_that_share_a_name_are_all_found_and_told_apart(tmp_path: Path) -> None:
    for name in ("2024.05.01", "2024.05.02", "c", "d1/v", "d2/v", "deep/d1/v"):
        draw_video(tmp_path / name, 4)
    with VideoWriter(tmp_path / "c.mp4", 10) as writer:
        for _ in range(4):
            writer.write(np.full((40, 60, 3), 90, np.uint8))
    found = find_videos(tmp_path)
    assert video_names(found) == ["2024.05.01", "2024.05.02", f"{tmp_path.name}/c", "c.mp4"]
    listed = tmp_path / "list.txt"
    listed.write_text("d1/v\nd2/v\nc\nd1/v\n./d1/v\ndeep/d1/v\n")
    names = ["c", f"{tmp_path.name}/d1/v", "d2/v", "deep/d1/v"]
    assert video_names(find_videos(listed)) == names
    clips = list(video_clips(find_videos(listed), 32, 4, 4))
    assert [clip.name for clip in clips] == [f"{name}:0" for name in names]
    # what is held out stays out, however long its name is given
    assert video_names(find_videos(listed, exclude=["v"])) == ["c"]
    assert video_names(find_videos(listed, exclude=["d1/v"])) == ["c", "v"]
    assert [path.parent.name for path in find_videos(listed, only=["d2/v"])] == ["d2"]
    assert find_videos(tmp_path, only=["c.mp4"]) == [tmp_path / "c.mp4"]
    assert len(find_videos(tmp_path, only=["c", "2024.05.01"])) == 3
    with pytest.raises(InputError, match=r"no video named '2024\.05'; it holds \['2024\.05\.01'"):
        find_videos(tmp_path, only=["2024.05"])


def test_a_video_whose_first_frame_is_damaged_is_told_before_the_first_clip(tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw_video(tmp_path / name, 5)
    (tmp_path / "two" / "00000.png").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"two/00000\.png"):
        video_clips(find_videos(tmp_path), 32, 4, 4)


def test_long_videos_are_read_in_pieces_that_do_not_join(tmp_path: Path) -> None:
    draw_video(tmp_path / "long", 60)
    store = FrameStore([tmp_path / "long"], 32, limit=20)
    store_lengths = [len(video) for video in store.videos]
    assert sum(store_lengths) <= 60
    assert len(store_lengths) >= 1


def draw_kth(folder: Path, numbers: Iterable[int], seed: int = 0) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in numbers:
        picture = rng.integers(0, 256, (120, 160), np.uint8)
        cv2.imwrite(str(folder / f"image_{number:04d}.png"), picture)


def draw_human36m(root: Path, numbers: Iterable[int]) -> Path:
    """Frames, each of one gray, and the list of the clips, whose path is returned."""
    images = root / "human" / "images"
    images.mkdir(parents=True)
    for number in numbers:
        picture = np.full((128, 128, 3), number * 10, np.uint8)
        cv2.imwrite(str(images / f"S11_Walking.60457274_{number:06d}.jpg"), picture)
    listing = root / "human" / "test.txt"
    listing.write_text("images/S11_Walking.60457274_,1\nimages/S11_Walking.60457274_,4\n")
    return listing


@pytest.mark.parametrize("nested", [True, False])
def test_kth_in_the_layout_of_the_public_loaders(tmp_path: Path, nested: bool) -> None:
    base = tmp_path / "kth" if nested else tmp_path
    for action, person, numbers in (
        ("walking", "17", range(1, 10)),
        ("running", "25", range(1, 10)),
        ("running", "16", range(1, 10)),  # of the training
        ("boxing", "18", [1, 2, 3, 7, 8, 9, 10, 11]),  # a gap
    ):
        draw_kth(base / action / f"person{person}_{action}_d1_uncomp", numbers, int(person))
    clips = {clip.name: clip for clip in kth_clips(tmp_path, 2, 3)}
    assert set(clips) == {
        "walking/person17_walking_d1_uncomp:1",
        "running/person25_running_d1_uncomp:1",
        "running/person25_running_d1_uncomp:4",
        "boxing/person18_boxing_d1_uncomp:7",
    }
    clip = clips["running/person25_running_d1_uncomp:4"]
    assert clip.frames.shape == (5, 128, 128, 1)
    source = cv2.imread(str(base / "running" / "person25_running_d1_uncomp" / "image_0006.png"), 0)
    np.testing.assert_array_equal(clip.frames[2, :, :, 0], cv2.resize(source, (128, 128)))
    with pytest.raises(InputError, match="no clip of 40"):
        list(kth_clips(tmp_path, 20, 20))
    with pytest.raises(InputError, match="boxing"):
        list(kth_clips(tmp_path / "running"))


def test_human36m_in_the_layout_of_the_public_loader(tmp_path: Path) -> None:
    listing = draw_human36m(tmp_path, range(1, 21))
    clips = list(human36m_clips(tmp_path, 2, 2))
    assert [clip.name for clip in clips] == [
        "S11_Walking.60457274_000001",
        "S11_Walking.60457274_000004",
    ]
    assert clips[1].frames[:, 64, 64, 0].tolist() == [40, 90, 140, 190]
    listing.write_text("images/S11_Walking.60457274_,19\n")
    with pytest.raises(InputError, match="000024"):
        list(human36m_clips(tmp_path, 2, 2))
    listing.write_text("what is this\n")
    with pytest.raises(InputError, match="PREFIX,NUMBER"):
        list(human36m_clips(tmp_path, 2, 2))
    with pytest.raises(InputError, match=r"test\.txt"):
        list(human36m_clips(tmp_path / "nowhere"))


def test_a_folder_of_pictures_of_two_sizes_gives_clips_of_each(tmp_path: Path) -> None:
    sizes = [(40, 60)] * 5 + [(60, 40)] * 4 + [(80, 120)] * 3
    for number, size in enumerate(sizes):
        write_image(tmp_path / f"{number:02d}.png", np.full((*size, 3), 10 * number, np.uint8))
    store = FrameStore([tmp_path], 32)
    assert [video.shape[:3] for video in store.videos] == [(5, 32, 48), (4, 48, 32), (3, 32, 48)]
    assert [int(video[0, 0, 0, 0]) for video in store.videos] == [0, 50, 90]
