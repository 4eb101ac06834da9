"""Objects in space: against plain loops, against exact geometry with a depth camera's faults, and
with input of every bad kind."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from spatial_scenes import (
    FOCAL,
    LOST,
    OCCLUDED,
    SIZE,
    TRACKED,
    K,
    ball,
    box,
    faulty,
    middle_of,
    points_of,
    render,
    rotation,
    tracked,
)

from stremn_ros.errors import InputError
from stremn_ros.spatial import (
    DepthPairing,
    DepthRange,
    Intrinsics,
    PointCloud,
    SpatialSettings,
    SpatialTracker,
    depth_without_objects,
    masked_depth,
)
from stremn_ros.spatial.depth import check_depth, fitted_labels, valid_pixels, why_invalid
from stremn_ros.spatial.motion import MotionFilters
from stremn_ros.spatial.points import POINT, downsampled

ROOT = Path(__file__).resolve().parent.parent
CAMERA = Intrinsics(SIZE[1], SIZE[0], K)
SECOND = 1_000_000_000
FRAME = SECOND // 30


def small_camera(rows: int, columns: int, focal: float = 40.0) -> Intrinsics:
    middle = (columns - 1) / 2, (rows - 1) / 2
    return Intrinsics(columns, rows, (focal, 0, middle[0], 0, focal, middle[1], 0, 0, 1))


def info(**changes) -> SimpleNamespace:
    """A camera_info as a driver sends it."""
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    values = {"width": 640, "height": 480, "k": K, "d": (0.0,) * 5, "roi": roi}
    values |= {"p": (*K[:3], 0, *K[3:6], 0, *K[6:], 0), "distortion_model": "plumb_bob"}
    return SimpleNamespace(**{**values, "binning_x": 0, "binning_y": 0, **changes})


def test_neither_torch_nor_ros_is_needed() -> None:
    code = (
        "import sys, stremn_ros.spatial, stremn_ros.messages.spatial, "
        "stremn_ros.messages.compressed_depth\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"numpy", "cv2", "stremn_ros"} <= loaded
    assert not loaded & {"torch", "onnxruntime", "rclpy", "sensor_msgs", "vision_msgs"}


# ---------------------------------------------------------------- cameras


def test_the_ray_of_a_pixel_is_the_pinholes() -> None:
    x, y = Intrinsics.from_camera_info(info()).rays
    assert x.shape == y.shape == SIZE
    for row, column in ((0, 0), (240, 320), (479, 639), (17, 400)):
        assert x[row, column] == pytest.approx((column - K[2]) / K[0], abs=1e-7)
        assert y[row, column] == pytest.approx((row - K[5]) / K[4], abs=1e-7)


LENSES = [
    ("plumb_bob", (-0.28, 0.07, 0.0002, -0.0003)),
    ("plumb_bob", (0.12, -0.25, 0.001, -0.0005, 0.08)),
    ("rational_polynomial", (0.6, -2.7, 0.0005, -0.0004, 1.5, 0.48, -2.5, 1.45)),
    ("rational_polynomial", (0.1, -0.2, 0.001, 0.001, 0.05, 0.1, 0.0, 0.0, 0.002, 0, 0.001, 0)),
    (
        "rational_polynomial",
        (0.1, -0.2, 0.001, 0.001, 0.05, 0.1, 0, 0, 0.002, 0, 0.001, 0, 0.01, -0.02),
    ),
    ("equidistant", (-0.02, 0.01, -0.004, 0.0006)),
]


@pytest.mark.parametrize(("model", "d"), LENSES, ids=lambda value: str(value)[:24])
def test_a_ray_lands_on_its_pixel_by_opencvs_model(model: str, d: tuple[float, ...]) -> None:
    k = np.reshape(K, (3, 3)).copy()
    if model == "equidistant":
        k[0, 0] = k[1, 1] = 280.0  # a wide lens
    camera = Intrinsics(640, 480, tuple(k.ravel()), d, model)
    x, y = camera.rays
    places = [(240, 320), (10, 20), (470, 600), (100, 500), (300, 5)]
    points = np.array([[x[place], y[place], 1.0] for place in places])
    assert np.isfinite(points).all()
    if model == "equidistant":
        seen, _ = cv2.fisheye.projectPoints(points[None], np.zeros(3), np.zeros(3), k, np.array(d))
        seen = seen[0]
    else:
        seen, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), k, np.array(d))
        seen = seen[:, 0]
    assert np.abs(seen[:, ::-1] - np.array(places)).max() < 0.01  # pixels


def test_corners_where_a_lens_model_folds_over_have_no_ray() -> None:
    camera = Intrinsics(
        640, 480, (300, 0, 319.5, 0, 300, 239.5, 0, 0, 1), (-0.5, 0, 0, 0), "plumb_bob"
    )
    x, _ = camera.rays
    assert not camera.sees_everywhere
    assert np.isfinite(x[240, 320])
    assert np.isnan(x[0, 0])
    # an object there is told of, and nothing of it becomes a number
    labels = np.zeros(SIZE, np.uint8)
    labels[:40, :40] = 1
    labels[200:240, 300:340] = 2
    found = SpatialTracker().update(
        labels, tracked([1, 2]), np.full(SIZE, 1000, np.uint16), camera, 0
    )
    assert found[0].position is None
    assert found[0].reason
    assert found[1].position is not None


def test_binning_region_and_scale_leave_the_rays_as_they_are() -> None:
    whole = Intrinsics.from_camera_info(info())
    binned = Intrinsics.from_camera_info(info(binning_x=2, binning_y=2))
    assert (binned.width, binned.height) == (320, 240)
    # the middle of four pixels
    assert binned.rays[0][10, 20] == pytest.approx(whole.rays[0][20, 40:42].mean(), abs=1e-6)
    part = SimpleNamespace(x_offset=100, y_offset=50, width=200, height=120)
    cut = Intrinsics.from_camera_info(info(roi=part))
    assert (cut.width, cut.height) == (200, 120)
    assert cut.rays[0][3, 7] == whole.rays[0][53, 107]
    assert cut.rays[1][3, 7] == whole.rays[1][53, 107]
    twice = whole.scaled(1280, 960)
    assert twice.rays[1][21, 0] == pytest.approx(
        0.75 * whole.rays[1][10, 0] + 0.25 * whole.rays[1][11, 0], abs=1e-6
    )


def test_rectified_images_use_the_projection_matrix() -> None:
    p = (400.0, 0, 300.0, 0, 0, 410.0, 200.0, 0, 0, 0, 1.0, 0)
    camera = Intrinsics.from_camera_info(info(p=p, d=(-0.3, 0.1, 0, 0, 0)), rectified=True)
    assert camera.focal == (400.0, 410.0)
    assert camera.model == ""


BAD_INFO = [
    ({"k": (0.0,) * 9}, "k is all zeros: the camera is not calibrated"),
    ({"k": K[:8]}, "k has 8 values"),
    ({"k": (math.nan, *K[1:])}, "NaN"),
    ({"k": (*K[:2], math.inf, *K[3:])}, "infinite"),
    ({"k": (-525.0, *K[1:])}, "must be above 0"),
    ({"k": (525.0, 0, 319.5, 0, 0.0, 239.5, 0, 0, 1)}, "must be above 0"),
    ({"k": (525.0, 3.0, 319.5, 0, 525.0, 239.5, 0, 0, 1)}, "row by row"),
    ({"k": np.reshape(K, (3, 3)).T.ravel()}, "row by row"),
    ({"k": "abc"}, "not a sequence of numbers"),
    ({"width": 0}, "0 x 480"),
    ({"height": 0}, "640 x 0"),
    ({"width": 1_000_000, "height": 1_000_000}, "at most"),
    ({"d": (0.1, 0.2, 0.3)}, "has 4 or 5 coefficients, d has 3"),
    ({"d": (0.1, math.nan, 0, 0)}, "d has values that are NaN"),
    (
        {"d": (0.1, 0, 0, 0), "distortion_model": "equi"},
        "'equi' is not known: it must be plumb_bob",
    ),
    ({"d": (0.1, 0, 0, 0), "distortion_model": ""}, "distortion_model is empty"),
    (
        {"roi": SimpleNamespace(x_offset=600, y_offset=0, width=100, height=100)},
        "not inside the image",
    ),
]


@pytest.mark.parametrize(("changes", "says"), BAD_INFO, ids=lambda value: str(value)[:40])
def test_a_camera_info_that_describes_no_camera_is_refused(changes: dict, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Intrinsics.from_camera_info(info(**changes))
    assert says in str(caught.value)


def test_a_rectified_info_without_a_projection_is_refused() -> None:
    with pytest.raises(InputError, match="p is all zeros"):
        Intrinsics.from_camera_info(info(p=(0.0,) * 12), rectified=True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32), min_size=0, max_size=10),
    st.lists(st.floats(width=32), min_size=0, max_size=15),
    st.sampled_from(["", "plumb_bob", "rational_polynomial", "equidistant", "other"]),
)
def test_any_camera_info_gives_rays_or_a_reason(k: list, d: list, model: str) -> None:
    try:
        camera = Intrinsics.from_camera_info(
            info(width=8, height=6, k=k, d=d, distortion_model=model)
        )
    except InputError:
        return
    x, y = camera.rays
    assert x.shape == y.shape == (6, 8)
    assert not np.isinf(x).any()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-2, 2), min_size=4, max_size=5),
    st.sampled_from(["plumb_bob", "equidistant"]),
)
@example(d=[-2.0, 0.875, 0.5, 0.0], model="equidistant")  # the last step of Newton goes too far
def test_any_lens_gives_rays_that_come_back_or_none(d: list, model: str) -> None:
    d = d[:4]
    camera = Intrinsics(12, 8, (10, 0, 5.5, 0, 10, 3.5, 0, 0, 1), tuple(d), model)
    if not camera.model:
        return
    x, y = (ray.astype(np.float64) for ray in camera.rays)
    rows, columns = np.nonzero(np.isfinite(x))
    if not len(rows):
        return
    points = np.stack([x[rows, columns], y[rows, columns], np.ones(len(rows))], axis=1)
    k, zero = np.reshape(camera.k, (3, 3)), np.zeros(3)
    if model == "equidistant":
        seen = cv2.fisheye.projectPoints(points[None], zero, zero, k, np.array(d))[0][0]
    else:
        seen = cv2.projectPoints(points, zero, zero, k, np.array(d))[0][:, 0]
    assert np.abs(seen - np.stack([columns, rows], axis=1)).max() < 0.11


# ---------------------------------------------------------------- plain loops


def reference(labels, object_id, depth, camera: Intrinsics, chosen: SpatialSettings) -> dict | None:
    """What docs/spatial.md says, in loops over pixels and float64."""
    rows, columns = labels.shape
    inside = {(r, c) for r in range(rows) for c in range(columns) if labels[r, c] == object_id}
    meters = {}
    for r in range(rows):
        for c in range(columns):
            value = float(depth[r, c]) * (0.001 if depth.dtype == np.uint16 else 1.0)
            if chosen.limits.near <= value <= chosen.limits.far:
                meters[r, c] = value

    def around(place):
        return [
            (place[0] + i, place[1] + j)
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            if 0 <= place[0] + i < rows and 0 <= place[1] + j < columns
        ]

    valid = {place for place in inside if place in meters}
    if len(valid) < chosen.min_points:
        return None
    core = inside
    for _ in range(chosen.erosion):
        smaller = {place for place in core if all(other in core for other in around(place))}
        if len(smaller & valid) < max(chosen.min_points, 0.4 * len(valid)):
            break
        core = smaller
    ordered = sorted(meters[place] for place in core & valid)
    distance = ordered[len(ordered) // 2]
    step = max(chosen.edge, chosen.edge_per_meter * distance)
    kept = []
    for place in valid:
        near = min(meters.get(other, math.inf) for other in around(place))
        far = max(meters.get(other, math.inf) for other in around(place))
        if not (meters[place] - near > step and far - meters[place] > step):
            kept.append(place)
    # along the depth, from the middle outwards, until too few points follow within a step
    depths = sorted(meters[place] for place in kept)
    few = max(1, int(0.002 * len(depths)))
    center = sum(value < distance for value in depths)
    low, high = depths[0], depths[-1]
    for i in range(len(depths) - few):
        if depths[i + few] - depths[i] > step and i + few <= center:
            low = depths[i + few]
    for i in reversed(range(center, len(depths) - few)):
        if depths[i + few] - depths[i] > step:
            high = depths[i]
    low, high = min(low, distance), max(high, distance)
    parted = len(depths) > few and any(
        depths[i + few] - depths[i] > step for i in range(len(depths) - few)
    )
    if parted:
        kept = [p for p in kept if low - step / 4 <= meters[p] <= high + step / 4]
    if len(kept) < chosen.min_points:
        return None

    def median_pixel(values):
        # of pixels that reach half a pixel to either side
        values = sorted(values)
        half, total = len(values) / 2, 0
        for value in sorted(set(values)):
            count = values.count(value)
            if total + count >= half:
                return value - 0.5 + (half - total) / count
            total += count
        raise AssertionError

    fx, cx, fy, cy = camera.k[0], camera.k[2], camera.k[4], camera.k[5]
    row, column = median_pixel([p[0] for p in core]), median_pixel([p[1] for p in core])
    position = ((column - cx) / fx * distance, (row - cy) / fy * distance, distance)
    points = np.array(
        [
            ((c - cx) / fx * meters[r, c], (r - cy) / fy * meters[r, c], meters[r, c])
            for r, c in kept
        ]
    )
    sizes = []
    for axis in range(3):
        values = sorted(points[:, axis])
        cut = round(chosen.trim * (len(values) - 1))
        sizes.append(values[len(values) - 1 - cut] - values[cut])
    sizes[0] += distance / fx
    sizes[1] += distance / fy
    return {
        "position": position,
        "points": len(kept),
        "share": len(valid) / len(inside),
        "size": sizes,
        "cloud": points,
    }


def messy(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A small picture: two objects of odd shape before a wall, with steps, holes and noise."""
    rng = np.random.default_rng(seed)
    rows, columns = 30, 44
    r, c = np.mgrid[:rows, :columns]
    labels = np.zeros((rows, columns), np.uint8)
    labels[((r - 14) / 9) ** 2 + ((c - 12) / rng.uniform(5, 10)) ** 2 < 1] = 1
    labels[rng.integers(0, 8) : 25, 26 : rng.integers(30, 43)] = 7
    depth = 2.0 + 0.002 * r + rng.normal(0, 0.003, labels.shape)
    depth[labels == 1] -= rng.uniform(0.1, 0.9)
    depth[labels == 7] -= rng.uniform(0.02, 0.5) + 0.01 * (c[labels == 7] - 26)
    flying = rng.random(labels.shape) < 0.05
    depth[flying] -= rng.uniform(0, 1, flying.sum())
    # the mask is a pixel off
    labels = np.roll(labels, 1, axis=int(rng.integers(2)))
    depth[rng.random(labels.shape) < 0.1] = 0
    if kind == "uint16":
        return labels, np.round(depth * 1000).astype(np.uint16)
    depth[rng.random(labels.shape) < 0.03] = np.nan
    depth[rng.random(labels.shape) < 0.02] = np.inf
    depth[rng.random(labels.shape) < 0.02] = -1.0
    return labels, depth.astype(np.float32)


