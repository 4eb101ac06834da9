"""What the page shows, in Rerun: read back from a file that it wrote, with nothing sent home."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from recordings_helpers import camera, scenes, stamps, write_bag
from shapes import DISC, SQUARE, TINY_MODEL, scene
from socket_guard import attempts, environment

from stremn_ros.cli import main
from stremn_ros.errors import InputError, StremnError
from stremn_ros.imaging.palette import PALETTE
from stremn_ros.imaging.video import VideoWriter
from stremn_ros.recordings.sources import read_indexes
from stremn_ros.web import rerun_log
from stremn_ros.web.frames import VideoFrames
from stremn_ros.web.recording_frames import RecordingFrames
from stremn_ros.web.rerun_log import RerunLog, file_to_record
from stremn_ros.web.source import Picture

NAMES = {DISC: "cup", SQUARE: ""}
START = 1_700_000_000 * 10**9


class Pictures:
    """A source whose newest picture the test sets."""

    newest: Picture | None = None


def picture(number: int, at: int) -> Picture:
    frame, labels = scene(number)
    objects = []
    for n, name in NAMES.items():
        box = cv2.boundingRect((labels == n).astype(np.uint8))
        score = None if n == SQUARE else 1.0 - number / 10
        known = {"id": n, "name": name, "state": "TRACKED", "score": score, "box": list(box)}
        objects.append(known)
    away = {"id": 9, "name": "away", "state": "NOT SEGMENTED"}
    return Picture(number + 1, at, frame, labels, (*objects, away), number, at)


def written(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each entity of a recording, as dicts; times in nanoseconds."""
    chunk = pytest.importorskip("rerun.chunk", reason="this rerun-sdk does not read its own files")
    pa = pytest.importorskip("pyarrow")
    found: dict[str, list[dict[str, Any]]] = {}
    for each in chunk.RrdReader(file).stream().to_chunks():
        batch = each.to_record_batch()
        columns = {}
        for name, column in zip(batch.schema.names, batch.columns):
            if pa.types.is_timestamp(column.type) or pa.types.is_duration(column.type):
                column = column.cast(pa.int64())
            columns[name.removeprefix("rerun.controls.")] = column.to_pylist()
        rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
        found.setdefault(each.entity_path, []).extend(rows)
    for rows in found.values():
        rows.sort(key=lambda row: row["RowId"])
    return found


def values(rows: list[dict[str, Any]], name: str) -> list[Any]:
    """A component of the rows that have it."""
    return [row[name] for row in rows if row.get(name) is not None]


def show_all(log: RerunLog, source: Any, pictures: list[Picture]) -> None:
    for each in pictures:
        source.newest = each
        deadline = time.monotonic() + 60
        while each.number not in log._logged.values() and time.monotonic() < deadline:
            time.sleep(0.002)
    log.close()


