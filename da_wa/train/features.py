"""Features of a frozen network, computed once and kept in the cache.

``<key>.npy`` holds the features of one domain, (n, d) float32, and after them their checksum. The key is a hash of
everything that they depend on: pixels, weights, what is declared of the network, and the arithmetic. Files are written
atomically, verified when they are read, and can be deleted at any time. Processes that need the same features share
the work: each computes domains that no other one is computing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from da_wa.data.augment import Normalize, View
from da_wa.data.cache import DecodedDomain
from da_wa.data.datamodule import DomainDataModule, Subset
from da_wa.data.loader import Batch
from da_wa.errors import DataError, printable
from da_wa.models.backbone import Backbone
from da_wa.models.checkpoint import HEAD
from da_wa.records.files import locked, write_atomically
from da_wa.train.engine import device_name, engine, interruptible
from da_wa.train.settings import Settings

logger = logging.getLogger(__name__)

VERSION = 1
"""Counts up whenever the same network gives other features than before."""

_CHECKSUM = 4  # bytes
_ADVICE = "Make room there or set another folder with cache_dir=PATH, then rerun the command."


@dataclass(frozen=True)
class Extractor:
    """Computes features of whole domains, or reads them from the cache.

    Args:
        model: the network; its head plays no part.
        view: how images are shown to it.
        normalize: uint8 batch -> float32 batch.
        settings: resolved and applied to ``model``.
        folder: the cache.
        facts: what the network is, beside its weights: plain values.
    """

    model: Backbone
    view: View
    normalize: Normalize
    settings: Settings
    folder: Path
    facts: Mapping[str, Any]

    def __call__(self, domains: Sequence[DecodedDomain]) -> tuple[dict[str, np.ndarray], int]:
        """Features of every image without augmentation, in evaluation mode.

        Returns:
            By domain (n, d) float32, mapped from the cache; and the number of images computed now.

        Raises:
            DataError: the cache cannot be written, or a feature is not a finite number.
        """
        found: dict[str, np.ndarray] = {}
        computed = 0
        network = _weights(self.model)
        paths = {domain.name: self.folder / f"{self._key(network, domain)}.npy" for domain in domains}
        for patience in (0, -1):  # first what no other process is computing, then what one is
            for domain in (domain for domain in domains if domain.name not in found):
                path = paths[domain.name]
                with locked(path, patience, _ADVICE) as mine:
                    if not mine:
                        continue
                    if (known := _read(path, len(domain))) is None:
                        known = self._compute(domain)
                        _write(path, known)
                        computed += len(domain)
                        if (mapped := _read(path, len(domain))) is not None:  # else just deleted by someone
                            known = mapped
                    found[domain.name] = known
        return found, computed

    def shape(self, domain: DecodedDomain) -> tuple[int, int, int]:
        """Of an image as the network sees it: channels, height, width."""
        channels, _, stored = domain.pixels.shape[1:]
        side = self.view.side(stored)
        return channels, side, side

    def _key(self, network: str, domain: DecodedDomain) -> str:
        facts = {
            "version": VERSION,
            "pixels": _digest({"": domain.pixels}),
            "weights": network,
            "view": repr(self.view),
            "normalize": asdict(self.normalize),
            "arithmetic": [
                torch.__version__,
                device_name(self.settings.accelerator),
                None if self.settings.accelerator == "gpu" else torch.get_num_threads(),
                self.settings.precision,
                self.settings.channels_last,
            ],
            **self.facts,
        }
        return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()

    def _compute(self, domain: DecodedDomain) -> np.ndarray:
        whole = Subset(domain, np.arange(len(domain)))
        data = DomainDataModule(
            whole,
            [whole],
            seed=0,
            batch_size=1,
            augment=self.view.plain,
            plain=self.view.plain,
            normalize=self.normalize,
            resident_gb=self.settings.resident_gb,
        )
        with interruptible():
            batches: Any = engine(self.settings, logger=False, enable_checkpointing=False).predict(
                _Frozen(self.model), data
            )
        features: np.ndarray = torch.cat(batches).float().cpu().numpy()
        if not np.isfinite(features).all():
            raise DataError(
                f"{printable(domain.name)}: the network gives features that are not finite numbers. "
                "Check the weights, or set trainer.precision=32-true."
            )
        return features


class _Frozen(pl.LightningModule):
    """Images (n, 3, h, w) -> features (n, d)."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.model = model

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.model.features(batch[0])


def _write(path: Path, features: np.ndarray) -> None:
    def write(file: Any) -> None:
        np.lib.format.write_array(file, features, allow_pickle=False)
        file.write(_checksum(features))

    write_atomically(path, write, _ADVICE)


def _read(path: Path, n: int) -> np.ndarray | None:
    """The verified features; ``None`` if there are none, or not exactly what was written."""
    try:
        features = np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as file:
            file.seek(-_CHECKSUM, os.SEEK_END)
            checksum = file.read()
        plain = features.dtype == np.float32 and features.flags.c_contiguous and features.shape[:-1] == (n,)
        sound = plain and _checksum(features) == checksum
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError):
        sound = False
    if not sound:
        logger.warning("%s is damaged; its features are computed again.", printable(path))
        return None
    return features


def _checksum(features: np.ndarray) -> bytes:
    return zlib.crc32(features.data).to_bytes(_CHECKSUM, "big")


def _weights(model: nn.Module) -> str:
    """A digest of everything but the head."""
    return _digest({k: _bytes(v) for k, v in sorted(model.state_dict().items()) if not k.startswith(HEAD)})


def _bytes(tensor: Tensor) -> np.ndarray:
    plain: np.ndarray = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return plain


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for name, array in arrays.items():
        found.update(f"{name} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
