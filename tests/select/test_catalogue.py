"""Names of scores: the listed ones, one from outside the package, and mistakes."""

from __future__ import annotations

import math

import pytest

from da_wa.errors import ConfigError
from da_wa.select import Saved, evaluate, listed, load

SAVED = Saved(target_logits=[[2.0, 0.0], [0.0, 1.0]])


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder for --config-dir, from which the command imports too."""
    (tmp_path / "select").mkdir()
    (tmp_path / "margins.py").write_text(
        "def mean_margin(saved):\n    z = saved.target_logits\n    return abs(z[:, 0] - z[:, 1]).mean()\n"
        "def broken(saved):\n    raise ValueError('no images')\nnot_a_function = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(folder, text):
    (folder / "select" / "mine.yaml").write_text(text)


def test_one_line_adds_a_score(mine):
    write(mine, "margin: margins.mean_margin\n")
    scores = load(folders=[mine])
    assert list(scores) == [*load(), "margin"]
    assert evaluate({"margin": scores["margin"]}, SAVED) == {"margin": 1.5}


def test_some_of_the_scores():
    assert list(load(["snd", "im"])) == ["snd", "im"]
    assert load([]) == {}


def test_a_folder_without_scores_adds_none(tmp_path):
    assert listed([tmp_path]) == listed()


def test_what_was_not_saved_is_nan():
    values = evaluate(load(), SAVED)
    assert {name for name, value in values.items() if not math.isnan(value)} == {"entropy", "im", "bnm", "snd"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("entropy: margins.mean_margin", "the score 'entropy' is already in .*default.yaml"),
        ("margin: margins.absent", "the score 'margin' cannot be imported from margins.absent"),
        ("margin: absent.module", "cannot be imported from absent.module"),
        ("margin: '!'", "cannot be imported"),
        ("margin: margins.not_a_function", "is not a function of Saved"),
        ("- margin", "must hold lines of the form"),
        ("margin: 3", "must hold lines of the form"),
        ("", "must hold lines of the form"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_mistakes_in_a_file(mine, text, message):
    write(mine, text)
    with pytest.raises(ConfigError, match=message):
        load(folders=[mine])


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown score 'entropie'. Did you mean 'entropy'"):
        load(["entropie"])


def test_a_score_that_fails_is_named(mine):
    write(mine, "broken: margins.broken\n")
    with pytest.raises(ConfigError, match="the score 'broken' failed: no images"):
        evaluate(load(["broken"], [mine]), SAVED)
    with pytest.raises(ConfigError, match="the score 'text' failed"):
        evaluate({"text": lambda saved: "high"}, SAVED)
