"""What the doctor says: checks, and which of them stop the library or the nodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True)
class Check:
    """One line of the report. status: "ok", "note" (works without) or "problem".

    needed_for: "library" (masks without ROS) or "nodes" where a problem stops that, else "".
    """

    name: str
    status: str
    found: str
    advice: str = ""
    needed_for: str = ""


@dataclass(frozen=True)
class Report:
    """All checks, and whether the main job (the segmentation node) and the library can run."""

    checks: list[Check]

    def stops(self, what: str) -> list[str]:
        """Names of the checks that stop "library" or "nodes"; the nodes need the library."""
        needed = ("library",) if what == "library" else ("library", "nodes")
        return [
            check.name
            for check in self.checks
            if check.status == PROBLEM and check.needed_for in needed
        ]

    @property
    def ready(self) -> bool:
        return not self.stops("nodes")

    def as_dict(self) -> dict[str, Any]:
        return {
            "ready": self.ready,
            "library_ready": not self.stops("library"),
            "checks": [asdict(check) for check in self.checks],
        }

    def text(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = []
        for check in self.checks:
            mark = {OK: "[ok]  ", NOTE: "[note]", PROBLEM: "[FIX] "}[check.status]
            first, *rest = check.found.splitlines() or [""]
            lines.append(f"{mark} {check.name:{width}}  {first}")
            lines += [f"{'':{width + 9}}{line}" for line in rest]
            if check.advice:
                head, *rest = check.advice.splitlines()
                lines.append(f"{'':{width + 9}}-> {head}")
                lines += [f"{'':{width + 12}}{line}" for line in rest]
        lines.append("")
        for what, words in (
            ("library", "stremn segment and the Python library"),
            ("nodes", "the ROS nodes (the main job)"),
        ):
            stops = self.stops(what)
            lines.append(f"{words}: {'can run' if not stops else 'stopped by ' + ', '.join(stops)}")
        return "\n".join(lines)
