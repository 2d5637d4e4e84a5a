"""The contract of an encoder: a card that holds its facts and one hook that runs its model."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalfm.cautions import Caution
from evalfm.data.geometry import Geometry
from evalfm.encoders.card import EncoderCard, Preprocessing
from evalfm.encoders.model_input import model_input
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
    """

    layers: tuple[Tensor, ...] = ()
    final: Tensor | None = None
    pooled: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class EncoderState:
    """How one encoder is run: the card's preprocessing with overrides, and where its weights came from.

    Attributes:
        preprocessing: None takes the card's.
        precision: in which the model runs; features are float32 in any case.
        random_weights: nothing was learnt; the initialisation is seeded.
        weights_file: SHA-256 of the file read, if any.
        origin: where that file lies; a tokenizer is looked for beside it. Never written to a run.
        code_digest: SHA-256 of the user's file that built the encoder, if any.
        cautions: cautions that a run must repeat.
    """

    preprocessing: Preprocessing | None = None
    precision: Precision = "float32"
    random_weights: bool = False
    weights_file: str | None = None
    origin: Path | None = None
    code_digest: str | None = None
    cautions: tuple[Caution, ...] = ()


class Encoder(nn.Module, ABC):
    """Turns images into features. A subclass implements ``_forward`` (and ``_final_norm``) only.

    The card must hold every setting that changes the features and is neither a tensor nor code: the key is
    made of the tensors, the card, the code's file, the preprocessing, the precision and the libraries.
    """

    def __init__(self, card: EncoderCard, state: EncoderState | None = None) -> None:
        super().__init__()
        self.card = card
        self.state = state or EncoderState()
        self.preparer = Preparer(self.state.preprocessing or card.preprocessing, card.name)
        self._digest: str | None = None
        # In a list, so that the tower is no part of the encoder's own parameters.
        self._towers: list[TextTower] = []

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
            raw = self._forward(batch)
            maps = tuple(map(self._as_map, raw.layers, self.map_strides))
            pooled = self._pool(raw)
        features = Features(pooled.float(), tuple(each.float() for each in maps))
        self._check_features(features, len(batch))
        return features

    @final
    @torch.no_grad()
    def encode(self, batch: Tensor) -> Features:
        """``forward`` in evaluation mode and without gradient.

        Raises:
            EvalfmError: as ``forward``; or the features are not finite.

        >>> from evalfm.encoders import load_encoder
        >>> features = load_encoder("pixels").encode(torch.zeros(2, 1, 256, 256))
        >>> features.pooled.shape, features.maps[0].shape
        (torch.Size([2, 256]), torch.Size([2, 16, 16, 16]))
        """
        in_training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            features = self(batch)
        finally:
            for module in in_training:
                module.training = True
        assert isinstance(features, Features)
        if not _is_finite((features.pooled, *features.maps)):
            raise EvalfmError(
                f"{self.card.name} gives NaN or infinite features in {self.precision}; "
                "use --precision float32, or check the weights."
            )
        return features

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
        """Take the tensors as they are now for ``weights_digest`` and ``key``, after a change."""
        self._digest = tensor_digest(self.state_dict())

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

    def _as_map(self, layer: Tensor, stride: int) -> Tensor:
        if layer.ndim == 4:
            return self._cover(layer, stride)
        if self.card.map_norm == "final":
            layer = self._final_norm(layer)
        patches = layer[:, self.card.prefix_tokens :]
        rows, columns = (side // self.card.size_multiple for side in self.input_size)
        return patches.transpose(1, 2).reshape(len(patches), -1, rows, columns)

    def _cover(self, cells: Tensor, stride: int) -> Tensor:
        """Repeat the border cells that unpadded convolutions lose, so that the map covers the whole input."""
        lost_y, lost_x = (
            math.ceil(side / stride) - count for side, count in zip(self.input_size, cells.shape[2:], strict=True)
        )
        if (lost_y, lost_x) == (0, 0) or not (0 <= lost_y <= 2 and 0 <= lost_x <= 2):
            return cells
        # An unpadded stem shifts the first cell inwards: the odd cell goes before.
        before_y, before_x = (lost_y + 1) // 2, (lost_x + 1) // 2
        padding = (before_x, lost_x - before_x, before_y, lost_y - before_y)
        return functional.pad(cells, padding, mode="replicate")

    def _pool(self, raw: RawFeatures) -> Tensor:
        name = self.card.pooling
        if name in raw.pooled:
            return raw.pooled[name]
        if raw.final is not None and raw.final.ndim == 3:
            if name == "cls":
                return raw.final[:, 0]
            if name == "mean":
                return raw.final[:, self.card.prefix_tokens :].mean(1)
        if raw.final is not None and raw.final.ndim == 4 and name in ("gap", "mean"):
            return raw.final.mean((2, 3))
        raise EvalfmError(f"{self.card.name} has no pooling {name!r}; fix the card's poolings.")

    def _check_features(self, features: Features, batch: int) -> None:
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


def _is_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all values are finite: a finite sum says so in one pass and one wait for the device."""
    if bool(torch.isfinite(torch.stack([each.sum() for each in tensors]).sum())):
        return True
    return all(bool(torch.isfinite(each).all()) for each in tensors)


def is_precision(name: str) -> TypeGuard[Precision]:
    """Whether ``name`` is a precision that encoders run in.

    >>> is_precision("float32"), is_precision("float64")
    (True, False)
    """
    return name in PRECISIONS
