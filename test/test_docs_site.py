"""The site of the docs is whole, and a browser that opens it loads nothing from elsewhere."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return out


def test_every_page_of_the_docs_is_in_the_menu(site: Path) -> None:
    menu = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert (site / name).is_file()
        assert f'href="{name}"' in menu, f"{name} is not in the nav of mkdocs.yml"


def test_the_readme_is_the_first_page_with_its_picture(site: Path) -> None:
    text = (site / "index.html").read_text()
    assert 'src="follow.webp"' in text
    assert 'href="start.html"' in text


def test_the_page_on_python_is_made_from_the_code() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/python_reference.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ROOT / "docs" / "python.md").read_text() == done.stdout, (
        "run: python scripts/python_reference.py > docs/python.md"
    )


def test_the_pages_made_from_code_have_what_the_code_has(site: Path) -> None:
    commands = html.unescape((site / "commands.html").read_text())
    for words in ("stremn segment", "stremn evaluate suite", "--polygon X,Y;X,Y;X,Y"):
        assert words in commands
    python = (site / "python.html").read_text()
    for name in (
        "Segmenter.seed",
        "Segmenter.remember",
        "SegmentClient.seed_mask",
        "SegmentResult",
    ):
        assert re.search(rf'id="stremn_ros\.[\w.]*{re.escape(name)}"', python), name


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        loads = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]*?(?:src|href)="([^"]+)"', page.read_text()
        )
        assert loads
        assert not [target for target in loads if re.match(r"(?:\w+:)?//", target)], page.name
