"""One reader of masks: what people save as one is read as what it means, or refused in words."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from stremn_ros.errors import InputError
from stremn_ros.imaging.mask_reading import clean, has_void, read_mask
from stremn_ros.imaging.palette import PALETTE
from stremn_ros.imaging.visualization import read_label_png

SIZE = (120, 160)
FINE = 8  # pixels drawn for one of a soft-edged mask


def drawn(colors: list, scale: int = 1, mode: str = "L") -> Image.Image:
    """An ellipse, a rectangle over it and a polygon, in these values or colors, on 0."""
    picture = Image.new(mode, (SIZE[1] * scale, SIZE[0] * scale))
    pen = ImageDraw.Draw(picture)
    shapes = [
        lambda fill: pen.ellipse([20 * scale, 20 * scale, 70 * scale, 80 * scale], fill),
        lambda fill: pen.rectangle([60 * scale, 50 * scale, 120 * scale, 100 * scale], fill),
        lambda fill: pen.polygon(
            [(100 * scale, 10 * scale), (150 * scale, 30 * scale), (110 * scale, 60 * scale)], fill
        ),
    ]
    for shape, color in zip(shapes, colors):
        shape(color)
    return picture


def soft(colors: list, mode: str = "L") -> Image.Image:
    return drawn(colors, FINE, mode).resize(SIZE[::-1], Image.BOX)


def truth(count: int) -> np.ndarray:
    fine = drawn(list(range(1, count + 1)), FINE)
    return np.array(fine.resize(SIZE[::-1], Image.NEAREST))


def saved(tmp_path: Path, image: Image.Image, suffix: str = ".png", **options: object) -> Path:
    path = tmp_path / f"mask{suffix}"
    image.save(path, **options)
    return path


def overlaps(labels: np.ndarray, count: int) -> list[float]:
    """IoU of each object with what it should be, in the order of the values."""
    values = [value for value in np.unique(labels) if value]
    assert len(values) == count, values
    right = truth(count)
    return [
        ((labels == value) & (right == n)).sum() / ((labels == value) | (right == n)).sum()
        for n, value in enumerate(values, 1)
    ]


# ---------------------------------------------------------------- soft edges


@pytest.mark.parametrize(
    "colors",
    [[255], [200], [128], [30], [7], [100, 200], [10, 20], [2, 5], [50, 100, 150], [64, 128, 255]],
    ids=str,
)
def test_soft_edges_are_cut_at_half_and_told(tmp_path: Path, colors: list[int]) -> None:
    labels, notes = read_mask(saved(tmp_path, soft(colors))).labels()
    assert min(overlaps(labels, len(colors))) > 0.96
    # one object is an opacity; several are ids
    assert set(np.unique(labels)) == {0, *([1] if len(colors) == 1 else colors)}
    assert any("soft edges" in note for note in notes)


@pytest.mark.parametrize("radius", [1, 3, 6])
def test_a_feathered_mask_is_one_object(tmp_path: Path, radius: int) -> None:
    feathered = cv2.GaussianBlur(np.array(soft([255])), (0, 0), radius)
    rng = np.random.default_rng(0)
    noisy = feathered + (feathered > 0) * rng.integers(-6, 7, SIZE)
    for values in (feathered, np.clip(noisy, 0, 255)):
        path = saved(tmp_path, Image.fromarray(values.astype(np.uint8)))
        assert overlaps(read_label_png(path), 1)[0] > 0.94


def test_sixteen_bits_and_a_grey_palette_are_soft_masks_as_well(tmp_path: Path) -> None:
    wide = np.array(soft([255])).astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    gray = soft([255]).convert("P")
    gray.save(tmp_path / "indexed.png")
    for name in ("wide.png", "indexed.png"):
        assert overlaps(read_label_png(tmp_path / name), 1)[0] > 0.99


def test_soft_colors_and_one_object_in_any_color(tmp_path: Path) -> None:
    three = soft([tuple(PALETTE[n].tolist()) for n in (1, 2, 3)], "RGB")
    labels = read_label_png(saved(tmp_path, three))
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    assert min(overlaps(labels, 3)) > 0.98
    for color in ("#ff0000", "#00ff7f"):
        for picture in (soft([color], "RGB"), drawn([color], 1, "RGB")):
            labels = read_label_png(saved(tmp_path, picture))
            assert set(np.unique(labels)) == {0, 1}
            assert overlaps(labels, 1)[0] > 0.95


def test_ids_that_are_ids_stay_as_they_are(tmp_path: Path) -> None:
    """Thin, tiny, touching and nested objects, and many of them."""
    labels = truth(3)
    labels[5, 5] = 9  # one pixel
    labels[70, 5:15] = 8  # a line
    labels[60:62, 90:92] = 7  # within object 2
    labels[90:100, 0:2] = 201
    many = np.zeros(SIZE, np.uint8)
    for n in range(60):
        many[2 * (n // 10) * 9 : 2 * (n // 10) * 9 + 9, (n % 10) * 16 : (n % 10) * 16 + 16] = n + 1
    for values in (labels, many, np.eye(8, dtype=np.uint8), np.zeros(SIZE, np.uint8)):
        for picture in (Image.fromarray(values), Image.fromarray(values, "L").convert("P")):
            if picture.mode == "P":
                picture.putpalette(PALETTE.tobytes())
                picture.putdata(values.ravel().tolist())
            mask = read_mask(saved(tmp_path, picture))
            np.testing.assert_array_equal(mask.values, values)
            assert mask.notes == ()


@pytest.mark.parametrize("ids", [(1, 3), (1, 2), (2, 3), (3, 9), (1, 70), (1, 200)], ids=str)
@pytest.mark.parametrize("shape", ["strip", "ring", "line"])
def test_a_thin_object_beside_another_keeps_its_number(
    tmp_path: Path, ids: tuple[int, int], shape: str
) -> None:
    """It has no inside and lies between the background and the other, as a soft edge does."""
    thin, other = ids
    values = np.zeros(SIZE, np.uint8)
    if shape == "ring":
        cv2.circle(values, (80, 60), 30, other, -1)
        cv2.circle(values, (80, 60), 30, thin, 1)
    else:
        values[30:80, 40:90] = other
        values[30:80, 39] = thin
        if shape == "line":
            values[29, 40:90] = thin
    for mask in (clean(values), read_mask(saved(tmp_path, Image.fromarray(values)))):
        labels, notes = mask.labels()
        np.testing.assert_array_equal(labels, values)
        assert notes == ()


def test_several_thin_objects_keep_their_numbers() -> None:
    values = np.zeros(SIZE, np.uint8)
    values[30:80, 40:90] = 4
    values[30:80, 39], values[29, 40:90], values[30:80, 90] = 1, 2, 3
    values[100:110, 10:40] = 9
    np.testing.assert_array_equal(clean(values).labels()[0], values)


# ---------------------------------------------------------------- JPEG


@pytest.mark.parametrize("quality", [95, 75, 40, 20])
@pytest.mark.parametrize("colors", [[255], [200], [50, 100, 150]], ids=str)
def test_a_jpeg_is_read_by_its_flat_values(tmp_path: Path, quality: int, colors: list[int]) -> None:
    for picture in (drawn(colors), soft(colors), drawn(colors).convert("RGB")):
        path = saved(tmp_path, picture, ".jpg", quality=quality)
        labels, notes = read_mask(path).labels()
        assert min(overlaps(labels, len(colors))) > 0.92
        assert any("JPEG" in note for note in notes)
    if len(colors) > 1:
        found = [value for value in np.unique(labels) if value]
        assert np.abs(np.subtract(found, colors, dtype=int)).max() <= 4


def test_colored_jpegs_and_webp(tmp_path: Path) -> None:
    colored = Image.fromarray(PALETTE[truth(3)])
    for quality in (90, 60):
        labels = read_label_png(saved(tmp_path, colored, ".jpg", quality=quality))
        assert set(np.unique(labels)) == {0, 1, 2, 3}
        assert min(overlaps(labels, 3)) > 0.95
    for options in ({"lossless": True}, {"quality": 70}):
        path = saved(tmp_path, drawn([255]).convert("RGB"), ".webp", **options)
        assert overlaps(read_label_png(path), 1)[0] > 0.95


def test_a_jpeg_of_small_ids_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = saved(tmp_path, drawn([1, 2, 3]), ".jpg", quality=95)
    with pytest.raises(InputError, match=r"does not keep ids such as 1, 2, 3; save .* as a PNG"):
        read_mask(path)


# ---------------------------------------------------------------- 255


def ring() -> np.ndarray:
    labels = truth(3)
    edge = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return np.where(edge, np.uint8(255), labels)


def test_255_beside_ids_is_of_no_object_and_told(tmp_path: Path) -> None:
    mask = read_mask(saved(tmp_path, Image.fromarray(ring())))
    labels, notes = mask.labels()
    np.testing.assert_array_equal(labels, np.where(ring() == 255, 0, ring()))
    assert "of 255 beside the ids [1, 2, 3] are of no object" in notes[0]
    np.testing.assert_array_equal(mask.values, ring())  # for who scores
    # as numbers of a message, too
    np.testing.assert_array_equal(clean(ring()).labels()[0], labels)


def test_255_alone_is_the_object_and_among_greys_another(tmp_path: Path) -> None:
    alone = read_mask(saved(tmp_path, drawn([255])))
    assert set(np.unique(alone.labels()[0])) == {0, 1}
    assert set(np.unique(alone.labels(alone=255)[0])) == {0, 255}
    greys = read_mask(saved(tmp_path, drawn([128, 255])))
    assert set(np.unique(greys.labels()[0])) == {0, 128, 255}
    assert [has_void(ids) for ids in ({255}, {1, 255}, {128, 255}, {1, 2}, set())] == [
        False, True, False, False, False
    ]  # fmt: skip


def test_a_255_that_is_no_border_is_asked_about() -> None:
    values = np.zeros(SIZE, np.uint8)
    values[10:100, 10:100] = 255
    values[0:5, 0:5] = 1
    with pytest.raises(InputError, match=r"if 255 is an object, give it another number, 1 to 254"):
        clean(values).labels()


# ---------------------------------------------------------------- alpha


def photo() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (*SIZE, 3)).astype(np.uint8)


def with_alpha(color: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([color, alpha]).astype(np.uint8))


@pytest.mark.parametrize("under", ["photo", "white", "black", "gray"])
@pytest.mark.parametrize("full", [255, 120])
def test_the_alpha_channel_is_the_mask_where_colors_say_nothing(
    tmp_path: Path, under: str, full: int
) -> None:
    flat = {"white": 255, "black": 0, "gray": 90}
    color = photo() if under == "photo" else np.full((*SIZE, 3), flat[under])
    hard, edged = np.array(drawn([full])), np.array(soft([full]))
    for alpha in (hard, edged):
        labels, notes = read_mask(saved(tmp_path, with_alpha(color, alpha))).labels()
        assert set(np.unique(labels)) == {0, 1}
        assert overlaps(labels, 1)[0] > 0.95
        assert any("alpha channel" in note for note in notes)
    grey = saved(tmp_path, with_alpha(color[..., :1], hard))  # LA
    assert overlaps(read_label_png(grey), 1)[0] > 0.95


def test_colors_that_are_ids_count_where_they_are_opaque(tmp_path: Path) -> None:
    labels = truth(3)
    opaque = np.full(SIZE, 255)
    for color, alpha in (
        (PALETTE[labels], (labels > 0) * 255),  # a transparent background
        (PALETTE[labels], opaque),  # an alpha that says nothing
        (PALETTE[labels], np.where(np.arange(SIZE[1]) > 5, 255, 0) * np.ones(SIZE)),
    ):
        np.testing.assert_array_equal(
            read_label_png(saved(tmp_path, with_alpha(color, alpha))), labels
        )
    white = np.repeat(np.array(drawn([255]))[..., None], 3, 2)
    path = saved(tmp_path, with_alpha(white, np.where(np.arange(SIZE[1]) > 5, 255, 0) * opaque))
    np.testing.assert_array_equal(read_label_png(path), np.array(drawn([1])))


# ---------------------------------------------------------------- palettes


def indexed(values: np.ndarray, colors: np.ndarray) -> Image.Image:
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = colors
    image = Image.fromarray(values)
    image.putpalette(palette.tobytes())
    return image


@pytest.mark.parametrize("order", [[2, 0, 3, 1], [0, 2, 3, 1], [1, 0, 2, 3]], ids=str)
def test_a_palette_in_another_order_is_read_by_its_colors(tmp_path: Path, order: list[int]) -> None:
    labels = truth(3)
    colors = np.zeros((4, 3), np.uint8)
    colors[order] = PALETTE[:4]
    image = indexed(np.array(order, np.uint8)[labels], colors)
    mask = read_mask(saved(tmp_path, image))
    np.testing.assert_array_equal(mask.values, labels)
    assert "the colors count" in mask.notes[0]


def test_white_first_is_the_object(tmp_path: Path) -> None:
    labels = truth(1)
    image = indexed(1 - labels, np.array([[255, 255, 255], [0, 0, 0]]))
    np.testing.assert_array_equal(read_label_png(saved(tmp_path, image)), labels)


def test_colors_of_another_scheme_say_nothing(tmp_path: Path) -> None:
    labels = truth(3)
    for colors in (
        [[68, 1, 84], [49, 104, 142], [53, 183, 121], [253, 231, 37]],  # viridis
        [[0, 0, 0], [128, 128, 128], [255, 255, 255], [64, 64, 64]],  # greys
        [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]],
    ):
        mask = read_mask(saved(tmp_path, indexed(labels, np.array(colors))))
        np.testing.assert_array_equal(mask.values, labels)
        assert mask.notes == ()
    odd = indexed(labels, np.array([[255, 255, 255], [0, 0, 0], [53, 183, 121], [253, 231, 37]]))
    with pytest.raises(InputError, match="index 0 of its palette is not the background"):
        read_mask(saved(tmp_path, odd))


# ---------------------------------------------------------------- what is no mask


def test_pictures_are_no_masks(tmp_path: Path) -> None:
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    smooth = (128 + 60 * np.sin(x / 17) + 60 * np.cos(y / 11)).astype(np.uint8)
    noise = photo()
    for values in (noise, noise[..., 0], smooth, np.dstack([smooth, smooth[::-1], smooth])):
        for suffix in (".png", ".jpg"):
            with pytest.raises(InputError, match=r"no mask|color image"):
                read_mask(saved(tmp_path, Image.fromarray(values), suffix)).labels()


def test_read_label_png_tells_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path, soft([255]))
    read_label_png(path)
    assert "soft edges" in caplog.text
    assert str(path) in caplog.text
    caplog.clear()
    read_label_png(saved(tmp_path, drawn([1, 2])))
    assert caplog.text == ""


@pytest.mark.parametrize("tag", [2, 3, 6])
@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".png", ".webp"])
def test_a_mask_with_an_orientation_tag_is_read_as_it_is_stored(
    tmp_path: Path, suffix: str, tag: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    options = {"tiffinfo": {274: tag}} if suffix == ".tif" else {"exif": exif.tobytes()}
    if suffix == ".webp":
        options["lossless"] = True
    mask = read_mask(saved(tmp_path, drawn([255]), suffix, **options))
    labels, notes = mask.labels()
    assert labels.shape == SIZE
    assert overlaps(labels, 1)[0] > 0.95
    assert any("its orientation tag asks viewers to show it" in note for note in notes)


def test_probabilities_are_cut_at_half(tmp_path: Path) -> None:
    likely = np.array(soft([255]), np.float32) / 255
    path = saved(tmp_path, Image.fromarray(likely * 0.9), ".tif")
    labels, _ = read_mask(path).labels()
    assert np.unique(labels).tolist() == [0, 1]
    assert overlaps(labels, 1)[0] > 0.97
    whole = saved(tmp_path, Image.fromarray(truth(3).astype(np.float32)), ".tif")
    np.testing.assert_array_equal(read_mask(whole).labels()[0], truth(3))


@pytest.mark.parametrize(
    ("value", "says"),
    [(2.5, "has fractions, such as 2.5"), (np.nan, "no numbers"), (-0.5, "fractions")],
)
def test_floats_that_are_no_mask(tmp_path: Path, value: float, says: str) -> None:
    values = truth(2).astype(np.float32)
    values[3, 4] = value
    with pytest.raises(InputError, match=says):
        read_mask(saved(tmp_path, Image.fromarray(values), ".tif"))


def test_an_inverted_mask_is_said(tmp_path: Path) -> None:
    """A black object on white: the white is what will be followed."""
    inverted = Image.fromarray(255 - np.array(drawn([255])))
    for mask in (read_mask(saved(tmp_path, inverted)), clean(np.array(inverted))):
        labels, notes = mask.labels()
        assert labels[0, 0] == 1
        assert any("if the mask is inverted" in note for note in notes)
    for fine in (drawn([255]), Image.new("L", SIZE[::-1], 255), drawn([1, 2, 3])):
        assert not read_mask(saved(tmp_path, fine)).labels()[1]
