"""The running mean against torchmetrics."""

from __future__ import annotations

import math

import torch
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from da_wa.train.running import RunningMean


def test_it_is_the_mean_of_torchmetrics_to_the_bit():
    draw = torch.Generator().manual_seed(0)
    theirs, ours = MeanMetric(nan_strategy="disable"), RunningMean()
    assert math.isnan(ours.compute())
    for _ in range(2):
        for value in torch.randn(500, generator=draw).exp():
            theirs.update(value)
            ours.update(value)
        assert ours.compute() == float(theirs.compute())
        theirs.reset()
        ours.reset()
    ours.update(torch.tensor(math.nan))
    assert math.isnan(ours.compute())


def test_shares_of_right_predictions_weigh_every_image_the_same():
    draw = torch.Generator().manual_seed(0)
    theirs, ours = MulticlassAccuracy(5, average="micro"), RunningMean()
    for images in (64, 64, 7, 1):
        logits, labels = torch.randn(images, 5, generator=draw), torch.randint(5, (images,), generator=draw)
        theirs.update(logits, labels)
        ours.update(logits.argmax(1) == labels)
    assert ours.compute() == float(theirs.compute())
