"""How the process of a node starts, and how signals stop it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions

from stremn_ros.errors import StremnError
from stremn_ros.files import printing
from stremn_ros.nodes.dds_profile import profile_environment
from stremn_ros.resources import shared_file

HELP = """\
usage: {name} [--ros-args [-p PARAMETER:=VALUE ...] [-r TOPIC:=NEW ...] [--params-file FILE]]

Runs until Ctrl-C. docs/parameters.md has the parameters, docs/*_node.md the topics and services.
A lifecycle node waits to be configured and activated, by `ros2 lifecycle set`, by a launch file, or
by its own parameter: -p autostart:=true
"""


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP: they tell the process to stop, and raise nothing.

    rclpy's own handlers end its context at once, so that what is in work cannot be published any
    more, and a second Ctrl-C raises KeyboardInterrupt in the middle of whatever is saved. Here a
    signal is only noted, however often it comes.

    Attributes:
        told: a signal has come.
    """

    def __init__(self) -> None:
        self.told = False
        # not an Event, whose lock the main thread may hold when a signal interrupts it
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        # A signal may come to another thread, or just before `wait` reads: then nothing interrupts
        # the read. So the pipe is written to where the signal comes, not when Python handles it.
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup sets it
            self._numbers.append(signal.SIGHUP)
        for number in self._numbers:
            signal.signal(number, lambda *_: self.tell())

    def tell(self) -> None:
        """As a signal does; from any thread."""
        self.told = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"x")

    def ignore(self) -> None:
        """The process ends by itself now: its exit code is not to be that of a signal."""
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)

    def wait(self) -> None:
        """Until one has come; for the main thread, in which Python handles signals."""
        os.read(self._reader, 1)


def use_shared_memory() -> None:
    """Gives Fast DDS the profile with room for images, unless the environment names one.

    It holds for participants of this process that are made later. The room is needed by the process
    that publishes.
    """
    with contextlib.suppress(
        LookupError, OSError
    ):  # without the file there is no room, that is all
        os.environ.update(profile_environment(shared_file("fastdds_shm.xml")))


def init(args: Sequence[str] | None = None, context: Any = None) -> None:
    """`rclpy.init`, without its signal handlers.

    Raises:
        StremnError: ROS cannot be started, in a sentence.
    """
    use_shared_memory()
    try:
        rclpy.init(
            args=list(args) if args is not None else None,
            context=context,
            signal_handler_options=SignalHandlerOptions.NO,
        )
    except Exception as error:
        raise StremnError(in_a_sentence(error)) from error


def shut_down(context: Any = None) -> None:
    """Ends ROS; the process's handlers of signals stay as they are.

    `rclpy.try_shutdown` would set them to the default for a moment, in which a second Ctrl-C kills
    the process.
    """
    (context or rclpy.get_default_context()).try_shutdown()


def in_a_sentence(error: Exception) -> str:
    """Why rclpy could not start, without the places in its sources."""
    text = " ".join(str(error).split(", at /")[0].split())
    if "logging directory" in text or "log directory" in text:
        folder = os.environ.get("ROS_LOG_DIR")
        found = f"ROS_LOG_DIR is {folder}" if folder else "neither HOME nor ROS_LOG_DIR is set"
        if not folder and os.environ.get("HOME"):
            found = f"HOME is {os.environ['HOME']}"
        return (
            f"there is no folder for the log of ROS ({found}): set ROS_LOG_DIR to a folder that "
            "can be written to"
        )
    if type(error).__name__ == "UnknownROSArgsError":
        return f"unknown ROS arguments: {text}"
    return f"ROS cannot be started: {text.removeprefix('failed to initialize rcl: ')}"


def run(name: str, make: Callable[[StopSignals], int]) -> int:
    """Runs the main function of an executable; the exit code.

    Args:
        name: of the executable. make: given the signals; it starts ROS and runs to the end. What
            it raises as StremnError, or as an exception of rclpy, is reported in a sentence.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        with printing():
            sys.stdout.write(HELP.format(name=name))
        return 0
    signals = StopSignals()
    try:
        return make(signals)
    except Exception as error:
        if isinstance(error, StremnError):
            text = str(error)
        elif type(error).__module__.startswith("rclpy"):
            text = in_a_sentence(error)
        else:
            raise
        sys.stderr.write(f"{name}: error: {text}\n")
        return 1
    finally:
        signals.ignore()
