"""Nothing leaves the machine: what the package does is run under a guard that native code is
caught by as well, and ONNX Runtime is imported in one place, with its telemetry off."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Exported
from shapes import TINY_MODEL, scene
from socket_guard import attempts, environment

from stremn_ros import privacy
from stremn_ros.doctor import NOTE, OK, PROBLEM, Probe, library_checks
from stremn_ros.imaging.video import write_image
from stremn_ros.imaging.visualization import write_label_png

ROOT = Path(__file__).resolve().parent.parent
# ONNX Runtime asks for its maker's host 9 seconds after its import
LONG_ENOUGH = 12.0
needs_onnxruntime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed"
)


def start(guard: Path, folder: Path, *words: object, **changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=environment(guard, folder, PYTHONPATH=str(ROOT), **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


# ---------------------------------------------------------------- the guard can fail

ATTEMPTS = {
    "python": "import socket\nsocket.create_connection(('192.0.2.1', 80), 5)",
    "a name": "import socket\nsocket.getaddrinfo('example.invalid', 80)",
    "an old name": "import socket\nsocket.gethostbyname('example.invalid')",
    "a datagram": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto("
    "b'x', ('192.0.2.1', 9))",
    "IPv6": "import socket\nsocket.create_connection(('2001:db8::1', 80), 5)",
    "native": """
import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
address = b"\\x02\\x00" + (443).to_bytes(2, "big") + socket.inet_aton("192.0.2.1") + bytes(8)
assert libc.connect(socket.socket().fileno(), address, 16) == -1
found = ctypes.c_void_p()
assert libc.getaddrinfo(b"example.invalid", b"443", None, ctypes.byref(found)) != 0
""",
    "native, by number": """
import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
address = b"\\x02\\x00" + (443).to_bytes(2, "big") + socket.inet_aton("192.0.2.1") + bytes(8)
number = {"x86_64": 42, "aarch64": 203}[__import__("platform").machine()]
assert libc.syscall(number, socket.socket().fileno(), address, 16) == -1
""",
    "a child of the process": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', "
    "'import socket; socket.getaddrinfo(\"example.invalid\", 80)'])",
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_the_guard_catches_and_stops(guard: Path, tmp_path: Path, name: str) -> None:
    start(guard, tmp_path, "-c", ATTEMPTS[name]).communicate(timeout=60)
    caught = attempts(tmp_path)
    assert len(caught) >= (2 if name == "native" else 1)
    assert all("example.invalid" in line or "192.0.2.1" in line or "db8" in line for line in caught)


def test_the_guard_lets_through_what_stays_here(guard: Path, tmp_path: Path) -> None:
    code = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(("localhost", server.getsockname()[1])).close()
multicast = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
multicast.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
multicast.sendto(b"x", ("239.255.0.1", 7400))
"""
    ended(start(guard, tmp_path, "-c", code))
    assert attempts(tmp_path) == []


@needs_onnxruntime
def test_the_guard_catches_the_telemetry_of_onnx_runtime(guard: Path, tmp_path: Path) -> None:
    """The real thing: were the switch forgotten, this is what the tests below would see."""
    import onnxruntime

    version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if version < (1, 29):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} has no telemetry")
    process = start(guard, tmp_path, "-c", "import onnxruntime, time\ntime.sleep(60)")
    begin = time.monotonic()
    while not attempts(tmp_path) and time.monotonic() - begin < 60:
        time.sleep(0.2)
    process.kill()
    process.communicate()
    assert attempts(tmp_path)
    assert {line.split()[0] for line in attempts(tmp_path)} == {"getaddrinfo"}
    assert list((tmp_path / "home").rglob("deviceid"))


# ---------------------------------------------------------------- what the package does

STAY = f"import time\ntime.sleep({LONG_ENOUGH})\n"
LIBRARY = f"""
import numpy as np
from stremn_ros.segmenter import Segmenter
segmenter = Segmenter.load({str(TINY_MODEL)!r}, runtime="onnxruntime")
frame = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
mask = np.zeros((96, 128), np.uint8)
mask[20:60, 20:60] = 1
segmenter.seed(frame, mask)
segmenter.step(frame)
assert segmenter.runtime_name.startswith("onnxruntime"), segmenter.runtime_name
{STAY}
"""
NODE = """
import sys, threading, time, rclpy
from stremn_ros.nodes import segment_node
from stremn_ros.client.peer import Peer
from lifecycle_msgs.srv import ChangeState
from lifecycle_msgs.msg import Transition
sys.argv += ["--ros-args", "-p", "model:=" + sys.argv[1], "-p", "runtime:=onnxruntime"]
def drive():
    peer = Peer("driver")
    for number in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        peer.state("/stremn", 120.0)
        request = ChangeState.Request(transition=Transition(id=number))
        assert peer.call(ChangeState, "/stremn/change_state", request, 240.0).success
    print("active", flush=True)
    time.sleep(float(sys.argv[2]))
    peer.close()
    __import__("os").kill(__import__("os").getpid(), 2)
threading.Thread(target=drive, daemon=True).start()
segment_node.main()
"""


