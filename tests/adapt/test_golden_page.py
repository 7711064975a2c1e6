"""docs/scores_and_losses.md: the comparison with another package, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scores_and_losses.md"


def test_the_example_of_golden_values_runs(tmp_path, monkeypatch):
    (code,) = (b for b in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "golden(" in b)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
