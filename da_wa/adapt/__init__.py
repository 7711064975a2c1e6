"""Adaptation: losses and helpers as pure functions of features and logits.

``losses`` takes logits, ``alignment`` features of two domains. ``pseudo_labels`` labels target images, ``moments``
merges the statistics of batches. ``adaptable`` finds the parameters that test-time methods train. ``oracles`` has
reference implementations in NumPy, and ``conformance`` compares the losses with them.
"""
