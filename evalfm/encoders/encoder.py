"""An encoder: it turns images into features. Its card holds its facts, and one hook runs its model.

``prepare`` makes of an image the tensor that the card asks for, ``encode`` of a batch the pooled embedding [B, D] and
the feature maps [B, C, H, W], checked against the card. Families of models (:mod:`evalfm.encoders.families`)
implement ``_forward`` alone; ``key`` names everything that decides the features, so that the store computes each only
once.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, final

import torch
from torch import Tensor, nn

from evalfm.cautions import Caution
from evalfm.data.geometry import Geometry
from evalfm.encoders.card import EncoderCard, Preprocessing
from evalfm.encoders.frozen import FeaturePath, FrozenForward, Outputs
from evalfm.encoders.model_input import model_input
from evalfm.encoders.outputs import as_map, pool
from evalfm.encoders.preprocessing import Preparer
from evalfm.encoders.text import TextTower
from evalfm.encoders.weights import foreign_code, tensor_digest
from evalfm.errors import EvalfmError

if TYPE_CHECKING:
    from pathlib import Path

    from evalfm.data.images import Image, StoredImage

CONTRACT = 3
"""Raised whenever evalfm's own preparation, pooling or built-in features change."""

Precision = Literal["float32", "bfloat16", "float16"]

PRECISIONS: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_LIBRARIES = {
    "timm": ("timm",),
    "torchvision": ("torchvision",),
    "transformers": ("transformers",),
    "open_clip": ("open_clip_torch", "timm"),
    "ports": ("timm", "torchvision"),
}


@dataclass(frozen=True)
class Features:
    """What an encoder says of a batch of images.

    ``pooled`` is the published global embedding [B, D]; ``maps`` are spatial maps [B, C, H, W], shallow to
    deep.
    """

    pooled: Tensor
    maps: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class RawFeatures:
    """What a model's own forward gives, before the card's norm, prefix and pooling are applied.

    Attributes:
        layers: one per map of the card: tokens [B, N, C] with their prefix, or maps [B, C, H, W].
        final: the last tokens after the model's final norm, or the last map; the poolings ``cls`` (first
            token) and ``mean`` / ``gap`` (over patches or cells) are taken from it.
        pooled: the model's own poolings by name, [B, D]; they go before those of ``final``.
        prefix: tokens [B, P, C] before the patches of the last of ``layers``, where that is a map [B, C, H, W].
    """

    layers: tuple[Tensor, ...] = ()
    final: Tensor | None = None
    pooled: Mapping[str, Tensor] = field(default_factory=dict)
    prefix: Tensor | None = None


@dataclass(frozen=True)
class EncoderState:
    """How one encoder is run: the card's preprocessing with overrides, and where its weights came from.

    Attributes:
        preprocessing: None takes the card's.
        precision: in which the model runs; features are float32 in any case.
        compiled: the frozen model runs through torch.compile.
        random_weights: nothing was learnt; the initialisation is seeded.
        weights_file: SHA-256 of the file read, if any.
        origin: where that file lies; a tokenizer is looked for beside it. Never written to a run.
        code_digest: SHA-256 of the user's file that built the encoder, if any.
        cautions: cautions that a run must repeat.
    """

    preprocessing: Preprocessing | None = None
    precision: Precision = "float32"
    compiled: bool = False
    random_weights: bool = False
    weights_file: str | None = None
    origin: Path | None = None
    code_digest: str | None = None
    cautions: tuple[Caution, ...] = ()


