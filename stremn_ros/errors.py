"""Errors of the library: each message says what was wrong and what would be right."""

from __future__ import annotations


class StremnError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(StremnError, ValueError):
    """A frame, mask or argument that cannot be used as it is."""


class UnknownObjectError(StremnError, KeyError):
    """An object id that is not tracked."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class CapacityError(StremnError):
    """More objects than the memory was made for."""


class ModelError(StremnError):
    """A model folder that is missing, incomplete, damaged or of another architecture."""


class RuntimeUnavailableError(StremnError):
    """A runtime or device that was asked for and is not there."""
