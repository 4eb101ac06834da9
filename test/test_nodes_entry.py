"""How the processes of nodes begin and end: without a log folder, told to stop at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from ros_helpers import NodeProcess, Peer, SegmentPeer, segment_node, wait_for
from shapes import TINY_MODEL, scene

from stremn_ros.client.bring_up import BringUpError, bring_up, is_alive
from stremn_ros.errors import StremnError
from stremn_ros.nodes import entry
from stremn_ros.nodes.dds_profile import FAST_DDS_2, FAST_DDS_3
from stremn_ros.resources import shared_file
from stremn_ros.snapshot import Snapshot

EXECUTABLES = ("segment_node", "predict_node", "segment_predict_node", "video_source_node")


def start(module, *words, room="nodes", **environment):
    """A main function as a process, with these variables (None: without)."""
    env = {key: value for key, value in {**os.environ, **environment}.items() if value is not None}
    command = [sys.executable, "-m", f"stremn_ros.{room}.{module}", *words]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended(process):
    text = process.communicate(timeout=180)[0]
    assert process.returncode == 1, text
    assert "Traceback" not in text
    return text


def test_without_a_folder_for_the_log_every_executable_says_so_in_a_sentence(tmp_path):
    started = [start(name, HOME=None, ROS_LOG_DIR=None, ROS_HOME=None) for name in EXECUTABLES]
    nowhere = {"HOME": None, "ROS_LOG_DIR": None, "ROS_HOME": None}
    started.append(start("bring_up", "/stremn", room="client", **nowhere))
    texts = [ended(process) for process in started]
    for name, text in zip((*EXECUTABLES, "bring_up"), texts):
        assert text == (
            f"{name}: error: there is no folder for the log of ROS (neither HOME nor ROS_LOG_DIR "
            "is set): set ROS_LOG_DIR to a folder that can be written to\n"
        )


def test_other_things_that_keep_ros_from_starting_are_said_in_a_sentence(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [1")
    cases = {
        "(ROS_LOG_DIR is /proc/no)": start("video_source_node", ROS_LOG_DIR="/proc/no"),
        "Couldn't parse params file": start(
            "video_source_node", "--ros-args", "--params-file", str(tmp_path / "bad.yaml")
        ),
        "unknown ROS arguments: ['--foo']": start("segment_node", "--ros-args", "--foo"),
        "ROS_DOMAIN_ID is not an integral number": start("predict_node", ROS_DOMAIN_ID="x"),
    }
    for says, process in cases.items():
        text = ended(process)
        assert says in text
        assert ", at /" not in text, "a place in the sources of rcl"


def test_signals_only_tell_and_do_so_more_than_once():
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signals = entry.StopSignals()
        assert not signals.told
        for number in (*before, signal.SIGINT):
            os.kill(os.getpid(), number)
        signals.wait()
        assert signals.told
        for _ in range(100_000):  # more than the pipe holds
            signals.tell()
        signals.ignore()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        entry.StopSignals()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_that_another_thread_takes_is_heard():
    """It does not interrupt the main thread, which waits: such a node could not be ended."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    heard, late = threading.Event(), []
    try:
        signals = entry.StopSignals()

        def take():
            time.sleep(0.3)
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            if not heard.wait(10):
                late.append(True)
                signals.tell()

        thread = threading.Thread(target=take)
        thread.start()
        signals.wait()
        heard.set()
        thread.join()
        assert not late
        assert signals.told
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)


def test_what_is_no_failure_of_ros_is_not_hidden(capsys):
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def fail(signals):
        raise KeyError("a bug")

    def refuse(signals):
        raise StremnError("in a sentence")

    try:
        with pytest.raises(KeyError):
            entry.run("x_node", fail)
        assert entry.run("x_node", refuse) == 1
        assert capsys.readouterr().err == "x_node: error: in a sentence\n"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- the end


def interrupted_twice(process):
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)


def all_signals_all_the_time(process):
    while process.poll() is None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            process.send_signal(number)
        time.sleep(0.002)


