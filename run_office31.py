"""Compare norms on every source-target pair; see ``python run_office31.py --help``."""

import sys

from da_wa.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
