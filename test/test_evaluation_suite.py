"""The development sets in one table: the sets, the spread, the comparison, the composed clips."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluation_helpers import write_davis
from PIL import Image
from shapes import TINY_MODEL, scene

from stremn_ros.cli import main
from stremn_ros.errors import InputError
from stremn_ros.evaluation import composed, suite
from stremn_ros.evaluation.davis_data import open_davis
from stremn_ros.imaging.mask_reading import read_mask

SIZE = (96, 128)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences of twelve frames with two objects."""
    root = tmp_path_factory.mktemp("suite")
    sequences = {}
    for name, first in (("one", 0), ("two", 20)):
        pairs = [scene(first + step, SIZE) for step in range(12)]
        sequences[name] = tuple(np.stack(part) for part in zip(*pairs, strict=True))
    write_davis(root / "shapes", sequences)
    return root


def test_the_spread_is_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(50.0, 10.0, 400)
    error, low, high = suite.spread(list(values))
    assert error == pytest.approx(values.std() / 20.0, rel=0.1)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2)
    assert suite.spread([3.0, 3.0]) == (0.0, 3.0, 3.0)


def test_calibration_error_of_scores_that_are_right_and_of_ones_that_are_not() -> None:
    iou = np.random.default_rng(1).uniform(0.0, 1.0, 2000)
    right, bins = suite.calibration_error(list(zip(iou, iou, strict=True)))
    assert right < 1e-9
    assert sum(each["share"] for each in bins) == pytest.approx(1.0)
    proud, bins = suite.calibration_error([(0.95, value) for value in iou])
    assert proud == pytest.approx(0.95 - iou.mean(), abs=1e-6)
    assert len(bins) == 1


def test_short_tracks_go_both_ways_and_begin_where_the_object_is(data: Path) -> None:
    dataset = open_davis(data / "shapes", "val")
    tracks = suite.short_tracks(dataset, 5, 3)
    names = [sequence.name for sequence in tracks.sequences]
    assert len(names) == len(set(names)) == 2 * 3 * 2
    forwards, backwards = tracks.sequences[:2]
    assert [path.stem for path in forwards.images] == [f"{n:05d}" for n in range(5)]
    assert forwards.images == backwards.images[::-1]
    assert all(sequence.truth().ids == [1, 2] for sequence in tracks.sequences)


def test_a_comparison_pairs_the_objects() -> None:
    def result(values: dict[str, float]) -> dict:
        found = suite.SetResult("a", {"j_and_f": values}, 0.0, 1)
        return suite.as_dict({"a": found}, {})

    before = {f"video {n}/1": 10.0 * n for n in range(8)}
    after = {unit: value + 2.0 for unit, value in before.items()}
    lines = suite.compare(result(after), result(before))
    assert "+2.00 ±0.00 [+2.00, +2.00]" in lines[0], "harder objects do not blur the change"
    assert "8 objects" in lines[-1]
    for other in (result(before), {"sets": {}}):  # not of the same objects
        lines = suite.compare(result({"other/1": 1.0}), other)
        assert lines == [
            "a              not compared: the earlier result has other objects, or none"
        ]


