"""Prints as JSON what the module of the given name says."""

from __future__ import annotations

import importlib
import json
import sys

values = importlib.import_module(sys.argv[1]).values()
sys.stdout.write(f"\n{json.dumps(values)}\n")  # on a new line, after what imports print
