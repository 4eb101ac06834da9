"""What a segmenter remembers, as one file: safetensors with a JSON header, written atomically.

The file holds numbers and text only (no pickle). A digest over both is checked when it is read,
so a file that was cut short or changed is refused instead of followed.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from stremn_ros.errors import CapacityError, InputError, ModelError
from stremn_ros.files import NewFile
from stremn_ros.imaging.checks import LONGEST_NAME
from stremn_ros.imaging.sizes import shape_text, size_is_possible
from stremn_ros.model_folder import SCORER_PREFIX
from stremn_ros.network import SegmentationNetwork
from stremn_ros.options import SegmenterOptions
from stremn_ros.results import MAX_ID

FORMAT = 1
KEY = "stremn_snapshot"  # of the header among the metadata of the safetensors file


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The memory of a segmenter at one moment.

    Attributes:
        model: fingerprint of the network that wrote the memory.
        slots, update_rule: of the memory. processing_size: (rows, columns), None before a seed.
        ids: in the order of the memory's rows; unseen: for each, frames since it was last seen.
        remembered: frames remembered so far.
        names: of the objects, as the caller calls them. saved: when, in seconds since 1970.
        tensors: ``SlotMemory.state``.
    """

    model: str
    slots: int
    update_rule: str
    processing_size: tuple[int, int] | None
    ids: list[int]
    unseen: list[int]
    remembered: int
    tensors: Mapping[str, Tensor]
    names: Mapping[int, str] = field(default_factory=dict)
    saved: float = 0.0

    def write(self, path: str | os.PathLike[str]) -> int:
        """Writes the file; it is there whole or, after an error or a power cut, as it was before.

        Returns:
            Its bytes.

        Raises:
            InputError: it cannot be written (no such folder, no permission, disk full).
        """
        target = Path(path)
        header = {
            "format": FORMAT,
            "model": self.model,
            "slots": self.slots,
            "update_rule": self.update_rule,
            "processing_size": self.processing_size and list(self.processing_size),
            "ids": list(self.ids),
            "unseen": list(self.unseen),
            "remembered": self.remembered,
            "names": {str(object_id): name for object_id, name in self.names.items()},
            "saved": self.saved or time.time(),
        }
        header["digest"] = _digest(header, self.tensors)
        data = to_bytes(dict(self.tensors), metadata={KEY: json.dumps(header)})
        try:
            with NewFile(target, durable=True) as temporary:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                with os.fdopen(os.open(temporary, flags, 0o644), "wb") as file:
                    file.write(data)
        except (OSError, ValueError) as error:  # ValueError: no name of a file
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"the snapshot cannot be written to {str(target)!r}: {reason}; what was there "
                "before is unchanged"
            ) from None
        return len(data)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Reads a file and checks that it is whole and of this format.

        Raises:
            InputError: no such file, one that cannot be read, is damaged, or of another format; the
                message says which.
        """
        path = Path(path)
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise InputError(f"{path} is not a file")
            # at once: `safe_open` opens a file by its name twice, and a node may put a new one
            # there in between
            data = path.read_bytes()
            tensors = from_bytes(data)
            length = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
            if KEY not in metadata:
                raise InputError(f"{path} is a safetensors file, but not a snapshot of a memory")
            header = json.loads(metadata[KEY])
            if not isinstance(header, dict):
                raise InputError(f"{path} is damaged: its header is not a mapping")
            if header.get("format") != FORMAT:
                raise InputError(
                    f"{path} is a snapshot of format {header.get('format')!r}; this version "
                    f"reads format {FORMAT}: save it again"
                )
        except FileNotFoundError:
            raise InputError(f"there is no snapshot {path}") from None
        except MemoryError:
            raise InputError(f"{path} is too large for this machine's memory") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
        # its KeyError: a type of numbers that PyTorch has not
        except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is damaged or not a snapshot: {error}") from None
        digest = header.pop("digest", None)
        if digest != _digest(header, tensors):
            raise InputError(f"{path} is damaged: its content does not have the digest it names")
        try:
            return cls._of(header, tensors)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{path} is damaged: its header is not valid ({type(error).__name__}: {error})"
            ) from None

    def check(self, model: str, options: SegmenterOptions) -> None:
        """Whether a segmenter can go on from it.

        Args:
            model: the fingerprint of its network. options: those of the segmenter.

        Raises:
            ModelError: the memory of another network.
            CapacityError: more objects than max_objects.
            InputError: other slots or another processing size.
        """
        if self.model != model:
            raise ModelError(
                f"the snapshot is of a network with the fingerprint {self.model[:12]}, this "
                f"one has {model[:12]}: load the model that it was saved with"
            )
        if self.slots != options.slots:
            raise InputError(
                f"the snapshot has {self.slots} slots for each object, this segmenter "
                f"{options.slots}: load the model with slots={self.slots}"
            )
        if len(self.ids) > options.max_objects:
            raise CapacityError(
                f"the snapshot has {len(self.ids)} objects, but max_objects is "
                f"{options.max_objects}: load the model with max_objects={len(self.ids)} or more"
            )
        size = self.processing_size
        if size is not None and not size_is_possible(size, options.processing_size):
            raise InputError(
                f"the snapshot was made at a processing size of {shape_text(size)}, this segmenter "
                f"works at {options.processing_size}: load the model with "
                f"processing_size={min(size)}, or with {size}"
            )

    @classmethod
    def _of(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Snapshot:
        """ValueError, TypeError or KeyError for what no segmenter would have written."""
        ids = [int(value) for value in header["ids"]]
        unseen = [int(value) for value in header["unseen"]]
        remembered = int(header["remembered"])
        # earlier versions knew no longest name
        names = {int(key): str(name)[:LONGEST_NAME] for key, name in header["names"].items()}
        size = header["processing_size"]
        if size is not None:
            rows, columns = (int(side) for side in size)
            size = (rows, columns)
        if len(set(ids)) != len(ids) or not all(1 <= value <= MAX_ID for value in ids):
            raise ValueError(f"ids {ids}")
        if len(unseen) != len(ids) or min([remembered, *unseen]) < 0:
            raise ValueError(f"counts {unseen}, {remembered}")
        if ids and size is None:
            raise ValueError("objects without a processing size")
        return cls(
            model=str(header["model"]),
            slots=int(header["slots"]),
            update_rule=str(header["update_rule"]),
            processing_size=size,
            ids=ids,
            unseen=unseen,
            remembered=remembered,
            tensors=tensors,
            names=names,
            saved=float(header["saved"]),
        )


def fingerprint(network: SegmentationNetwork) -> str:
    """SHA-256 over an architecture and its weights, as hexadecimal digits; takes a moment.

    Without the scorer, and without how many cells are read: they make nothing that is remembered.
    """
    weights = network.state_dict()
    used = {name: weights[name] for name in weights if not name.startswith(SCORER_PREFIX)}
    config = network.config.to_mapping()
    del config["read_cells"]
    return _digest({"config": config}, used)


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    made = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        part = tensors[name].detach().to("cpu").contiguous()
        made.update(f"\n{name} {part.dtype} {list(part.shape)}\n".encode())
        made.update(part.reshape(-1).view(torch.uint8).numpy().data)
    return made.hexdigest()
