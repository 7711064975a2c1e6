"""The command from Python.

>>> from da_wa import api
>>> results = api.run(["experiment=demo", "norms=[bn,bn_wa]"])  # doctest: +SKIP
>>> results.matrix()  # doctest: +SKIP

:func:`run` takes the overrides of the command line; :func:`load` reads the results of an earlier command. Accuracies are
fractions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from da_wa.report.facts import Facts, load_facts

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Results:
    """The results below one ``out`` folder.

    Attributes:
        out: the folder.
    """

    out: Path

    @cached_property
    def facts(self) -> Facts:
        """Everything that the report is made of.

        Raises:
            DataError: there are no runs, or they cannot be compared.
        """
        return load_facts(self.out)

    @property
    def frame(self) -> pd.DataFrame:
        """One row a result: every factor, source, target, selection, epoch, correct, n, accuracy, balanced_accuracy."""
        return self.facts.frame
