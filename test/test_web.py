"""The live page's server: what it answers, whom it refuses, and that a hostile client costs little.

Everything goes through real sockets of 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from shapes import scene
from web_helpers import PATIENCE, FakeSource, read_picture, serving, wait_until

from stremn_ros.errors import InputError, StremnError
from stremn_ros.hint_masks import HintMask, HintMasks
from stremn_ros.imaging.checks import LONGEST_NAME
from stremn_ros.web import server as server_module
from stremn_ros.web.access import Access
from stremn_ros.web.requests import Hints, read_request
from stremn_ros.web.server import PageServer
from stremn_ros.web.source import MaskMaker, Recent, encode, free_id


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
def server(source: FakeSource) -> Iterator[PageServer]:
    with serving(source) as running:
        yield running


def test_each_browser_sees_and_steers_the_camera_that_it_chose() -> None:
    left, right = FakeSource(), FakeSource()

    async def hello(live: aiohttp.ClientWebSocketResponse) -> dict:
        return json.loads((await live.receive(PATIENCE)).data)["hello"]

    async def run(server: PageServer) -> None:
        left.show(3)
        right.show(5)
        async with (
            browser(server) as first,
            browser(server, path="/live?camera=right") as second,
            browser(server, path="/live?camera=gone") as third,
        ):
            for live, camera, number in ((first, "left", 3), (second, "right", 5)):
                told = await hello(live)
                assert told["cameras"] == ["left", "right"]
                assert told["camera"] == camera
                head, _, labels = read_picture(await next_picture(live))
                assert head["number"] == number
                assert np.array_equal(labels, scene(number)[1])
            assert (await hello(third))["camera"] == "left"
            assert (await ask(second, do="remove", object=9))["ok"] is False
            assert [request.do for request in right.requests] == ["remove"]
            assert left.requests == []
            left.show(8)
            head, _, _ = read_picture(await next_picture(first))
            assert head["number"] == 8
            assert await no_picture(second, 0.3)

    with serving({"left": left, "right": right}) as server:
        asyncio.run(run(server))


def address(server: PageServer, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


@contextlib.asynccontextmanager
async def browser(
    server: PageServer, origin: str | None = "", path: str = "/live", **headers: str
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A WebSocket as the page opens it; origin: "" is the page's own."""
    if origin is not None:
        headers["Origin"] = origin or address(server).rstrip("/")
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as session,
        session.ws_connect(address(server, path), headers=headers, max_msg_size=0) as live,
    ):
        yield live


async def ask(live: aiohttp.ClientWebSocketResponse, **fields: object) -> dict:
    """Sends a request; its answer, and not that of one before."""
    await live.send_str(json.dumps({"id": 7, **fields}))
    while True:
        message = await live.receive(PATIENCE)
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        if message.type is aiohttp.WSMsgType.TEXT:
            told = json.loads(message.data)
            if told.get("answer") == 7:
                return told


async def next_picture(live: aiohttp.ClientWebSocketResponse, timeout: float = PATIENCE) -> bytes:
    while True:
        message = await live.receive(timeout)
        if message.type is aiohttp.WSMsgType.BINARY:
            return message.data
        assert message.type is aiohttp.WSMsgType.TEXT, message


async def no_picture(live: aiohttp.ClientWebSocketResponse, seconds: float) -> bool:
    end = time.monotonic() + seconds
    with contextlib.suppress(asyncio.TimeoutError):
        while (left := end - time.monotonic()) > 0:
            if (await live.receive(left)).type is aiohttp.WSMsgType.BINARY:
                return False
    return True


def test_a_picture_arrives_with_its_mask(server: PageServer, source: FakeSource) -> None:
    async def run() -> None:
        source.show(3)
        async with browser(server) as live:
            hello = json.loads((await live.receive(PATIENCE)).data)
            assert hello["hello"]["title"] == FakeSource.title
            assert hello["hello"]["palette"][1] == "#800000"
            head, image, labels = read_picture(await next_picture(live))
            frame, truth = scene(3)
            assert (head["stamp"], head["width"], head["height"]) == (str(10**18 + 3), 160, 120)
            assert np.array_equal(labels, truth)
            assert np.abs(image[..., ::-1].astype(int) - frame).mean() < 6

    asyncio.run(run())


