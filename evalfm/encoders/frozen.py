"""How a frozen encoder runs: a copy of its weights in its precision and layout, compiled where asked."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from evalfm.cautions import Caution

if TYPE_CHECKING:
    from evalfm.encoders.encoder import Encoder

CONVOLUTIONS = 3
"""A network with as many convolutions is convolutional; a transformer has one, which cuts the image into patches."""

SURELY_RIGHT, MORE_THAN_AUTOCAST = 0.02, 4.0
"""Converted weights are kept where 1 - cosine to float32 is at most the first, or so many times that of autocast."""

BACKEND = "inductor"
"""torch.compile's own; tests take one that is quick."""

Outputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class FeaturePath:
    """The way in which features are computed: what may change them by rounding and is no part of the key.

    Attributes:
        precision: number format of the weights; with ``-autocast`` where float32 weights are cast at every call.
        compiled: through torch.compile.
        device: ``cpu``, ``cuda`` or ``mps``.
    """

    precision: str
    compiled: bool
    device: str

    @property
    def name(self) -> str:
        """One word for a folder of the feature store.

        >>> FeaturePath("bfloat16", True, "cuda").name
        'bfloat16-compiled-cuda'
        >>> FeaturePath("float32", False, "cpu").name
        'float32-cpu'
        """
        return "-".join([self.precision, *(["compiled"] if self.compiled else []), self.device])


def is_convolutional(model: nn.Module) -> bool:
    """Whether ``model`` is a network of convolutions and no transformer over patches.

    >>> is_convolutional(nn.Sequential(*(nn.Conv2d(1, 1, 3) for _ in range(4))))
    True
    """
    return sum(isinstance(module, nn.Conv2d) for module in model.modules()) >= CONVOLUTIONS


def automatic_precision(model: nn.Module, device: torch.device) -> str:
    """The precision that ``auto`` stands for: float32 on a processor or a GPU without bfloat16.

    Elsewhere float16 for networks of convolutions, and bfloat16 for transformers, whose largest values leave float16's
    range. bfloat16 keeps the features of transformers (cosine to float32 .9999) but not those of convolutions
    (EfficientNet-Lite0: .995); see docs/methodology.md.
    """
    if device.type != "cuda" or not torch.cuda.is_bf16_supported():
        return "float32"
    return "float16" if is_convolutional(model) else "bfloat16"


class FrozenForward:
    """Runs a frozen encoder in its precision; made again when a weight has changed since.

    Belongs to one encoder; a copy of the encoder (or one sent to another process) starts with a new one.
    """

    def __init__(self) -> None:
        self._made: _Made | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenForward:
        return FrozenForward()

    def __reduce__(self) -> tuple[type[FrozenForward], tuple[()]]:
        return FrozenForward, ()

    def forget(self) -> None:
        """Take the weights anew at the next call."""
        self._made = None

    def path(self, encoder: Encoder) -> FeaturePath:
        """How ``encoder`` runs here."""
        made = self._of(encoder)
        precision = encoder.precision
        if made.model is None and precision != "float32":
            precision += "-autocast"  # type: ignore[assignment]
        return FeaturePath(precision, made.compiled is not None, _place(encoder).type)

    def __call__(self, encoder: Encoder, batch: Tensor) -> Outputs | None:
        """Pooled features and maps in the precision of the weights; None where ``encoder`` itself is to be called."""
        made = self._of(encoder)
        if made.compiled is not None:
            return made.compiled(batch.to(made.dtype))
        return None if made.model is None else made.model.outputs(batch.to(made.dtype))

    def _of(self, encoder: Encoder) -> _Made:
        state = _state(encoder)
        if self._made is None or self._made.state != state:
            self._made = None
            self._made = _make(encoder, state)
        return self._made


@dataclass
class _Made:
    """What runs: ``compiled``, else ``model``, else the encoder itself; for weights of one ``state``."""

    state: tuple[object, ...]
    dtype: torch.dtype = torch.float32
    model: Encoder | None = None
    compiled: Callable[[Tensor], Outputs] | None = None


def _make(encoder: Encoder, state: tuple[object, ...]) -> _Made:
    made = _Made(state)
    if encoder.precision == "float32":
        # On a processor the model itself runs, whose features are the library's own to the last digit.
        relaid = _place(encoder).type == "cuda" and is_convolutional(encoder)
        made.model = _copy(encoder, torch.float32, buffers=False) if relaid else None
    else:
        dtype = getattr(torch, encoder.precision)
        made.model = _converted(encoder, dtype)
        made.dtype = torch.float32 if made.model is None else dtype
    if encoder.state.compiled:
        if next(encoder.parameters(), None) is None:
            # A compiler may think about a formula such as that of hog for longer than it could ever save.
            words = f"{encoder.card.name} is a formula without weights, so it is not compiled."
            encoder.add_cautions(Caution("not-compiled", words))
        elif made.model is None and encoder.precision != "float32":
            words = f"{encoder.card.name} runs in {encoder.precision} under autocast only, so it is not compiled."
            encoder.add_cautions(Caution("not-compiled", words))
        else:
            made.compiled = _compiled(encoder, made)
    return made


