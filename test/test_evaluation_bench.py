"""The measurements of time and memory: their video, their clock, their verdict."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from command_helpers import ROOT, run_python, stremn

from stremn_ros.errors import InputError
from stremn_ros.evaluation import bench
from stremn_ros.segmenter import Segmenter

TINY = str(Path(__file__).resolve().parent / "data" / "tiny_model")


@pytest.fixture(autouse=True)
def _no_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user has exported would be taken, and has other stages than PyTorch."""
    monkeypatch.setenv("STREMN_CACHE", str(tmp_path / "no exports"))


@pytest.mark.parametrize("objects", [1, 3, 9])
def test_scene_has_its_objects_in_every_frame(objects):
    video, labels = bench.scene(objects, (120, 160), 20)
    assert (video.shape, video.dtype) == ((20, 120, 160, 3), np.uint8)
    for frame in labels:
        assert sorted(np.unique(frame)) == list(range(objects + 1))
    assert (labels[0] != labels[10]).mean() > 0.01  # they move
    assert np.array_equal(video, bench.scene(objects, (120, 160), 20)[0])
    with pytest.raises(InputError, match="1 to 40"):
        bench.scene(0)
    with pytest.raises(InputError, match="32 pixels"):
        bench.scene(1, (8, 8))


def test_back_and_forth():
    assert list(itertools.islice(bench.back_and_forth(3), 9)) == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert list(itertools.islice(bench.back_and_forth(1), 3)) == [0, 0, 0]


def test_the_clock_counts_every_stage_and_changes_no_mask():
    video, labels = bench.scene(2, (96, 128), 12)
    plain = Segmenter.load(TINY, slots=3)
    plain.seed(video[0], labels[0])
    wanted = [plain.step(video[index]).labels for index in (1, 2, 3)]

    timed_segmenter = Segmenter.load(TINY, slots=3)
    timed = bench.time_stages(timed_segmenter)
    timed_segmenter.seed(video[0], labels[0])
    _, calls = timed.take()
    seeded = dict(zip(bench.STAGES, calls.tolist()))
    assert (seeded["encode_query"], seeded["encode_memory"]) == (1, 2)  # objects one by one
    assert seeded["read"] == seeded["fuse"] == 0
    for index, labels_wanted in zip((1, 2, 3), wanted):
        assert np.array_equal(timed_segmenter.step(video[index]).labels, labels_wanted)
        seconds, calls = timed.take()
        counted = dict(zip(bench.STAGES, calls.tolist()))
        assert counted["encode_query"] == counted["read"] == counted["decode"] == 1
        assert (seconds[calls > 0] > 0).all()
    assert timed.take()[1].sum() == 0
    with pytest.raises(InputError, match="fresh"):
        bench.time_stages(plain)


def test_measure_reports_windows_constant_memory_and_the_parts_of_a_frame():
    video, labels = bench.scene(2, (96, 128), 12)
    seen = []
    result = bench.measure(
        Segmenter.load(TINY, slots=3, max_objects=2),
        video,
        labels,
        24,
        windows=4,
        score_every=3,
        on_frame=seen.append,
    )
    assert seen == list(range(24))
    assert [(window.first, window.last) for window in result.windows] == [
        (0, 5), (6, 11), (12, 17), (18, 23)
    ]  # fmt: skip
    assert result.memory_bytes[0] == result.memory_bytes[1] > 1000
    assert {window.memory_bytes for window in result.windows} == {result.memory_bytes[0]}
    assert all(window.resident_bytes > 1 << 20 for window in result.windows)
    assert all(0 < window.j <= 1 for window in result.windows)
    assert result.stages["read"]["calls"] == 1
    parts = sum(value["mean"] for name, value in result.stages.items() if name != "frame")
    assert parts == pytest.approx(result.stages["frame"]["mean"], rel=0.02)
    json.dumps(result.as_dict())
    for arguments in ({"frames": 3, "windows": 2}, {"frames": 10, "windows": 0}):
        with pytest.raises(InputError, match="windows"):
            bench.measure(Segmenter.load(TINY), video, labels, **arguments)
    with pytest.raises(InputError, match="nothing to follow"):
        bench.measure(Segmenter.load(TINY), video, labels * 0, 20)


