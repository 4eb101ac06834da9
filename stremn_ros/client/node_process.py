"""A node of this package as a separate process, for programs that start and watch nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stremn_ros.client.peer import wait_for
from stremn_ros.errors import StremnError

PATIENCE = 180.0  # seconds that a node may take to begin or to end on a busy machine


class NodeProcess:
    """As `ros2 run stremn_ros MODULE` would start it; its output goes to a file.

    Args:
        module: under stremn_ros.nodes. log_path: of its output; the folder must exist.
        parameters: by name. remaps: of topics, "image:=/camera". environment: to add.
    """

    def __init__(
        self,
        module: str,
        log_path: Path,
        parameters: Mapping[str, Any] | None = None,
        remaps: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = module
        self.log_path = log_path
        command = [sys.executable, "-m", f"stremn_ros.nodes.{module}", "--ros-args"]
        for name, value in (parameters or {}).items():
            # a YAML value; texts quoted, so that a name stays a text
            command += ["-p", f"{name}:={json.dumps(value)}"]
        for remap in remaps:
            command += ["-r", remap]
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def tail(self) -> str:
        """The end of the log."""
        return "\n".join(self.log.splitlines()[-15:])

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def check(self) -> None:
        """StremnError with the end of its log when it has ended by itself."""
        if not self.alive:
            raise StremnError(f"{self.name} ended by itself:\n{self.tail}")

    def wait_for_log(self, text: str, timeout: float = PATIENCE) -> None:
        """Until the text stands in the log."""

        def there() -> bool:
            if text in self.log:
                return True
            self.check()
            return False

        wait_for(there, f"{text!r} in the log of {self.name}", timeout)

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code, when it has ended by itself; StremnError when it does not."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise StremnError(f"{self.name} did not end:\n{self.tail}") from None

    def stop(self, how: int = signal.SIGINT) -> int:
        """Ends it as Ctrl-C does, by force if need be; its exit code."""
        if self.alive:
            self.process.send_signal(how)
            try:
                self.process.wait(PATIENCE)
            except BaseException as error:  # it does not end, or a second Ctrl-C: it must not stay
                self.process.kill()
                self.process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
        return self.process.returncode
