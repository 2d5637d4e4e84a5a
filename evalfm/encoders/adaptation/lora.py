"""LoRA: low-rank changes beside frozen weights, put in by peft at places that are named one by one."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from evalfm.cautions import Caution
from evalfm.encoders.blocks import LORA
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError

ALPHA = "lora_alpha"
"""Entry of an adapter's tensors that holds alpha; the rank is read from the shapes."""

_ADAPTER = "default"
_ATTENTION = re.compile(r"(^|\.)\d+\.(.*\.)?\w*(attn|attention)\w*\.(.*\.)?[^.]+$")
_PROJECTION = re.compile(r"qkv|kv|q|k|v|query|key|value|[qkvo]_proj|in_proj|out_proj|proj|out|dense")
"""Last names of the linear layers of an attention, in timm and transformers."""

_SHOWN = 5


@dataclass(frozen=True)
class LoraReport:
    """What LoRA was put on.

    Attributes:
        kind: ``attention`` (its linear layers) or ``convolution``.
        rank, alpha: the change is alpha / rank · B A.
        targets: full names of the adapted layers, in the encoder's order.
        skipped: (full name, why) of layers of this kind that were left out.
        parameters: how many numbers are trained.
    """

    kind: Literal["attention", "convolution"]
    rank: int
    alpha: float
    targets: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    parameters: int

    @property
    def cautions(self) -> tuple[Caution, ...]:
        """Cautions that a run must repeat."""
        what = "linear layers of the attention" if self.kind == "attention" else "convolutions"
        sentences = [
            f"LoRA of rank {self.rank} (alpha {self.alpha:g}) on {len(self.targets)} {what}: "
            f"{self.parameters:,} parameters are trained."
        ]
        for why in sorted({why for _, why in self.skipped}):
            names = [name for name, reason in self.skipped if reason == why]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            sentences.append(f"LoRA leaves out {', '.join(names[:_SHOWN])}{more}: {why}.")
        return tuple(Caution("adaptation", sentence) for sentence in sentences)


def add_lora(encoder: Encoder, rank: int = 8, alpha: float | None = None, seed: int = 0) -> LoraReport:
    """Put LoRA into ``encoder``, in place; afterwards only LoRA's parameters are trainable.

    Transformers get it on the linear layers of the attention in their blocks (query, key, value, output),
    convolutional networks on every convolution that is not grouped, and on the linear layers that act on each
    cell of a map, which are 1 × 1 convolutions. Which layers take part is seen by running one blank image.
    A is drawn as by peft (Kaiming uniform) from ``seed`` alone, B is 0: the features are unchanged at first.
    The frozen tensors keep their values, behind ``base_layer`` in their names.

    Source: Hu et al., LoRA, ICLR 2022; convolutions as in peft (A has the layer's kernel, B is 1 × 1).

    Args:
        encoder: without LoRA so far.
        rank: at least 1.
        alpha: numerator of the scale alpha / rank; None takes the rank, which is a scale of 1.
        seed: of A; the global torch generators are left alone.

    Raises:
        EvalfmError: there is nothing to adapt, LoRA is there already, or rank or alpha are not positive.
    """
    scale = float(rank if alpha is None else alpha)
    if rank < 1 or not scale > 0:
        raise EvalfmError(f"LoRA needs a rank of at least 1 and a positive alpha, not {rank} and {scale:g}.")
    _refuse_second(encoder)
    kind, targets, skipped = _find_targets(encoder)
    _inject(encoder, targets, rank, scale)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in targets:
            first, second = _pair(encoder.get_submodule(name))
            drawn = nn.init.kaiming_uniform_(torch.empty(first.shape), a=5**0.5, generator=generator)
            first.copy_(drawn)
            second.zero_()
    parameters = sum(each.numel() for each in encoder.parameters() if each.requires_grad)
    return LoraReport(kind, rank, scale, tuple(targets), tuple(skipped), parameters)


