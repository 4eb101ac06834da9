"""Clip sampling: deterministic, well-formed, and clear about broken files."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from stremn_ros.data.clip import affine, compact, twin, warp
from stremn_ros.data.mixture import Mixture, Phase
from stremn_ros.data.photos import PhotoClips
from stremn_ros.data.videos import VideoClips
from stremn_ros.errors import InputError
from stremn_ros.imaging.video import read_image, write_image
from stremn_ros.imaging.visualization import read_label_png
from stremn_ros.mappings import build


def photo(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    image = rng.integers(0, 255, (90, 120, 3)).astype(np.uint8)
    labels = np.zeros((90, 120), np.uint8)
    cv2.circle(labels, (45, 45), 25, 1, -1)
    cv2.circle(labels, (90, 40), 20, 2, -1)
    return image, labels


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos and two videos of eight frames."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    folders = [root / "images", root / "masks"]
    for name in ("one", "two"):
        folders += [root / "JPEGImages/480p" / name, root / "Annotations/480p" / name]
    for folder in folders:
        folder.mkdir(parents=True)
    for number in range(6):
        image, labels = photo(rng)
        Image.fromarray(image).save(folders[0] / f"p{number}.jpg")
        Image.fromarray(labels).save(folders[1] / f"p{number}.png")
    for images, masks in ((folders[2], folders[3]), (folders[4], folders[5])):
        for number in range(8):
            image, labels = photo(rng)
            Image.fromarray(image).save(images / f"{number:05}.jpg")
            Image.fromarray(np.roll(labels, number, axis=1)).save(masks / f"{number:05}.png")
    return root


def check(frames: np.ndarray, labels: np.ndarray, count: int, size: int) -> None:
    assert frames.shape == (count, size, size, 3)
    assert frames.dtype == np.uint8
    assert labels.shape == (count, size, size)
    assert labels.dtype == np.uint8
    objects = labels[0].max()
    assert objects >= 1
    assert set(np.unique(labels)) <= set(range(objects + 1)), "ids are 1..n"
    assert set(range(1, objects + 1)) <= set(np.unique(labels[0])), "all are in frame 0"


def test_clips_are_well_formed(root: Path) -> None:
    photos, videos = PhotoClips(root), VideoClips(root)
    rng = np.random.default_rng(1)
    made = 0
    for _ in range(30):
        for clip in (photos.sample(rng, 4, 64, 2), videos.sample(rng, 4, 64, 2, 3)):
            if clip is not None:
                check(clip.frames, clip.labels, 4, 64)
                made += 1
    assert made > 40


def test_photo_clips_move_and_carry_the_mask_along(root: Path) -> None:
    """The labels are warped with the pixels: a photo that is its own mask stays its own mask."""
    folder = root.parent / "own"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    labels = photo(np.random.default_rng(0))[1]
    drawn = np.array([[10, 10, 10], [250, 10, 10], [10, 250, 10]], np.uint8)[labels]
    cv2.imwrite(str(folder / "images/a.jpg"), drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    Image.fromarray(labels).save(folder / "masks/a.png")
    rng = np.random.default_rng(2)
    agree = moved = 0
    for _ in range(20):
        clip = PhotoClips(folder).sample(rng, 3, 96, 3)
        if clip is None:
            continue
        bright = clip.frames.max(axis=-1).astype(int) - clip.frames.min(axis=-1) > 60
        same = (bright == (clip.labels > 0)).mean()
        # an object that was drawn but not chosen is bright without a label
        agree += same > 0.97
        moved += (clip.labels[0] != clip.labels[-1]).mean() > 0.02
    assert agree >= 10
    assert moved >= 10


def test_a_batch_depends_on_seed_and_number_only(root: Path) -> None:
    def make(seed: int) -> Mixture:
        phases = [Phase(3, frames=3, size=48, batch=2), Phase(3, frames=4, size=64, batch=2)]
        return Mixture(phases, seed, PhotoClips(root), VideoClips(root))

    one, two, other = make(5), make(5), make(6)
    for number in (4, 0, 4):
        for a, b in zip(one[number], two[number], strict=True):
            assert a.equal(b)
    assert not one[0][0].equal(other[0][0])
    assert one[0][0].shape == (2, 3, 48, 48, 3)
    assert one[4][0].shape == (2, 4, 64, 64, 3)
    assert len(one) == 6


def test_excluded_sequences_are_never_drawn(root: Path) -> None:
    assert VideoClips(root, ["one"]).names == ["two"]
    with pytest.raises(InputError, match="no sequences"):
        VideoClips(root, ["one", "two"])


def test_broken_data_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images/NAME"):
        PhotoClips(tmp_path)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not a picture")
    for read in (read_image, read_label_png):
        with pytest.raises(InputError, match=r"bad\.png"):
            read(bad)
    (tmp_path / "Annotations/480p/lone").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "Annotations/480p/lone/00000.png")
    with pytest.raises(InputError, match="there is no frame"):
        VideoClips(tmp_path)


def test_broken_files_are_skipped_when_asked(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(root, tmp_path / "copy")
    copy = tmp_path / "copy"
    for file in ("images/p0.jpg", "masks/p1.png", "Annotations/480p/one/00003.png"):
        (copy / file).write_bytes(b"\xff\xd8 cut short")
    Image.fromarray(np.ones((5, 5), np.uint8)).save(copy / "masks/p2.png")
    (copy / "JPEGImages/480p/two/00001.jpg").unlink()
    photos, videos = PhotoClips(copy, "skip"), VideoClips(copy, broken="skip")
    assert videos.broken.count == 1
    assert len(videos.sequences["two"]) == 7
    rng = np.random.default_rng(0)
    made = 0
    for _ in range(60):
        for clip in (photos.sample(rng, 3, 48, 1), videos.sample(rng, 3, 48, 1, 2)):
            made += clip is not None
    assert made > 20
    for name in ("p0", "p1", "p2", "00003", "00001"):
        assert sum(name in message for message in caplog.messages) == 1, "named once"
    assert photos.broken.count > 3
    assert videos.broken.count > 1
    strict = PhotoClips(copy)
    with pytest.raises(InputError):
        [strict.sample(rng, 3, 48, 1) for _ in range(60)]
    with pytest.raises(InputError, match="'raise' or 'skip'"):
        PhotoClips(copy, "ignore")


def test_youtube_vos_layout(root: Path, tmp_path: Path) -> None:
    """No folder 480p, and masks for every fifth frame only."""
    for part in ("JPEGImages", "Annotations"):
        shutil.copytree(root / part / "480p", tmp_path / part)
    for number in (1, 2, 3, 4, 6, 7):
        (tmp_path / f"Annotations/one/{number:05}.png").unlink()
    videos = VideoClips(tmp_path)
    assert [image.stem for image, _ in videos.sequences["one"]] == ["00000", "00005"]
    assert len(videos.sequences["two"]) == 8


def test_indexed_and_binary_masks_keep_their_meaning(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [2, 7]], np.uint8)
    indexed = Image.fromarray(labels, mode="P")
    indexed.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [5] * 759)
    indexed.save(tmp_path / "indexed.png")
    np.testing.assert_array_equal(read_label_png(tmp_path / "indexed.png"), labels)
    Image.fromarray((labels > 0).astype(np.uint8) * 255).save(tmp_path / "binary.png")
    np.testing.assert_array_equal(read_label_png(tmp_path / "binary.png"), labels > 0)


def test_255_beside_ids_is_no_object_in_any_mask_of_a_sequence(tmp_path: Path) -> None:
    """As in evaluation: also where a frame has nothing but it."""
    image = np.full((60, 80, 3), 90, np.uint8)
    both, border, alone = (np.zeros((60, 80), np.uint8) for _ in range(3))
    both[10:50, 20:60] = 2
    border[:, 70:] = both[:, 70:] = 255
    alone[10:50, 20:60] = 255
    for name, masks in (("cup", [both, border, border]), ("one", [alone] * 3)):
        for index, mask in enumerate(masks):
            write_image(tmp_path / f"JPEGImages/480p/{name}/{index}.jpg", image)
            path = tmp_path / f"Annotations/480p/{name}/{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
    rng = np.random.default_rng(0)
    clips = VideoClips(tmp_path, exclude=["one"])
    drawn = [clips.frame(rng) for _ in range(20)]
    assert {value for found in drawn for value in np.unique(found[1])} == {0, 2}
    for _ in range(20):
        clip = clips.sample(rng, 3, 48, 2, 1)
        assert clip is None or clip.labels.max() <= 1
    (_, labels) = VideoClips(tmp_path, exclude=["cup"]).frame(rng)
    assert set(np.unique(labels)) == {0, 1}


def test_affine_takes_the_centre_to_the_target() -> None:
    matrix = affine((10.0, 20.0), (31.0, 7.0), 1.7, 30.0, 0.2, flip=True)
    np.testing.assert_allclose(matrix @ [10.0, 20.0, 1.0], [31.0, 7.0])
    assert np.linalg.det(matrix[:, :2]) == pytest.approx(-(1.7**2))


def test_a_field_of_zeros_warps_like_none() -> None:
    rng = np.random.default_rng(3)
    image, labels = photo(rng)
    matrix = affine((60.0, 45.0), (32.0, 32.0), 0.6, 12.0)
    zero = np.zeros((64, 64, 2), np.float32)
    a, b = warp(image, matrix, 64, None), warp(image, matrix, 64, zero)
    assert np.abs(a.astype(int) - b).mean() < 3.0
    c, d = (warp(labels, matrix, 64, field, nearest=True) for field in (None, zero))
    assert (c != d).mean() < 0.01


def test_compact_renumbers_and_refuses_specks() -> None:
    labels = np.zeros((2, 20, 20), np.uint8)
    labels[:, :10, :10], labels[:, 15, 15], labels[1, 15:, :5] = 9, 3, 4
    kept = compact(labels, 3, np.random.default_rng(0), smallest=20)
    assert kept is not None
    assert set(np.unique(kept)) == {0, 1}
    assert (kept[0] == 1).sum() == 100
    assert compact(labels, 3, np.random.default_rng(0), smallest=200) is None


def test_compact_takes_late_comers_when_asked() -> None:
    labels = np.zeros((4, 20, 20), np.uint8)
    labels[:, :8, :8] = 9
    labels[2:, 10:, :6] = 4  # comes in frame 2
    labels[3, 10:, 12:] = 5  # only the last frame shows it: nothing to learn from
    labels[1:, 0, 15:18] = 6  # a speck
    rng = np.random.default_rng(0)
    plain = compact(labels, 2, rng, smallest=20)
    assert plain is not None
    assert plain.max() == 1
    late = compact(labels, 2, rng, smallest=20, late=True)
    assert late is not None
    np.testing.assert_array_equal(late == 1, labels == 9)
    np.testing.assert_array_equal(late == 2, labels == 4)
    single = compact(labels, 1, rng, smallest=20, late=True)
    assert single is not None
    assert single.max() == 1


def test_objects_leave_and_come_late_as_often_as_asked(root: Path) -> None:
    """Counted over many clips of photos and of videos with a photo's object in front."""
    photos, videos = PhotoClips(root), VideoClips(root)

    def count(leaving: float, late: float) -> tuple[int, int]:
        phase = Phase(
            40, frames=5, size=48, batch=2, video_share=0.5, max_gap=1, two_objects=1.0,
            composed=1.0, leaving=leaving, late=late,
        )  # fmt: skip
        mixture = Mixture([phase], 0, photos, videos)
        left = came = 0
        for number in range(len(mixture)):
            for labels in mixture[number][1].numpy():
                for thing in range(1, int(labels.max()) + 1):
                    seen = (labels == thing).any(axis=(1, 2))
                    first = int(seen.argmax())
                    came += first > 0
                    left += not seen[first:].all()
        return left, came

    never, always, latecomers = count(0.0, 0.0), count(1.0, 0.0), count(0.0, 1.0)
    assert never[1] == always[1] == 0, "nothing comes late unless asked for"
    assert always[0] > never[0] + 15
    assert latecomers[1] > 25


