"""The live page in a real browser: a click seeds an object. Skipped, loudly, without one."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from shapes import DISC, SQUARE, TINY_MODEL, iou, scene
from web_helpers import FakeSource, serving, wait_until

from stremn_ros.demo.assets import RATE, START_FRAME, demo_video
from stremn_ros.hint_masks import HintMasks
from stremn_ros.imaging.mask_reading import read_mask
from stremn_ros.imaging.video import write_image
from stremn_ros.segmenter import Segmenter
from stremn_ros.web.frames import VideoFrames
from stremn_ros.web.video_source import VideoSource

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
SIZE = (240, 320)
FRAMES = 20
CONFIG = Path(__file__).resolve().parent.parent / "config"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}

try:
    from playwright.sync_api import Page, sync_playwright
except ImportError:
    CHROMIUM = ""
if not CHROMIUM:
    warnings.warn(
        "THE LIVE PAGE IS NOT TESTED IN A BROWSER: Chromium or playwright is missing "
        "(apt-get install chromium)",
        stacklevel=1,
    )
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoSource]:
    folder = tmp_path_factory.mktemp("shapes")
    for number in range(FRAMES):
        write_image(folder / f"{number:02d}.png", scene(number, SIZE)[0])
    segmenter = Segmenter.load(str(TINY_MODEL), runtime="torch")
    made = VideoSource(VideoFrames(folder), "shapes", segmenter, folder, folder.parent / "out")
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(source: VideoSource) -> Iterator[str]:
    with serving(source) as running:
        yield f"http://127.0.0.1:{running.port}/"


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    with sync_playwright() as playwright:
        # as root, in CI, Chromium's own sandbox cannot start
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.fixture
def page(chromium, server: str, source: VideoSource) -> Iterator[Page]:
    """The page on a desktop; at the end nothing may stand in its console."""
    yield from opened(chromium, server, DESKTOP)


@pytest.fixture
def phone(chromium, server: str) -> Iterator[Page]:
    yield from opened(chromium, server, PHONE, has_touch=True, device_scale_factor=2)


def opened(chromium, server: str, size: dict[str, int], **options) -> Iterator[Page]:
    context = chromium.new_context(viewport=size, color_scheme="dark", **options)
    page = context.new_page()
    page.set_default_timeout(60_000)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(server)
    until(page, "stremn.shown !== null")
    page.click("#reset")
    until(page, "stremn.shown.head.objects.length === 0")
    go_to(page, 0)
    yield page
    context.close()
    assert said == []


def until(page: Page, condition: str, timeout: float = 30.0) -> None:
    """Waits; Playwright's own wait_for_function needs an eval, which the page's policy forbids."""
    wait_until(lambda: page.evaluate(f"Boolean({condition})"), condition, timeout)


@contextlib.contextmanager
def shown_by(chromium, fake: FakeSource) -> Iterator[Page]:
    """The page of a source, with its first picture."""
    context = chromium.new_context(viewport=DESKTOP)
    page = context.new_page()
    with serving(fake) as server:
        fake.show(1)
        page.goto(f"http://127.0.0.1:{server.port}/")
        until(page, "stremn.shown !== null")
        yield page
    context.close()


def go_to(page: Page, number: int) -> None:
    page.evaluate(
        "n => { const bar = document.getElementById('seek'); bar.value = n; bar.onchange(); }",
        number,
    )
    until(page, f"stremn.shown.head.position === {number} && !stremn.seeking")


def at(page: Page, x: float, y: float, size: tuple[int, int] = SIZE) -> tuple[float, float]:
    """Where a pixel of the video is on the screen."""
    box = page.locator("#marks").bounding_box()
    return box["x"] + x * box["width"] / size[1], box["y"] + y * box["height"] / size[0]


def middle(number: int, object_id: int) -> tuple[float, float]:
    ys, xs = np.nonzero(scene(number, SIZE)[1] == object_id)
    return float(xs.mean()), float(ys.mean())


def masks_on(page: Page, what: str = "shown", size: tuple[int, int] = SIZE) -> np.ndarray:
    """The labels that the page shows, uint8 [H, W], in the video's size."""
    values = page.evaluate(f"Array.from(stremn.{what}.labels)")
    labels = np.array(values, np.uint8).reshape(page.evaluate(f"stremn.{what}.rows"), -1)
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)


def wait_preview(page: Page) -> None:
    until(page, "stremn.mask !== null && !stremn.asking")


