"""Backbones: images (n, 3, h, w) -> features (n, d) -> logits (n, classes), with any Norm."""
