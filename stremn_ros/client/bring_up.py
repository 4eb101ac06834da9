"""Configures and activates a lifecycle node: `python -m stremn_ros.client.bring_up /stremn`.

The launch files run this at each start of the node, and name its process with --pid: when that has
ended, nothing is waited for any more. launch_ros has events for it, but a node that
died and was started again is not brought up by them: the request goes to the dead one, which DDS
takes to be there for another 20 seconds, and nothing asks again. Here each question has a time
limit, and what is done next follows from the state that the node says it is in.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.utilities import remove_ros_args

from stremn_ros.client.peer import AGAIN, Peer, check_name
from stremn_ros.errors import StremnError

QUESTION = 2.0  # seconds within which a node that is not busy answers
# A lost reply is asked for again; building a network may take minutes.
WAIT = 600.0
STEPS = {
    State.PRIMARY_STATE_UNCONFIGURED: ("configure", Transition.TRANSITION_CONFIGURE),
    State.PRIMARY_STATE_INACTIVE: ("activate", Transition.TRANSITION_ACTIVATE),
}


class BringUpError(StremnError):
    """The node cannot be made active."""


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def bring_up(
    peer: Peer,
    node: str,
    timeout: float = WAIT,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Takes a node from whatever state it is in to active.

    node: its full name. timeout: seconds, from now to active. alive: whether its process is there.

    Raises:
        InputError: that is no name of a node.
        BringUpError: a transition failed, the node was finalized, its process has ended, or the
            time was not enough.
    """
    check_name(node, "a node")
    end = time.monotonic() + timeout
    what, asked_in, asked_at, pending = "answer", -1, 0.0, None
    while time.monotonic() < end:
        if not alive():
            raise BringUpError(
                f"the process of '{node}' has ended before it was active: its log, above, says why"
            )
        refused = pending is not None and pending.done() and not pending.result().success
        if pending is not None and pending.done():
            pending = None
        try:
            answer = peer.call(GetState, f"{node}/get_state", GetState.Request(), QUESTION, AGAIN)
            state = answer.current_state.id
            if state == State.PRIMARY_STATE_ACTIVE:
                return
            if state == State.PRIMARY_STATE_FINALIZED:
                raise BringUpError(
                    f"'{node}' was shut down (finalized), from where no transition leads: end its "
                    "process and start it again"
                )
            if refused and state == asked_in:
                raise BringUpError(
                    f"'{node}' could not {what}: its log says why. Mend that and launch again, or "
                    f"`ros2 lifecycle set {node} {what}`"
                )
            # A node that tells its state is not in a transition: if an earlier request has no
            # answer by now, it went to a process that is gone.
            lost = time.monotonic() - asked_at > QUESTION
            if state in STEPS and (pending is None or lost):
                what, transition = STEPS[state]
                request = ChangeState.Request(transition=Transition(id=transition))
                pending = peer.ask(ChangeState, f"{node}/change_state", request, QUESTION)
                asked_in, asked_at = state, time.monotonic()
        except BringUpError:
            raise
        except StremnError:
            continue  # no answer: not there yet, or at work
        time.sleep(0.05)
    raise BringUpError(f"'{node}' did not {what} within {timeout:g} s")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bring_up", description="Activates a lifecycle node.")
    parser.add_argument("node", help="full name of the node, for instance /stremn")
    parser.add_argument("--pid", type=int, default=0, help="its process; ends when that has ended")
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(remove_ros_args(["bring_up", *words])[1:])
    try:
        peer = Peer("bring_up")
    except StremnError as error:
        sys.stderr.write(f"bring_up: error: {error}\n")
        return 1
    try:
        bring_up(peer, options.node, alive=lambda: not options.pid or is_alive(options.pid))
    except StremnError as error:
        peer.node.get_logger().error(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        peer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
