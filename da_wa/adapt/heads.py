"""Small networks on features: domain discriminators and auxiliary classifiers, without normalisation layers."""

from __future__ import annotations

from torch import nn


def mlp(inputs: int, outputs: int, width: int = 1024, hidden: int = 2, dropout: float = 0.5) -> nn.Sequential:
    """Linear, ReLU, dropout, ``hidden`` times, then a linear layer: (n, inputs) -> (n, outputs).

    Reference implementations have BatchNorm1d here, which would put batch statistics into every network.

    >>> [type(layer).__name__ for layer in mlp(64, 1, hidden=1)]
    ['Linear', 'ReLU', 'Dropout', 'Linear']
    """
    layers: list[nn.Module] = []
    for _ in range(hidden):
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))
