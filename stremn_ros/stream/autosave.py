"""Snapshots of the memory on disk: where they may lie, and when they are written by themselves."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from stremn_ros.errors import InputError, StremnError
from stremn_ros.snapshot import Snapshot
from stremn_ros.stream.answers import Answer
from stremn_ros.stream.diagnosis import listed_ids
from stremn_ros.stream.limited_log import Log
from stremn_ros.stream.segment_core import SegmentCore
from stremn_ros.stream.settings import Settings

SUFFIX = ".safetensors"
# One plain file name: no separator, no hidden file, nothing special to a shell or a file system.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def snapshot_path(folder: str, name: str) -> Path:
    """The file of a snapshot that somebody named; it lies in the folder, whatever the name is.

    Raises:
        InputError: no folder was set, a name that is not a plain file name, or a link.
    """
    if not folder:
        raise InputError(
            "there is no folder for snapshots: start the node with the parameter snapshot_dir, "
            "for instance -p snapshot_dir:=$HOME/.ros/stremn"
        )
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name[:120]!r} cannot be the name of a snapshot: give a plain file name (letters, "
            "digits, '_', '-' and '.', 100 at most, no folders), or none for the default"
        )
    try:
        home = Path(folder).expanduser()
    except RuntimeError as error:  # ~nobody
        raise InputError(f"snapshot_dir is {folder!r}: {error}") from None
    path = home / (name if name.endswith(SUFFIX) else name + SUFFIX)
    if path.is_symlink():
        raise InputError(f"{path} is a link, which could lead out of the folder: remove it")
    return path


class Snapshots:
    """Saves and loads the memory of a core; a thread saves it at an interval.

    Args:
        core: whose memory it is.
        folder: of the snapshots; empty for none. It is made when it is first written to.
        name: of the snapshot that is taken when none is named, and of all that are written
            unasked.
        settings: ``autosave_period``, read again after each ``settings_changed``.
        log: see `limited_log.Log`.
    """

    def __init__(
        self,
        core: SegmentCore,
        folder: str,
        name: str,
        settings: Settings,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._core = core
        self._folder, self._name = folder, name
        self._settings = settings
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()  # one file is written at a time
        self._noted = threading.Lock()
        self._saved = 0  # changes of the memory when it was last saved or loaded
        self._last = "never"
        self._last_time = 0.0
        self._problem = ""
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="autosave", daemon=True)
        self._thread.start()

    def save(self, name: str = "") -> Answer:
        """~/save_memory. A failure leaves the snapshot of that name as it was."""
        if not self._core.tracked():
            return self._core.failure(
                "no object is tracked, so there is nothing to save: seed one first (~/seed_mask)"
            )
        return self._save(name)

    def load(self, name: str = "") -> Answer:
        """~/load_memory: all objects tracked now give way to those of the snapshot."""
        try:
            path = snapshot_path(self._folder, name or self._name)
            snapshot = Snapshot.read(path)
        except StremnError as error:
            return self._core.failure(str(error))

        def restore() -> str:
            changes = self._core.restore(snapshot)
            if path == self._default():
                self._saved = changes
            self._note(f"{path.name} loaded", "")
            age = max(0.0, time.time() - snapshot.saved)
            return f"loaded {_objects(snapshot.ids)} from {path}, saved {age:.1f} s ago"

        return self._core.answered(restore)

    def autoload(self) -> None:
        """Loads the default snapshot if there is one; whatever is wrong is only reported."""
        try:
            if not self._default().exists():
                self._log("info", "", "autoload: there is no snapshot yet")
                return
            answer = self.load()
        except (StremnError, OSError) as error:
            answer = self._core.failure(str(error))
        if answer.success:
            self._log("info", "", f"autoload: {answer.message}")
        else:
            self._note(None, f"autoload failed: {answer.message}")
            self._log("error", "", f"autoload failed: {answer.message}")

    def autosave(self) -> None:
        """Saves under the default name, if anything changed since the last time."""
        if not self.unsaved():
            return
        answer = self._save("")
        if not answer.success:
            self._note(None, f"autosave failed: {answer.message}")
            self._log("error", "autosave", f"autosave failed: {answer.message}")

    def unsaved(self) -> bool:
        """The memory has changed since the default snapshot was saved or loaded."""
        return self._core.changes != self._saved

    def settings_changed(self) -> None:
        """The settings have changed."""
        self._wake.set()

    def close(self) -> None:
        """Ends the thread, after the file it may be writing."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def status(self) -> tuple[str, str]:
        """For the diagnostics: the last snapshot, and what is wrong ('' when nothing is)."""
        with self._noted:
            ago = f", {self._clock() - self._last_time:.1f} s ago" if self._last_time else ""
            return self._last + ago, self._problem

    def _default(self) -> Path:
        return snapshot_path(self._folder, self._name)

    def _save(self, name: str) -> Answer:
        ids: list[int] = []

        def write() -> str:
            path = snapshot_path(self._folder, name or self._name)
            with self._lock:
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise InputError(
                        f"the folder {path.parent} cannot be made: {error.strerror or error}"
                    ) from None
                snapshot, changes = self._core.copy()
                size = snapshot.write(path)  # frames go on while the disk works
                if path == self._default():
                    self._saved = changes
            ids.extend(sorted(snapshot.ids))
            many = "s" if len(ids) != 1 else ""
            self._note(f"{path.name} with {len(ids)} object{many} saved", "")
            return f"saved {_objects(ids)} to {path} ({size / 1e6:.1f} MB)"

        answer = self._core.answered(write)
        answer.ids = ids
        return answer

    def _note(self, last: str | None, problem: str) -> None:
        with self._noted:
            if last is not None:
                self._last, self._last_time = last, self._clock()
            self._problem = problem

    def _run(self) -> None:
        last = self._clock()
        while True:
            period = self._settings.autosave_period
            due = last + period - self._clock()
            if not period or due > 0:
                self._wake.wait(due if period else None)
                self._wake.clear()
            if self._stopping:
                return
            if period and self._clock() >= last + period:
                try:
                    self.autosave()
                except Exception as error:  # the thread must live on
                    self._note(None, f"autosave failed: {type(error).__name__}: {error}")
                    self._log("error", "autosave", f"autosave failed: {error!r}")
                last = self._clock()


def _objects(ids: Sequence[int]) -> str:
    if not ids:
        return "a memory without objects"
    return f"object{'s' if len(ids) != 1 else ''} {listed_ids(sorted(ids))}"
