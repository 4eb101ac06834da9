"""The docs against the code: figures, names and paths that can be looked up are looked up."""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from core_helpers import core_status

from stremn_ros.cli import build_parser
from stremn_ros.evaluation.bench import OTHER, STAGES, UPKEEP
from stremn_ros.nodes import parameters
from stremn_ros.results import ObjectState, SegmenterState, TrackedObject
from stremn_ros.runtime.table import LISTED, RUNTIMES
from stremn_ros.stream import diagnosis
from stremn_ros.stream.intake import Counters
from stremn_ros.stream.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "docs" / "lab"  # measurements and what was tried
DOCS = sorted(
    [*(ROOT / "docs").rglob("*.md"), *(ROOT / "models").glob("*/README.md"), *ROOT.glob("*.md")]
)


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---------------------------------------------------------------- digests


def shipped() -> set[str]:
    files = (ROOT / "models").glob("*/*.safetensors")
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stale_digests(text: str, digests: set[str]) -> list[str]:
    """Digests in a text that are no shipped file's and are not called earlier ones.

    `earlier weights 0123456789ab` is what may stand there for weights that are gone.
    """
    found = []
    for match in re.finditer(r"\b[0-9a-f]{12,64}\b", text):
        if match[0].isdecimal() or any(digest.startswith(match[0]) for digest in digests):
            continue
        before = " ".join(text[max(0, match.start() - 40) : match.start()].split())
        if not before.endswith("earlier weights `"):
            found.append(match[0])
    return found


@pytest.mark.parametrize("path", DOCS, ids=ids)
def test_digests_are_of_shipped_files_or_called_earlier(path: Path) -> None:
    assert stale_digests(path.read_text(), shipped()) == []


def test_a_digest_that_went_stale_is_found() -> None:
    digests = {"e2928e626ce0" + 52 * "0"}
    assert stale_digests("the shipped weights, sha256 `e2948cedf2dd`, and", digests) == [
        "e2948cedf2dd"
    ]
    assert stale_digests("the weights `e2928e626ce0`", digests) == []
    assert stale_digests("with the earlier\nweights `8f2c3593e51b`", digests) == []
    assert len(shipped()) >= 3


# ---------------------------------------------------------------- figures


MEASURED = re.compile(r"^Measured at commits? .*?(?=\n\n|\Z)", re.M | re.S)
LISTS = {"segment_node.md", "parameters.md"}  # their numbers are settings


def sections(text: str) -> list[str]:
    """A page's parts, each from its heading to the next of the first two levels."""
    return re.split(r"^(?=##? )", text, flags=re.M)


def figures(section: str) -> int:
    """How many numbers in a section's tables look as if they had been measured."""
    rows = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    return len(re.findall(r"\d\.\d|±|\d ?(?:ms|MiB|MB|dB|mm|%)", rows))


def without_origin(text: str) -> list[str]:
    """Headings of the sections that have figures and do not say when they were measured."""
    return [
        section.splitlines()[0]
        for section in sections(text)
        if figures(section) >= 3 and not MEASURED.search(section)
    ]


def wrong_origins(text: str, weights: Callable[[str, str], str | None]) -> list[str]:
    """What "Measured at ..." says of weights that none of its commits has.

    Args:
        weights: the sha256 of a model's weights at a commit; None where it cannot be looked up.
    """
    found = []
    for origin in MEASURED.findall(text):
        commits: list[str] = []
        fresh = True
        for commit, model, digest in re.findall(
            r"\b([0-9a-f]{7})\b|(\w+)(?:,\s+earlier\s+weights)?\s+`([0-9a-f]{12})`", origin
        ):
            if commit:
                commits = [commit] if fresh else [*commits, commit]
                fresh = False
                continue
            fresh = True
            known = [sha for at in commits if (sha := weights(at, model)) is not None]
            if known and not any(sha.startswith(digest) for sha in known):
                found.append(f"{model} {digest} at {', '.join(commits)}")
    return found


@functools.cache
def weights_at(commit: str, model: str) -> str | None:
    """Of the project's history; None without it, or where it does not reach so far back."""
    name = f"{commit}:models/{model}/weights.safetensors"
    done = subprocess.run(["git", "show", name], cwd=ROOT, capture_output=True, check=False)
    return hashlib.sha256(done.stdout).hexdigest() if done.returncode == 0 else None


MEASUREMENTS = [p for p in DOCS if "docs" in p.parts and p.name not in LISTS]