@pytest.mark.parametrize("objects", [1, 3])
def test_objects_come_and_go(objects):
    video, labels = bench.scene(objects, (96, 128), 12)

    class Watched(Segmenter):
        tracked: list

        def segment(self, frame):
            self.tracked.append(tuple(self.ids))
            return super().segment(frame)

    segmenter = Watched.load(TINY, max_objects=objects)
    segmenter.tracked = []
    result = bench.measure(segmenter, video, labels, 16, windows=4, change_every=4)
    everyone = tuple(range(1, objects + 1))
    second = everyone[1 % objects]
    expected = [everyone] * 4 + [everyone[1:]] * 4 + [everyone] * 4
    expected += [tuple(label for label in everyone if label != second)] * 4
    assert segmenter.tracked == expected
    assert result.memory_bytes[0] == result.memory_bytes[1]


def test_bench_command(tmp_path):
    done = stremn(
        "bench", "--frames", 20, "--objects", 2, "--model", TINY,
        "--frame-size", "96x128", "--json", tmp_path / "b.json", "--plot", tmp_path / "b.png",
        "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["memory_bytes_first"] == found["memory_bytes_last"]
    assert found["stages_ms"]["decode"]["median"] > 0
    assert found["settings"]["objects"] == 2
    assert "the same" in done.stdout
    assert "encode_memory" in done.stdout
    assert (tmp_path / "b.png").stat().st_size > 10_000
    done = stremn("bench", "--frames", 1, "--model", TINY, "--quiet")
    assert done.returncode == 2
    assert "frames" in done.stderr


def test_long_run_in_short(tmp_path):
    """400 frames with objects coming and going: the promises hold, and a broken one is seen."""
    done = run_python(
        ROOT / "benchmark" / "longrun.py", "--frames", 400, "--objects", 2, "--model", TINY,
        "--rows", 96, "--columns", 128, "--change-every", 25,
        "--json", tmp_path / "l.json", "--plot", tmp_path / "l.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "l.json").read_text())
    assert found["holds"] is True
    assert found["memory_bytes_first"] == found["memory_bytes_last"]
    assert len(found["windows"]) == 4
    assert (tmp_path / "l.png").stat().st_size > 10_000
    assert {window["memory_bytes"] for window in found["windows"]} == {found["memory_bytes_last"]}
    assert found["windows"][1]["calls"] == found["windows"][-1]["calls"]
    assert found["windows"][1]["calls"]["encode_query"] == 100
    assert all(window["median_cpu_ms"] > 0 for window in found["windows"])
    assert "(equal, and after every stretch)" in done.stdout
    assert "operations in both: equal; in the last: encode_query 100" in done.stdout


def test_long_run_judges_growth():
    sys.path.insert(0, str(ROOT / "benchmark"))
    try:
        from longrun import judge
    finally:
        sys.path.pop(0)

    def made(resident, memory, calls=(9, 10, 10, 10), change_every=5):
        windows = [
            bench.Window(
                n * 10, n * 10 + 9, 5.0, 6.0, size, memory[0], {"read": 1.0}, 1.0, 0.9, 2.0,
                {"read": count},
            )
            for n, (size, count) in enumerate(zip(resident, calls))
        ]  # fmt: skip
        return bench.Run(40, windows, {}, memory, {"change_every": change_every})

    assert judge(made([1000, 1000, 1000, 1015], (10, 10)))[0]
    assert not judge(made([1000, 1000, 1000, 1030], (10, 10)))[0]
    assert not judge(made([1000, 1000, 1000, 1000], (10, 11)))[0]
    more = made([1000] * 4, (10, 10), (9, 10, 10, 11))
    assert not judge(more)[0], "another number of operations"
    assert any("NOT EQUAL; in the last: read 11" in line for line in judge(more)[1])
    # stretches that are no whole cycles of going and coming may differ
    assert judge(made([1000] * 4, (10, 10), (9, 10, 10, 11), change_every=4))[0]