def picture_of(page: Page, name: str) -> None:
    """A screenshot, where STREMN_SCREENSHOTS names a folder for them."""
    if folder := os.environ.get("STREMN_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def follow(page: Page, name: str = "") -> None:
    count = page.evaluate("stremn.newest.head.objects.length")
    if name:
        page.fill("#name", name)
    page.click("#follow")
    until(page, f"stremn.shown.head.objects.length === {count + 1}")


def test_a_second_camera_has_a_tab(chromium) -> None:
    cameras = {"left": FakeSource(), "right": FakeSource()}
    for source, number in zip(cameras.values(), (3, 5), strict=True):
        source.show(number)
    requests = cameras["right"].requests
    context = chromium.new_context(viewport=DESKTOP, color_scheme="dark")
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: dialog.dismiss())
    try:
        with serving(cameras) as running:
            page.goto(f"http://127.0.0.1:{running.port}/")
            until(page, "stremn.shown && stremn.shown.head.number === 3")
            assert page.locator("#cameras button").all_inner_texts() == ["left", "right"]
            # until it has a picture of its own, nothing of the other camera is there to click
            page.click("#cameras button:nth-child(2)")
            until(page, "stremn.shown === null || stremn.shown.head.number === 5")
            until(page, "stremn.shown && stremn.shown.head.number === 5")
            assert page.inner_text("#cameras [aria-current=true]") == "right"
            cameras["right"].show(7)
            until(page, "stremn.shown.head.number === 7")
            picture_of(page, "cameras")
            page.click("#save")
            wait_until(lambda: requests, "the request")
            page.click("#load")  # the dialog says no
            page.click("#reset")
            wait_until(lambda: len(requests) == 2, "the next request")
            assert [request.do for request in requests] == ["save", "reset"]
            assert cameras["left"].requests == []
            assert said == []
            page.goto("about:blank")
    finally:
        context.close()


def test_a_click_is_shown_followed_and_removed(page: Page) -> None:
    page.mouse.click(*at(page, *middle(0, DISC)))
    wait_preview(page)
    assert iou(masks_on(page, "mask"), scene(0, SIZE)[1], DISC) > 0.8
    assert page.evaluate("stremn.shown.head.objects.length") == 0, "nothing is seeded yet"
    picture_of(page, "preview")
    follow(page, "disc")
    assert page.inner_text("#objects .name") == "disc"
    page.click("#play")
    until(page, f"stremn.shown.head.position === {FRAMES - 1}")
    truth = scene(FRAMES - 1, SIZE)[1]
    assert iou(masks_on(page), truth, DISC) > 0.6
    # what is painted is red there, and grey beside it
    pixels = page.evaluate(
        "([x, y]) => Array.from(document.getElementById('picture').getContext('2d')"
        ".getImageData(x, y, 1, 1).data)",
        [round(value) for value in middle(FRAMES - 1, DISC)],
    )
    assert pixels[0] > pixels[1] + 60
    page.click("#objects .remove")
    until(page, "stremn.shown.head.objects.length === 0")
    assert not masks_on(page).any()


def test_the_rabbit_of_the_demo_is_clicked_and_ten_seconds_later_still_followed(
    chromium, tmp_path: Path
) -> None:
    segmenter = Segmenter.load()
    video = VideoFrames(demo_video())
    size, last = video.get(0).shape[:2], video.count - 1
    source = VideoSource(video, "demo", segmenter, tmp_path, tmp_path / "out", HintMasks.load())
    masks = [read_mask(CONFIG / f"{name}.png").labels()[0] for name in ("demo_seed", "demo_last")]
    truths = [cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST) for mask in masks]

    def clicked(page: Page, number: int, truth: np.ndarray) -> float:
        go_to(page, number)
        depth = cv2.distanceTransform(np.pad(truth, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), size)
        page.mouse.click(*at(page, float(x), float(y), size))
        wait_preview(page)
        return iou(masks_on(page, "mask", size), truth, 1)

    try:
        with serving(source) as running:
            for page in opened(chromium, f"http://127.0.0.1:{running.port}/", DESKTOP):
                # the mask drawn by hand leaves out the hollows between arms and body
                assert clicked(page, START_FRAME, truths[0]) > 0.6
                page.keyboard.press("Escape")
                assert clicked(page, last, truths[1]) > 0.8
                page.keyboard.press("Escape")
                clicked(page, last - round(10 * RATE), truths[1])  # it stands still there
                follow(page, "rabbit")
                page.click("#play")
                until(page, f"stremn.shown.head.position === {last}", 120.0)
                assert iou(masks_on(page, size=size), truths[1], 1) > 0.8
                picture_of(page, "rabbit")
    finally:
        source.close()


