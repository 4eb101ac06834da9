"""Who may use the page: the address, the token, Host and Origin of a request."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets

from stremn_ros.errors import InputError


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """Decides for each request.

    On a loopback address whoever can reach the port may use it, so a page of another site must not
    get there through the browser of the person: Host must be a loopback name, which a name that was
    re-bound to 127.0.0.1 is not. On any other address a token is required.

    Args:
        host: that the server binds to. port: 0 until it is known.

    Attributes:
        token: empty on a loopback address.

    Raises:
        InputError: `host` cannot be an address.
    """

    def __init__(self, host: str) -> None:
        if not re.fullmatch(r"[\w.:-]+", host):
            raise InputError(
                f"--host {host!r} is no address: 127.0.0.1 for this machine alone, 0.0.0.0 for all "
                "that reach it"
            )
        self.host = host
        self.token = "" if is_loopback(host) else secrets.token_urlsafe(24)

    def link(self, port: int, name: str = "") -> str:
        """The address for people; `name`: of this machine, where it is bound to all addresses."""
        host = name or self.host
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{port}/" + (f"?token={self.token}" if self.token else "")

    def cookie(self, port: int) -> str:
        """The name of the cookie with the token; cookies do not tell ports apart."""
        return f"stremn_{port}"

    def right_host(self, header: str | None) -> bool:
        """Whether a Host header names this server."""
        name = _host_name(header)
        if name is None:
            return False
        return bool(self.token) or is_loopback(name)

    def right_token(self, given: str | None) -> bool:
        """Whether a token is the one, where one is required; in constant time."""
        if not self.token:
            return True
        return hmac.compare_digest((given or "").encode(errors="replace"), self.token.encode())

    @staticmethod
    def right_origin(origin: str | None, host: str | None) -> bool:
        """Whether the page that opens a WebSocket is this server's own.

        Browsers always send Origin with a WebSocket. A proxy with TLS in front makes it https.
        """
        if not origin or not host:
            return False
        return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _host_name(header: str | None) -> str | None:
    """The host of a Host header without the port; None where it is none."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?", header or "", re.ASCII)
    return match[1].strip("[]").lower() if match else None