def test_late_objects_need_slots_for_all_frames() -> None:
    with pytest.raises(InputError, match="at least 7 slots, not 4"):
        Phase(1, frames=8, slots=4, late=0.5)


def test_a_broken_photo_in_front_leaves_the_video_clip(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    for path in (tmp_path / "copy/images").iterdir():
        path.write_bytes(b"no picture")
    photos, videos = PhotoClips(tmp_path / "copy", "skip"), VideoClips(tmp_path / "copy")
    phase = Phase(4, frames=3, size=48, batch=2, video_share=1.0, max_gap=1, composed=1.0)
    for number in range(4):
        frames, labels = Mixture([phase], 0, photos, videos)[number]
        assert frames.shape == (2, 3, 48, 48, 3)
        assert labels.max() >= 1
    assert photos.broken.count > 0


def test_a_twin_is_a_copy_that_goes_its_own_way() -> None:
    frames, labels = [], []
    for n in range(6):
        frame, label = np.full((96, 96, 3), 90, np.uint8), np.zeros((96, 96), np.uint8)
        cv2.rectangle(label, (30 + 2 * n, 40), (50 + 2 * n, 56), 3, -1)
        frame[label == 3] = (200, 30, 60)
        frames.append(frame)
        labels.append(label)
    distances, hidden = [], 0
    for seed in range(30):
        shown, made = twin(np.random.default_rng(seed), frames, labels, 3)
        for n in range(6):  # but for a soft edge of a pixel, the rest stays as it was
            near = cv2.dilate(((labels[n] + made[n]) > 0).astype(np.uint8), np.ones((3, 3)))
            assert np.array_equal(frames[n][near == 0], shown[n][near == 0])
        copies = [part == 4 for part in made]
        inside = [frame[copy] for frame, copy in zip(shown, copies, strict=True) if copy.any()]
        if inside:
            assert np.abs(np.concatenate(inside).mean(axis=0) - (200, 30, 60)).max() < 30
            centers = [np.nonzero(copy)[1].mean() for copy in copies if copy.sum() > 50]
            if len(centers) == 6:
                distances.append(abs((centers[5] - centers[0]) - 10.0))
        hidden += any((part == 3).sum() < (label == 3).sum() for part, label in zip(made, labels))
    assert max(distances) > 4.0, "it moves by itself"
    assert 3 <= hidden < 27, "in front of the object at times, and at times not"


def test_sequences_are_drawn_by_their_weights_from_all_roots(root: Path, tmp_path: Path) -> None:
    second = tmp_path / "more"
    for kind in ("JPEGImages", "Annotations"):
        shutil.copytree(root / kind / "480p" / "one", second / kind / "480p" / "rare_1")
    videos = VideoClips([root, second], weights={"rare_*": 0.1, "two": 0.0})
    assert videos.names == ["one", "two", "rare_1"]
    np.testing.assert_allclose(videos.weights, [1 / 1.1, 0.0, 0.1 / 1.1])
    rng = np.random.default_rng(0)
    names = [clip.source for _ in range(60) if (clip := videos.sample(rng, 3, 64, 1, 2))]
    assert set(names) == {"one", "rare_1"}
    with pytest.raises(InputError, match="no sequence"):
        VideoClips(root, weights={"*": 0.0})


def test_the_zoom_says_how_large_things_are_in_a_crop(tmp_path: Path) -> None:
    images, masks = tmp_path / "JPEGImages/480p/one", tmp_path / "Annotations/480p/one"
    for folder in (images, masks):
        folder.mkdir(parents=True)
    label = np.zeros((200, 300), np.uint8)
    label[90:110, 140:160] = 1
    for n in range(3):
        cv2.imwrite(str(images / f"{n:05d}.jpg"), np.full((200, 300, 3), 90, np.uint8))
        cv2.imwrite(str(masks / f"{n:05d}.png"), label)
    videos, rng = VideoClips(tmp_path), np.random.default_rng(0)
    for zoom in (1.0, 2.0):
        clips = [videos.sample(rng, 2, 100, 1, 1, zoom=(zoom, zoom)) for _ in range(40)]
        areas = [np.count_nonzero(clip.labels[0]) for clip in clips if clip]
        assert np.median(areas) == pytest.approx((20 * zoom * 100 / 200) ** 2, rel=0.2)
    for wrong in ((1.0, 0.5), (0.0, 1.0)):
        with pytest.raises(InputError, match="zoom is"):
            Phase(10, zoom=wrong)
    with pytest.raises(InputError, match="a list of two"):
        build(Phase, {"iterations": 10, "zoom": [1.0]}, "phase")


def test_photos_of_all_roots_and_of_other_formats_are_found(root: Path, tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    image, labels = photo(np.random.default_rng(0))
    Image.fromarray(image).save(tmp_path / "images" / "web.webp")
    Image.fromarray(labels).save(tmp_path / "masks" / "web.png")
    photos = PhotoClips([root, tmp_path])
    assert len(photos) == 7
    assert "web" in photos.names
    with pytest.raises(InputError, match="no images"):
        PhotoClips([root, tmp_path / "nothing"])