def test_a_slow_browser_gets_the_newest_picture_and_none_is_queued(
    server: PageServer, source: FakeSource
) -> None:
    async def run() -> None:
        async with browser(server) as slow, browser(server) as fast:
            for number in range(1, 41):
                source.show(number)
                head, *_ = read_picture(await next_picture(fast))
                await fast.send_str(json.dumps({"id": 0, "do": "ack", "number": head["number"]}))
                assert head["number"] == number, "the fast one is slowed down"
            got = [read_picture(await next_picture(slow))[0]["number"] for _ in range(2)]
            assert await no_picture(slow, 1.5), "more than two pictures under way"
            await slow.send_str(json.dumps({"id": 0, "do": "ack", "number": got[-1]}))
            head, *_ = read_picture(await next_picture(slow))
            assert head["number"] == 40

    asyncio.run(run())


def test_answers_and_refusals_come_back(server: PageServer, source: FakeSource) -> None:
    async def run() -> None:
        async with browser(server) as live:
            done = await ask(live, do="follow", stamp="12", inside=[[1, 2]], name="cup")
            assert (done["answer"], done["ok"], done["message"]) == (7, True, "done")
            request = source.requests[-1]
            assert (request.stamp, request.name) == (12, "cup")
            assert request.hints == Hints(inside=((1.0, 2.0),))
            refused = await ask(live, do="remove", object=9)
            assert (refused["ok"], refused["message"]) == (False, "object 9 is not tracked")
            unable = await ask(live, do="export")
            assert (unable["ok"], unable["message"]) == (False, "not possible here")

            def fail(request: object) -> None:
                raise RuntimeError("secret")

            source.work = fail
            failed = await ask(live, do="reset")
            assert not failed["ok"]
            assert "secret" not in failed["message"]

    asyncio.run(run())


# ---------------------------------------------------------------- messages

