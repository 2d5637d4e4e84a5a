"""A plain torch module with a transform as an encoder: pooling, maps and input are found by looking."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evalfm.cautions import Caution
from evalfm.encoders.card import EncoderCard, Preprocessing, WeightsFacts
from evalfm.encoders.encoder import Encoder, EncoderState, RawFeatures
from evalfm.encoders.families._published import stride_of
from evalfm.encoders.golden import golden_image
from evalfm.encoders.model_input import model_input
from evalfm.encoders.preprocessing import Preparer
from evalfm.encoders.registry import RESERVED, card_names
from evalfm.encoders.transform_facts import facts_of
from evalfm.encoders.weights import foreign_code, tensor_digest
from evalfm.errors import EvalfmError, shown

MOST_PREFIX = 16
"""Tokens before those of the patches that no known model exceeds."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Of a module: ``@`` and ``:`` would say that it is a choice of another, or a library's."""

MOST_INSIDE = 20
"""How deep a setting is looked into."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_TORCHS_OWN = {*vars(nn.Module()), "_is_hf_initialized"}
"""What every module has: tensors and parts, which are listed by themselves, and hooks."""


def from_module(
    module: nn.Module, transform: Callable[[Any], Any] | Preprocessing, name: str | None = None, **facts: Any
) -> Encoder:
    """An encoder of any module that takes a batch [B, C, h, w]; everything that takes an encoder takes it.

    An output [B, D] is the embedding. A map [B, D, h, w] is averaged over its cells, and is the encoder's map too. Of
    tokens [B, T, D] those before the patches are told by what is left over of a square of patches: with any the first
    is the embedding (``cls``), else the mean; the patches are the map.

    Args:
        module: in evaluation mode, on any device; it is used as it is, not copied.
        transform: what the module was made for, from a PIL image to a tensor [C, h, w]; read as facts, so that masks
            fit and images keep their depth. Or the facts themselves.
        name: in tables and runs; the class of the module unless it is given.
        facts: further fields of an :class:`EncoderCard`, such as ``licence``, ``domain`` or ``pretraining_data``.

    Raises:
        EvalfmError: the module is in training mode, its output is no such tensor, is not finite, differs from call to
            call or with the other images of the batch, or the transform does what facts cannot say.

    >>> from torchvision import transforms
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()).eval()
    >>> encoder = from_module(network, transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()]), "mine")
    >>> encoder.card.poolings, encoder.map_strides
    ({'gap': 8}, (2,))
    """
    name = name or type(module).__name__
    if not NAME.fullmatch(name):
        raise EvalfmError(
            f"{shown(name)} is no name of a module; take letters, digits, '.', '-' and '_', 100 at most, in name=."
        )
    if name in RESERVED or name in card_names():
        raise EvalfmError(f"{name} is the name of another encoder; give another with name=.")
    training = next((part for part, each in module.named_modules() if each.training), None)
    if training is not None:
        where = f" ({training})" if training else ""
        raise EvalfmError(f"The module {name} is in training mode{where}; call its eval() first.")
    preprocessing = transform if isinstance(transform, Preprocessing) else facts_of(transform, name)
    output = _tried(module, preprocessing, name)
    card = EncoderCard(
        **{
            "name": name,
            "summary": f"A module of the class {type(module).__name__}.",
            "family": "own",
            "architecture": type(module).__name__,
            "weights": WeightsFacts(source="path", request="whoever made the module"),
            "licence": "not stated",
            "commercial_use": "ask",
            "parameters": sum(each.numel() for each in module.parameters()),
            "preprocessing": preprocessing,
            "fixed_input_size": True,
            "paradigm": "none",
            "domain": "not stated",
            "confirmed": ("Input, embedding and maps were found by a forward pass.",),
            "unconfirmed": ("What the module has learnt, and from what, is not known.",),
            **_shapes(output, preprocessing.input_size, name),
            **facts,
        }
    )
    return ModuleEncoder(card, module, _behaviour(module, output))


class ModuleEncoder(Encoder):
    """Runs the module; what its tensors do not say of it is in ``state.code_digest``."""

    def __init__(self, card: EncoderCard, module: nn.Module, digest: str) -> None:
        doubts = tuple(Caution("unconfirmed-card", f"Unconfirmed: {sentence}") for sentence in card.unconfirmed)
        super().__init__(card, EncoderState(code_digest=digest, cautions=doubts))
        self.model = module

    def _forward(self, batch: Tensor) -> RawFeatures:
        output = self.model(batch)
        if output.ndim == 2:
            return RawFeatures(pooled={"output": output})
        return RawFeatures(layers=(output,), final=output)


@torch.no_grad()
def _tried(module: nn.Module, facts: Preprocessing, name: str) -> Tensor:
    """What the module gives of two images, found to be the same whenever it is asked."""
    seen = torch.from_numpy(Preparer(facts, name)(golden_image()).pixels)[None]
    one = model_input(seen, facts).expand(1, facts.channels, *facts.input_size)
    first = next((each for each in [*module.parameters(), *module.buffers()]), one)
    batch = torch.cat([one, one.flip(3)]).to(first.device)
    try:
        outputs = [module(batch), module(batch), module(batch[:1])]
    except Exception as error:
        # Whatever the module trips over.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise EvalfmError(f"The module {name} does not take a batch {list(batch.shape)}: {reason}.") from None
    kinds = {type(each).__name__ for each in outputs if not isinstance(each, Tensor)}
    if kinds:
        raise EvalfmError(f"The module {name} gives a {', '.join(kinds)}; wrap it in one that returns a tensor.")
    whole, again, alone = (torch.Tensor.float(each) for each in outputs)
    if whole.ndim not in (2, 3, 4) or len(whole) != 2 or alone.shape[1:] != whole.shape[1:]:
        raise EvalfmError(
            f"The module {name} gives {list(whole.shape)} for two images; wanted are [2, D], [2, D, h, w] or [2, T, D]."
        )
    if not bool(torch.isfinite(whole).all()):
        raise EvalfmError(f"The module {name} gives NaN or infinite values for a test image; check its weights.")
    if not torch.equal(whole, again):
        raise EvalfmError(f"The module {name} gives two results for one image: dropout or sampling is left on.")
    largest = float(whole.abs().max().clamp_min(1e-12))
    if float((whole[:1] - alone).abs().max()) > 1e-3 * largest:
        raise EvalfmError(
            f"What the module {name} gives for an image changes with the others in its batch; let batch norms use what "
            "they have learnt."
        )
    return whole


def _shapes(output: Tensor, size: tuple[int, int], name: str) -> dict[str, Any]:
    """Poolings and maps by the shape of ``output``."""
    if output.ndim == 2:
        return {"poolings": {"output": output.shape[1]}, "pooling": "output"}
    if output.ndim == 4:
        stride = stride_of(output.shape[2:], size)
        if stride is None:
            raise EvalfmError(
                f"The map {list(output.shape)} of the module {name} does not cover its input of {size[0]} x {size[1]}; "
                "wanted is [B, D, h, w]."
            )
        maps = {"map_layers": (0,), "map_channels": (output.shape[1],), "map_strides": (stride,)}
        return {"poolings": {"gap": output.shape[1]}, "pooling": "gap", **maps}
    tokens, dim = output.shape[1:]
    patches = [side for side in range(2, min(size) + 1) if size[0] % side == 0 == size[1] % side]
    before = {side: tokens - (size[0] // side) * (size[1] // side) for side in patches}
    fitting = {side: count for side, count in before.items() if 0 <= count <= MOST_PREFIX and count < tokens / 2}
    if not fitting:
        raise EvalfmError(
            f"The {tokens} tokens of the module {name} are no grid of patches of its input of {size[0]} x {size[1]}; "
            "return what should be the embedding, [B, D]."
        )
    patch, prefix = min(fitting.items(), key=lambda pair: pair[1])
    return {
        "poolings": {"cls": dim, "mean": dim} if prefix else {"mean": dim},
        "pooling": "cls" if prefix else "mean",
        "size_multiple": patch,
        "prefix_tokens": prefix,
        **{"map_layers": (0,), "map_channels": (dim,), "map_strides": (patch,)},
    }


def _behaviour(module: nn.Module, output: Tensor) -> str:
    """SHA-256 of what the module is beside its tensors: classes, their code, plain settings, and what it gives.

    Two modules of the same tensors and other code or settings never share features. Outputs are taken coarsely, for
    machines differ in the last digits.
    """
    parts = []
    for path, part in module.named_modules():
        kind = type(part)
        if isinstance(part, torch.jit.ScriptModule):
            raise EvalfmError("A scripted module does not show what it does; give the module that it was made of.")
        settings = {name: _plain(value) for name, value in vars(part).items() if name not in _TORCHS_OWN}
        hooks = [_plain(list(getattr(part, name, {}).values())) for name in _HOOKS]
        parts.append([path, kind.__qualname__, part.extra_repr(), foreign_code(kind), _plain(kind.forward), settings])
        parts[-1].append(hooks)
    signs = torch.randint(0, 2, (4, output[0].numel()), generator=torch.Generator().manual_seed(0)).float() * 2 - 1
    sums = signs @ output[0].flatten().cpu() / max(1.0, output[0].numel() ** 0.5)
    content = {"module": parts, "shape": list(output.shape[1:]), "sums": [f"{float(each):.2e}" for each in sums]}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _plain(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """A setting of a module as text that is the same in every process; ``inside``: what it is a part of."""
    if isinstance(value, Tensor):
        return tensor_digest({"": value.detach()})
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        return [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype):
        return repr(value)
    if id(value) in inside or len(inside) > MOST_INSIDE or isinstance(value, nn.Module | ModuleType):
        # Of a module its own part of the list speaks.
        return type(value).__qualname__

    def plain(part: Any) -> Any:
        return _plain(part, (*inside, id(value)))

    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(str(plain(each)) for each in value)
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, CodeType):
        return [value.co_code.hex(), [plain(each) for each in value.co_consts], value.co_names]
    if isinstance(value, partial):
        return [plain(value.func), plain(value.args), plain(value.keywords)]
    names = [getattr(value, "__module__", ""), getattr(value, "__qualname__", type(value).__qualname__)]
    if isinstance(value, MethodType):
        return [*names, plain(value.__func__), plain(value.__self__)]
    if isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
        return [
            *names,
            plain(value.__code__),
            *(plain(each) for each in (value.__defaults__, value.__kwdefaults__, held)),
        ]
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return names
    return [*names, plain(vars(value))]
