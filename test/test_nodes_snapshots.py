"""Snapshots of the node over real DDS: names, faults, autosave, and a node that is killed."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from ros_helpers import NodeProcess, SegmentPeer, image_message, wait_for
from shapes import DISC, SQUARE, TINY_MODEL, iou, scene
from std_srvs.srv import Trigger

from stremn_interfaces.srv import LoadMemory, RemoveObject, SaveMemory, SeedMask
from stremn_ros.demo import assets as demo
from stremn_ros.errors import InputError
from stremn_ros.imaging import visualization
from stremn_ros.imaging.video import open_frames
from stremn_ros.messages.image_read import decode_labels
from stremn_ros.resources import shared_file
from stremn_ros.segmenter import Segmenter
from stremn_ros.snapshot import Snapshot
from stremn_ros.stream.autosave import Snapshots, snapshot_path
from stremn_ros.stream.segment_core import SegmentCore
from stremn_ros.stream.settings import Settings

NAMES = {DISC: "cup", SQUARE: "box"}


pytestmark = pytest.mark.usefixtures("one_thread")


def load(**options):
    return Segmenter.load(str(TINY_MODEL), device="cpu", runtime="torch", **options)


# ------------------------------------------------------------------------------ without ROS


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x",
        "..",
        ".",
        ".hidden",
        "a/b",
        "a/../../x",
        "a\\b",
        "~",
        "~root",
        "a\0b",
        "a\nb",
        "x\n",
        " ",
        "-rf",
        "$HOME",
        "é",
        "a" * 101,
    ],
)
def test_a_name_that_is_no_plain_file_name_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="cannot be the name of a snapshot: give a plain file"):
        snapshot_path(str(tmp_path), name)


def test_plain_names_lie_in_the_folder_and_links_are_refused(tmp_path):
    for name in ("a", "a.safetensors", "robot-1_left.2026", "a" * 100):
        path = snapshot_path(str(tmp_path), name)
        assert path.parent == tmp_path
        assert path.suffix == ".safetensors"
    with pytest.raises(InputError, match="parameter snapshot_dir"):
        snapshot_path("", "a")
    (tmp_path / "a.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"):
        snapshot_path(str(tmp_path), "a")


class Rig:
    """A core with the tiny model, and its snapshots, without an interval."""

    def __init__(self, folder):
        self.logs = []
        self.settings = Settings()
        self.core = SegmentCore(
            load(), publish=lambda _: None, log=self.log, settings=self.settings
        )
        self.snapshots = Snapshots(self.core, str(folder), "left.stremn", self.settings, self.log)
        self.file = Path(folder) / "left.stremn.safetensors"
        self.core.activate()
        self.stamp = 0

    def log(self, severity, key, text):
        self.logs.append((severity, text))

    def send(self, step):
        self.stamp += 100_000_000
        self.core.on_frame(image_message(scene(step)[0], self.stamp))
        wait_for(self.core.idle, "an idle core")

    def close(self):
        self.snapshots.close()
        self.core.close()


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path / "deep" / "snapshots")
    yield made
    made.close()


def test_autosave_writes_what_has_changed_and_only_that(rig):
    rig.snapshots.autosave()
    assert not rig.file.exists(), "a node that did nothing wrote over the memory of the last run"
    rig.send(0)
    rig.snapshots.autosave()
    assert not rig.file.exists()
    assert rig.core.seed_mask(image_message(scene(0)[1], 0, "mono8"), ["cup", "box"]).success
    rig.snapshots.autosave()
    assert Snapshot.read(rig.file).names == NAMES

    def written():
        return rig.file.stat().st_ino

    first = written()
    rig.snapshots.autosave()
    assert written() == first
    rig.send(1)
    assert rig.snapshots.save("by_hand").success  # another file, so the own one is still old
    rig.snapshots.autosave()
    assert written() != first
    assert Snapshot.read(rig.file).remembered == 1
    # what was removed does not come back
    assert rig.core.remove(DISC).success
    rig.snapshots.autosave()
    assert Snapshot.read(rig.file).ids == [SQUARE]
    assert rig.core.reset().success
    rig.snapshots.autosave()
    assert Snapshot.read(rig.file).ids == []
    # loaded from elsewhere is a change as well
    answer = rig.snapshots.load("by_hand")
    assert answer.success, answer.message
    assert answer.tracked_ids == [DISC, SQUARE]
    rig.snapshots.autosave()
    assert Snapshot.read(rig.file).ids == [DISC, SQUARE]
    answer = rig.core.reset()
    assert not rig.snapshots.save().success, "nothing is no reason to write over something"
    assert Snapshot.read(rig.file).ids == [DISC, SQUARE]


def test_the_interval_may_change_at_any_time(rig):
    rig.send(0)
    assert rig.core.seed_mask(image_message(scene(0)[1], 0, "mono8")).success
    rig.settings.autosave_period = 3600.0
    rig.snapshots.settings_changed()
    time.sleep(0.2)
    assert not rig.file.exists()
    rig.settings.autosave_period = 0.02
    rig.snapshots.settings_changed()
    wait_for(rig.file.exists, "the first snapshot")
    rig.settings.autosave_period = 0.0
    rig.snapshots.settings_changed()
    time.sleep(0.2)
    rig.send(1)
    time.sleep(0.2)
    assert rig.snapshots.unsaved()


def test_an_autosave_that_fails_is_told_until_one_works(rig):
    rig.send(0)
    assert rig.core.seed_mask(image_message(scene(0)[1], 0, "mono8")).success
    rig.file.parent.parent.mkdir()
    rig.file.parent.write_text("a file where the folder should be")
    rig.snapshots.autosave()
    last, problem = rig.snapshots.status()
    assert last == "never"
    assert "autosave failed: the folder" in problem
    report = rig.core.report("", last, [problem])
    assert (report.level, report.message) == (1, problem)
    assert ("error", problem) in rig.logs
    rig.file.parent.unlink()
    rig.snapshots.autosave()
    last, problem = rig.snapshots.status()
    assert last.startswith("left.stremn.safetensors with 2 objects saved, 0.")
    assert problem == ""


# ------------------------------------------------------------------------------ over DDS

LIMIT = 64 * 1024


class Run:
    """A node with snapshots; it can be killed and started again."""

    def __init__(self, folder):
        self.folder = folder
        self.snapshots = folder / "snapshots"
        self.node = None
        self.peer = SegmentPeer()

    def start(self, **parameters):
        self.node = NodeProcess(
            "segment_node",
            self.folder,
            {
                "model": str(TINY_MODEL),
                "runtime": "torch",
                "image_reliability": "reliable",
                "diagnostics_period": 0.1,
                "log_period": 0.0,
                "snapshot_dir": str(self.snapshots),
                **parameters,
            },
        )
        # as the launch file does it, where DDS still knows the one that was killed
        done = subprocess.run(
            [sys.executable, "-m", "stremn_ros.client.bring_up", "/stremn"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.node.log

    def seed(self, truth, names):
        message = image_message(truth, 0, "mono8")
        answer = self.peer.call(SeedMask, "/stremn/seed_mask", mask=message, names=names)
        assert answer.success, answer.message

    def save(self, name=""):
        return self.peer.call(SaveMemory, "/stremn/save_memory", path=name)

    def load(self, name=""):
        return self.peer.call(LoadMemory, "/stremn/load_memory", path=name)

    def close(self):
        self.peer.close()
        if self.node is not None:
            self.node.stop()


@pytest.fixture
def run(tmp_path):
    made = Run(tmp_path)
    yield made
    made.close()


def found_names(objects):
    return {item.id: item.name for item in objects.objects}


def test_a_node_that_is_killed_goes_on_with_the_same_objects(run):
    run.start(autosave_period=0.1, autoload=True)
    run.node.wait_for_log("autoload: there is no snapshot yet")
    peer = run.peer
    peer.connect(scene(0)[0])
    run.seed(scene(0)[1], ["cup", "box"])
    for step in range(1, 9):
        labels, objects = peer.segment(scene(step)[0])
    assert found_names(objects) == NAMES
    file = run.snapshots / "stremn.safetensors"
    wait_for(lambda: file.exists() and Snapshot.read(file).remembered >= 8, "the autosave")
    run.node.process.send_signal(signal.SIGKILL)
    assert run.node.wait() == -signal.SIGKILL

    reference = load()  # goes on in this process as the node should
    reference.load_memory(shutil.copy(file, run.folder / "copy"))
    seen = set(peer.masks)
    run.start(autosave_period=0.1, autoload=True)
    run.node.wait_for_log("autoload: loaded objects 1, 2 from")
    peer.connect(scene(8)[0])
    first = min(set(peer.masks) - seen)
    assert found_names(peer.objects[first]) == NAMES
    after = decode_labels(peer.masks[first])
    np.testing.assert_array_equal(after, reference.segment(scene(8)[0]).labels)
    for object_id in NAMES:
        score = iou(after, labels, object_id)
        print(f"\nIoU of the masks of object {object_id} before and after the kill: {score:.3f}")
        assert score > 0.9
    # removed objects stay removed, whatever happens
    assert peer.call(RemoveObject, "/stremn/remove_object", id=DISC).success
    wait_for(lambda: Snapshot.read(file).ids == [SQUARE], "the autosave")
    run.node.process.send_signal(signal.SIGKILL)
    run.node.wait()
    run.start(autoload=True)
    peer.connect(scene(8)[0])
    _, objects = peer.segment(scene(8)[0])
    assert found_names(objects) == {SQUARE: "box"}


def test_on_a_real_clip_the_masks_before_and_after_agree(run):
    """The rabbit of the demo, seeded 12 frames before the kill."""
    video, first = demo.demo_video(), demo.START_FRAME
    frames = list(open_frames(video, first, first + 13, (360, 640)))
    mask = visualization.read_label_png(shared_file("demo_seed.png"))
    mask = cv2.resize(mask, (640, 360), interpolation=cv2.INTER_NEAREST)
    options = {"model": "segment_lite0", "autosave_period": 0.1, "autoload": True}
    options["processing_size"] = 192  # a third of the time of the default
    run.start(**options)
    run.peer.connect(frames[0])
    run.seed(mask, [])
    for frame in frames[1:13]:
        before, _ = run.peer.segment(frame)
    file = run.snapshots / "stremn.safetensors"
    wait_for(lambda: file.exists() and Snapshot.read(file).remembered >= 12, "the autosave")
    run.node.process.send_signal(signal.SIGKILL)
    run.node.wait()
    run.start(**options)
    seen = set(run.peer.masks)
    run.peer.connect(frames[12])
    first = min(set(run.peer.masks) - seen)
    ids = [int(value) for value in np.unique(mask) if value]
    assert sorted(found_names(run.peer.objects[first])) == ids
    after = decode_labels(run.peer.masks[first])
    for object_id in ids:
        score, area = iou(after, before, object_id), np.count_nonzero(before == object_id)
        print(f"\nobject {object_id} of {area} pixels: IoU before and after the kill {score:.3f}")
        assert score > 0.9


def test_save_and_load_by_hand_with_all_that_can_go_wrong(run, tmp_path):
    run.start(processing_size=240)  # so that a snapshot is larger than the log
    peer = run.peer
    answer = run.save()
    assert (answer.success, list(answer.tracked_ids)) == (False, [])
    assert "nothing to save" in answer.message
    answer = run.load()
    assert not answer.success
    assert "there is no snapshot" in answer.message
    assert not run.snapshots.exists()
    peer.connect(scene(0)[0])
    run.seed(scene(0)[1], ["cup", "box"])
    peer.segment(scene(1)[0])
    answer = run.save()
    assert answer.success, answer.message
    assert answer.message.startswith("saved objects 1, 2 to ")
    assert list(answer.tracked_ids) == [DISC, SQUARE]
    assert os.listdir(run.snapshots) == ["stremn.safetensors"]

    # bit for bit the masks of a segmenter in this process that loads the same file
    reference = load(processing_size=240)
    names = reference.load_memory(run.snapshots / "stremn.safetensors")
    assert names == NAMES
    for step in range(2, 5):
        labels, _ = peer.segment(scene(step)[0])
        np.testing.assert_array_equal(labels, reference.step(scene(step)[0]).labels)
    assert peer.call(Trigger, "/stremn/reset").success
    answer = run.load()
    assert answer.success, answer.message
    assert list(answer.tracked_ids) == [DISC, SQUARE]
    reference.load_memory(run.snapshots / "stremn.safetensors")
    labels, objects = peer.segment(scene(2)[0])
    np.testing.assert_array_equal(labels, reference.step(scene(2)[0]).labels)
    assert found_names(objects) == NAMES

    # names that lead out of the folder, and links in it
    outside = tmp_path / "outside.safetensors"
    shutil.copy(run.snapshots / "stremn.safetensors", outside)
    content = outside.read_bytes()
    (run.snapshots / "link.safetensors").symlink_to(outside)
    for call in (run.save, run.load):
        for name in ("../outside", str(outside), "a/b", "..", "link", "x" * 5000, "é"):
            answer = call(name)
            assert not answer.success, name
            assert "plain file name" in answer.message or "is a link" in answer.message
            assert list(answer.tracked_ids) == [DISC, SQUARE]
    assert outside.read_bytes() == content
    assert sorted(os.listdir(run.snapshots)) == ["link.safetensors", "stremn.safetensors"]

    # a damaged file, one of other slots
    (run.snapshots / "damaged.safetensors").write_bytes(content[:-1000])
    other = load(slots=2, processing_size=240)
    other.seed(*scene(0))
    other.save(run.snapshots / "other.safetensors")
    for name, text in (("damaged", "damaged"), ("other", "has 2 slots for each object")):
        answer = run.load(name)
        assert not answer.success
        assert text in answer.message
        assert list(answer.tracked_ids) == [DISC, SQUARE]

    # the disk takes no more: the kernel cuts every file of the node at a limit
    file = run.snapshots / "stremn.safetensors"
    content = file.read_bytes()
    assert len(content) > LIMIT > 4 * run.node.log_path.stat().st_size
    pid = run.node.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    answer = run.save()
    assert not answer.success
    assert "cannot be written" in answer.message
    assert "unchanged" in answer.message
    assert file.read_bytes() == content
    assert peer.set_parameter("autosave_period", 0.1) == (True, "")
    peer.segment(scene(3)[0])
    wait_for(
        lambda: "autosave failed" in peer.told and peer.status.level == DiagnosticStatus.WARN,
        "the diagnostics to tell",
    )
    assert file.read_bytes() == content
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    wait_for(lambda: "saved" in peer.diagnostics["snapshot"], "an autosave that works")
    wait_for(lambda: "autosave failed" not in peer.told, "the diagnostics to calm down")
    wait_for(lambda: Snapshot.read(file).remembered == 3, "the snapshot")
    assert not list(run.snapshots.glob(".*"))
    assert not peer.set_parameter("snapshot_dir", "/tmp")[0]


def test_the_memory_is_saved_at_the_end_and_by_deactivation_if_asked(run):
    run.start(autosave_at_stop=True, autoload=True)
    peer = run.peer
    file = run.snapshots / "stremn.safetensors"
    peer.connect(scene(0)[0])
    run.seed(scene(0)[1], ["cup", "box"])
    peer.segment(scene(1)[0])
    assert not file.exists()
    assert peer.transition("deactivate")
    assert Snapshot.read(file).remembered == 1
    assert peer.transition("activate")
    peer.connect(scene(2)[0])
    _, objects = peer.segment(scene(2)[0])
    assert found_names(objects) == NAMES
    assert run.node.log.count("autoload:") == 1
    assert run.node.stop(signal.SIGTERM) == 0, run.node.log
    assert Snapshot.read(file).remembered >= 3
    assert "Traceback" not in run.node.log
    # a damaged one: told, and the node works all the same
    file.write_bytes(file.read_bytes()[:-1])
    run.start(autoload=True, autosave_period=0.1)
    run.node.wait_for_log("autoload failed: ")
    peer.connect(scene(0)[0])
    wait_for(lambda: "autoload failed" in peer.told, "the diagnostics to tell")
    with pytest.raises(InputError, match="damaged"):  # nothing has been written over it
        Snapshot.read(file)
    run.seed(scene(0)[1], ["cup", "box"])
    peer.segment(scene(1)[0])
    wait_for(lambda: "saved" in peer.diagnostics["snapshot"], "an autosave")
    assert Snapshot.read(file).ids == [DISC, SQUARE]