def test_box_outline_names_and_a_second_object(page: Page) -> None:
    truth = scene(0, SIZE)[1]
    ys, xs = np.nonzero(truth == SQUARE)
    page.mouse.move(*at(page, xs.min() - 10, ys.min() - 10))
    page.mouse.down()
    page.mouse.move(*at(page, xs.max() + 10, ys.max() + 10), steps=5)
    page.mouse.up()
    wait_preview(page)
    follow(page, "<b>square</b>")
    assert page.inner_text("#objects .name") == "<b>square</b>", "a name is text"
    page.click("text=Outline")
    x, y = middle(0, DISC)
    radius = 50.0
    page.mouse.move(*at(page, x + radius, y))
    page.mouse.down()
    for step in range(1, 24):
        angle = 2 * np.pi * step / 24
        page.mouse.move(*at(page, x + radius * np.cos(angle), y + radius * np.sin(angle)))
    page.mouse.up()
    wait_preview(page)
    follow(page, "disc")
    labels = masks_on(page)
    assert iou(labels == 1, truth == SQUARE, True) > 0.8
    assert iou(labels == 2, truth == DISC, True) > 0.8
    page.click("text=Object >> nth=0")
    picture_of(page, "desktop")
    page.click("#theme")
    picture_of(page, "light")
    page.click("#theme")


def test_a_shift_click_takes_away_and_undo_brings_it_back(page: Page) -> None:
    page.mouse.click(*at(page, *middle(0, DISC)))
    wait_preview(page)
    first = masks_on(page, "mask").sum()
    page.keyboard.down("Shift")
    page.mouse.click(*at(page, *middle(0, SQUARE)))
    page.keyboard.up("Shift")
    until(page, "stremn.hints.length === 2 && !stremn.asking")
    assert [hint["kind"] for hint in page.evaluate("stremn.hints")] == ["inside", "outside"]
    page.click("#undo")
    until(page, "stremn.hints.length === 1 && !stremn.asking")
    assert masks_on(page, "mask").sum() == first
    page.keyboard.press("Escape")
    until(page, "stremn.hints.length === 0 && stremn.mask === null")


def test_a_late_click_seeds_the_frame_that_was_clicked(page: Page, source: VideoSource) -> None:
    go_to(page, 5)
    page.mouse.click(*at(page, *middle(5, SQUARE)))
    wait_preview(page)
    page.evaluate("ask('seek', {number: 12})")
    until(page, "stremn.newest.head.position === 12")
    assert page.evaluate("stremn.shown.head.position") == 5, "the picture is held"
    page.click("#follow")
    until(page, "stremn.shown.head.objects.length === 1")
    assert page.evaluate("stremn.shown.head.position") == 5
    assert iou(masks_on(page) == 1, scene(5, SIZE)[1] == SQUARE, True) > 0.8


def test_a_double_click_on_follow_makes_one_object(page: Page, source: VideoSource) -> None:
    page.mouse.click(*at(page, *middle(0, DISC)))
    wait_preview(page)
    page.dblclick("#follow")
    until(page, "stremn.shown.head.objects.length === 1 && !stremn.following")
    page.mouse.click(*at(page, *middle(0, SQUARE)))
    wait_preview(page)
    page.focus("#marks")
    for _ in range(3):
        page.keyboard.press("f")
    until(page, "stremn.shown.head.objects.length === 2 && !stremn.following")
    assert len(source._segmenter.ids) == 2


