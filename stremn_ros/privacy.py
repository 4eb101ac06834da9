"""Nothing leaves the machine: what libraries would send home is off before they are imported.

Of all that this package needs, ONNX Runtime alone reports to its maker: from 1.29 on it writes
a device id and a database of events below ~/.cache and asks name servers for its maker's host. It
reads its switch once, when it is imported. So ``import stremn_ros`` sets the switch, child
processes inherit it, and ``runtime.onnx.library`` is the only place that imports ONNX Runtime.

Of what may be installed besides, Rerun's viewer sends usage data. ``silence_rerun`` is called
before it is imported, by the only place that does.
"""

from __future__ import annotations

import os
import sys

# of the environment; launch files, the Makefile and the tests set the same
SWITCHES = {"ORT_DISABLE_TELEMETRY": "1"}
# ONNX Runtime was here first, so its telemetry runs already
too_late = False


def silence_rerun() -> None:
    """Turns off the usage data of Rerun's viewer, which is started by this process.

    It has no switch of its own but `rerun analytics disable`, which changes the user's settings. In
    an environment with CI it collects nothing, unless FORCE_RERUN_ANALYTICS says so
    (re_analytics/src/native/pipeline.rs).
    """
    os.environ.pop("FORCE_RERUN_ANALYTICS", None)
    os.environ["CI"] = "1"


def switch_off() -> None:
    """Sets the switches in this process's environment, whatever they were set to before."""
    global too_late
    on = any(os.environ.get(name) != value for name, value in SWITCHES.items())
    too_late = too_late or (on and "onnxruntime" in sys.modules)
    os.environ.update(SWITCHES)