def test_the_command_scores_all_sets_and_compares(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "suite.yaml"
    config.write_text(
        "sets:\n"
        "  whole: {kind: davis, root: shapes, split: val, ends: 3}\n"
        "  pieces: {kind: tracks, root: shapes, split: val, length: 5, starts: 2}\n"
        "  leaving: {kind: leaving, root: shapes, split: val, clips: 2}\n"
        "  twins: {kind: twins, root: shapes, split: val, clips: 2}\n"
    )
    base = ["evaluate", "suite", "--config", str(config), "--data", str(data)]
    base += ["--model", str(TINY_MODEL), "--runtime", "torch", "--processing-size", "96"]
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    pictures = tmp_path / "pictures"
    assert main([*base, "--json", str(first), "--pictures", str(pictures)]) == 0
    found = json.loads(first.read_text())
    whole = found["sets"]["whole"]
    assert set(whole["measures"]["j_and_f"]["units"]) == {"one/1", "one/2", "two/1", "two/2"}
    assert whole["measures"]["j_and_f"]["mean"] > 60.0
    assert whole["frames"] == 22
    assert {"j_first_3", "j_last_3"} == set(whole["extra"])
    assert 0.0 <= found["calibration"]["expected_calibration_error"] < 0.3
    assert found["sets"]["leaving"]["measures"].keys() == {
        "empty_while_away",
        "frames_empty",
        "found_again",
    }
    assert 0.0 <= found["sets"]["twins"]["measures"]["exchanged"]["mean"] <= 100.0
    assert (pictures / "leaving.png").stat().st_size > 1000
    assert (pictures / "whole" / "worst_sequences.png").stat().st_size > 1000
    capsys.readouterr()
    again = [*base, "--sets", "whole,pieces", "--against", str(first), "--json", str(second)]
    assert main(again) == 0
    said = capsys.readouterr().out
    assert "+0.00 ±0.00" in said, "the same model twice"
    assert list(json.loads(second.read_text())["sets"]) == ["whole", "pieces"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "'sets'"),
        ("sets: {a: {kind: photos, root: x}}", "kind is 'photos'"),
        ("sets: {a: {kind: davis}}", "root"),
        ("sets: {a: {kind: davis, root: x, frames: 3}}", "frames"),
        ("sets: [", "cannot be read"),
        ("sets: {a: {kind: twins, root: x, clips: many}}", "sets: a: clips is the text 'many'"),
        ("sets: {a: {kind: twins, root: x, clips: 0}}", "sets: a: clips is 0; it must be 1"),
        ("sets: {a: shapes}", "sets: a: must be a mapping"),
        ("sets: {}", "'sets' is empty; name at least one set"),
    ],
)
def test_a_wrong_suite_file_says_what_is_wrong(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        suite.read_suite(path)


def test_a_choice_of_no_set_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "suite.yaml").write_text("sets: {a: {kind: davis, root: shapes}}")
    command = ["evaluate", "suite", "--config", str(tmp_path / "suite.yaml"), "--data", "."]
    assert main([*command, "--sets", ","]) == 2
    assert "--sets names no set" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "[",
        100_000 * "[",
        "[]",
        '{"sets": []}',
        '{"sets": {"a": null}}',
        '{"sets": {"a": {"measures": {"j": {"mean": 3}}}}}',
        '{"sets": {"a": {"measures": {"j": {"units": {"b/1": "3"}}}}}}',
    ],
    ids=["cut", "deep", "list", "no sets", "no measures", "no units", "no number"],
)
def test_what_is_no_result_is_not_compared_with(text: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(InputError, match=r"old\.json.*(cannot be read|is not a result)"):
        suite.read_result(tmp_path / "old.json")


def test_a_result_of_other_sets_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "suite.yaml").write_text("sets: {a: {kind: davis, root: shapes}}")
    (tmp_path / "old.json").write_text('{"sets": {"b": {"measures": {}}}}')
    command = ["evaluate", "suite", "--config", str(tmp_path / "suite.yaml"), "--data", "."]
    assert main([*command, "--against", str(tmp_path / "old.json")]) == 2
    assert "has none of the sets ['a'] to compare with, but ['b']" in capsys.readouterr().err


def copied(data: Path, to: Path) -> Path:
    """The data with one frame of the second sequence cut short, in another set."""
    shutil.copytree(data / "shapes", to / "shapes")
    shutil.copytree(data / "shapes", to / "damaged")
    frame = to / "damaged" / "JPEGImages" / "480p" / "two" / "00007.jpg"
    frame.write_bytes(frame.read_bytes()[:200])
    return to


def test_a_damaged_file_of_the_last_set_is_found_before_the_first_is_scored(
    data: Path, tmp_path: Path
) -> None:
    def load(objects: int) -> None:
        raise AssertionError("nothing is scored")

    sets = [
        suite.SuiteSet("good", "davis", "shapes", "val"),
        suite.SuiteSet("bad", "twins", "damaged", "val"),
    ]
    root = copied(data, tmp_path)
    with pytest.raises(InputError, match=r"set bad: .*two/00007.jpg: the JPEG is cut short"):
        suite.run_suite(sets, root, load)  # type: ignore[arg-type]
    single = suite.SuiteSet("single", "twins", "shapes", "val", sequences=["one"])
    with pytest.raises(InputError, match=r"set single: .*two or more are needed, not 1"):
        suite.run_suite([sets[0], single], root, load)  # type: ignore[arg-type]
    (root / "shapes" / "Annotations" / "480p" / "two" / "00005.png").unlink()
    away = suite.SuiteSet("away", "leaving", "shapes", "val")
    with pytest.raises(InputError, match=r"set away: .*two: .*every frame needs a mask"):
        suite.run_suite([sets[0], away], root, load)  # type: ignore[arg-type]
    for number in range(1, 12, 2):  # of every second frame, as in YouTube-VOS
        (root / "shapes" / "Annotations" / "480p" / "one" / f"{number:05d}.png").unlink()
    pieces = suite.SuiteSet("pieces", "tracks", "shapes", "val", length=4, sequences=["one"])
    with pytest.raises(InputError, match=r"set pieces: .*no piece of 4 frames .*greater length"):
        suite.run_suite([sets[0], pieces], root, load)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="set gone: "):
        suite.run_suite([suite.SuiteSet("gone", "davis", "nowhere")], root, load)  # type: ignore[arg-type]


