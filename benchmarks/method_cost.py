"""What an adaptation method costs: CPU time of a training step, relative to training on the source at equal images.

A step of a joint method sees 64 source and 64 target images and is compared with two source steps of 64 images. A step
of a target or stream method sees 64 images and is compared with one. Every method takes turns with the reference, in
the opposite order in every second round; the median of the rounds' ratios is printed. ``own parameters`` are those of
discriminators and auxiliary classifiers, which train, too.

    uv run benchmarks/method_cost.py
    uv run benchmarks/method_cost.py --norm gn_wa --methods mcc dann --repeats 20
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from da_wa.adapt.domain_norm import routed, separate_domains
from da_wa.adapt.method import Method, Seen, Step
from da_wa.models.backbone import Backbone
from da_wa.norm import named
from da_wa.records.provenance import machine
from da_wa.shipped import conf_dir

CLASSES = 31


def network(options: argparse.Namespace) -> Backbone:
    """A network in training mode."""
    torch.manual_seed(0)
    build = instantiate(OmegaConf.load(conf_dir() / "model" / f"{options.model}.yaml").build)
    model: Backbone = build(named(options.norm), CLASSES)
    return model.to(memory_format=torch.channels_last).train()


def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """As in fine-tuning."""
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=5e-4)


def seen(model: Backbone, images: torch.Tensor) -> Seen:
    """Features and logits."""
    features = model.features(images)
    return Seen(features, model.head(features))


def source_step(options: argparse.Namespace, images: torch.Tensor) -> Callable[[], object]:
    """Forward, backward and update on labelled images."""
    model = network(options)
    update, labels = optimizer(list(model.parameters())), torch.arange(len(images)) % CLASSES

    def step() -> None:
        update.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        update.step()

    return step


def method_step(options: argparse.Namespace, node: dict, images: torch.Tensor) -> tuple[Callable[[], object], int]:
    """One step of a method as the training takes it, and the number of its own parameters."""
    model, method = network(options), instantiate(node["build"])
    method.build(model, CLASSES, len(images))
    own = sum(p.numel() for p in method.parameters())
    if method.phase == "stream":
        return lambda: method.observe(model, images), own
    if node.get("statistics") == "domain":
        separate_domains(model)
    update = optimizer([*method.trained(model), *method.parameters()])
    forward = together if node.get("statistics") == "joint" else apart
    labels, index = torch.arange(len(images)) % CLASSES, torch.arange(len(images))

    def step() -> None:
        update.zero_grad()
        source, target = forward(model, images) if method.phase == "joint" else (None, seen(model, images))
        given = Step(source, labels if source else None, target, index, 0.5, lambda: seen(model, images.flip(3)))
        loss = weighted(method, given, node.get("weight", 1.0))
        if source is not None:
            loss = loss + F.cross_entropy(source.logits, labels)
        loss.backward()
        update.step()

    return step, own


def weighted(method: Method, step: Step, weight: float) -> torch.Tensor:
    """The sum of the terms, times the weight."""
    return weight * sum(method.loss(step).values(), torch.zeros(()))


def together(model: Backbone, images: torch.Tensor) -> tuple[Seen, Seen]:
    """Both domains in one batch."""
    both, n = seen(model, torch.cat([images, images.flip(2)])), len(images)
    return Seen(both.features[:n], both.logits[:n]), Seen(both.features[n:], both.logits[n:])


def apart(model: Backbone, images: torch.Tensor) -> tuple[Seen, Seen]:
    """One domain after the other."""
    with routed(model, "source"):
        source = seen(model, images)
    with routed(model, "target"):
        return source, seen(model, images.flip(2))


def seconds(action: Callable[[], object], times: int) -> float:
    """CPU time of this process."""
    begin = time.process_time()
    for _ in range(times):
        action()
    return time.process_time() - begin


def ratio(method: Callable[[], object], reference: Callable[[], object], steps: int, repeats: int) -> float:
    """The median over rounds of the time of a step relative to ``steps`` steps of the reference."""
    found = []
    for k in range(repeats + 1):
        if k % 2:
            one, other = seconds(method, 1), seconds(reference, steps)
        else:
            other, one = seconds(reference, steps), seconds(method, 1)
        found.append(one / other)
    return float(np.median(found[1:]))  # the first round warms up


def main() -> None:
    """Print a row per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--norm", default="bn")
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randn(options.batch, 3, options.size, options.size).to(memory_format=torch.channels_last)
    reference = source_step(options, images)
    print(f"{options.model} {options.norm}, batch {options.batch}, {options.size}², {options.repeats} rounds, 1 thread")
    print(
        ", ".join(f"{key} {value}" for key, value in machine().items() if key in ("python", "torch", "cpu", "commit"))
    )
    print("\n| method | phase | source steps at equal images | relative CPU time | own parameters |")
    print("| --- | --- | --- | --- | --- |")
    for path in sorted((conf_dir() / "method").glob("*.yaml")):
        node = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(node, dict)
        trains = "build" in node and instantiate(node["build"]).trains
        if not trains or (options.methods and path.stem not in options.methods):
            continue  # AdaBN has no steps
        steps = 2 if node["phase"] == "joint" else 1
        step, own = method_step(options, node, images)
        cost = ratio(step, reference, steps, options.repeats)
        print(f"| {path.stem} | {node['phase']} | {steps} | {cost:.2f} | {own} |", flush=True)


if __name__ == "__main__":
    main()
