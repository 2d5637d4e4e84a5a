"""The facts of an encoder as a frozen card: what it is, where its weights are, what it eats and gives."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from evalfm.cards import CardModel, refuse

Unit = Literal["unit-interval", "HU", "raw"]
ResizePolicy = Literal["squash", "shortest-edge-crop", "letterbox"]
Scaling = Literal["range", "min-max-image", "equalize-image", "min-max-input", "z-score-input"]
Family = Literal["timm", "torchvision", "transformers", "open_clip", "ports", "classical", "light", "own"]

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


REVISION = re.compile(r"main|[0-9a-f]{7,40}|(?!layers-).*\d.*")
"""What may stand behind the first ``@`` of a repository's name beside what is chosen of its model."""

MAX_SIDE = 8192
"""Pixels along a side of a model's input; three channels of so many squared take 800 MB."""

DESCRIPTIVE = {
    *("summary", "licence", "commercial_use", "gated", "paradigm", "domain", "pretraining_data", "paper"),
    *("golden", "confirmed", "unconfirmed", "weights", "text_tower", "variants", "variant"),
}
"""Fields of a card that describe an encoder and leave its features as they are."""


class WeightsFacts(CardModel):
    """Where trained tensors come from and how the authors wrapped them.

    Attributes:
        source: ``hub`` (fetched), ``package`` (a file of an installed Python package), ``path`` (the user gives a
            file), ``none`` (there are no trained tensors: the encoder has none at all, or they are always drawn).
        repository: the hub's repository id; ``file`` in it, at the pinned ``revision``: a commit, or ``main`` where
            none is known, which ``unconfirmed`` then says.
        package: the package that ``file`` lies in, as it is imported, which it is not; ``distribution``: its name for
            pip. The file is pinned by ``sha256``.
        sha256: digest of the file, where it is known.
        request: where the weights are requested, if they lie on no hub: a sentence's object, such as
            ``the authors' request form (https://...)``.
        wrapper: keys that lead from the checkpoint's top to its tensors, such as ``[teacher]``.
        strip_prefix: what the authors' wrapper put before each name, such as ``module.``.
        rename: beginnings of names and what replaces them, after ``strip_prefix``; the first that fits counts.
        unexpected_keys: patterns (``fc.*``) of tensors in the file that the encoder does not use.
        pickle_globals: reviewed data classes that the authors' pickle holds.
    """

    source: Literal["hub", "package", "path", "none"]
    repository: str | None = None
    package: str | None = Field(default=None, pattern="^[A-Za-z_][A-Za-z0-9_]*$")
    distribution: str | None = Field(default=None, pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")
    file: str | None = None
    revision: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    request: str | None = None
    wrapper: tuple[str, ...] = ()
    strip_prefix: str = ""
    rename: dict[str, str] = Field(default_factory=dict)
    unexpected_keys: tuple[str, ...] = ()
    pickle_globals: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> WeightsFacts:
        foreign = sorted(set(self.pickle_globals) - REVIEWED_PICKLE_GLOBALS)
        is_whole = self.repository and self.file and self.revision
        is_packed = self.package and self.file and self.sha256
        leaves = self.file is not None and (self.file.startswith("/") or ".." in self.file.split("/"))
        refuse(
            {
                "a hub source needs repository, file and revision": self.source == "hub" and not is_whole,
                "a package as source needs package, file and sha256": self.source == "package" and not is_packed,
                "a file of a package lies in the package": self.source == "package" and leaves,
                f"pickle_globals {foreign} are not among the reviewed data classes": foreign,
            }
        )
        return self


class Preprocessing(CardModel):
    """How an image becomes the model's input.

    Attributes:
        input_size: (height, width) of the tensor.
        resize: ``squash`` to the input size; ``shortest-edge-crop``: the short edge to ``resize_to``, then
            the centre; ``letterbox``: the long edge fits, the rest is ``pad_value``.
        resize_to: length of the short edge before the crop, in pixels; with ``squash``, side of the square of which the
            input is the centre (None: the whole); with ``letterbox``, side of the padded square that is then resized to
            the input size (None: padded to the input size itself).
        pad: where a letterbox puts the image: in the ``centre``, or at the ``start`` (top left).
        pad_value: fill of a letterbox, on the image's own scale (0 is black in the unit interval).
        interpolation, antialias: of the resize; antialiased filters are PIL's.
        crop_rounding: where a centre crop begins that leaves an odd pixel: ``even`` rounds half to even, as torchvision
            and with it timm and open_clip do; ``down`` cuts the half off, as transformers does, and is what cards of
            its family mean unless they say otherwise.
        first_interpolation: filter of a letterbox's resize before it is padded, where it is another one.
        side_rounding: a letterbox's sides to whole pixels: ``nearest``, or ``down``.
        cut_overshoot: whether the last bicubic resize is cut back to the unit interval, as 8-bit images are; not where
            the authors resize numbers that they have normalised already.
        channels: what the model takes; one channel is repeated to three, three are reduced to one by luma.
        units: what images the encoder accepts.
        scaling: ``range``: values become ``input_range``. By the image's own values: ``min-max-image`` brings the
            smallest and largest pixel of the image to ``input_range``, ``min-max-input`` those of the resized input;
            ``equalize-image`` makes the histogram of the image's 256 levels flat before it is resized, colour as luma;
            ``z-score-input`` centres the input and divides by its unbiased standard deviation (below 1e-6: centred
            only), and leaves ``input_range`` out.
        input_range: what 0 and 1 become before ``mean`` and ``std``; None leaves values alone.
        mean, std: one value per channel, on the scale of ``input_range``.
    """

    input_size: tuple[int, int]
    resize: ResizePolicy
    resize_to: int | None = None
    pad: Literal["centre", "start"] = "centre"
    pad_value: float = 0.0
    interpolation: Literal["nearest", "bilinear", "bicubic"]
    antialias: bool
    crop_rounding: Literal["even", "down"] = "even"
    first_interpolation: Literal["bilinear", "bicubic", "lanczos"] | None = None
    side_rounding: Literal["nearest", "down"] = "nearest"
    cut_overshoot: bool = True
    channels: Literal[1, 3]
    units: tuple[Unit, ...]
    scaling: Scaling = "range"
    input_range: tuple[float, float] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def bounded(self) -> bool:
        """Whether a resized image lies in the unit interval before its scaling."""
        return self.cut_overshoot and (self.units == ("unit-interval",) or self.scaling == "min-max-image")

    @model_validator(mode="after")
    def _check(self) -> Preprocessing:
        crops, boxed = self.resize == "shortest-edge-crop", self.resize == "letterbox"
        ranged, in_unit = self.input_range is not None, self.units == ("unit-interval",)
        sides = (*self.input_size, self.resize_to or 1)
        squashed = self.resize_to if self.resize == "squash" else None
        refuse(
            {
                f"mean and std need {self.channels} value(s), one per channel": (
                    len(self.mean) != self.channels or len(self.std) != self.channels
                ),
                "std must be positive": any(value <= 0 for value in self.std),
                f"input_size and resize_to must lie between 1 and {MAX_SIDE:,} pixels": (
                    min(self.input_size) < 1 or max(sides) > MAX_SIDE
                ),
                "shortest-edge-crop needs resize_to, at least the longer side of input_size": (
                    crops and (self.resize_to or 0) < max(self.input_size)
                ),
                "squash's resize_to must be a side from which a square input is cropped": (
                    squashed is not None and (squashed < self.input_size[0] or len(set(self.input_size)) > 1)
                ),
                f"pad has no meaning with {self.resize}": not boxed and self.pad != "centre",
                f"first_interpolation and side_rounding have no meaning with {self.resize}": (
                    not boxed and (self.first_interpolation, self.side_rounding) != (None, "nearest")
                ),
                "nearest cannot be antialiased": self.interpolation == "nearest" and self.antialias,
                "units must name at least one unit": not self.units,
                "input_range goes with the unit interval alone; HU and raw values are passed as they are": (
                    self.scaling == "range" and in_unit != ranged
                ),
                f"{self.scaling} needs input_range": self.scaling.startswith(("min-max", "equalize")) and not ranged,
                "equalize-image takes the unit interval only": self.scaling == "equalize-image" and not in_unit,
                "z-score-input takes no input_range": self.scaling == "z-score-input" and ranged,
            }
        )
        return self


class PretrainingSet(CardModel):
    """A data set the encoder has seen: ``images`` alone, or with ``labels`` or ``text``."""

    name: str
    what: Literal["images", "labels", "text"]


class TextFacts(CardModel):
    """The text tower of an image-text encoder.

    Attributes:
        dim: of the space that texts and images share.
        pooling: the image pooling in that space, one of the card's ``poolings``.
        context_length: tokens, special ones included; longer texts are refused.
        tokenizer: files that must lie beside the weights, or on the hub at the weights' revision; none where the
            library brings its tokenizer with it.
        tokenizer_repository, tokenizer_revision: where they lie instead, if not with the weights.
        arguments: for the tower's constructor, where the family needs any.
        present, absent: the authors' prompts for a finding, ``{}`` standing for its name.
    """

    dim: int
    pooling: str
    context_length: int
    tokenizer: tuple[str, ...] = ()
    tokenizer_repository: str | None = None
    tokenizer_revision: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    present: str = "{}"
    absent: str = "no {}"

    @model_validator(mode="after")
    def _check(self) -> TextFacts:
        if any(prompt.count("{}") != 1 for prompt in (self.present, self.absent)):
            raise ValueError("present and absent need {} once, where the finding's name goes")
        return self


class Variant(CardModel):
    """A change of a vision transformer's forward pass, taken as ``card@variant``.

    Attributes:
        summary: what it is and whose, as a sentence.
        zero_tokens: so many tokens after the prefix are overwritten with zeros before every block.
    """

    summary: str
    zero_tokens: int = Field(ge=1)


class Golden(CardModel):
    """What the true weights gave for the test image, to recognise a drifted library.

    Attributes:
        weights: SHA-256 of the encoder's tensors (``Encoder.weights_digest``).
        pooled: the first values of the pooled embedding of the test image.
        norm: Euclidean length of the whole embedding.
        libraries: versions under which it was made.
    """

    weights: str = Field(pattern="^[0-9a-f]{64}$")
    pooled: tuple[float, ...] = Field(min_length=1)
    norm: float
    libraries: dict[str, str] = Field(default_factory=dict)


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
        pooled_layer: layer that the pooling is taken of, the last of ``map_layers``; None for the network's end.
        variants: changes of the forward pass by name; ``variant`` is the one taken, if any.
        size_multiple: input sizes must be multiples of this (the patch size of a ViT).
        fixed_input_size: whether the model takes its native input size only.
        pretraining_data: for contamination flags.
        golden: what the published weights gave for the test image, if anybody who has them wrote it down.
        confirmed: one sentence for what was checked, and against what.
        unconfirmed: one sentence for each fact that was not checked against the source.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    summary: str
    family: Family
    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: WeightsFacts
    licence: str
    commercial_use: Answer
    gated: bool = False
    parameters: int
    preprocessing: Preprocessing
    size_multiple: int = 1
    fixed_input_size: bool = False
    poolings: dict[str, int]
    pooling: str
    map_layers: tuple[int, ...] = ()
    map_channels: tuple[int, ...] = ()
    map_strides: tuple[int, ...] = ()
    map_norm: Literal["final", "none"] = "none"
    prefix_tokens: int = 0
    pooled_layer: int | None = None
    variants: dict[str, Variant] = Field(default_factory=dict)
    variant: str | None = None
    text_tower: TextFacts | None = None
    paradigm: Literal["image-only", "image-text", "label-supervised", "none"]
    domain: str
    pretraining_data: tuple[PretrainingSet, ...] = ()
    paper: str | None = None
    golden: Golden | None = None
    confirmed: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()

    def feature_facts(self) -> dict[str, Any]:
        """The facts that decide the features, as plain values; what is said about the encoder is left out.

        >>> from evalfm.encoders import find_card
        >>> sorted(set(find_card("hog").feature_facts()) & {"pooling", "licence"})
        ['pooling']
        """
        facts = self.model_dump(mode="json", by_alias=True, exclude=DESCRIPTIVE | {"pooled_layer"})
        # A choice is part of an encoder only where it is made.
        facts |= {} if self.pooled_layer is None else {"pooled_layer": self.pooled_layer}
        return facts if self.variant is None else {**facts, "variant": self.taken(self.variant).zero_tokens}

    def taken(self, variant: str) -> Variant:
        """The facts of one of the variants."""
        return self.variants[variant]

    @model_validator(mode="before")
    @classmethod
    def _crop_of_the_family(cls, content: Any) -> Any:
        """A centre crop rounds as the family's library does, where the card does not say."""
        if not isinstance(content, dict) or content.get("family") != "transformers":
            return content
        facts = content.get("preprocessing")
        if not isinstance(facts, dict) or "crop_rounding" in facts:
            return content
        return {**content, "preprocessing": {**facts, "crop_rounding": "down"}}

    @property
    def base_name(self) -> str:
        """The name without what is chosen behind ``@``; a revision of a repository stays."""
        first, *words = self.name.split("@")
        return f"{first}@{words[0]}" if ":" in first and words and REVISION.fullmatch(words[0]) else first

    @property
    def pooled_dim(self) -> int:
        """Dimension of the chosen pooling."""
        return self.poolings[self.pooling]

    @model_validator(mode="after")
    def _check(self) -> EncoderCard:
        wrong = [side for side in self.preprocessing.input_size if side % self.size_multiple]
        pooling, dim = (self.text_tower.pooling, self.text_tower.dim) if self.text_tower else ("", None)
        refuse(
            {
                f"name {self.name!r} may hold letters, digits, '.', '-' and '_' only, and '/' behind a prefix": (
                    not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]*(:[A-Za-z0-9._:@/-]*)?", self.name)
                ),
                f"pooling {self.pooling!r} is not among poolings {sorted(self.poolings)}": (
                    self.pooling not in self.poolings
                ),
                "map_layers, map_channels and map_strides need the same length": (
                    len({len(self.map_layers), len(self.map_channels), len(self.map_strides)}) > 1
                ),
                "maps go from shallow to deep: map_strides must not fall": (
                    list(self.map_strides) != sorted(self.map_strides)
                ),
                f"variant {self.variant!r} is not among variants {sorted(self.variants)}": (
                    self.variant not in (None, *self.variants)
                ),
                "pooled_layer must be the last of map_layers": self.pooled_layer not in (None, *self.map_layers[-1:]),
                "a pooling and a variant have the same name": set(self.variants) & set(self.poolings),
                f"text_tower: images need a pooling {pooling!r} of {dim} dimensions too": (
                    dim is not None and self.poolings.get(pooling) != dim
                ),
                f"input_size {next(iter(wrong), None)} is not a multiple of size_multiple {self.size_multiple}": wrong,
            }
        )
        return self


class AbsentCard(CardModel):
    """An encoder that evalfm does not load; its embeddings, made elsewhere, come in as ``precomputed:FILE``.

    Attributes:
        reason: why it is not loaded, as a sentence.
        embeddings: where to have them made or find them, as a sentence.
        pooled_dim: of those embeddings, where it is known.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    summary: str
    reason: str
    embeddings: str
    pooled_dim: int | None = None
    licence: str
    commercial_use: Answer
    gated: bool = False
    paradigm: Literal["image-only", "image-text", "label-supervised"]
    domain: str
    pretraining_data: tuple[PretrainingSet, ...] = ()
    paper: str
    unconfirmed: tuple[str, ...] = ()
