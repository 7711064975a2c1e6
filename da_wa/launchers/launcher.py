"""What every launcher is: options, and a call that runs workers until they end."""

from __future__ import annotations

from typing import Any, Protocol

from da_wa.errors import ConfigError
from da_wa.launchers.events import Reader
from da_wa.launchers.worker import Launch


class Launcher(Protocol):
    """A place to run workers."""

    @property
    def lease_s(self) -> float:
        """Seconds without a sign of life after which a worker loses its job to another."""

    @property
    def remote(self) -> bool:
        """Whether workers may run on machines with other devices."""

    @property
    def queues(self) -> bool:
        """Whether workers wait in a queue; then ``deadline_s`` counts from the start of each."""

    def __call__(self, launch: Launch) -> None:
        """Start workers, each of which calls :func:`~da_wa.launchers.worker.run_worker`, and wait until they end.

        Raises:
            UserError: the workers cannot be started, or all ended before the jobs were done.
        """


def check_options(launcher: Any) -> None:
    """Check ``workers``, ``threads``, ``deadline_s`` and ``lease_s`` of a launcher.

    Raises:
        ConfigError: one has no valid value.
    """
    for name in ("workers", "threads"):
        value = getattr(launcher, name, "auto")
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"launcher.{name} is {value!r}; it must be `auto` or a whole number, 1 or more")
    deadline = launcher.deadline_s
    if deadline is not None and not (_is_number(deadline) and deadline >= 0):
        raise ConfigError(f"launcher.deadline_s is {deadline!r}; it must be null or a number of seconds")
    if not (_is_number(launcher.lease_s) and launcher.lease_s > 0):
        raise ConfigError(f"launcher.lease_s is {launcher.lease_s!r}; it must be a number of seconds, more than 0")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def ended_in_time(launch: Launch) -> bool:
    """Whether a worker ended on its own: it found nothing left to do, or reached its deadline."""
    return any(event.kind == "end" and event.launch == launch.id for event in Reader(launch.out).read())