def test_a_video_waits_while_an_outline_is_drawn(page: Page) -> None:
    page.click("#tools >> text=Outline")
    page.click("#play")
    until(page, "stremn.shown.head.position > 0")
    page.mouse.click(*at(page, 60, 60))
    until(page, "!stremn.status.playing && stremn.stamp !== null")
    held = page.evaluate("stremn.stamp")
    page.mouse.click(*at(page, 200, 60))
    page.mouse.click(*at(page, 200, 200))
    page.mouse.dblclick(*at(page, 60, 200))
    wait_preview(page)
    assert page.evaluate("[stremn.stamp, stremn.hints.length]") == [held, 1]
    page.keyboard.press("Escape")
    # a corner that is given up with another tool holds nothing
    page.mouse.click(*at(page, 60, 60))
    until(page, "stremn.stamp !== null")
    page.click("#tools >> text=Object")
    assert page.evaluate("stremn.stamp") is None
    assert page.is_disabled("#cancel")
    # a press that makes no hint lets the video go on
    go_to(page, 0)
    page.click("#tools >> text=Box")
    page.click("#play")
    page.mouse.move(*at(page, 60, 60))
    until(page, "stremn.shown.head.position > 0")
    page.mouse.down()
    until(page, "!stremn.status.playing")
    assert page.evaluate("stremn.shown.head.position") < FRAMES - 1
    page.mouse.up()
    until(page, f"stremn.shown.head.position === {FRAMES - 1}")
    page.click("#tools >> text=Object")


def test_the_keyboard_alone(page: Page) -> None:
    page.focus("#marks")
    x, y = middle(0, SQUARE)
    pace = SIZE[1] / 50
    across, down = (x - SIZE[1] / 2) / pace, (y - SIZE[0] / 2) / pace
    for key, count in (
        ("ArrowRight" if across > 0 else "ArrowLeft", abs(across)),
        ("ArrowDown" if down > 0 else "ArrowUp", abs(down)),
    ):
        for _ in range(round(count)):
            page.keyboard.press(key)
    page.keyboard.press("Enter")
    wait_preview(page)
    assert iou(masks_on(page, "mask") == 1, scene(0, SIZE)[1] == SQUARE, True) > 0.8
    page.keyboard.press("f")
    until(page, "stremn.shown.head.objects.length === 1")
    page.focus("#marks")
    page.keyboard.press(".")
    until(page, "stremn.shown.head.position === 1")
    page.keyboard.press(" ")
    until(page, "stremn.shown.head.position > 2")
    picture_of(page, "keyboard")
    # every control can be reached and shows where the focus is
    seen = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"marks", "play", "step", "seek", "name", "again", "remove", "reset"} <= seen


def test_a_phone_has_all_of_it_in_360_pixels(phone: Page) -> None:
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    phone.touchscreen.tap(*at(phone, *middle(0, DISC)))
    wait_preview(phone)
    follow(phone, "a name that is much too long for so small a screen")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    assert iou(masks_on(phone), scene(0, SIZE)[1], DISC) > 0.8
    picture_of(phone, "phone")
    for name in ("follow", "undo", "cancel", "play", "step", "reset", "export"):
        box = phone.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= 360, name
        assert box["height"] >= 32, name


def test_the_page_says_that_the_server_is_gone_and_comes_back(
    chromium, source: VideoSource
) -> None:
    context = chromium.new_context(viewport=DESKTOP)
    page = context.new_page()
    page.set_default_timeout(60_000)
    with serving(source) as server:
        port = server.port
        page.goto(f"http://127.0.0.1:{port}/")
        until(page, "stremn.shown !== null")
    page.wait_for_selector("text=Connection lost")
    picture_of(page, "lost")
    with serving(source, port=port):
        until(page, "!document.getElementById('link').className.includes('bad')")
        wait_until(lambda: page.evaluate("stremn.last > 0"), "a picture")
        assert page.is_hidden("#notice")
    context.close()


def test_hints_go_to_no_other_server(chromium, source: VideoSource) -> None:
    context = chromium.new_context(viewport=DESKTOP)
    page = context.new_page()
    with serving(source) as server:
        port = server.port
        page.goto(f"http://127.0.0.1:{port}/")
        until(page, "stremn.shown !== null")
        page.mouse.click(*at(page, *middle(0, DISC)))
        until(page, "stremn.hints.length === 1")
    page.wait_for_selector("text=Connection lost")
    assert page.evaluate("stremn.hints.length") == 1, "the server may come back"
    with serving(source, port=port):
        until(page, "!document.getElementById('link').className.includes('bad')")
        until(page, "stremn.shown !== null")
        assert page.evaluate("[stremn.hints.length, stremn.stamp]") == [0, None]
    context.close()


def test_a_page_whose_token_is_no_longer_right_says_what_to_do(chromium) -> None:
    fake = FakeSource()
    fake.show(1)
    context = chromium.new_context(viewport=DESKTOP)
    page = context.new_page()
    with serving(fake, host="0.0.0.0") as server:
        port = server.port
        page.goto(server._access.link(port, "127.0.0.1"))
        until(page, "stremn.shown !== null")
    page.wait_for_selector("text=Connection lost")
    with serving(fake, host="0.0.0.0", port=port):
        page.wait_for_selector("text=Open the link that it printed now")
    context.close()


