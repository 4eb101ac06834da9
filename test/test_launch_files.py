"""The launch files. What needs the package `launch` says so where it is not installed."""

from __future__ import annotations

import ast
import importlib.util
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prediction_helpers import tiny_prediction_model
from ros_helpers import wait_for
from shapes import DISC, SQUARE, iou, scene

from stremn_interfaces.srv import SeedMask
from stremn_ros.messages.image_read import decode_labels
from stremn_ros.nodes import parameters
from stremn_ros.options import TUNABLES
from stremn_ros.snapshot import Snapshot

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "launch").glob("*.launch.py"))
SHARED = ROOT / "stremn_ros" / "client" / "launching.py"


def installed(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # not the folder of that name here


MISSING = [name for name in ("launch", "launch_ros") if not installed(name)]
needs_launch = pytest.mark.skipif(
    bool(MISSING),
    reason=f"LAUNCH FILES ARE NOT RUN HERE: {' and '.join(MISSING)} not installed (no wheels of "
    "them exist); source a ROS distribution to run these tests",
)
TINY = ROOT / "test" / "data" / "tiny_model"


def sources(path: Path) -> list[Path]:
    """A launch file, and what it shares with others."""
    return [path, SHARED] if "shared_arguments" in path.read_text() else [path]


def text_of(node: ast.expr) -> str:
    """Of a string, in parts or with a name in it."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(part.value if isinstance(part, ast.Constant) else "x." for part in parts)


def declared(path: Path) -> dict[str, str]:
    """Arguments that a launch file declares, with their descriptions, read without `launch`."""
    found: dict[str, str] = {}
    for node in (
        node for source in sources(path) for node in ast.walk(ast.parse(source.read_text()))
    ):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DeclareLaunchArgument":
            if not isinstance(node.args[0], ast.Constant):  # of the table of parameters
                continue
            words = {word.arg: word.value for word in node.keywords}
            name = node.args[0].value
            assert name not in found, f"{name} is declared twice"
            found[name] = text_of(words["description"])
    if (table := NODES.get(path.name)) is not None:
        specs = parameters.parameters_of(table)
        found |= {name: specs[name].description for name in node_parameters(path.read_text())}
    return found


NODES = {"segment.launch.py": parameters.SEGMENT, "predict.launch.py": parameters.PREDICT}


def node_parameters(text: str) -> set[str]:
    """Names of the arguments of a launch file that are parameters of its node."""
    (group,) = re.findall(r"^NODE_PARAMETERS = \((.*?)^\)", text, re.DOTALL | re.MULTILINE)
    tuned = {name for name, tunable in TUNABLES.items() if tunable.parameter}
    return set(re.findall(r'^    "(\w+)"', group, re.MULTILINE)) | (
        tuned if "in TUNABLES.items() if tunable.parameter" in group else set()
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_argument_used_is_declared_and_described(path: Path) -> None:
    arguments = declared(path)
    assert arguments
    for name, description in arguments.items():
        assert len(description) > 10, name
        assert description.endswith("."), name
    used = set()
    for text in (source.read_text() for source in sources(path)):
        used |= set(re.findall(r'(?:LaunchConfiguration|value)\(["\'](\w+)["\']\)', text))
        used |= set(re.findall(r'number\(value, ["\'](\w+)["\']', text))
    if path.name in NODES:
        used |= node_parameters(path.read_text())
    assert used == set(arguments)


@pytest.mark.parametrize(
    ("name", "table"), [("segment", parameters.SEGMENT), ("predict", parameters.PREDICT)]
)
def test_arguments_that_are_parameters_are_in_the_table(name: str, table: str) -> None:
    text = (ROOT / "launch" / f"{name}.launch.py").read_text()
    names = node_parameters(text)
    assert len(names) >= 6
    assert set(names) <= set(parameters.parameters_of(table))
    assert {"model", "device", "processing_size", "slots"} <= set(names)


def test_parameters_of_the_demos_source_are_in_the_table() -> None:
    text = (ROOT / "launch" / "demo.launch.py").read_text()
    block = re.search(r"parameters=\[\s*\{(.*?)\}\s*\]", text, re.DOTALL).group(1)
    names = re.findall(r'^\s*"(\w+)":', block, re.MULTILINE)
    assert "path" in names
    assert set(names) <= set(parameters.parameters_of(parameters.VIDEO_SOURCE))


STAND_INS = """
import sys
from unittest.mock import MagicMock
for name in ("launch", "launch.actions", "launch.event_handlers", "launch.substitutions",
             "launch_ros", "launch_ros.actions", "ament_index_python",
             "ament_index_python.packages"):
    sys.modules[name] = MagicMock()
from stremn_ros.client.launching import given_parameters
from stremn_ros.nodes.parameters import SEGMENT
def read(**given):
    return given_parameters(lambda name: given[name], SEGMENT, given)
"""


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            {"publish_tf": "false", "follow_id": "3", "depth_slop": "0.1", "depth_topic": "/d"},
            {"publish_tf": False, "follow_id": 3, "depth_slop": 0.1, "depth_topic": "/d"},
        ),
        ({"publish_tf": "True", "depth_topic": ""}, {"publish_tf": True}),
        ({"publish_tf": "maybe"}, "publish_tf:=maybe is not true or false"),
        ({"follow_id": "one"}, "follow_id:=one is not a whole number"),
    ],
)
def test_arguments_become_parameters_of_their_types(given: dict, wanted: object) -> None:
    """With stand-ins of `launch`, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"{STAND_INS}print(read(**{given!r}))"],
        capture_output=True,
        text=True,
        check=False,
    )
    if isinstance(wanted, dict):
        assert ast.literal_eval(done.stdout) == wanted, done.stderr
    else:
        assert f"RuntimeError: {wanted}" in done.stderr


