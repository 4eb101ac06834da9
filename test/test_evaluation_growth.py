"""The fixed memory beside the growing one: what is counted, and what the verdicts are made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_helpers import printed, stremn
from shapes import TINY_MODEL

from stremn_ros.errors import InputError
from stremn_ros.evaluation import growth
from stremn_ros.evaluation.growth import Growth, Point, compare_growth, plot
from stremn_ros.segmenter import Segmenter


def load(rule: str | None, objects: int) -> Segmenter:
    return Segmenter.load(
        str(TINY_MODEL), device="cpu", update_rule=rule, max_objects=objects, processing_size=64
    )


def test_both_see_the_same_frames_and_only_one_grows(tmp_path: Path) -> None:
    made: list[tuple[str | None, Segmenter]] = []

    def noted(rule: str | None, objects: int) -> Segmenter:
        made.append((rule, load(rule, objects)))
        return made[-1][1]

    frames: list[int] = []
    result = compare_growth(noted, 2, 40, points=[100, 500], size=(96, 128), on_frame=frames.append)
    assert [rule for rule, _ in made] == [None, "linear"]
    assert frames == list(range(1, 61))
    fixed, linear = (segmenter for _, segmenter in made)
    assert fixed.memory.updates(1) == 60, "the tiny model's memory is updated with every frame"
    assert fixed.memory.last_update[1].number == 60
    assert [point.frame for point in result.points] == [10, 20, 30, 40, 100, 500]
    assert [point.played for point in result.points] == [True] * 4 + [False] * 2
    # the seed and a template every five frames, as STM has it
    assert [point.templates for point in result.points[:5]] == [3, 5, 7, 9, 21]
    assert 99 <= result.points[5].templates <= 101  # filled to 99; two more where it is seen
    assert len({point.fixed_bytes for point in result.points}) == 1
    sizes = [point.linear_bytes for point in result.points]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 4 * sizes[0]
    assert linear.memory_bytes == sizes[-1]
    assert all(min(p.fixed_ms, p.linear_ms, p.fixed_cpu_ms) > 0 for p in result.points)
    assert set(result.stages) == {"fixed", "linear"}
    assert result.stages["fixed"]["compare"] > 0
    assert result.stages["linear"]["compare"] == result.stages["linear"]["fuse"] == 0
    json.dumps(result.as_dict())
    assert "(filled)" in result.table()
    plot([result], tmp_path / "growth.png", "a test")
    assert (tmp_path / "growth.png").stat().st_size > 20_000
    for arguments, text in (
        ((1, 19), "at least 20"),
        ((1, 20, [20]), "must rise, beyond the 20"),
        ((1, 20, [90, 80]), "must rise"),
    ):
        with pytest.raises(InputError, match=text):
            compare_growth(load, *arguments[:2], points=arguments[2] if arguments[2:] else ())
    with pytest.raises(InputError, match="name another one"):
        compare_growth(lambda rule, objects: load("linear", objects), 1, 20)


def points(*times: tuple[int, float, float]) -> list[Point]:
    return [Point(at, True, a, b, a, b, 1, 1, 1) for at, a, b in times]


def test_the_crossing_is_where_linear_stays_behind() -> None:
    found = points((10, 5, 4), (20, 5, 6), (30, 5, 4.9), (40, 5, 5.1), (50, 5, 9))
    assert growth._crossing(found) == 40
    assert growth._crossing(points((10, 5, 4), (20, 5, 4))) is None
    assert growth._crossing(points((10, 5, 6), (20, 5, 7))) == 10


def test_the_first_frames_are_those_played_or_read_off_the_points() -> None:
    wall = {"fixed": [0.002] * 180 + [9.0] * 20, "linear": [0.003] * 180 + [9.0] * 20}
    assert growth._first(wall, 200, points((200, 2, 3))) == (180, (2.0, 3.0))
    assert growth._first(wall, 60, points((60, 2, 3))) == (60, (2.0, 3.0))
    # a line from (10, 2) to (180, 19): its mean over 1..180, flat before the first point
    count, (fixed, linear) = growth._first(wall, 60, points((10, 2, 2), (180, 2, 19)))
    expected = (10 * 2 + sum(2 + (n - 10) / 10 for n in range(11, 181))) / 180
    assert (count, fixed) == (180, 2.0)
    assert linear == pytest.approx(expected, abs=0.01)
    assert Growth(1, points((10, 2, 2)), 180, (2.0, 3.0), None, {}).first_ratio == 1.5


def test_bench_against_linear_command(tmp_path: Path) -> None:
    words = ["bench", "--against", "linear", "--quiet"]
    words += ["--model", str(TINY_MODEL), "--frames", "20", "--objects", "2", "--at", "60"]
    words += ["--frame-size", "96x128", "--json", str(tmp_path / "g.json")]
    said = printed(stremn(*words))
    found = json.loads((tmp_path / "g.json").read_text())
    assert [item["objects"] for item in found["results"]] == [1, 2]
    assert [p["frame"] for p in found["results"][1]["points"]] == [10, 20, 60]
    assert "times as fast" in said