BAD = [
    ("{", "not JSON"),
    ("[" * 30000, "not JSON"),
    ("[]", "not a JSON object"),
    ('{"do": "format"}', "must be one of"),
    ('{"do": ["reset"]}', "must be one of"),
    ('{"do": "reset", "id": -1}', "'id'"),
    ('{"do": "reset", "id": true}', "'id'"),
    ('{"do": "remove", "object": 256}', "'object'"),
    ('{"do": "remove", "object": 1.5}', "'object'"),
    ('{"do": "seek", "number": 1e9}', "'number'"),
    ('{"do": "preview", "stamp": 5, "inside": [[1, 1]]}', "'stamp'"),
    ('{"do": "preview", "stamp": "-5", "inside": [[1, 1]]}', "'stamp'"),
    ('{"do": "preview", "stamp": "9999999999999999999", "inside": [[1, 1]]}', "'stamp'"),
    ('{"do": "preview", "stamp": "5"}', "nothing says where"),
    ('{"do": "preview", "stamp": "5", "inside": [[NaN, 1]]}', "not JSON"),
    ('{"do": "preview", "stamp": "5", "inside": [[1e999, 1]]}', "numbers from 0"),
    ('{"do": "preview", "stamp": "5", "inside": [[1' + "0" * 400 + ", 1]]}", "numbers from 0"),
    ('{"do": "preview", "stamp": "5", "inside": [[-1, 1]]}', "numbers from 0"),
    ('{"do": "preview", "stamp": "5", "inside": [[1]]}', "2 numbers"),
    ('{"do": "preview", "stamp": "5", "inside": [["1", 1]]}', "2 numbers"),
    ('{"do": "preview", "stamp": "5", "box": [1, 2, 3]}', "4 numbers"),
    ('{"do": "preview", "stamp": "5", "box": {"x": 1}}', "4 numbers"),
    (json.dumps({"do": "preview", "stamp": "5", "polygon": [[1, 1]] * 1001}), "1000 points"),
    (json.dumps({"do": "preview", "stamp": "5", "inside": [[1, 1]] * 65}), "64 points"),
    (json.dumps({"do": "follow", "stamp": "5", "inside": [[1, 1]], "name": "x" * 129}), "128 are"),
    (json.dumps({"do": "follow", "stamp": "5", "inside": [[1, 1]], "name": "a\x1b[2J"}), "printed"),
    (json.dumps({"do": "follow", "stamp": "5", "inside": [[1, 1]], "name": 5}), "'name'"),
    (json.dumps({"do": "follow", "stamp": "5", "inside": [[1, 1]], "name": "a\u2028b"}), "printed"),
]
# full-width space, a sign within a Persian word, a joined emoji, a no-break space
NAMES = [
    "赤い\u3000カップ",
    "\u0645\u06cc\u200c\u062e\u0648\u0627",
    "\U0001f469\u200d\U0001f527",
    "tasse\u00a0!",
    "чашка",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_of_any_language(name: str) -> None:
    message = json.dumps({"do": "follow", "stamp": "5", "inside": [[1, 1]], "name": name})
    assert read_request(message).name == name


def test_the_page_takes_names_that_the_server_takes() -> None:
    page = (resources.files("stremn_ros.web") / "page" / "index.html").read_text()
    assert f'<input id="name" maxlength="{LONGEST_NAME}"' in page


@pytest.mark.parametrize(("text", "says"), BAD, ids=lambda value: str(value)[:40])
def test_what_is_no_request_is_refused_in_words(text: str, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        read_request(text)


def test_malformed_messages_are_answered_and_end_nothing(
    server: PageServer, source: FakeSource
) -> None:
    async def run() -> None:
        async with browser(server) as live:
            for text, says in BAD[:20]:
                await live.send_str(text)
                told = {"answer": None}
                while told.get("answer") != 0:
                    message = await live.receive(PATIENCE)
                    assert message.type is aiohttp.WSMsgType.TEXT, (text[:40], message)
                    told = json.loads(message.data)
                assert says in told["message"], text[:40]
            assert source.requests == []
            assert (await ask(live, do="reset"))["ok"]

    asyncio.run(run())


@pytest.mark.parametrize("what", ["binary", "too long"])
def test_a_message_of_another_kind_or_size_ends_that_connection(
    server: PageServer, source: FakeSource, what: str
) -> None:
    async def run() -> None:
        async with browser(server) as live:
            if what == "binary":
                await live.send_bytes(b"x" * 100)
            else:
                polygon = [[n % 640, n // 640] for n in range(100_000)]
                await live.send_str(json.dumps({"do": "preview", "stamp": "1", "polygon": polygon}))
            while not live.closed:
                message = await live.receive(PATIENCE)
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
            assert live.close_code in (1003, 1009), live.close_code
        async with browser(server) as live:
            assert (await ask(live, do="reset"))["ok"]

    asyncio.run(run())


# ---------------------------------------------------------------- who may


def raw(port: int, text: str, timeout: float = PATIENCE) -> str:
    """The first line of the answer to a request that is sent as it is."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(text.encode())
        return connection.recv(4096).decode(errors="replace").partition("\r\n")[0]


def upgrade(server: PageServer) -> bytes:
    """The page's own request for a WebSocket."""
    own = f"127.0.0.1:{server.port}"
    return "\r\n".join(
        [
            "GET /live HTTP/1.1",
            f"Host: {own}",
            f"Origin: http://{own}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "",
            "",
        ]
    ).encode()


def test_a_foreign_host_or_origin_is_refused(server: PageServer) -> None:
    port = server.port

    def get(path: str, host: str, *lines: str) -> str:
        return raw(port, "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]))

    assert "200" in get("/", f"127.0.0.1:{port}")
    assert "200" in get("/", f"localhost:{port}")
    assert "200" in get("/", f"[::1]:{port}")
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "",
        "127.0.0.1@e",
    ):
        assert "403" in get("/", host) or "400" in get("/", host), host
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    own = f"127.0.0.1:{port}"
    assert "101" in get("/live", own, *upgrade, key, f"Origin: http://{own}")
    for origin in (
        None,
        "null",
        "http://evil.example",
        "http://127.0.0.1:1",
        f"ftp://{own}",
        "http://[",
    ):
        lines = [f"Origin: {origin}"] if origin else []
        assert "403" in get("/live", own, *upgrade, key, *lines), origin
    assert "400" in get("/live", own, f"Origin: http://{own}")


def test_only_the_files_of_the_page_are_served_and_nothing_may_frame_it(server: PageServer) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            for path, kind in {"/": "html", "/page.js": "javascript", "/page.css": "css"}.items():
                async with session.get(address(server, path)) as answer:
                    assert answer.status == 200
                    assert kind in answer.headers["Content-Type"]
                    policy = answer.headers["Content-Security-Policy"]
                    assert "default-src 'none'" in policy
                    assert "frame-ancestors 'none'" in policy
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
            for path in (
                "/page/page.js",
                "/server.py",
                "/live/x",
                "/index.html",
                "/?x=/etc/passwd",
            ):
                async with session.get(address(server, path)) as answer:
                    assert answer.status == (200 if path.startswith("/?") else 404), path
            async with session.post(address(server), data=b"x" * 10) as answer:
                assert answer.status == 405

    asyncio.run(run())
    for path in ("/../server.py", "/..%2fserver.py", "//etc/passwd", "/%00"):
        line = raw(server.port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert "404" in line or "400" in line, (path, line)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = resources.files("stremn_ros.web") / "page"
    for name in ("index.html", "page.css", "page.js"):
        text = (page / name).read_text()
        assert not re.search(r"(?:https?:)?//[\w-]+\.\w", text), name
        assert "innerHTML" not in text, "names of objects come from others"


def test_another_address_needs_the_token(source: FakeSource) -> None:
    with serving(source, "0.0.0.0") as server:
        access = server._access
        assert len(access.token) >= 32
        assert (
            access.link(server.port, "robot") == f"http://robot:{server.port}/?token={access.token}"
        )

        async def run() -> None:
            base = address(server)
            jar = aiohttp.CookieJar(unsafe=True)  # which keeps cookies of an IP address
            async with aiohttp.ClientSession(cookie_jar=jar) as session:
                for path in ("/", "/?token=", "/?token=wrong", "/page.js", "/?token=%C3%A9"):
                    async with session.get(base.rstrip("/") + path) as answer:
                        assert answer.status == 401, path
                        assert access.token not in await answer.text()
                with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
                    await session.ws_connect(base + "live", origin=base.rstrip("/"))
                link = f"{base}?token={access.token}"
                async with session.get(link, allow_redirects=False) as answer:
                    assert (answer.status, answer.headers["Location"]) == (303, "/")
                    cookie = answer.headers["Set-Cookie"]
                    assert "HttpOnly" in cookie
                    assert "SameSite=Strict" in cookie
                async with session.get(base) as answer:
                    assert answer.status == 200
                async with session.ws_connect(base + "live", origin=base.rstrip("/")) as live:
                    assert "hello" in json.loads((await live.receive(PATIENCE)).data)

        asyncio.run(run())


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(
        "stremn_ros.web.access.hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b
    )
    access = Access("0.0.0.0")
    assert access.right_token(access.token)
    assert not access.right_token(None)
    assert len(compared) == 2
    assert Access("127.0.0.1").token == Access("::1").token == Access("localhost").token == ""
    assert Access("0.0.0.0").token != access.token
    for host in ("", "a b", "http://x", "x/y"):
        with pytest.raises(InputError, match="is no address"):
            Access(host)


def test_a_token_of_any_bytes_is_refused_and_raises_nothing() -> None:
    access = Access("0.0.0.0")
    for given in ("\udcff", "\ud800", "é", access.token + "\udcff", "?" * len(access.token)):
        assert not access.right_token(given)


def test_a_port_that_is_taken_is_said(server: PageServer, source: FakeSource) -> None:
    second = PageServer({"": source}, Access("127.0.0.1"), server.port)
    with pytest.raises(StremnError, match="give another --port"):
        asyncio.run(second.run(asyncio.Event()))


# ---------------------------------------------------------------- hostile clients


async def served(server: PageServer, source: FakeSource) -> None:
    """Somebody else is still served."""
    async with browser(server) as live:
        assert (await ask(live, do="reset"))["ok"]
        source.show((source.newest.number if source.newest else 0) + 1)
        await next_picture(live)


def test_ten_thousand_messages_a_second_end_that_connection_alone(
    server: PageServer, source: FakeSource
) -> None:
    async def run() -> None:
        async with browser(server) as good, browser(server) as bad:
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                for _ in range(10_000):
                    await bad.send_str('{"id": 1, "do": "reset"}')
            while not bad.closed:
                message = await bad.receive(PATIENCE)
                if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                    break
            assert bad.close_code in (1006, 1008)
            assert len(source.requests) <= server_module.MESSAGE_BURST + 100
            assert (await ask(good, do="pause"))["ok"]
            await served(server, source)

    asyncio.run(run())


def test_requests_that_take_long_do_not_pile_up(server: PageServer, source: FakeSource) -> None:
    go_on = threading.Event()
    source.work = lambda request: go_on.wait(PATIENCE)

    async def run() -> None:
        async with browser(server) as live:
            for _ in range(20):
                await live.send_str('{"id": 1, "do": "reset"}')
            busy = 0
            while busy < 20 - server_module.AT_WORK:
                told = json.loads((await live.receive(PATIENCE)).data)
                busy += "busy" in told.get("message", "")
            go_on.set()
            end = time.monotonic() + PATIENCE
            while not (await ask(live, do="pause"))["ok"]:  # those at work end a little later
                assert time.monotonic() < end
        assert len(source.requests) == server_module.AT_WORK + 1

    try:
        asyncio.run(run())
    finally:
        go_on.set()


def test_a_reset_does_not_wait_for_masks(server: PageServer, source: FakeSource) -> None:
    go_on = threading.Event()
    source.work = lambda request: request.hints.inside and go_on.wait(PATIENCE)

    async def run() -> None:
        async with browser(server) as first, browser(server) as second:
            for live in (first, second):
                for action in ("preview", "follow", "preview"):
                    hint = {"id": 1, "do": action, "stamp": "1", "inside": [[1, 1]]}
                    await live.send_str(json.dumps(hint))
            assert (await ask(second, do="reset"))["ok"]

    try:
        asyncio.run(run())
    finally:
        go_on.set()


def test_a_hundred_browsers_are_too_many_and_the_others_go_on(
    server: PageServer, source: FakeSource
) -> None:
    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            good = await stack.enter_async_context(browser(server))
            kept, refused = 1, 0
            for _ in range(99):
                try:
                    await stack.enter_async_context(browser(server))
                    kept += 1
                except (aiohttp.ClientError, OSError):
                    refused += 1
            assert (kept, refused) == (
                server_module.MOST_BROWSERS,
                100 - server_module.MOST_BROWSERS,
            )
            assert (await ask(good, do="reset"))["ok"]
        await served(server, source)

    asyncio.run(run())


def test_half_open_sockets_are_closed_and_do_not_fill_the_server(
    source: FakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "IDLE", 1.0)
    monkeypatch.setattr(server_module, "HEARTBEAT", 1.0)
    with serving(source) as server:
        place = ("127.0.0.1", server.port)
        sockets = [socket.create_connection(place, PATIENCE) for _ in range(150)]
        for number, connection in enumerate(sockets):  # some send half a request, others nothing
            if number % 2:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: local")

        def all_closed() -> bool:
            for connection in sockets:
                connection.settimeout(0.01)
                try:
                    while connection.recv(1000):
                        pass
                except ConnectionError:
                    continue
                except TimeoutError:
                    return False
            return True

        wait_until(all_closed, "the server to close half-open connections")
        # a browser that vanished without a word: it answers no ping
        silent = socket.create_connection(place, PATIENCE)
        silent.sendall(upgrade(server))
        wait_until(lambda: server._browsers, "the silent browser")
        wait_until(lambda: not server._browsers, "the silent browser to be closed")
        asyncio.run(served(server, source))
        for connection in (*sockets, silent):
            connection.close()


def test_requests_that_are_none_fill_no_log(
    server: PageServer, caplog: pytest.LogCaptureFixture
) -> None:
    for text in (
        "nonsense\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + "y" * 20_000 + "\r\n\r\n",
        "GET /" + "z" * 20_000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /live HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 99\r\n"
        "Sec-WebSocket-Key: x\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    ):
        with contextlib.suppress(ConnectionError):
            line = raw(server.port, text)
            assert not line or re.search(r" 4\d\d ", line), (text[:40], line)
    assert [record.getMessage()[:80] for record in caplog.records] == []


def test_a_browser_that_reads_nothing_costs_no_memory(
    server: PageServer, source: FakeSource
) -> None:
    async def run() -> None:
        async with browser(server) as good:
            with socket.socket() as deaf:
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.connect(("127.0.0.1", server.port))
                deaf.sendall(upgrade(server))
                while len(server._browsers) < 2:
                    await asyncio.sleep(0.01)
                for number in range(1, 200):
                    source.show(number)
                    head, *_ = read_picture(await next_picture(good))
                    await good.send_str(
                        json.dumps({"id": 0, "do": "ack", "number": head["number"]})
                    )
                other = [each for each in server._browsers if not each.shown]
                assert len(other) == 1
                assert len(other[0].under_way) <= server_module.UNDER_WAY
                assert len(other[0].answers) <= 1

    asyncio.run(run())


# ---------------------------------------------------------------- pieces


def test_the_page_is_in_the_package_that_is_built(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    built = {path.name for path in (tmp_path / "stremn_ros" / "web" / "page").iterdir()}
    assert built == {name for name, _ in server_module.PAGE.values()}


def test_a_large_frame_is_sent_small_and_masks_keep_their_values() -> None:
    source = FakeSource()
    source.show(1)
    frame = np.zeros((1080, 1920, 3), np.uint8)
    labels = np.zeros((1080, 1920), np.uint8)
    labels[300:700, 500:900] = 200
    picture = type(source.newest)(1, 5, frame, labels)
    head, image, shown = read_picture(encode(picture))
    assert image.shape == (540, 960, 3)
    assert (head["width"], head["height"]) == (1920, 1080)
    assert set(np.unique(shown).tolist()) == {0, 200}


def test_kept_frames_have_a_budget() -> None:
    recent = Recent(most=3, most_bytes=10_000)
    for stamp in range(5):
        recent.add(stamp, np.zeros((10, 10, 3), np.uint8))
    assert [recent.find(stamp) is not None for stamp in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    recent.add(9, np.zeros((100, 100, 3), np.uint8))
    assert recent.find(9) is not None, "the newest is always kept"
    assert recent.find(4) is None


def test_the_mask_that_was_shown_is_the_one_that_is_used() -> None:
    frame, truth = scene(0)
    asked = []

    def frame_of(stamp: int) -> np.ndarray:
        asked.append(stamp)
        return frame

    maker = MaskMaker(frame_of, HintMasks(), kept=2)
    hints = Hints(inside=((50.0, 62.0),))
    first = maker.make(5, hints)[1]
    assert maker.make(5, hints)[1] is first
    assert asked == [5]
    assert (first & (truth == 1)).sum() / (first | (truth == 1)).sum() > 0.9
    maker.make(6, hints)
    maker.make(7, hints)
    maker.make(5, hints)
    assert asked == [5, 6, 7, 5]


def test_the_page_is_told_how_good_the_mask_is() -> None:
    class Predicts(HintMasks):
        predicted = 0.876

        def make(self, frame: np.ndarray, **hints: Any) -> HintMask:
            return HintMask(super().make(frame, **hints).mask, self.predicted)

    masks = Predicts()
    maker = MaskMaker(lambda stamp: scene(0)[0], masks)
    hints = Hints(inside=((50.0, 62.0),))
    pixels = int(maker.make(5, hints)[1].sum())
    answer = maker.preview(5, hints)
    assert answer["message"] == f"{pixels} pixels, predicted IoU 0.88"
    assert answer["mask"].startswith(b"\x89PNG")
    masks.predicted = None
    assert maker.preview(6, hints)["message"] == f"{pixels} pixels"


def test_free_ids() -> None:
    assert free_id([]) == 1
    assert free_id({1, 2, 4}) == 3
    assert free_id({1, 2}, after=7) == 8
    assert free_id({255}, after=254) == 1
    with pytest.raises(InputError, match="all 255"):
        free_id(range(1, 256))
