"""Names and lists as people have them: order, what tools leave behind, encodings."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import numpy as np
import pytest

from stremn_ros.data.photos import PhotoClips
from stremn_ros.data.prediction_clips import find_videos
from stremn_ros.data.videos import VideoClips
from stremn_ros.errors import InputError
from stremn_ros.imaging.listing import in_order, is_tools, list_folders, list_images
from stremn_ros.imaging.video import write_image
from stremn_ros.imaging.visualization import write_label_png
from stremn_ros.text_files import csv_line, read_lines, read_text, read_yaml

TOOLS = (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".git", "$RECYCLE.BIN", "lost+found")


@pytest.mark.parametrize(
    "names",
    [
        "1305031102.05 1305031102.175304 1305031102.2 1305031102.25 1305031102.3753 1305031102.4",
        "left_5.05 left_5.175 left_5.2",
        "cam0_1305031102.05_rgb cam0_1305031102.175_rgb cam0_1305031102.2_rgb",
        "1305031101.5 1305031102 1305031102.25",
        "-1.5 1e-05 0.25 0.5 3",
        "1.1 1.9 1.10 2.1",  # a scene and a frame: printed numbers do not end in a zero
        "1305031102.50000000 1305031102.200000000 1305031102.900000000",  # nanoseconds
        "1305031102.50000123 1305031102.200000456",
        "1 2 10",
        "00001 00002 00010",
        "img1 img2 img10",
        "a frame frame2",
        "2²1 2²2 10²1",
        "2024-04-30 2024-05-01",
        "v1.2_3 v1.2_10",
        "٢ ٣",
        "only1.5",
    ],
)
def test_numbers_in_names_count_as_what_they_are(tmp_path: Path, names: str) -> None:
    wanted = names.split()
    shuffled = wanted.copy()
    random.Random(0).shuffle(shuffled)
    for name in shuffled:
        (tmp_path / f"{name}.png").touch()
    assert [path.stem for path in list_images(tmp_path)] == wanted
    assert [path.name for path in in_order(tmp_path / name for name in shuffled)] == wanted


def test_what_tools_leave_is_not_listed(tmp_path: Path) -> None:
    for name in (*TOOLS, "bear", "dog 2"):
        (tmp_path / name).mkdir()
        assert is_tools(name) == (name in TOOLS)
    assert [path.name for path in list_folders(tmp_path)] == ["bear", "dog 2"]
    for name in ("._1.jpg", ".DS_Store", "1.jpg", "2.JPG", "Thumbs.db", "notes.txt"):
        (tmp_path / "bear" / name).touch()
    (tmp_path / "bear" / "3.jpg").mkdir()
    assert [path.name for path in list_images(tmp_path / "bear")] == ["1.jpg", "2.JPG"]


def test_data_sets_are_read_without_it(tmp_path: Path) -> None:
    image, mask = np.zeros((8, 8, 3), np.uint8), np.eye(8, dtype=np.uint8)
    for kind, name in (("JPEGImages", "00000.jpg"), ("Annotations", "00000.png")):
        for sequence in (*TOOLS, "bear"):
            folder = tmp_path / "d" / kind / "480p" / sequence
            path = folder / name
            write_image(path, image) if kind == "JPEGImages" else write_label_png(path, mask)
            (folder / f"._{name}").write_bytes(b"resource fork")
    assert VideoClips(tmp_path / "d").names == ["bear"]
    assert len(VideoClips(tmp_path / "d").sequences["bear"]) == 1
    for n in range(2):
        write_image(tmp_path / "p" / "images" / f"{n}.JPEG", image)
        write_label_png(tmp_path / "p" / "masks" / f"{n}.png", mask)
    (tmp_path / "p" / "images" / "._0.jpg").write_bytes(b"resource fork")
    (tmp_path / "p" / "masks" / "._0.png").write_bytes(b"resource fork")
    assert PhotoClips(tmp_path / "p").names == ["0", "1"]
    videos = tmp_path / "v"
    for name in (*TOOLS, "walk"):
        write_image(videos / name / "0.png", image)
    (videos / "a.mp4").touch()
    (videos / "._a.mp4").touch()
    assert [path.name for path in find_videos(videos)] == ["a.mp4", "walk"]


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


def encoded(text: str, encoding: str) -> bytes:
    """With a byte order mark, but for plain UTF-8."""
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    return (mark + text).encode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_of_every_system_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(encoded(end.join(["bär", "  dog 2 ", "", "# a comment", "x"]), encoding))
    assert read_lines(path) == ["bär", "dog 2", "x"]
    path.write_bytes(encoded(end.join(["rate: 4e-4", "name: bär"]), encoding))
    assert read_yaml(path) == {"rate": 4e-4, "name": "bär"}


def test_a_list_in_no_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("bär".encode("latin-1"))
    with pytest.raises(InputError, match=r"list\.txt is not UTF-8 text \(byte 1 is 0xe4\)"):
        read_text(path)
    with pytest.raises(InputError, match=r"none\.txt cannot be read: No such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4e-4", 4e-4), ("1e3", 1e3), ("1.5e+3", 1500.0), ("-2E5", -2e5), (".5e1", 5.0),
        ("1.0e5", 1e5), ("4", 4), ("0.5", 0.5), ("4e", "4e"), ("e4", "e4"), ("1e-4x", "1e-4x"),
        ("'4e-4'", "4e-4"), ("12e03", 12e3), ("00012", 12), ("010", 10), ("00019", 19), ("-07", -7),
        ("+5", 5), ("0o17", 15), ("0x1F", 31), ("007.5", 7.5), ("1:30", "1:30"), ("5.", 5.0),
        ("1:30.5", "1:30.5"), ("1_000", "1_000"), ("0b11", "0b11"), (".inf", float("inf")),
        ("-.INF", float("-inf")), ("!!int 010", 10), ("true", True), ("~", None), (".", "."),
    ],
)  # fmt: skip
def test_numbers_of_yaml_are_numbers(tmp_path: Path, text: str, value: object) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"value: {text}\n")
    found = read_yaml(path)["value"]
    assert found == value
    assert type(found) is type(value)


def test_yaml_that_cannot_be_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    for text, said in (
        ("a: [1, 2", "cannot be read as YAML"),
        ("rate: 1\nother: 2\nrate: 3", "rate stands there twice"),
        ("a: !!python/object:os.system x", "cannot be read as YAML"),
        ("a: " + 5000 * "[" + 5000 * "]", "it is nested too deeply"),
        ("a: !!int 1:30", "cannot be read as YAML"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            read_yaml(path)


def test_every_text_file_of_people_goes_through_it() -> None:
    """Files that people write are read by text_files; others are ours, or the system's."""
    root = Path(__file__).resolve().parent.parent / "stremn_ros"
    found = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if ".read_text(" in path.read_text() or "yaml.safe_load" in path.read_text()
    }
    assert found == {
        "cli/export.py",  # key.json of the cache
        "data/rendered.py",  # its own rendered.json
        "doctor/library_checks.py",  # /proc
        "doctor/probes/cache.py",  # key.json of the cache
        "doctor/ros_checks.py",  # a DDS profile, which DDS reads
        "evaluation/machine.py",  # /proc
        "evaluation/sweep.py",  # its own JSON
        "client/node_process.py",  # the log of a process it started
        "recordings/labelled_bag.py",  # the package's .msg files
        "recordings/report.py",  # parts that its own run wrote
        "runtime/building/cache.py",  # key.json
        "runtime/trial.py",  # the outcome of its own process
        "training/curves.py",  # its own log
    }


def test_no_cell_of_a_table_is_a_formula() -> None:
    for text in ("=1+1", "+cmd", "-drive", "@SUM(A1)", "\t=1", "\r=1", "-1+cmd|' /C calc'!A0"):
        (cells,) = csv.reader(io.StringIO(csv_line([text, 1]), newline=""))
        assert cells == ["'" + text, "1"]
    for value in ("cup", "a=b", "", "-1.5", "+2e-3", "1700000000.25", "/stremn/mask"):
        assert csv_line([value, -0.5, 3]) == f"{value},-0.5,3\n"
    assert csv_line(['a "cup", red']) == '"a ""cup"", red"\n'


def test_every_table_goes_through_it() -> None:
    root = Path(__file__).resolve().parent.parent
    found = {
        str(path.relative_to(root))
        for folder in ("stremn_ros", "scripts", "benchmark")
        for path in (root / folder).rglob("*.py")
        if "import csv\n" in path.read_text()
    }
    assert found == {"stremn_ros/text_files.py"}