def lora_state(encoder: Encoder) -> dict[str, Tensor]:
    """The adapter's tensors only, on the processor: ``<layer>.lora_A.weight``, ``<layer>.lora_B.weight``, alpha.

    Raises:
        EvalfmError: the encoder has no LoRA.
    """
    tensors: dict[str, Tensor] = {}
    alpha = 0.0
    for name, layer in _layers(encoder):
        first, second = _pair(layer)
        tensors[f"{name}.lora_A.weight"] = first.detach().cpu().clone()
        tensors[f"{name}.lora_B.weight"] = second.detach().cpu().clone()
        alpha = float(layer.lora_alpha[_ADAPTER])
    if not tensors:
        raise EvalfmError(f"{encoder.card.name} has no LoRA whose tensors could be taken; call add_lora first.")
    return tensors | {ALPHA: torch.tensor(alpha, dtype=torch.float64)}


def load_lora(encoder: Encoder, tensors: Mapping[str, Tensor]) -> None:
    """Give ``encoder`` the adapter of :func:`lora_state`; layers, rank and alpha are read from ``tensors``.

    An encoder that has this very adapter already gets its values only.

    Raises:
        EvalfmError: names or shapes do not fit the encoder, which is then left as it was.
    """
    layers, rank, alpha = _read(tensors)
    present = dict(_layers(encoder))
    faults = [
        fault
        for name in layers
        if (fault := _misfit(encoder, name, tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]))
    ]
    if faults:
        raise EvalfmError(
            f"The LoRA tensors do not fit {encoder.card.name} ({'; '.join(faults[:_SHOWN])}); "
            "take them with the encoder that they were trained on."
        )
    if present:
        same = set(present) == set(layers) and all(
            (layer.r[_ADAPTER], float(layer.lora_alpha[_ADAPTER])) == (rank, alpha) for layer in present.values()
        )
        if not same:
            raise EvalfmError(f"{encoder.card.name} has another LoRA already; load these tensors into a fresh encoder.")
    else:
        _inject(encoder, layers, rank, alpha)
    with torch.no_grad():
        for name in layers:
            first, second = _pair(encoder.get_submodule(name))
            first.copy_(tensors[f"{name}.lora_A.weight"])
            second.copy_(tensors[f"{name}.lora_B.weight"])


def set_training(encoder: Encoder, adaptation: Literal["lora", "full", "scratch"]) -> None:
    """Put ``encoder`` into training mode as its adaptation needs it.

    Under ``lora`` every layer with running statistics (batch norm) stays in evaluation mode: it uses the
    statistics it came with and does not move them. Dropout and drop path are active in all three. A later
    call of ``encoder.train()`` undoes this; call this function again after it. ``encode`` restores each
    layer's mode by itself.
    """
    encoder.train()
    if adaptation == "lora":
        for module in encoder.modules():
            if any(name.startswith("running_") for name, _ in module.named_buffers(recurse=False)):
                module.eval()


