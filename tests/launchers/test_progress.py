"""The time left is the work left at the rate so far."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from da_wa.launchers import progress
from da_wa.launchers.events import Event
from da_wa.launchers.progress import Tally, duration, shown, steps
from da_wa.runs.jobs import PretrainJob


class Job:
    def __init__(self, name: str, cost: float, finished: bool = False) -> None:
        self.id, self.cost, self.done = name, cost, finished


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_time_left(clock):
    tally = Tally([Job("a", 100), Job("b", 300), Job("c", 50, finished=True)])
    assert (tally.finished, tally.total) == (1, 3)
    assert tally.left() == "time left not known yet"
    clock[0] += 10
    tally.update(Event("epoch", "a", 1, 2))  # 50 of 400 in ten seconds: 350 are left
    assert tally.left() == "about 70 s left"
    clock[0] += 10
    tally.update(Event("done", "a"))
    assert tally.left() == "about 60 s left"
    tally.update(Event("failed", "b"))
    assert tally.left() == "nothing left"
    assert tally.finished == 3


def test_a_resumed_job_does_not_count_what_was_done_before(clock):
    tally = Tally([Job("a", 100)])
    clock[0] += 10
    tally.update(Event("epoch", "a", 9, 10))  # eight of ten epochs were done by an earlier process
    assert tally.left() == "about 10 s left"


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (89, "89 s"), (600, "10 min"), (7500, "2 h 05 min")])
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_lines_where_output_is_no_terminal(clock):
    out = io.StringIO()
    with shown([Job("bn-A-s0", 10), Job("bn-W-s0", 10, finished=True)], Console(file=out, width=200)) as emit:
        emit(Event("start", "bn-A-s0"))
        for epoch in range(1, 31):
            emit(Event("epoch", "bn-A-s0", epoch, 30))
        emit(Event("done", "bn-A-s0"))
    lines = out.getvalue().splitlines()
    assert lines[0] == "1 of 2 jobs are finished already"
    assert lines[1].startswith("[1/2] bn-A-s0: started")
    assert lines[-1] == "[2/2] bn-A-s0: done, nothing left"
    assert len(lines) <= 5  # thirty epochs in no time are not thirty lines
    assert not any("\x1b" in line for line in lines)


def test_networks_that_are_there_are_counted(tmp_path):
    (tmp_path / "net.safetensors").touch()
    network = PretrainJob("net", {}, 10.0, tmp_path / "net.safetensors")
    assert network.done
    out = io.StringIO()
    with shown([network, Job("bn-A-s0", 10), Job("bn-W-s0", 10)], Console(file=out, width=200)):
        pass
    assert out.getvalue() == "1 of 3 jobs are finished already, 1 of them pre-trained networks\n"


def test_names_in_brackets_are_shown_as_they_are():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with steps(console) as show:
        show("Decoding [b] [/x]", 1, 2)
    with shown([Job("bn-[/x]-s0", 10)], console) as emit:
        emit(Event("start", "bn-[/x]-s0"))
    assert "Decoding [b] [/x]" in out.getvalue() and "bn-[/x]-s0" in out.getvalue()


def test_a_terminal_shows_the_job_and_its_epoch():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with shown([Job("bn-A-s0", 10), Job("bn-W-s0", 10)], console) as emit:
        emit(Event("start", "bn-A-s0"))
        emit(Event("epoch", "bn-A-s0", 3, 30))
        emit(Event("failed", "bn-W-s0", message="the disk is full"))
    assert "epoch 3 of 30" in out.getvalue()
    assert "1 of 2" in out.getvalue()
    assert "the disk is full" in out.getvalue()
