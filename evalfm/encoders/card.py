"""The facts of an encoder as a frozen card: what it is, where its weights are, what it eats and gives."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from evalfm.cards import CardModel

Unit = Literal["unit-interval", "HU", "raw"]
ResizePolicy = Literal["squash", "shortest-edge-crop", "letterbox"]

# YAML reads a bare yes or no as a boolean.
Answer = Annotated[
    Literal["yes", "no", "ask"],
    BeforeValidator(lambda value: {True: "yes", False: "no"}[value] if isinstance(value, bool) else value),
]

REVIEWED_PICKLE_GLOBALS = frozenset(
    {
        "argparse.Namespace",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "numpy.dtypes.Float32DType",
        "numpy.dtypes.Float64DType",
        "numpy.dtypes.Int64DType",
    }
)
"""Pickled classes that only hold data; a card may allow these and no others."""


class WeightsFacts(CardModel):
    """Where trained tensors come from and how the authors wrapped them.

    Attributes:
        source: ``hub`` (fetched), ``path`` (the user gives a file), ``none`` (there are no trained
            tensors: the encoder has none at all, or they are always drawn).
        repository: the hub's repository id; ``file`` in it, at the pinned ``revision`` (a commit).
        sha256: digest of the file, where it is known.
        wrapper: keys that lead from the checkpoint's top to its tensors, such as ``[teacher]``.
        strip_prefix: what the authors' wrapper put before each name, such as ``module.``.
        unexpected_keys: patterns (``fc.*``) of tensors in the file that the encoder does not use.
        pickle_globals: reviewed data classes that the authors' pickle holds.
    """

    source: Literal["hub", "path", "none"]
    repository: str | None = None
    file: str | None = None
    revision: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    wrapper: tuple[str, ...] = ()
    strip_prefix: str = ""
    unexpected_keys: tuple[str, ...] = ()
    pickle_globals: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> WeightsFacts:
        if self.source == "hub" and not (self.repository and self.file and self.revision):
            raise ValueError("a hub source needs repository, file and a pinned revision")
        foreign = sorted(set(self.pickle_globals) - REVIEWED_PICKLE_GLOBALS)
        if foreign:
            raise ValueError(f"pickle_globals {foreign} are not among the reviewed data classes")
        return self


class Preprocessing(CardModel):
    """How a film becomes the model's input.

    Attributes:
        input_size: (height, width) of the tensor.
        resize: ``squash`` to the input size; ``shortest-edge-crop``: the short edge to ``resize_to``, then
            the centre; ``letterbox``: the long edge fits, the rest is ``pad_value``.
        resize_to: length of the short edge before the crop, in pixels.
        pad_value: fill of a letterbox, on the image's own scale (0 is black in the unit interval).
        interpolation, antialias: of the resize; antialiased filters are PIL's.
        channels: what the model takes; one channel is repeated to three, three are reduced to one by luma.
        units: what images the encoder accepts.
        input_range: what 0 and 1 of the unit interval become before ``mean`` and ``std``; None leaves HU and
            raw alone.
        mean, std: one value per channel, on the scale of ``input_range``.
    """

    input_size: tuple[int, int]
    resize: ResizePolicy
    resize_to: int | None = None
    pad_value: float = 0.0
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    antialias: bool
    channels: Literal[1, 3]
    units: tuple[Unit, ...]
    input_range: tuple[float, float] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _check(self) -> Preprocessing:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} value(s), one per channel")
        if any(value <= 0 for value in self.std):
            raise ValueError("std must be positive")
        if min(self.input_size) < 1:
            raise ValueError("input_size must be positive")
        if self.resize == "shortest-edge-crop" and (self.resize_to is None or self.resize_to < max(self.input_size)):
            raise ValueError("shortest-edge-crop needs resize_to, at least the longer side of input_size")
        if self.resize != "shortest-edge-crop" and self.resize_to is not None:
            raise ValueError(f"resize_to has no meaning with {self.resize}")
        if self.interpolation == "nearest" and self.antialias:
            raise ValueError("nearest cannot be antialiased")
        if not self.units:
            raise ValueError("units must name at least one unit")
        if (self.units == ("unit-interval",)) != (self.input_range is not None):
            raise ValueError("input_range goes with the unit interval alone; HU and raw values are passed as they are")
        return self


class PretrainingSet(CardModel):
    """A data set the encoder has seen: ``images`` alone, or with ``labels`` or ``text``."""

    name: str
    what: Literal["images", "labels", "text"]


class EncoderCard(CardModel):
    """Everything that is known of an encoder; its loader, its key and its documentation read nothing else.

    Attributes:
        name: ``arch.tag``, the tag where one architecture has several weights; the card's file bears it.
        family: which loader builds it; ``own`` for an encoder from the user's code.
        architecture: the library's name of it, with ``arguments`` for its constructor.
        parameters: how many the encoder itself has (no classifier), at its native input size.
        poolings: dimension of each named pooling; ``pooling`` is the one used (``name@pooling`` chooses).
        map_layers: block or stage indices of the library that the maps are taken from, shallow to deep.
        map_channels, map_strides: one per map; a map has ceil(h / stride) rows.
        map_norm: ``final`` where the model's last norm is applied to every token map, ``none`` where not.
        prefix_tokens: how many tokens (CLS, registers) precede the patches.
        size_multiple: input sizes must be multiples of this (the patch size of a ViT).
        pretraining_data: for contamination flags.
        unconfirmed: one sentence for each fact that nobody checked against the source.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    summary: str
    family: Literal["timm", "torchvision", "transformers", "classical", "light", "own"]
    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: WeightsFacts
    licence: str
    commercial_use: Answer
    gated: bool = False
    parameters: int
    preprocessing: Preprocessing
    size_multiple: int = 1
    poolings: dict[str, int]
    pooling: str
    map_layers: tuple[int, ...] = ()
    map_channels: tuple[int, ...] = ()
    map_strides: tuple[int, ...] = ()
    map_norm: Literal["final", "none"] = "none"
    prefix_tokens: int = 0
    text_tower: str | None = None
    paradigm: Literal["image-only", "image-text", "label-supervised", "none"]
    domain: str
    pretraining_data: tuple[PretrainingSet, ...] = ()
    paper: str | None = None
    unconfirmed: tuple[str, ...] = ()

    @property
    def pooled_dim(self) -> int:
        """Dimension of the chosen pooling."""
        return self.poolings[self.pooling]

    @model_validator(mode="after")
    def _check(self) -> EncoderCard:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:@-]*", self.name):
            raise ValueError(f"name {self.name!r} may hold letters, digits, '.', '-' and '_' only")
        if self.pooling not in self.poolings:
            raise ValueError(f"pooling {self.pooling!r} is not among poolings {sorted(self.poolings)}")
        if not len(self.map_channels) == len(self.map_strides) == len(self.map_layers):
            raise ValueError("map_layers, map_channels and map_strides need the same length")
        if list(self.map_strides) != sorted(self.map_strides, key=int):
            raise ValueError("maps go from shallow to deep: map_strides must not fall")
        wrong = [side for side in self.preprocessing.input_size if side % self.size_multiple]
        if wrong:
            raise ValueError(f"input_size {wrong[0]} is not a multiple of size_multiple {self.size_multiple}")
        return self
