"""Model cards: what a pre-trained network is, how it was made, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from da_wa.report.wording import counted, number

_MACHINE = ("cpu", "device", "precision")
_VERSIONS = ("da-wa", "torch", "torchvision", "python")


def model_card(
    name: str,
    label: str,
    facts: Mapping[str, Any],
    result: Mapping[str, Any],
    accuracies: Mapping[int, float | None],
    rates: Mapping[float, float | None],
    search_epochs: int,
) -> str:
    """A page about one network, in Markdown.

    Args:
        name: of its file, without the suffix.
        label: the display name of its norm.
        facts: of its checkpoint, see :class:`da_wa.models.checkpoint.Header`.
        result: likewise.
        accuracies: of the networks of the same recipe, by seed; None where the training diverged.
        rates: held-out accuracy of the search, by learning rate; None where the training diverged.
        search_epochs: of each training of the search.

    >>> network = {"norm": {"name": "bn"}, "model": {"name": "resnet20", "build": {"widths": [4]}}, "seed": 0}
    >>> images = {"dataset": "CIFAR-100", "size": 32, "normalize": {"mean": [0.5], "std": [0.25]}}
    >>> facts = {**network, **images, "recipe": {"epochs": 20, "optimizer": {"lr": 0.1}}}
    >>> card = model_card("net", "BN", facts, {"correct": 6, "n": 10}, {0: 0.6, 1: None}, {0.1: 0.25}, 2)
    >>> print(card)  # doctest: +ELLIPSIS
    # net
    <BLANKLINE>
    resnet20 with BN, trained on CIFAR-100.
    <BLANKLINE>
    | | |
    | --- | --- |
    | accuracy on the test images | 60.0 % of 10 |
    | networks of the same recipe | seed 0: 60.0 %, seed 1: diverged |
    | learning rate | 0.1, the best on held-out training images after 2 epochs: 0.1: 25.0 % |
    ...
    >>> next(line for line in card.splitlines() if "ResNet(" in line)
    'model = ResNet(named("bn"), 31, widths=[4])'
    """
    provenance: Mapping[str, Any] = result.get("provenance", {})
    correct, n = result["correct"], result["n"]
    build = ", ".join(f"{key}={_code(value)}" for key, value in facts["model"]["build"].items())
    versions = ", ".join(f"{key} {provenance[key]}" for key in _VERSIONS if key in provenance)
    rows = {
        "accuracy on the test images": f"{number(100 * correct / n)} % of {n:,}",
        "networks of the same recipe": ", ".join(f"seed {s}: {_percent(a)}" for s, a in sorted(accuracies.items())),
        "learning rate": f"{facts['recipe']['optimizer']['lr']:g}, the best on held-out training images after "
        f"{counted(search_epochs, 'epoch')}: "
        + ", ".join(f"{rate:g}: {_percent(accuracy)}" for rate, accuracy in sorted(rates.items())),
        "images": f"{facts['size']}×{facts['size']}, in [0, 1], minus {_list(facts['normalize']['mean'])}, divided by "
        f"{_list(facts['normalize']['std'])}",
        "command": f"`{provenance.get('command', 'not recorded')}`",
        "commit": f"`{provenance.get('commit', 'not recorded')}`",
        "machine": ", ".join(str(provenance[key]) for key in _MACHINE if key in provenance),
        "versions": versions,
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""# {name}

{facts["model"]["name"]} with {label}, trained on {facts["dataset"]}.

| | |
| --- | --- |
{table}

```python
from pathlib import Path

from da_wa.models.checkpoint import load_backbone
from da_wa.models.resnet import ResNet
from da_wa.norm import named

model = ResNet(named({_code(facts["norm"]["name"])}), 31, {build})
load_backbone(Path("{name}.safetensors"), model)  # all but the head
```

The recipe of the training:

```yaml
{yaml.safe_dump(dict(facts["recipe"]), sort_keys=False).rstrip()}
seed: {facts["seed"]}
```
"""


def _code(value: object) -> str:
    """A plain value as Python code in double quotes."""
    return repr(value).replace("'", '"')


def _percent(accuracy: float | None) -> str:
    return "diverged" if accuracy is None else f"{number(100 * accuracy)} %"


def _list(values: list[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
