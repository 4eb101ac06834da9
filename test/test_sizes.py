"""The processing size: the same for a picture that lies and one that stands, and what is lost."""

from __future__ import annotations

import random

import numpy as np
import pytest
from prediction_helpers import tiny_prediction_model
from shapes import DISC, TINY_MODEL, iou, scene

from stremn_ros.errors import InputError
from stremn_ros.imaging.resize import too_small
from stremn_ros.imaging.sizes import checked_size, fitted_size, size_is_possible
from stremn_ros.predictor import Predictor
from stremn_ros.segmenter import Segmenter


def test_the_shorter_side_is_what_is_asked_for() -> None:
    for source, wanted in (
        ((1080, 1920), (320, 576)),
        ((1920, 1080), (576, 320)),
        ((480, 640), (320, 432)),
        ((500, 500), (320, 320)),
        ((64, 2000), (112, 3584)),  # as many pixels as 4:1 has
        ((2000, 64), (3584, 112)),
        ((1, 5000), (32, 4096)),
    ):
        assert fitted_size(320, source) == wanted
    assert fitted_size((100, 50), (1, 1)) == (96, 48)
    assert fitted_size(104, (90, 45), 8) == (208, 104)
    assert checked_size(320) == 320
    with pytest.raises(
        InputError, match=r"must be the shorter side, or \(rows, columns\), each 32"
    ):
        checked_size(16)


def test_neither_cost_nor_aspect_depends_on_the_turn() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        source = rng.randint(1, 4000), rng.randint(1, 4000)
        requested = rng.randint(128, 600)
        rows, columns = fitted_size(requested, source)
        assert fitted_size(requested, source[::-1]) == (columns, rows)
        assert rows % 16 == columns % 16 == 0
        # 4:1 is the most that it costs, but for the rounding
        assert rows * columns <= 1.4 * (requested + 16) * (4 * requested + 16)
        assert size_is_possible((rows, columns), requested)


def test_a_size_of_another_request_could_not_be() -> None:
    assert size_is_possible((320, 176), 320)  # of version 0.1, of a picture that stands
    for size in ((304, 544), (320, 64), (240, 4096), (330, 576)):
        assert not size_is_possible(size, 320), size
    assert size_is_possible((96, 48), (100, 50))
    assert not size_is_possible((48, 96), (100, 50))


def turned(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.swapaxes(image, 0, 1))


def test_a_picture_that_stands_is_followed_as_one_that_lies() -> None:
    found = {}
    for name, turn in (("lies", lambda image: image), ("stands", turned)):
        segmenter = Segmenter.load(str(TINY_MODEL), device="cpu", runtime="torch")
        frame, labels = scene(0)
        segmenter.seed(turn(frame), turn(labels))
        found[name] = [
            iou(segmenter.step(turn(scene(step)[0])).labels, turn(scene(step)[1]), DISC)
            for step in range(1, 5)
        ]
        assert segmenter.processing_size in ((96, 128), (128, 96))
    assert min(found["stands"]) > min(found["lies"]) - 0.2


def test_a_predictor_keeps_the_shorter_side_too(tmp_path) -> None:
    model = str(tiny_prediction_model(tmp_path / "tiny"))
    for turn in (lambda image: image, turned):
        predictor = Predictor.load(model, observe=3, processing_size=64)
        for step in range(3):
            predictor.step(turn(scene(step)[0]))
        assert min(predictor.processing_size) == 64


def square(side: int, size: tuple[int, int] = (1080, 1920)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[100 : 100 + side, 200 : 200 + side] = 1
    return mask


def test_what_is_too_small_is_said_with_the_size_that_would_do() -> None:
    assert too_small(square(28), (320, 576)) == ""
    text = too_small(square(20), (320, 576))
    assert "object 1 (400 pixels in the frame, 6.0 x 6.0 at the processing size)" in text
    assert "a processing size of 544 would do, at 3 times the work" in text
    assert too_small(square(20), (544, 976)) == ""  # it does
    text = too_small(square(20).T, (576, 320))  # one that stands
    assert "a processing size of 544 would do" in text
    assert "no processing size will do" in too_small(square(1), (320, 576))
    two = square(100)
    two[500:510, 500:510] = 7
    assert "object 7 (100 pixels" in too_small(two, (320, 576))
    assert "object 1" not in too_small(two, (320, 576))
    assert too_small(two, (320, 576), ids=[1]) == ""


def test_seed_says_so(caplog: pytest.LogCaptureFixture) -> None:
    segmenter = Segmenter.load(str(TINY_MODEL), device="cpu", runtime="torch")
    frame = scene(0, (240, 320))[0]
    segmenter.seed(frame, square(12, (240, 320)))
    assert "too small to be followed at 96x128: object 1" in caplog.text
    caplog.clear()
    segmenter.seed(frame, square(60, (240, 320)))
    assert caplog.text == ""


def test_an_array_that_its_driver_fills_again_is_another_frame() -> None:
    """As cv2.VideoCapture.read(buffer) does it."""
    again, fresh = (Segmenter.load(str(TINY_MODEL), device="cpu", runtime="torch") for _ in "ab")
    buffer = scene(0)[0].copy()
    for segmenter in (again, fresh):
        segmenter.seed(scene(0)[0], scene(0)[1])
    again.segment(buffer)
    buffer[:] = scene(9)[0]
    again.seed(buffer, scene(9)[1])
    fresh.segment(scene(0)[0])
    fresh.seed(scene(9)[0], scene(9)[1])
    for segmenter in (again, fresh):
        segmenter.remember()
    ours, wanted = (segmenter.step(scene(10)[0]).labels for segmenter in (again, fresh))
    np.testing.assert_array_equal(ours, wanted)
    # the same content is not read twice
    calls = []
    again.segment(buffer)
    query = again._reader.stages.encode_query
    again._reader.stages.encode_query = lambda image: calls.append(1) or query(image)  # type: ignore
    again.seed(buffer, scene(9)[1])
    assert calls == []


@pytest.mark.parametrize(
    "size", [96.5, 96.0, None, "96", [96, 128.0], ["96", "128"], True, {}, [], float("nan")]
)
def test_a_size_is_made_of_whole_numbers(size: object) -> None:
    with pytest.raises(InputError, match=r"processing_size is .*; it must be the shorter side"):
        checked_size(size)  # type: ignore[arg-type]
    assert checked_size(np.int64(96)) == 96
    assert checked_size(np.array([96, 128])) == (96, 128)
