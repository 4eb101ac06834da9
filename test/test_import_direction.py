"""Imports point one way, only nodes/ knows ROS, and no node needs training/ or data/.

The rules are read off the source with `ast`, so imports inside functions, relative ones, those for
type checkers and `importlib.import_module("...")` count like any other.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = "stremn_ros"
ROOT = Path(__file__).resolve().parent.parent

# What each part may import of the package, beside itself. Ground: what stands on nothing but
# errors. memory <- network <- model_folder <- runtime <- segmenter, predictor <- stream <- nodes
# <- client <- demo, cli; data <- training, evaluation <- cli.
GROUND = {
    "errors",
    "files",
    "imaging",
    "mappings",
    "options",
    "privacy",
    "resources",
    "results",
    "text_files",
}
LIBRARY = GROUND | {"memory", "memory.rules", "network", "model_folder", "runtime", "snapshot"}
ONLINE = LIBRARY | {"hint_masks", "segmenter", "predictor"}
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {"moved", "privacy"},
    "errors": set(),
    "moved": set(),
    "privacy": set(),
    "forking": set(),
    "results": set(),
    "options": {"errors", "imaging", "memory.rules", "results"},
    "files": {"errors"},
    "resources": {"errors"},
    "text_files": {"errors"},
    "mappings": {"errors"},
    "imaging": {"errors", "files", "results"},
    "messages": {"errors", "imaging", "results"},
    "memory": {"errors", "memory.rules"},
    "memory.rules": {"errors"},  # without PyTorch
    "spatial": {"errors", "imaging"},
    "network": {"errors", "imaging", "mappings", "memory"},
    "snapshot": GROUND | {"model_folder", "network"},
    "model_folder": {
        *("errors", "files", "forking", "mappings", "network", "options", "resources"),
        "text_files",
    },
    "runtime": LIBRARY - {"snapshot"},
    "gating": {"network"},
    "frame_reader": {"gating", "imaging", "memory", "network", "options", "runtime"},
    "object_states": {"frame_reader", "imaging", "options", "results"},
    "seed_job": {"errors", "frame_reader", "imaging", "object_states", "results"},
    "hint_masks": LIBRARY - {"snapshot"},
    "segmenter": LIBRARY | {"frame_reader", "object_states", "seed_job"},
    "clip_state": {"errors", "imaging", "memory", "model_folder", "network", "runtime"},
    "predictor": (LIBRARY - {"snapshot"}) | {"clip_state"},
    "stream": ONLINE | {"messages", "spatial"},
    "nodes": ONLINE | {"messages", "spatial", "stream"},
    "client": GROUND | {"messages", "nodes", "stream"},
    "demo": GROUND | {"client", "messages", "nodes"},
    "recordings": ONLINE | {"messages", "stream"},
    "web": {"errors", "files", "hint_masks", "imaging", "privacy", "segmenter", "text_files"},
    "web.recording_frames": {"imaging", "recordings", "web"},
    "web.node_source": {"client", "errors", "hint_masks", "messages", "web"},
    "data": GROUND,
    "training": ONLINE | {"data", "evaluation"},
    "evaluation": ONLINE | {"clip_state", "data"},
    "doctor": {"client", "doctor.probes", "errors", "nodes", "privacy", "resources"},
    # what may fail to import, each in a process of its own
    "doctor.probes": ONLINE,
    "cli": ONLINE
    | {
        "client",
        "data",
        "demo",
        "doctor",
        "evaluation",
        "messages",
        "nodes",
        "recordings",
        "training",
        "web",
        "web.node_source",
        "web.recording_frames",
    },
}
# for type checkers alone; they are loaded when a name is first used (test_package.py)
PACKAGE_EXPORTS = {"hint_masks", "imaging", "options", "predictor", "segmenter"}
MAY_USE_ROS = {"client", "demo", "nodes", "doctor.probes", "web.node_source"}
MAY_USE_MESSAGES = {"messages"}  # the classes, inside functions, where they are installed
NODES_NEVER_NEED = {"training", "data"}

ROS_MODULES = {
    "rclpy",
    "ament_index_python",
    "launch",
    "launch_ros",
    "message_filters",
    "diagnostic_updater",
    "rpyutils",
    "std_srvs",
}


def is_message(module: str) -> bool:
    """Of a package that has messages, or what reads them, and no nodes."""
    top = module.partition(".")[0]
    return top == "cv_bridge" or top.endswith(("_msgs", "_interfaces"))


def is_ros(module: str) -> bool:
    return module.partition(".")[0] in ROS_MODULES or is_message(module)


def modules_of(root: Path) -> dict[str, Path]:
    """Dotted names of the modules below the folder of the package, and their files."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = list(path.relative_to(root).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


