"""Positions and velocities over time: a Kalman filter for each object id, memory of fixed size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

IDS = 256  # object ids are 1..255
NANOSECONDS = 1e-9
_UNKNOWN_SPEED = 2.0  # m/s, standard deviation before the second measurement
_EYE = np.eye(6)
_SPEED_TO_PLACE = np.eye(6, k=3)
_CROSS = np.eye(6, k=3) + np.eye(6, k=-3)
_PLACES, _SPEEDS = np.diag([1.0, 1, 1, 0, 0, 0]), np.diag([0.0, 0, 0, 1, 1, 1])
_GATE = 16.27  # chi-squared with 3 degrees of freedom: 1 of 1000 good measurements is beyond


class MotionFilters:
    """Constant velocity with white-noise acceleration (Bar-Shalom, Li and Kirubarajan 2001, 6.2.2).

    Stamps are nanoseconds and may come at any intervals.

    Args:
        acceleration_noise: density of the acceleration in m/s^2 per root Hz. Larger follows turns
            faster, smaller gives a calmer velocity.
        max_gap: seconds without a measurement after which an object begins anew.
        outliers: measurements in a row that may be rejected; the next one begins anew.
    """

    def __init__(
        self, acceleration_noise: float = 0.15, max_gap: float = 2.0, outliers: int = 3
    ) -> None:
        self.density = acceleration_noise**2
        self.max_gap = max_gap
        self.outliers = outliers
        self._mean = np.zeros((IDS, 6))
        self._covariance = np.zeros((IDS, 6, 6))
        self._stamp = np.zeros(IDS, np.int64)  # of the last measurement that was taken
        self._count = np.zeros(IDS, np.int64)  # measurements taken; 0: nothing is known
        self._rejected = np.zeros(IDS, np.int64)

    @property
    def nbytes(self) -> int:
        arrays = (self._mean, self._covariance, self._stamp, self._count, self._rejected)
        return sum(array.nbytes for array in arrays)

    def reset(self, object_id: int | None = None) -> None:
        """Forgets an object, or all."""
        chosen = slice(None) if object_id is None else object_id
        self._count[chosen] = 0
        self._rejected[chosen] = 0

    def doubt(self, object_id: int | None = None) -> None:
        """The next measurement of an object, or of all, is no outlier: where it does not fit, the
        object begins anew."""
        chosen = slice(None) if object_id is None else object_id
        self._rejected[chosen] = self.outliers

    def keep_only(self, ids: set[int]) -> None:
        """Forgets the objects that are not followed any more."""
        for object_id in np.flatnonzero(self._count):
            if int(object_id) not in ids:
                self.reset(int(object_id))

    def has_velocity(self, object_id: int) -> bool:
        return bool(self._count[object_id] > 1)

    def predict(self, object_id: int, stamp: int) -> tuple[Vector, Vector] | None:
        """Mean [6] (position, velocity) and covariance [6, 6] at a stamp; changes nothing.

        None where nothing is known, or the last measurement is more than `max_gap` away. A stamp
        before the last measurement gives the way back.
        """
        if not self._count[object_id]:
            return None
        gap = (stamp - int(self._stamp[object_id])) * NANOSECONDS
        if abs(gap) > self.max_gap:
            return None
        mean, covariance = self._mean[object_id].copy(), self._covariance[object_id].copy()
        if gap:
            step = abs(gap)
            move = _EYE + gap * _SPEED_TO_PLACE
            mean = move @ mean
            covariance = move @ covariance @ move.T + self.density * step * (
                gap**2 / 3 * _PLACES + gap / 2 * _CROSS + _SPEEDS
            )
        return mean, covariance

    def update(self, object_id: int, stamp: int, position: Vector, noise: Vector) -> bool:
        """Takes a measured position [3] with its covariance [3, 3]; False where it is an outlier.

        A second measurement with the same stamp changes nothing. A stamp before the last one (a
        recording that loops) begins anew.
        """
        known = self.predict(object_id, stamp)
        if known is None or stamp < self._stamp[object_id]:
            self._begin(object_id, stamp, position, noise)
            return True
        if stamp == self._stamp[object_id]:
            return True
        mean, covariance = known
        innovation = position - mean[:3]
        expected = covariance[:3, :3] + noise
        inverse = np.linalg.inv(expected)
        if float(innovation @ inverse @ innovation) > _GATE:
            self._rejected[object_id] += 1
            if self._rejected[object_id] <= self.outliers:
                return False
            self._begin(object_id, stamp, position, noise)  # it really is elsewhere
            return True
        gain = covariance[:, :3] @ inverse  # [6, 3]
        self._mean[object_id] = mean + gain @ innovation
        # Joseph's form stays symmetric and positive
        left = _EYE.copy()
        left[:, :3] -= gain
        self._covariance[object_id] = left @ covariance @ left.T + gain @ noise @ gain.T
        self._stamp[object_id] = stamp
        self._count[object_id] += 1
        self._rejected[object_id] = 0
        return True

    def _begin(self, object_id: int, stamp: int, position: Vector, noise: Vector) -> None:
        self._mean[object_id, :3] = position
        self._mean[object_id, 3:] = 0.0
        self._covariance[object_id] = 0.0
        self._covariance[object_id, :3, :3] = noise
        self._covariance[object_id, 3:, 3:] = np.eye(3) * _UNKNOWN_SPEED**2
        self._stamp[object_id] = stamp
        self._count[object_id] = 1
        self._rejected[object_id] = 0
