"""``python -m da_wa`` is the command ``da-wa``."""

import sys

from da_wa.cli import main

if __name__ == "__main__":
    sys.exit(main())