def _state(encoder: Encoder) -> tuple[object, ...]:
    """Changes with every change of a weight that torch sees, of the precision, and of the device."""
    tensors = [*encoder.parameters(), *encoder.buffers()]
    return (encoder.precision, *((id(each), each.data_ptr(), each._version) for each in tensors))


def _place(encoder: Encoder) -> torch.device:
    first = next((each for each in [*encoder.parameters(), *encoder.buffers()]), None)
    return torch.device("cpu") if first is None else first.device


def _trial_batch(encoder: Encoder) -> Tensor:
    shape = (1, encoder.preparer.facts.channels, *encoder.input_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(_place(encoder))


def _converted(encoder: Encoder, dtype: torch.dtype) -> Encoder | None:
    """A copy whose weights are ``dtype``; None where it does not run, or strays further than autocast does.

    Buffers stay as they are at first: tables of rotary positions lose too much in two bytes.
    """
    batch = _trial_batch(encoder)
    exact = encoder.outputs(batch)

    def is_close(found: Outputs) -> bool:
        apart = _apart(found, exact)
        if SURELY_RIGHT < apart < float("inf"):
            with torch.autocast(batch.device.type, dtype):
                return apart <= MORE_THAN_AUTOCAST * _apart(encoder.outputs(batch), exact)
        return apart <= SURELY_RIGHT

    for buffers in (False, True):
        model = _copy(encoder, dtype, buffers)
        try:
            found = model.outputs(batch.to(dtype))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            logging.getLogger(__name__).debug("%s in %s: %s", encoder.card.name, dtype, error)
            continue
        if is_close(found):
            return model
    return None


def _copy(encoder: Encoder, dtype: torch.dtype, buffers: bool) -> Encoder:
    """Weights converted, all else shared; batch norm keeps float32, in which its variances cannot underflow.

    The weights of convolutions lie channels last, as they run fastest. Hooks are shared: whoever sets one on a module
    of the encoder sees the copy run.
    """
    layout = torch.channels_last if is_convolutional(encoder) else torch.contiguous_format
    kept = {id(each) for module in encoder.modules() if isinstance(module, _BatchNorm) for each in _own(module)}
    memo: dict[int, Any] = {id(each): each for each in encoder.unchanged_parts()}
    for module in encoder.modules():
        memo |= {id(each): each for name, each in vars(module).items() if name.startswith("_forward_")}
    for parameter in encoder.parameters():
        convert = parameter.is_floating_point() and id(parameter) not in kept
        tensor = parameter.detach().to(dtype) if convert else parameter.detach()
        if parameter.ndim == 4:
            tensor = tensor.contiguous(memory_format=layout)
        memo[id(parameter)] = nn.Parameter(tensor, requires_grad=False)
    for buffer in encoder.buffers():
        convert = buffers and buffer.is_floating_point() and id(buffer) not in kept
        memo[id(buffer)] = buffer.to(dtype) if convert else buffer
    return copy.deepcopy(encoder, memo)


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _apart(found: Outputs, exact: Outputs) -> float:
    """The largest 1 - cosine among outputs; infinite where one is not finite."""
    worst = 0.0
    for one, other in zip(found, exact, strict=True):
        cosine = torch.cosine_similarity(one.flatten(1).float(), other.flatten(1).float(), dim=1)
        if not bool(torch.isfinite(one).all()):
            return float("inf")
        worst = max(worst, float((1 - cosine).max()))
    return worst


def _compiled(encoder: Encoder, made: _Made) -> Callable[[Tensor], Outputs] | None:
    """``outputs`` through torch.compile for any size of batch; None, with a caution, where that fails."""
    model = encoder if made.model is None else made.model
    try:
        function: Any = torch.compile(model.outputs, backend=BACKEND)

        def run(batch: Tensor) -> Outputs:
            # One image would be compiled apart from all other sizes.
            alone = len(batch) == 1
            given = torch.cat([batch, batch]) if alone else batch
            torch._dynamo.maybe_mark_dynamic(given, 0)
            outputs: Outputs = function(given)
            return tuple(each[:1] for each in outputs) if alone else outputs

        run(_trial_batch(encoder).to(made.dtype).repeat(2, 1, 1, 1))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Compilers fail in every way there is, and features do not need them.
        logging.getLogger(__name__).debug("%s was not compiled: %s", encoder.card.name, error)
        error = getattr(error, "inner_exception", error)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        words = f"{encoder.card.name} could not be compiled ({reason}), so it runs as it is."
        encoder.add_cautions(Caution("not-compiled", words))
        return None
    return run
