"""`python -m stremn_ros.nodes.parameters > docs/parameters.md` writes the page."""

import sys

from stremn_ros.nodes.parameters.docs import markdown

sys.stdout.write(markdown())
