"""Named domains over one class list.

A :class:`Domain` is *n* images and their labels; a :class:`DomainSet` is several domains with the
same classes. :mod:`da_wa.data.folders` and :mod:`da_wa.data.lists` read them, :mod:`da_wa.data.cache` decodes the
images.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from da_wa.data.images import Images, Selected
from da_wa.errors import ConfigError, DataError, nearest, printable, some

logger = logging.getLogger(__name__)

ClassRule = Literal["equal", "common"]
"""``equal``: every domain must have every class. ``common``: only the classes that all domains share are kept.

Under ``equal`` a class folder without images is an error, under ``common`` it counts as absent.
"""

LAYOUT = "Expected ROOT/<domain>/<class>/<image>; see data/README.md."


@dataclass(frozen=True)
class Domain:
    """Images and their labels.

    Args:
        name: a short name, e.g. ``A``.
        images: the images.
        labels: (n,) int64, indices into the set's class list.

    >>> from da_wa.data.images import ImageArray
    >>> images = ImageArray(np.zeros((2, 3, 8, 8), np.uint8), ("mug/0", "pen/0"))
    >>> len(Domain("A", images, np.array([0, 1])).images)
    2
    """

    name: str
    images: Images
    labels: np.ndarray


@dataclass(frozen=True)
class DomainSet:
    """Domains over one class list, in the order of their columns in a table.

    Args:
        name: the set's name, e.g. ``Office-31``.
        classes: the class names; label *i* means ``classes[i]``.
        domains: the domains.
        class_rule: what happens to domains whose classes differ, see :data:`ClassRule`.

    >>> from da_wa.data.digits import digits
    >>> demo = digits(per_class=1)
    >>> demo.names, demo.classes[:3], demo["N"].labels[:3].tolist()
    (('H', 'N', 'P'), ('0', '1', '2'), [0, 1, 2])
    """

    name: str
    classes: tuple[str, ...]
    domains: tuple[Domain, ...]
    class_rule: ClassRule = "equal"

    @property
    def names(self) -> tuple[str, ...]:
        """The domains' names, in order."""
        return tuple(domain.name for domain in self.domains)

    def __getitem__(self, name: str) -> Domain:
        for domain in self.domains:
            if domain.name == name:
                return domain
        raise ConfigError(f"{printable(self.name)} has no domain {name!r}. {nearest(name, self.names)}")

    def only_common_classes(self) -> DomainSet:
        """This set under the rule ``common``, so that a domain with other classes can be added."""
        return assemble(self.name, self.named(), self.classes, "common")

    def named(self) -> dict[str, NamedImages]:
        """The domains with class names instead of labels."""
        return {d.name: NamedImages(d.images, tuple(self.classes[i] for i in d.labels)) for d in self.domains}


@dataclass(frozen=True)
class NamedImages:
    """Images with the name of each one's class: a domain before the class list is known."""

    images: Images
    classes: tuple[str, ...]


def assemble(name: str, domains: Mapping[str, NamedImages], order: Sequence[str], rule: ClassRule) -> DomainSet:
    """Decide on the class list and number the labels.

    Args:
        name: the set's name.
        domains: the images of each domain and the name of each one's class.
        order: every class that may occur, in the order of the labels.
        rule: see :data:`ClassRule`.

    Raises:
        ConfigError: ``rule`` is unknown.
        DataError: the domains' classes differ under ``equal``, or have nothing in common under ``common``.

    >>> from da_wa.data.images import ImageArray
    >>> images = ImageArray(np.zeros((2, 3, 8, 8), np.uint8), ("0", "1"))
    >>> first, second = NamedImages(images, ("mug", "pen")), NamedImages(images, ("pen", "pen"))
    >>> both = assemble("demo", {"A": first, "B": second}, ["mug", "pen"], "common")
    >>> both.classes, [len(domain.images) for domain in both.domains]
    (('pen',), [1, 2])
    """
    if rule not in get_args(ClassRule):
        raise ConfigError(f"data.classes={rule!r} is unknown. {nearest(str(rule), get_args(ClassRule))}")
    have = {domain: set(images.classes) for domain, images in domains.items()}
    classes = tuple(c for c in order if rule == "equal" or all(c in present for present in have.values()))
    lacking = {domain: [c for c in classes if c not in present] for domain, present in have.items()}
    if any(lacking.values()):
        differences = "\n".join(
            f"  {printable(domain)} lacks {some(missing)}" for domain, missing in lacking.items() if missing
        )
        raise DataError(
            f"The domains of the dataset {name} do not have the same classes:\n{differences}\n"
            "Add the missing ones, or keep only the classes that all domains share with data.classes=common."
        )
    if not classes:
        raise DataError(f"The domains {some(domains)} of {name} share no class. {LAYOUT}")
    if dropped := [c for c in order if c not in classes and any(c in present for present in have.values())]:
        logger.warning(
            "%s: data.classes=common leaves out %d of %d classes: %s. A pair is no longer that of the whole dataset.",
            printable(name),
            len(dropped),
            len(dropped) + len(classes),
            some(dropped),
        )
    label_of = {c: i for i, c in enumerate(classes)}
    return DomainSet(name, classes, tuple(_domain(n, d, label_of) for n, d in domains.items()), rule)


def _domain(name: str, named: NamedImages, label_of: Mapping[str, int]) -> Domain:
    kept = tuple(i for i, c in enumerate(named.classes) if c in label_of)
    images = named.images if len(kept) == len(named.images) else Selected(named.images, kept)
    return Domain(name, images, np.array([label_of[named.classes[i]] for i in kept], dtype=np.int64))
