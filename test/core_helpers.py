"""A core of the segmentation node without ROS, around a segmenter of colors."""

from __future__ import annotations

import threading
import time
from dataclasses import fields
from types import SimpleNamespace

import numpy as np

from stremn_ros.errors import CapacityError, InputError, UnknownObjectError
from stremn_ros.imaging.overlap import overlaps
from stremn_ros.messages.image_write import encode
from stremn_ros.options import RUN_TIME, SegmenterOptions
from stremn_ros.results import ObjectState, SegmenterState, SegmentResult, TrackedObject
from stremn_ros.stream.diagnosis import CoreStatus, InputStatus
from stremn_ros.stream.segment_core import SegmentCore

SECOND = 1_000_000_000
TIMEOUT = 30.0


def core_status(values):
    """A CoreStatus with its parts, each of the values with its names."""

    def of(kind):
        return {field.name: values[field.name] for field in fields(kind) if field.name in values}

    images, state = InputStatus(**of(InputStatus)), SegmenterState(**of(SegmenterState))
    return CoreStatus(**{**of(CoreStatus), "images": images, "state": state})


class ColorJob:
    """Keeps the contract of a SeedJob."""

    def __init__(self, frame, mask):
        self.frame, self.mask = frame, mask
        self.ids = [int(value) for value in np.unique(mask) if value]
        self.labels = {number: number for number in self.ids}  # of the mask -> id
        self.colors, self.forget, self.spared, self.cut_ids = {}, set(), [], []

    def rename(self, seeded, tracked):
        self.ids[self.ids.index(seeded)] = tracked
        self.labels[seeded] = tracked

    def spare(self, tracked):
        self.spared += tracked

    def drop(self, number):
        self.ids.remove(number)


class ColorSegmenter:
    """Keeps the Segmenter contract with colors for a network, and lets a test hold it up.

    Each object is the mean color under its seed; a frame that is remembered moves the color.
    """

    runtime_name = "colors"
    update_rule = "least_similar"
    update_every = 1
    lost_after = 30
    return_score = 0.0
    update_change = 0.0
    smallest_part = 0.0
    gate = 0.0

    def __init__(self, max_objects=4):
        self.max_objects = max_objects
        self.min_score = 0.5
        self.memory_bytes = 1234
        self.bank = {}
        self.last = None
        self.inside = threading.Lock()
        self.may_go = threading.Event()
        self.may_go.set()
        self.entered = threading.Event()
        self.fail = None
        self.threads = set()
        self.stepped = []  # frames that a fork was stepped through
        self.slow = None  # called in each of those steps
        self.slow_seed = None  # called for each object that is seeded
        self.gave_way = []
        self.defaults = self.options

    def _alone(self):
        assert self.inside.acquire(blocking=False), "two calls of the segmenter at one time"
        self.threads.add(threading.get_ident())

    @property
    def options(self):
        return SegmenterOptions(**{name: getattr(self, name) for name in RUN_TIME})

    def change(self, **options):
        SegmenterOptions(**options)
        for name, value in options.items():
            setattr(self, name, value)

    @property
    def ids(self):
        return sorted(self.bank)

    @property
    def slots_used(self):
        return dict.fromkeys(self.bank, 1)

    def look_inside(self, labels=None, cells=0):
        return [SimpleNamespace(id=n, text=lambda n=n: f"color of {n}") for n in self.ids]

    def _room_for(self, ids, replace=False, forget=()):
        stay = set() if replace else self.bank.keys() - set(forget)
        if len({*ids} | stay) > self.max_objects:
            raise CapacityError(f"at most {self.max_objects} objects")

    def begin_seed(self, frame, mask, *, ids=None, replace=False):
        if mask.shape != frame.shape[:2]:
            raise InputError("mask and frame differ in size")
        job = ColorJob(frame, mask)
        self._room_for(job.ids, replace=True)
        job.overlaps = overlaps(mask, self.find(frame))
        return job

    def seed_steps(self, job):
        self._room_for(job.ids, forget=job.forget)
        for step, number in enumerate(job.labels):
            if step:
                yield
            self._alone()
            try:
                if self.slow_seed is not None:
                    self.slow_seed()
                job.colors[number] = job.frame[job.mask == number].mean(axis=0)
            finally:
                self.inside.release()

    def finish_seed(self, job):
        self._room_for(job.ids, forget=job.forget)
        for number in job.forget:
            self.bank.pop(number, None)
        for label, number in job.labels.items():
            if number in job.ids:
                self.bank[number] = job.colors[label]
        return sorted(job.ids)

    def find(self, frame):
        labels = np.zeros(frame.shape[:2], np.uint8)
        for number in self.ids:
            labels[np.abs(frame - self.bank[number]).max(axis=2) < 40] = number
        return labels

    def give_way(self, frame, mask, ids):
        self.gave_way.append(sorted(ids))
        return sorted(ids)

    def rename(self, number, new):
        self.bank[new] = self.bank.pop(number)

    def segment(self, frame):
        self._alone()
        try:
            self.entered.set()
            assert self.may_go.wait(TIMEOUT)
            if self.fail is not None:
                raise self.fail
            labels = self.find(frame)
            objects = []
            for number in self.ids:
                inside = labels == number
                objects.append(
                    TrackedObject(
                        id=number,
                        state=ObjectState.TRACKED if inside.any() else ObjectState.LOST,
                        score=0.9 if inside.any() else 0.0,
                        area=int(inside.sum()),
                        box=(0, 0, 0, 0),
                        centroid=(0.0, 0.0),
                    )
                )
            self.last = frame, labels
            return SegmentResult(labels, objects)
        finally:
            self.inside.release()

    def remember(self):
        self._alone()
        try:
            frame, labels = self.last
            for number in self.ids:
                if (labels == number).any():
                    mean = frame[labels == number].mean(axis=0)
                    self.bank[number] = 0.9 * self.bank[number] + 0.1 * mean
        finally:
            self.inside.release()

    def remove(self, number):
        if number not in self.bank:
            raise UnknownObjectError(f"no object {number}: tracked are {self.ids}")
        del self.bank[number]

    def reset(self):
        self.bank.clear()

    def fork(self, ids, *, replace=False, forget=()):
        self._room_for(ids, replace, forget)
        made = ColorSegmenter(len(ids))
        made.inside, made.threads = self.inside, self.threads
        made.stepped = self.stepped = []
        made.slow, made.slow_seed = self.slow, self.slow_seed
        return made

    def step(self, frame):
        self.stepped.append(frame)
        if self.slow is not None:
            self.slow()
        result = self.segment(frame)
        self.remember()
        return result

    def adopt(self, other, *, replace=False, forget=()):
        self._room_for(other.ids, replace, forget)
        if replace:
            self.bank.clear()
        for number in forget:
            self.bank.pop(number, None)
        self.bank.update(other.bank)
        return other.ids


