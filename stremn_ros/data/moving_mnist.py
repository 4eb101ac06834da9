"""Moving MNIST: digits that drift through a square and bounce off its edges.

The protocol is the field's: 64 x 64 pixels, two digits of 28 x 28, 10 frames seen and 10 predicted.
The movement is that of the generator which the published figures' training sets come from: a start
anywhere, a direction anywhere, a tenth of the free way a frame, elastic edges, positions cut to
whole pixels, the brighter of two digits where they cover each other.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stremn_ros.errors import InputError

SIZE = 64
DIGIT = 28
STEP = 0.1  # of the free way, a frame
TEST_SEED = 20260101
TEST_COUNT = 10_000
PUBLISHED = "mnist_test_seq.npy"
TRAIN_NAMES = ("train-images-idx3-ubyte", "train10k-images-idx3-ubyte")
TEST_NAMES = ("t10k-images-idx3-ubyte",)
IDX_IMAGES = 2051  # magic number of an idx file of images


def read_digits(path: Path) -> NDArray[np.uint8]:
    """Digits [n, 28, 28] of an idx file of images, gzipped or not.

    Raises:
        InputError: the file cannot be read or is not such a file.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    header = np.frombuffer(raw[:16], ">u4") if len(raw) >= 16 else np.zeros(4, np.uint32)
    magic, count, height, width = (int(value) for value in header)
    if magic != IDX_IMAGES or (height, width) != (DIGIT, DIGIT) or len(raw) != 16 + count * 784:
        raise InputError(f"{path} is not an idx file of {DIGIT} x {DIGIT} images, or is cut short")
    return np.frombuffer(raw, np.uint8, offset=16).reshape(count, DIGIT, DIGIT)


def find_digits(root: Path, names: tuple[str, ...]) -> NDArray[np.uint8]:
    """The digits of the first of these files that is in the folder.

    Raises:
        InputError: none is there, or it cannot be read.
    """
    for name in names:
        for path in (root / f"{name}.gz", root / name):
            if path.is_file():
                return read_digits(path)
    raise InputError(f"{root} holds none of {', '.join(names)} (.gz or not): MNIST's idx files")


def trajectories(rng: np.random.Generator, count: int, length: int) -> NDArray[np.int64]:
    """Corners (row, column) of digits on their way: [count, length, 2] in 0..36."""
    position = rng.random((count, 2))
    angle = rng.random(count) * 2.0 * np.pi
    velocity = STEP * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    result = np.empty((count, length, 2), np.int64)
    for t in range(length):
        position = position + velocity
        velocity = np.where((position <= 0.0) | (position >= 1.0), -velocity, velocity)
        position = position.clip(0.0, 1.0)
        result[:, t] = (SIZE - DIGIT) * position
    return result


class Paths(NamedTuple):
    """Digits on their way as a tracker sees them, in pixels (row, column), float32.

    Attributes:
        centers: of gravity in the newest frame [n, 2]; where: displacement in the frames before,
            the newest first [n, observe - 1, 2]; match: how sure that is [n, observe - 1]; coming:
            displacement in the frames to come [n, horizon, 2].
    """

    centers: NDArray[np.float32]
    where: NDArray[np.float32]
    match: NDArray[np.float32]
    coming: NDArray[np.float32]


def draw_paths(rng: np.random.Generator, count: int, observe: int, horizon: int) -> Paths:
    """Paths of digits drawn at random, without the digits.

    A tracker errs where things cover each other, so of a quarter of the paths every fourth past
    displacement is off, with a poor match.
    """
    corners = trajectories(rng, count, observe + horizon).astype(np.float32)
    newest = corners[:, observe - 1]
    # a digit's center of gravity is its square's middle, but for the rounding of MNIST's makers
    centers = newest + DIGIT / 2.0 + rng.uniform(-0.499, 0.499, newest.shape)
    past = corners[:, observe - 2 :: -1][:, : observe - 1] - newest[:, None]
    poor = (rng.random((count, 1)) < 0.25) & (rng.random(past.shape[:2]) < 0.25)
    error = rng.normal(0.0, 4.0, past.shape) * poor[..., None]
    match = np.where(
        poor, rng.uniform(0.2, 0.9, poor.shape), 1.0 - 0.2 * rng.random(poor.shape) ** 3
    )
    coming = corners[:, observe:] - newest[:, None]
    return Paths(*(np.asarray(x, np.float32) for x in (centers, past + error, match, coming)))


def draw_sequences(
    rng: np.random.Generator,
    digits: NDArray[np.uint8],
    count: int,
    length: int = 20,
    per_sequence: int = 2,
) -> NDArray[np.uint8]:
    """Sequences [count, length, 64, 64] of digits drawn at random."""
    frames = np.zeros((count * length, SIZE, SIZE), np.uint8)
    which = rng.integers(0, len(digits), (per_sequence, count))
    cells = np.arange(DIGIT)
    here = np.arange(count * length)[:, None, None]
    for chosen in which:
        corners = trajectories(rng, count, length).reshape(-1, 2)
        rows = (corners[:, 0, None] + cells)[:, :, None]
        columns = (corners[:, 1, None] + cells)[:, None, :]
        drawn = digits[chosen].repeat(length, axis=0)
        frames[here, rows, columns] = np.maximum(frames[here, rows, columns], drawn)
    return frames.reshape(count, length, SIZE, SIZE)


class MovingMnistTest:
    """The test sequences, each uint8 [20, 64, 64]; sequence n is the same on every machine.

    Where the folder holds the published mnist_test_seq.npy ([20, 10000, 64, 64]), it is read. Else
    the sequences are drawn from the digits of MNIST's test set; no digit was seen in training.

    Args:
        root: folder with the idx files or the published file, or that file itself.
        count: how many, from the first on.

    Raises:
        InputError: nothing of the kind is there, or too few sequences.
    """

    def __init__(self, root: Path, count: int = TEST_COUNT) -> None:
        published = root if root.suffix == ".npy" else root / PUBLISHED
        self._sequences: NDArray[np.uint8] | None = None
        self._digits: NDArray[np.uint8] | None = None
        if published.is_file():
            try:
                loaded = np.load(published, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                raise InputError(f"{published} cannot be read: {error}") from None
            if not isinstance(loaded, np.ndarray) or loaded.dtype != np.uint8:
                kind = getattr(loaded, "dtype", "an archive of arrays")
                raise InputError(f"{published} is {kind}; it must be an array of uint8")
            if loaded.ndim != 4 or loaded.shape[0] != 20 or loaded.shape[2:] != (SIZE, SIZE):
                raise InputError(f"{published} is {loaded.shape}; it must be [20, n, 64, 64]")
            self._sequences = loaded
            available, self.source = loaded.shape[1], f"published file {published.name}"
        else:
            self._digits = find_digits(root, TEST_NAMES)
            available, self.source = TEST_COUNT, f"drawn from the test digits, seed {TEST_SEED}"
        if not 1 <= count <= available:
            raise InputError(f"{count} sequences were asked for; there are 1 to {available}")
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """The sequences in order, ``size`` at a time: [n, 20, 64, 64].

        Every sequence has its own generator, so the size of the batches changes nothing.
        """
        for first in range(0, self.count, size):
            last = min(first + size, self.count)
            if self._sequences is not None:
                yield np.ascontiguousarray(self._sequences[:, first:last].swapaxes(0, 1))
            else:
                assert self._digits is not None
                yield np.concatenate(
                    [
                        draw_sequences(np.random.default_rng((TEST_SEED, n)), self._digits, 1)
                        for n in range(first, last)
                    ]
                )
