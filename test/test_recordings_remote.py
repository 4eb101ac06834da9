"""Recordings, seeds and results at URLs: the files are those of a run on paths."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recordings_helpers import camera, hashes, scenes, seeds_file, write_bag
from test_recordings_label import MODEL, truth

from stremn_ros.cli import main
from stremn_ros.errors import InputError, StremnError
from stremn_ros.recordings.remote import stage

fsspec = pytest.importorskip("fsspec")  # an extra, which PyTorch brings along
BUCKET = "memory://fleet"


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


@pytest.fixture
def there(memory: Any, tmp_path: Path) -> Path:
    """A bag and its seeds, at paths and at URLs; the folder of the paths."""
    bag = write_bag(tmp_path / "drive", "mcap", camera("mcap", scenes(6)))
    seeds = seeds_file(tmp_path, {"recording": "drive", "frame": 1, "mask": truth(1)})
    memory.put(str(bag), "/fleet/day1/drive", recursive=True)
    for path in (seeds, *tmp_path.glob("*.png")):
        memory.put_file(str(path), f"/fleet/seeds/{path.name}")
    return tmp_path


def words(recording: str, seeds: str, out: str, scratch: Path, *more: str) -> list[str]:
    words = [recording, "--seeds", seeds, "--out", out, "--scratch", str(scratch), "--quiet"]
    return ["label", *words, "--format", "davis,coco,cvat", *MODEL, *more]


def sent(memory: Any, folder: str, tmp_path: Path) -> dict[str, str]:
    memory.get(folder, str(tmp_path / "got"), recursive=True)
    return hashes(tmp_path / "got")


def test_what_is_at_urls_gives_the_files_of_paths(
    there: Path, memory: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = f"{BUCKET}/day1/drive", f"{BUCKET}/seeds/seeds.yaml", f"{BUCKET}/labels"
    assert main(words(*urls, tmp_path / "scratch")) == 0
    assert f"results are in {BUCKET}/labels" in capsys.readouterr().out
    assert list((tmp_path / "scratch").iterdir()) == [], "what was fetched is removed"
    paths = str(there / "drive"), str(there / "seeds.yaml"), str(tmp_path / "plain")
    assert main(words(*paths, tmp_path / "scratch")) == 0
    found, plain = sent(memory, "/fleet/labels", tmp_path), hashes(tmp_path / "plain")
    named = {"manifest.json", "objects.csv", "report.html"}  # they name the recording's path
    assert found.keys() == plain.keys()
    assert {name for name in found if found[name] != plain[name]} == named
    assert main(words(*urls, tmp_path / "scratch")) == 2
    assert "holds results already" in capsys.readouterr().err


def test_a_file_url_is_a_path(there: Path, tmp_path: Path) -> None:
    staged = stage([f"file://{there}/drive"], f"file://{there}/seeds.yaml", f"file://{tmp_path}/o")
    assert staged.recordings == (f"{there}/drive",)
    assert (staged.seeds, staged.out, staged.url) == (f"{there}/seeds.yaml", tmp_path / "o", "")


def test_results_that_cannot_be_sent_stay_and_are_sent_by_resume(
    there: Path,
    memory: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    urls = f"{BUCKET}/day1/drive", f"{BUCKET}/seeds/seeds.yaml", f"{BUCKET}/labels"
    put, tried = type(memory).put_file, []

    def fail(self: Any, path: str, target: str, **options: Any) -> None:
        tried.append(target)
        if len(tried) == 4:
            raise OSError("the connection was lost")
        put(self, path, target, **options)

    monkeypatch.setattr(type(memory), "put_file", fail)
    assert main(words(*urls, tmp_path / "scratch")) == 2
    said = capsys.readouterr().err
    assert "the connection was lost" in said
    assert "--resume sends them" in said
    assert not memory.exists("/fleet/labels/manifest.json"), "it says that all is there"
    assert main(words(*urls, tmp_path / "scratch", "--resume")) == 0
    assert memory.exists("/fleet/labels/manifest.json")
    assert len(memory.glob("/fleet/labels/davis/Annotations/480p/drive/*.png")) == 6
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_seeds_file_may_name_the_recording_by_its_url(
    there: Path, memory: Any, tmp_path: Path
) -> None:
    memory.put(str(there / "drive"), "/fleet/day2/drive", recursive=True)
    entries = "".join(
        f"- {{recording: '{BUCKET}/{day}/drive', frame: {frame}, id: 1, "
        "polygon: [[10, 10], [30, 10], [30, 30], [10, 30]]}\n"
        for day, frame in (("day1", 0), ("day2", 2))
    )
    (there / "both.yaml").write_text(entries)
    recordings = f"{BUCKET}/day1/drive", f"{BUCKET}/day2/drive"
    out = str(tmp_path / "plain")
    rest = words(recordings[1], str(there / "both.yaml"), out, tmp_path / "scratch")[1:]
    assert main(["label", recordings[0], *rest]) == 0
    assert {path.name for path in (tmp_path / "plain" / "cvat").iterdir()} == {
        "drive.xml",
        "drive-2.xml",
    }


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"{BUCKET}/absent", "absent: no such file or folder"),
        ("nowhere://bucket/drive", "is no URL that fsspec knows"),
    ],
)
def test_a_url_that_cannot_be_read_is_told(
    memory: Any, tmp_path: Path, url: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        stage([url], "seeds.yaml", str(tmp_path / "out"), scratch=str(tmp_path / "scratch"))


def test_without_fsspec_the_remedy_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    before = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "fsspec":
            raise ImportError("No module named 'fsspec'")
        return before(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(StremnError, match=r"pip install 'stremn_ros\[remote\]'"):
        stage([f"{BUCKET}/drive"], "seeds.yaml", str(tmp_path / "out"))
    paths = stage(["drive"], "seeds.yaml", str(tmp_path / "out"))
    assert paths.folder is None, "paths need no fsspec"
