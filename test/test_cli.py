"""The command `stremn`, run as users run it: in a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_helpers import ROOT, environment, stremn
from evaluation_helpers import moving_shapes, write_davis
from PIL import Image

from stremn_ros.cli import main
from stremn_ros.errors import InputError
from stremn_ros.imaging.video import VideoWriter, open_frames, read_image, write_image
from stremn_ros.imaging.visualization import read_label_png, write_label_png
from stremn_ros.segmenter import Segmenter

TINY = str(Path(__file__).resolve().parent / "data" / "tiny_model")
COMMAND = [sys.executable, "-m", "stremn_ros.cli"]


def fails(*arguments, **changes):
    """Runs a command that must end with code 2 and one line; returns the line."""
    done = stremn(*arguments, **changes)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("stremn: error: ")
    return lines[0]


def fails_here(*arguments):
    """As ``fails``, without a process of its own."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        assert main([*map(str, arguments)]) == 2
    (line,) = told.getvalue().strip().splitlines()
    assert line.startswith("stremn: error: ")
    return line


@pytest.fixture
def shapes(tmp_path):
    """A folder of frames, the same as a video, the first mask, and all true masks."""
    frames, labels = moving_shapes(30, 96, 160, objects=2, seed=4)
    folder = tmp_path / "frames"
    for index, frame in enumerate(frames):
        write_image(folder / f"img{index}.png", frame)
    with VideoWriter(tmp_path / "video.mp4", 10) as video:
        for frame in frames:
            video.write(frame)
    write_label_png(tmp_path / "mask.png", labels[0])
    return folder, tmp_path / "video.mp4", tmp_path / "mask.png", labels


def mean_j(found, truth):
    return np.mean(
        [
            ((found == label) & (truth == label)).sum()
            / ((found == label) | (truth == label)).sum()
            for label in np.unique(truth)[1:]
        ]
    )


def test_help_lists_only_commands_that_work():
    done = stremn("--help")
    assert done.returncode == 0
    for name in ("segment", "evaluate", "doctor"):
        assert f"  {name} " in done.stdout
    listed = [line.split()[0] for line in done.stdout.split("COMMAND")[-1].splitlines() if line]
    assert {"segment", "evaluate", "train", "doctor"} <= set(listed)
    for name in set(listed) & {"segment", "doctor", "train", "evaluate", "bench", "export"}:
        arguments = {"evaluate": ["davis"], "train": ["segment"]}.get(name, [])
        help_of = stremn(name, *arguments, "--help")
        assert help_of.returncode == 0, name
        assert "usage: stremn" in help_of.stdout, name
    assert stremn("--version").stdout.startswith("stremn ")


PRINTING = {
    "help": [*COMMAND, "--help"],
    "much": [
        sys.executable,
        "-c",
        "from stremn_ros.files import printing\nwith printing(): print('x' * 9999)",
    ],
    "parameters": [sys.executable, "-m", "stremn_ros.nodes.parameters"],
    "node": [sys.executable, "-m", "stremn_ros.nodes.predict_node", "--help"],
    "reference": [sys.executable, ROOT / "scripts" / "python_reference.py"],
}


