"""Adaptation: losses and helpers as pure functions of features and logits.

``losses`` reads logits, ``alignment`` features of two domains. ``pseudo_labels`` makes labels of target
images, ``moments`` merges the statistics of batches. ``adaptable`` names the parameters that test-time methods train.
``oracles`` computes the same losses a second time, in NumPy, and ``conformance`` compares the two.
"""
