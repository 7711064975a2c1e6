"""Trainer settings: device, precision, memory layout, compilation, and how often the state is saved.

These settings are not part of an experiment's identity: results agree up to rounding under different settings, and
exactly under equal settings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from da_wa.errors import ConfigError, nearest

Auto = Literal["auto"]


@dataclass(frozen=True)
class Settings:
    """Trainer settings. ``auto`` selects the fastest measured value for the device (see ``resolve``).

    Attributes:
        accelerator: the kind of device: auto, cpu, gpu (or cuda), mps.
        precision: Lightning's name, e.g. ``32-true`` or ``bf16-mixed``.
        channels_last: memory layout of convolution weights.
        compile: ``torch.compile`` the training step; a name is its mode or backend: ``reduce-overhead`` compiles
            kernels and replays them as CUDA graphs, ``cudagraphs`` replays torch's kernels without compiling.
            Networks of one architecture and norm share the compiled code within a process, and through inductor's
            cache on disk (``TORCHINDUCTOR_CACHE_DIR``) between processes. Evaluation is not compiled: it has few,
            large batches of several sizes. Adaptation and features of a frozen network are not compiled either, because
            they call parts of the network. ``auto`` compiles where it was measured to be faster: networks with
            InstanceNorm or a GroupNorm of several groups on a processor; it needs a C++ compiler and costs some
            seconds per network.
        fused: an optimiser step in one kernel, for optimisers that offer it.
        deterministic: use deterministic kernels only.
        save_every_s: seconds between checkpoints to resume from; they are written at the end of an epoch.
        resident_gb: domains up to this size are held in the memory of the device, larger ones are streamed.

    Raises:
        ConfigError: ``compile`` names neither a mode nor a backend.
    """

    accelerator: str = "auto"
    precision: str = "auto"
    channels_last: bool | Auto = "auto"
    compile: bool | str | None = None
    fused: bool | Auto = "auto"
    deterministic: bool = True
    save_every_s: float = 20.0
    resident_gb: float = 8.0

    def __post_init__(self) -> None:
        if isinstance(self.compile, str) and self.compile != "auto" and "mode" in (how := self._how_to_compile()):
            from torch._inductor import list_mode_options

            if how["mode"] not in list_mode_options():
                modes = [*list_mode_options(), *torch.compiler.list_backends()]
                close = nearest(self.compile, modes)
                raise ConfigError(f"trainer.compile={self.compile} is not a torch.compile mode or backend. {close}")

    def resolve(self, model: nn.Module) -> Settings:
        """Replace every ``auto`` by a value.

        bfloat16 if the processor supports it natively. channels_last unless the network has InstanceNorm or a
        GroupNorm with several groups, which are slow in this layout where they are not compiled (measured by
        ``benchmarks/settings.py``, numbers in ``results/benchmarks``). Fused optimisers on a GPU, where kernel launches
        limit small steps.

        Raises:
            ConfigError: ``channels_last=true`` on a processor, for a network with :func:`narrow_strided_1x1`.
        """
        accelerator = "gpu" if self.accelerator == "cuda" else self.accelerator
        if accelerator == "auto":
            accelerator = "gpu" if torch.cuda.is_available() else "cpu"
        native_bf16 = accelerator == "gpu" or torch.cpu._is_avx512_bf16_supported()
        grouped = any(
            isinstance(m, nn.InstanceNorm2d) or (isinstance(m, nn.GroupNorm) and m.num_groups > 1)
            for m in model.modules()
        )
        compile: bool | str | None = self.compile
        if compile == "auto":
            compile = accelerator == "cpu" and grouped
        narrow = accelerator == "cpu" and narrow_strided_1x1(model)
        if narrow and self.channels_last is True:
            raise ConfigError(
                "trainer.channels_last=true: on processors, gradients of 1x1 convolutions with a stride and fewer than "
                "16 input channels are wrong in this layout; use auto or false"
            )
        fast = not narrow and (not grouped or (accelerator == "cpu" and bool(compile)))
        return replace(
            self,
            compile=compile,
            accelerator=accelerator,
            precision=("bf16-mixed" if native_bf16 else "32-true") if self.precision == "auto" else self.precision,
            channels_last=fast if self.channels_last == "auto" else self.channels_last,
            fused=accelerator == "gpu" if self.fused == "auto" else self.fused,
        )

    @property
    def device(self) -> str:
        """Torch's name of the resolved device: ``cuda``, ``cpu``, ``mps``."""
        return "cuda" if self.accelerator == "gpu" else self.accelerator

    def check_device(self) -> None:
        """Raise a ConfigError if this machine does not have the accelerator."""
        cuda = torch.cuda.is_available()
        here = {"cuda": cuda, "gpu": cuda, "mps": torch.backends.mps.is_available()}
        if not here.get(self.accelerator, True):
            raise ConfigError(f"trainer.accelerator={self.accelerator}: this machine has none; use auto or cpu")

    def prepare(self, model: nn.Module) -> None:
        """Set the memory layout of ``model`` and compile it, as these settings say."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.compile:
            from torch._dynamo import config as dynamo

            dynamo.recompile_limit = 64  # ten norms, each trained and evaluated at a few batch sizes
            # Batches of one size: kernels for any size would be slower, and all networks but the first got them.
            model.compile(dynamic=False, **self._how_to_compile())

    def _how_to_compile(self) -> dict[str, str]:
        if not isinstance(self.compile, str):
            return {}
        return {"backend" if self.compile in torch.compiler.list_backends(()) else "mode": self.compile}


def narrow_strided_1x1(model: nn.Module) -> bool:
    """Whether a network has 1×1 convolutions with a stride and few input channels.

    In channels_last oneDNN writes outside its memory in their backward pass: wrong gradients or a crash
    (uxlfoundation/oneDNN issue 6035, seen with torch 2.15 on a processor with AVX2 only).

    >>> narrow_strided_1x1(nn.Conv2d(4, 8, 1, stride=2)), narrow_strided_1x1(nn.Conv2d(16, 32, 1, stride=2))
    (True, False)
    """
    return any(
        isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and max(m.stride) > 1 and m.in_channels // m.groups < 16
        for m in model.modules()
    )