@pytest.mark.parametrize("name", PRINTING)
def test_what_nobody_reads_ends_a_command_in_silence(name):
    # the reader has gone before anything is printed; Python may keep it in a buffer until the end
    for where, unbuffered in (("| true", ""), ("2>&1 | true", "1")):
        done = subprocess.run(
            ["bash", "-c", f'"$@" {where}; exit ${{PIPESTATUS[0]}}', "bash", *PRINTING[name]],
            capture_output=True,
            text=True,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "Broken pipe" not in done.stderr


def test_a_full_disk_is_told_by_what_prints():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(PYTHONUNBUFFERED=""),
            check=False,
        )
    assert done.stderr == "stremn: error: [Errno 28] No space left on device\n"
    assert done.returncode == 2


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = (
        "import sys\nfrom stremn_ros.cli import build_parser\nbuild_parser()\n"
        "print([name for name in ('torch', 'cv2', 'numpy', 'rclpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stdout.strip() == "[]"


def test_segment_follows_the_objects_of_a_folder(shapes, tmp_path):
    folder, _, mask, labels = shapes
    done = stremn("segment", folder, "--mask", mask, "--out", tmp_path / "out", "--model", TINY)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    written = sorted((out / "masks").iterdir(), key=lambda path: int(path.stem[3:]))
    assert [path.name for path in written] == [f"img{index}.png" for index in range(30)]
    assert np.array_equal(read_label_png(written[0]), labels[0])
    # The masks are those of the library: seeded with the mask, then stepped frame by frame
    segmenter = Segmenter.load(TINY)
    segmenter.seed(read_image(folder / "img0.png"), labels[0])
    for index in range(1, 30):
        ours = segmenter.step(read_image(folder / f"img{index}.png")).labels
        assert (read_label_png(written[index]) == ours).mean() > 0.995, index
    assert mean_j(read_label_png(written[2]), labels[2]) > 0.5
    with Image.open(written[9]) as image:
        assert image.mode == "P"
    assert len(list(open_frames(out / "overlay.mp4"))) == 30
    assert read_image(out / "contact_sheet.png").shape[1] > 600
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["frames"], summary["objects"]) == (30, [1, 2])
    assert summary["frames_per_second"] > 0
    assert "30 frames, 2 objects" in done.stdout
    assert "frames per second" in done.stdout
    assert summary["runtime"] in done.stdout
    assert summary["runtime"] == segmenter.runtime_name
    assert "30/30" in done.stderr  # the progress bar


def test_a_terminal_is_told_at_once_what_takes_time(shapes, tmp_path):
    ours, theirs = pty.openpty()
    folder, _, mask, _ = shapes
    words = ["segment", folder, "--mask", mask, "--model", TINY, "--device", "cpu"]
    with subprocess.Popen(
        [*COMMAND, *map(str, words), "--out", str(tmp_path / "out")],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment(),
    ) as process:
        os.close(theirs)
        said = os.read(ours, 1000).decode()
        process.kill()
    os.close(ours)
    assert said.splitlines()[0] == f"stremn: loading {TINY} ..."


def test_segment_takes_a_part_of_a_video_and_the_models_options(shapes, tmp_path):
    _, video, _, labels = shapes
    write_label_png(tmp_path / "m5.png", (labels[5] == 2) * np.uint8(7))
    options = "--start 5 --end 12 --slots 3 --update-rule least_similar --processing-size 80x128"
    done = stremn(
        "segment", video, "--mask", tmp_path / "m5.png", "--out", tmp_path / "out",
        "--model", TINY, *options.split(), "--runtime", "torch", "--device", "cpu", "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    names = sorted(path.name for path in (tmp_path / "out" / "masks").iterdir())
    assert names == [f"{index:05d}.png" for index in range(5, 12)]
    last = read_label_png(tmp_path / "out" / "masks" / "00011.png")
    assert set(np.unique(last)) <= {0, 7}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["processing_size"], summary["objects"]) == ([80, 128], [7])


def test_segment_does_not_mix_with_older_masks(shapes, tmp_path):
    folder, _, mask, _ = shapes
    arguments = ["segment", folder, "--mask", mask, "--out", tmp_path / "out", "--model", TINY]
    assert stremn(*arguments, "--end", 6).returncode == 0
    assert "6 masks already" in fails(*arguments, "--end", 3)
    assert stremn(*arguments, "--end", 3, "--overwrite").returncode == 0
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 3