def _relative(package: str, dots: int, name: str) -> str:
    """The full name of `name` with so many dots before it, seen from `package`."""
    words = package.split(".")
    above = words[: len(words) - dots + 1]
    return ".".join([*above, name] if name else above)


def imports_of(module: str, path: Path, known: set[str]) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that a module imports, names of modules in full."""
    tree = ast.parse(path.read_text(), str(path))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = _relative(package, node.level, base)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.append((node.lineno, full if full in known else base))
        elif isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            first = node.args[0]
            if (
                name in ("import_module", "__import__")
                and isinstance(first, ast.Constant)
                and isinstance(first.value, str)
            ):
                text = first.value
                if text.startswith("."):
                    names = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
                    base = str(names[0]) if names else package
                    text = _relative(base, len(text) - len(text.lstrip(".")), text.lstrip("."))
                found.append((node.lineno, text))
    return found


def lines_for_type_checkers(path: Path) -> set[int]:
    """The lines below every ``if TYPE_CHECKING:``."""
    return {
        line
        for node in ast.walk(ast.parse(path.read_text(), str(path)))
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for child in node.body
        for line in range(child.lineno, (child.end_lineno or child.lineno) + 1)
    }


def part_of(module: str) -> str:
    """The room of the house that a module of the package is in."""
    words = module.split(".")
    inner = ".".join(words[1:3])
    if inner in MAY_IMPORT:
        return inner
    return words[1] if len(words) > 1 else "__init__"


def violations(root: Path) -> list[str]:
    """Every import below `root`/stremn_ros that a rule forbids, in words."""
    modules = modules_of(root)
    known = set(modules)
    wrong: list[str] = []
    needs: dict[str, set[str]] = {}
    for module, path in modules.items():
        part = part_of(module)
        where = path.relative_to(root)
        if part not in MAY_IMPORT:
            wrong.append(f"{where}: '{part}' is not a part of the design; give it a rule here")
            continue
        needs[module] = set()
        exports = lines_for_type_checkers(path) if part == "__init__" else set()
        for line, target in imports_of(module, path, known):
            classes = part in MAY_USE_MESSAGES and is_message(target)
            if is_ros(target) and part not in MAY_USE_ROS and not classes:
                wrong.append(f"{where}:{line}: {part} imports {target}; only nodes/ may use ROS")
            if target.partition(".")[0] != PACKAGE:
                continue
            needs[module].add(target)
            other = part_of(target)
            if line in exports and other in PACKAGE_EXPORTS:
                continue
            if other not in (part, "__init__") and other not in MAY_IMPORT[part]:
                wrong.append(f"{where}:{line}: {part} must not import {other} ({target})")
    wrong += _reaching(needs, modules, root)
    return wrong


def _reaching(needs: dict[str, set[str]], modules: dict[str, Path], root: Path) -> list[str]:
    """Chains of imports from a node to a part that nodes never need."""
    wrong = []
    for start in (name for name in modules if part_of(name) == "nodes"):
        chains = [[start]]
        seen = {start}
        while chains:
            chain = chains.pop()
            for target in sorted(needs.get(chain[-1], ())):
                if part_of(target) in NODES_NEVER_NEED:
                    way = " -> ".join([*chain, target])
                    wrong.append(f"{modules[start].relative_to(root)}: a node needs {way}")
                elif target not in seen:
                    seen.add(target)
                    chains.append([*chain, target])
    return wrong


def circles(root: Path) -> list[list[str]]:
    """Modules that import each other, also inside functions; packages' __init__ left out."""
    modules = {name: path for name, path in modules_of(root).items() if path.name != "__init__.py"}
    needs = {
        name: {target for _, target in imports_of(name, path, set(modules)) if target in modules}
        for name, path in modules.items()
    }
    found = []
    while needs:
        free = [name for name in needs if not needs[name] & needs.keys() - {name}]
        if not free:
            chain = [min(needs)]
            while chain.count(chain[-1]) == 1:
                chain.append(min(needs[chain[-1]] & needs.keys() - {chain[-1]}))
            found.append(chain[chain.index(chain[-1]) :])
            free = [chain[-1]]
        for name in free:
            del needs[name]
    return found


