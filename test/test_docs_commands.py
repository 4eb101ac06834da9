"""What the README and docs tell people to type: each command, option, argument and name is there.

test_docs_run.py runs the commands. This file checks that nobody is told to type something that the
code does not know.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from argparse import _SubParsersAction
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from stremn_ros.cli import build_parser
from stremn_ros.cli import main as stremn
from stremn_ros.nodes import parameters
from stremn_ros.nodes.parameters import parameters_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "models").glob("*/README.md"),
        *(ROOT / "examples").rglob("README.md"),
    ]
)
NODES = {
    "segment_node": parameters.SEGMENT,
    "video_source_node": parameters.VIDEO_SOURCE,
    "predict_node": parameters.PREDICT,
}
OF_NODES = {"/stremn": parameters.SEGMENT, "/stremn_predict": parameters.PREDICT}
OTHERS = r"your_|topic_tools|depth_image_proc"  # packages and topics that are not ours


def commands(text: str) -> list[list[str]]:
    """The words of each command in the indented blocks of a page, and in its inline code."""
    blocks = re.findall(r"(?:^ {4,}\S.*\n?)+", text, re.M)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    lines += re.findall(r"`((?:stremn|make|ros2|python -m) [^`]+)`", re.sub(r"\n\s*", " ", text))
    found = []
    for line in lines:
        for part in re.split(r" && | \|\| ", line.strip()):
            with contextlib.suppress(ValueError):  # a quotation mark of prose
                words = shlex.split(part, comments=True)
                words = [word.removeprefix(".venv/bin/") for word in words]
                # placeholders in brackets are what may be left out
                words = [word.strip("[]") for word in words if word.strip("[].")]
                if words:
                    found.append(words)
    return found


@cache
def help_of(*words: str) -> str:
    """What ``stremn WORDS --help`` prints."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        stremn([*words, "--help"])
    return told.getvalue()


@cache
def module_help(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words, "--help"], capture_output=True, text=True, cwd=ROOT
    )
    return done.stdout if done.returncode == 0 else ""


def options_of(words: list[str]) -> Iterator[str]:
    for word in words:
        if re.match(r"--[a-z]", word):
            yield word.partition("=")[0]


def unknown_options(words: list[str], known: str) -> list[str]:
    return [
        option
        for option in options_of(words)
        if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", known)
    ]


def wrong_stremn(words: list[str]) -> list[str]:
    """What `stremn WORDS` has that the command line does not know."""
    parser, path = build_parser(), []
    for word in words:
        groups = [each for each in parser._actions if isinstance(each, _SubParsersAction)]
        if not groups or word.startswith("-"):
            break
        if word.isupper():  # capitals stand for any of them: stremn COMMAND --help
            return []
        names = word.split("|")
        if unknown := set(names) - set(groups[0].choices):
            return [f"stremn {' '.join([*path, *unknown])}"]
        parser = groups[0].choices[names[0]]
        path.append(names[0])
    return unknown_options(words[len(path) :], help_of(*path) + help_of())


def wrong_ros_arguments(words: list[str], table: str) -> list[str]:
    """Parameters among -p NAME:=VALUE that the node has not."""
    known = {*parameters_of(table), "use_sim_time"}
    given = [
        words[n + 1].partition(":=")[0]
        for n, word in enumerate(words[:-1])
        if word == "-p" and ":=" in words[n + 1]
    ]
    return [name for name in given if name not in known and not name.startswith("qos_overrides.")]