class Encoder(nn.Module, ABC):
    """Turns images into features. A subclass implements ``_forward`` (and ``_final_norm``) only.

    The card must hold every setting that changes the features and is neither a tensor nor code: the key is
    made of the tensors, the card, the code's file, the preprocessing, the precision and the libraries.

    The encoder's own weights stay float32, so that it can be trained and named by them: ``forward`` casts them at
    every call, and ``encode`` runs a copy that was converted once (:mod:`evalfm.encoders.frozen`).
    """

    def __init__(self, card: EncoderCard, state: EncoderState | None = None) -> None:
        super().__init__()
        self.card = card
        self.state = state or EncoderState()
        self.preparer = Preparer(self.state.preprocessing or card.preprocessing, card.name)
        self._digest: str | None = None
        # In a list, so that the tower is no part of the encoder's own parameters.
        self._towers: list[TextTower] = []
        self._frozen = FrozenForward()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        sealed = {"prepare", "forward", "encode"} & set(vars(cls))
        if sealed:
            raise TypeError(
                f"{cls.__name__} overrides {', '.join(sorted(sealed))}; an encoder implements _forward only"
            )

    @abstractmethod
    def _forward(self, batch: Tensor) -> RawFeatures:
        """Run the model on a prepared batch [B, C, h, w]."""

    def _final_norm(self, tokens: Tensor) -> Tensor:
        """The model's last norm, applied to map tokens [B, N, C] where ``map_norm`` is ``final``."""
        raise NotImplementedError(f"{type(self).__name__} has no final norm; its card must say map_norm: none")

    def _text_tower(self) -> TextTower:
        """Build the text tower of the same weights; called once, when first needed."""
        raise NotImplementedError(f"{type(self).__name__} has no text tower; its card must name none")

    @final
    def prepare(self, image: Image | StoredImage) -> tuple[Tensor, Geometry]:
        """The model's input [C, h, w] for one image, and its geometry; see :class:`Preparer` and ``model_input``.

        Raises:
            EvalfmError: the image's unit, channels or values are not what the encoder takes.

        >>> import numpy as np
        >>> from evalfm.data.images import Image
        >>> from evalfm.encoders import load_encoder
        >>> radiograph = Image(np.zeros((1, 512, 300), np.float32), "unit-interval", 8, None, "example")
        >>> tensor, geometry = load_encoder("pixels").prepare(radiograph)
        >>> tensor.shape
        torch.Size([1, 256, 256])
        """
        prepared = self.preparer(image)
        return model_input(torch.from_numpy(prepared.pixels)[None], self.preparer.facts)[0], prepared.geometry

    @final
    def geometry_of(self, height: int, width: int) -> Geometry:
        """How an image [height, width] lies in the model's input.

        >>> from evalfm.encoders import load_encoder
        >>> load_encoder("pixels").geometry_of(512, 300).output
        (256, 256)
        """
        return self.preparer.geometry_of(height, width)

    @final  # type: ignore[misc]
    def forward(self, batch: Tensor) -> Features:
        """Features of a prepared batch [B, C, h, w], float32, differentiable.

        Raises:
            EvalfmError: the batch has another shape, or the model gives other dimensions than its card says.
        """
        self._check_batch(batch)
        dtype = PRECISIONS[self.precision]
        # A model that is only laid out (device meta) has shapes to tell, and autocast does not know that device.
        place = "cpu" if batch.is_meta else batch.device.type
        with torch.autocast(place, dtype, enabled=dtype != torch.float32):
            outputs = self.outputs(batch)
        return self._features(outputs, len(batch))

    def outputs(self, batch: Tensor) -> Outputs:
        """Pooled features and maps of a batch as the model gives them: unchecked, in the numbers that it runs in."""
        raw = self._forward(batch)
        layers = zip(raw.layers, self.map_strides, strict=False)
        maps = (as_map(each, stride, self.card, self.input_size, self._final_norm) for each, stride in layers)
        return (pool(raw, self.card, self._final_norm), *maps)

    @final
    @torch.no_grad()
    def encode(self, batch: Tensor, check: bool = True) -> Features:
        """``forward`` of the frozen encoder: in evaluation mode, without gradient, weights converted once.

        Without ``check`` nothing waits for the device; whoever leaves it out asks :func:`finite_flag` later.

        Raises:
            EvalfmError: as ``forward``; or, with ``check``, the features are not finite.

        >>> from evalfm.encoders import load_encoder
        >>> features = load_encoder("pixels").encode(torch.zeros(2, 1, 256, 256))
        >>> features.pooled.shape, features.maps[0].shape
        (torch.Size([2, 256]), torch.Size([2, 16, 16, 16]))
        """
        self._check_batch(batch)
        with self._evaluating():
            outputs = self._frozen(self, batch)
            features = self(batch) if outputs is None else self._features(outputs, len(batch))
        assert isinstance(features, Features)
        if check and not bool(finite_flag(features)):
            raise EvalfmError(self.not_finite)
        return features

    @property
    def not_finite(self) -> str:
        """The sentence for features that are not finite."""
        other = "--precision bfloat16 or float32" if self.precision == "float16" else "--precision float32"
        return (
            f"{self.card.name} gives NaN or infinite features in {self.precision}; take {other}, or check the weights."
        )

    @property
    @torch.no_grad()
    def feature_path(self) -> FeaturePath:
        """How ``encode`` runs on this device; found out by a trial where weights are converted or compiled."""
        with self._evaluating():
            return self._frozen.path(self)

    def unchanged_parts(self) -> list[object]:
        """What a copy with other weights shares: facts, and the tower of texts."""
        return [self.card, self.state, self.preparer, self._towers]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        in_training = [module for module in self.modules() if module.training]
        if in_training:
            self.eval()
        try:
            yield
        finally:
            for module in in_training:
                module.training = True

    @final
    def text_tower(self) -> TextTower:
        """The tower that reads sentences, on the encoder's device; loaded when first needed.

        Raises:
            EvalfmError: the encoder has none, or a file of its tokenizer is missing.
        """
        if self.card.text_tower is None:
            raise EvalfmError(
                f"{self.card.name} reads no text; `evalfm ls encoders --text` lists the encoders that do."
            )
        if not self._towers:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self._towers.append(self._text_tower().eval().requires_grad_(False))
        first = next(iter(self.parameters()), None)
        return self._towers[0] if first is None else self._towers[0].to(first.device)

    @final
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [N, D] of sentences in the space of the image pooling that the card's ``text_tower`` names.

        Float32, as the model gives them, not brought to length 1; similarities are cosines times
        ``text_tower().logit_scale``.

        Raises:
            EvalfmError: as ``text_tower`` and :meth:`TextTower.encode`.
        """
        return self.text_tower().encode(texts)

    @property
    def pooled_dim(self) -> int:
        """Dimension of the pooled embedding."""
        return self.card.pooled_dim

    @property
    def map_channels(self) -> tuple[int, ...]:
        """Channels of each map, shallow to deep."""
        return self.card.map_channels

    @property
    def map_strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each map, shallow to deep."""
        return self.card.map_strides

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the prepared tensor."""
        return self.preparer.facts.input_size

    @property
    def random_weights(self) -> bool:
        """Whether the weights were drawn and never trained."""
        return self.state.random_weights

    @property
    def precision(self) -> Precision:
        """Number format in which the model runs."""
        return self.state.precision

    @property
    def cautions(self) -> tuple[Caution, ...]:
        """Sentences that a run must repeat."""
        return self.state.cautions

    def add_cautions(self, *cautions: Caution) -> None:
        """Add cautions that a run must repeat."""
        self.state = replace(self.state, cautions=(*self.state.cautions, *cautions))

    @property
    def weights_digest(self) -> str:
        """SHA-256 of every tensor with its name, as they were when first needed (or last ``seal``ed)."""
        if self._digest is None:
            self.seal()
        assert self._digest is not None
        return self._digest

    def seal(self) -> None:
        """Take the tensors as they are now for ``weights_digest``, ``key`` and ``encode``, after a change."""
        self._digest = tensor_digest(self.state_dict())
        self._frozen.forget()

    @property
    def key(self) -> str:
        """SHA-256 of everything that decides the features."""
        content = {
            "contract": CONTRACT,
            "weights": self.weights_digest,
            "card": self.card.feature_facts(),
            "preprocessing": self.preparer.facts.model_dump(mode="json"),
            "precision": self.precision,
            "code": [self.state.code_digest, *foreign_code(type(self))],
            "libraries": {name: version(name) for name in ("torch", *_LIBRARIES.get(self.card.family, ()))},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _check_batch(self, batch: Tensor) -> None:
        expected = (self.preparer.facts.channels, *self.input_size)
        if batch.ndim != 4 or tuple(batch.shape[1:]) != expected:
            raise EvalfmError(
                f"{self.card.name} takes batches [B, {', '.join(map(str, expected))}], "
                f"not {list(batch.shape)}; "
                "pass images through prepare first."
            )

    def _features(self, outputs: Outputs, batch: int) -> Features:
        """``outputs`` in float32, checked against the card."""
        features = Features(outputs[0].float(), tuple(each.float() for each in outputs[1:]))
        expected = [(batch, self.pooled_dim)] + [
            (batch, channels, *(math.ceil(side / stride) for side in self.input_size))
            for channels, stride in zip(self.map_channels, self.map_strides, strict=True)
        ]
        actual = [tuple(each.shape) for each in (features.pooled, *features.maps)]
        if actual != expected:
            raise EvalfmError(
                f"{self.card.name} gives features {actual}, its card promises {expected}; "
                "fix the card, or install the library version it was written for."
            )
        return features


def finite_flag(features: Features) -> Tensor:
    """Whether all features are finite, as a 0-dim bool tensor on their device: nothing waits for it.

    >>> finite_flag(Features(torch.tensor([[1.0, float("nan")]])))
    tensor(False)
    """
    # The extremes are NaN or infinite if any value is, and are found in one pass without overflow.
    extremes = [extreme for each in (features.pooled, *features.maps) for extreme in torch.aminmax(each)]
    return torch.isfinite(torch.stack(extremes)).all()


def is_precision(name: str) -> TypeGuard[Precision]:
    """Whether ``name`` is a precision that encoders run in.

    >>> is_precision("float32"), is_precision("float64")
    (True, False)
    """
    return name in PRECISIONS
