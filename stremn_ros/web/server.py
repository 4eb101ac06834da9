"""The server of the live page: one page, one WebSocket a browser, and bounds for everything.

A browser says which picture it has shown; only then the next one is sent, the newest. So a slow
browser, or one that is gone, has at most two pictures under way and slows nobody.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from stremn_ros.errors import StremnError
from stremn_ros.imaging.palette import PALETTE
from stremn_ros.web.access import Access
from stremn_ros.web.requests import LARGEST_MESSAGE, Request, read_request
from stremn_ros.web.source import Picture, Source, encode

log = logging.getLogger(__name__)

MOST_BROWSERS = 32
MOST_CONNECTIONS = 96  # of TCP, browsers included; what is beyond is closed at once
IDLE = 10.0  # seconds that a connection may take to send a whole request
HEARTBEAT = 15.0  # seconds between pings; a browser that does not answer one is closed
MESSAGES_PER_SECOND, MESSAGE_BURST = 100.0, 200
UNDER_WAY = 2  # pictures sent and not shown yet
AT_WORK = 4  # requests of one browser that are not answered yet
STATUS_PERIOD = 1.0
CLOSING = 1.0  # seconds that a browser has to say goodbye

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Rate:
    """So many messages a second on average, and a burst."""

    def __init__(self) -> None:
        self._left, self._last = float(MESSAGE_BURST), time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        more = (now - self._last) * MESSAGES_PER_SECOND
        self._left, self._last = min(float(MESSAGE_BURST), self._left + more), now
        self._left -= 1.0
        return self._left >= 0.0


class _Stream:
    """A source, and its newest picture as it is sent."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.encoded: tuple[int, asyncio.Future[bytes]] | None = None


