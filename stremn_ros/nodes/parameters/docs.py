"""docs/parameters.md, made from the table; a test holds that both agree."""

from __future__ import annotations

from stremn_ros.nodes.parameters.table import PREDICT, SEGMENT, VIDEO_SOURCE, parameters_of

_TITLES = {
    SEGMENT: "segment_node (node `stremn`)",
    VIDEO_SOURCE: "video_source_node (node `video_source`)",
    PREDICT: "predict_node (node `stremn_predict`)",
}


def markdown() -> str:
    """The text of docs/parameters.md."""
    lines = [
        "# Parameters of the nodes",
        "",
        "Made from the table in `stremn_ros/nodes/parameters/table.py` by "
        "`python -m stremn_ros.nodes.parameters > docs/parameters.md`; do not edit by hand.",
        "",
        'Changes "run time": `ros2 param set` at any time. "while unconfigured": in a YAML file, '
        "on the command line, or with `ros2 param set` before `configure`; refused, with the "
        'reason, while the node is configured. "at start only": read-only once the node runs.',
        "",
        "An invalid value is refused with the reason. If it was given at the start, `configure` of "
        "a lifecycle node fails, with the reason in the log. The log also names unknown "
        "parameters, such as a misspelled one in a file.",
    ]
    for node, title in _TITLES.items():
        lines += ["", f"## {title}", ""]
        lines += ["| Parameter | Type | Default | Values | Changes | What |"]
        lines += ["|---|---|---|---|---|---|"]
        for spec in parameters_of(node).values():
            default = str(spec.default) if spec.default != [""] else ""
            if isinstance(spec.default, bool):
                default = default.lower()  # as YAML writes it
            default = f"`{default}`" if default else "empty"
            lines.append(
                f"| `{spec.name}` | {spec.type_name} | {default} | {spec.range_text} | "
                f"{spec.changes} | {spec.description} |"
            )
    return "\n".join(lines) + "\n"
