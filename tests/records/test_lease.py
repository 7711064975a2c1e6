"""A lease has one holder; one that was taken lets no write through."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import threading
import time
from contextvars import copy_context
from pathlib import Path

import pytest

from da_wa.records import lease
from da_wa.records.files import write_bytes
from da_wa.records.lease import Holder, LeaseLost, holder, leased, now

DRAFTS = ".*.part"


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "lease"


def make_stale(path: Path) -> None:
    """As if its holder had not touched it for an hour."""
    past = path.stat().st_mtime - 3600
    os.utime(path, (past, past))


def test_it_says_who_holds_it_since_when(path):
    assert holder(path) is None
    with leased(path, DRAFTS, 7.0) as mine:
        assert mine
        found = holder(path)
        assert found is not None
        assert (found.pid, found.stale_s) == (os.getpid(), 7.0)
        assert found.since == pytest.approx(now(path.parent), abs=60)
    assert holder(path) is None
    assert list(path.parent.iterdir()) == []


def test_a_stale_one_is_taken_and_its_holder_notices(path):
    with leased(path, DRAFTS) as first:
        assert first
        make_stale(path)
        with leased(path, DRAFTS) as second:
            assert second
            write_bytes(path.with_name("b"), b"second")
        with pytest.raises(LeaseLost):
            write_bytes(path.with_name("a"), b"first")
    assert sorted(file.name for file in path.parent.iterdir()) == ["b"]


def test_the_end_of_a_lost_lease_does_not_free_that_of_the_new_holder(path):
    with leased(path, DRAFTS):
        make_stale(path)
        other = copy_context()  # stands for another process
        taken = leased(path, DRAFTS)
        assert other.run(taken.__enter__)
    assert holder(path) is not None
    with leased(path, DRAFTS) as third:
        assert not third
    other.run(taken.__exit__, None, None, None)
    assert holder(path) is None


def take_over(path: Path) -> None:
    """By another process, which is represented by a thread: the lease of a thread is its own."""

    def run() -> None:
        make_stale(path)
        taken = leased(path, DRAFTS)
        assert taken.__enter__()
        write_bytes(path.with_name("result"), b"second")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


@pytest.mark.parametrize("after", ["confirm", "draft"])
def test_a_process_that_pauses_inside_a_write_cannot_finish_it(after, path, monkeypatch):
    """Paused between the check of the lease and the replacement, it finds its draft deleted."""
    real = lease.confirm
    paused = []

    def pause() -> None:
        if after == "confirm":
            real()
        if not paused and threading.current_thread() is threading.main_thread():
            paused.append(True)
            take_over(path)
        if after == "draft":
            real()

    monkeypatch.setattr("da_wa.records.files.confirm", pause)
    with leased(path, DRAFTS), pytest.raises(LeaseLost):
        write_bytes(path.with_name("result"), b"first")
    assert paused
    assert path.with_name("result").read_bytes() == b"second"


def test_a_lease_is_touched_and_so_stays_with_a_holder_that_lives(path):
    with leased(path, DRAFTS, stale_s=0.6):
        begin = path.stat().st_mtime
        while path.stat().st_mtime - begin < 1.2:
            with leased(path, DRAFTS) as other:
                assert not other
            time.sleep(0.02)


def test_clocks_of_processes_do_not_matter(path, monkeypatch):
    with leased(path, DRAFTS):
        for shift in (-3600, 3600):
            monkeypatch.setattr(time, "time", lambda shift=shift: 1.8e9 + shift)
            assert holder(path) is not None


@pytest.mark.parametrize("content", [b"", b"torn", b"[]", b'{"unknown": 1}'])
def test_an_unreadable_one_is_held_until_it_is_stale(content, path):
    path.write_bytes(content)
    assert holder(path) == Holder()
    make_stale(path)
    assert holder(path) is None
    with leased(path, DRAFTS) as mine:
        assert mine


def test_a_process_of_another_machine_is_not_looked_up_here(path):
    dead = Holder("x", "elsewhere", 2**22 + 1, "other boot", 0.0, 120.0)
    path.write_text(json.dumps(dead.__dict__))
    assert holder(path) == dead
    here = Holder("x", "here", 2**22 + 1, lease._machine(), 0.0, 120.0)
    path.write_text(json.dumps(here.__dict__))
    assert holder(path) is None


def test_a_lease_that_changed_hands_while_it_was_judged_stays(path, monkeypatch):
    with leased(path, DRAFTS) as first:
        assert first
        make_stale(path)
        real, other, taken = lease._stale, copy_context(), []

        def slow(*arguments) -> bool:
            found = real(*arguments)
            if not taken:
                taken.append(leased(path, DRAFTS))
                assert other.run(taken[0].__enter__)
            return found

        monkeypatch.setattr(lease, "_stale", slow)
        with leased(path, DRAFTS) as late:
            assert not late
        assert taken
        second = holder(path)
        assert second is not None
    assert holder(path) == second
    other.run(taken[0].__exit__, None, None, None)
    assert holder(path) is None


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_that_died_while_it_took_over_blocks_nobody(moment, path):
    path.write_text(json.dumps(Holder("old", "elsewhere", 1, "other boot", 0.0, 120.0).__dict__))
    make_stale(path)
    dead = Holder("x", "here", 2**22 + 1, lease._machine(), 0.0, 120.0)
    token = {"before": "old", "after": "older"}[moment]  # before or after its own lease was in place
    path.with_name(lease._turns(path, token)).write_text(json.dumps(dead.__dict__))
    with leased(path, DRAFTS) as mine:
        assert mine
        assert list(path.parent.iterdir()) == [path]
    assert list(path.parent.iterdir()) == []


def test_in_the_turn_of_another_process_a_lease_stays(path):
    with leased(path, DRAFTS) as mine:
        assert mine
        found = holder(path)
        with lease._turn(path, found.token) as ours:
            assert ours
            make_stale(path)
            with leased(path, DRAFTS) as other:
                assert not other
    assert holder(path) is None
    assert list(path.parent.iterdir()) == []


def _contend(path: Path, number: int, start, answers) -> None:
    """Take it and die, take it and end, again and again; ``inside`` exists while one of the processes has it."""
    inside, taken = path.with_name("inside"), 0
    start.wait()
    while taken < 60:
        if (mine := lease._acquire(path, DRAFTS, 120.0)) is None:
            continue
        try:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            answers.put(False)
            return
        taken += 1
        try:
            mine.confirm()
        except LeaseLost:
            answers.put(False)
            return
        inside.unlink()
        if taken % 4 == number % 4:
            lease._release(path, mine.holder.token)
        else:
            make_stale(path)
    answers.put(True)


@pytest.mark.timeout(300)
def test_of_many_processes_never_two_have_it():
    """In memory, where the calls are fast and so the processes meet."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        context = multiprocessing.get_context("fork")
        start, answers = context.Barrier(6), context.Queue()
        arguments = [(Path(folder) / "lease", number, start, answers) for number in range(6)]
        processes = [context.Process(target=_contend, args=each) for each in arguments]
        for process in processes:
            process.start()
        assert all(answers.get(timeout=120) for _ in processes)
        for process in processes:
            process.join()


def _take(path: Path, stale: bool, start, won) -> None:
    start.wait()
    with leased(path, DRAFTS) as mine:
        won.put(mine)
        time.sleep(0.3)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stale", [False, True])
def test_of_many_processes_one_gets_it(stale, path):
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        if stale:
            path.write_text(json.dumps(Holder("old", "elsewhere", 1, "other boot", 0.0, 120.0).__dict__))
            make_stale(path)
        start, won = context.Barrier(8), context.Queue()
        processes = [context.Process(target=_take, args=(path, stale, start, won)) for _ in range(8)]
        for process in processes:
            process.start()
        answers = [won.get() for _ in processes]
        for process in processes:
            process.join()
        assert sum(answers) == 1
