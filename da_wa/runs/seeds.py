"""``seeds=auto``: which seeds are needed, from the results so far.

After every seed each comparison is tested (anytime-valid, see :mod:`da_wa.select.anytime`). Only open comparisons get
another seed, all of them the same one. What is needed depends on results alone, so an interrupted command, or several
commands on one folder, run the same seeds and decide the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from da_wa.errors import ConfigError
from da_wa.records.contrasts import Cell, Contrast, Pair, by_seed, of_interest
from da_wa.records.schema import Record
from da_wa.runs.jobs import Diverged, Job, UnitJob
from da_wa.select.anytime import decided_after, first_look

FACTORS = ("norm", "weight", "activation", "method", "method_weight", "model")


@dataclass(frozen=True)
class Standing:
    """What is known of one comparison.

    Attributes:
        contrast: of two rows.
        differences: of the seeds whose runs all finished, in points, in the order of seeds.
        seen: how many of the first seeds have ended, diverged ones included.
        after: after how many differences it was decided; ``None``: open.
    """

    contrast: Contrast
    differences: Sequence[float]
    seen: int
    after: int | None


def needed(jobs: Sequence[Job], wanted: Sequence[str] | None = None) -> list[Job]:
    """The jobs of the seeds that comparisons need so far, finished ones included, and jobs that these start from.

    Args:
        jobs: of all seeds that are allowed.
        wanted: see :func:`da_wa.records.contrasts.of_interest`.

    Raises:
        ConfigError: there is nothing to compare.
    """
    units = [job for job in jobs if isinstance(job, UnitJob)]
    seeds = sorted({job.unit.factors.seed for job in units})
    found = standings(units, wanted)
    if not found:
        raise ConfigError(
            "seeds=auto needs two rows to compare, such as norms=[bn,bn_wa], or other report.contrasts. "
            "Give a list of seeds instead, e.g. seeds=[0,1,2]."
        )
    first = first_look(len(found))
    by_id = {job.id: job for job in jobs}
    never = {_label(job) for job in units if blocked(job, by_id) and not _left_out(job, units)}
    found = [standing for standing in found if never.isdisjoint(standing.contrast.rows[0])]
    seen = [standing.seen for standing in found if standing.after is None]
    limit = max(min(seen, default=0) + 1, first)
    allowed = {label: first for label in map(_label, units)}
    for standing in found:
        most = max(first, limit if standing.after is None else standing.seen)
        for label in standing.contrast.rows[0]:
            allowed[label] = max(allowed[label], most)
    chosen = {job.id for job in units if seeds.index(job.unit.factors.seed) < allowed[_label(job)]}
    queue = list(chosen)
    while queue:
        start = by_id[queue.pop()].waits_for()
        if start in by_id and start not in chosen:
            chosen.add(start)
            queue.append(start)
    return [job for job in jobs if job.id in chosen]


def blocked(job: Job, by_id: Mapping[str, Job]) -> bool:
    """Whether a job starts from a training that diverged, so that it cannot run.

    Args:
        job: of the experiment.
        by_id: all of its jobs.
    """
    start = by_id.get(job.waits_for() or "")
    return start is not None and (isinstance(start.outcome(), Diverged) or blocked(start, by_id))


def _left_out(job: UnitJob, units: Sequence[UnitJob]) -> bool:
    """Whether the unit that it starts from diverged: its seed is left out, as if it had diverged itself."""
    return job.needs is not None and blocked(job, {unit.id: unit for unit in units if unit.id == job.needs})


def standings(units: Sequence[UnitJob], wanted: Sequence[str] | None = None) -> list[Standing]:
    """Every comparison of interest and its state.

    Args:
        units: of all seeds that are allowed.
        wanted: see :func:`da_wa.records.contrasts.of_interest`.
    """
    rows = {_label(job): {factor: getattr(job.unit.factors, factor) for factor in FACTORS} for job in units}
    pairs = list(dict.fromkeys(pair for job in units for pair in _pairs(job)))
    seeds = sorted({job.unit.factors.seed for job in units})
    accuracies: dict[Cell, dict[tuple[int, int], float]] = {}
    unfinished: dict[str, set[int]] = {}
    for job in units:
        record = job.directory.record()
        if record is None and _left_out(job, units):
            continue
        if record is None:
            unfinished.setdefault(_label(job), set()).add(job.unit.factors.seed)
        else:
            for target, accuracy in _last(record).items():
                cell = accuracies.setdefault((_label(job), record.source, target), {})
                cell[record.factors.pretraining_seed or 0, job.unit.factors.seed] = accuracy
    found = []
    for contrast in of_interest(rows, wanted):
        open_seeds = set().union(*(unfinished.get(label, set()) for label in contrast.rows[0]))
        seen = next((k for k, seed in enumerate(seeds) if seed in open_seeds), len(seeds))
        differences = by_seed(contrast, pairs, accuracies)
        found.append((contrast, [differences[seed] for seed in seeds[:seen] if seed in differences], seen))
    after = decided_after([differences or [0.0] for _, differences, _ in found])  # one difference is no evidence
    return [Standing(*each, then) for each, then in zip(found, after, strict=True)]


def state(jobs: Sequence[Job], wanted: Sequence[str] | None = None) -> str:
    """One line on how many comparisons are decided."""
    found = standings([job for job in jobs if isinstance(job, UnitJob)], wanted)
    still = [standing for standing in found if standing.after is None]
    seeds = max((standing.seen for standing in still), default=0)
    return f"seeds=auto: {len(found) - len(still)} of {len(found)} comparisons decided" + (
        f", {len(still)} open after {seeds} seeds" if still else ""
    )


def _last(record: Record) -> dict[str, float]:
    """Accuracy on each target after the last epoch; none of a diverged unit."""
    return {row.domain: row.accuracy for row in record.results if (row.role, row.selection) == ("target", "last")}


def _label(job: UnitJob) -> str:
    """The row of the table, whatever it is called there."""
    return " ".join(str(getattr(job.unit.factors, factor)) for factor in FACTORS)


def _pairs(job: UnitJob) -> list[Pair]:
    return [(job.unit.source, target) for target in job.unit.targets]
