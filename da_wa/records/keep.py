"""Which outputs a unit keeps on disk."""

from __future__ import annotations

from da_wa.records.outputs import Outputs


def trimmed(outputs: Outputs, keep_logits: bool | None) -> Outputs:
    """All of them."""
    return outputs