@pytest.fixture(scope="module")
def ran(
    guard: Path, tiny_export: Exported, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, str]]:
    """What was done beside each other under guard: the folder of each, and what it said."""
    work = tmp_path_factory.mktemp("ran")
    for step in range(4):
        write_image(work / "frames" / f"{step}.png", scene(step)[0])
    write_label_png(work / "mask.png", scene(0)[1])
    cli = ("-m", "stremn_ros.cli")
    segment = (*cli, "segment", work / "frames", "--mask", work / "mask.png", "--quiet")
    jobs: dict[str, tuple[object, ...]] = {
        "the library": ("-c", LIBRARY),
        "segment": (*segment, "--out", work / "out", "--model", TINY_MODEL),
        "predict": (*cli, "predict", work / "frames", "--out", work / "p", "--observe", 3,
                    "--horizon", 1),
        "doctor": (*cli, "doctor"),
        "the node": ("-c", NODE, TINY_MODEL, LONG_ENOUGH),
    }  # fmt: skip
    if importlib.util.find_spec("rclpy") is None:
        del jobs["the node"]
    found = {"export": (tiny_export.folder, tiny_export.said)}
    processes = {}
    for name, words in jobs.items():
        folder = work / name.replace(" ", "_")
        changes = {
            "STREMN_CACHE": str(tiny_export.cache),
            "OMP_NUM_THREADS": "1",
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOCALHOST_ONLY": "1",
            "ROS_DOMAIN_ID": "87",
            "ROS_LOG_DIR": str(folder / "ros"),
        }
        processes[name] = folder, start(guard, folder, *words, **changes)
    for name, (folder, process) in processes.items():
        said, _ = process.communicate(timeout=400)
        assert process.returncode == 0 or name == "doctor", f"{name}: {said}"
        found[name] = folder, said
    return found


@needs_onnxruntime
@pytest.mark.parametrize(
    "name", ["the library", "segment", "export", "predict", "doctor", "the node"]
)
def test_nothing_leaves_the_machine(ran: dict[str, tuple[Path, str]], name: str) -> None:
    if name not in ran:
        pytest.skip("rclpy is not installed")
    folder, said = ran[name]
    assert attempts(folder) == [], said
    left = [path for path in (folder / "home").rglob("*") if path.is_file()]
    assert [path for path in left if "matplotlib" not in str(path)] == []
    if name == "the node":
        assert "active" in said
    if name == "doctor":
        assert re.search(r"privacy .*telemetry of ONNX Runtime .* is off", said)


# ---------------------------------------------------------------- one place, every path

IMPORT = re.compile(
    r"^\s*(?:import|from)\s+onnxruntime\b|^\s*import .*,\s*onnxruntime\b"
    r"|import(?:_module|orskip)?\(\s*[\"']onnxruntime\b",
    re.MULTILINE,
)
PLACES = {
    Path("stremn_ros/runtime/onnx/library.py"),
    Path("test/test_privacy.py"),  # with the switch left out on purpose, under guard
}


def importers(root: Path) -> set[Path]:
    """Files that import ONNX Runtime, in code or in a program that they hold as text."""
    found = set()
    for folder in ("stremn_ros", "launch", "benchmark", "scripts", "test"):
        for path in (root / folder).rglob("*.py"):
            if IMPORT.search(path.read_text()):
                found.add(path.relative_to(root))
    return found


def test_onnx_runtime_is_imported_in_one_place() -> None:
    assert importers(ROOT) == PLACES


@pytest.mark.parametrize(
    "line",
    [
        "import onnxruntime",
        "    from onnxruntime import quantization",
        "from onnxruntime.quantization import QuantType",
        'pytest.importorskip("onnxruntime")',
        "importlib.import_module('onnxruntime.tools')",
        "PROBE = '''\nimport importlib, onnxruntime\n'''",
    ],
)
def test_another_place_would_be_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark" / "new.py").write_text(f"import os\n{line}\n")
    assert importers(tmp_path) == {Path("benchmark/new.py")}


@pytest.mark.parametrize("before", ["", "0", "1"])
def test_the_switch_is_set_by_importing_the_package(before: str) -> None:
    code = "import stremn_ros, os; print({n: os.environ[n] for n in stremn_ros.privacy.SWITCHES})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": before},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(privacy.SWITCHES)


def test_launch_files_and_makefile_set_the_switch() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name, value in privacy.SWITCHES.items():
        assert re.search(rf"^export {name} := {value}$", makefile, re.MULTILINE)
    shared = (ROOT / "stremn_ros" / "client" / "launching.py").read_text()
    assert "**SWITCHES" in shared
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"  # here, by conftest.py


@needs_onnxruntime
def test_who_imports_onnx_runtime_first_is_told() -> None:
    code = (
        "import logging, onnxruntime\nlogging.basicConfig()\n"
        "from stremn_ros.runtime.onnx.library import import_onnxruntime\n"
        "import_onnxruntime(); import_onnxruntime()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for switch, times in (("0", 1), ("1", 0)):
        done = subprocess.run(
            # with the switch on in truth, so that nothing is sent: only what the code reads is 0
            [sys.executable, "-c", f"import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'\n"
             f"import onnxruntime; os.environ['ORT_DISABLE_TELEMETRY'] = '{switch}'\n{code}"],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr.count("imported before stremn_ros") == times


def test_doctor_shows_it(tmp_path: Path) -> None:
    values = {"version": "1.32.0", "switches": {"ORT_DISABLE_TELEMETRY": "1"}, "left": ""}
    here = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    check = library_checks.check_privacy(Probe(values), here)
    assert check.status == OK
    assert "is off (ORT_DISABLE_TELEMETRY=1" in check.found
    assert "DDS stays on this machine" in check.found
    assert "subnet" in library_checks.check_privacy(Probe(values), {}).found
    check = library_checks.check_privacy(Probe({**values, "left": "/home/a/.cache/x"}), here)
    assert (check.status, check.advice) == (NOTE, "it is of no use: rm -r /home/a/.cache/x")
    values["switches"] = {"ORT_DISABLE_TELEMETRY": ""}
    check = library_checks.check_privacy(Probe(values), here)
    assert (check.status, check.advice) == (PROBLEM, "set ORT_DISABLE_TELEMETRY=1")
    assert library_checks.check_privacy(Probe({}, "no module"), here).status == OK