def _find_targets(
    encoder: Encoder,
) -> tuple[Literal["attention", "convolution"], list[str], list[tuple[str, str]]]:
    """Which layers are adapted, and which of their kind are not and why."""
    reached = _dimensions(encoder)
    layers = [(name, module) for name, module in encoder.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    attention = [each for each in layers if isinstance(each[1], nn.Linear) and _in_attention(each[0])]
    kind: Literal["attention", "convolution"] = "attention" if attention else "convolution"
    candidates = attention or [
        (name, module) for name, module in layers if isinstance(module, nn.Conv2d) or reached.get(name) == 4
    ]
    reasons = [(name, _reason(module, name in reached)) for name, module in candidates]
    targets = [name for name, why in reasons if why is None]
    # A single convolution is the patch embedding of a transformer that calls its attention something else.
    if len(targets) < (1 if kind == "attention" else 2):
        raise EvalfmError(
            f"{encoder.card.name} has no attention or convolutions that LoRA can adapt; "
            "take another encoder, or adapt it with full."
        )
    return kind, targets, [(name, why) for name, why in reasons if why is not None]


def _in_attention(name: str) -> bool:
    """Whether a linear layer is one of attention's, in a block of a list (pooling by attention is not)."""
    return _ATTENTION.search(name) is not None and _PROJECTION.fullmatch(name.rpartition(".")[2]) is not None


def _reason(module: nn.Module, is_called: bool) -> str | None:
    """Why a layer cannot be adapted, or None."""
    if not is_called:
        return "the features do not pass through it, or its weights are used without calling it"
    if type(module) not in (nn.Linear, nn.Conv2d):
        return f"a {type(module).__name__} computes in its own way"
    if isinstance(module, nn.Conv2d):
        if module.groups != 1:
            return "depthwise or grouped convolution"
        # peft's A takes over kernel, stride and padding, but neither of these.
        if module.dilation != (1, 1) or module.padding_mode != "zeros":
            return "dilated convolution, or padded with other than zeros"
    return None


@torch.no_grad()
def _dimensions(encoder: Encoder) -> dict[str, int]:
    """Dimensions of what each linear or convolutional layer is called with, for those that are called."""
    reached: dict[str, int] = {}
    layers = ((module, name) for name, module in encoder.named_modules() if isinstance(module, nn.Linear | nn.Conv2d))
    names: dict[nn.Module, str] = dict(layers)

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        reached[names[module]] = inputs[0].ndim

    device = next((each.device for each in encoder.parameters()), torch.device("cpu"))
    with ExitStack() as hooks:
        for module in names:
            hooks.enter_context(module.register_forward_pre_hook(note))
        encoder.encode(torch.zeros(1, encoder.preparer.facts.channels, *encoder.input_size, device=device))
    return reached


def _inject(encoder: Encoder, targets: list[str], rank: int, alpha: float) -> None:
    """Let peft wrap exactly ``targets``; A and B have still to be set."""
    from peft import LoraConfig, inject_adapter_in_model

    # A pattern, which must match whole names: a list would also match their ends.
    pattern = "|".join(re.escape(name) for name in targets)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=pattern, lora_dropout=0.0, bias="none")  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, encoder, adapter_name=_ADAPTER)
    wrapped = [name for name, _ in _layers(encoder)]
    if sorted(wrapped) != sorted(targets):
        raise RuntimeError(f"peft adapted {wrapped}, not {targets}")
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(f".{LORA}" in name)
    for _, layer in _layers(encoder):
        layer.lora_A.float()
        layer.lora_B.float()


def _layers(encoder: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in encoder.named_modules() if _is_adapted(module))


def _is_adapted(module: nn.Module) -> bool:
    """Whether ``module`` is a layer of peft's, which none can be before peft is imported."""
    library = sys.modules.get("peft.tuners.lora")
    return library is not None and isinstance(module, library.LoraLayer)


def _pair(layer: Any) -> tuple[Tensor, Tensor]:
    """A and B of an adapted layer."""
    return layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight


def _refuse_second(encoder: Encoder) -> None:
    if any(True for _ in _layers(encoder)):
        raise EvalfmError(f"{encoder.card.name} has LoRA already; start from a fresh encoder.")


def _read(tensors: Mapping[str, Tensor]) -> tuple[list[str], int, float]:
    """Layers, rank and alpha of an adapter's tensors."""
    first = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    second = {name.removesuffix(".lora_B.weight") for name in tensors if name.endswith(".lora_B.weight")}
    ranks = {len(tensors[f"{name}.lora_A.weight"]) for name in first}
    if not first or first != second or ALPHA not in tensors or len(tensors) != 2 * len(first) + 1 or len(ranks) != 1:
        raise EvalfmError("These are not the tensors of one LoRA; give the file that the training run wrote.")
    return sorted(first), ranks.pop(), float(tensors[ALPHA])


def _misfit(encoder: Encoder, name: str, first: Tensor, second: Tensor) -> str | None:
    """What keeps an adapter's two tensors from fitting the layer ``name``, or None."""
    try:
        module: Any = encoder.get_submodule(name)
    except AttributeError:
        return f"there is no layer {name}"
    layer: Any = module.get_base_layer() if _is_adapted(module) else module
    if type(layer) not in (nn.Linear, nn.Conv2d):
        return f"{name} is a {type(layer).__name__}"
    weight, rank = layer.weight, len(first)
    ones = (1,) * (weight.ndim - 2)
    expected = (rank, *weight.shape[1:]), (weight.shape[0], rank, *ones)
    shapes = tuple(first.shape), tuple(second.shape)
    if shapes != expected:
        return f"{name} takes the shapes {expected[0]} and {expected[1]}, not {shapes[0]} and {shapes[1]}"
    return None