def launch_arguments(file: str) -> set[str]:
    """Of a launch file: those that it declares, and the parameters that it makes arguments of."""
    texts = (ROOT / "launch" / file).read_text()
    if "launching" in texts:
        texts += (ROOT / "stremn_ros" / "client" / "launching.py").read_text()
    declared = set(re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', texts))
    tables = [*parameters_of(parameters.SEGMENT), *parameters_of(parameters.PREDICT)]
    return declared | {name for name in tables if "parameters_of" in texts}


def documented_names() -> set[str]:
    """Topics and services of the nodes, from the tables of their pages."""
    found = set()
    for page, node in (
        ("segment_node", "/stremn"),
        ("spatial", "/stremn"),
        ("predict_node", "/stremn_predict"),
    ):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        rows = re.findall(r"^\|(?: in \|| out \|)? `~/([\w/]+)` \|", text, re.M)
        found |= {f"{node}/{name}" for name in rows}
    return found


def wrong_ros2(words: list[str]) -> list[str]:
    kind = words[0] if words else ""
    if kind == "launch" and words[1:2] == ["stremn_ros"]:
        file, *given = words[2:] or [""]
        if not (ROOT / "launch" / file).is_file():
            return [file]
        names = {word.partition(":=")[0] for word in given if ":=" in word}
        return sorted(names - launch_arguments(file))
    if kind == "run" and words[1:2] == ["stremn_ros"]:
        program, *rest = words[2:]
        return wrong_program(program, rest)
    if kind in ("topic", "service", "param", "lifecycle"):
        wrong = [
            word
            for word in words[2:]
            if re.fullmatch(r"/stremn(_predict)?/[\w/]+", word)
            # of a node with several cameras each has its own
            and re.sub("/(left|right)/", "/", word) not in documented_names()
        ]
        if kind == "param" and len(words) > 3 and words[2] in OF_NODES:
            table = parameters_of(OF_NODES[words[2]])
            wrong += [words[3]] if words[3] not in table else []
        return wrong
    return []


def wrong_program(program: str, rest: list[str]) -> list[str]:
    if program == "stremn":
        return wrong_stremn(rest)
    entries = re.findall(r'"(\w+) = stremn_ros', (ROOT / "setup.py").read_text())
    if program not in entries:
        return [program]
    return wrong_ros_arguments(rest, NODES[program]) if program in NODES else []


def wrong_python(words: list[str]) -> list[str]:
    if words[:1] == ["-m"] and len(words) > 1 and words[1].startswith("stremn_ros."):
        return unknown_options(words[2:], module_help(words[1])) if module_help(words[1]) else words
    if not words or not words[0].endswith(".py"):
        return []
    script = ROOT / words[0]
    if not script.is_file():
        return [words[0]]
    # read and not run: the benchmarks import what takes long
    text = script.read_text()
    for name in re.findall(r"^(?:from|import) (\w+)", text, re.M):
        if (helper := script.with_name(f"{name}.py")).is_file():
            text += helper.read_text()
    return unknown_options(
        [word for word in words if word != "--ros-args"], text + help_of("bench")
    )


def wrong(words: list[str]) -> list[str]:
    """What a command has that is not there."""
    program, *rest = words
    if program == "stremn":
        return wrong_stremn(rest)
    if program == "ros2":
        return wrong_ros2(rest)
    if program in ("python", "python3"):
        return wrong_python(rest)
    if program in NODES:
        return wrong_program(program, rest)
    if program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
        return [word for word in rest if re.fullmatch("[a-z]+", word) and word not in targets][:1]
    return []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_people_are_told_to_type_is_there(path: Path) -> None:
    found = [
        (" ".join(words), missing)
        for words in commands(path.read_text())
        if (missing := wrong(words))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("typed", "missing"),
    [
        ("stremn segmnt clip.mp4", ["stremn segmnt"]),
        ("stremn segment clip.mp4 --bux 1,2,3,4", ["--bux"]),
        ("stremn evaluate davis --rot DAVIS", ["--rot"]),
        ("ros2 run stremn_ros stremn seed --bax 1,2,3,4", ["--bax"]),
        ("ros2 run stremn_ros segmnt_node", ["segmnt_node"]),
        ("ros2 run stremn_ros segment_node --ros-args -p autostrat:=true", ["autostrat"]),
        ("ros2 launch stremn_ros segmnt.launch.py", ["segmnt.launch.py"]),
        ("ros2 launch stremn_ros segment.launch.py webb:=true", ["webb"]),
        ("ros2 topic echo /stremn/masks", ["/stremn/masks"]),
        ("ros2 service call /stremn/rest std_srvs/srv/Trigger", ["/stremn/rest"]),
        ("ros2 param set /stremn followid 2", ["followid"]),
        ("python benchmark/nothing.py", ["benchmark/nothing.py"]),
        ("python benchmark/longrun.py --nothing", ["--nothing"]),
        ("python -m stremn_ros.training.averaging --oot X", ["--oot"]),
        ("make tset", ["tset"]),
    ],
)
def test_what_is_not_there_is_found(typed: str, missing: list[str]) -> None:
    assert commands(f"Type\n\n    {typed}\n") == [shlex.split(typed)]
    assert wrong(shlex.split(typed)) == missing
