"""Recordings, seeds and results at URLs: the files are those of a run on paths."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from recordings_helpers import camera, file_of, scenes, seeds_file, write_bag
from test_recordings_label import MODEL, truth

from stremn_ros.cli import main
from stremn_ros.errors import InputError, StremnError
from stremn_ros.recordings.remote import stage
from stremn_ros.recordings.tasks import PassTask

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


def texts(folder: Path) -> dict[str, str]:
    """What is written in each file below a folder, by its name there."""
    return {
        str(path.relative_to(folder)): path.read_bytes().decode("latin1")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_is_at_urls_gives_the_files_of_paths(
    there: Path, memory: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = f"{BUCKET}/day1/drive", f"{BUCKET}/seeds/seeds.yaml", f"{BUCKET}/labels"
    assert main(words(*urls, tmp_path / "scratch")) == 0
    assert f"results are in {BUCKET}/labels" in capsys.readouterr().out
    assert list((tmp_path / "scratch").iterdir()) == [], "what was fetched is removed"
    paths = str(there / "drive"), str(there / "seeds.yaml"), str(tmp_path / "plain")
    assert main(words(*paths, tmp_path / "scratch")) == 0
    memory.get("/fleet/labels", str(tmp_path / "got"), recursive=True)
    found, plain = texts(tmp_path / "got"), texts(tmp_path / "plain")
    named = {"manifest.json", "objects.csv", "report.html"}
    assert found.keys() == plain.keys()
    assert {name for name in found if found[name] != plain[name]} == named
    for name, text in plain.items():  # they name the URLs where those name the paths
        for path, url in zip(paths, urls):
            text = text.replace(path, url)
        assert found[name] == text, name
    assert main(words(*urls, tmp_path / "scratch")) == 2
    assert "holds results already" in capsys.readouterr().err


def test_a_damaged_recording_is_told_by_its_url(
    there: Path, memory: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = file_of(there / "drive").read_bytes()
    memory.pipe_file("/fleet/day1/cut.mcap", content[: len(content) * 2 // 3])
    memory.pipe_file("/fleet/day1/broken.mcap", b"no bag at all")
    memory.pipe_file("/fleet/seeds/cut.yaml", b"- {frame: 1, id: 1, box: [10, 10, 30, 30]}")
    url, seeds, out = f"{BUCKET}/day1/cut.mcap", f"{BUCKET}/seeds/cut.yaml", f"{BUCKET}/cut"
    scratch = tmp_path / "scratch"
    options = ("--format", "davis,label-studio,mcap", "--click-model", "")
    assert main(words(url, seeds, out, scratch, *options)) == 0
    memory.get("/fleet/cut", str(tmp_path / "got"), recursive=True)
    found = texts(tmp_path / "got")
    assert found["manifest.json"].count(url) >= 3  # what was read, what came of it, and why
    assert f"{url} is damaged" in found["manifest.json"]
    assert f"{url}: " in found["report.html"] or url in found["report.html"]
    assert not [name for name, text in found.items() if str(scratch) in text]

    # what cannot be done is told by the URLs as well, in the message and in the manifest
    capsys.readouterr()
    broken = f"{BUCKET}/day1/broken.mcap"
    assert main(words(broken, seeds, f"{BUCKET}/none", scratch, *options)) == 2
    assert main(words(url, seeds, f"{BUCKET}/none", scratch, *options, "--topic", "/no")) == 2
    memory.pipe_file("/fleet/seeds/late.yaml", b"- {frame: 9999, mask: absent.png}")
    assert main(words(url, f"{BUCKET}/seeds/late.yaml", out, scratch, *options)) == 2
    memory.pipe_file("/fleet/seeds/wrong.yaml", b"frame: 1")
    assert main(words(url, f"{BUCKET}/seeds/wrong.yaml", f"{BUCKET}/w", scratch, *options)) == 2
    said = capsys.readouterr().err
    assert f"{broken}: " in said
    assert f"{url}: has" in said or f"{url} has" in said
    assert f"{BUCKET}/seeds/wrong.yaml: a list of seeds" in said
    assert str(scratch) not in said


def test_a_run_that_was_stopped_is_told_by_its_url(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    urls = f"{BUCKET}/day1/drive", f"{BUCKET}/seeds/seeds.yaml", f"{BUCKET}/labels"

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PassTask, "run", stop)
        assert main(words(*urls, tmp_path / "scratch")) == 130
    capsys.readouterr()
    assert main(words(*urls, tmp_path / "scratch")) == 2
    assert f"{BUCKET}/labels: holds a run already: --resume" in capsys.readouterr().err
    assert main(words(*urls, tmp_path / "scratch", "--resume")) == 0


def test_a_signed_link_is_read_and_its_signature_is_told_nobody(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("aiohttp")  # fsspec reads http:// with it
    served = partial(SimpleHTTPRequestHandler, directory=str(there))
    with ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        base = f"http://127.0.0.1:{server.server_port}"
        name = file_of(there / "drive").relative_to(there).as_posix()
        seeds = seeds_file(tmp_path, {"frame": 1, "mask": truth(1)})
        out = tmp_path / "out"
        url = f"{base}/{name}?signature=secret"
        try:
            assert main(words(url, str(seeds), str(out), tmp_path / "scratch")) == 0
            assert main(words(url + "2", str(seeds), str(out), tmp_path / "scratch")) == 2
        finally:
            server.shutdown()
            thread.join()
    written = texts(out)
    assert f'"path": "{base}/{name}"' in written["manifest.json"]
    assert not [name for name, text in written.items() if "secret" in text]


def test_masks_beside_a_seeds_file_at_a_url_are_fetched(
    there: Path, memory: Any, tmp_path: Path
) -> None:
    memory.mv("/fleet/seeds/mask0.png", "/fleet/masks/one.png")
    here = tmp_path / "here.png"
    memory.get_file("/fleet/masks/one.png", str(here))
    for number, mask in enumerate(("../masks/one.png", str(here))):
        text = f"- {{recording: drive, frame: 1, mask: {mask}}}"
        memory.pipe_file("/fleet/seeds/seeds.yaml", text.encode())
        out = tmp_path / f"out{number}"
        seeds = f"{BUCKET}/seeds/seeds.yaml"
        assert main(words(f"{BUCKET}/day1/drive", seeds, str(out), tmp_path / "scratch")) == 0
        assert (out / "manifest.json").is_file()


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