SCOPED = """
from stremn_ros.client import launching
given = {"namespace": NAMESPACE, "node_name": "stremn", "params_file": __file__, "enclave": "",
         "fastdds_profile": "", "log_level": "info", "respawn": "true", "autostart": "true"}
if AROUND:
    given["ros_namespace"] = AROUND
class Argument:
    def __init__(self, name, default=None):
        self.name, self.default = name, default
    def perform(self, context):
        return given[self.name] if self.default is None else given.get(self.name, self.default)
launching.LaunchConfiguration = Argument
launching.lifecycle_node(launching.reader(None), "segment_node", {}, [], also=["/other"])
given.clear()
handler = launching.OnProcessStart.call_args.kwargs["on_start"]
handler(sys.modules["unittest.mock"].MagicMock(pid=1), None)
print([call.kwargs["cmd"][3] for call in launching.ExecuteProcess.call_args_list],
      launching.Node.call_args.kwargs["namespace"])
"""


@pytest.mark.parametrize(
    ("around", "namespace", "full"),
    [
        ("", "", ""),
        ("", "robot/", "/robot"),
        ("/robot1", "", "/robot1"),
        ("robot1", "eyes", "/robot1/eyes"),
        ("/robot1", "/eyes", "/eyes"),
    ],
)
def test_the_arguments_of_a_group_are_gone_when_the_process_starts(
    tmp_path: Path, around: str, namespace: str, full: str
) -> None:
    """And what it pushes is part of the name. With stand-ins of `launch`."""
    script = tmp_path / "scoped.py"
    script.write_text(f"{STAND_INS}AROUND, NAMESPACE = {around!r}, {namespace!r}\n{SCOPED}")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout.strip() == f"['{full}/stremn', '/other'] {full}".strip(), done.stderr


# ---------------------------------------------------------------- with launch

RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [tuple(word.split(":=", 1)) for word in sys.argv[2:]]
service = LaunchService(argv=sys.argv[2:])
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=arguments)]))
sys.exit(service.run())
"""


class Launched:
    """A launch file in a process of its own, with its output in a file."""

    def __init__(self, folder: Path, name: str, *arguments: str, domain: str = "") -> None:
        self.log_path = folder / "launch.log"
        path = ROOT / "launch" / name
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(path), *arguments],
            stdout=self.log_path.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # a shell's background job ignores SIGINT, and its children would inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env={
                **os.environ,
                "ROS_DOMAIN_ID": domain or str(random.SystemRandom().randint(1, 100)),
                "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
                "ROS_LOG_DIR": str(folder),
                "PYTHONUNBUFFERED": "1",
            },
        )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(self, text: str, times: int = 1, timeout: float = 120.0) -> None:
        end = time.monotonic() + timeout
        while self.log.count(text) < times:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, f"no {text!r} in\n{self.log}"
            time.sleep(0.1)

    def interrupt(self) -> str:
        """Ctrl-C; the whole log once everything has ended."""
        self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"the launch did not end:\n{self.log}") from None
        assert code == 0, self.log
        return self.log

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def launched(tmp_path: Path):
    running: list[Launched] = []

    def start(name: str, *arguments: str, domain: str = "") -> Launched:
        running.append(Launched(tmp_path, name, *arguments, domain=domain))
        return running[-1]

    yield start
    for item in running:
        item.close()


@needs_launch
def test_segment_launch_activates_the_node_and_ends_cleanly(launched) -> None:
    launch = launched("segment.launch.py", f"model:={TINY}", "image_topic:=/cam", "slots:=4")
    launch.wait_for("active: waiting for images on /cam")
    log = launch.interrupt()
    assert "process has finished cleanly" in log
    assert "XMLPARSER" not in log


@needs_launch
def test_the_live_page_comes_with_the_node_and_ends_with_it(launched) -> None:
    launch = launched("segment.launch.py", f"model:={TINY}", "web:=true", "web_port:=0")
    launch.wait_for("stremn view: open http://127.0.0.1:")
    launch.wait_for("active: waiting for images on /image")
    log = launch.interrupt()
    assert log.count("process has finished cleanly") >= 2
    assert "Traceback" not in log


@needs_launch
def test_predict_launch_activates_the_node_and_ends_cleanly(launched, tmp_path) -> None:
    model = tiny_prediction_model(tmp_path / "tiny")
    launch = launched("predict.launch.py", f"model:={model}", "image_topic:=/cam", "horizon:=2")
    launch.wait_for("[stremn_predict]: active: waiting for images on /cam")
    assert "process has finished cleanly" in launch.interrupt()


@needs_launch
def test_both_nodes_are_activated_in_one_process(launched, tmp_path) -> None:
    model = tiny_prediction_model(tmp_path / "tiny")
    launch = launched(
        "segment.launch.py", f"model:={TINY}", "predict:=true", f"predict_model:={model}"
    )
    for name in ("stremn", "stremn_predict"):
        launch.wait_for(f"[{name}]: active: waiting for images on /image")
    assert "process has finished cleanly" in launch.interrupt()


GROUP = """
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace
def generate_launch_description():
    included = IncludeLaunchDescription(
        PythonLaunchDescriptionSource({path!r}), launch_arguments={arguments!r})
    return LaunchDescription([GroupAction([{before} included])])
"""


@needs_launch
@pytest.mark.parametrize(
    ("before", "given", "full"),
    [
        ("", {}, ""),
        ("PushRosNamespace('robot1'),", {}, "/robot1"),
        ("PushRosNamespace('/fleet'), PushRosNamespace('robot1'),", {}, "/fleet/robot1"),
        ("PushRosNamespace('robot1'),", {"namespace": "eyes/"}, "/robot1/eyes"),
        ("PushRosNamespace('robot1'),", {"namespace": "/eyes"}, "/eyes"),
    ],
)
def test_a_group_around_the_launch_file(launched, tmp_path, before, given, full) -> None:
    """As other people include it: the arguments of a group are gone when the process starts, and
    what the group pushes is part of the node's name."""
    model = tiny_prediction_model(tmp_path / "tiny")
    arguments = {"model": str(TINY), "predict": "true", "predict_model": str(model), **given}
    arguments |= {"web": "true", "web_port": "0"}
    outer = tmp_path / "outer.launch.py"
    path = str(ROOT / "launch" / "segment.launch.py")
    outer.write_text(GROUP.format(path=path, before=before, arguments=list(arguments.items())))
    launch = launched(outer)
    for name in (f"{full}/stremn", f"{full}/stremn_predict"):
        logger = name.strip("/").replace("/", ".")
        launch.wait_for(f"[{logger}]: active: waiting for images on {full}/image")
    launch.wait_for("stremn view: open http://127.0.0.1:")
    log = launch.interrupt()
    assert "Caught exception" not in log
    assert log.count("process has finished cleanly") >= 4


