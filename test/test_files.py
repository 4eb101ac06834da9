"""Files appear whole: what a reader finds after an error is what was there before."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import pytest
from PIL import Image

from stremn_ros.errors import InputError
from stremn_ros.evaluation.plotting import new_figure, save_figure
from stremn_ros.files import NewFile, write_bytes, write_json, write_text, write_with

PACKAGE = Path(__file__).resolve().parent.parent / "stremn_ros"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_content_and_folder_are_made(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b.bin", b"\x00\xff")
    write_text(tmp_path / "a" / "c.txt", "größer\n")
    write_json(tmp_path / "a" / "d.json", {"x": [1, 2.5]}, indent=1)
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "a" / "c.txt").read_bytes() == "größer\n".encode()
    assert (tmp_path / "a" / "d.json").read_text() == json.dumps({"x": [1, 2.5]}, indent=1) + "\n"
    assert names(tmp_path / "a") == ["b.bin", "c.txt", "d.json"]


@pytest.mark.parametrize("durable", [False, True])
def test_an_error_half_way_leaves_what_was_there(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "result.txt"
    path.write_text("before")

    def fail() -> None:
        with NewFile(path, durable=durable) as temporary:
            temporary.write_text("half of i")
            assert temporary.parent == tmp_path
            assert path.read_text() == "before"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "before"
    assert names(tmp_path) == ["result.txt"]


@pytest.mark.parametrize("durable", [False, True])
def test_the_new_file_takes_the_place_at_the_end(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "result.mp4"
    path.write_text("before")
    with NewFile(path, suffix=".mp4", durable=durable) as temporary:
        temporary.write_text("after")
        assert temporary.name.startswith(".")
        assert durable or temporary.suffix == ".mp4"
    assert path.read_text() == "after"
    assert names(tmp_path) == ["result.mp4"]


def test_a_durable_file_has_one_temporary_name_and_others_have_many(tmp_path: Path) -> None:
    durable = {NewFile(tmp_path / "a", durable=True).temporary for _ in range(3)}
    assert len(durable) == 1
    assert len({NewFile(tmp_path / "a").temporary for _ in range(3)}) == 3


def test_a_leftover_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("of somebody else")
    NewFile(tmp_path / "a", durable=True).temporary.symlink_to(other)
    with NewFile(tmp_path / "a", durable=True) as temporary:
        temporary.write_text("mine")
    assert other.read_text() == "of somebody else"
    assert (tmp_path / "a").read_text() == "mine"


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".json")
    write_json(path, {})
    assert path.read_text() == "{}\n"


@pytest.mark.parametrize(
    ("name", "says"), [("file/a.json", "(File exists|Not a directory)"), ("folder", "directory")]
)
def test_an_error_names_the_file_and_the_reason(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=rf"{re.escape(name)}: cannot be written \(.*{says}\)$"):
        write_json(tmp_path / name, {})
    assert names(tmp_path) == ["file", "folder"]


def test_a_full_disk_is_told_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("before")

    def fill(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, os.strerror(28), str(temporary))

    with pytest.raises(InputError, match=r"a\.json: cannot be written \(No space left on device\)"):
        write_with(path, fill)
    assert path.read_text() == "before"
    assert names(tmp_path) == ["a.json"]


def test_a_file_can_be_read_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_no_other_module_replaces_a_file() -> None:
    """Only whole folders are moved elsewhere: a clip's, a bag's, and an entry of the cache."""
    moves = re.compile(r"os\.(replace|rename)\(|(temporary|source|path)\.(replace|rename)\(")
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if moves.search(path.read_text())
    }
    assert found == {
        "files.py",
        "data/rendered.py",
        "recordings/labelled_bag.py",
        "runtime/building/cache.py",
    }


def test_a_figure_appears_whole_and_in_its_size(tmp_path: Path) -> None:
    figure = new_figure(2, 1.5, dpi=110)
    figure.subplots().plot([1, 2], [2, 1])
    save_figure(figure, tmp_path / "new" / "a.png")
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.size == (220, 165)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=r"folder\.png: cannot be written \(Is a directory\)"):
        save_figure(figure, tmp_path / "folder.png")
    assert names(tmp_path) == ["folder.png", "new"]
