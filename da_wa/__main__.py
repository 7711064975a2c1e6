"""The entry point: ``da-wa`` and ``python -m da_wa``."""

import sys

try:
    from da_wa.cli import main
except KeyboardInterrupt:  # imports take seconds on a cold disk
    print("\nInterrupted.", file=sys.stderr)
    sys.exit(130)

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