@pytest.mark.parametrize("kind", ["uint16", "float32"])
@pytest.mark.parametrize("seed", range(12))
def test_measurements_are_those_of_plain_loops(seed: int, kind: str) -> None:
    labels, depth = messy(seed, kind)
    camera = small_camera(*labels.shape)
    chosen = SpatialSettings()
    tracker = SpatialTracker(chosen)
    found = tracker.update(labels, tracked([1, 7]), depth, camera, 0)
    clouds = tracker.cloud()
    for item in found:
        wanted = reference(labels, item.id, depth, camera, chosen)
        assert wanted is not None
        assert item.points == wanted["points"]
        assert item.measured == pytest.approx(wanted["position"], abs=2e-6)
        assert item.valid_share == pytest.approx(wanted["share"])
        assert item.box.size == pytest.approx(wanted["size"], abs=1e-5)
        mine = clouds.xyz[clouds.labels == item.id]
        assert np.sort(mine, axis=0) == pytest.approx(np.sort(wanted["cloud"], axis=0), abs=2e-6)


@pytest.mark.parametrize("seed", range(4))
def test_sampling_changes_a_measurement_little(seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth, labels = render([box((0.05, 0, 1.0), (0.5, 0.4, 0.2), rng.normal(0, 0.5, 3))])
    noisy = faulty(depth, rng)
    few, all_of_them = (
        SpatialTracker(SpatialSettings(samples=samples)).update(
            labels, tracked([1]), noisy, CAMERA, 0
        )[0]
        for samples in (2048, 1_000_000)
    )
    assert few.points == pytest.approx(all_of_them.points, rel=0.001)
    assert few.measured == pytest.approx(all_of_them.measured, abs=0.004)
    assert few.box.size == pytest.approx(all_of_them.box.size, rel=0.05, abs=0.004)


# ---------------------------------------------------------------- exact geometry, faulty depth


def clutter(rng: np.random.Generator) -> list:
    """Five balls and boxes about 1 m away."""
    shapes = []
    for x in np.linspace(-0.45, 0.45, 5):
        place = (x + rng.uniform(-0.03, 0.03), rng.uniform(-0.25, 0.25), rng.uniform(0.8, 1.3))
        size = rng.uniform(0.06, 0.16, 3)
        if rng.random() < 0.4:
            shapes.append(ball(place, size[0] / 2))
        else:
            shapes.append(box(place, size, rng.normal(0, 0.6, 3)))
    return shapes


@pytest.fixture(scope="module")
def measured() -> list[dict]:
    """Objects of six scenes before walls at 2.5 and 1.6 m, with a depth camera's faults."""
    rng = np.random.default_rng(1)
    results = []
    for number in range(6):
        shapes, wall = clutter(rng), (2.5, 1.6)[number % 2]
        depth, labels = render(shapes, wall)
        # the true extent, seen by four rays a pixel
        fine_k = (2 * FOCAL, 0, 2 * 320 - 0.5, 0, 2 * FOCAL, 2 * 240 - 0.5, 0, 0, 1)
        fine, fine_labels = render(shapes, wall, (2 * SIZE[0], 2 * SIZE[1]), fine_k)
        for item in SpatialTracker().update(
            labels, tracked(range(1, 6)), faulty(depth, rng), CAMERA, 0
        ):
            inside = labels == item.id
            if inside.sum() < 400:  # most of it is behind another
                continue
            points = points_of(fine, fine_labels == item.id, fine_k)
            results.append(
                {
                    "item": item,
                    "shape": shapes[item.id - 1],
                    "middle": middle_of(depth, inside),
                    "size": points.max(axis=0) - points.min(axis=0),
                }
            )
    assert len(results) >= 25
    return results


def test_positions_are_within_a_centimeter(measured: list[dict]) -> None:
    errors = [np.linalg.norm(np.subtract(one["item"].measured, one["middle"])) for one in measured]
    assert np.median(errors) < 0.01
    assert np.percentile(errors, 95) < 0.02


def test_sizes_are_within_ten_percent(measured: list[dict]) -> None:
    off = np.array([np.divide(one["item"].box.size, one["size"]) - 1 for one in measured])
    assert (np.median(np.abs(off), axis=0) < 0.1).all()
    assert (np.percentile(np.abs(off[:, :2]), 90, axis=0) < 0.1).all()  # across the view


def test_oriented_boxes_have_the_edges_of_real_boxes(measured: list[dict]) -> None:
    ratios = [
        np.divide(
            np.sort(one["item"].oriented_box.size), np.sort(np.multiply(2, one["shape"].half))
        )
        for one in measured
        if one["shape"].kind == "box"
    ]
    assert len(ratios) > 10
    assert (np.abs(np.median(ratios, axis=0) - 1) < 0.1).all()


def test_an_oriented_box_is_turned_as_the_object_is() -> None:
    size, turn = (0.3, 0.2, 0.1), (0.4, -0.5, 0.3)
    depth, labels = render([box((0.1, 0.0, 1.0), size, turn)])
    found = (
        SpatialTracker()
        .update(labels, tracked([1]), depth.astype(np.float32), CAMERA, 0)[0]
        .oriented_box
    )
    assert found.size == pytest.approx(size, rel=0.06)
    assert found.center == pytest.approx((0.1, 0.0, 1.0), abs=0.01)
    x, y, z, w = found.orientation
    assert math.hypot(x, y, z, w) == pytest.approx(1)
    axes = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    assert np.linalg.det(axes) == pytest.approx(1)
    # the same axes, whichever way they point
    assert np.abs(axes.T @ rotation(turn)) == pytest.approx(np.eye(3), abs=0.06)


def test_a_mask_that_bleeds_onto_the_wall_moves_nothing() -> None:
    depth, labels = render([ball((0.0, 0.0, 1.0), 0.08)], wall=2.0)
    noisy = faulty(depth, np.random.default_rng(3))
    exact = SpatialTracker().update(labels, tracked([1]), noisy, CAMERA, 0)[0]
    wide = cv2.dilate(labels, np.ones((7, 7), np.uint8))
    found = SpatialTracker().update(wide, tracked([1]), noisy, CAMERA, 0)[0]
    assert found.measured == pytest.approx(exact.measured, abs=0.01)
    assert found.box.size == pytest.approx(exact.box.size, abs=0.02)
    # and none of the wall is among the points
    tracker = SpatialTracker()
    tracker.update(wide, tracked([1]), noisy, CAMERA, 0)
    assert tracker.cloud().xyz[:, 2].max() < 1.2


def test_flying_pixels_are_no_points() -> None:
    depth, labels = render([box((0.0, 0.0, 1.0), (0.2, 0.2, 0.2))], wall=2.0)
    flying = depth.copy()
    inside = labels == 1
    rim = inside & ~(cv2.erode(labels, np.ones((3, 3), np.uint8)) > 0)
    flying[rim] = np.random.default_rng(0).uniform(1.1, 1.9, rim.sum())
    tracker = SpatialTracker()
    tracker.update(labels, tracked([1]), flying.astype(np.float32), CAMERA, 0)
    cloud = tracker.cloud()
    assert len(cloud) == pytest.approx(inside.sum() - rim.sum(), rel=0.02)
    assert cloud.xyz[:, 2].max() < 1.0


def test_a_thin_object_keeps_its_pixels() -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[10:50, 40:42] = 1  # two pixels wide: eroding would leave none
    labels[:, 3] = 2  # one
    depth = np.full((60, 80), 1.5, np.float32)
    for item in SpatialTracker().update(labels, tracked([1, 2]), depth, small_camera(60, 80), 0):
        assert item.measured is not None
        assert item.measured[2] == pytest.approx(1.5)
        assert item.points == (labels == item.id).sum()


def test_an_object_at_the_border_is_not_eroded_there() -> None:
    labels = np.zeros((40, 60), np.uint8)
    labels[:, :20] = 1
    depth = np.tile(np.linspace(1, 2, 40, dtype=np.float32)[:, None], (1, 60))
    found = SpatialTracker().update(labels, tracked([1]), depth, small_camera(40, 60), 0)[0]
    # rows from the first to the last count, so the middle is in the middle
    assert found.measured[2] == pytest.approx(1.5, abs=0.03)
    assert found.measured[1] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("size", [(240, 320), (960, 1280), (120, 160)])
def test_depth_of_another_resolution_gives_the_same_place(size: tuple[int, int]) -> None:
    shapes = [ball((0.1, -0.05, 1.0), 0.1)]
    depth, labels = render(shapes)
    scale = size[0] / SIZE[0]
    k = CAMERA.scaled(size[1], size[0]).k
    other, _ = render(shapes, size=size, k=k)
    exact = SpatialTracker().update(labels, tracked([1]), depth.astype(np.float32), CAMERA, 0)[0]
    found = SpatialTracker().update(labels, tracked([1]), other.astype(np.float32), CAMERA, 0)[0]
    # the rim that is left out is 3 pixels of the depth image, whatever these are
    assert found.measured == pytest.approx(exact.measured, abs=0.004 / min(scale, 1))
    assert found.box.size == pytest.approx(exact.box.size, rel=0.08, abs=0.005 / min(scale, 1))


def test_lens_distortion_is_taken_out() -> None:
    d = (-0.28, 0.07, 0.0002, -0.0003, 0.0)
    camera = Intrinsics(640, 480, K, d, "plumb_bob")
    wanted = np.array([0.35, 0.2, 1.0])  # near a corner
    seen, _ = cv2.projectPoints(
        wanted, np.zeros(3), np.zeros(3), np.reshape(K, (3, 3)), np.array(d)
    )
    column, row = seen.ravel().round().astype(int)
    labels = np.zeros(SIZE, np.uint8)
    labels[row - 8 : row + 9, column - 8 : column + 9] = 1
    depth = np.full(SIZE, 1000, np.uint16)
    found = SpatialTracker().update(labels, tracked([1]), depth, camera, 0)[0]
    assert found.measured == pytest.approx(wanted, abs=0.002)
    pinhole = SpatialTracker().update(labels, tracked([1]), depth, CAMERA, 0)[0]
    assert abs(pinhole.measured[0] - wanted[0]) > 0.01  # it matters


def test_a_pose_puts_everything_into_the_fixed_frame() -> None:
    rng = np.random.default_rng(5)
    turn, place = rotation((0.4, -0.8, 1.1)), np.array([2.0, -1.0, 0.5])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, place
    depth, labels = render([box((0.1, 0.0, 1.0), (0.3, 0.2, 0.1), (0.4, -0.5, 0.3))])
    exact = depth.astype(np.float32)
    plain, placed = SpatialTracker(), SpatialTracker()
    one = plain.update(labels, tracked([1]), exact, CAMERA, 0)[0]
    two = placed.update(labels, tracked([1]), exact, CAMERA, 0, pose)[0]
    assert two.position == pytest.approx(turn @ one.position + place, abs=1e-5)
    assert two.oriented_box.center == pytest.approx(
        turn @ one.oriented_box.center + place, abs=0.005
    )
    assert two.oriented_box.size == pytest.approx(one.oriented_box.size, rel=0.03)
    assert placed.cloud().xyz == pytest.approx(plain.cloud().xyz @ turn.T + place, abs=1e-5)
    low = placed.cloud().xyz.min(axis=0)
    assert (np.subtract(two.box.center, np.multiply(0.5, two.box.size)) < low + 0.01).all()
    for wrong in (np.eye(3), 2 * np.eye(4), np.full((4, 4), np.nan), np.diag([1, 1, -1, 1.0])):
        with pytest.raises(InputError, match="pose"):
            plain.update(labels, tracked([1]), exact, CAMERA, int(rng.integers(9)), wrong)


def test_boxes_are_as_exact_far_from_the_origin_of_the_fixed_frame() -> None:
    depth, labels = render([box((0.1, 0.0, 1.0), (0.3, 0.2, 0.1), (0.4, -0.5, 0.3))])
    near = SpatialTracker().update(labels, tracked([1]), depth, CAMERA, 0, np.eye(4))[0]
    pose, place = np.eye(4), np.array([4e5, 5e6, 100.0])  # as UTM has it
    pose[:3, 3] = place
    far = SpatialTracker().update(labels, tracked([1]), depth, CAMERA, 0, pose)[0]
    for one, two in ((near.box, far.box), (near.oriented_box, far.oriented_box)):
        assert two.size == pytest.approx(one.size)
        assert two.orientation == pytest.approx(one.orientation)
        assert np.subtract(two.center, place) == pytest.approx(one.center, abs=1e-6)


def test_pixels_that_are_infinitely_far_make_no_warning() -> None:
    depth, labels = np.full(SIZE, 1.0, np.float32), np.ones(SIZE, np.uint8)
    depth[::3], depth[1::3] = np.inf, 3e38
    k = (1.0, 0.0, 80.0, 0.0, 1.0, 60.0, 0.0, 0.0, 1.0)  # rays along the axis, and steep ones
    camera = Intrinsics(SIZE[1], SIZE[0], k)
    tracker = SpatialTracker()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.update(labels, tracked([1]), depth, camera, 0)
        assert np.isfinite(tracker.cloud().xyz).all()


# ---------------------------------------------------------------- motion


def follow(velocity, seconds: float, rng: np.random.Generator, tracker: SpatialTracker) -> list:
    """A ball and a box that move, seen at 15 to 30 Hz at uneven times."""
    shapes = [
        ball((-0.25, 0.0, 1.0), 0.06, velocity),
        box((0.2, 0.05, 1.1), (0.12, 0.1, 0.14), (0.3, 0.6, 0.1), np.negative(velocity)),
    ]
    results, now = [], 0.0
    while now < seconds:
        depth, labels = render([shape.at(now) for shape in shapes])
        results.append(
            tracker.update(
                labels,
                tracked([1, 2]),
                faulty(depth, rng),
                CAMERA,
                7 * SECOND + round(now * SECOND),
                oriented=False,
            )
        )
        now += float(rng.uniform(1 / 30, 1 / 15))
    return results


def test_velocity_is_right_after_a_second() -> None:
    for seed, velocity in enumerate(((0.15, -0.05, 0.1), (0.0, 0.0, 0.0))):
        found = follow(velocity, 1.3, np.random.default_rng(seed), SpatialTracker())
        late = found[-6:]  # from about one second on
        for index, wanted in ((0, velocity), (1, np.negative(velocity))):
            errors = [np.linalg.norm(np.subtract(one[index].velocity, wanted)) for one in late]
            assert np.median(errors) < 0.05, (velocity, index, errors)


def test_velocity_is_unknown_from_one_image() -> None:
    depth, labels = render([ball((0, 0, 1.0), 0.1)])
    found = SpatialTracker().update(labels, tracked([1]), depth.astype(np.float32), CAMERA, 5)[0]
    assert found.velocity is None
    assert found.position == pytest.approx(found.measured)
    assert found.covariance.shape == (6, 6)


def flat(x: float = 0.0, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A square that is 1 m away, its middle at x meters, and its depth."""
    camera = small_camera(120, 160, 100.0)
    labels = np.zeros((120, 160), np.uint8)
    column = round(79.5 + 100 * x)
    labels[40 : 40 + size, column - size // 2 : column + size // 2] = 1
    return labels, np.full((120, 160), 1000, np.uint16), camera


def test_an_occluded_object_is_predicted_and_a_lost_one_forgotten() -> None:
    tracker = SpatialTracker()
    for step in range(30):
        labels, depth, camera = flat(-0.3 + 0.01 * step)
        seen = tracker.update(labels, tracked([1]), depth, camera, step * SECOND // 10)[0]
    assert not seen.predicted
    assert seen.velocity[0] == pytest.approx(0.1, abs=0.02)
    nothing = np.zeros_like(labels)
    for state in (OCCLUDED, TRACKED):  # also where the mask is empty though it is tracked
        hidden = tracker.update(nothing, tracked([1], state), depth, camera, 35 * SECOND // 10)[0]
        assert hidden.predicted
        assert hidden.measured is None
        assert hidden.reason
        assert hidden.position[0] == pytest.approx(seen.position[0] + 0.06, abs=0.03)
        assert hidden.covariance[0, 0] > seen.covariance[0, 0]
    assert tracker.position_at(1, 35 * SECOND // 10)[0] == pytest.approx(hidden.position[0])
    # after max_gap nobody knows
    late = tracker.update(nothing, tracked([1], OCCLUDED), depth, camera, 60 * SECOND // 10)[0]
    assert late.position is None
    lost = tracker.update(nothing, tracked([1], LOST), depth, camera, 36 * SECOND // 10)[0]
    assert lost.position is None
    assert lost.velocity is None
    again = tracker.update(*flat(0.3)[:1], tracked([1]), depth, camera, 37 * SECOND // 10)[0]
    assert again.velocity is None  # nothing of before
    assert again.position[0] == pytest.approx(0.3, abs=0.01)


def test_an_outlier_is_left_out_and_a_real_jump_is_taken() -> None:
    tracker = SpatialTracker()
    for step in range(10):
        labels, depth, camera = flat(0.0)
        before = tracker.update(labels, tracked([1]), depth, camera, step * FRAME)[0]
    labels, depth, camera = flat(0.5)
    found = tracker.update(labels, tracked([1]), depth, camera, 10 * FRAME)[0]
    assert found.predicted
    assert "does not fit its motion" in found.reason
    assert found.measured[0] == pytest.approx(0.5, abs=0.01)
    assert found.position == pytest.approx(before.position, abs=0.01)
    for step in range(11, 15):
        found = tracker.update(labels, tracked([1]), depth, camera, step * FRAME)[0]
    assert not found.predicted
    assert found.position[0] == pytest.approx(0.5, abs=0.01)


def test_an_object_that_was_seeded_elsewhere_is_there_at_once() -> None:
    tracker = SpatialTracker()
    for step in range(10):
        labels, depth, camera = flat(0.0)
        tracker.update(labels, tracked([1]), depth, camera, step * FRAME)
    tracker.seeded(1)
    labels, depth, camera = flat(0.5)
    found = tracker.update(labels, tracked([1]), depth, camera, 10 * FRAME)[0]
    assert not found.predicted
    assert found.position[0] == pytest.approx(0.5, abs=0.01)
    assert found.velocity is None  # nothing of the motion before
    # where it is the same object, nothing is lost
    tracker.update(*flat(0.5)[:1], tracked([1]), depth, camera, 11 * FRAME)
    tracker.seeded(1)
    found = tracker.update(*flat(0.5)[:1], tracked([1]), depth, camera, 12 * FRAME)[0]
    assert found.velocity == pytest.approx((0.0, 0.0, 0.0), abs=0.01)
    with pytest.raises(InputError, match="ids are 1 to 255"):
        tracker.seeded(256)


def test_another_calibration_counts_from_its_first_image_on() -> None:
    tracker = SpatialTracker()
    labels, depth, _ = flat(0.5)
    for step in range(10):
        tracker.update(labels, tracked([1]), depth, small_camera(120, 160, 100.0), step * FRAME)
    found = tracker.update(labels, tracked([1]), depth, small_camera(120, 160, 200.0), 10 * FRAME)[
        0
    ]
    assert not found.predicted
    assert found.position[0] == pytest.approx(0.25, abs=0.01)


def test_stamps_that_stand_still_or_go_back() -> None:
    tracker = SpatialTracker()
    labels, depth, camera = flat(0.0)
    for step in range(5):
        tracker.update(labels, tracked([1]), depth, camera, 100 * SECOND + step * FRAME)
    same = tracker.update(labels, tracked([1]), depth, camera, 100 * SECOND + 4 * FRAME)[0]
    assert np.isfinite(same.velocity).all()
    # a recording that loops, a short one and a long one
    back = tracker.update(labels, tracked([1]), depth, camera, 99 * SECOND)[0]
    assert back.velocity is None
    tracker.update(labels, tracked([1]), depth, camera, 99 * SECOND + FRAME)
    back = tracker.update(labels, tracked([1]), depth, camera, SECOND)[0]
    assert back.velocity is None
    assert back.position[0] == pytest.approx(0.0, abs=0.01)
    assert np.isfinite(tracker.update(labels, tracked([1]), depth, camera, 2)[0].position).all()


def kalman_reference(stamps, positions, density, noise):
    """The textbook filter in one axis, with matrices."""
    x, p = np.array([positions[0], 0.0]), np.diag([noise, 4.0])
    h = np.array([[1.0, 0.0]])
    for before, now, z in zip(stamps, stamps[1:], positions[1:]):
        dt = (now - before) * 1e-9
        f = np.array([[1, dt], [0, 1]])
        q = density * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
        x, p = f @ x, f @ p @ f.T + q
        gain = p @ h.T / (h @ p @ h.T + noise)
        x, p = x + (gain * (z - h @ x)).ravel(), (np.eye(2) - gain @ h) @ p
    return x, p


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**9), st.floats(-0.01, 0.01)), min_size=2, max_size=20))
def test_the_filter_is_the_textbooks(steps: list[tuple[int, float]]) -> None:
    filters = MotionFilters(0.3, max_gap=10.0)
    stamps = np.cumsum([step for step, _ in steps])
    positions = np.array([offset for _, offset in steps])
    noise = np.eye(3) * 0.02**2
    for stamp, value in zip(stamps, positions):
        assert filters.update(9, int(stamp), np.array([value, 2 * value, 1.0]), noise)
    mean, covariance = filters.predict(9, int(stamps[-1]))
    wanted, spread = kalman_reference(stamps, positions, 0.3**2, 0.02**2)
    assert mean[[0, 3]] == pytest.approx(wanted, abs=1e-9)
    assert mean[[1, 4]] == pytest.approx(2 * wanted, abs=1e-9)
    assert covariance[np.ix_([0, 3], [0, 3])] == pytest.approx(spread, abs=1e-12)
    assert covariance == pytest.approx(covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12


def test_the_filter_predicts_back_as_well_as_ahead() -> None:
    filters = MotionFilters()
    for step in range(40):
        at = np.array([0.02 * step, 0.0, 1.0])
        filters.update(1, step * SECOND // 20, at, np.eye(3) * 1e-6)
    now = 39 * SECOND // 20
    before, _ = filters.predict(1, now - SECOND // 2)
    after, ahead = filters.predict(1, now + SECOND // 2)
    assert before[0] == pytest.approx(0.78 - 0.2, abs=0.005)
    assert after[0] == pytest.approx(0.78 + 0.2, abs=0.005)
    assert np.linalg.eigvalsh(ahead).min() >= 0


def test_memory_is_fixed() -> None:
    tracker = SpatialTracker()
    labels = np.zeros((120, 160), np.uint8)
    depth = np.full((120, 160), 900, np.uint16)
    camera = small_camera(120, 160, 100.0)
    for n in range(1, 256):
        labels[
            (n - 1) // 20 * 9 : (n - 1) // 20 * 9 + 8, (n - 1) % 20 * 8 : (n - 1) % 20 * 8 + 7
        ] = n
    sizes = set()
    for step, ids in enumerate((range(1, 256), [5], range(100, 200), [])):
        found = tracker.update(labels, tracked(ids), depth, camera, step * FRAME, oriented=False)
        assert [item.id for item in found] == list(ids)
        tracker.cloud()
        sizes.add(tracker.nbytes)
    assert len(sizes) == 1
    assert tracker.position_at(150, 3 * FRAME) is None  # no object any more
    assert SpatialTracker().update(labels, [], depth, camera, 0) == []


def test_results_are_values() -> None:
    labels, depth, camera = flat()
    found = SpatialTracker().update(labels, tracked([1]), depth, camera, 0)[0]
    with pytest.raises(FrozenInstanceError):
        found.points = 3
    with pytest.raises(ValueError):
        found.covariance[0, 0] = 1.0
    assert all(isinstance(value, float) for value in (*found.position, *found.box.size))


# ---------------------------------------------------------------- bad input


BAD_DEPTH = [
    (np.zeros((480, 640), np.int16), "uint16 (millimeters, 16UC1) or float32"),
    (np.zeros((480, 640), np.uint8), "uint16"),
    (np.zeros((480, 640, 3), np.uint16), "shape [H, W]"),
    (np.zeros((0, 640), np.uint16), "shape [H, W]"),
    ([[1, 2], [3, 4]], "must be an array, not list"),
    (np.zeros((480, 848), np.uint16), "aligned"),
    (np.zeros((640, 480), np.uint16), "do not show the same view"),
]


@pytest.mark.parametrize(("depth", "says"), BAD_DEPTH, ids=lambda value: str(value)[:30])
def test_depth_that_cannot_be_used_is_refused_and_changes_nothing(depth, says: str) -> None:
    tracker = SpatialTracker()
    good, labels = render([ball((0, 0, 1.0), 0.1)])
    good = good.astype(np.float32)
    before = tracker.update(labels, tracked([1]), good, CAMERA, 0)[0]
    # the intrinsics are not what is wrong
    rows, columns = depth.shape[:2] if says in ("aligned", "do not show the same view") else SIZE
    camera = Intrinsics(columns, rows, K)
    with pytest.raises(InputError) as caught:
        tracker.update(labels, tracked([1]), depth, camera, FRAME)
    assert says in str(caught.value)
    after = tracker.update(labels, tracked([1]), good, CAMERA, 2 * FRAME)[0]
    assert after.position == pytest.approx(before.position, abs=1e-6)
    assert after.velocity == pytest.approx((0, 0, 0), abs=1e-6)


def test_an_info_of_another_view_is_refused() -> None:
    depth, labels = render([ball((0, 0, 1.0), 0.1)])
    with pytest.raises(InputError, match="camera_info is for 848 x 480"):
        SpatialTracker().update(
            labels, tracked([1]), depth.astype(np.float32), Intrinsics(848, 480, K), 0
        )


@pytest.mark.parametrize(
    ("labels", "ids"),
    [
        (np.zeros(SIZE, np.int32), [1]),
        (np.zeros((*SIZE, 1), np.uint8), [1]),
        (np.zeros((0, 640), np.uint8), [1]),
        (np.zeros(SIZE, np.uint8), [0]),
        (np.zeros(SIZE, np.uint8), [256]),
    ],
)
def test_labels_and_ids_that_cannot_be_are_refused(labels, ids: list[int]) -> None:
    with pytest.raises(InputError, match=r"labels must|ids are 1"):
        SpatialTracker().update(labels, tracked(ids), np.ones(SIZE, np.float32), CAMERA, 0)


def test_ids_of_any_kind_of_integer_are_taken() -> None:
    labels, depth, camera = flat()
    for number in (np.uint8(1), np.int64(1), np.int32(1)):
        found = SpatialTracker().update(labels, tracked([number]), depth, camera, 0)[0]
        assert type(found.id) is int
        assert found.position is not None
    for wrong in (1.0, "1", None):
        with pytest.raises(InputError, match="whole numbers"):
            SpatialTracker().update(labels, tracked([wrong]), depth, camera, 0)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf, -1.0, 1e30, 0.05, 25.0])
def test_an_object_without_depth_says_so(value: float) -> None:
    depth, labels = render([ball((0, 0, 1.0), 0.1), ball((0.3, 0, 1.0), 0.1)])
    depth = depth.astype(np.float32)
    depth[labels == 1] = value
    none, good = SpatialTracker().update(labels, tracked([1, 2]), depth, CAMERA, 0)
    assert none.position is None
    assert none.valid_share == 0
    assert "0 of its mask's" in none.reason
    assert "fewer than 20" in none.reason
    assert good.position is not None
    assert good.reason == ""


def test_a_tiny_object_says_so() -> None:
    labels = np.zeros(SIZE, np.uint8)
    labels[100:103, 100:103] = 1
    found = SpatialTracker().update(labels, tracked([1]), np.ones(SIZE, np.float32), CAMERA, 0)[0]
    assert "its mask has 9 pixels" in found.reason


def test_byte_order_rows_and_doubles_do_not_matter() -> None:
    labels, depth, camera = flat(0.1)
    wanted = SpatialTracker().update(labels, tracked([1]), depth, camera, 0)[0]
    wide = np.zeros((120, 200), np.uint16)
    wide[:, :160] = depth
    for other in (
        depth.astype(">u2"),
        wide[:, :160],
        depth[..., None],
        (depth * 0.001).astype(np.float64),
        (depth * 0.001).astype(">f4"),
        np.asfortranarray(depth),
    ):
        found = SpatialTracker().update(labels, tracked([1]), other, camera, 0)[0]
        assert found.position == pytest.approx(wanted.position, abs=1e-6)
        assert found.points == wanted.points


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_masks_and_depths_give_finite_results_or_a_reason(data) -> None:
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    labels = data.draw(arrays.arrays(np.uint8, shape, elements=st.integers(0, 3)))
    kind = data.draw(st.sampled_from([np.uint16, np.float32]))
    elements = (
        st.integers(0, 65535)
        if kind is np.uint16
        else st.one_of(st.floats(width=32), st.floats(0.125, 2, width=32))
    )
    depth = data.draw(arrays.arrays(kind, shape, elements=elements))
    states = [data.draw(st.sampled_from([TRACKED, OCCLUDED, LOST])) for _ in range(3)]
    tracker = SpatialTracker(SpatialSettings(min_points=4))
    camera = small_camera(*shape)
    for step in range(2):
        objects = [
            SimpleNamespace(id=number, state=state, score=0.5)
            for number, state in enumerate(states, 1)
        ]
        for item in tracker.update(labels, objects, depth, camera, step * FRAME):
            assert (item.measured is None) == (item.box is None)
            assert item.reason or item.measured is not None
            for values in (item.position, item.measured, item.velocity):
                assert values is None or np.isfinite(values).all()
            if item.box is not None:
                assert np.isfinite((*item.box.center, *item.box.size)).all()
                assert min(item.oriented_box.size) >= 0
                assert np.linalg.norm(item.oriented_box.orientation) == pytest.approx(1)
            assert 0 <= item.valid_share <= 1
    cloud = tracker.cloud(voxel=0.05)
    assert np.isfinite(cloud.xyz).all()
    assert set(cloud.labels.tolist()) <= {1, 2, 3}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"erosion": -1}, "erosion is -1; it must be 0 to 100"),
        ({"trim": 0.6}, "trim"),
        ({"samples": 1}, "samples"),
        ({"max_gap": math.nan}, "max_gap is nan"),
        ({"acceleration_noise": 0.0}, "acceleration_noise"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict, says: str) -> None:
    with pytest.raises(InputError) as caught:
        SpatialSettings(**change)
    assert says in str(caught.value)


@pytest.mark.parametrize("limits", [(0, 1), (2, 1), (-1, 1), (0.1, math.inf), (math.nan, 1)])
def test_a_depth_range_that_is_none_is_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="0 < near < far"):
        DepthRange(*limits)


# ---------------------------------------------------------------- points


def test_points_have_the_colors_and_labels_of_their_pixels() -> None:
    depth, labels = render([ball((-0.2, 0, 1.0), 0.1), box((0.2, 0, 1.0), (0.15, 0.15, 0.15))])
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    tracker = SpatialTracker()
    tracker.update(labels, tracked([1, 2]), depth.astype(np.float32), CAMERA, 0)
    cloud = tracker.cloud(image)
    assert set(cloud.labels.tolist()) == {1, 2}
    columns = np.rint(cloud.xyz[:, 0] / cloud.xyz[:, 2] * K[0] + K[2]).astype(int)
    rows = np.rint(cloud.xyz[:, 1] / cloud.xyz[:, 2] * K[4] + K[5]).astype(int)
    assert (labels[rows, columns] == cloud.labels).all()
    assert (image[rows, columns] == cloud.rgb).all()
    assert cloud.xyz[:, 2] == pytest.approx(depth[rows, columns], abs=1e-6)
    only = tracker.cloud(image, ids=[2, 999])
    assert set(only.labels.tolist()) == {2}
    assert not tracker.cloud().rgb.any()
    small = cv2.resize(image, (320, 240))
    assert len(tracker.cloud(small)) == len(cloud)
    for wrong in (image[:, :300], image[..., 0], image.astype(np.float32)):
        with pytest.raises(InputError, match=r"image|frame"):
            tracker.cloud(wrong)


def test_there_are_no_points_before_anything_was_measured() -> None:
    tracker = SpatialTracker()
    assert len(tracker.cloud()) == 0
    labels, depth, camera = flat()
    tracker.update(labels, [], depth, camera, 0)
    assert len(tracker.cloud(voxel=0.01)) == 0
    tracker.update(labels, tracked([1]), depth, camera, 0)
    assert len(tracker.cloud()) > 0
    tracker.reset()
    assert len(tracker.cloud()) == 0


def voxel_reference(cloud: PointCloud, voxel: float) -> dict:
    cells: dict = {}
    for point, rgb, label in zip(cloud.xyz, cloud.rgb, cloud.labels):
        cell = (int(label), *(math.floor(np.float32(v) / np.float32(voxel)) for v in point))
        cells.setdefault(cell, []).append((*point.astype(float), *rgb.astype(float)))
    return {cell: np.mean(values, axis=0) for cell, values in cells.items()}


@pytest.mark.parametrize("voxel", [0.001, 0.02, 0.5])
def test_a_voxel_keeps_the_mean_of_its_points(voxel: float) -> None:
    rng = np.random.default_rng(2)
    data = np.empty(3000, POINT)
    for name, low, high in (("x", -0.5, 0.5), ("y", -0.2, 0.3), ("z", 0.5, 9.0)):
        data[name] = rng.uniform(low, high, len(data))
    data["rgb"] = rng.integers(0, 1 << 24, len(data))
    data["label"] = rng.integers(1, 4, len(data)) * 80
    cloud = PointCloud(data)
    found = downsampled(cloud, voxel)
    wanted = voxel_reference(cloud, voxel)
    assert len(found) == len(wanted)
    means = np.array(sorted([cell[0], *mean] for cell, mean in wanted.items()))
    mine = np.column_stack([found.labels, found.xyz, found.rgb])
    mine = mine[np.lexsort(mine[:, 3::-1].T)]
    means = means[np.lexsort(means[:, 3::-1].T)]
    assert mine[:, :4] == pytest.approx(means[:, :4], abs=1e-5)
    assert np.abs(mine[:, 4:] - means[:, 4:]).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("voxel", [-0.1, 1e-5, 100.0, math.nan])
def test_a_voxel_of_no_size_is_refused(voxel: float) -> None:
    with pytest.raises(InputError, match="voxel size"):
        SpatialTracker().cloud(voxel=voxel)


# ---------------------------------------------------------------- depth images


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_masked_depth_and_its_complement_part_the_image(kind) -> None:
    rng = np.random.default_rng(1)
    depth = rng.integers(500, 3000, (60, 80)).astype(kind)
    if kind is np.float32:
        depth *= 0.001
    depth[5] = 0
    labels = np.zeros((60, 80), np.uint8)
    labels[10:30, 10:40] = 2
    labels[35:50, 20:70] = 9
    hole = np.isnan if kind is np.float32 else (lambda values: values == 0)
    inside = masked_depth(labels, depth)
    assert inside.dtype == kind
    assert (inside[labels > 0] == depth[labels > 0]).all()
    assert hole(inside[labels == 0]).all()
    one = masked_depth(labels, depth, ids=[9])
    assert (one[labels == 9] == depth[labels == 9]).all()
    assert hole(one[labels != 9]).all()
    rest = depth_without_objects(labels, depth, margin=0)
    assert (rest[labels == 0] == depth[labels == 0]).all()
    assert hole(rest[labels > 0]).all()
    wide = depth_without_objects(labels, depth, ids=[2], margin=3)
    assert hole(wide[7:33, 7:43]).all()
    assert not hole(wide[6, 7:43]).any()
    assert (wide[labels == 9] == depth[labels == 9]).all()
    assert (depth[labels > 0] != 0).any()  # the input is as it was
    out = np.empty_like(depth)
    assert masked_depth(labels, depth, out=out) is out
    assert depth_without_objects(labels, depth, out=out) is out


def test_masked_depth_of_another_size_and_view() -> None:
    labels = np.zeros((120, 160), np.uint8)
    labels[40:80, 40:80] = 1
    depth = np.full((60, 80), 700, np.uint16)
    found = masked_depth(labels, depth)
    assert (np.argwhere(found).min(axis=0) == [20, 20]).all()
    assert (np.argwhere(found).max(axis=0) == [39, 39]).all()
    with pytest.raises(InputError, match="align_depth"):
        masked_depth(labels, np.full((60, 90), 700, np.uint16))
    with pytest.raises(InputError, match="margin"):
        depth_without_objects(labels, depth, margin=-1)


def test_labels_of_another_size_are_no_mixture_of_ids() -> None:
    labels = np.zeros((30, 40), np.uint8)
    labels[:, 5:20], labels[:, 20:35] = 2, 200
    for shape in ((60, 80), (90, 120), (15, 20)):
        found = fitted_labels(labels, shape)
        assert found.shape == shape
        assert set(np.unique(found)) == {0, 2, 200}
        # the borders stay where they are
        assert (found == 2).mean() == pytest.approx(15 / 40, abs=1 / shape[1])


def test_what_is_wrong_with_depth_is_said() -> None:
    depth = np.full((10, 10), np.nan, np.float32)
    depth[:2] = 0
    depth[2] = -1
    depth[3] = 50
    assert why_invalid(depth) == ("60% NaN or infinite, 20% 0, 10% negative, 10% farther than 20 m")
    assert "look like millimeters" in why_invalid(np.full((4, 4), 900.0, np.float32))
    assert np.count_nonzero(valid_pixels(np.full((4, 4), 900, np.uint16))) == 16
    assert not valid_pixels(np.full((4, 4), 99, np.uint16)).any()
    assert check_depth(np.ones((2, 2), np.float32)).dtype == np.float32


# ---------------------------------------------------------------- pairing


def paired(slop: float = 0.05, **settings) -> DepthPairing:
    pairing = DepthPairing(slop, **settings)
    pairing.add_camera_info(info())
    return pairing


PLANE = np.full(SIZE, 1000, np.uint16)


def test_equal_stamps_are_paired_whichever_comes_first() -> None:
    pairing = paired()
    assert pairing.add_depth(SECOND, PLANE) == []
    (pair,) = pairing.add_image(SECOND, "one", SIZE)
    assert (pair.image, pair.stamp, pair.distance) == ("one", SECOND, 0.0)
    assert pair.intrinsics.focal == (FOCAL, FOCAL)
    assert pairing.add_image(2 * SECOND, "two", SIZE) == []
    (pair,) = pairing.add_depth(2 * SECOND, PLANE)
    assert pair.image == "two"
    assert pairing.paired == 2
    assert pairing.explain() == []


def test_the_nearest_depth_is_taken_not_the_first() -> None:
    pairing = paired()
    pairing.add_depth(SECOND - 33 * 10**6, PLANE)
    # within the slop, but a nearer one may come: nothing waits, it is paired when it is there
    assert pairing.add_image(SECOND, "one", SIZE) == []
    (pair,) = pairing.add_depth(SECOND + 2 * 10**6, PLANE)
    assert pair.distance == pytest.approx(0.002)
    # and where none comes, the next image settles it
    assert pairing.add_image(2 * SECOND - 20 * 10**6, "two", SIZE) == []
    pairing.add_depth(2 * SECOND - 50 * 10**6, PLANE)
    (pair,) = pairing.add_image(2 * SECOND + 20 * 10**6, "three", SIZE)
    assert pair.image == "two"
    assert pair.distance == pytest.approx(-0.03)


def test_stamps_that_never_pair_are_told_with_the_smallest_distance() -> None:
    pairing = paired(0.05)
    for step in range(20):
        assert pairing.add_depth(step * SECOND, PLANE) == []
        assert pairing.add_image(step * SECOND + 310_000_000 + step, "x", SIZE) == []
    (said,) = pairing.explain()
    assert "depth_slop (0.05 s)" in said
    assert "raise depth_slop" in said
    assert "stamps was 0.310 s" in said
    assert pairing.unpaired > 10
    # two clocks: the images are all far ahead of the depth, and the ring throws them out
    pairing = paired(0.05)
    for step in range(20):
        assert pairing.add_depth(step * FRAME, PLANE) == []
        assert pairing.add_image(500 * SECOND + step * FRAME, "x", SIZE) == []
    (said,) = pairing.explain()
    assert "stamps was 499." in said
    assert "two clocks" in said


def delivered(lag: float, image_rate: int = 30, depth_rate: int = 30) -> tuple[list, DepthPairing]:
    """The pairs of two seconds of two streams; depth comes `lag` seconds after its images."""
    pairing = paired(images=10, depths=30)
    images = [SECOND + k * SECOND // image_rate for k in range(2 * image_rate)]
    depths = [SECOND + k * SECOND // depth_rate for k in range(2 * depth_rate)]
    events = [(stamp, True, stamp) for stamp in images]
    events += [(stamp + round(lag * SECOND), False, stamp) for stamp in depths]
    pairs = []
    for when, is_image, stamp in sorted(events):
        if when > images[-1]:
            break
        if is_image:
            pairs += pairing.add_image(stamp, "x", SIZE)
        else:
            pairs += pairing.add_depth(stamp, PLANE)
    return pairs, pairing


@pytest.mark.parametrize("lag", [0.01, 0.04, 0.06, 0.15, 0.3])
def test_depth_that_comes_late_is_paired_with_its_own_image(lag: float) -> None:
    # the depth of the image before is within the slop and there first
    pairs, pairing = delivered(lag)
    assert len(pairs) >= 45
    assert all(pair.distance == 0 for pair in pairs[2:])  # one depth image tells of no rate
    assert pairing.unpaired == 0


def test_a_slow_depth_camera_holds_no_image_up_for_a_farther_one() -> None:
    pairs, _ = delivered(0.0, depth_rate=10)
    distances = [round(pair.distance, 2) for pair in pairs]
    assert set(distances[5:]) == {0.0, -0.03, 0.03}


def test_depth_that_comes_too_late_is_told() -> None:
    pairs, pairing = delivered(0.5)
    assert len(pairs) < 3
    (said,) = pairing.explain()
    assert "depth comes too late: the newest is 0.5" in said
    assert "10 images wait" in said


def test_depth_without_a_stamp_is_told() -> None:
    pairing = paired()
    for step in range(1, 20):
        assert pairing.add_depth(0, PLANE) == []
        assert pairing.add_image(step * FRAME, "x", SIZE) == []
    (said,) = pairing.explain()
    assert "depth images have no time stamp" in said


def test_images_without_a_stamp_are_paired_with_nothing_and_it_is_said() -> None:
    pairing = paired()
    for _ in range(5):
        assert pairing.add_depth(0, PLANE) == []
        assert pairing.add_image(0, "x", SIZE) == []
    image, depth = pairing.explain()
    assert "the images have no time stamp" in image
    assert "the depth images have no time stamp" in depth
    assert (pairing.paired, pairing.unpaired) == (0, 5)
    pairing.add_depth(SECOND, PLANE)
    assert [pair.image for pair in pairing.add_image(SECOND, "y", SIZE)] == ["y"]
    assert pairing.explain() == []


def test_images_that_wait_for_another_reason_are_not_said_to_be_far_from_depth() -> None:
    pairing = DepthPairing()
    for step in range(20):  # no camera_info: the ring throws the images out
        assert pairing.add_depth(step * FRAME, PLANE) == []
        assert pairing.add_image(step * FRAME, "x", SIZE) == []
    (said,) = pairing.explain()
    assert "no camera_info" in said


def test_depth_that_has_stopped_is_told_and_not_two_clocks() -> None:
    pairing = paired()
    pairing.add_depth(0, PLANE)
    for step in range(1, 20):
        assert pairing.add_image(step * SECOND, "x", SIZE) == []
    (said,) = pairing.explain(silent=19.0)
    assert "no depth image has come for 19.0 s" in said
    assert "ros2 topic hz" in said


def test_a_pair_tells_of_which_time_and_frame_its_depth_is() -> None:
    pairing = paired()
    pairing.add_depth(SECOND + 3, PLANE, "depth_optical")
    (pair,) = pairing.add_image(SECOND, "one", SIZE, "color_optical")
    assert (pair.depth_stamp, pair.depth_frame) == (SECOND + 3, "depth_optical")


def test_what_is_missing_is_told_with_its_remedy() -> None:
    pairing = DepthPairing()
    pairing.add_image(SECOND, "x", SIZE)
    said = pairing.explain()
    assert any("no depth image has come" in text and "depth_topic" in text for text in said)
    assert any("no camera_info" in text and "depth_camera_info_topic" in text for text in said)
    assert pairing.add_depth(SECOND, PLANE) == []  # kept until the camera is known
    assert len(pairing.explain()) == 1
    pairing.add_camera_info(info())
    (pair,) = pairing.add_depth(SECOND + FRAME, PLANE)
    assert pair.image == "x"
    with pytest.raises(InputError, match="all zeros"):
        pairing.add_camera_info(info(k=(0.0,) * 9))
    assert any("k is all zeros" in text for text in pairing.explain())
    pairing.add_camera_info(info())
    assert pairing.explain() == []


@pytest.mark.parametrize(
    ("depth", "frame", "says"),
    [
        (np.full((480, 848), 1000, np.uint16), "", "do not show the same view"),
        (np.zeros(SIZE, np.uint16), "", "0.0% of the depth image's pixels"),
        (np.full(SIZE, np.nan, np.float32), "", "100% NaN"),
        (np.full(SIZE, 800.0, np.float32), "", "look like millimeters"),
        (PLANE, "camera_depth_optical_frame", "aligned to the image"),
        (np.zeros(SIZE, np.uint8), "", "must be uint16"),
    ],
)
def test_depth_that_is_of_no_use_is_told(depth, frame: str, says: str) -> None:
    pairing = paired()
    pairing.add_depth(SECOND, depth, frame)
    pairing.add_image(SECOND, "x", SIZE, "camera_color_optical_frame")
    assert any(says in text for text in pairing.explain()), pairing.explain()


def test_depth_is_decoded_only_when_it_is_needed() -> None:
    calls = []

    def source(stamp: int):
        def decode():
            calls.append(stamp)
            return PLANE

        return decode

    pairing = paired()
    for step in range(10):
        pairing.add_depth(step * FRAME, source(step))
    assert calls == []
    (pair,) = pairing.add_image(7 * FRAME, "x", SIZE)
    assert calls == [7]
    assert pair.depth is PLANE

    def broken():
        raise InputError("the PNG is cut short")

    pairing.add_depth(20 * FRAME, broken)
    assert pairing.add_image(20 * FRAME, "y", SIZE) == []
    assert "the PNG is cut short" in pairing.explain()
    pairing.add_depth(21 * FRAME, PLANE)
    assert len(pairing.add_image(21 * FRAME, "z", SIZE)) == 1
    assert pairing.explain() == []


def test_a_clock_that_is_set_back_starts_anew() -> None:
    pairing = paired()
    for step in range(5):
        pairing.add_depth(100 * SECOND + step * FRAME, PLANE)
        pairing.add_image(100 * SECOND + step * FRAME, "old", SIZE)
    pairing.add_depth(SECOND, PLANE)
    (pair,) = pairing.add_image(SECOND, "new", SIZE)
    assert pair.image == "new"
    assert pairing.explain() == []


def test_a_clock_that_is_set_back_by_half_a_second_brings_no_depth_of_before() -> None:
    pairing = paired(depths=30)
    old, new = PLANE, PLANE.copy()
    for step in range(30):
        pairing.add_depth(SECOND + step * FRAME, old)
        pairing.add_image(SECOND + step * FRAME, "old", SIZE)
    start, pairs = SECOND + 15 * FRAME, []
    for step in range(10):  # the images nearer to depth of the time before
        pairs += pairing.add_depth(start + step * FRAME + 10_000_000, new)
        pairs += pairing.add_image(start + step * FRAME, "new", SIZE)
    assert len(pairs) >= 9
    assert all(pair.depth is new for pair in pairs if pair.image == "new")


def test_an_info_that_stays_the_same_keeps_its_rays() -> None:
    pairing = paired()
    pairing.add_depth(SECOND, PLANE)
    (one,) = pairing.add_image(SECOND, "x", SIZE)
    pairing.add_camera_info(info())
    pairing.add_depth(2 * SECOND, PLANE)
    (two,) = pairing.add_image(2 * SECOND, "y", SIZE)
    assert one.intrinsics is two.intrinsics


@pytest.mark.parametrize("values", [{"slop": -1}, {"slop": math.nan}, {"depths": 0}, {"images": 0}])
def test_a_pairing_of_no_size_is_refused(values: dict) -> None:
    with pytest.raises(InputError):
        DepthPairing(**values)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(-(2**62), 2**62) | st.integers(0, 3 * 10**9)),
        max_size=60,
    )
)
def test_any_order_of_stamps_keeps_the_rings_small_and_pairs_within_the_slop(events: list) -> None:
    pairing = paired(0.1, depths=3, images=2)
    tiny = np.ones((4, 4), np.uint16)
    images, given_out = 0, []
    for number, (is_image, stamp) in enumerate(events):
        if is_image:
            images += 1
            given_out += pairing.add_image(stamp, number, (4, 4))
        else:
            given_out += pairing.add_depth(stamp, tiny)
        assert len(pairing._depths) <= 3
        assert len(pairing._images) <= 2
    assert all(abs(pair.distance) <= 0.1 + 1e-9 for pair in given_out)
    names = [pair.image for pair in given_out]
    assert len(names) == len(set(names))  # each once
    assert pairing.paired == len(names)
    assert pairing.paired + pairing.unpaired <= images
    assert isinstance(pairing.explain(), list)


# ---------------------------------------------------------------- the benchmarks


def benchmark(name: str, out: Path, *arguments: str) -> dict:
    """What a script of benchmark/ measures."""
    command = [sys.executable, str(ROOT / "benchmark" / name), "--json", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "pip install" in done.stderr or "apt-get install" in done.stderr:
        pytest.skip(f"RENDERED SCENES ARE NOT TESTED HERE: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_the_benchmark_of_times_runs(tmp_path: Path) -> None:
    found = benchmark("spatial.py", tmp_path / "times.json", "--rounds", "1")["milliseconds"]
    assert {"3 objects", "points of a mask of the whole image", "pairing"} <= set(found)
    assert all(times["wall"] > 0 for times in found.values())


def test_the_benchmark_of_the_node_runs(tmp_path: Path) -> None:
    arguments = ["--model", str(ROOT / "test" / "data" / "tiny_model"), "--images", "3"]
    arguments += ["--turns", "1", "--phases", "nobody", "objects_3d"]
    found = benchmark("spatial_node.py", tmp_path / "node.json", *arguments)["ms"]
    assert set(found["nobody"]) == {"latency", "cpu", "node"}  # nothing was computed in space
    assert set(found["objects_3d"]) == {"latency", "cpu", "node", "3D"}
    assert all(value > 0 for times in found.values() for value in times.values())


def test_rendered_scenes_are_measured_as_well_as_drawn_ones(tmp_path: Path) -> None:
    arguments = ("--scenes", "1", "--objects", "8", "--seconds", "1.3", "--rate", "10")
    found = benchmark("spatial_accuracy.py", tmp_path / "accuracy.json", *arguments)
    assert found["measurements"] > 50
    assert found["position [mm]"]["median"] < 10
    assert found["size [%]"]["median"] < 10
    assert found["velocity after 1 s [m/s]"]["median"] < 0.05
