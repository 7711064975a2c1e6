"""``python -m da_wa.report OUT``: write the report of ``OUT``, like ``da-wa report``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from da_wa.errors import UserError
from da_wa.report import SPREADS, write_report


def main() -> int:
    """Write the report and print its table; 1 and a message if it cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m da_wa.report", description="Write tables and figures again.")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder that was out=DIR of the command")
    parser.add_argument(
        "--compare", type=Path, nargs="+", default=[], metavar="DIR", help="folders of experiments to compare with"
    )
    parser.add_argument("--spread", choices=SPREADS, default="interval", help="what stands after ± (default: interval)")
    given = parser.parse_args()
    try:
        report = write_report(
            given.out, compare=given.compare, spread=given.spread, progress=lambda phase: print(phase, file=sys.stderr)
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(report.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())
