"""Whole evaluation runs on generated sequences in DAVIS' layout."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from evaluation_helpers import ColorSegmenter, moving_shapes, write_davis, write_split

from stremn_ros.errors import InputError
from stremn_ros.evaluation.davis import evaluate_davis
from stremn_ros.evaluation.davis_data import open_davis
from stremn_ros.imaging.video import read_image, write_image
from stremn_ros.imaging.visualization import read_label_png, write_label_png


def three_sequences():
    return {
        "ants": moving_shapes(8, objects=1, seed=1),
        "bees": moving_shapes(10, objects=3, seed=2),
        "cats": moving_shapes(9, objects=2, seed=3),
    }


def test_scores_equal_those_of_vos_benchmark(tmp_path):
    """Their files reader and ours, their averaging and ours, on several objects."""
    benchmark = pytest.importorskip("vos_benchmark.benchmark", reason="package vos-benchmark")
    root = write_davis(tmp_path / "davis", three_sequences())
    result = evaluate_davis(open_davis(root), ColorSegmenter(shift=2), masks=tmp_path / "masks")
    evaluate = benchmark.VideoEvaluator(str(root / "Annotations" / "480p"), str(tmp_path / "masks"))
    found = result.as_dict()
    all_j, all_f = [], []
    for name in ("ants", "bees", "cats"):
        _, j, f = evaluate(name)
        assert found["sequences"][name]["j"] == pytest.approx(np.mean(list(j.values())), abs=2e-3)
        assert found["sequences"][name]["f"] == pytest.approx(np.mean(list(f.values())), abs=2e-3)
        all_j += j.values()
        all_f += f.values()
    assert len(all_j) == 6
    assert 50 < found["j"] < 98
    assert found["j"] == pytest.approx(np.mean(all_j), abs=2e-3)
    assert found["f"] == pytest.approx(np.mean(all_f), abs=2e-3)
    assert found["j_and_f"] == pytest.approx((np.mean(all_j) + np.mean(all_f)) / 2, abs=2e-3)
    assert found["partial"] is False
    json.dumps(found)


def test_a_perfect_segmenter_scores_100_and_the_protocol_is_kept(tmp_path):
    frames, labels = moving_shapes(7, objects=2)
    root = write_davis(tmp_path, {"a": (frames, labels)})

    class Perfect(ColorSegmenter):
        def seed(self, frame, mask, **keywords):
            assert np.array_equal(mask, labels[0])
            assert np.abs(frame.astype(int) - frames[0]).mean() < 25  # RGB, through JPEG
            self.index = 0
            return super().seed(frame, mask)

        def step(self, frame):
            self.index += 1
            result = super().step(frame)
            # Wrong in the last frame, which is not scored
            result.labels = labels[self.index] if self.index < 6 else labels[self.index] * 0
            return result

    segmenter = Perfect()
    result = evaluate_davis(open_davis(root), segmenter)
    assert segmenter.calls == ["seed"] + ["step"] * 6
    assert (result.as_dict()["j"], result.as_dict()["f"]) == (100, 100)
    assert result.sequences[0].frames == 6
    assert len(result.sequences[0].frame_j) == 5
    assert result.as_dict()["frames_per_second"] > 0
    assert result.as_dict()["peak_memory_mib"]["process"] > 10


def test_binary_masks_of_2016_with_255_and_of_480p_lists(tmp_path):
    sequences = {"a": moving_shapes(6, objects=1), "b": moving_shapes(6, objects=1, seed=5)}
    by_ids = write_davis(tmp_path / "ids", sequences, "2016")
    by_255 = write_davis(tmp_path / "by255", sequences, "2016", values=[0, 255])
    for path in (by_255 / "ImageSets").rglob("*.txt"):
        path.unlink()
    write_split(
        by_255,
        [
            f"/JPEGImages/480p/{name}/{index:05d}.jpg /Annotations/480p/{name}/{index:05d}.png"
            for name in sequences
            for index in range(6)
        ],
        "480p",
    )
    results = []
    for root in (by_ids, by_255):
        masks = root / "masks"
        results.append(evaluate_davis(open_davis(root), ColorSegmenter(2), masks=masks).as_dict())
        for name in sequences:  # the masks have the pixel values of the annotations
            ours = read_label_png(masks / name / "00000.png", keep_255=True)
            path = root / "Annotations" / "480p" / name / "00000.png"
            assert np.array_equal(ours, read_label_png(path, keep_255=True))
    assert results[0]["sequences"]["a"]["objects"] == results[1]["sequences"]["a"]["objects"]
    assert results[0]["j_and_f"] == results[1]["j_and_f"] > 50
    assert results[1]["settings"]["image_set"] == "480p"


def test_2016_list_merges_the_objects_of_2017_masks(tmp_path):
    root = write_davis(tmp_path, {"a": moving_shapes(6, objects=3)}, "2016")
    dataset = open_davis(root)
    assert dataset.max_objects == 1
    result = evaluate_davis(dataset, ColorSegmenter(2))
    assert list(result.sequences[0].objects) == [1]
    write_split(root, ["a"], "2017")
    dataset = open_davis(root)  # both lists name one sequence: 2017 is taken
    assert dataset.year == "2017"
    assert dataset.max_objects == 3
    assert list(evaluate_davis(dataset, ColorSegmenter()).sequences[0].objects) == [1, 2, 3]
    assert open_davis(root, year="2016").sequences[0].binary


def test_255_beside_ids_is_not_scored(tmp_path):
    frames, labels = moving_shapes(6, objects=1)
    labels = labels.copy()
    labels[:, :10] = 255
    root = write_davis(tmp_path, {"a": (frames, labels)})

    class OutsideWrong(ColorSegmenter):
        def step(self, frame):
            result = super().step(frame)
            result.labels = result.labels.copy()
            result.labels[:10] = 1
            return result

    assert evaluate_davis(open_davis(root), OutsideWrong()).sequences[0].j > 0.9


def test_a_thin_object_in_one_gray_annotation_is_an_object_there_too(tmp_path):
    frames, labels = moving_shapes(5, objects=1)
    labels = [np.zeros_like(mask) for mask in labels]
    for index, mask in enumerate(labels):
        mask[20:45, 30:60] = 3
        mask[20:45, 29 if index == 2 else slice(20, 30)] = 1
    root = write_davis(tmp_path, {"a": (frames, labels)})
    for index, mask in enumerate(labels):
        write_image(root / "Annotations" / "480p" / "a" / f"{index:05d}.png", np.dstack([mask] * 3))
    truth = open_davis(root).sequences[0].truth()
    assert [np.unique(mask).tolist() for mask in truth.labels] == [[0, 1, 3]] * 5
    assert truth.void == [None] * 5


def test_an_object_that_comes_later_is_neither_given_nor_scored(tmp_path, caplog):
    frames, labels = moving_shapes(6, objects=2)
    labels = labels.copy()
    labels[0][labels[0] == 2] = 0
    root = write_davis(tmp_path, {"a": (frames, labels)})
    result = evaluate_davis(open_davis(root), ColorSegmenter())
    assert list(result.sequences[0].objects) == [1]
    assert "[2]" in caplog.text


def test_splits_years_and_filter(tmp_path):
    sequences = three_sequences()
    root = write_davis(tmp_path, sequences, "2017")
    write_split(root, ["ants"], "2016")
    assert open_davis(root).year == "2017"  # the longer list
    assert [item.name for item in open_davis(root).sequences] == list(sequences)
    some = open_davis(root, sequences=["cats", "ants"])
    assert [item.name for item in some.sequences] == ["ants", "cats"]
    assert some.selected
    assert [item.name for item in open_davis(root, year="2016").sequences] == ["ants"]
    assert len(open_davis(root, "all").sequences) == 3
    with pytest.raises(InputError, match="dogs"):
        open_davis(root, sequences=["ants", "dogs"])
    with pytest.raises(InputError, match=r"train\.txt .*2016/val, 2017/val"):
        open_davis(root, "train")
    with pytest.raises(InputError, match="2016"):
        open_davis(root, year="2018")


def test_every_and_filter_mark_the_result_as_partial(tmp_path):
    root = write_davis(tmp_path, three_sequences())
    segmenter = ColorSegmenter()
    result = evaluate_davis(open_davis(root, sequences=["bees"]), segmenter, every=3)
    assert segmenter.calls == ["seed"] + ["step"] * 3  # frames 0, 3, 6 and 9 of 10
    assert len(result.sequences[0].frame_j) == 2  # 9 is the last frame and not scored
    assert result.as_dict()["partial"] is True
    assert len(result.partial) == 2
    assert "partial" in result.table()
    with pytest.raises(InputError, match="no frame left"):
        evaluate_davis(open_davis(root), ColorSegmenter(), every=20)
    with pytest.raises(InputError, match="every 0"):
        evaluate_davis(open_davis(root), ColorSegmenter(), every=0)


def test_pictures_show_the_worst(tmp_path):
    sequences = {f"s{index}": moving_shapes(6, objects=2, seed=index) for index in range(7)}
    root = write_davis(tmp_path / "davis", sequences)

    class WorseAndWorse(ColorSegmenter):
        def seed(self, frame, mask, **keywords):
            self.shift += 2
            return super().seed(frame, mask)

    out = tmp_path / "pictures"
    result = evaluate_davis(open_davis(root), WorseAndWorse(), pictures=out)
    assert result.sequences[0].j > result.sequences[-1].j
    sheet = read_image(out / "worst_sequences.png")
    one = result.sequences[0].picture.shape
    assert sheet.shape == (5 * (one[0] + 34), one[1], 3)
    # The worst is on top: its row is its own strip
    assert np.array_equal(sheet[34 : 34 + one[0]], result.sequences[-1].picture)
    assert read_image(out / "scores.png").std() > 10
    table = result.table()
    assert table.count("\n") == 8
    assert "s6" in table


def break_it(root, how):
    annotations, images = root / "Annotations/480p/a", root / "JPEGImages/480p/a"
    if how == "no image":
        (images / "00002.jpg").unlink()
    elif how == "no first mask":
        (annotations / "00000.png").unlink()
    elif how == "empty first mask":
        cv2.imwrite(str(annotations / "00000.png"), np.zeros((72, 128), np.uint8))
    elif how == "mask of another size":
        cv2.imwrite(str(annotations / "00003.png"), np.ones((7, 8), np.uint8))
    elif how == "image of another size":
        cv2.imwrite(str(images / "00003.jpg"), np.zeros((7, 8, 3), np.uint8))
    elif how == "damaged mask":
        (annotations / "00004.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    elif how == "no folder":
        write_split(root, ["a", "b"])
    elif how == "empty list":
        write_split(root, [])
    elif how == "two images of a frame":
        (images / "00002.png").write_bytes((images / "00002.jpg").read_bytes())
    elif how == "two masks of a frame":
        (annotations / "00002.bmp").write_bytes((annotations / "00002.png").read_bytes())
    elif how == "only the first mask":
        for index in range(1, 6):
            (annotations / f"{index:05d}.png").unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no image", r"00002\.png: there is no image"),
        ("no first mask", "first frame has no annotation"),
        ("empty first mask", "nothing to follow"),
        ("mask of another size", r"00003\.png: is \[7, 8\]"),
        ("image of another size", r"00003\.jpg: is \[7, 8\]"),
        ("damaged mask", r"00004\.png"),
        ("no folder", "480p/b: no such folder"),
        ("empty list", "no sequences"),
        ("only the first mask", "1 annotations"),
        ("two images of a frame", r"00002\.jpg and 00002\.png are of one frame; leave one"),
        ("two masks of a frame", r"00002\.bmp and 00002\.png are of one frame; leave one"),
    ],
)
def test_broken_data_is_named(tmp_path, how, message):
    root = write_davis(tmp_path, {"a": moving_shapes(6)})
    break_it(root, how)
    with pytest.raises(InputError, match=message):
        evaluate_davis(open_davis(root), ColorSegmenter())


def test_masks_are_not_mixed_with_those_of_another_run(tmp_path):
    dataset = open_davis(write_davis(tmp_path / "davis", {"a": moving_shapes(6)}))
    evaluate_davis(dataset, ColorSegmenter(), masks=tmp_path / "masks")
    with pytest.raises(InputError, match=r"masks/a: holds pictures already"):
        evaluate_davis(dataset, ColorSegmenter(), masks=tmp_path / "masks", every=2)


def test_a_folder_that_is_no_davis(tmp_path):
    with pytest.raises(InputError, match="layout"):
        open_davis(tmp_path)
    write_davis(tmp_path / "DAVIS", {"a": moving_shapes(6)})
    with pytest.raises(InputError, match=r"did you mean .*DAVIS"):
        open_davis(tmp_path)


def write_youtube_vos(root, late=4, meta=True):
    """Object 1 from the start, object 2 from frame `late` on; masks of every second frame."""
    frames, labels = moving_shapes(11, objects=2)
    labels = [np.where((mask == 2) & (n < late), 0, mask) for n, mask in enumerate(labels)]
    for index, (frame, mask) in enumerate(zip(frames, labels)):
        write_image(root / "JPEGImages" / "a" / f"{index:05d}.jpg", frame)
        if index % 2 == 0:
            write_label_png(root / "Annotations" / "a" / f"{index:05d}.png", mask.astype(np.uint8))
    if meta:
        objects = {
            str(number): {"category": "shape", "frames": [f"{n:05d}" for n in range(first, 11, 2)]}
            for number, first in ((1, 0), (2, late))
        }
        (root / "meta.json").write_text(json.dumps({"videos": {"a": {"objects": objects}}}))
    return labels


class Told:
    """Knows the truth of the objects that it was given; notes in which frames that was."""

    runtime_name = update_rule = "test"
    processing_size = None
    memory = SimpleNamespace(slots=0)

    def __init__(self, labels):
        self.labels = labels

    def reset(self):
        self.now, self.given = 0, {}

    def seed(self, frame, mask):
        for number in np.unique(mask[mask > 0]):
            self.given[int(number)] = self.now

    def segment(self, frame):
        self.now += 1
        known = np.isin(self.labels[self.now], list(self.given))
        objects = [SimpleNamespace(id=number, score=0.5) for number in self.given]
        return SimpleNamespace(labels=self.labels[self.now] * known, objects=objects)

    def remember(self):
        pass

    step = segment


@pytest.mark.parametrize("meta", [True, False])
def test_youtube_vos_gives_objects_where_they_come(tmp_path, meta):
    labels = write_youtube_vos(tmp_path, meta=meta)
    dataset = open_davis(tmp_path)
    assert (dataset.year, dataset.max_objects) == ("YouTube-VOS", 2)
    segmenter = Told(labels)
    result = evaluate_davis(dataset, segmenter, masks=tmp_path / "out", pictures=tmp_path / "seen")
    assert segmenter.given == {1: 0, 2: 4}
    found = result.sequences[0]
    assert (result.as_dict()["j"], result.as_dict()["f"]) == (100, 100)
    assert len(found.frame_j) == 5  # frames 2 to 10, the last among them
    assert len(found.calibration) == 5 + 3  # object 2 is not scored where it is given
    for index in range(11):
        drawn = read_label_png(tmp_path / "out" / "a" / f"{index:05d}.png")
        assert np.array_equal(drawn, labels[index])


def test_an_object_of_youtube_vos_is_scored_from_its_own_frame_on(tmp_path):
    labels = write_youtube_vos(tmp_path)
    wrong = [np.where(mask == 2, 0, mask) for mask in labels]
    result = evaluate_davis(open_davis(tmp_path), Told(wrong))
    scores = result.sequences[0].objects
    assert (scores[1].j.mean, scores[2].j.mean) == (1.0, 0.0)
    read = [0, 3, 4, 6, 9]  # the frame that gives object 2 is not left out
    told = Told([labels[index] for index in read])
    quick = evaluate_davis(open_davis(tmp_path), told, every=3)
    assert quick.partial
    assert told.given == {1: 0, 2: 2}
    assert quick.sequences[0].frame_j == [1.0, 1.0]  # frames 4 and 6
    damaged = tmp_path / "JPEGImages" / "a" / "00004.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(InputError, match=r"nothing was evaluated, .*00004\.jpg"):
        evaluate_davis(open_davis(tmp_path), told, every=3)


def test_meta_json_can_give_an_object_later_than_it_shows(tmp_path):
    labels = write_youtube_vos(tmp_path)
    text = (tmp_path / "meta.json").read_text()
    (tmp_path / "meta.json").write_text(text.replace('"00004", "00006"', '"00006"'))
    segmenter = Told(labels)
    evaluate_davis(open_davis(tmp_path), segmenter)
    assert segmenter.given == {1: 0, 2: 6}
    for wrong in ('{"videos": [1]}', 100_000 * "["):
        (tmp_path / "meta.json").write_text(wrong)
        with pytest.raises(InputError, match=r"meta\.json: is not of YouTube-VOS"):
            open_davis(tmp_path)


def test_a_validation_set_without_its_masks_is_told(tmp_path):
    write_youtube_vos(tmp_path)
    for index in range(2, 11, 2):
        (tmp_path / "Annotations" / "a" / f"{index:05d}.png").unlink()
    with pytest.raises(InputError, match="its server scores"):
        open_davis(tmp_path)
    with pytest.raises(InputError, match="sequences b: not in"):
        open_davis(tmp_path, sequences=["b"])
    with pytest.raises(InputError, match=r"sequences \(none\): not in .*, which has a$"):
        open_davis(tmp_path, sequences=[])