@pytest.mark.parametrize("path", MEASUREMENTS, ids=ids)
def test_figures_say_at_which_commit_and_with_which_weights(path: Path) -> None:
    assert without_origin(path.read_text()) == []


@pytest.mark.parametrize("path", MEASUREMENTS, ids=ids)
def test_the_weights_of_a_figure_are_those_of_its_commit(path: Path) -> None:
    assert wrong_origins(path.read_text(), weights_at) == []


def test_a_figure_of_unknown_origin_is_found() -> None:
    page = "# A\n\n## One\n\n| a | 1.5 ms |\n| b | 2 ms |\n| c | 3 % |\n\n## Two\n"
    assert without_origin(page) == ["## One"]
    told = (
        "Measured at commits 0123456 and 1234567 with one `abcdefabcdef`, then\nat commit 2345678 "
    )
    told += "with two, earlier weights `fedcbafedcba`.\n"
    assert without_origin(page.replace("## Two", f"{told}\n## Two")) == []
    right = {
        ("0123456", "one"): "abcdefabcdef0",
        ("1234567", "one"): "0",
        ("2345678", "two"): "fedcbafedcba0",
    }
    assert wrong_origins(told, lambda *what: right[what]) == []
    assert wrong_origins(told, lambda *what: None) == []
    wrong = {**right, ("2345678", "two"): "0"}
    assert wrong_origins(told, lambda *what: wrong[what]) == ["two fedcbafedcba at 2345678"]


# ---------------------------------------------------------------- tables


def table(path: Path, head: str) -> list[list[str]]:
    """The rows of the Markdown table with this first line: their cells."""
    lines = path.read_text().splitlines()
    start = lines.index(head) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_stages_of_bench_are_those_of_the_docs() -> None:
    rows = table(ROOT / "docs" / "evaluation.md", "| Stage | What |")
    assert sorted(row[0] for row in rows) == sorted([*STAGES, UPKEEP, OTHER])


def documented_keys() -> set[str]:
    """Keys of the diagnostics in docs/segment_node.md; 'b [frames], [bytes]' are two."""
    found: set[str] = set()
    for cell, *_ in table(ROOT / "docs" / "segment_node.md", "| Key | What |"):
        unit = re.search(r"(\w[\w ]*?) (p50, p95, p99|\[frames\], \[bytes\])( \[ms\])?$", cell)
        if unit and "p50" in unit[2]:
            found |= {f"{unit[1]} {part} [ms]" for part in unit[2].split(", ")}
        elif unit:
            found |= {f"{unit[1]} {part}" for part in unit[2].split(", ")}
        elif cell.endswith("[Hz]"):
            found |= {f"{name} [Hz]" for name in cell.removesuffix(" [Hz]").split(", ")}
        else:
            found |= set(cell.split(", "))
    return found


def published_keys() -> set[str]:
    """Keys of the diagnostics of a node that has everything to tell."""
    done = SimpleNamespace(latency=0.1, network=0.1, node=0.1, arrival=0.0, when=0.0)
    item = TrackedObject(7, ObjectState.TRACKED, 0.9, 5, (0, 0, 1, 1), (0.0, 0.0))
    kinds = (diagnosis.CoreStatus, diagnosis.InputStatus, SegmenterState)
    facts = core_status(
        {
            **{field.name: 0 for kind in kinds for field in fields(kind)},
            "counters": Counters(),
            "settings": Settings(),
            "done": [done],
            "late": [],
            "window": 1.0,
            "ids": [7],
            "objects": [item],
            "names": {},
            "slots_used": {7: 1},
            "memory": {7: "text"},
            "topic": "image",
            "node": "/stremn",
            "error": "",
            "hint": "",
            "problems": ("one", "two"),
            "active": True,
            "enabled": True,
            "last_seed": "",
            "snapshot": "",
            "runtime": "torch",
        }
    )
    told = diagnosis.diagnose(facts)
    return {re.sub(r"\bobject 7\b", "object N", key) for key in dict(told.values)}


def test_the_keys_of_the_diagnostics_are_those_of_the_docs() -> None:
    assert documented_keys() == published_keys()