def test_wrong_input_is_one_clear_line(shapes, tmp_path):
    folder, video, mask, labels = shapes
    out = tmp_path / "out"

    def segment(source=folder, first=mask, *more):
        return fails("segment", source, "--mask", first, "--out", out, "--quiet", *more)

    tiny = ("--model", TINY)
    assert "no such file or folder" in segment(tmp_path / "none.mp4")
    assert "no such mask" in segment(folder, tmp_path / "none.png")
    write_label_png(tmp_path / "zero.png", labels[0] * 0)
    assert "empty" in segment(folder, tmp_path / "zero.png", *tiny)
    write_label_png(tmp_path / "small.png", labels[0][:50])
    message = segment(video, tmp_path / "small.png", *tiny)
    assert "50x160" in message
    assert "96x160" in message
    assert "no model 'nothing'" in segment(folder, mask, "--model", "nothing")
    assert "slots is 99" in segment(folder, mask, *tiny, "--slots", "99")
    assert "'newest_ever'" in segment(folder, mask, *tiny, "--update-rule", "newest_ever")
    assert "abacus" in segment(folder, mask, *tiny, "--runtime", "abacus")
    assert "start 9" in segment(folder, mask, "--start", "9", "--end", "4")
    (folder / "img3.png").write_bytes(b"damaged")
    message = segment(folder, mask, *tiny)
    assert "img3.png" in message
    # what was made until then is kept, and says why it is short
    assert len(list(open_frames(out / "overlay.mp4"))) == 3
    assert len(list((out / "masks").iterdir())) == 3
    assert read_image(out / "contact_sheet.png").shape[1] > 300
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["frames"], summary["overlay"]) == (3, "overlay.mp4")
    assert "img3.png" in summary["ended_early"]
    assert not list(out.glob(".*"))
    (folder / "img0.png").write_bytes(b"damaged")
    assert "img0.png" in fails("segment", folder, "--mask", mask, "--out", tmp_path / "none", *tiny)
    assert not (tmp_path / "none").exists()


def test_debug_shows_the_traceback(tmp_path):
    for arguments in (["--debug", "segment"], ["segment", "--debug"]):
        done = stremn(*arguments, tmp_path / "none", "--mask", "m.png", "--out", tmp_path / "o")
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "InputError" in done.stderr


def test_unknown_arguments_are_refused():
    for arguments in (["doctor", "--color"], ["segment"], [], ["evaluate"], ["nonsense"]):
        done = stremn(*arguments)
        assert done.returncode == 2
        assert "usage:" in done.stderr
    done = stremn("segment", "a", "--mask", "b", "--out", "c", "--processing-size", "big")
    assert done.returncode == 2
    assert "240x432" in done.stderr


def test_an_interrupt_ends_it_quietly_and_leaves_no_half_video(tmp_path):
    frames, labels = moving_shapes(8, 480, 640, objects=2)
    for index in range(400):
        (tmp_path / "f").mkdir(exist_ok=True)
        if index < 8:
            write_image(tmp_path / "f" / f"{index}.png", frames[index])
        else:
            os.link(tmp_path / "f" / f"{index % 8}.png", tmp_path / "f" / f"{index}.png")
    write_label_png(tmp_path / "m.png", labels[0])
    arguments = ["segment", "f", "--mask", "m.png", "--out", "out", "--model", TINY]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for _ in range(600):
        if len(list((tmp_path / "out").glob("masks/*.png"))) > 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "interrupted" in errors
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["masks"]


def test_evaluate_davis_writes_json_masks_and_pictures(tmp_path):
    root = write_davis(
        tmp_path / "davis",
        {f"s{index}": moving_shapes(9, 96, 160, objects=1 + index, seed=index) for index in (0, 1)},
    )
    out = tmp_path / "new" / "out.json"
    done = stremn(
        "evaluate", "davis", "--root", root, "--model", TINY, "--json", out,
        "--masks", tmp_path / "masks", "--pictures", tmp_path / "pictures",
        "--slots", 3, "--update-rule", "least_similar", "--processing-size", 96,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert set(found["sequences"]) == {"s0", "s1"}
    assert found["j_and_f"] == pytest.approx((found["j"] + found["f"]) / 2, abs=2e-3)
    assert 40 < found["j"] <= 100
    objects = [
        score["j"] for item in found["sequences"].values() for score in item["objects"].values()
    ]
    assert len(objects) == 3
    assert found["j"] == pytest.approx(np.mean(objects), abs=2e-3)
    assert found["settings"]["slots"] == 3
    assert found["partial"] is False
    assert f"{found['j_and_f']:.1f}" in done.stdout
    assert len(list((tmp_path / "masks" / "s1").iterdir())) == 9
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "worst_sequences.png", "scores.png"
    }  # fmt: skip
    again = stremn(
        "evaluate", "davis", "--root", root, "--model", TINY, "--json", out, "--quiet",
        "--sequences", "s1", "--every", 2,
    )  # fmt: skip
    assert again.returncode == 0
    assert again.stderr == ""
    assert json.loads(out.read_text())["partial"] is True