@needs_launch
def test_a_failed_configure_is_said(launched) -> None:
    launch = launched("segment.launch.py", "model:=no_such_model")
    launch.wait_for("'/stremn' could not configure")
    assert "no model 'no_such_model'" in launch.interrupt()


@needs_launch
def test_a_node_that_died_is_started_configured_and_activated_again(launched) -> None:
    launch = launched(
        "segment.launch.py",
        f"model:={TINY}",
        "respawn:=true",
        "namespace:=robot",
        "node_name:=eyes",
    )
    active = "[robot.eyes]: active: waiting for images on /robot/image"
    launch.wait_for(active)
    number = re.search(r"segment_node-1\]: process started with pid \[(\d+)\]", launch.log).group(1)
    os.kill(int(number), signal.SIGKILL)
    launch.wait_for(active, times=2)
    launch.interrupt()


@needs_launch
def test_several_cameras(launched) -> None:
    launch = launched("segment.launch.py", f"model:={TINY}", "cameras:=left=/l/raw,right=/r/raw")
    launch.wait_for("active: waiting for images on /l/raw, /r/raw")
    launch.interrupt()


@needs_launch
def test_a_node_that_died_goes_on_with_its_objects(launched, tmp_path) -> None:
    """Killed with SIGKILL and started again by the launch file: the same ids, the same masks."""
    from ros_helpers import SegmentPeer, image_message

    params = tmp_path / "params.yaml"
    params.write_text(
        "/**:\n  ros__parameters:\n    autosave_period: 0.1\n    autoload: true\n"
        "    image_reliability: reliable\n    runtime: torch\n"
    )
    launch = launched(
        "segment.launch.py",
        f"model:={TINY}",
        "respawn:=true",
        f"params_file:={params}",
        f"snapshot_dir:={tmp_path / 'snapshots'}",
        domain=os.environ["ROS_DOMAIN_ID"],
    )
    active = "active: waiting for images on /image"
    launch.wait_for(active)
    with SegmentPeer() as peer:
        peer.connect(scene(0)[0])
        mask = image_message(scene(0)[1], 0, "mono8")
        answer = peer.call(SeedMask, "/stremn/seed_mask", mask=mask, names=["cup", "box"])
        assert answer.success, answer.message
        for step in range(1, 9):
            before, objects = peer.segment(scene(step)[0])
        file = tmp_path / "snapshots" / "stremn.safetensors"
        wait_for(lambda: file.exists() and Snapshot.read(file).remembered >= 8, "the autosave")
        number = re.search(r"segment_node-1\]: process started with pid \[(\d+)\]", launch.log)
        os.kill(int(number.group(1)), signal.SIGKILL)
        launch.wait_for("autoload: loaded objects 1, 2 from")
        launch.wait_for(active, times=2)
        seen = set(peer.masks)
        peer.connect(scene(8)[0])
        first = min(set(peer.masks) - seen)
        after = decode_labels(peer.masks[first])
        assert [(item.id, item.name) for item in peer.objects[first].objects] == [
            (item.id, item.name) for item in objects.objects
        ]
        for object_id in (DISC, SQUARE):
            score = iou(after, before, object_id)
            print(f"IoU of object {object_id} before the kill and after the respawn: {score:.3f}")
            assert score > 0.9
    launch.interrupt()


def processes_of(launch: Launched) -> list[str]:
    """What still runs of the launch's process group."""
    listed = subprocess.run(
        ["ps", "-e", "-o", "pgid=,args="], capture_output=True, text=True, check=True
    )
    return [
        line for line in listed.stdout.splitlines() if line.split()[0] == str(launch.process.pid)
    ]


@needs_launch
@pytest.mark.parametrize(
    "wrong",
    [
        "cameras:=left",
        "cameras:=1left=/x",
        "cameras:=a-b=/x",
        "slots:=four",
        "publish_tf:=maybe",
        "params_file:=/no/such/file.yaml",
        "rviz_config:=/no/such/file.rviz",
    ],
)
def test_a_wrong_argument_is_said_before_anything_is_started(launched, wrong: str) -> None:
    also = ["rviz:=true"] if "rviz" in wrong else []
    launch = launched("segment.launch.py", f"model:={TINY}", wrong, *also)
    assert launch.process.wait(60) != 0
    assert wrong in launch.log
    assert "process started" not in launch.log
    assert processes_of(launch) == []


