"""Figures, one function each. Matplotlib is imported only to draw, because the import is slow."""

from da_wa.report.figures.dots import Panel, dots
from da_wa.report.figures.heatmap import heatmap, matrix_heatmap
from da_wa.report.figures.images import contact_sheet
from da_wa.report.figures.lines import learning_curves
from da_wa.report.figures.ranks import critical_difference
from da_wa.report.figures.scatter import embedding_scatter, relation
from da_wa.report.figures.style import rendered

__all__ = [
    "Panel",
    "contact_sheet",
    "critical_difference",
    "dots",
    "embedding_scatter",
    "heatmap",
    "learning_curves",
    "matrix_heatmap",
    "relation",
    "rendered",
]
