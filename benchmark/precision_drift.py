"""Do rounding errors pile up in a memory that is fused again and again?

    python benchmark/precision_drift.py --davis DAVIS --updates 10000 --json OUT.json --plot OUT.png

Templates of real frames (with their true masks) go into several memories at once, in random order:
one in float64 throughout, the others rounded. All fuse the pairs that the float64 memory chooses,
so that only the rounding differs; how often each would have chosen another pair is counted beside
it. Reported is the relative L2 difference of the slots that were fused, against the updates.

    storage fp16    templates, keys and values are kept in fp16, the Fusion Cell computes in fp32
    compute fp16    the Fusion Cell too: inputs, weights and results of every operation rounded to
                    fp16, sums in fp32, which is what a GPU's tensor cores do under autocast
    bf16            the same two with bfloat16
    fp32            all in fp32

On a GPU (--device cuda) "compute" really runs in that type.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stremn_ros.errors import StremnError
from stremn_ros.evaluation.bench import scene
from stremn_ros.evaluation.davis_data import open_davis
from stremn_ros.evaluation.plotting import new_figure, save_figure
from stremn_ros.files import write_json
from stremn_ros.imaging.video import read_image
from stremn_ros.memory import FusionCell, SlotMemory
from stremn_ros.model_folder import find_model, load_network
from stremn_ros.segmenter import Segmenter

SHORT = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
}


class Rounded(nn.Module):
    """A Fusion Cell with the inputs, weights and results of its operations rounded to a type."""

    def __init__(self, cell: FusionCell, dtype: torch.dtype) -> None:
        super().__init__()
        self.cell, self.dtype = copy.deepcopy(cell).float(), dtype
        with torch.no_grad():
            for parameter in self.cell.parameters():
                parameter.copy_(self.round(parameter))

    def round(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).float()

    def align(self, a: Tensor, b: Tensor) -> Tensor:
        """Eq. 3 as fused attention does it: softmax inside in fp32, its weights rounded."""
        a, b = a.flatten(2).transpose(1, 2), b.flatten(2).transpose(1, 2)
        weights = self.round((a @ b.transpose(1, 2) / a.shape[-1] ** 0.5).softmax(dim=-1))
        return self.round(weights @ b)

    def forward(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        r, cell = self.round, self.cell
        x_i, x_j = r(x_i), r(x_j)
        j_at_i = self.align(x_i, x_j).transpose(1, 2).reshape_as(x_i)
        kept = r(torch.sigmoid(r(cell.filter_gate(torch.cat([x_i, j_at_i], dim=1)))))
        source = r(kept * x_i) if cell.filtered else x_i
        i_at_j = self.align(x_j, source).transpose(1, 2).reshape_as(x_j)
        both = torch.cat([i_at_j, x_j], dim=1)
        update = r(torch.sigmoid(r(cell.update_gate(both))))
        new = r(torch.tanh(r(cell.candidate(both))))
        return r(r((1.0 - update) * x_j) + r(update * new))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--davis", help="folder of DAVIS; without it the frames are drawn")
    parser.add_argument("--sequences", default="bear,boat,hike,motorbike,swing,mallard-water")
    parser.add_argument("--model", default="segment_lite0")
    parser.add_argument("--slots", type=int, default=5)
    parser.add_argument("--rule", default="least_similar")
    parser.add_argument("--rows", type=int, default=64, help="rows the network works at")
    parser.add_argument("--templates", type=int, default=120, help="different frames")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args(arguments)


def templates(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Templates [n, C, h, w] and image keys [n, Ck, h, w] of frames with their true masks."""
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    if options.davis is None:
        pairs = list(zip(*scene(1, (120, 160), options.templates)))
    else:
        names = [name.strip() for name in options.sequences.split(",")]
        dataset = open_davis(options.davis, "all", sequences=names)
        share = -(-options.templates // len(dataset.sequences))
        for sequence in dataset.sequences:
            known = [
                (path, labels)
                for path, labels in zip(sequence.images, sequence.truth().labels)
                if labels is not None and labels.any()
            ]
            step = max(1, len(known) // share)
            pairs += [(read_image(path), labels) for path, labels in known[::step][:share]]
    segmenter = Segmenter.load(
        options.model,
        device=options.device,
        runtime="torch",
        max_objects=1,
        processing_size=(options.rows, options.rows * 3 // 2),
    )
    made, keys = [], []
    for frame, labels in pairs[: options.templates]:
        segmenter.seed(frame, (labels > 0).astype(np.uint8), replace=True)
        memory = segmenter.memory
        made.append(memory.templates[0, 0].clone())
        _, height, width = memory.template_shape
        keys.append(memory.keys[0, 0].T.unflatten(1, (height, width)).clone())
    return torch.stack(made), torch.stack(keys)


def banks(options: argparse.Namespace, shape: tuple[int, int, int]) -> dict[str, SlotMemory]:
    """The memories to compare, by name; the first is the reference."""
    network, _ = load_network(find_model(options.model))
    config = network.config

    def computing(dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
        cell: nn.Module
        if dtype in (torch.float64, torch.float32):
            cell = copy.deepcopy(network.fusion).to(dtype)
            return lambda x_i, x_j: cell(x_i.to(dtype), x_j.to(dtype))
        if options.device.startswith("cuda"):
            cell = copy.deepcopy(network.fusion).to(options.device, dtype)
            return lambda x_i, x_j: cell(x_i.to(dtype), x_j.to(dtype))
        cell = Rounded(network.fusion, dtype)
        return lambda x_i, x_j: cell(x_i.float(), x_j.float())

    def project(template: Tensor, image_key: Tensor) -> tuple[Tensor, Tensor]:
        head = template.float()
        return network.memory_key(head, image_key), network.memory_value(head)

    def bank(storage: torch.dtype, compute: torch.dtype) -> SlotMemory:
        return SlotMemory(
            1,
            options.slots,
            shape,
            config.key_channels,
            config.value_channels,
            fuse=computing(compute),
            project=project,
            rule=options.rule,
            device=options.device,
            dtype=storage,
        )

    network.to(options.device)
    found = {"fp64": bank(torch.float64, torch.float64), "fp32": bank(torch.float32, torch.float32)}
    for dtype in (torch.float16, torch.bfloat16):
        name = SHORT[dtype]
        found[f"storage {name}, compute fp32"] = bank(dtype, torch.float32)
        found[f"storage and compute {name}"] = bank(dtype, dtype)
    return found


@torch.no_grad()
def measure(options: argparse.Namespace) -> dict[str, object]:
    """Relative differences of fused slots: name -> [updates, difference] along the run."""
    made, keys = templates(options)
    rng = np.random.default_rng(0)
    found = banks(options, tuple(made.shape[1:]))
    reference = found["fp64"]
    first = int(rng.integers(len(made)))
    for bank in found.values():
        bank.seed(1, made[first], keys[first])
    series: dict[str, list[tuple[int, float]]] = {name: [] for name in found if name != "fp64"}
    other = dict.fromkeys(series, 0)
    chances = 0
    for number in range(1, options.updates + 1):
        index = int(rng.integers(len(made)))
        new, key = made[index][None], keys[index][None]
        table = reference.similarity.copy()
        full = reference.used(1) == options.slots
        chances += full
        reference.remember([1], new, key)
        chosen = reference.last_update[1].pairs
        for name in series:
            bank = found[name]
            if full:
                unlocked = bank.order(1)[1:]
                own = bank.similarity[0][np.ix_(unlocked, unlocked)]
                would = [(unlocked[i], unlocked[j]) for i, j in bank._rule.choose(own)]
                other[name] += tuple(would) != chosen
            # the choice is the reference's, whatever this one would have chosen
            mine = bank.similarity.copy()
            bank.similarity[:] = table
            bank.remember([1], new, key)
            slot = bank.last_update[1].slot
            assert bank.last_update[1].pairs == chosen
            row, column = bank.similarity[0, slot].copy(), bank.similarity[0, :, slot].copy()
            bank.similarity[:] = mine
            bank.similarity[0, slot], bank.similarity[0, :, slot] = row, column
        if number % max(1, options.updates // 200) == 0:
            fused = np.flatnonzero(reference.fusions[0] > 0)
            for name, points in series.items():
                if len(fused):
                    true = reference.templates[0, fused].double()
                    off = found[name].templates[0, fused].double() - true
                    points.append((number, float(off.norm() / true.norm())))
        if number % 100 == 0:
            print(f"\r{number} of {options.updates}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    half = options.updates // 2
    return {
        "updates": options.updates,
        "fusions": chances,
        "slots": options.slots,
        "rule": options.rule,
        "model": Path(options.model).name,
        "templates": len(made),
        "device": options.device,
        "memories": {
            name: {
                "bytes": found[name].nbytes,
                "relative_difference_first_half": float(
                    np.median([d for n, d in points if n <= half])
                ),
                "relative_difference_second_half": float(
                    np.median([d for n, d in points if n > half])
                ),
                "largest": float(max(d for _, d in points)),
                "other_choices_percent": round(100 * other[name] / max(1, chances), 3),
                "finite": bool(torch.isfinite(found[name].templates).all()),
                "series": points,
            }
            for name, points in series.items()
        },
    }


def plot(values: dict, path: Path) -> None:
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    for name, found in values["memories"].items():
        at, off = zip(*found["series"])
        axes.semilogy(at, off, label=name, linewidth=1.3)
    axes.set_xlabel("updates of the memory")
    axes.set_ylabel("relative difference of the fused slots from fp64")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.set_title(f"{values['model']}, {values['slots']} slots, {values['rule']}")
    save_figure(figure, path)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        values = measure(options)
    except StremnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        "memory                          first half   second half   largest   other choices   bytes"
    )
    for name, found in values["memories"].items():  # type: ignore[attr-defined]
        print(
            f"{name:30}  {found['relative_difference_first_half']:10.2e}  "
            f"{found['relative_difference_second_half']:12.2e}  {found['largest']:8.2e}  "
            f"{found['other_choices_percent']:11.2f} %  {found['bytes']}"
        )
    if options.json is not None:
        write_json(options.json, values)
    if options.plot is not None:
        plot(values, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
