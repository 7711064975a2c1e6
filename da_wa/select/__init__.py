"""Model selection without target labels: scores of saved outputs, their regret, and anytime-valid stopping.

::

    scores = load(["im", "atc"])
    values = [evaluate(scores, saved)["im"] for saved in candidates]  # Saved: logits, features, source labels
    shares = [largest_share(saved.target_logits.argmax(1)) for saved in candidates]
    best = choose(values, shares, largest_share(candidates[0].source_labels))
"""

from da_wa.select.anytime import decided, decided_after, e_process, e_value, t_statistics
from da_wa.select.catalogue import Score, evaluate, listed, load
from da_wa.select.regret import Summary, Verdict, choose, judge, largest_share, summarize, weighted_spearman
from da_wa.select.saved import NotSaved, Saved

__all__ = [
    "NotSaved",
    "Saved",
    "Score",
    "Summary",
    "Verdict",
    "choose",
    "decided",
    "decided_after",
    "e_process",
    "e_value",
    "evaluate",
    "judge",
    "largest_share",
    "listed",
    "load",
    "summarize",
    "t_statistics",
    "weighted_spearman",
]