def test_what_was_scored_is_kept_when_a_later_set_fails(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = tmp_path / "suite.yaml", tmp_path / "out.json"
    config.write_text(
        "sets:\n"
        "  whole: {kind: davis, root: shapes, split: val}\n"
        "  twins: {kind: twins, root: shapes, split: val, clips: 2}\n"
    )

    def fails(*_: object, **__: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(suite, "follow_twins", fails)
    arguments = ["evaluate", "suite", "--config", str(config), "--data", str(data)]
    arguments += ["--model", str(TINY_MODEL), "--runtime", "torch", "--processing-size", "96"]
    with pytest.raises(MemoryError):
        main([*arguments, "--json", str(out)])
    found = json.loads(out.read_text())
    assert list(found["sets"]) == ["whole"]
    assert found["partial"] is True
    assert main([*arguments, "--sets", "whole", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["partial"] is False


def test_what_tools_leave_among_the_frames_is_no_cutout(data: Path, tmp_path: Path) -> None:
    root = copied(data, tmp_path) / "shapes"
    folder = root / "JPEGImages" / "480p" / "one"
    (folder / "._00000.jpg").write_bytes(b"of a Mac")
    (folder / "Thumbs.db").write_bytes(b"of Windows")
    assert [
        image.stem for image, _ in composed.cutouts(open_davis(root, "all", sequences=["one"]))[0]
    ] == [f"{n:05d}" for n in range(12)]


def test_masks_of_every_kind_are_cut_out(data: Path, tmp_path: Path) -> None:
    root = copied(data, tmp_path) / "shapes"
    masks = root / "Annotations" / "480p" / "one"
    (masks / "00000.png").rename(masks / "00000.PNG")
    labels = read_mask(masks / "00001.png").values
    (masks / "00001.png").unlink()
    Image.fromarray(np.full_like(labels, 255) * (labels > 0)).save(masks / "00001.bmp")
    things = composed.cutouts(open_davis(root, "all"))
    _, truths = composed.leaving_clip(np.random.default_rng(0), things[1][0][:1], things[0])
    # what 255 marks beside the ids of other frames is of no object
    assert [bool(truth.any()) for truth in truths[:3]] == [True, False, True]


def test_twins_are_alike_and_meet(data: Path) -> None:
    things = composed.cutouts(open_davis(data / "shapes", "all", sequences=["one", "two"]))
    background = [image for image, _ in things[0]]
    met = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        frames, labels = composed.twin_clip(rng, background, things[1])
        assert len(frames) == len(labels) == composed.TWINS
        own, other = (labels[0] == number for number in (1, 2))
        assert own.any()
        assert other.any()
        assert abs(int(own.sum()) - int(other.sum())) < 0.2 * own.sum(), "two of one size"
        colors = [frames[0][mask].mean(axis=0) for mask in (own, other)]
        assert np.abs(colors[0] - colors[1]).max() < 12.0, "and of one color"
        sides = [np.nonzero(labels[n] == 1)[1].mean() for n in (0, -1)]
        assert abs(sides[0] - sides[1]) > 0.2 * labels[0].shape[1], "they change places"
        grown = [(labels[n] > 0).sum() for n in (0, composed.TWINS // 2)]
        met += grown[1] < 0.95 * grown[0]
    assert met >= 2, "often one hides a part of the other"


def test_an_object_that_leaves_is_gone_and_comes_back(data: Path) -> None:
    things = composed.cutouts(open_davis(data / "shapes", "all", sequences=["one", "two"]))
    rng = np.random.default_rng(0)
    _, truths = composed.leaving_clip(rng, [image for image, _ in things[0]], things[1])
    there = [bool(truth.any()) for truth in truths]
    away = range(composed.SEEN, composed.SEEN + composed.AWAY)
    assert there == [n not in away for n in range(len(truths))]
