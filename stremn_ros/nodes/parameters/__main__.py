"""`python -m stremn_ros.nodes.parameters > docs/parameters.md` writes the page."""

import sys

from stremn_ros.files import printing
from stremn_ros.nodes.parameters.docs import markdown

with printing():
    sys.stdout.write(markdown())