@pytest.mark.parametrize("how", [interrupted_twice, all_signals_all_the_time])
def test_no_signal_loses_the_snapshot(tmp_path, how):
    """While images come in faster than they are segmented."""
    node = NodeProcess(
        "segment_node",
        tmp_path,
        {
            "model": str(TINY_MODEL),
            "runtime": "torch",
            "image_reliability": "reliable",
            "snapshot_dir": str(tmp_path / "snapshots"),
            "autosave_at_stop": True,
            "processing_size": 256,
        },
    )
    peer = SegmentPeer()
    flowing = threading.Event()
    try:
        peer.bring_up(node)
        peer.connect(scene(0)[0])
        peer.seed(scene(0)[1], names=["cup", "box"])

        def camera():
            while not flowing.wait(0.005):
                peer.publish(scene(0)[0])

        thread = threading.Thread(target=camera)
        thread.start()
        count = len(peer.masks)
        wait_for(lambda: len(peer.masks) > count, "masks")
        how(node.process)
        assert node.wait(60) == 0, node.log[-2000:]
    finally:
        flowing.set()
        thread.join()
        node.stop()
        peer.close()
    assert Snapshot.read(tmp_path / "snapshots" / "stremn.safetensors").names == {
        1: "cup",
        2: "box",
    }
    for text in ("Traceback", "[ERROR]", "not segmented"):
        assert text not in node.log


def test_a_signal_while_configuring_ends_it_without_a_failure(tmp_path):
    """Before, in and after the loading of the network."""
    for delay in (0.0, 0.15, 0.5):
        node = NodeProcess("segment_node", tmp_path, {"model": "segment_lite0", "runtime": "torch"})
        peer = Peer("starter")
        try:
            peer.state()
            from lifecycle_msgs.msg import Transition
            from lifecycle_msgs.srv import ChangeState

            request = ChangeState.Request(transition=Transition(id=1))
            peer.ask(ChangeState, "/stremn/change_state", request)
            time.sleep(delay)
            node.process.send_signal(signal.SIGTERM if delay else signal.SIGINT)
            assert node.wait(120) == 0, node.log
        finally:
            node.stop()
            peer.close()
        for text in ("Traceback", "configure failed", "[ERROR]"):
            assert text not in node.log, node.log


# ---------------------------------------------------------------- its way to active


def test_a_node_starts_by_itself_if_it_is_told_to_and_else_says_how(tmp_path):
    with segment_node(tmp_path, {"autostart": True}) as node, Peer("looker") as peer:
        wait_for(lambda: peer.state() == "active", "the node to be active", every=0.2)
    with segment_node(tmp_path) as node:
        wait_for(lambda: "-p autostart:=true" in node.log, "the hint", every=0.2)
        assert "configured" not in node.log.replace("unconfigured", "")


def test_help_starts_nothing():
    for name in EXECUTABLES:
        process = start(name, "--help")
        text = process.communicate(timeout=60)[0]
        assert process.returncode == 0, text
        assert text.startswith("usage: "), text


def test_a_node_whose_process_has_ended_is_not_waited_for():
    with Peer("waiter") as peer:
        begin = time.monotonic()
        with pytest.raises(BringUpError, match="the process of '/nobody' has ended before"):
            bring_up(peer, "/nobody", 60.0, alive=lambda: time.monotonic() - begin < 1)
    assert time.monotonic() - begin < 30
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not is_alive(child.pid)
    assert is_alive(os.getpid())
    assert is_alive(1)


# ---------------------------------------------------------------- room for images


def test_a_process_gives_fast_dds_room_for_images_by_itself(monkeypatch):
    for name in (FAST_DDS_2, FAST_DDS_3):
        monkeypatch.setenv(name, "")  # to be as before after the test
        del os.environ[name]
    entry.use_shared_memory()
    given = [os.environ[name] for name in (FAST_DDS_2, FAST_DDS_3) if name in os.environ]
    assert given == [str(shared_file("fastdds_shm.xml"))]
    for own in ("mine.xml", ""):
        monkeypatch.setenv(FAST_DDS_3, own)
        entry.use_shared_memory()
        assert os.environ[FAST_DDS_3] == own
