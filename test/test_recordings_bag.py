"""Labels as ROS messages: bags that rosbags reads, messages that ROS reads."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rclpy.serialization import deserialize_message
from recordings_helpers import (
    IMAGE,
    ROS1,
    camera,
    file_of,
    hashes,
    scenes,
    seeds_file,
    stamps,
    write_bag,
)
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability
from rosbags.rosbag1 import Writer as Writer1
from sensor_msgs.msg import Image
from shapes import DISC
from test_recordings_label import SIZE, job_of, masks_of, truth

from stremn_interfaces.msg import ObjectArray
from stremn_ros.errors import InputError, StremnError
from stremn_ros.imaging.video import VideoWriter
from stremn_ros.messages import image_read
from stremn_ros.recordings import labelled_bag
from stremn_ros.recordings.bags import open_bag
from stremn_ros.recordings.job import label
from stremn_ros.recordings.labelled_bag import (
    LABEL_INFO,
    OBJECTS,
    Storage,
    label_types,
    storage_of,
)
from stremn_ros.recordings.sources import read_indexes
from stremn_ros.recordings.tasks import BagTask, FilesTask, HashTask, IndexTask, PassTask, Task
from stremn_ros.recordings.workers import Processes, Serial

TOPIC = "/camera/image_raw"


def messages(bag: Path) -> dict[str, list[tuple[int, Any, bytes]]]:
    """(recorded at, message, its bytes) by topic."""
    found: dict[str, list[tuple[int, Any, bytes]]] = {}
    with AnyReader([bag]) as reader:
        for connection, when, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((when, message, bytes(data)))
    return found


@pytest.mark.parametrize("kind", ["mcap", "mcap_zstd", "sqlite3", "sqlite3_zstd", "bag1"])
def test_the_recording_comes_again_with_the_labels(kind: str, tmp_path: Path) -> None:
    frames = scenes(10)
    bag = write_bag(tmp_path / "drive", kind, camera(kind, frames))
    seeds = seeds_file(tmp_path, {"frame": 3, "id": DISC, "name": "disc", "mask": truth(3)})
    out = tmp_path / "out"
    result = label(job_of(bag, seeds, out, formats=("davis", "mcap")))
    assert result["tracks"][0]["problems"] == []
    found = messages(out / "mcap" / "drive")
    names = {"/stremn/label_info", "/stremn/mask", "/stremn/objects", "/stremn/seed"}
    assert found.keys() == {TOPIC, *names}
    own, masks, objects = (found[n] for n in (TOPIC, "/stremn/mask", "/stremn/objects"))
    labels = masks_of(out)
    assert [when for when, _, _ in own] == stamps(10)
    for number in range(10):
        assert np.array_equal(image_read.decode_rgb(own[number][1]), frames[number])
        when, mask, data = masks[number]
        assert when == stamps(10)[number]
        assert np.array_equal(image_read.decode_labels(mask), labels[number])
        assert mask.header == own[number][1].header
        # as ROS itself reads it
        read = deserialize_message(data, Image)
        assert (read.encoding, read.header.frame_id) == ("mono8", "camera")
        array = deserialize_message(objects[number][2], ObjectArray)
        assert [item.name for item in array.objects] == ["disc"]
        assert array.objects[0].area == int((labels[number] == DISC).sum())
    assert len(found["/stremn/seed"]) == 1
    info = found["/stremn/label_info"][0][1]
    assert [(c.class_id, c.class_name) for c in info.class_map] == [(0, "background"), (1, "disc")]
    # what was written can be labelled again
    assert list(read_indexes(out / "mcap" / "drive")) == [TOPIC]


@pytest.mark.parametrize("kind", ["mcap", "sqlite3_zstd"])
def test_no_message_is_passed_over_where_the_metadata_words_the_qos_otherwise(
    kind: str, tmp_path: Path
) -> None:
    frames = scenes(5)
    bag = write_bag(tmp_path / "drive", kind, camera(kind, frames))
    metadata = bag / "metadata.yaml"
    text = metadata.read_text()
    old = "offered_qos_profiles: ''"
    assert old in text
    profile = "- history: 1\\n  depth: 1\\n  reliability: 1\\n  durability: 2\\n  deadline:\\n"
    profile += "    sec: 0\\n    nsec: 0\\n  lifespan:\\n    sec: 0\\n    nsec: 0\\n  liveliness: 1"
    profile += "\\n  liveliness_lease_duration:\\n    sec: 0\\n    nsec: 0\\n"
    profile += "  avoid_ros_namespace_conventions: false"
    metadata.write_text(text.replace(old, f'offered_qos_profiles: "{profile}"'))
    with AnyReader([bag]) as reader:  # as rosbags has it
        assert list(reader.messages()) == []
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    result = label(job_of(bag, seeds, tmp_path / "out", formats=("davis", "mcap")))
    assert result["tracks"][0]["labelled"] == 5
    assert result["tracks"][0]["problems"] == []
    own = messages(tmp_path / "out" / "mcap" / "drive")[TOPIC]
    assert [np.array_equal(image_read.decode_rgb(m), f) for (_, m, _), f in zip(own, frames)] == [
        True
    ] * 5


def test_each_publisher_of_a_topic_of_ros_1_keeps_what_it_published(tmp_path: Path) -> None:
    kind, frames = "std_msgs/msg/String", camera("bag1", scenes(4))
    with Writer1(tmp_path / "drive.bag") as writer:
        own = writer.add_connection(TOPIC, IMAGE, typestore=ROS1)
        said = [
            writer.add_connection("/said", kind, typestore=ROS1, callerid=name, latching=latching)
            for name, latching in (("/one", 1), ("/other", 0))
        ]
        for n, (_, _, when, message) in enumerate(frames):
            writer.write(own, when, ROS1.serialize_ros1(message, IMAGE))
            text = ROS1.types[kind](data=f"{n}")
            writer.write(said[n % 2], when, ROS1.serialize_ros1(text, kind))
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    label(job_of(tmp_path / "drive.bag", seeds, tmp_path / "out", formats=("bag",)))
    with AnyReader([tmp_path / "out" / "bag" / "drive.bag"]) as reader:
        heard = [
            (c.ext.callerid, c.ext.latching, reader.deserialize(data, kind).data)
            for c, _, data in reader.messages()
            if c.topic == "/said"
        ]
    assert heard == [("/one", 1, "0"), ("/other", 0, "1"), ("/one", 1, "2"), ("/other", 0, "3")]


def test_the_labels_alone_and_two_cameras(tmp_path: Path) -> None:
    records = camera("mcap", scenes(4), "/left/image") + camera("mcap", scenes(4), "/right/image")
    bag = write_bag(tmp_path / "drive", "mcap", records)
    seeds = seeds_file(
        tmp_path,
        {"topic": "/left/image", "frame": 0, "mask": truth(0)},
        {"topic": "/right/image", "frame": 0, "mask": truth(0)},
    )
    label(job_of(bag, seeds, tmp_path / "alone", formats=("mcap-sidecar",)))
    left = messages(tmp_path / "alone" / "mcap" / "drive_left_image")
    assert all(name.startswith("/stremn/left_image/") for name in left)
    label(job_of(bag, seeds, tmp_path / "whole", formats=("mcap",)))
    found = messages(tmp_path / "whole" / "mcap" / "drive")
    for name, items in left.items():
        assert [(when, data) for when, _, data in found[name]] == [(w, d) for w, _, d in items]
    assert len(found["/left/image"]) == len(found["/stremn/right_image/mask"]) == 4
    assert len(list((tmp_path / "whole" / "mcap").iterdir())) == 1


def test_cameras_whose_topics_are_one_word_keep_theirs_apart(tmp_path: Path) -> None:
    topics = "/cam/1/image", "/cam_1/image", "/cam/1/image/2", "/é", "/ü", "/0/image"
    records = [
        record
        for n, topic in enumerate(topics, 1)
        for record in camera("mcap", scenes(n), topic, times=stamps(12)[n : 2 * n])
    ]
    bag = write_bag(tmp_path / "drive", "mcap", sorted(records, key=lambda record: record[2]))
    seeds = seeds_file(tmp_path, *({"topic": t, "frame": 0, "mask": truth(0)} for t in topics))
    result = label(job_of(bag, seeds, tmp_path / "out", formats=("mcap",)))
    assert len({track["name"] for track in result["tracks"]}) == len(topics)
    found = messages(tmp_path / "out" / "mcap" / "drive")
    masks = {name: len(found[name]) for name in found if name.endswith("/mask")}
    assert sorted(masks.values()) == [1, 2, 3, 4, 5, 6]
    # what ROS takes for a name
    assert all(re.fullmatch(r"/stremn/[A-Za-z]\w*/mask", name, re.ASCII) for name in masks)
    assert {"/stremn/cam_1_image/mask", "/stremn/camera/mask"} < masks.keys()


@pytest.mark.parametrize("kind", ["mcap", "sqlite3", "bag1"])
def test_times_that_no_message_can_hold_do_not_stop_the_bag(kind: str, tmp_path: Path) -> None:
    frames = scenes(5)
    odd = camera(kind, frames)
    stamp = odd[2][3].header.stamp
    stamp.sec, stamp.nanosec = (1 << 31) - 1, (1 << 32) - 1
    # one that was recorded in 2100, as its damaged bytes say, and has no stamp
    whens = [*stamps(5)[:4], 4_102_444_800 * 10**9]
    late = zip(whens, camera(kind, frames, times=[0] * 5))
    for name, records in (("odd", odd), ("late", [(a, b, w, m) for w, (a, b, _, m) in late])):
        bag = write_bag(tmp_path / name, kind, records)
        seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
        out = tmp_path / f"out_{name}"
        result = label(job_of(bag, seeds, out, formats=("davis", "mcap", "bag")))
        assert result["tracks"][0]["labelled"] == 5
        found = messages(out / "mcap" / name)
        assert len(found["/stremn/mask"]) == len(found[TOPIC]) == 5


@pytest.mark.parametrize(
    ("name", "storage"),
    [
        ("x.bag", Storage.ROS1),
        ("x.BAG", Storage.ROS1),
        ("x.bag.active", Storage.ROS1),
        ("x.bag.mcap", Storage.MCAP),
        ("x.db3.mcap", Storage.MCAP),
        ("x.mcap.db3", Storage.SQLITE3),
        ("X.DB3", Storage.SQLITE3),
        ("clip.mp4", Storage.MCAP),
        ("x.db3/x_0.mcap", Storage.MCAP),
        ("x.bag/x.bag.mcap", Storage.MCAP),
        ("x/x_0.db3.zstd", Storage.SQLITE3),
        ("x/x_0.mcap.zstd", Storage.MCAP),
    ],
)
def test_the_last_suffix_of_a_recording_is_its_format(
    name: str, storage: Storage, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert storage_of(tmp_path / name.partition("/")[0]) is storage


@pytest.mark.usefixtures("half_the_threads")
def test_recordings_of_one_name_keep_their_bags_apart_on_workers(tmp_path: Path) -> None:
    topics = "/left/image", "/right/image"
    entries = []
    recordings = []
    for day, count in (("day1", 4), ("day2", 5)):
        (tmp_path / day).mkdir()
        records = [r for topic in topics for r in camera("mcap", scenes(count), topic)]
        recordings.append(str(write_bag(tmp_path / day / "drive", "mcap", records)))
        where = {"recording": f"{day}/drive", "frame": 0, "mask": truth(0)}
        entries += [{"topic": topic, **where} for topic in topics]
    seeds = seeds_file(tmp_path, *entries)
    one = job_of(Path(), seeds, tmp_path / "one", recordings=tuple(recordings), formats=("mcap",))
    label(one)
    counts = {
        p.name: len(messages(p)["/left/image"]) for p in (tmp_path / "one" / "mcap").iterdir()
    }
    assert counts == {"drive": 4, "drive-2": 5}

    done: set[type] = set()

    class Noted(Processes):
        def submit(self, task: Task) -> Any:
            done.add(type(task))
            return super().submit(task)

    label(replace(one, out=tmp_path / "two"), Noted(2))
    assert hashes(tmp_path / "two") == hashes(tmp_path / "one")
    assert done == {HashTask, IndexTask, PassTask, FilesTask, BagTask}


def test_a_bag_that_was_written_is_not_written_again(tmp_path: Path) -> None:
    recordings = [
        str(write_bag(tmp_path / name, "mcap", camera("mcap", scenes(4)))) for name in ("a", "b")
    ]
    seeds = seeds_file(
        tmp_path, *({"recording": name, "frame": 0, "mask": truth(0)} for name in ("a", "b"))
    )
    out = tmp_path / "out"
    job = job_of(Path(), seeds, out, recordings=tuple(recordings), formats=("mcap",))
    label(replace(job, out=tmp_path / "whole"))

    class Stopped(Serial):
        """Is stopped while the second bag is written."""

        def run(self, first: Any, done: Any, look: Any, tell: Any) -> None:
            def stop(running: Any) -> None:
                if any(isinstance(task, BagTask) and task.word == "b" for task in running):
                    (out / "work" / "bags" / "b" / "b").mkdir(parents=True)  # it is not whole
                    raise KeyboardInterrupt

            super().run(first, done, stop, tell)

    with pytest.raises(KeyboardInterrupt):
        label(job, Stopped())
    written = (out / "mcap" / "a" / "a.mcap").stat()
    assert not (out / "mcap" / "b").exists()
    label(replace(job, resume=True))
    assert (out / "mcap" / "a" / "a.mcap").stat().st_ino == written.st_ino
    assert hashes(out) == hashes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("kind", "name", "first"),
    [
        ("mcap_zstd", "drive/drive.mcap", b"\x89MCAP"),
        ("sqlite3_zstd", "drive/drive.db3", b"SQLite format 3"),
        ("bag1_lz4", "drive.bag", b"#ROSBAG V2.0"),
    ],
)
def test_the_recording_comes_again_in_its_own_format(
    kind: str, name: str, first: bytes, tmp_path: Path
) -> None:
    frames = scenes(6)
    bag = write_bag(tmp_path / "drive", kind, camera(kind, frames))
    seeds = seeds_file(tmp_path, {"frame": 2, "id": DISC, "name": "disc", "mask": truth(2)})
    out = tmp_path / "out"
    result = label(job_of(bag, seeds, out, formats=("davis", "mcap", "bag")))
    assert result["tracks"][0]["problems"] == []
    assert (out / "bag" / name).read_bytes().startswith(first)
    again = next((out / "bag").iterdir())
    found, other = messages(again), messages(out / "mcap" / "drive")
    assert found.keys() == other.keys()
    for topic, items in found.items():
        assert [when for when, _, _ in items] == [when for when, _, _ in other[topic]]
    own = [data for _, _, data in messages(bag)[TOPIC]]
    assert [data for _, _, data in found[TOPIC]] == own, "not a byte of a message is another"
    for number, labels in enumerate(masks_of(out)):
        _, mask, _ = found["/stremn/mask"][number]
        _, array, _ = found["/stremn/objects"][number]
        assert np.array_equal(image_read.decode_labels(mask), labels)
        assert mask.header.stamp == found[TOPIC][number][1].header.stamp
        assert [(item.name, item.area) for item in array.objects] == [
            ("disc", int((labels == DISC).sum()))
        ]
    info = found["/stremn/label_info"][0][1]
    assert [(c.class_id, c.class_name) for c in info.class_map] == [(0, "background"), (1, "disc")]
    with AnyReader([again]) as reader, AnyReader([bag]) as before:
        (connection,) = reader.topics["/stremn/label_info"].connections
        if kind.startswith("bag1"):
            assert connection.ext.latching == 1
        else:
            profile = connection.ext.offered_qos_profiles[0]
            assert profile.durability is QosDurability.TRANSIENT_LOCAL
        # what ROS compares before it plays a message to a subscriber
        digests = {c.topic: c.digest for c in reader.connections}
        assert digests[TOPIC] == before.topics[TOPIC].connections[0].digest
        assert digests["/stremn/mask"] == digests[TOPIC]
    # what was written can be labelled again, and gives the same masks
    assert list(read_indexes(again)) == [TOPIC]
    label(job_of(again, seeds, tmp_path / "twice"))
    assert all(map(np.array_equal, masks_of(out), masks_of(tmp_path / "twice")))


def information(bag: Path) -> dict[str, Any]:
    """metadata.yaml as rosbag2 reads it for `ros2 bag info` and `play`.

    The rules are those of rosbag2_storage, yaml.hpp and qos.cpp: what it asks for in version 8 must
    be there and have the type that it converts to, or it refuses the bag.
    """

    def whole(value: Any) -> int:
        assert type(value) is int and 0 <= value < 2**64, value  # noqa: PT018
        return value

    def text(value: Any) -> str:
        assert isinstance(value, str), value
        return value

    def quality(profile: dict[str, Any]) -> dict[str, int]:
        # up to version 8 policies are numbers; from 9 on they are words
        names = ("history", "depth", "reliability", "durability", "liveliness")
        found = {name: whole(profile[name]) for name in names}
        for name in ("deadline", "lifespan", "liveliness_lease_duration"):
            found[name] = whole(profile[name]["sec"]) * 10**9 + whole(profile[name]["nsec"])
        assert isinstance(profile["avoid_ros_namespace_conventions"], bool)
        return found

    read = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert whole(read["version"]) == 8
    assert read["custom_data"] is None or all(
        isinstance(part, str) for pair in read["custom_data"].items() for part in pair
    )
    text(read["ros_distro"])
    topics = {}
    for each in read["topics_with_message_count"]:
        about = each["topic_metadata"]
        assert text(about["serialization_format"]) == "cdr"
        assert re.fullmatch("RIHS01_[0-9a-f]{64}", text(about["type_description_hash"]))
        profiles = yaml.safe_load(text(about["offered_qos_profiles"]) or "[]")
        topics[text(about["name"])] = {
            "type": text(about["type"]),
            "count": whole(each["message_count"]),
            "qos": [quality(profile) for profile in profiles],
        }
    files = [
        {
            "path": text(each["path"]),
            "start": whole(each["starting_time"]["nanoseconds_since_epoch"]),
            "duration": whole(each["duration"]["nanoseconds"]),
            "count": whole(each["message_count"]),
        }
        for each in read["files"]
    ]
    assert [each["path"] for each in files] == [text(path) for path in read["relative_file_paths"]]
    return {
        "storage": text(read["storage_identifier"]),
        # another reader, which unpacks whole files or messages, is taken where these are set
        "compression": text(read["compression_format"]) + text(read["compression_mode"]),
        "start": whole(read["starting_time"]["nanoseconds_since_epoch"]),
        "duration": whole(read["duration"]["nanoseconds"]),
        "count": whole(read["message_count"]),
        "topics": topics,
        "files": files,
    }


@pytest.mark.parametrize(("kind", "form"), [("mcap", "mcap"), ("sqlite3_zstd", "bag")])
def test_the_metadata_is_as_rosbag2_wants_it(kind: str, form: str, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "drive", kind, camera(kind, scenes(6)))
    seeds = seeds_file(tmp_path, {"frame": 2, "mask": truth(2)})
    label(job_of(bag, seeds, tmp_path / "out", formats=(form,)))
    folder = tmp_path / "out" / form / "drive"
    found, read = information(folder), messages(folder)
    assert found["storage"] == kind.partition("_")[0]
    assert found["compression"] == ""
    assert {name: each["count"] for name, each in found["topics"].items()} == {
        name: len(items) for name, items in read.items()
    }
    assert found["count"] == sum(map(len, read.values()))
    times = [when for items in read.values() for when, _, _ in items]
    assert (found["start"], found["duration"]) == (min(times), max(times) - min(times))
    (file,) = found["files"]
    assert (folder / file["path"]).is_file()
    assert [file[name] for name in ("start", "duration", "count")] == [
        found[name] for name in ("start", "duration", "count")
    ]
    (latched,) = found["topics"]["/stremn/label_info"]["qos"]
    assert (latched["reliability"], latched["durability"]) == (1, 1)  # reliable, transient local
    assert found["topics"]["/stremn/objects"]["type"] == OBJECTS


def test_types_as_the_first_recorders_of_ros_2_wrote_them(tmp_path: Path) -> None:
    frames = scenes(4)
    bag = write_bag(tmp_path / "drive", "sqlite3", camera("sqlite3", frames))
    file = file_of(bag).rename(tmp_path / "old.db3")
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE topics SET type = 'sensor_msgs/Image'")
        database.commit()
    for scan in (False, True):
        with open_bag(file, scan) as opened:
            assert opened.topics == {TOPIC: IMAGE}
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    result = label(job_of(file, seeds, tmp_path / "out", formats=("davis", "bag")))
    assert (result["tracks"][0]["labelled"], result["tracks"][0]["problems"]) == (4, [])
    own = messages(tmp_path / "out" / "bag" / "old")[TOPIC]
    assert all(np.array_equal(image_read.decode_rgb(m), f) for (_, m, _), f in zip(own, frames))


def test_messages_of_types_that_nothing_defines_are_copied_or_told(tmp_path: Path) -> None:
    frames = scenes(4)
    bag = write_bag(tmp_path / "drive", "sqlite3", camera("sqlite3", frames))
    with contextlib.closing(sqlite3.connect(file_of(bag))) as database:
        database.execute("INSERT INTO topics VALUES(9, '/own', 'own_msgs/msg/Own', 'cdr', '', '')")
        database.executemany(
            "INSERT INTO messages(topic_id, timestamp, data) VALUES(9, ?, ?)",
            [(when, b"\0\1\0\0" + bytes([n] * 9)) for n, when in enumerate(stamps(4))],
        )
        # rosbag2 before 2023 kept no definitions
        database.execute("DROP TABLE message_definitions")
        database.execute("UPDATE schema SET schema_version = 3")
        database.commit()
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    result = label(job_of(file_of(bag), seeds, tmp_path / "out", formats=("mcap", "bag")))
    (said,) = result["tracks"][0]["problems"]
    assert "messages of own_msgs/msg/Own, does not define that type" in said
    assert "--format bag writes it again" in said
    assert "/own" not in messages(tmp_path / "out" / "mcap" / "drive")
    with AnyReader([tmp_path / "out" / "bag" / "drive"]) as reader:
        (connection,) = reader.topics["/own"].connections
        assert connection.msgtype == "own_msgs/msg/Own"
        found = [(when, bytes(data)) for _, when, data in reader.messages([connection])]
        assert len(reader.topics["/stremn/mask"].connections) == 1
        assert len(reader.topics[TOPIC].connections) == 1
    assert found == [(when, b"\0\1\0\0" + bytes([n] * 9)) for n, when in enumerate(stamps(4))]
    assert (
        label(job_of(file_of(bag), seeds, tmp_path / "bag", formats=("bag",)))["tracks"][0][
            "problems"
        ]
        == []
    )


def test_what_was_recorded_live_is_replaced(tmp_path: Path) -> None:
    live = camera("mcap", [np.zeros(SIZE, np.uint8)] * 3, "/stremn/mask", "mono8")
    records = camera("mcap", scenes(3)) + live
    bag = write_bag(tmp_path / "drive", "mcap", records)
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    label(job_of(bag, seeds, tmp_path / "out", formats=("mcap",)))
    masks = messages(tmp_path / "out" / "mcap" / "drive")["/stremn/mask"]
    assert len(masks) == 3
    assert all(image_read.decode_labels(mask).any() for _, mask, _ in masks)


def test_a_video_and_a_damaged_bag_get_the_labels_alone(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for frame in scenes(3):
            writer.write(frame)
    bag = write_bag(tmp_path / "cut", "mcap", camera("mcap", scenes(150)))
    content = file_of(bag).read_bytes()
    file_of(bag).write_bytes(content[: len(content) - 100])
    for recording, name in ((tmp_path / "clip.mp4", "clip"), (file_of(bag), "cut")):
        seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
        out = tmp_path / f"out_{name}"
        result = label(job_of(recording, seeds, out, formats=("mcap",)))
        assert "the labels are written alone" in " ".join(result["tracks"][0]["problems"])
        found = messages(out / "mcap" / name)
        assert IMAGE not in found
        assert len(found["/stremn/mask"]) == result["tracks"][0]["labelled"]


def test_the_types_have_the_hashes_of_the_installed_interfaces(tmp_path: Path) -> None:
    store = label_types()
    places = [Path(place) / "stremn_interfaces" / "msg" for place in sys.path]
    share = Path(sys.prefix) / "share" / "stremn_interfaces" / "msg"
    described = [path for path in (share, *places) if (path / "ObjectArray.json").is_file()]
    if not described:
        pytest.skip("the interfaces are installed without their type hashes")
    for name in ("ObjectArray", "TrackedObject"):
        kind = f"stremn_interfaces/msg/{name}"
        values = json.loads((described[0] / f"{name}.json").read_text())
        known = {item["type_name"]: item["hash_string"] for item in values["type_hashes"]}
        assert store.hash_rihs01(kind) == known[kind]
    assert OBJECTS in store.fielddefs
    assert LABEL_INFO in store.fielddefs


def test_labels_that_cannot_be_messages_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_bag(tmp_path / "drive", "mcap", camera("mcap", scenes(2)))
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    label_types.cache_clear()
    monkeypatch.setattr(labelled_bag, "shared_places", lambda name: [tmp_path / "absent"])
    for name in ("mcap", "bag", "mcap-sidecar"):
        with pytest.raises(InputError, match="definitions of stremn_interfaces were not found"):
            label(job_of(bag, seeds, tmp_path / "out", formats=(name,)))
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "rosbags.convert.converter", None)
    with pytest.raises(StremnError, match=r"pip install 'stremn_ros\[recordings\]'"):
        label(job_of(bag, seeds, tmp_path / "out", formats=("mcap",)))
    assert not (tmp_path / "out").exists()


def test_the_label_info_is_for_late_subscribers(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "drive", "mcap", camera("mcap", scenes(2)))
    seeds = seeds_file(tmp_path, {"frame": 0, "mask": truth(0)})
    for name in ("one", "two"):
        label(job_of(bag, seeds, tmp_path / name, formats=("mcap",)))
    with AnyReader([tmp_path / "one" / "mcap" / "drive"]) as reader:
        (connection,) = reader.topics["/stremn/label_info"].connections
        profile = connection.ext.offered_qos_profiles[0]
        assert profile.durability is QosDurability.TRANSIENT_LOCAL
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