@needs_launch
@pytest.mark.parametrize("wrong", ["video:=/no/such.mp4", "mask:=/no/such.png", "rate:=fast"])
def test_a_wrong_argument_of_the_demo_is_said_before_anything_is_started(launched, wrong) -> None:
    launch = launched("demo.launch.py", f"model:={TINY}", wrong)
    assert launch.process.wait(60) != 0
    assert wrong in launch.log
    assert "process started" not in launch.log
    assert processes_of(launch) == []


@needs_launch
@pytest.mark.skipif(shutil.which("rviz2") is not None, reason="rviz2 is installed here")
def test_without_rviz2_the_node_runs_and_ends_with_the_launch(launched) -> None:
    launch = launched("segment.launch.py", f"model:={TINY}", "rviz:=true")
    launch.wait_for("active: waiting for images on /image")
    assert "rviz:=true, but rviz2 is not installed" in launch.log
    assert "process has finished cleanly" in launch.interrupt()
    assert processes_of(launch) == []


@needs_launch
def test_rviz2_that_is_installed_is_opened_and_ends_with_the_launch(launched, tmp_path) -> None:
    """A stand-in, found as the real one is."""
    prefix = tmp_path / "prefix"
    program = prefix / "lib" / "rviz2" / "rviz2"
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "rviz2"
    for path in (program, marker):
        path.parent.mkdir(parents=True)
        path.touch()
    program.write_text('#!/bin/sh\necho "stand-in of rviz2: $@"\nexec sleep 1000\n')
    program.chmod(0o755)
    before = os.environ["AMENT_PREFIX_PATH"]
    os.environ["AMENT_PREFIX_PATH"] = f"{prefix}:{before}"
    try:
        launch = launched("segment.launch.py", f"model:={TINY}", "rviz:=true")
    finally:
        os.environ["AMENT_PREFIX_PATH"] = before
    launch.wait_for("active: waiting for images on /image")
    launch.wait_for("stand-in of rviz2: -d")
    launch.interrupt()
    assert processes_of(launch) == []


@needs_launch
def test_a_node_that_dies_at_its_start_is_not_waited_for(launched, tmp_path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("a: [1")
    launch = launched("segment.launch.py", f"model:={TINY}", f"params_file:={params}")
    assert launch.process.wait(120) is not None
    assert "ROS cannot be started: Couldn't parse params file" in launch.log
    assert "the process of '/stremn' has ended before it was active" in launch.log
    assert processes_of(launch) == []


@needs_launch
def test_an_interrupt_of_the_whole_group_loses_no_snapshot(launched, tmp_path) -> None:
    """As a supervisor sends it: launch hands it on, so the node gets two."""
    from ros_helpers import SegmentPeer

    params = tmp_path / "params.yaml"
    params.write_text("/**:\n  ros__parameters:\n    autosave_at_stop: true\n    runtime: torch\n")
    launch = launched(
        "segment.launch.py",
        f"model:={TINY}",
        f"params_file:={params}",
        f"snapshot_dir:={tmp_path / 'snapshots'}",
        domain=os.environ["ROS_DOMAIN_ID"],
    )
    launch.wait_for("active: waiting for images on /image")
    with SegmentPeer() as peer:
        peer.connect(scene(0)[0])
        peer.seed(scene(0)[1], names=["cup", "box"])
        os.killpg(launch.process.pid, signal.SIGINT)
        launch.process.wait(60)
    file = tmp_path / "snapshots" / "stremn.safetensors"
    assert Snapshot.read(file).names == {1: "cup", 2: "box"}
    assert "Traceback" not in launch.log
    assert "process has finished cleanly" in launch.log
    assert processes_of(launch) == []


@needs_launch
def test_demo_launch_seeds_the_first_frame(launched) -> None:
    launch = launched("demo.launch.py", f"model:={TINY}")
    launch.wait_for("stremn seed: seeded object 1")
    assert "process has finished cleanly" in launch.interrupt()