def picture(offset=0, height=24, width=32, seed=0):
    """A red and a blue square on grey, shifted by `offset` pixels."""
    rng = np.random.default_rng(seed)
    frame = rng.integers(90, 110, (height, width, 3), np.uint8)
    frame[4:12, 2 + offset : 10 + offset] = (220, 30, 30)
    frame[14:22, 2 + offset : 10 + offset] = (30, 30, 220)
    return frame


def masks(offset=0, ids=(1, 2), height=24, width=32):
    labels = np.zeros((height, width), np.uint8)
    labels[4:12, 2 + offset : 10 + offset] = ids[0]
    if len(ids) > 1:
        labels[14:22, 2 + offset : 10 + offset] = ids[1]
    return labels


def message(image, stamp=0, encoding="rgb8"):
    header = SimpleNamespace(
        stamp=SimpleNamespace(sec=stamp // SECOND, nanosec=stamp % SECOND), frame_id="camera"
    )
    return encode(SimpleNamespace(header=header), image, encoding)


def mask_message(labels, stamp=0, encoding="mono8"):
    return message(labels, stamp, encoding)


def wait_until(condition, what="the condition"):
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, f"waited {TIMEOUT} s for {what}"
        time.sleep(0.002)


class Rig:
    def __init__(self, **options):
        self.segmenter = ColorSegmenter()
        self.published = []
        self.logs = []
        self.now = 0
        self.on_publish = None
        self.core = SegmentCore(
            self.segmenter,
            publish=self._publish,
            log=lambda severity, key, text: self.logs.append((severity, text)),
            now=lambda: self.now,
            topic="/camera/image",
            **options,
        )
        self.core.activate()

    def _publish(self, segmented):
        if self.on_publish is not None:
            self.on_publish(segmented)
        self.published.append(segmented)

    def send(self, image, stamp=0, encoding="rgb8"):
        """A frame, and waits until it is through."""
        self.core.on_frame(message(image, stamp, encoding))
        self.settle()

    def settle(self):
        wait_until(self.core.idle, "an idle core")
        counters = self.core.counters()
        assert counters.received == counters.segmented + counters.dropped + counters.failed

    def labels(self):
        return [item.result.labels.copy() for item in self.published]


def shade(step):
    """A picture whose green part says which it is."""
    frame = picture(0)
    frame[0, 0] = (0, step, 0)
    return frame


def shades(frames):
    return [int(frame[0, 0, 1]) for frame in frames]