def test_evaluate_davis_names_what_is_missing(tmp_path):
    assert "layout" in fails("evaluate", "davis", "--root", tmp_path)
    root = write_davis(tmp_path, {"a": moving_shapes(5)})
    assert "train.txt" in fails("evaluate", "davis", "--root", root, "--split", "train")
    assert "b: not in the split" in fails("evaluate", "davis", "--root", root, "--sequences", "a,b")
    assert "no model" in fails("evaluate", "davis", "--root", root, "--model", "nothing")


def test_export_makes_what_the_runtime_loads(shapes, tmp_path, tiny_export):
    folder, _, mask, _ = shapes
    cache = str(tiny_export.cache)
    onnx = ["segment", folder, "--mask", mask, "--model", TINY, "--end", 5, "--quiet"]
    none = str(tmp_path / "none")
    message = fails(*onnx, "--out", tmp_path / "a", "--runtime", "onnxruntime", STREMN_CACHE=none)
    assert "stremn export" in message
    assert "9 stages" in tiny_export.said
    assert cache in tiny_export.said
    for runtime, out in (("onnxruntime", "a"), ("torch", "b")):
        done = stremn(
            *onnx, "--out", tmp_path / out, "--runtime", runtime, STREMN_CACHE=cache
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "onnx" in done.stdout.lower() or runtime == "torch"
    for index in range(5):
        masks = [read_label_png(tmp_path / out / f"masks/img{index}.png") for out in "ab"]
        assert (masks[0] == masks[1]).mean() > 0.995
    assert "no model" in fails("export", "nothing", "--runtime", "onnx")


@pytest.mark.parametrize("runtime", ["onnx", "tensorrt"])
def test_export_of_a_configuration_without_weights_says_how_to_train_it(capsys, runtime):
    assert main(["export", "segment_resnet50", "--runtime", runtime]) == 2
    said = capsys.readouterr().err
    assert "segment_resnet50 has no weights.safetensors, it is a configuration only" in said
    assert "`stremn train segment`" in said


def test_train_forwards_its_options(tmp_path):
    done = stremn("train", "segment", "--config", tmp_path / "none.yaml")
    assert done.returncode == 2
    assert "none.yaml" in done.stderr
    assert "Traceback" not in done.stderr
    assert "--config" in stremn("train", "segment").stderr
    text = stremn("train", "segment", "--help").stdout
    for entry in ("presence_weight", "video_weights", "ema_decay", "max_gap"):
        assert entry in text


# ---------------------------------------------------------------- files as people have them


def write_video(path, frames, fps=10):
    with VideoWriter(path, fps) as video:
        for frame in frames:
            video.write(frame)
    return path


def test_segment_gives_the_object_of_hints_the_id_that_is_asked_for(shapes, tmp_path):
    video, _, mask, labels = shapes
    ys, xs = np.nonzero(labels[0] == 1)
    left, top, right, bottom = xs.min() - 3, ys.min() - 3, xs.max() + 3, ys.max() + 3
    outline = f"{left},{top};{right},{top};{right},{bottom};{left},{bottom}"
    out = tmp_path / "out"
    common = ["segment", video, "--out", out, "--model", TINY, "--quiet", "--id"]
    done = stremn(*common, "7", "--polygon", outline)
    assert done.returncode == 0, done.stderr
    first = read_label_png(sorted((out / "masks").iterdir())[0])
    assert set(np.unique(first)) == {0, 7}
    assert "ids are 1..255" in fails(*common, "0", "--polygon", outline)
    assert "leave out --id" in fails(*common, "2", "--mask", mask)


def test_segment_keeps_what_was_made_of_a_video_that_is_cut_short(shapes, tmp_path):
    _, _, mask, _ = shapes
    frames, _ = moving_shapes(30, 96, 160, objects=2, seed=4)
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 96))
    for frame in frames:
        writer.write(frame[:, :, ::-1])
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    out = tmp_path / "out"
    quiet = {"OPENCV_FFMPEG_LOGLEVEL": "-8"}
    arguments = ["segment", path, "--mask", mask, "--out", out, "--model", TINY, "--quiet"]
    assert "cut short" in fails(*arguments, **quiet)
    count = len(list((out / "masks").iterdir()))
    assert 8 < count < 25
    assert len(list(open_frames(out / "overlay.mp4"))) == count
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames"] == count
    assert "cut short" in summary["ended_early"]
    # a header that promises more is no damage
    whole = tmp_path / "overcounted.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 96))
    for frame in frames[:8]:
        writer.write(frame[:, :, ::-1])
    writer.release()
    data = bytearray(whole.read_bytes())
    for at in (data.find(b"avih") + 8 + 16, data.find(b"strh") + 8 + 32):
        struct.pack_into("<I", data, at, 500)
    whole.write_bytes(data)
    done = stremn("segment", whole, "--mask", mask, "--out", tmp_path / "b", "--model", TINY,
                  "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "8 frames" in done.stdout
    assert "its header says 500" in done.stderr
    assert json.loads((tmp_path / "b" / "summary.json").read_text())["ended_early"] is None
    assert len(list(open_frames(tmp_path / "b" / "overlay.mp4"))) == 8


def test_segment_takes_names_and_rates_as_they_come(shapes, tmp_path):
    _, _, mask, _ = shapes
    frames, _ = moving_shapes(4, 96, 160, objects=2, seed=4)
    write_video(tmp_path / "2024-05-01T10:30:00 100%d.mp4", frames, 211.222)
    done = stremn("segment", "2024-05-01T10:30:00 100%d.mp4", "--mask", mask, "--out", "12:30%d",
                  "--model", TINY, "--quiet", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    overlay = open_frames(tmp_path / "12:30%d" / "overlay.mp4")
    assert len(list(overlay)) == 4
    assert overlay.fps == pytest.approx(211.22, abs=0.01)


def test_masks_are_made_where_no_overlay_can_be(shapes, tmp_path):
    """An OpenCV without FFmpeg: said before the first frame, and the masks are what matters."""
    folder, _, mask, _ = shapes
    code = (
        "import cv2, sys\n"
        "class Closed:\n"
        "    fourcc = staticmethod(lambda *letters: 0)\n"
        "    def __init__(self, *arguments): print('asked first')\n"
        "    def isOpened(self): return False\n"
        "    def release(self): pass\n"
        "cv2.VideoWriter = Closed\n"
        "from stremn_ros.cli import main\n"
        f"sys.exit(main(['segment', {str(folder)!r}, '--mask', {str(mask)!r}, '--out', 'out',"
        f" '--model', {TINY!r}, '--end', '3', '--quiet']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "there is no overlay video" in done.stderr
    assert "no mpeg4 encoder" in done.stderr
    out = tmp_path / "out"
    assert len(list((out / "masks").iterdir())) == 3
    assert json.loads((out / "summary.json").read_text())["overlay"] is None
    assert {path.name for path in out.iterdir()} == {"masks", "contact_sheet.png", "summary.json"}


def test_what_is_done_to_a_mask_and_what_is_too_small_is_said(shapes, tmp_path):
    folder, _, _, labels = shapes
    wide = np.kron(labels[0] == 1, np.ones((8, 8))).astype(np.uint8) * 255
    soft = Image.fromarray(np.roll(wide, 3, (0, 1))).resize((160, 96), Image.BOX)
    soft.save(tmp_path / "soft.png")
    soft.save(tmp_path / "mask.jpg")
    Image.fromarray(np.dstack([read_image(folder / "img0.png"), np.array(soft)])).save(
        tmp_path / "cutout.png"
    )
    found = []
    for name, said in (("soft.png", "soft edges"), ("mask.jpg", "JPEG"), ("cutout.png", "alpha")):
        out = tmp_path / f"out-{name}"
        done = stremn("segment", folder, "--mask", tmp_path / name, "--out", out, "--model", TINY,
                      "--end", 4, "--quiet")  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert said in done.stderr
        found.append(read_label_png(out / "masks" / "img3.png"))
        assert set(np.unique(found[-1])) == {0, 1}
    assert mean_j(found[0], (labels[3] == 1).astype(np.uint8)) > 0.5
    tiny = np.zeros((96, 160), np.uint8)
    tiny[40:44, 40:44] = 1
    write_label_png(tmp_path / "tiny.png", tiny)
    done = stremn("segment", folder, "--mask", tmp_path / "tiny.png", "--out", tmp_path / "t",
                  "--model", TINY, "--end", 3, "--quiet")  # fmt: skip
    assert "too small to be followed at 96x160: object 1 (16 pixels" in done.stderr
    assert "a processing size of 240 would do" in done.stderr


def test_a_mask_of_the_turned_image_is_told_by_the_tag(tmp_path):
    frames, labels = moving_shapes(3, 96, 160, objects=1, seed=4)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "f").mkdir()
    for n, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "f" / f"{n}.jpg", quality=95, exif=exif.tobytes())
    write_label_png(tmp_path / "stored.png", labels[0])
    write_label_png(tmp_path / "turned.png", np.rot90(labels[0]).copy())
    arguments = ["segment", tmp_path / "f", "--out", tmp_path / "o", "--model", TINY, "--quiet"]
    done = stremn(*arguments, "--mask", tmp_path / "stored.png")
    assert done.returncode == 0, done.stderr
    assert "orientation tag 6 (to be shown turned by 90 degrees)" in done.stderr
    assert mean_j(read_label_png(tmp_path / "o" / "masks" / "2.png"), labels[2]) > 0.5
    done = stremn(*arguments, "--mask", tmp_path / "turned.png", "--overwrite")
    assert done.returncode == 2
    assert "as its orientation tag (6) asks viewers to show it" in done.stderr


def test_evaluate_looks_at_everything_first_and_keeps_what_is_done(tmp_path):
    sequences = {f"s{index}": moving_shapes(7, 96, 160, seed=index) for index in range(3)}
    root = write_davis(tmp_path / "davis", sequences)
    for tool in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        (root / "Annotations" / "480p" / tool).mkdir()
    json_path = tmp_path / "out.json"
    arguments = ["evaluate", "davis", "--root", root, "--model", TINY, "--json", json_path,
                 "--quiet", "--every", 2]  # fmt: skip
    assert stremn(*arguments, "--split", "all").returncode == 0
    assert set(json.loads(json_path.read_text())["sequences"]) == set(sequences)
    json_path.unlink()
    # lists as Windows writes them
    for encoding in ("utf-8-sig", "utf-16"):
        lines = "\r\n".join(sequences).encode(encoding)
        (root / "ImageSets" / "2017" / "val.txt").write_bytes(lines)
        assert stremn(*arguments, "--sequences", "s1").returncode == 0
    json_path.unlink()
    damaged = root / "JPEGImages" / "480p" / "s2" / "00004.jpg"
    damaged.write_bytes(damaged.read_bytes()[:500])
    write_label_png(root / "Annotations" / "480p" / "s0" / "00000.png", sequences["s0"][1][0] * 0)
    message = fails(*arguments)
    assert "nothing was evaluated" in message
    assert "00004.jpg: the JPEG is cut short" in message
    assert "the first annotation is empty" in message
    assert not json_path.exists()


def test_an_evaluation_that_fails_late_leaves_what_it_has(tmp_path):
    """A frame that is whole by its structure and cannot be decoded all the same."""
    sequences = {f"s{index}": moving_shapes(7, 96, 160, seed=index) for index in range(3)}
    root = write_davis(tmp_path / "davis", sequences)
    path = root / "JPEGImages" / "480p" / "s2" / "00004.jpg"
    data = bytearray(path.read_bytes())
    at = data.find(b"\xff\xc4") + 5  # the Huffman tables
    data[at : at + 16] = b"\xff" * 16
    path.write_bytes(data)
    out = tmp_path / "out.json"
    message = fails("evaluate", "davis", "--root", root, "--model", TINY, "--json", out, "--quiet")
    assert "00004.jpg" in message
    found = json.loads(out.read_text())
    assert set(found["sequences"]) == {"s0", "s1"}
    assert found["partial"] is True
    assert found["partial_because"] == ["2 of 3 sequences are done"]


def test_a_build_that_failed_is_told(shapes, tmp_path):
    folder, _, mask, _ = shapes
    done = stremn("segment", folder, "--mask", mask, "--out", tmp_path / "o", "--model", TINY,
                  "--end", 2, "--quiet", "--auto-build", STREMN_CACHE="/proc/nowhere")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "nothing was built, so runtime auto takes PyTorch: nothing can be written" in done.stderr
    assert "STREMN_CACHE" in done.stderr


def test_a_result_that_could_not_be_written_is_told_before_the_work(shapes, tmp_path):
    folder, _, mask, _ = shapes
    root = write_davis(tmp_path / "davis", {"a": moving_shapes(5, 96, 160)})
    place, file = tmp_path / "place", tmp_path / "file"
    place.mkdir()
    file.write_text("of somebody")
    davis = ["evaluate", "davis", "--root", root, "--model", "nothing"]
    segment = ["segment", folder, "--mask", mask, "--model", "nothing", "--out"]
    for said, arguments in (
        ("'.*place': is a folder, the name of a file is needed", [*davis, "--json", place]),
        ("file: is a file, a folder is needed", [*davis, "--masks", file]),
        ("file: is a file, a folder is needed", [*davis, "--pictures", file]),
        ("x.json: .*file: is a file, a folder is needed", [*davis, "--json", file / "x.json"]),
        ("is a folder", ["bench", "--model", "nothing", "--json", place]),
        ("is a folder", ["bench", "--model", "nothing", "--plot", place]),
        ("is a folder", ["sweep", "--root", root, "--model", "nothing", "--json", place]),
        ("is a file", ["inspect", folder, "--mask", mask, "--out", file]),
        ("is a file", [*segment, file]),
    ):
        assert re.search(said, fails(*arguments)), arguments
    (place / "summary.json").mkdir()
    assert "summary.json': is a folder" in fails(*segment, place)
    assert file.read_text() == "of somebody"


def test_no_result_replaces_what_is_read(shapes, tmp_path):
    folder, video, mask, _ = shapes
    root = write_davis(tmp_path / "davis", {"a": moving_shapes(5, 96, 160)})
    run = tmp_path / "run"
    (run / "predicted").mkdir(parents=True)
    for name in ("masks", "predicted"):
        (run / name).mkdir(exist_ok=True)
        for path in folder.iterdir():
            (run / name / path.name).write_bytes(path.read_bytes())
    (run / "overlay.mp4").write_bytes(video.read_bytes())

    def files():
        every = (path for path in tmp_path.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in every}

    before = files()
    tiny = ["--mask", mask, "--model", TINY, "--quiet"]
    for arguments in (
        ["segment", run / "masks", *tiny, "--overwrite", "--out", run],
        ["segment", run / "overlay.mp4", *tiny, "--overwrite", "--out", run],
        # the contact sheet would be a frame of the next run
        ["segment", folder, *tiny, "--out", folder],
        ["inspect", folder, *tiny, "--out", tmp_path / "run" / ".." / "frames"],
        ["predict", run / "predicted", "--out", run],
        ["predict", folder, "--out", folder],
    ):
        assert "give another --out" in fails_here(*arguments), arguments
    davis = ["evaluate", "davis", "--root", root, "--model", TINY, "--quiet", "--masks"]
    for name in ("Annotations", "JPEGImages"):
        assert "give another folder" in fails_here(*davis, root / name / "480p")
    assert files() == before


def test_what_names_nothing_is_not_the_working_folder(shapes, tmp_path):
    folder, _, mask, _ = shapes
    assert "no video or folder was named" in fails(
        "segment", "", "--mask", mask, "--out", tmp_path / "out", cwd=folder
    )
    done = stremn("segment", folder, "--mask", mask, "--out", "", cwd=folder)
    assert (done.returncode, "the name of a folder is needed" in done.stderr) == (2, True)
    assert "say what to show" in fails("view", "", cwd=folder)
    assert len(list(folder.iterdir())) == 30


def test_numbers_that_leave_nothing_to_do_are_told(shapes, tmp_path):
    folder, *_ = shapes
    predict = ["predict", folder, "--out", tmp_path / "out", "--observe", "4"]
    assert "--horizon is -3; it must be a whole number, 1..100" in fails_here(
        *predict, "--horizon=-3"
    )
    assert "--start is -1" in fails_here(*predict, "--start=-1")
    assert "none of them from 99 on" in fails_here(
        "segment", folder, "--mask", "m", "--out", "o", "--start", "99"
    )
    bench = ["bench", "--against", "linear", "--model", TINY]
    assert "--objects is 0" in fails_here(*bench, "--objects", "0")
    root = write_davis(tmp_path / "davis", {"a": moving_shapes(5, 96, 160)})
    sweep = ["sweep", "--root", root, "--model", TINY, "--no-i2m"]
    assert "nothing is left to sweep" in fails_here(*sweep, "--slots", "", "--rules", "")


def test_what_was_scored_is_kept_when_the_pictures_fail(tmp_path, monkeypatch, capsys):
    root = write_davis(tmp_path / "davis", {"a": moving_shapes(5, 96, 160)})
    out = tmp_path / "out.json"

    def full(*_):
        raise InputError("the disk is full")

    monkeypatch.setattr("stremn_ros.evaluation.davis.draw", full)
    arguments = ["evaluate", "davis", "--root", root, "--model", TINY, "--json", out, "--quiet"]
    assert main([*map(str, arguments), "--pictures", str(tmp_path / "pictures")]) == 2
    found = json.loads(out.read_text())
    assert (set(found["sequences"]), found["partial"]) == ({"a"}, False)
    assert f"{found['j_and_f']:.1f}" in capsys.readouterr().out


@pytest.mark.parametrize("frames", [0, -1])
def test_export_of_no_frames_is_refused_first(frames, tmp_path, capsys):
    arguments = ["export", TINY, "--runtime", "onnx", "--frames", str(frames)]
    assert main([*arguments, "--int8", "none", "--mask", "none.png"]) == 2
    assert f"--frames is {frames}; it must be 1 or more" in capsys.readouterr().err


def test_export_of_a_video_that_is_missing_is_refused_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("STREMN_CACHE", str(tmp_path / "cache"))
    arguments = ["export", TINY, "--runtime", "onnx", "--int8", str(tmp_path)]
    assert main([*arguments, "--mask", str(tmp_path / "none.png")]) == 2
    assert "none.png: no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("model", "words", "says"),
    [
        ("clicks_lite0", ("onnx", "--int8"), "clicks_lite0 is a model for clicks: plans of"),
        ("predict_rgb", ("onnx", "--int8"), "predict_rgb is a model for prediction: plans of"),
        ("predict_rgb", ("tensorrt",), "leave out --int8, and export it with --runtime onnx"),
        (TINY, ("onnx", "--int8"), "mask.png: is 20x30 (rows x columns), the frames are 96x160"),
    ],
)
def test_export_of_what_cannot_be_is_refused_first(
    model, words, says, tmp_path, capsys, monkeypatch
):
    """And not after the export, which takes minutes."""
    monkeypatch.setenv("STREMN_CACHE", str(tmp_path / "cache"))
    runtime, *given = words
    if given:
        (tmp_path / "frames").mkdir()
        write_image(tmp_path / "frames" / "0.png", np.zeros((96, 160, 3), np.uint8))
        write_label_png(tmp_path / "mask.png", np.ones((20, 30), np.uint8))
        given += [str(tmp_path / "frames"), "--mask", str(tmp_path / "mask.png")]
    assert main(["export", str(model), "--runtime", runtime, *given]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