def test_the_package_keeps_the_rules() -> None:
    assert len(modules_of(ROOT)) > 10, "the package was not found"
    assert violations(ROOT) == []


def test_the_architecture_names_every_room_below_those_that_it_imports() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    firsts = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    place = {
        room.strip("/"): row
        for row, names in enumerate(firsts)
        for room in re.findall(r"`(.*?)`", names)
    }
    rooms = {name.split(".")[0] for name in MAY_IMPORT} - {"__init__"}
    assert place.keys() == rooms
    for name in MAY_IMPORT.keys() - {"__init__"}:
        for other in MAY_IMPORT[name]:
            assert place[other.split(".")[0]] <= place[name.split(".")[0]], (name, other)


def test_rooms_that_must_not_know_pytorch_do_not_load_it() -> None:
    """As docs/architecture.md says."""
    rooms = {"imaging", "messages", "options", "results", "spatial"}
    modules = [name for name in modules_of(ROOT) if set(name.split(".")[1:2]) & rooms]
    assert "torch" not in loaded_by(f"import {', '.join(modules)}")


def test_no_modules_import_each_other(tmp_path: Path) -> None:
    assert circles(ROOT) == []
    small_package(tmp_path)
    assert circles(tmp_path) == []
    with (tmp_path / PACKAGE / "network" / "blocks.py").open("a") as file:
        file.write("def f():\n    import stremn_ros.runtime.models\n")
    circle = {"stremn_ros.network.blocks", "stremn_ros.runtime.models"}
    assert [set(found) for found in circles(tmp_path)] == [circle]


MADE_UP = [
    ("memory/bank.py", "import stremn_ros.network", "memory must not import network"),
    ("memory/bank.py", "from ..network import blocks", "memory must not import network"),
    (
        "network/blocks.py",
        "from stremn_ros.runtime import models",
        "network must not import runtime",
    ),
    ("runtime/models.py", "from .. import segmenter", "runtime must not import segmenter"),
    ("frame_reader.py", "from .segmenter import S", "frame_reader must not import segmenter"),
    ("object_states.py", "from .seed_job import S", "object_states must not import seed_job"),
    ("seed_job.py", "from .segmenter import S", "seed_job must not import segmenter"),
    ("stream/core.py", "from ..seed_job import S", "stream must not import seed_job"),
    ("segmenter.py", "from .nodes import core", "segmenter must not import nodes"),
    ("segmenter.py", "from .predictor import P", "segmenter must not import predictor"),
    ("segmenter.py", "def f():\n    from stremn_ros import cli", "segmenter must not import cli"),
    ("segmenter.py", "def f():\n    import rclpy", "only nodes/ may use ROS"),
    ("cli.py", "from sensor_msgs.msg import Image", "only nodes/ may use ROS"),
    ("training/loop.py", "from stremn_interfaces.msg import X", "only nodes/ may use ROS"),
    ("nodes/core.py", "from stremn_ros import cli", "nodes must not import cli"),
    ("nodes/core.py", "from ..training import loop", "nodes must not import training"),
    ("nodes/core.py", "import stremn_ros.data.clip as c", "nodes must not import data"),
    (
        "nodes/core.py",
        "from ..evaluation import metrics",
        "nodes must not import evaluation",
    ),
    ("data/clip.py", "from ..training import loop", "data must not import training"),
    ("data/clip.py", "from ..network import blocks", "data must not import network"),
    ("evaluation/metrics.py", "from ..training import loop", "evaluation must not import training"),
    ("training/loop.py", "from .. import cli", "training must not import cli"),
    ("doctor/report.py", "import rclpy", "only nodes/ may use ROS"),
    ("doctor/report.py", "from ..runtime import models", "doctor must not import runtime"),
    (
        "doctor/probes/models.py",
        "from ...training import loop",
        "doctor.probes must not import training",
    ),
    ("results.py", "from . import segmenter", "results must not import segmenter"),
    ("options.py", "from .memory import SlotMemory", "options must not import memory"),
    ("options.py", "from . import segmenter", "options must not import segmenter"),
    ("errors.py", "from . import memory", "errors must not import memory"),
    ("imaging/video.py", "from ..segmenter import S", "imaging must not import segmenter"),
    (
        "imaging/video.py",
        "import torch\nfrom ..network import N",
        "imaging must not import network",
    ),
    ("stream/core.py", "import rclpy", "only nodes/ may use ROS"),
    ("stream/core.py", "from ..nodes import camera", "stream must not import nodes"),
    ("messages/codec.py", "import rclpy", "only nodes/ may use ROS"),
    ("messages/codec.py", "from ..stream import core", "messages must not import stream"),
    ("nodes/core.py", "from ..client import peer", "nodes must not import client"),
    ("client/peer.py", "from ..segmenter import S", "client must not import segmenter"),
    ("memory/bank.py", "import stremn_ros.snapshot", "memory must not import snapshot"),
    ("__init__.py", "from . import segmenter", "__init__ must not import segmenter"),
    (
        "__init__.py",
        "if TYPE_CHECKING:\n    from . import nodes",
        "__init__ must not import nodes",
    ),
    (
        "runtime/models.py",
        "from importlib import import_module\nimport_module('stremn_ros.training.loop')",
        "runtime must not import training",
    ),
    (
        "runtime/models.py",
        "import importlib\nimportlib.import_module('.segmenter', 'stremn_ros')",
        "runtime must not import segmenter",
    ),
    (
        "segmenter.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .cli import main",
        "segmenter must not import cli",
    ),
    ("extras/more.py", "", "is not a part of the design"),
]


