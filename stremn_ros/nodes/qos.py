"""The QoS of what the nodes publish, and what a user may override of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from stremn_ros.errors import InputError, StremnError

# the newest result is the one that counts, so nothing is queued for slow subscribers
RESULTS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


def create_result_publisher(
    node: LifecycleNode, kind: Any, topic: str, quality: QoSProfile = RESULTS
) -> Any:
    """A lifecycle publisher whose depth can be set by ``qos_overrides.TOPIC.publisher.depth``.

    With depth 1 a result is replaced by the next one before a slow subscriber has it. Whoever
    wants every result, a recorder for instance, sets a larger depth.

    Raises:
        InputError: an override that ROS refuses.
    """
    with overrides_named(node, topic, "publisher"):
        return node.create_lifecycle_publisher(
            kind,
            topic,
            quality,
            qos_overriding_options=QoSOverridingOptions([QoSPolicyKind.DEPTH]),
        )


def given_overrides(node: LifecycleNode, topic: str, entity: str) -> dict[str, Any]:
    """The parameters ``qos_overrides.TOPIC.ENTITY.*`` that the node was started with, by name."""
    start = f"qos_overrides.{node.resolve_topic_name(topic)}.{entity}."
    # as in parameters.declare: there is no public way to see what was given
    given = getattr(node, "_parameter_overrides", {})
    return {name: value.value for name, value in given.items() if name.startswith(start)}


@contextmanager
def overrides_named(node: LifecycleNode, topic: str, entity: str) -> Iterator[None]:
    """Around what makes a publisher or a subscription (entity): errors name the overrides given.

    Raises:
        InputError: ROS refuses an override; it raises another error for each kind of wrong value.
    """
    try:
        yield
    except StremnError:
        raise
    except Exception as error:
        given = given_overrides(node, topic, entity)
        if not given:
            raise
        said = ", ".join(f"{name}: {value!r}" for name, value in given.items())
        raise InputError(f"{said}: ROS refuses this ({error}); a depth is 1 or more") from error
