"""The click network's data, training and evaluation, on drawn photos."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from make_tiny_model import draw_photo
from PIL import Image

from stremn_ros.cli import main as stremn
from stremn_ros.data.clicks import ClickPhase, HintedObjects, held_out, next_click
from stremn_ros.data.photos import PhotoClips
from stremn_ros.errors import InputError, StremnError
from stremn_ros.hint_masks import ClickSegmenter
from stremn_ros.imaging.hints import BOX, INSIDE, OUTSIDE, PLANES, PREVIOUS
from stremn_ros.training.clicks import ClicksTraining, main, train

TINY = {"encoder": "tiny", "value_channels": 8, "decoder_channels": [8, 8, 8]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    trained = [f"p{n}" for n in range(400) if not held_out(f"p{n}")][:10]
    kept = [f"p{n}" for n in range(400) if held_out(f"p{n}")][:3]
    assert len(kept) == 3
    for name in trained + kept:
        image, labels = draw_photo(rng, 96)
        Image.fromarray(image).save(root / "images" / f"{name}.jpg")
        Image.fromarray(labels).save(root / "masks" / f"{name}.png")
    return root


def config(photos: Path, run: Path, **changes: object) -> ClicksTraining:
    values = {
        "run": str(run),
        "photos": str(photos),
        "phases": [ClickPhase(6, size=48, batch=3), ClickPhase(4, size=64, batch=3)],
        "network": TINY,
        "defaults": {"crop_size": 64},
        "start": None,
        "learning_rate": 3e-3,
        "encoder_learning_rate": 3e-3,
        "warmup": 2,
        "decay": 4,
        "ema_decay": 0.9,
        "threads": 1,
        "workers": 0,
        "checkpoint_every": 4,
    }
    return ClicksTraining(**{**values, **changes})


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- hints


def test_hints_are_on_the_object_and_batches_are_the_same_each_time(photos: Path) -> None:
    phases = [ClickPhase(40, size=96, batch=8, background=0.1)]
    made = HintedObjects(phases, 3, PhotoClips(photos), None, {})
    again = HintedObjects(phases, 3, PhotoClips(photos), None, {})
    boxes = points = beside = nothing = 0
    for number in range(12):
        crops, masks, planes, real = (part.numpy() for part in made[number])
        for one, other in zip(made[number], again[number], strict=True):
            assert bool((one == other).all())
        assert crops.shape == (8, 96, 96, 3)
        assert planes.shape == (8, PLANES, 96, 96)
        assert not planes[:, PREVIOUS].any()
        for mask, hints, there in zip(masks, planes, real, strict=True):
            if not there:
                nothing += 1
                assert not mask.any()
                assert hints[INSIDE].any()
                continue
            assert mask.any()
            assert hints[INSIDE].any() or hints[BOX].any()
            for part in cv2.connectedComponentsWithStats(hints[INSIDE])[3][1:]:
                x, y = part.astype(int)
                assert mask[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].any()
            points += bool(hints[INSIDE].any())
            beside += bool(hints[OUTSIDE].any())
            if hints[BOX].any():
                boxes += 1
                assert (mask & hints[BOX]).sum() > 0.85 * mask.sum()
    assert min(boxes, points) > 20
    assert min(beside, nothing) > 2


def test_photos_that_are_held_out_are_never_drawn(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = PhotoClips(photos)
    drawn: set[str] = set()
    read = clips.photo

    def note(index: int):
        drawn.add(clips.names[index])
        return read(index)

    monkeypatch.setattr(clips, "photo", note)
    data = HintedObjects([ClickPhase(30, size=48, batch=8)], 0, clips, None, {"p1": 0.0})
    for number in range(30):
        data[number]
    expected = {name for name in clips.names if not held_out(name)} - {"p1"}
    assert drawn == expected


def test_the_next_click_goes_to_the_middle_of_the_largest_error() -> None:
    truth = np.zeros((60, 80), bool)
    truth[10:41, 10:41] = True
    nothing = np.zeros_like(truth)
    point, inside = next_click(nothing, truth)
    assert (point.tolist(), inside) == ([25.0, 25.0], True)
    wrong = truth.copy()
    wrong[0:60, 60:80] = True  # larger than what is missing
    wrong[10:14, 10:41] = False
    point, inside = next_click(wrong, truth)
    assert not inside
    assert 68 <= point[0] <= 71
    assert next_click(truth, truth) is None
    # nothing was made of the first click: the second one is another
    again, inside = next_click(nothing, truth, np.array([[25.0, 25.0]]))
    assert inside
    assert np.abs(again - 25.0).max() >= 5


# ---------------------------------------------------------------- training


def test_a_run_in_pieces_is_one_run(photos: Path, tmp_path: Path) -> None:
    whole = train(config(photos, tmp_path / "whole"))
    for _ in range(20):  # a limit of nothing stops after each iteration
        pieces = train(config(photos, tmp_path / "pieces", time_limit=1e-9))
        if len(losses(tmp_path / "pieces")) == 10:
            break
    assert losses(tmp_path / "pieces") == losses(tmp_path / "whole")
    name = "weights.safetensors"
    assert (pieces / name).read_bytes() == (whole / name).read_bytes()


def test_training_lowers_the_loss_and_makes_a_model_that_loads(
    photos: Path, tmp_path: Path
) -> None:
    model = train(config(photos, tmp_path, phases=[ClickPhase(60, size=48, batch=6)]))
    curve = losses(tmp_path)
    assert np.mean(curve[-10:]) < 0.8 * np.mean(curve[:5])
    assert ClickSegmenter.load(str(model), runtime="torch").runtime_name.startswith("torch")


def test_the_command_reads_its_file(photos: Path, tmp_path: Path) -> None:
    values = {**vars(config(photos, tmp_path / "run", phases=[]))}
    values["phases"] = [{"iterations": 1, "size": 48, "batch": 1}]
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(values))
    assert main(["--config", str(path)]) == 0
    assert (tmp_path / "run/model/weights.safetensors").exists()
    for changes, said in (
        ({"rounds": [0.5, 0.4]}, "sum is 1"),
        ({"rounds": []}, "sum is 1"),
        ({"validate_every": 5}, "stremn evaluate clicks"),
        ({"export_dtype": "int8"}, "float32 or float16"),
        ({"speed": 3}, "speed"),
    ):
        path.write_text(yaml.safe_dump({**values, **changes}))
        with pytest.raises(InputError, match=said):
            main(["--config", str(path)])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phases": []}, "phases is empty"),
        ({"photos": ""}, "photos is empty"),
        ({"photos": []}, "photos is empty"),
        ({"defaults": {}}, "defaults.crop_size is None; it must be a multiple of 16"),
        ({"phases": [ClickPhase(1, size=50)]}, r"phases\[0\]: size is 50"),
        ({"phases": [ClickPhase(1, background=2.0)]}, r"phases\[0\]: background is 2.0"),
        ({"photo_weights": {"p1": -1.0}}, "photo_weights is .*numbers of 0 or more"),
        ({"quality_weight": -1.0}, "quality_weight is -1.0"),
        ({"photo_weights": {"*": 0.0}}, "no photo to train on"),
    ],
)
def test_a_training_that_cannot_be_does_not_begin(
    photos: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(StremnError, match=said):
        train(dataclasses.replace(config(photos, tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- evaluation


def test_evaluate_clicks_scores_held_out_photos(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, pictures = tmp_path / "clicks.json", tmp_path / "pictures"
    words = ["evaluate", "clicks", "--photos", str(photos), "--click-model", "", "--quiet"]
    assert stremn([*words, "--json", str(out), "--pictures", str(pictures), "--clicks", "2"]) == 0
    found = json.loads(out.read_text())["photos"]["GrabCut"]
    assert set(found) == {"box", "1", "2"}
    assert found["box"]["objects"] == 3
    assert set(found["box"]["each"]) == {n for n in PhotoClips(photos).names if held_out(n)}
    # plain shapes on a smooth ground are what GrabCut is made for
    assert found["box"]["iou"] > 70
    said = capsys.readouterr().out
    assert f"{found['box']['iou']:.1f} ±{found['box']['standard_error']:.1f}" in said
    assert {path.name for path in pictures.iterdir()} == {
        f"photos_GrabCut_{hints}.png" for hints in found
    }


def test_photos_whose_names_are_in_an_unknown_encoding_are_judged(
    photos: Path, tmp_path: Path
) -> None:
    kept = next(name for name in PhotoClips(photos).names if held_out(name))
    names = (os.fsdecode(b"\xfc%d" % n) for n in range(400))  # Latin-1
    name = next(name for name in names if held_out(name))
    for folder in ("images", "masks"):
        file = next((photos / folder).glob(f"{kept}.*"))
        (tmp_path / folder).mkdir()
        shutil.copy(file, tmp_path / folder / f"{name}{file.suffix}")
    words = ["evaluate", "clicks", "--photos", str(tmp_path), "--click-model", "", "--quiet"]
    assert stremn([*words, "--json", str(tmp_path / "out.json"), "--clicks", "1"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())["photos"]["GrabCut"]
    assert set(found["box"]["each"]) == {name}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what to judge on"),
        (["--photos", "nowhere"], "nowhere"),
        (["--videos", "nowhere"], "nowhere"),
        (["--photos", "{photos}", "--clicks", "0"], "--clicks is 0"),
        (["--photos", "{photos}", "--click-model", "no_such"], "no_such"),
    ],
)
def test_evaluate_clicks_says_what_is_wrong(
    words: list[str], said: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(photos=photos) for word in words]
    if "--click-model" not in given:
        given += ["--click-model", ""]
    assert stremn(["evaluate", "clicks", "--quiet", *given]) == 2
    assert said in capsys.readouterr().err
