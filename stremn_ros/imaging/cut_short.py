"""Whether a video file is whole: what the outermost parts of its container say of its length."""

from __future__ import annotations

import re
import struct
from pathlib import Path

# bytes that the length of a whole AVI is off by: its own 8, and one that makes it even
_RIFF_SLACK = 9
# of MP4 and MOV, at the outermost level; four letters each
_BOXES = re.compile(b"ftyp|moov|mdat|free|skip|wide|pnot|styp|sidx|moof|mfra|uuid|meta|udta|emsg")


def cut_short(path: Path, all_came: bool = False) -> str:
    """Why a video file is damaged: it has fewer bytes than it says. Empty where nothing shows that.

    The outermost parts of AVI, MP4 and Matroska files tell how long they are, GIFs end in a marker.

    Args:
        all_came: all frames that the file says it has could be read, so zeros at its end are
            something that nobody reads: room left free, or padding.
    """
    if not path.is_file():  # a device may have no end
        return ""
    size = path.stat().st_size
    at = slack = 0
    with path.open("rb") as file:
        head = file.read(12)
        if head.startswith(b"GIF8"):
            file.seek(max(0, size - 64))
            return "" if b";" in file.read(64) else "it has no end marker"
        if head[:4] in (b"RIFF", b"RIFX"):
            slack = _RIFF_SLACK
        while at + 8 <= size:
            file.seek(at)
            length = _part_length(file.read(32))
            if length is None:
                break
            at += length
        if at > size + slack:
            return f"it has {size} bytes and says that it has {at}"
        file.seek(max(0, size - 4096))
        tail = file.read(4096)
    # of other kinds (at is 0) the number of frames is guessed from the bytes that came
    if size > len(tail) and not any(tail) and not (all_came and at):
        return "its end is empty, as in a download that was not finished"
    return ""


def _part_length(head: bytes) -> int | None:
    """Bytes of the part of a container that begins so; None where it does not say."""
    if head[:4] in (b"RIFF", b"RIFX"):
        length = struct.unpack("<I" if head[:4] == b"RIFF" else ">I", head[4:8])[0]
        return 8 + length + length % 2 if length else None  # 0 while it is being written
    if _BOXES.match(head[4:8]):
        length = struct.unpack(">I", head[:4])[0]
        if length == 1 and len(head) >= 16:
            length = struct.unpack(">Q", head[8:16])[0]
        return length if length >= 8 else None
    if head[:4] in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67") and len(head) >= 12:
        width = 9 - head[4].bit_length()
        if not 1 <= width <= 8:
            return None
        value = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        unknown = (1 << 7 * width) - 1  # while it is being written, and in streams
        return None if value == unknown else 4 + width + value
    return None
