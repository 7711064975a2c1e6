"""Events: what the workers of an experiment do, as JSON lines in ``out/events/<host>-<pid>.jsonl``.

Every worker appends to its own file; progress, status and ``da-wa watch`` read all of them, from any machine. Results
do not depend on events: a lost line changes only what is shown.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

READ_EVERY_S = 0.2

Kind = Literal["start", "epoch", "done", "failed", "dropped", "lost", "end"]


@dataclass(frozen=True)
class Event:
    """Something a worker did.

    Attributes:
        kind: ``start`` of a job, end of an ``epoch``, ``done``, ``failed``, ``dropped`` (the job was interrupted or
            taken by another worker); ``lost``: the worker cannot continue; ``end``: it has no more to do, or no time.
        job: the job's id.
        epoch: epochs done, of ``epochs``.
        message: why it failed.
        time: seconds since 1970 by the clock of the worker.
        worker: host and process number.
        launch: id of the command that started the worker.
        log: file with the output of the worker, if it has one of its own.
    """

    kind: Kind
    job: str
    epoch: int = 0
    epochs: int = 0
    message: str = ""
    time: float = 0.0
    worker: str = ""
    launch: str = ""
    log: str = ""


Emit = Callable[[Event], None]

_KNOWN = {field.name for field in fields(Event)}


def folder(out: Path) -> Path:
    """The folder of the event files."""
    return out / "events"


def writer(out: Path, launch: str, log: str = "") -> Emit:
    """A function that appends events of this process to its file."""
    worker = f"{socket.gethostname()}-{os.getpid()}"
    path = folder(out) / f"{worker}.jsonl"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)

    def emit(event: Event) -> None:
        full = replace(event, time=time.time(), worker=worker, launch=launch, log=log)
        row = {key: value for key, value in asdict(full).items() if value or key == "job"}
        with suppress(OSError), path.open("ab", buffering=0) as file:  # a full disk must not stop the worker here
            file.write((json.dumps(row) + "\n").encode())

    return emit


class Reader:
    """Reads the events of an ``out`` folder in pieces.

    Args:
        out: the folder of the experiment.
        new: leave out the events that are there already.
    """

    def __init__(self, out: Path, new: bool = False) -> None:
        self._folder = folder(out)
        self._read: dict[Path, int] = {}
        if new:
            for path in self._files():
                with suppress(OSError):
                    self._read[path] = path.stat().st_size

    def read(self) -> list[Event]:
        """Events since the last call; those of a worker are in order."""
        found: list[Event] = []
        for path in self._files():
            found += self._read_file(path)
        return sorted(found, key=lambda event: event.time)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))

    def _read_file(self, path: Path) -> Iterator[Event]:
        start = self._read.get(path, 0)
        try:
            if path.stat().st_size == start:
                return
            with path.open("rb") as file:
                file.seek(start)
                content = file.read()
        except OSError:
            return
        whole = content[: content.rfind(b"\n") + 1]  # the last line may be half written
        self._read[path] = start + len(whole)
        for line in whole.splitlines():
            with suppress(ValueError, TypeError, AttributeError):
                row: dict[str, Any] = json.loads(line)
                yield Event(**{key: value for key, value in row.items() if key in _KNOWN})


@contextmanager
def following(out: Path, emit: Emit) -> Iterator[None]:
    """Call ``emit`` with new events of all workers, until the end of the block."""
    reader, ended = Reader(out, new=True), threading.Event()

    def follow() -> None:
        while not ended.wait(READ_EVERY_S):
            for event in reader.read():
                emit(event)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for event in reader.read():
            emit(event)
