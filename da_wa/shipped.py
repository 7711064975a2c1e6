"""Folders of files that come with the package: options and pre-trained networks."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKPOINTS = PACKAGE / "checkpoints"
"""Pre-trained networks."""


def conf_dir() -> Path:
    """The folder of ``config.yaml`` and the groups: ``conf/`` of a checkout, ``da_wa/conf/`` of a wheel.

    >>> (conf_dir() / "norm" / "bn_wa.yaml").is_file()
    True
    """
    packed = PACKAGE / "conf"
    return packed if packed.is_dir() else PACKAGE.parent / "conf"
