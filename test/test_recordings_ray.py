"""`stremn label --ray`: a local cluster gives the files of one process, also when a worker dies."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from recordings_forks import descendants, kill_one
from recordings_helpers import camera, hashes, scenes, seeds_file, write_bag
from test_recordings_label import SETTINGS, job_of, truth

from stremn_ros.errors import InputError
from stremn_ros.recordings.job import label
from stremn_ros.recordings.spec import Job
from stremn_ros.recordings.workers import RayCluster

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[None]:
    """A cluster of two workers with a folder of its own; Ray chooses ports that are free."""
    # the paths of its sockets must be short
    folder = Path(tempfile.mkdtemp(prefix="r"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parent.parent))  # for its workers
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for tries_left in (2, 1, 0):
            try:
                _start(folder)
                break
            except Exception as error:  # it has 30 seconds, which is little on a busy machine
                if "timed out during startup" not in str(error) or not tries_left:
                    raise
                ray.shutdown()
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path) -> None:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _temp_dir=str(folder),
        _node_ip_address="127.0.0.1",
        object_store_memory=100 << 20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


@pytest.fixture
def job(tmp_path: Path) -> Job:
    bag = write_bag(tmp_path / "drive", "mcap", camera("mcap", scenes(40)))
    seeds = seeds_file(
        tmp_path,
        {"frame": 4, "mask": truth(4)},
        {"frame": 20, "mask": truth(20), "accepted": True},
    )
    settings = replace(SETTINGS, stretch=2)  # often something new on the disk
    formats = ("davis", "coco", "mcap")
    return job_of(bag, seeds, tmp_path / "one", formats=formats, settings=settings)


@pytest.mark.usefixtures("cluster")
def test_a_cluster_gives_the_files_of_one_process(job: Job, tmp_path: Path) -> None:
    label(job)
    label(replace(job, out=tmp_path / "ray"), RayCluster())
    assert hashes(tmp_path / "ray") == hashes(tmp_path / "one")

    # one worker is killed in the run; a worker bears its task's name
    def workers() -> list[int]:
        own = descendants(os.getpid())
        return [pid for pid, _, words in own if words.startswith("ray::drive ")]

    with ThreadPoolExecutor() as threads:
        killed = threads.submit(kill_one, tmp_path / "killed", workers)
        label(replace(job, out=tmp_path / "killed"), RayCluster())
        assert killed.result()
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "one")


def test_no_cluster_is_told(tmp_path: Path) -> None:
    code = (
        "from stremn_ros.recordings.workers import RayCluster\n"
        "try: RayCluster().__enter__()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "RAY_TMPDIR": str(tmp_path)},
    )
    assert said.stdout.startswith(InputError.__name__), said
    assert "ray start --head" in said.stdout
