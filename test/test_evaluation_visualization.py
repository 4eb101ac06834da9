"""Palette, overlay, contact sheet and label PNGs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from stremn_ros.errors import InputError
from stremn_ros.imaging.visualization import (
    PALETTE,
    contact_sheet,
    overlay,
    read_label_png,
    write_label_png,
)


def scene(height=60, width=80):
    frame = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    labels = np.zeros((height, width), np.uint8)
    labels[10:30, 10:30] = 1
    labels[10:30, 30:50] = 2  # touches the first
    labels[40:60, 60:80] = 9  # touches two borders of the frame
    return frame, labels


def test_palette_is_that_of_davis():
    # The first colors of the palette in DAVIS's own annotation files
    assert PALETTE[:10].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [0, 0, 128],
        [128, 0, 128],
        [0, 128, 128],
        [128, 128, 128],
        [64, 0, 0],
        [191, 0, 0],
    ]
    assert len({tuple(color) for color in PALETTE.tolist()}) == 256
    assert (PALETTE.dtype, PALETTE.shape) == (np.uint8, (256, 3))
    assert PALETTE[2].tolist() == [0, 128, 0]


def test_overlay_tints_objects_only():
    frame, labels = scene()
    before = frame.copy()
    drawn = overlay(frame, labels, alpha=0.5, outline=False)
    assert np.array_equal(frame, before)
    assert np.array_equal(drawn[labels == 0], frame[labels == 0])
    for label in (1, 2, 9):
        where = labels == label
        wanted = 0.5 * frame[where] + 0.5 * PALETTE[label]
        assert np.abs(drawn[where] - wanted).max() <= 1
    assert np.array_equal(overlay(frame, np.zeros_like(labels)), frame)
    assert np.array_equal(overlay(frame, labels.astype(np.int64)), overlay(frame, labels))


def test_outline_is_inside_the_objects_on_every_side():
    frame, labels = scene()
    plain, drawn = overlay(frame, labels, outline=False), overlay(frame, labels, outline=True)
    edge = np.any(plain != drawn, axis=2)
    assert np.array_equal(drawn[labels == 0], frame[labels == 0])
    for y, x in (
        (10, 20),
        (29, 20),
        (20, 10),
        (20, 29),
        (20, 30),
        (20, 49),
        (40, 70),
        (59, 70),
        (50, 60),
        (50, 79),
    ):
        assert edge[y, x], (y, x)
    assert not edge[[20, 20, 50], [20, 40, 70]].any()


def test_overlay_says_what_is_wrong():
    frame, labels = scene()
    with pytest.raises(InputError, match="same height and width"):
        overlay(frame, labels[:-1])
    with pytest.raises(InputError, match="uint8"):
        overlay(frame.astype(np.float32), labels)
    with pytest.raises(InputError, match="integers"):
        overlay(frame, labels.astype(np.float32))
    with pytest.raises(InputError, match="300"):
        overlay(frame, labels.astype(np.int32) + 300)


def test_contact_sheet_places_tiles_and_captions():
    frame, labels = scene()
    flat = [np.full((60, 80, 3), value, np.uint8) for value in (50, 100, 150, 200, 250)]
    sheet = contact_sheet(flat, None, columns=2, tile_width=80)
    assert sheet.shape == (6 + 3 * 66, 6 + 2 * 86, 3)
    for index, value in enumerate((50, 100, 150, 200, 250)):
        top, left = 6 + (index // 2) * 66, 6 + (index % 2) * 86
        assert (sheet[top : top + 60, left : left + 80] == value).all()
    with_text = contact_sheet(
        [frame] * 3,
        [labels, None, labels],
        columns=3,
        tile_width=80,
        captions=["one", "", "a caption far too long for its tile"],
    )
    strips = [with_text[66:90, 6 + index * 86 : 86 + index * 86] for index in range(3)]
    assert [strip.max() > 200 for strip in strips] == [True, False, True]
    assert np.array_equal(with_text[6:66, 6:86], overlay(frame, labels))
    assert np.array_equal(with_text[6:66, 92:172], frame)


def test_contact_sheet_takes_frames_of_other_sizes_and_names_mistakes():
    frame, labels = scene()
    tall = np.full((100, 20, 3), 255, np.uint8)
    sheet = contact_sheet([frame, tall], [labels, np.zeros((100, 20), np.uint8)], tile_width=80)
    assert sheet.max() == 255
    with pytest.raises(InputError, match="at least one"):
        contact_sheet([])
    with pytest.raises(InputError, match="1 labels for 2"):
        contact_sheet([frame, frame], [labels])
    with pytest.raises(InputError, match="columns"):
        contact_sheet([frame], columns=0)


def test_label_png_keeps_ids_and_carries_the_palette(tmp_path):
    _, labels = scene()
    labels[0, 0] = 200
    path = tmp_path / "new" / "00000.png"
    write_label_png(path, labels)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
    assert np.array_equal(read_label_png(path), labels)
    assert [entry.name for entry in path.parent.iterdir()] == ["00000.png"]
    with pytest.raises(InputError, match=r"ids are 0\.\.255"):
        write_label_png(path, labels.astype(int) * 2)
    write_label_png(path, np.zeros((5, 6), np.uint8))
    assert np.array_equal(read_label_png(path), np.zeros((5, 6)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_binary_masks_of_every_mode(tmp_path, mode):
    binary = np.zeros((20, 30), bool)
    binary[5:10, 5:25] = True
    if mode == "I;16":
        cv2.imwrite(str(tmp_path / "m.png"), binary.astype(np.uint16) * 65535)
    else:
        Image.fromarray(binary.astype(np.uint8) * 255).convert(mode).save(tmp_path / "m.png")
    assert np.array_equal(read_label_png(tmp_path / "m.png"), binary.astype(np.uint8))
    if mode == "L":
        kept = read_label_png(tmp_path / "m.png", keep_255=True)
        assert np.array_equal(kept, binary.astype(np.uint8) * 255)


def test_grey_and_16_bit_values_are_ids(tmp_path):
    _, labels = scene()
    Image.fromarray(labels).save(tmp_path / "grey.png")
    cv2.imwrite(str(tmp_path / "wide.png"), labels.astype(np.uint16))
    Image.fromarray(PALETTE[labels]).save(tmp_path / "colors.png")
    for name in ("grey.png", "wide.png", "colors.png"):
        assert np.array_equal(read_label_png(tmp_path / name), labels), name
    cv2.imwrite(str(tmp_path / "wide.png"), labels.astype(np.uint16) * 500)
    with pytest.raises(InputError, match="4500"):
        read_label_png(tmp_path / "wide.png")


def test_what_is_no_mask_is_refused(tmp_path):
    frame, _ = scene()
    with pytest.raises(InputError, match="no such"):
        read_label_png(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"text\.png"):
        read_label_png(tmp_path / "text.png")
    Image.fromarray(frame).save(tmp_path / "photo.png")
    with pytest.raises(InputError, match="color image"):
        read_label_png(tmp_path / "photo.png")
    data = (tmp_path / "photo.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut\.png"):
        read_label_png(tmp_path / "cut.png")