def test_the_fields_of_the_seeding_services_are_those_of_the_docs() -> None:
    sides = {"SeedMask request", "SeedMask answer", "SeedObject request", "SeedObject answer"}
    documented: dict[str, set[str]] = {side: set() for side in sides}
    for names, of, _ in table(ROOT / "docs" / "segment_node.md", "| Field | Of | What |"):
        both = re.fullmatch(r"both (request|answer)s", of)
        places = [f"SeedMask {both[1]}", f"SeedObject {both[1]}"] if both else [of]
        for place in places:
            documented[place] |= set(re.findall(r"`(\w+)`", names))
    for kind in ("SeedMask", "SeedObject"):
        text = (ROOT / "stremn_interfaces" / "srv" / f"{kind}.srv").read_text()
        for side, part in zip(("request", "answer"), text.split("\n---\n"), strict=True):
            lines = (line.partition("#")[0].split() for line in part.splitlines())
            fields_there = {words[1] for words in lines if words and "=" not in words[1]}
            assert documented[f"{kind} {side}"] == fields_there


# ---------------------------------------------------------------- runtimes


def help_of(*words: str) -> str:
    parser = build_parser()
    for word in words:
        actions = [action for action in parser._actions if getattr(action, "choices", None)]
        parser = next(a.choices[word] for a in actions if word in (a.choices or {}))
    return " ".join(parser.format_help().split())


def test_every_text_has_all_runtimes() -> None:
    texts = {
        "options": help_of("segment"),
        "bench": help_of("bench"),
        "parameter": parameters.parameters_of(parameters.SEGMENT)["runtime"].description,
        "docs/parameters.md": (ROOT / "docs" / "parameters.md").read_text(),
    }
    for name, text in texts.items():
        for runtime in RUNTIMES:
            assert re.search(rf"\b{runtime}\b", text), f"{name} lacks {runtime}"
    assert f"What runs the network: {LISTED}" in texts["parameter"]
    assert '    "runtime",\n' in (ROOT / "launch" / "segment.launch.py").read_text()
    rows = table(ROOT / "docs" / "performance.md", "| `runtime` | What it is | State |")
    assert {row[0] for row in rows} == {f"`{name}`" for name in ("auto", *RUNTIMES)}
    assert {row[1] for row in rows} >= {runtime.text for runtime in RUNTIMES.values()}


def test_no_text_lists_runtimes_by_itself() -> None:
    """Three of their names in one line of code are a list, which goes stale: LISTED is there."""
    code = [
        *(path for path in (ROOT / "stremn_ros").rglob("*.py") if "runtime" not in path.parts),
        *(ROOT / "launch").glob("*.py"),
        *(ROOT / "config").glob("*.yaml"),
    ]
    found = set()
    for path in code:
        for line in path.read_text().splitlines():
            if sum(bool(re.search(rf"\b{name}\b", line)) for name in RUNTIMES) >= 3:
                found.add(ids(path))
    assert found == set()


# ---------------------------------------------------------------- paths

PATH = re.compile(
    r"(?<![\w/.<])((?:docs|config|test|launch|models|benchmark|examples|scripts|paper|"
    r"requirements|stremn_ros)/(?!stremn_interfaces)[\w./-]*\w)"
)


def lacking(text: str) -> list[str]:
    """Paths below the repository's folders that a text names and that are not there."""
    found = []
    for name in PATH.findall(text):
        path = ROOT / name
        modules = [path.with_suffix(".py"), ROOT / "stremn_ros" / f"{name}.py"]
        if not path.exists() and not any(module.exists() for module in modules):
            found.append(name)
    return found