def test_an_answer_takes_no_hints_of_the_next_object(chromium) -> None:
    fake, answer = FakeSource(), threading.Event()
    fake.work = lambda request: answer.wait(30.0) if request.do == "follow" else None
    with shown_by(chromium, fake) as page:
        page.check("#atonce")
        page.mouse.click(*at(page, 60, 60))
        wait_until(lambda: [each for each in fake.requests if each.do == "follow"], "the request")
        page.keyboard.press("Escape")
        page.mouse.click(*at(page, 90, 60))
        assert page.evaluate("stremn.following")
        answer.set()
        until(page, "!stremn.following")
        assert page.evaluate("stremn.hints.length") == 1
        page.goto("about:blank")


def test_a_slow_hand_draws_a_whole_outline(page: Page) -> None:
    page.click("#tools >> text=Outline")
    page.mouse.move(*at(page, 100, 60))
    page.mouse.down()
    for _ in range(4):  # more points than a message holds
        for corner in ((220, 60), (220, 180), (100, 180), (100, 60)):
            page.mouse.move(*at(page, *corner), steps=60)
    page.mouse.move(*at(page, 20, 200), steps=20)
    page.mouse.up()
    points = page.evaluate("stremn.hints[0].value")
    assert np.hypot(*np.subtract(points[-1], (20, 200))) < 12, "the end was not drawn"
    assert 300 < len(points) <= 1000


def test_keys_of_the_browser_and_of_other_scripts_are_left_alone(page: Page) -> None:
    page.mouse.click(*at(page, *middle(0, DISC)))
    wait_preview(page)
    page.fill("#name", "にほん")
    # Escape gives up a word that is being typed, Alt+F opens a menu
    for key, more in (
        ("Escape", "isComposing: true"),
        ("f", "altKey: true"),
        ("u", "altKey: true"),
    ):
        event = f"new KeyboardEvent('keydown', {{key: '{key}', bubbles: true, {more}}})"
        page.evaluate(f"document.getElementById('name').dispatchEvent({event})")
        page.evaluate(f"document.getElementById('marks').dispatchEvent({event})")
    assert page.evaluate("[stremn.hints.length, stremn.following]") == [1, False]
    assert page.input_value("#name") == "にほん"


def test_a_key_that_is_held_asks_for_no_more_than_can_be_done(chromium) -> None:
    fake = FakeSource()
    fake.work = lambda request: time.sleep(0.2)
    fake.status = lambda: {**FakeSource.status(fake), "count": 101}
    with shown_by(chromium, fake) as page:
        until(page, "document.getElementById('seek').max === '100'")
        page.focus("#seek")
        for _ in range(6):
            page.keyboard.down("ArrowRight")
        until(page, "stremn.sought === null")
        # answered, but its picture is not there yet: the bar goes on from where it was put
        for _ in range(6):
            page.keyboard.down("ArrowRight")
        until(page, "stremn.sought === null")
        seeks = [request.number for request in fake.requests if request.do == "seek"]
        assert (seeks[-1], len(seeks) < 12) == (12, True)
        assert page.input_value("#seek") == "12"
        fake.show(2)
        until(page, "!stremn.seeking")
        page.focus("#marks")
        for _ in range(12):
            page.keyboard.down(".")
        page.keyboard.up(".")
        # the bar has the focus after a seek, and the keys go on
        page.focus("#seek")
        page.keyboard.press(" ")
        wait_until(lambda: fake.requests[-1].do == "pause", "the pause")
        assert "busy" not in page.inner_text("#message")
        page.goto("about:blank")


def test_the_page_says_that_the_stream_has_stopped(chromium) -> None:
    fake = FakeSource()
    with shown_by(chromium, fake) as page:
        assert page.inner_text("#link") == "live"
        assert page.inner_text("#title") == FakeSource.title, "a title is text"
        fake.stopped = True
        page.wait_for_selector("text=The stream has stopped")
        fake.stopped = False
        fake.show(2)
        until(page, "stremn.shown.head.number === 2")
        until(page, "document.getElementById('notice').hidden")
        # a refusal is shown
        page.evaluate("order('remove', {object: 9})")
        page.wait_for_selector("text=object 9 is not tracked")
