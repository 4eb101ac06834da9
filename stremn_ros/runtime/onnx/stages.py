"""The stages on ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from stremn_ros.network import Decoded, Query, Seen, SegmentationNetwork
from stremn_ros.runtime.base import TorchStages
from stremn_ros.runtime.onnx.export import checked_files
from stremn_ros.runtime.onnx.library import check_onnxruntime
from stremn_ros.runtime.onnx.sessions import Sessions, planes
from stremn_ros.runtime.tensorrt.graphs import decoded_of
from stremn_ros.runtime.threads import frame_scope


class OnnxStages(TorchStages):
    """Runs a network on ONNX Runtime's CPU provider; see ``base.TorchStages``.

    What is small beside the convolutions (choice of the pair, softmax of the masks) stays in
    PyTorch. For the tensors' memory see ``Sessions``.

    Args:
        network: its heads are used; model: the folder whose export is loaded.
        threads: of ONNX Runtime; 0 takes PyTorch's number.
        files: the stages' files, checked already, where they are not the model's export;
            kind: what they are, for the name; sessions: what runs them.

    Raises:
        RuntimeUnavailableError: onnxruntime cannot be imported.
        ModelError: there is no export of this model, or one that is damaged.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        model: Path,
        threads: int = 0,
        files: Mapping[str, Path] | None = None,
        kind: str = "cpu",
        sessions: type[Sessions] = Sessions,
    ) -> None:
        super().__init__(network, torch.device("cpu"))
        check_onnxruntime()  # before its files: without it nobody wants them
        self._sessions = sessions(files or checked_files(model), threads)
        self.name = f"onnxruntime {self._sessions.version} ({kind})"

    def scope(self) -> AbstractContextManager[None]:
        return frame_scope()

    def encode_query(self, image: Tensor) -> Query:
        return Query(*self._sessions.run("query_encoder", image=planes(image)))

    def encode_memory(self, image: Tensor, masks: Tensor, seen: Seen) -> Tensor:
        maps = {name: getattr(seen, name) for name in self.network.memory_maps}
        (skip,) = self._sessions.run("template_skip", stride16=maps.pop("stride16"))
        if self.network.memory_encoder is not None:
            maps["image"] = planes(image)
        return self._sessions.each("memory_encoder", masks=masks, template_skip=skip, **maps)[0]

    def project(self, template: Tensor, image_key: Tensor) -> tuple[Tensor, Tensor]:
        value, *key = self._sessions.each("heads", template=template)
        return key[0] if key else image_key[:, : self.config.memory_key_channels], value

    def fuse(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        return self._sessions.each("fusion", x_i=x_i, x_j=x_j)[0]

    def compare(self, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        channels = self.config.key_channels
        forward, backward = self._sessions.each(
            "compare", own=own[..., :channels], others=others[..., :channels]
        )
        return forward, backward

    def segment(
        self,
        image: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        previous: Tensor | None,
        hidden: Tensor | None,
    ) -> tuple[Seen, Decoded] | None:
        if keys.shape[1] < self.config.read_cells:
            return None  # a memory so small is read whole, which the graphs do not do
        inputs = self._sessions.memory(keys, values, mask)
        if previous is not None:
            inputs["previous"] = previous
        if hidden is not None:
            inputs["hidden"] = hidden
        if keys.shape[0] == 1:
            key, *rest = self._sessions.run("segment", image=planes(image), **inputs)
            names = self.network.memory_maps
            maps = dict(zip(names, rest[: len(names)], strict=True))
            seen = Seen(key, maps["stride16"], maps.get("stride8"), maps.get("stride4"))
            return seen, decoded_of(self.config, rest[len(names) :])
        query = self.encode_query(image)
        keys, bias = inputs.pop("keys"), inputs.pop("bias")
        maps = {name: getattr(query, name) for name in ("skip16", "skip8", "skip4")}
        readings = _Readings(self._sessions, query.key, keys, bias)
        names = ("weights", "places") if self.config.read_cells else ("weights",)
        reading = {name: _Output(readings, n) for n, name in enumerate(names)}
        results = self._sessions.each("object", **reading, **maps, **inputs)
        return query.seen, decoded_of(self.config, results)


class _Readings:
    """What each object reads of its memory, made once for those whose keys are equal.

    Keys are the frames' own, so objects that are seeded and remembered together have the same.

    Args:
        key: of the frame; keys, bias: of the memory of N objects, [N, M, Ck] and [N or 1, 1, M].
    """

    def __init__(self, sessions: Sessions, key: Tensor, keys: Tensor, bias: Tensor) -> None:
        self._sessions, self._key, self.keys = sessions, key, keys
        self._bias = bias.expand(len(keys), -1, -1)
        self._made: dict[int, list[Tensor]] = {}

    def of(self, row: int) -> list[Tensor]:
        """The outputs of the graph ``affinity`` for an object."""
        keys, bias = self.keys[row], self._bias[row]
        for other, made in self._made.items():
            if torch.equal(self.keys[other], keys) and torch.equal(self._bias[other], bias):
                return made
        made = self._sessions.run("affinity", key=self._key, keys=keys[None], bias=bias[None])
        self._made[row] = made
        return made


class _Output:
    """One output of ``_Readings`` for each object."""

    def __init__(self, readings: _Readings, number: int) -> None:
        self._readings, self._number = readings, number

    def __len__(self) -> int:
        return len(self._readings.keys)

    def __getitem__(self, row: int) -> Tensor:
        return self._readings.of(row)[self._number]
