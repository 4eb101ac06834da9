"""Old names of public modules, which go on for one release with a warning."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from types import CodeType, ModuleType

MOVED = {
    "stremn_ros.mask_reading": "stremn_ros.imaging.mask_reading",
    "stremn_ros.masks": "stremn_ros.imaging.masks",
    "stremn_ros.memory.snapshot": "stremn_ros.snapshot",
    "stremn_ros.motion": "stremn_ros.imaging.motion",
    "stremn_ros.nodes.bring_up": "stremn_ros.client.bring_up",
    "stremn_ros.nodes.image_codec": "stremn_ros.messages.image_codec",
    "stremn_ros.nodes.launching": "stremn_ros.client.launching",
    "stremn_ros.nodes.peer": "stremn_ros.client.peer",
    "stremn_ros.nodes.process": "stremn_ros.client.node_process",
    "stremn_ros.nodes.segment_client": "stremn_ros.client.segment_client",
    "stremn_ros.runtime.models": "stremn_ros.model_folder",
    "stremn_ros.runtime.prediction_models": "stremn_ros.model_folder",
    "stremn_ros.seeding": "stremn_ros.imaging.seeding",
    "stremn_ros.sizes": "stremn_ros.imaging.sizes",
    "stremn_ros.video": "stremn_ros.imaging.video",
    "stremn_ros.visualization": "stremn_ros.imaging.visualization",
}


class _MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the module at its new place and gives it under the old name, too."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(
            f"{spec.name} is now {new}; the old name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def get_code(self, fullname: str) -> CodeType | None:
        """For ``python -m`` with the old name."""
        spec = importlib.util.find_spec(MOVED[fullname])
        loader = spec.loader if spec is not None else None
        if not isinstance(loader, importlib.abc.InspectLoader):
            return None
        return loader.get_code(MOVED[fullname])

    def exec_module(self, module: ModuleType) -> None:
        """The module was run under its new name; it keeps the specification of that one."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Makes the old names importable; after all other ways to find a module."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
