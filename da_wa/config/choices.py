"""Allowed names of options, without importing torch. A test compares them with torch and Lightning."""

from __future__ import annotations

OPTIMIZERS = {
    name.lower(): name
    for name in (
        "Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop",
        "SGD",
    )
}  # fmt: skip
"""Option -> class of ``torch.optim``. Left out: LBFGS needs a closure, SparseAdam and Muon refuse convolutions."""

SCHEDULES = {
    "constant": (),
    "cosine": (),
    "inverse": ("gamma", "power"),
    "multi_step": ("at",),
    "one_cycle": ("start", "warmup"),
    "poly": ("power",),
}
"""Functions of ``da_wa.train.schedule`` and their options."""

AUGMENTATIONS = ("pad", "crops")
"""Names of views, see ``da_wa.train.recipe``: padded crops for small images, and crops of larger ones."""

INTERPOLATIONS = ("bilinear", "bicubic")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
"""Lightning's names. The ``…-true`` types other than 32 need images of that type, which are float32 here."""

DTYPES = ("float16", "bfloat16", "float32")
GAIN_INITS = ("one", "fixup")
STATISTICS = ("joint", "separate", "domain")
STREAM_ORDERS = ("shuffled", "sorted")
ACTIVATIONS = ("none", "bn", "gn", "in", "ln", "brn", "evonorm_s0", "frn")
"""Activation levels of the norms in ``conf/norm``; a norm of the user's own may have another."""

KEEP = ("weights", "logits")
SPREADS = ("interval", "std", "sem", "none")
ON_BAD = ("error", "skip")
RESIZES = ("squash", "crop")
CLASS_RULES = ("equal", "common")

LOGGER_PACKAGES = {"mlflow": ("mlflow",), "tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Logger (and extra of this package) -> the packages of which it needs one."""