def small_package(root: Path) -> None:
    """A package with every part, that keeps all rules."""
    for name, text in {
        "__init__.py": "",
        "errors.py": "",
        "imaging/video.py": "import cv2\nfrom ..errors import E",
        "memory/__init__.py": "from .bank import B",
        "memory/bank.py": "import torch\nfrom ..errors import E",
        "network/__init__.py": "",
        "network/blocks.py": "from stremn_ros.memory import B\nfrom ..errors import E",
        "runtime/__init__.py": "",
        "runtime/models.py": "from ..network import blocks",
        "snapshot.py": "",
        "segmenter.py": "def f():\n    from .runtime.models import find_model",
        "predictor.py": "from .runtime import models",
        "nodes/__init__.py": "",
        "nodes/core.py": "import rclpy\nfrom std_msgs.msg import Empty\nfrom ..segmenter import S",
        "data/__init__.py": "",
        "data/clip.py": "from .. import errors",
        "training/__init__.py": "",
        "training/loop.py": "from ..data.clip import C\nfrom ..runtime import models",
        "evaluation/__init__.py": "",
        "evaluation/metrics.py": "from ..data import clip\nfrom ..segmenter import S",
        "cli.py": "def main():\n    from .nodes import core\n    from .training import loop",
    }.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_a_package_that_keeps_the_rules_passes(tmp_path: Path) -> None:
    small_package(tmp_path)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(("name", "text", "says"), MADE_UP, ids=lambda value: str(value)[:45])
def test_every_rule_is_noticed_when_broken(tmp_path: Path, name: str, text: str, says: str) -> None:
    small_package(tmp_path)
    path = tmp_path / PACKAGE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text + "\n")
    found = violations(tmp_path)
    assert any(says in line for line in found), found


def test_a_way_from_a_node_to_training_is_noticed_through_others(tmp_path: Path) -> None:
    small_package(tmp_path)
    with (tmp_path / PACKAGE / "segmenter.py").open("a") as file:
        file.write("from .evaluation import metrics\n")
    found = violations(tmp_path)
    way = "stremn_ros.segmenter -> stremn_ros.evaluation.metrics -> stremn_ros.data.clip"
    assert any("a node needs" in line and way in line for line in found), found


def loaded_by(statement: str) -> set[str]:
    """Names of the modules that a fresh Python has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_library_runs_without_ros() -> None:
    loaded = loaded_by("import stremn_ros.segmenter")
    assert "stremn_ros.segmenter" in loaded
    assert [name for name in loaded if is_ros(name)] == []


@pytest.mark.parametrize("node", ["segment_node", "video_source_node"])
def test_a_node_loads_neither_training_nor_data(node: str) -> None:
    loaded = loaded_by(f"import stremn_ros.nodes.{node}")
    assert "rclpy" in loaded
    forbidden = tuple(f"{PACKAGE}.{part}" for part in ("training", "data", "evaluation"))
    assert [name for name in loaded if name.startswith(forbidden)] == []
