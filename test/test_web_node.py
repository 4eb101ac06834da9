"""A running node on the live page, through real DDS: seen, clicked, followed."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ros_helpers import Background, SegmentPeer, image_message, segment_node, wait_for
from shapes import DISC, SQUARE, iou, scene
from web_helpers import read_picture, serving

from stremn_ros.errors import InputError, StremnError
from stremn_ros.web.node_source import NodeSource
from stremn_ros.web.requests import Hints, Request

RATE = 10.0


class Camera(Background):
    """Frames of the scene in a thread, as a camera sends them."""

    def __init__(self, peer: SegmentPeer) -> None:
        self._peer = peer
        self.scenes: dict[int, int] = {}  # by stamp

    def run(self) -> None:
        number = 0
        while not self.ended.wait(1.0 / RATE):
            number += 1
            stamp = self._peer.next_stamp()
            self.scenes[stamp] = number // 5
            self._peer.publish(scene(number // 5)[0], stamp)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SegmentPeer]:
    with segment_node(tmp_path_factory.mktemp("web_node")) as node, SegmentPeer() as made:
        made.bring_up(node)
        made.connect(scene(0)[0])
        yield made


@pytest.fixture(scope="module")
def source(peer: SegmentPeer) -> Iterator[NodeSource]:
    made = NodeSource("stremn")
    yield made
    made.close()


def do(source: NodeSource, action: str, **fields: object) -> dict:
    return source.do(Request(1, action, **fields))


def click(number: int, object_id: int) -> Hints:
    ys, xs = np.nonzero(scene(number)[1] == object_id)
    return Hints(inside=((float(xs.mean()), float(ys.mean())),))


def test_a_click_is_followed_removed_paused_and_reset(
    peer: SegmentPeer, source: NodeSource
) -> None:
    with Camera(peer) as camera:
        first = wait_for(lambda: source.newest, "a picture; the image topic is looked up")
        wait_for(lambda: source.newest.stamp in camera.scenes, "a picture of this camera")
        picture = source.newest
        number = camera.scenes[picture.stamp]
        assert np.array_equal(picture.frame, scene(number)[0])
        assert do(source, "preview", stamp=picture.stamp, hints=click(number, DISC))["mask"]
        time.sleep(0.5)  # a person looks at it: the click is late
        told = do(source, "follow", stamp=picture.stamp, hints=click(number, DISC), name="cup")
        assert told["object"] == 1

        def shows(ids: set[int]) -> object:
            now = source.newest
            here = {item["id"] for item in now.objects}
            return now if now.stamp in camera.scenes and here == ids else None

        shown = wait_for(lambda: shows({1}), "the object")
        truth = scene(camera.scenes[shown.stamp])[1]
        assert shown.objects[0]["name"] == "cup"
        assert iou(shown.labels, truth, DISC) > 0.5
        picture = source.newest
        number = camera.scenes[picture.stamp]
        do(source, "follow", stamp=picture.stamp, hints=click(number, SQUARE))
        shown = wait_for(lambda: shows({1, 2}), "both objects")
        assert iou(shown.labels, scene(camera.scenes[shown.stamp])[1], SQUARE) > 0.5
        do(source, "remove", object_id=1)
        wait_for(lambda: shows({2}), "one object")
        with pytest.raises(StremnError, match="1"):
            do(source, "remove", object_id=1)
        do(source, "pause")
        wait_for(lambda: source.status()["rate"] == 0.0, "the pause")
        assert not source.status()["playing"]
        assert not source.status()["stopped"], "a pause is no fault"
        before = source.newest.number
        wait_for(lambda: source.newest.number > before, "the picture goes on without masks")
        do(source, "play")
        wait_for(lambda: source.status()["rate"] > 0.0, "masks")
        do(source, "reset")
        wait_for(lambda: shows(set()), "no object")
        assert first.number >= 1
    wait_for(lambda: source.status()["stopped"], "the page to say that the stream has stopped")
    assert "stopped" in source.status()["problem"]


def test_no_object_gets_the_id_of_another_that_is_followed(
    peer: SegmentPeer, source: NodeSource
) -> None:
    """Two clicks at once, and a page that is opened while the node is paused."""
    with Camera(peer) as camera:
        do(source, "reset")
        wait_for(lambda: source.newest and source.newest.stamp in camera.scenes, "a picture")
        picture = source.newest
        number = camera.scenes[picture.stamp]

        def follow(object_id: int) -> int:
            hints = click(number, object_id)
            return do(source, "follow", stamp=picture.stamp, hints=hints)["object"]

        with ThreadPoolExecutor(2) as pool:
            disc, square = pool.map(follow, (DISC, SQUARE))
        assert disc != square
        wait_for(lambda: {item["id"] for item in source.newest.objects} == {disc, square}, "both")
        do(source, "remove", object_id=square)
        do(source, "pause")
        other = NodeSource("stremn")
        try:
            wait_for(lambda: other.newest and other.newest.stamp in camera.scenes, "a picture")
            picture = other.newest
            hints = click(camera.scenes[picture.stamp], SQUARE)
            again = do(other, "follow", stamp=picture.stamp, hints=hints)["object"]
            assert again != disc
            do(other, "play")
            wait_for(lambda: {item["id"] for item in other.newest.objects} == {disc, again}, "both")
        finally:
            other.close()
        do(source, "reset")


def test_a_camera_without_stamps_gets_a_new_mask_for_a_new_image(source: NodeSource) -> None:
    shown = []
    for number in (0, 12):
        source._on_image(image_message(scene(number)[0]))
        shown.append(do(source, "preview", stamp=0, hints=click(6, DISC))["mask"])
    assert shown[0] != shown[1]


def test_a_seed_that_is_too_old_is_refused_in_words(peer: SegmentPeer, source: NodeSource) -> None:
    peer.segment(scene(0)[0])
    stamp = peer.publish(scene(0)[0])
    wait_for(lambda: source.newest.stamp == stamp, "that picture")
    shown = source.newest
    source._masks.make(stamp, click(0, DISC))  # what a preview keeps
    for _ in range(40):
        peer.segment(scene(0)[0])
    with pytest.raises(StremnError, match="click again"):
        do(source, "follow", stamp=shown.stamp, hints=click(0, DISC))
    with pytest.raises(InputError, match="no longer kept"):
        do(source, "preview", stamp=5, hints=click(0, DISC))


def test_twenty_browsers_take_no_frame_from_the_node(peer: SegmentPeer, source: NodeSource) -> None:
    """All frames sent at a rate that the node can follow are segmented, and pictures come."""
    import aiohttp

    count = 60

    async def watch(server, stop: asyncio.Event, got: list[int]) -> None:
        own = f"http://127.0.0.1:{server.port}"
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{own}/live", headers={"Origin": own}, max_msg_size=0) as live,
        ):
            while not stop.is_set():
                try:
                    message = await live.receive(0.5)
                except asyncio.TimeoutError:
                    continue
                if message.type is aiohttp.WSMsgType.BINARY:
                    head, *_ = read_picture(message.data)
                    got.append(head["number"])
                    ack = {"id": 0, "do": "ack", "number": head["number"]}
                    await live.send_str(json.dumps(ack))

    def send() -> int:
        before = peer.settled_counters()[1]
        for number in range(count):
            peer.publish(scene(number // 5)[0])
            time.sleep(0.25)
        return peer.settled_counters()[1] - before

    async def run(server) -> tuple[int, list[list[int]]]:
        stop = asyncio.Event()
        lists: list[list[int]] = [[] for _ in range(20)]
        tasks = [asyncio.create_task(watch(server, stop, got)) for got in lists]
        segmented = await asyncio.to_thread(send)
        stop.set()
        await asyncio.gather(*tasks)
        return segmented, lists

    with serving(source) as server:
        segmented, lists = asyncio.run(run(server))
    assert segmented >= count - 3, f"{segmented} of {count}"
    assert all(len(got) > 5 for got in lists), [len(got) for got in lists]


def test_the_command_waits_for_its_node_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "stremn_ros.cli", "view", "--node", "/nobody", "--port", "0"]
    process = subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT)
    try:
        wait_for(
            lambda: "Ctrl-C ends it" in log.read_text() or process.poll() is not None, "a link"
        )
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
    assert code == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_node_that_is_not_there_is_said() -> None:
    source = NodeSource("/nobody")
    try:
        wait_for(lambda: "no node /nobody" in source.status()["problem"], "the message")
        assert source.newest is None
    finally:
        source.close()
    for words in ({"node": "/a b"}, {"image_topic": "a b"}, {"camera": "1x"}):
        with pytest.raises(InputError, match="cannot be the name"):
            NodeSource(**words)


@pytest.mark.parametrize(
    ("camera", "topic", "says"),
    [
        ("left,left", "", "names left twice"),
        ("left,right", "/image", "--image-topic is for one camera"),
        ("left=/l,", "", "it is NAME or NAME=TOPIC"),
    ],
)
def test_names_of_cameras_that_cannot_be_are_refused(camera: str, topic: str, says: str) -> None:
    command = [sys.executable, "-m", "stremn_ros.cli", "view", "--node", "/stremn"]
    done = subprocess.run(
        [*command, "--port", "0", "--camera", camera, "--image-topic", topic],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert says in done.stderr
