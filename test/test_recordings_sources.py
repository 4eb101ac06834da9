"""Recordings as sources of frames: every kind of bag, every encoding, and what damage leaves."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import recordings_helpers as rec
from recordings_helpers import KINDS, SIZE, camera, file_of, scenes, stamps, write_bag

from stremn_ros.errors import InputError
from stremn_ros.imaging.video import VideoWriter, open_frames, write_image
from stremn_ros.messages import compressed_read, image_read
from stremn_ros.recordings import damaged, sources
from stremn_ros.recordings.bags import is_bag, open_bag
from stremn_ros.recordings.sources import open_source, read_indexes

TOPIC = "/camera/image_raw"


def all_frames(path: Path, topic: str = TOPIC) -> tuple[list[int], list[np.ndarray | None]]:
    index = read_indexes(path, [topic] if topic else [])[topic]
    source = open_source(path, index)
    frames = list(source.frames(0, len(source) - 1))
    assert [number for number, _ in frames] == list(range(len(source)))
    source.close()
    return index.stamps.tolist(), [frame for _, frame in frames]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_of_every_kind_gives_every_frame_in_order(kind: str, tmp_path: Path) -> None:
    frames = scenes(12)
    bag = write_bag(tmp_path / "drive", kind, camera(kind, frames))
    times, read = all_frames(bag)
    assert times == stamps(12)
    assert all(np.array_equal(a, b) for a, b in zip(read, frames, strict=True))
    # the file alone, without its folder's metadata
    if bag.is_dir() and kind != "sqlite3_zstd":
        again = all_frames(file_of(bag))[1]
        assert all(np.array_equal(a, b) for a, b in zip(again, frames, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_backwards_is_the_reverse_of_forwards(kind: str, tmp_path: Path) -> None:
    frames = scenes(12)
    bag = write_bag(tmp_path / "drive", kind, camera(kind, frames))
    source = open_source(bag, read_indexes(bag)[TOPIC])
    back = list(source.backwards(9, 2))
    assert [number for number, _ in back] == list(range(9, 1, -1))
    assert all(np.array_equal(frame, frames[number]) for number, frame in back)
    assert np.array_equal(source.frame(5), frames[5])


def test_going_back_holds_a_small_block_of_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_bag(tmp_path / "drive", "sqlite3", camera("sqlite3", scenes(150)))
    source = open_source(bag, read_indexes(bag)[TOPIC])
    decoded: list[int] = []
    inner = sources.decode_image
    monkeypatch.setattr(sources, "decode_image", lambda *a: decoded.append(1) or inner(*a))
    most = 0
    for given, (number, _) in enumerate(source.backwards(149, 0), 1):
        assert number == 150 - given
        most = max(most, len(decoded) - given + 1)
    assert given == 150
    assert most <= source.BLOCK_FRAMES < 150
    assert source.BLOCK_BYTES <= 1 << 24


ENCODINGS = [name for name in image_read.ENCODINGS if name not in ("mono16", "16UC1", "32FC1")]


@pytest.mark.parametrize("encoding", [*ENCODINGS, ".png", ".jpg"])
def test_every_encoding_is_read_by_the_codec_of_the_node(encoding: str, tmp_path: Path) -> None:
    grey = encoding in ("mono8", "8UC1")
    shown = [frame[..., 0] if grey else frame for frame in scenes(2)]
    records = camera("mcap", shown, encoding=encoding)
    codec = compressed_read if encoding.startswith(".") else image_read
    bag = write_bag(tmp_path / "drive", "mcap", records)
    for frame, record in zip(all_frames(bag)[1], records, strict=True):
        assert np.array_equal(frame, codec.decode_rgb(record[3]))


def test_two_cameras_beside_each_other(tmp_path: Path) -> None:
    left, right = scenes(6), scenes(12)[6:]
    records = camera("mcap", left, "/left/image") + camera(
        "mcap", right, "/right/image", ".png", [t + 7 for t in stamps(6)]
    )
    records.sort(key=lambda record: record[2])
    bag = write_bag(tmp_path / "drive", "mcap", records)
    assert sorted(read_indexes(bag)) == ["/left/image", "/right/image"]
    for topic, frames in (("/left/image", left), ("/right/image", right)):
        read = all_frames(bag, topic)[1]
        assert all(np.array_equal(a, b) for a, b in zip(read, frames, strict=True))
    with pytest.raises(InputError, match="no image topic /front; its image topics are /left/image"):
        read_indexes(bag, ["/front"])


@pytest.mark.parametrize("kind", ["mcap", "sqlite3", "bag1"])
def test_jitter_and_gaps_are_put_in_the_order_of_the_stamps(kind: str, tmp_path: Path) -> None:
    rng = random.Random(3)
    frames = scenes(20)
    times = [t + rng.randrange(-20_000_000, 20_000_000) for t in stamps(20)]
    times[12:] = [t + 30 * 10**9 for t in times[12:]]  # a gap
    records = camera(kind, frames, times=times)
    # recorded up to three frames late, so that they overtake each other
    records = [(a, b, when + rng.randrange(3) * rec.STEP, m) for a, b, when, m in records]
    records.sort(key=lambda record: record[2])
    bag = write_bag(tmp_path / "drive", kind, records)
    found, read = all_frames(bag)
    assert found == times
    assert all(np.array_equal(a, b) for a, b in zip(read, frames, strict=True))
    index = read_indexes(bag)[TOPIC]
    assert "not recorded in the order of their stamps" in " ".join(index.problems)
    source = open_source(bag, index)
    back = dict(source.backwards(19, 0))
    assert all(np.array_equal(back[n], frame) for n, frame in enumerate(frames))


def test_a_header_without_a_stamp_gets_the_time_of_the_recording(tmp_path: Path) -> None:
    records = camera("mcap", scenes(4), times=[0, 0, 0, 0])
    records = [(a, b, when, m) for when, (a, b, _, m) in zip(stamps(4), records)]
    bag = write_bag(tmp_path / "drive", "mcap", records)
    index = read_indexes(bag)[TOPIC]
    assert index.stamps.tolist() == stamps(4)
    assert "4 of 4 messages have no stamp" in index.problems[0]


@pytest.mark.parametrize(
    ("times", "found"),
    [
        # a simulation begins at zero, and its first image may come before its clock
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        ([0, 0, 0, 1, 2], [0, 0, 0, 1, 2]),
        ([0, 1, 0, 3, 4], [0, 1, 2, 3, 4]),
        ([0, 1, 2, 3, 0], [0, 1, 2, 3, 4]),
        ([0, 4, 5, 6, 7], [3, 4, 5, 6, 7]),
        ([0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2]),
        ([50, 0, 52, 53, 0], [50, 51, 52, 53, 54]),
        ([0, 51, 52], [50, 51, 52]),
    ],
)
def test_a_zero_is_read_by_the_clock_of_the_other_headers(
    times: list[int], found: list[int], tmp_path: Path
) -> None:
    records = camera("mcap", scenes(len(times)), times=[t * rec.STEP for t in times])
    records = [(a, b, when, m) for when, (a, b, _, m) in zip(stamps(len(times)), records)]
    index = read_indexes(write_bag(tmp_path / "drive", "mcap", records))[TOPIC]
    order = np.argsort(found, kind="stable")
    assert index.stamps.tolist() == [found[n] * rec.STEP for n in order]
    assert index.places.tolist() == order.tolist()
    taken = sum(before == 0 < after for before, after in zip(times, found))
    said = [text for text in index.problems if "have no stamp" in text]
    assert len(said) == bool(taken)
    assert all(f"{taken} of {len(times)} " in text for text in said)


def test_the_first_image_of_a_simulation_stays_the_first(tmp_path: Path) -> None:
    frames = scenes(10)
    records = camera("mcap", frames, times=[n * rec.STEP for n in range(10)])
    late = [0, 70, 0, 30, 0, 0, 0, 0, 0, 0]  # milliseconds on the way to the recorder
    records = [
        (a, b, when + ms * 10**6, m) for when, ms, (a, b, _, m) in zip(stamps(10), late, records)
    ]
    times, read = all_frames(write_bag(tmp_path / "drive", "mcap", records))
    assert times == [n * rec.STEP for n in range(10)]
    assert all(np.array_equal(a, b) for a, b in zip(read, frames, strict=True))


@pytest.mark.parametrize("kind", ["mcap", "bag1"])
def test_a_stamp_that_ros_2_cannot_hold_is_none(kind: str, tmp_path: Path) -> None:
    records = camera(kind, scenes(4))
    stamp = records[2][3].header.stamp
    stamp.sec, stamp.nanosec = (1 << 31) - 1, (1 << 32) - 1
    index = read_indexes(write_bag(tmp_path / "drive", kind, records))[TOPIC]
    assert index.stamps.tolist() == stamps(4)
    assert "1 of 4 messages have no stamp in their header (or one after 2038)" in index.problems[0]


def test_a_loop_keeps_the_order_of_the_recording(tmp_path: Path) -> None:
    frames = scenes(100)
    records = camera("mcap", frames) + camera("mcap", frames)
    records = [(a, b, rec.START + n * rec.STEP, m) for n, (a, b, _, m) in enumerate(records)]
    bag = write_bag(tmp_path / "drive", "mcap", records)
    index = read_indexes(bag)[TOPIC]
    assert index.stamps.tolist() == stamps(100) * 2
    assert "jump back" in index.problems[0]
    read = dict(open_source(bag, index).frames(95, 105))
    assert all(np.array_equal(read[n], frames[n % 100]) for n in read)


def test_an_image_that_cannot_be_decoded_is_named_and_the_others_come(tmp_path: Path) -> None:
    frames = scenes(5)
    records = camera("mcap", frames, encoding=".png")
    records[2][3].data = records[2][3].data[:100]
    bag = write_bag(tmp_path / "drive", "mcap", records)
    source = open_source(bag, read_indexes(bag)[TOPIC])
    read = dict(source.frames(0, 4))
    assert [n for n in read if read[n] is None] == [2]
    assert source.problems[0].startswith("frame 2 cannot be decoded: ")


def test_videos_and_folders_are_recordings_too(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 20) as writer:
        for frame in scenes(9):
            writer.write(frame)
    for number, frame in enumerate(scenes(4)):
        write_image(tmp_path / "folder" / f"{number}.png", frame)
    for path in (tmp_path / "clip.mp4", tmp_path / "folder"):
        index = read_indexes(path)[""]
        source = open_source(path, index)
        frames = list(open_frames(path))
        assert len(source) == len(frames)
        assert all(np.array_equal(frames[n], frame) for n, frame in source.backwards(3, 1))
        assert np.array_equal(source.frame(2), frames[2])
    assert read_indexes(tmp_path / "clip.mp4")[""].stamps[1] == 50_000_000
    with pytest.raises(InputError, match="has no topics"):
        read_indexes(tmp_path / "clip.mp4", ["/camera"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_suffix_in_capital_letters_is_the_same_suffix(kind: str, tmp_path: Path) -> None:
    frames = scenes(6)
    file = file_of(write_bag(tmp_path / "drive", kind, camera(kind, frames)))
    file = file.rename(tmp_path / f"DRIVE{file.suffix.upper()}")
    index = read_indexes(file)[TOPIC]
    assert (index.scanned, index.problems) == (False, [])
    times, read = all_frames(file)
    assert times == stamps(6)
    if kind != "sqlite3_zstd":  # compression is told in the folder's metadata only
        assert all(np.array_equal(a, b) for a, b in zip(read, frames, strict=True))


def test_a_folder_of_images_may_hold_a_tool_s_metadata(tmp_path: Path) -> None:
    for number, frame in enumerate(scenes(3)):
        write_image(tmp_path / "folder" / f"{number}.png", frame)
    (tmp_path / "folder" / "metadata.yaml").write_text("camera: left\n")
    assert len(read_indexes(tmp_path / "folder")[""].stamps) == 3
    # a bag stays one, whatever lies beside it, and so does what is left of one
    bag = write_bag(tmp_path / "drive", "mcap", camera("mcap", scenes(3)))
    write_image(bag / "shot.png", scenes(1)[0])
    assert list(read_indexes(bag)) == [TOPIC]
    file_of(bag).unlink()
    (bag / "shot.png").unlink()
    assert is_bag(bag)


# ---------------------------------------------------------------- damage


def test_a_damaged_first_image_is_a_frame_that_cannot_be_decoded(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for number, frame in enumerate(scenes(4)):
        write_image(folder / f"{number}.png", frame)
    for number in (0, 1):
        (folder / f"{number}.png").write_bytes(b"no image")
    read = all_frames(folder, "")[1]
    assert [frame is None for frame in read] == [True, True, False, False]
    for number in (2, 3):
        (folder / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"0\.png: cannot be decoded"):
        read_indexes(folder)


def test_a_frame_says_why_it_cannot_be_decoded_each_time(tmp_path: Path) -> None:
    records = camera("mcap", scenes(5), encoding=".png")
    records[1][3].data = records[1][3].data[:100]
    records[3][3].data = records[3][3].data[:0]
    bag = write_bag(tmp_path / "drive", "mcap", records)
    source = open_source(bag, read_indexes(bag)[TOPIC])
    for number in (1, 3, 1):
        with pytest.raises(InputError, match=rf"drive: frame {number} cannot be decoded: "):
            source.frame(number)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_cut_anywhere_gives_what_can_be_read(kind: str, tmp_path: Path) -> None:
    frames = scenes(150)
    bag = write_bag(tmp_path / "drive", kind, camera(kind, frames))
    whole = file_of(bag).read_bytes()
    rng = random.Random(7)
    counts = []
    for at in [*(rng.randrange(len(whole)) for _ in range(12)), len(whole) - 3, 5, 0]:
        file_of(bag).write_bytes(whole[:at])
        try:
            index = read_indexes(bag)[TOPIC]
        except InputError:
            counts.append((at, 0))
            continue
        source = open_source(bag, index)
        read = [frame for _, frame in source.frames(0, len(source) - 1)]
        assert len(read) == len(source) <= len(frames)
        numbers = [(stamp - rec.START) // rec.STEP for stamp in index.stamps.tolist()]
        assert numbers == sorted(set(numbers))
        if not kind.startswith("sqlite3"):  # pages of a database are not in the order of its rows
            assert numbers == list(range(len(read)))
        assert all(a is None or np.array_equal(a, frames[n]) for n, a in zip(numbers, read))
        assert len(read) == len(frames) or index.problems
        back = dict(source.backwards(len(source) - 1, 0))
        assert len(back) == len(source)
        counts.append((at, len(read)))
    # more bytes, more frames
    assert all(a[1] <= b[1] for a, b in zip(sorted(counts), sorted(counts)[1:]))
    assert max(count for _, count in counts) > 0.6 * len(frames)


@pytest.mark.parametrize("kind", ["mcap", "mcap_zstd", "bag1", "bag1_lz4", "sqlite3"])
def test_bytes_changed_in_the_middle_cost_a_part_only(kind: str, tmp_path: Path) -> None:
    frames = scenes(400)
    bag = write_bag(tmp_path / "drive", kind, camera(kind, frames))
    whole = bytearray(file_of(bag).read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 5000] = random.Random(1).randbytes(5000)
    file_of(bag).write_bytes(bytes(whole))
    index = read_indexes(bag)[TOPIC]
    source = open_source(bag, index)
    numbers = [(stamp - rec.START) // rec.STEP for stamp in index.stamps.tolist()]
    read = [frame for _, frame in source.frames(0, len(source) - 1)]
    same = sum(
        np.array_equal(frame, frames[number])
        for number, frame in zip(numbers, read)
        if frame is not None and 0 <= number < len(frames)
    )
    assert same > 0.5 * len(frames)
    assert numbers[0] == 0
    assert numbers[-1] == len(frames) - 1


@pytest.mark.parametrize("late", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("scan", [False, True])
def test_a_message_from_beyond_all_time_is_damaged(scan: bool, late: int, tmp_path: Path) -> None:
    frames = scenes(4)
    records = camera("mcap", frames)
    records[3] = (*records[3][:2], 1 << 61, records[3][3])
    bag = write_bag(tmp_path / "drive", "mcap", records)
    content = file_of(bag).read_bytes()
    assert content.count((1 << 61).to_bytes(8, "little")) > 1  # of the message, and the summary
    content = content.replace((1 << 61).to_bytes(8, "little"), late.to_bytes(8, "little"))
    file_of(bag).write_bytes(content[:-9] if scan else content)
    index = read_indexes(file_of(bag))[TOPIC]
    assert f"{TOPIC}: 1 messages are damaged" in index.problems
    times, read = all_frames(file_of(bag))
    assert times == stamps(4)[:3]
    assert all(np.array_equal(a, b) for a, b in zip(read, frames[:3], strict=True))


def test_a_damaged_first_chunk_costs_no_other_as_the_summary_names_the_topics(
    tmp_path: Path,
) -> None:
    frames = scenes(150)  # two chunks and a part
    bag = write_bag(tmp_path / "drive", "mcap_zstd", camera("mcap_zstd", frames))
    whole = bytearray(file_of(bag).read_bytes())
    whole[120:160] = bytes(40)  # of the first one's data
    file_of(bag).write_bytes(bytes(whole))
    index = read_indexes(bag)[TOPIC]
    assert 30 < len(index.stamps) < 150
    assert int(index.stamps[-1]) == stamps(150)[-1]
    assert "cannot be unpacked" in " ".join(index.problems)


@pytest.mark.parametrize("kind", ["sqlite3", "mcap", "bag1"])
def test_changed_bytes_anywhere_end_in_frames_or_in_words(kind: str, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "drive", kind, camera(kind, scenes(20)))
    whole = file_of(bag).read_bytes()
    rng = random.Random(11)
    for _ in range(25):
        changed = bytearray(whole)
        for _ in range(rng.choice([1, 3, 20])):
            at = rng.randrange(rng.choice([200, len(changed)]))
            changed[at : at + rng.randrange(30)] = rng.randbytes(rng.randrange(30))
        file_of(bag).write_bytes(bytes(changed))
        try:
            indexes = read_indexes(bag)
        except InputError as error:
            assert "drive" in str(error)  # noqa: PT017
            continue
        for index in indexes.values():
            source = open_source(bag, index)
            assert len(list(source.frames(0, len(source) - 1))) == len(source)
            source.close()


def test_rows_of_a_database_that_go_back_do_not_go_on_for_ever(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "drive", "sqlite3", camera("sqlite3", scenes(5)))
    scanned = damaged.open_damaged(file_of(bag))
    rows = [(n, 1, stamps(5)[n % 5], b"x") for n in (1, 2, 3, 2, 1)]

    class Cycle:
        """A table whose rows lead back to where they were, as damaged pages may."""

        def execute(self, *_: object) -> Iterator[tuple[int, int, int, bytes]]:
            yield from rows
            raise sqlite3.DatabaseError("database disk image is malformed")

        def close(self) -> None:
            pass

    scanned._database = Cycle()  # type: ignore[attr-defined]
    assert len(list(scanned.messages([TOPIC]))) == 3


def test_a_recorder_that_was_killed_leaves_no_metadata(tmp_path: Path) -> None:
    frames = scenes(10)
    bag = write_bag(tmp_path / "drive", "mcap", camera("mcap", frames))
    (bag / "metadata.yaml").unlink()
    times, read = all_frames(bag)
    assert times == stamps(10)
    assert len(read) == 10


def test_split_files_are_one_recording(tmp_path: Path) -> None:
    frames = scenes(10)
    records = camera("mcap", frames)
    folder = tmp_path / "drive"
    folder.mkdir()
    for number, part in enumerate((records[:4], records[4:])):
        bag = write_bag(tmp_path / f"part{number}", "mcap", part)
        shutil.copy(file_of(bag), folder / f"drive_{number}.mcap")
    times, read = all_frames(folder)
    assert times == stamps(10)
    assert all(np.array_equal(a, b) for a, b in zip(read, frames, strict=True))


@pytest.mark.parametrize("suffix", [".mcap", ".db3", ".bag"])
def test_what_is_no_bag_is_refused_in_words(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"drive{suffix}"
    for content in (b"", b"hello", b"\0" * 5000):
        path.write_bytes(content)
        with pytest.raises(InputError, match="drive"):
            read_indexes(path)
    with pytest.raises(InputError, match="no such file"):
        read_indexes(tmp_path / "absent.mcap")


def test_the_scanner_reads_a_whole_bag_as_rosbags_does(tmp_path: Path) -> None:
    for kind in KINDS:
        if kind == "sqlite3_zstd":  # compression is told in the folder's metadata only
            continue
        records = camera(kind, scenes(30)) + camera(kind, scenes(3), "/other")
        records.sort(key=lambda record: record[2])
        bag = write_bag(tmp_path / kind, kind, records)
        healthy, scanned = open_bag(bag), damaged.open_damaged(file_of(bag))
        assert healthy.topics == scanned.topics
        for window in ((None, None), (stamps(30)[4], stamps(30)[9])):
            expected = list(healthy.messages([TOPIC], *window))
            assert [(a, b, bytes(c)) for a, b, c in expected] == list(
                scanned.messages([TOPIC], *window)
            )
        assert scanned.problems == []


def test_sizes_of_the_test_frames() -> None:
    assert scenes(1)[0].shape == (*SIZE, 3)
