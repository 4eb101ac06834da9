"""Which environment variable gives Fast DDS the profile with room for images.

The profile is config/fastdds_shm.xml. No rclpy is needed here: launch files and the demo use this
before any node runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

FAST_DDS_3 = "FASTDDS_DEFAULT_PROFILES_FILE"
FAST_DDS_2 = "FASTRTPS_DEFAULT_PROFILES_FILE"
DISTRIBUTIONS_WITH_FAST_DDS_2 = ("humble", "iron", "jazzy")


def profile_environment(
    profile: str | os.PathLike[str], environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What to add to the environment of a process so that Fast DDS reads `profile`.

    profile: a path; empty so that none is read, which the processes of this package keep to.
    environment: the present one (os.environ). Nothing is added when it has a variable for it
    already, be it empty. One variable, never both: Fast DDS 3 reads both, and refuses the second
    as a repetition.
    """
    environment = os.environ if environment is None else environment
    if FAST_DDS_3 in environment or FAST_DDS_2 in environment:
        return {}
    older = environment.get("ROS_DISTRO", "").lower() in DISTRIBUTIONS_WITH_FAST_DDS_2
    return {FAST_DDS_2 if older else FAST_DDS_3: os.fspath(profile)}