def test_pictures_masks_boxes_and_scores_are_in_the_file(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    pictures = [picture(n, START + n * 40_000_000) for n in range(3)]
    source, file = Pictures(), tmp_path / "new" / "seen.rrd"
    log = RerunLog({"/left/image": source}, file)  # type: ignore[dict-item]
    show_all(log, source, pictures)
    found = written(file)

    masks = found["/left/image/image/masks"]
    assert values(masks, "stamp") == [each.stamp for each in pictures]
    assert values(masks, "position") == [0, 1, 2]
    for row, each in zip(masks, pictures):
        labels = np.array(row["SegmentationImage:buffer"][0], np.uint8)
        assert np.array_equal(labels.reshape(each.labels.shape), each.labels)
    for row, each in zip(found["/left/image/image/boxes"], pictures):
        seen = [item for item in each.objects if "box" in item]
        assert row["Boxes2D:class_ids"] == [item["id"] for item in seen]
        boxes = [np.array(item["box"], float) for item in seen]
        assert np.allclose(row["Boxes2D:half_sizes"], [box[2:] / 2 for box in boxes])
        assert np.allclose(row["Boxes2D:centers"], [box[:2] + box[2:] / 2 for box in boxes])
    shown = values(found["/left/image/image"], "EncodedImage:blob")
    assert len(shown) == 3
    first = cv2.imdecode(np.array(shown[0][0], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(first.astype(int) - pictures[0].frame).mean() < 8

    # names and colors of the objects; a number without a name gets one
    context = values(found["/left/image/image"], "AnnotationContext:context")[-1][0]
    classes = {c["class_id"]: c["class_description"]["info"] for c in context}
    assert {n: info["label"] for n, info in classes.items()} == {
        0: "background",
        DISC: "cup",
        SQUARE: f"object {SQUARE}",
    }
    red, green, blue = (int(value) for value in PALETTE[DISC])
    assert classes[DISC]["color"] == (red << 24) + (green << 16) + (blue << 8) + 255
    # a mask that a person gave has no score
    assert np.allclose(
        values(found[f"/left/image/score/{DISC}"], "Scalars:scalars"), [[1.0], [0.9], [0.8]]
    )
    assert not values(found.get(f"/left/image/score/{SQUARE}", []), "Scalars:scalars")


def test_two_sources_and_a_time_since_a_start(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    one, other, file = Pictures(), Pictures(), tmp_path / "seen.rrd"
    log = RerunLog({"": one, "/right": other}, file)  # type: ignore[dict-item]
    other.newest = picture(0, START)
    show_all(log, one, [picture(4, 160_000_000)])
    found = written(file)
    (mask,) = found["/camera/image/masks"]
    assert (mask["elapsed"], mask.get("stamp")) == (160_000_000, None)
    (mask,) = found["/right/image/masks"]
    assert (mask["stamp"], mask.get("elapsed")) == (START, None)


def test_what_fails_in_rerun_leaves_the_page_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("rerun")
    source = Pictures()
    log = RerunLog({"": source}, tmp_path / "seen.rrd")  # type: ignore[dict-item]
    source.newest = Picture(1, 0, np.zeros((4, 4), np.float64), np.zeros(4, np.uint8))  # no picture
    log._thread.join(60)
    assert not log._thread.is_alive()
    assert "nothing more is logged to Rerun" in caplog.text
    log.close()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        RerunLog({}, tmp_path / "file" / "seen.rrd")


def test_a_recording_of_the_page_sends_nothing_home(guard: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    code = (
        "import os, time, numpy as np\n"
        "from pathlib import Path\n"
        "from stremn_ros.web.rerun_log import RerunLog\n"
        "from stremn_ros.web.source import Picture\n"
        "class Source: newest = Picture(1, 0, np.zeros((8, 8, 3), np.uint8), "
        "np.zeros((8, 8), np.uint8))\n"
        "log = RerunLog({'': Source()}, Path('seen.rrd'))\n"
        "time.sleep(3)\n"
        "log.close()\n"
        "print(os.environ['CI'], 'FORCE_RERUN_ANALYTICS' in os.environ)\n"
    )
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment(guard, tmp_path / "tried", PYTHONPATH=path, FORCE_RERUN_ANALYTICS="1"),
        timeout=300,
    )
    assert said.stdout == "1 False\n", said
    assert (tmp_path / "seen.rrd").stat().st_size > 0
    assert attempts(tmp_path / "tried") == []
    assert list((tmp_path / "tried" / "home").rglob("*analytics*")) == []


def test_the_command_records_each_camera_of_a_recording(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    pytest.importorskip("aiohttp")
    topics = "/left/image", "/right/image"
    records = [record for topic in topics for record in camera("mcap", scenes(3), topic)]
    bag = write_bag(tmp_path / "drive", "mcap", records)
    file, said = tmp_path / "seen.rrd", tmp_path / "said"
    words = ["view", str(bag), "--port", "0", "--model", str(TINY_MODEL), "--runtime", "torch"]
    with said.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "stremn_ros.cli", *words, "--rerun", str(file)],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 300
        while "open http" not in said.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0, said.read_text()
    found = written(file)
    for topic in topics:  # the first frame, as nobody pressed play
        (row,) = found[f"{topic}/image/masks"]
        assert row["stamp"] == stamps(1)[0]


def test_without_rerun_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(StremnError, match=r"pip install 'stremn_ros\[rerun\]'"):
        RerunLog({})
    monkeypatch.delenv("CI")  # what it set


def test_a_video_in_the_place_of_the_file_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert file_to_record("") is None
    assert file_to_record("a/seen.rrd") == Path("a/seen.rrd")
    assert main(["view", "0", "--rerun", "clip.mp4"]) == 2
    assert "ends with .rrd" in capsys.readouterr().err
    assert rerun_log.SUFFIX == ".rrd"


def test_frames_have_their_own_times(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "drive", "mcap", camera("mcap", scenes(3)))
    ((_, index),) = read_indexes(bag).items()
    frames = RecordingFrames(bag, index)
    assert [frames.time(n) for n in range(3)] == stamps(3)
    frames.close()
    with VideoWriter(tmp_path / "clip.mp4", 20.0) as video:
        for frame in scenes(3):
            video.write(frame)
    assert [VideoFrames(tmp_path / "clip.mp4").time(n) for n in range(3)] == [0, 50_000_000, 10**8]
