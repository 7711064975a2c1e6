"""Results of the paper (Shi, Li, Liu & van Gemert, ICPR 2020, arXiv 2010.07160), as data.

Numbers are kept as printed, as strings, because trailing zeros show their precision.
"""

from __future__ import annotations

ROWS = ("Baseline", "WA", "BN", "BN + WA", "GN", "GN + WA", "IN", "IN + WA", "LN", "LN + WA")
"""The display names, in the order in which tables show them. ``Baseline`` has no normalisation at all."""

PAIRS = (("A", "W"), ("W", "A"), ("A", "D"), ("D", "A"), ("W", "D"), ("D", "W"))
"""The (source, target) pairs of Office-31 in the order of Table VI: Amazon, Webcam, DSLR."""

DATASET, CLASSES, MODEL, PRETRAINING = "Office-31", 31, "ResNet50", "CIFAR-100"
"""Dataset, backbone and pre-training of Table VI."""

TABLE_I = {
    "Baseline": "28.43",
    "WA": "24.92",
    "BN": "23.02",
    "BN + WA": "22.39",
    "IN": "25.58",
    "IN + WA": "24.63",
    "LN": "26.78",
    "LN + WA": "24.01",
    "GN": "25.46",
    "GN + WA": "23.64",
}
"""Top-1 error in percent on CIFAR-100, batch size 64. The network is not named; ResNet50 is likely."""

TABLE_VI = {
    "WA": ("34.62", "42.89", "52.05", "44.09", "87.67", "80.00", "56.89"),
    "BN": ("46.92", "48.91", "57.53", "37.11", "90.41", "70.00", "58.48"),
    "BN + WA": ("49.23", "36.38", "58.90", "40.00", "91.78", "76.92", "58.87"),
    "GN": ("46.92", "42.89", "50.68", "39.76", "82.19", "75.38", "56.30"),
    "GN + WA": ("46.15", "54.46", "50.68", "37.83", "87.67", "78.46", "59.21"),
    "IN": ("36.92", "33.98", "41.10", "37.11", "84.93", "76.92", "51.83"),
    "IN + WA": ("39.23", "41.45", "38.36", "38.07", "90.41", "73.85", "53.56"),
    "LN": ("37.69", "29.89", "45.20", "33.97", "79.45", "69.23", "49.24"),
    "LN + WA": ("50.77", "42.89", "56.16", "41.69", "91.78", "80.77", "60.68"),
}
"""Accuracy in percent on the target of Office-31, :data:`PAIRS` and then their average, for a ResNet50
pre-trained on CIFAR-100. There is no Baseline row."""

EVALUATED = {"A": 415, "W": 130, "D": 73}
"""Images of each target behind Table VI. Inferred, not printed: the only numbers up to 3000 of which the
cells are fractions, 48 of 54 when rounded, 5 when truncated; LN on W->A fits none and may be a misprint."""
