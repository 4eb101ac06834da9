"""`python -m stremn_ros.cli`."""

import sys

from stremn_ros.cli import main

if __name__ == "__main__":
    sys.exit(main())
