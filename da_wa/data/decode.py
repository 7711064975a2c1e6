"""Decode a set of images into one ``.npy`` file, in threads and in order, with memory for a few images only."""

from __future__ import annotations

import os
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from da_wa.data.files import sync
from da_wa.data.images import Images, Progress
from da_wa.errors import DataError

T = TypeVar("T")
R = TypeVar("R")

_BLOCK = 16  # images that one thread decodes at a time


def decode_to(path: Path, images: Images, size: int, progress: Progress | None = None) -> tuple[dict[int, str], int]:
    """Write the pixels of all images that can be decoded: (n, 3, size, size) uint8.

    Interrupted (Ctrl-C or any other exception), every thread ends after the image it is decoding.

    Args:
        path: the file to write. It is written, not mapped: a full disk raises.
        images: the images.
        size: side length in pixels.
        progress: called after every few images.

    Returns:
        The bad images (index: reason), and the CRC-32 of the pixels.

    Raises:
        OSError: the file cannot be written.
    """
    bad: dict[int, str] = {}
    checksum, n, workers = 0, len(images), os.cpu_count() or 1
    stop = threading.Event()

    def decode(block: range) -> tuple[bytes, dict[int, str]]:
        pixels, refused = [], {}
        for index in block:
            if stop.is_set():
                break
            try:
                pixels.append(images.decode(index, size).tobytes())
            except DataError as error:
                refused[index] = str(error)
        return b"".join(pixels), refused

    with open(path, "wb") as file:
        _write_header(file, n, size)
        pool = ThreadPoolExecutor(workers)
        try:
            blocks = (range(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK))
            for block, (pixels, refused) in _in_order(pool, decode, blocks, ahead=2 * workers):
                file.write(pixels)
                checksum = zlib.crc32(pixels, checksum)
                bad |= refused
                if progress is not None:
                    progress(block.stop, n)
        finally:  # otherwise an interrupt would wait for every block that is queued
            stop.set()
            pool.shutdown(cancel_futures=True)
        file.seek(0)
        _write_header(file, n - len(bad), size)
        sync(file)
    return bad, checksum


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[tuple[T, R]]:
    """Items and results in order, computed at most ``ahead`` items early (``pool.map`` would hold them all)."""
    pending: deque[tuple[T, Future[R]]] = deque()
    for item in items:
        pending.append((item, pool.submit(function, item)))
        if len(pending) > ahead:
            done, future = pending.popleft()
            yield done, future.result()
    for done, future in pending:
        yield done, future.result()


def _write_header(file: BinaryIO, n: int, size: int) -> None:
    """The header of an ``.npy`` file; its length does not depend on ``n``."""
    shape = (n, 3, size, size)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