class _Browser:
    """One WebSocket: what it was sent, what it has shown, what it waits for."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        stream: _Stream,
    ) -> None:
        self.socket, self._transport = socket, transport
        self.stream = stream
        self.rate = _Rate()
        self.wake = asyncio.Event()
        self.sent = self.shown = 0  # numbers of pictures
        self.under_way: deque[int] = deque(maxlen=UNDER_WAY)
        self.at_work = 0
        self.answers: deque[str] = deque()  # no more than requests, which are bounded
        self.status = ""

    def cut_off(self) -> None:
        """Ends the connection without a word."""
        if self._transport is not None:
            self._transport.abort()


class _Server(web.Server):
    """Closes connections that are too many, and those that send no request."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        # its traceback for each request that is none would let anybody fill the log
        quiet = logging.getLogger(f"{__name__}.http")
        quiet.setLevel(logging.CRITICAL)
        super().__init__(
            self._count_in(handler), access_log=None, keepalive_timeout=IDLE, logger=quiet
        )
        self._busy: set[Any] = set()

    def _count_in(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> Any:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            self._busy.add(request.protocol)
            try:
                return await handler(request)
            except ConnectionError:  # it is gone
                raise
            except Exception:
                log.exception("a request failed")
                raise
            finally:
                self._busy.discard(request.protocol)

        return handle

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        asyncio.get_running_loop().call_later(IDLE, self._look_at, handler, transport)

    def _look_at(self, handler: Any, transport: asyncio.Transport) -> None:
        if transport.is_closing():
            return
        if handler in self._busy:
            asyncio.get_running_loop().call_later(IDLE, self._look_at, handler, transport)
            return
        transport.abort()


class PageServer:
    """Serves the page of a source, or of several, which a browser chooses from.

    Args:
        sources: what is shown, by the name on its tab; the first is shown first. They are not
            closed by the server.
        access: who may use the page, and the host to bind to. port: 0 takes a free one.

    Attributes:
        port: known once it runs.
    """

    def __init__(self, sources: Mapping[str, Source], access: Access, port: int) -> None:
        self._streams = {name: _Stream(source) for name, source in sources.items()}
        self._access, self.port = access, port
        self._run = secrets.token_hex(4)  # stamps of an earlier server are of other pictures
        self._browsers: set[_Browser] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds them weakly
        self._workers = ThreadPoolExecutor(AT_WORK, "web-request")
        # apart, so that a pause or a reset never waits for masks that are being made
        self._makers = ThreadPoolExecutor(2, "web-mask")
        self._encoder = ThreadPoolExecutor(1, "web-encode")
        folder = resources.files("stremn_ros.web") / "page"
        self._files = {
            path: ((folder / name).read_bytes(), kind) for path, (name, kind) in PAGE.items()
        }

    async def run(self, stop: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Serves until `stop` is set; `ready` is called when the port is open.

        Raises:
            StremnError: the port cannot be had.
        """
        loop = asyncio.get_running_loop()

        def changed() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._wake)

        runner = web.ServerRunner(_Server(self._handle), shutdown_timeout=CLOSING)
        await runner.setup()
        host = self._access.host
        try:
            site = web.TCPSite(runner, host, self.port)
            await site.start()
        except (OSError, OverflowError) as error:
            await runner.cleanup()
            reason = getattr(error, "strerror", None) or error
            raise StremnError(
                f"{host}:{self.port} cannot be opened ({reason}): another program may use it; "
                "give another --port"
            ) from None
        self.port = runner.addresses[0][1]
        for stream in self._streams.values():
            stream.source.listen(changed)
        ready()
        status = asyncio.create_task(self._tell_status())
        try:
            await stop.wait()
        finally:
            status.cancel()
            for browser in list(self._browsers):
                with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
                    await asyncio.wait_for(
                        browser.socket.close(code=WSCloseCode.GOING_AWAY), CLOSING
                    )
            await runner.cleanup()
            self._workers.shutdown(wait=False, cancel_futures=True)
            self._makers.shutdown(wait=False, cancel_futures=True)
            self._encoder.shutdown(wait=True, cancel_futures=True)

    # ------------------------------------------------------------------ requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        host = request.headers.get("Host")
        if not self._access.right_host(host):
            return _text(403, "This page is not served under that name.")
        if request.method != "GET":
            return _text(405, "Only GET.")
        path = request.rel_url.path
        given = request.rel_url.query.get("token")
        cookie = self._access.cookie(self.port)
        if path == "/" and given is not None and self._access.right_token(given):
            answer = _text(303, "")
            answer.headers["Location"] = "/"  # the token does not stay in the history
            if self._access.token:
                answer.set_cookie(
                    cookie, self._access.token, httponly=True, samesite="Strict", path="/"
                )
            return answer
        if not self._access.right_token(request.cookies.get(cookie)):
            return _text(401, "Open the link with the token that `stremn view` printed.")
        if path == "/live":
            return await self._live(request)
        if path in self._files:
            body, kind = self._files[path]
            return web.Response(body=body, content_type=kind, charset="utf-8", headers=HEADERS)
        return _text(404, "There is no such page.")

    async def _live(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = request.headers
        if not self._access.right_origin(headers.get("Origin"), headers.get("Host")):
            return _text(403, "Only the page of this server may connect.")
        if len(self._browsers) >= MOST_BROWSERS:
            return _text(503, f"{MOST_BROWSERS} browsers are connected; no more are served.")
        socket = web.WebSocketResponse(
            max_msg_size=LARGEST_MESSAGE, heartbeat=HEARTBEAT, compress=False, timeout=CLOSING
        )
        if not socket.can_prepare(request).ok:
            return _text(400, "A WebSocket is needed here.")
        first, *_ = self._streams.values()
        # a camera that is gone, in a page that was left open, is no fault
        stream = self._streams.get(request.rel_url.query.get("camera", ""), first)
        browser = _Browser(socket, request.transport, stream)
        self._browsers.add(browser)  # before the await: a hundred at once are counted, too
        sender: asyncio.Task[None] | None = None
        try:
            await socket.prepare(request)
            browser.answers.append(self._hello(stream))
            browser.wake.set()
            sender = asyncio.create_task(self._send(browser))
            await self._receive(browser)
        finally:
            self._browsers.discard(browser)
            if sender is not None:
                sender.cancel()
            if not socket.closed:
                browser.cut_off()
        return socket

    def _hello(self, stream: _Stream) -> str:
        return json.dumps(
            {
                "hello": {
                    "run": self._run,
                    "title": stream.source.title,
                    "abilities": sorted(stream.source.abilities),
                    "palette": ["#" + bytes(color).hex() for color in PALETTE],
                    "cameras": list(self._streams),
                    "camera": next(n for n, each in self._streams.items() if each is stream),
                },
                "status": self._status(stream),
            }
        )

    async def _receive(self, browser: _Browser) -> None:
        async for message in browser.socket:
            if message.type is not WSMsgType.TEXT:
                await self._part(browser, WSCloseCode.UNSUPPORTED_DATA, b"only text")
                return
            if not browser.rate.take():
                await self._part(browser, WSCloseCode.POLICY_VIOLATION, b"too many messages")
                return
            try:
                request = read_request(message.data)
            except StremnError as error:
                if len(browser.answers) < AT_WORK:
                    self._answer(browser, 0, {"ok": False, "message": str(error)})
                continue
            self._take(browser, request)

    async def _part(self, browser: _Browser, code: int, reason: bytes) -> None:
        with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
            await asyncio.wait_for(browser.socket.close(code=code, message=reason), CLOSING)

    def _take(self, browser: _Browser, request: Request) -> None:
        if request.do == "ack":
            browser.shown = max(browser.shown, min(request.number, browser.sent))
            while browser.under_way and browser.under_way[0] <= browser.shown:
                browser.under_way.popleft()
            browser.wake.set()
            return
        if request.do not in browser.stream.source.abilities:
            self._answer(browser, request.id, {"ok": False, "message": "not possible here"})
            return
        if browser.at_work >= AT_WORK:
            self._answer(
                browser, request.id, {"ok": False, "message": "busy: wait for the last answer"}
            )
            return
        browser.at_work += 1
        task = asyncio.create_task(self._work(browser, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, browser: _Browser, request: Request) -> None:
        makes = request.do in ("preview", "follow")
        try:
            answer = await asyncio.get_running_loop().run_in_executor(
                self._makers if makes else self._workers, browser.stream.source.do, request
            )
            mask = answer.pop("mask", None)
            if mask is not None:
                answer["mask"] = base64.b64encode(mask).decode()
            answer = {"ok": True, **answer}
        except StremnError as error:
            answer = {"ok": False, "message": str(error)}
        except Exception:
            log.exception("the page's request %s failed", request.do)
            answer = {"ok": False, "message": "it failed; the log of `stremn view` says why"}
        finally:
            browser.at_work -= 1
        self._answer(browser, request.id, answer)

    def _answer(self, browser: _Browser, number: int, answer: dict[str, Any]) -> None:
        if len(browser.answers) >= 4 * MESSAGE_BURST:  # it asks, and never reads
            browser.cut_off()
            return
        browser.answers.append(json.dumps({"answer": number, **answer}))
        browser.wake.set()

    # ------------------------------------------------------------------ pictures

    def _wake(self) -> None:
        for browser in self._browsers:
            browser.wake.set()

    async def _tell_status(self) -> None:
        while True:
            if self._browsers:
                for stream in self._streams.values():
                    watching = [each for each in self._browsers if each.stream is stream]
                    status = json.dumps({"status": self._status(stream)}) if watching else ""
                    for browser in watching:
                        browser.status = status
                self._wake()
            await asyncio.sleep(STATUS_PERIOD)

    def _status(self, stream: _Stream) -> dict[str, Any]:
        return {**stream.source.status(), "browsers": len(self._browsers)}

    async def _send(self, browser: _Browser) -> None:
        """All that goes to a browser. It waits for a slow one, and nobody waits for it."""
        socket = browser.socket
        try:
            while not socket.closed:
                await browser.wake.wait()
                browser.wake.clear()
                while browser.answers:
                    await socket.send_str(browser.answers.popleft())
                if browser.status:
                    text, browser.status = browser.status, ""
                    await socket.send_str(text)
                picture = browser.stream.source.newest
                if (
                    picture is not None
                    and picture.number > browser.sent
                    and len(browser.under_way) < UNDER_WAY
                ):
                    number, data = await self._encode(browser.stream, picture)
                    browser.sent = number
                    browser.under_way.append(number)
                    await socket.send_bytes(data)
        except (ConnectionError, RuntimeError):  # it is gone or closing
            pass
        except Exception:
            log.exception("a picture could not be sent")
            browser.cut_off()

    async def _encode(self, stream: _Stream, picture: Picture) -> tuple[int, bytes]:
        """The picture, or a newer one, encoded once for all browsers."""
        if stream.encoded is None or stream.encoded[0] < picture.number:
            future = asyncio.get_running_loop().run_in_executor(self._encoder, encode, picture)
            stream.encoded = picture.number, future
        number, future = stream.encoded
        # one browser that leaves must not end it for the others
        return number, await asyncio.shield(future)


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, headers=HEADERS)