@pytest.mark.parametrize(
    "path",
    [
        *DOCS,
        *sorted((ROOT / "test").glob("*.py")),
        *sorted((ROOT / "benchmark").glob("*.py")),
        *sorted((ROOT / "config").glob("*.yaml")),
        ROOT / "CHANGELOG.rst",
    ],
    ids=ids,
)
def test_paths_that_are_named_are_there(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".py":  # what people read of it
        text = "\n".join(a or b for a, b in re.findall(r'(?s)"""(.*?)"""|#([^\n]*)', text))
    assert lacking(text) == []


def test_a_path_that_is_not_there_is_found() -> None:
    assert lacking("with the scaling of paper/NOTES.") == ["paper/NOTES"]
    assert lacking("see docs/memory.md and stremn_ros/imaging/video.py, config/segment.yaml") == []


@pytest.mark.parametrize("path", DOCS, ids=ids)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert re.match(r"\w+:", target) or (path.parent / target).exists(), target


# ---------------------------------------------------------------- plain English

MEAN_WORDS = 18  # of a sentence, per page
# What readers stumbled over, and what to write instead. In prose only, not in commands.
PLAIN = {
    r"anew": "again",
    r"(bears|borne)": "accept, carry, have",
    r"(minded|minds)": "handled",
    r"(hear|hears|heard|deaf)": "receive; QoS mismatch",
    r"told": "logged, reported",
    r"complain\w*": "report",
    r"of (its|their|his|your|my|our) own": "separate; your own X",
    r"of yours": "your",
    r"pieces?": "stage, part",
    r"in the place of": "instead of",
    r"for the truth": "as ground truth",
    r"the truth": "the ground truth",
    r"from which on": "from",
    r"without a word": "silently",
    r"not by a bit": "not by a single bit",
    r"these very": "the same",
    r"(mend|mends|mended|mending)": "fix",
    r"be it|but for|such as come|such as came": "a plain sentence",
    r"(goes|go) over": "overwrites",
    r"(oldest|newest|older|newer) goes": "is removed",
    r"tells? of": "reports",
    r"what came of it": "the result",
    r"stands in": "is in",
    r"at work": "at inference; running",
    r"are looked at|is looked at": "are checked",
    r"(?:said|says) no (?:one|thing)": "a plain sentence",
}
AMERICAN = re.compile(
    r"\b(?:(?:dis)?colou?red|colour\w*|grey\w*|behaviour\w*|neighbour\w*|favour\w*|metres?|"
    r"centi?metres|millimetres?|centre[ds]?|labelled|labelling|modelled|modelling|cancelled|"
    r"\w*(?:recogni|normali|synchroni|quanti|seriali|initiali|optimi|organi|reali|summari|"
    r"minimi|maximi|visuali)s(?:e|ed|es|ing|ation|ations)|artefacts?|analyse[ds]?)\b",
    re.I,
)


def prose(text: str) -> list[str]:
    """The paragraphs and list items of a Markdown text, without code, tables and headings."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", re.sub(r"(?s)```.*?```", "", text)):
        kept = re.sub(r"(?m)^(?:    |[|#!]).*\n?", "", block)
        for item in re.split(r"(?m)^ *(?:[-*]|\d+\.)\s+", kept):
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(item.split()))
            if words:
                paragraphs.append(re.sub(r"`[^`]*`", "code", words).replace("**", ""))
    return paragraphs


def sentences(text: str) -> list[list[str]]:
    """The words of each sentence; headings of lists and single words are none."""
    ends = re.compile(r"(?<=[.!?:;])\s+(?=[A-Z`\"(])")
    found = [part.split() for paragraph in prose(text) for part in ends.split(paragraph)]
    return [words for words in found if len(words) > 2]


def mean_words(text: str) -> float:
    lengths = [len(words) for words in sentences(text)]
    return sum(lengths) / len(lengths) if lengths else 0.0


def stumbling_blocks(text: str) -> list[str]:
    """Words and spellings that a text should not have, each with what to write."""
    cells = [line for line in text.splitlines() if line.startswith("|")]
    plain = re.sub(r"`[^`]*`", "code", "\n".join([*prose(text), *cells]))
    found = [
        f"{match[0]}: write {better}"
        for word, better in PLAIN.items()
        for match in re.finditer(rf"\b(?:{word})\b", plain)
    ]
    return found + [f"{match[0]}: American spelling" for match in AMERICAN.finditer(plain)]


PAGES = [path for path in DOCS if LAB not in path.parents]


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_sentences_are_short(path: Path) -> None:
    mean = mean_words(path.read_text())
    assert mean < MEAN_WORDS


@pytest.mark.parametrize("path", DOCS, ids=ids)
def test_words_are_plain(path: Path) -> None:
    assert stumbling_blocks(path.read_text()) == []


def test_long_sentences_and_odd_words_are_found() -> None:
    long = "The node " + "segments the newest image and then " * 6 + "waits.\n"
    assert mean_words(long) > MEAN_WORDS
    assert mean_words("Short one here. And this is another.\n\n    " + "code " * 40) == 3.5
    assert mean_words("- One short item, and\n  its second line.\n- Another short item.") == 5.0
    assert mean_words("| a long | table | is not | prose |") == 0.0
    text = "The colour was told anew, in\nthe place of gray.\n\n| a | recognised |\n"
    assert sorted(found.partition(":")[0] for found in stumbling_blocks(text)) == [
        "anew",
        "colour",
        "in the place of",
        "recognised",
        "told",
    ]
    assert stumbling_blocks("See `colour` and\n\n    --sequences bear\n") == []


def test_the_readme_can_be_read_in_two_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 140
