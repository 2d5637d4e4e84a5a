"""timm models, through its own checkpoint filters and its one contract of intermediate features."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from inspect import signature
from typing import Any, Literal

import timm
import torch
from torch import Tensor

from evalfm.cautions import Caution
from evalfm.encoders.card import EncoderCard, Preprocessing, WeightsFacts
from evalfm.encoders.encoder import Encoder, EncoderState, RawFeatures
from evalfm.encoders.families._published import commercial_use, evenly
from evalfm.encoders.weights import Checkpoint, check_fit, load_into, other_shapes
from evalfm.errors import EvalfmError, UnknownNameError

POSITIONS = ("pos_embed", "relative_position")
"""Words in the names of tensors that timm may resample to another grid."""

STEM = "_conv_stem.weight"
"""By which the names of the package EfficientNet-PyTorch are known."""
OUTSIDE_BLOCKS = {
    **{"_conv_stem.": "conv_stem.", "_bn0.": "bn1.", "_conv_head.": "conv_head.", "_bn1.": "bn2."},
    "_fc.": "classifier.",
}
SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
EXPANDED = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3", **SQUEEZE},
}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **SQUEEZE}
"""Of a block that expands its channels and of one that does not: the package's names, and timm's."""


class TimmEncoder(Encoder):
    """A timm model without its classifier; timm resamples a ViT's positions (bicubic, antialiased)."""

    def __init__(self, card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> None:
        super().__init__(card, state)
        _check_name(card.architecture)
        published = timm.get_pretrained_cfg(card.architecture)
        arguments = dict(card.arguments)
        # A card that says img_size has its positions at its own input size.
        native = card.preprocessing.input_size if "img_size" in arguments else None
        moved = (
            published is not None
            and published.fixed_input_size
            and self.input_size != (native or published.input_size[1:])
        )
        if moved:
            arguments["img_size"] = self.input_size
        self.model: Any = timm.create_model(card.architecture, pretrained=False, num_classes=0, **arguments)
        cautions = []
        if moved:
            words = f"timm interpolates the positions of {card.name} to the input size."
            cautions.append(Caution("input-changed", words))
        if checkpoint is not None:
            named = checkpoint.named_for(self.model.state_dict())
            cautions += named.cautions[len(checkpoint.cautions) :]
            checkpoint = named
            tensors = _filtered(checkpoint, self.model, card)
            load_into(self.model, tensors, card.weights, checkpoint.path)
            if not moved and _resampled(checkpoint.tensors, tensors):
                words = f"timm interpolates the positions in {card.name}'s file to the input size."
                cautions.append(Caution("input-changed", words))
        self.add_cautions(*cautions)

    def _forward(self, batch: Tensor) -> RawFeatures:
        final, layers, prefix = intermediates(self.model, batch, self.card)
        own = {"head": self.model.forward_head(final, pre_logits=True)} if self.card.pooling == "head" else {}
        if final.ndim == 4 and getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            final = final.permute(0, 3, 1, 2)
        return RawFeatures(layers=tuple(layers), final=final, pooled=own, prefix=prefix)


def intermediates(model: Any, batch: Tensor, card: EncoderCard) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """What a timm model gives at its end, the card's layers as maps, and what precedes the last of them.

    Tokens before the patches are asked for where they are pooled alone: not every model of timm gives them.
    """
    prefixed = card.pooled_layer is not None and card.prefix_tokens > 0
    if prefixed and "return_prefix_tokens" not in signature(type(model).forward_intermediates).parameters:
        raise EvalfmError(
            f"timm gives no tokens before the patches of {card.base_name}'s layers, so nothing is pooled there; leave "
            f"--pooling {card.pooling} out."
        )
    final, layers = model.forward_intermediates(
        batch,
        indices=list(card.map_layers),
        norm=card.map_norm == "final",
        output_fmt="NCHW",
        **({"return_prefix_tokens": True} if prefixed else {}),
    )
    return (final, [each for each, _ in layers], layers[-1][1]) if prefixed else (final, layers, None)


def derive_card(architecture: str) -> EncoderCard:
    """A card for any timm model with random weights, from timm's own metadata and the shapes it gives.

    The published preprocessing of the architecture's default weights is kept, so that the same weights
    trained are compared on the same pixels. Plain ViTs give four evenly spaced blocks and the last, others
    their stages from stride 4 on.

    Raises:
        EvalfmError: timm has no such model, or the model gives no intermediate maps.
    """
    return EncoderCard(
        name=f"random:{architecture}",
        summary=f"timm's {architecture} with random weights: a baseline that has learnt nothing.",
        weights=WeightsFacts(source="none"),
        licence="Apache-2.0",
        commercial_use="yes",
        paradigm="none",
        domain="none",
        **_measured(architecture),
    )


def published_card(name: str) -> EncoderCard:
    """A card for any of timm's published weights, ``ARCHITECTURE`` or ``ARCHITECTURE.TAG``, from timm's own metadata.

    Input, pooling and maps are those of ``derive_card``; the weights lie where timm would fetch them.

    Raises:
        EvalfmError: timm has no such model or no weights of it, or the model gives no intermediate maps.

    >>> card = published_card("vit_small_patch16_dinov3.lvd1689m")
    >>> card.weights.repository, card.pooled_dim, card.preprocessing.input_size
    ('timm/vit_small_patch16_dinov3.lvd1689m', 384, (256, 256))
    """
    _check_name(name)
    config: Any = timm.get_pretrained_cfg(name)
    known: dict[str, Any] | None = None if config is None else config.to_dict(remove_source=False, remove_null=True)
    if not known or not (known.get("hf_hub_id") or known.get("url")):
        tags = timm.list_pretrained(f"{name.partition('.')[0]}*")
        raise UnknownNameError("timm model with published weights", name, tags or timm.list_pretrained())
    if known.get("crop_mode") == "border":
        raise EvalfmError(
            f"timm prepares images for {name} in a way that no card can say (border); choose other weights, or write a "
            "card."
        )
    heads = known.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    facts: dict[str, Any] = {"unexpected_keys": tuple(f"{each}.*" for each in heads)}
    repository, _, revision = str(known.get("hf_hub_id", "")).partition("@")
    if repository:
        file = known.get("hf_hub_filename") or "model.safetensors"
        facts |= {"source": "hub", "repository": repository, "file": file, "revision": revision or "main"}
    else:
        facts |= {"source": "path", "request": str(known["url"])}
    licence = str(known.get("license", "not stated by timm"))
    tag = str(known.get("tag", ""))
    paradigm = _paradigm(name, tag)
    seen = {"label-supervised": "labels", "image-text": "text", "image-only": "images"}[paradigm]
    return EncoderCard(
        name=f"timm:{name}",
        summary=f"timm's {known['architecture']}" + (f" with its weights {tag}." if tag else "."),
        weights=WeightsFacts(**facts),
        licence=licence,
        commercial_use=commercial_use(licence),
        paradigm=paradigm,
        domain="photographs",
        pretraining_data=({"name": tag or "not said by timm", "what": seen},),
        paper=f"arXiv {known['paper_ids'][6:]}" if str(known.get("paper_ids", "")).startswith("arXiv:") else "",
        confirmed=("Input, embedding and maps are timm's own, measured on its model.",),
        unconfirmed=(
            f"That it is {paradigm}, on photographs, and its data are read off the name; timm does not say them.",
        ),
        **_measured(name),
    )


def _paradigm(name: str, tag: str) -> Literal["image-only", "image-text", "label-supervised"]:
    """From what weights were learnt, by the words of their tag: tuned on labels last counts before the rest."""
    words = f"{name} {tag}".lower()
    if "_ft_" in f"_{tag}_" or any(each in tag for each in ("in1k", "in21k", "in22k", "in12k", "inat")):
        return "label-supervised"
    if any(each in words for each in ("clip", "siglip", "laion", "openai", "webli", "datacomp", "dfn", "metaclip")):
        return "image-text"
    return "image-only"


def _measured(name: str) -> dict[str, Any]:
    """What of a card timm's metadata and the shapes of its model say.

    Raises:
        EvalfmError: timm has no such model, or the model gives no intermediate maps.
    """
    _check_name(name)
    model = _laid_out(name)
    config = model.pretrained_cfg
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "feature_info"):
        raise EvalfmError(f"timm's {name} gives no intermediate maps; choose another model.")
    size = tuple(config["input_size"][1:])
    with torch.no_grad():
        blank = torch.zeros(1, *config["input_size"], device=next(model.parameters()).device)
        final, layers = model.forward_intermediates(blank, output_fmt="NCHW")
        if not isinstance(final, Tensor):
            raise EvalfmError(f"timm's {name} ends in several lists of tokens; choose another model.")
        head = model.forward_head(final, pre_logits=True)
    said = [int(each["reduction"]) for each in model.feature_info]
    # timm's own where it speaks of the same maps: 176 pixels at stride 32 give 6 cells, which look like stride 29.
    strides = said if len(said) == len(layers) else [round(size[0] / layer.shape[2]) for layer in layers]
    if any(
        math.ceil(size[0] / stride) - layer.shape[2] not in (0, 1, 2)
        for stride, layer in zip(strides, layers, strict=True)
    ):
        raise EvalfmError(f"The maps of timm's {name} do not cover its input; choose another model.")
    plain = len(layers) > 5 and len(set(strides)) == 1
    kept = evenly(len(layers)) if plain else [index for index, stride in enumerate(strides) if stride >= 4]
    tokens = final.ndim == 3
    return {
        "family": "timm",
        "architecture": name,
        "parameters": sum(each.numel() for each in model.parameters()),
        "preprocessing": _published_preprocessing(config),
        "size_multiple": strides[0] if tokens else 32 if config.get("fixed_input_size") else 1,
        "poolings": {"head": head.shape[1]},
        "pooling": "head",
        "map_layers": tuple(kept),
        "map_channels": tuple(layers[index].shape[1] for index in kept),
        "map_strides": tuple(strides[index] for index in kept),
        "map_norm": "final" if tokens else "none",
        "prefix_tokens": getattr(model, "num_prefix_tokens", 0),
    }


def _laid_out(architecture: str) -> Any:
    """The model in shapes alone; with weights where its code must compute to be built."""
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(architecture, pretrained=False, num_classes=0).eval()
            size = model.pretrained_cfg["input_size"]
            if hasattr(model, "forward_intermediates"):
                with torch.no_grad():
                    model.forward_intermediates(torch.zeros(1, *size), output_fmt="NCHW")
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(architecture, pretrained=False, num_classes=0).eval()
    return model


def _published_preprocessing(config: dict[str, Any]) -> Preprocessing:
    height, width = config["input_size"][1:]
    crop = config.get("crop_pct") or 0.875
    squash = config.get("crop_mode") == "squash"
    interpolation = config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bicubic"
    return Preprocessing(
        input_size=(height, width),
        resize="squash" if squash else "shortest-edge-crop",
        resize_to=None if squash and crop == 1.0 else math.floor(max(height, width) / crop),
        interpolation=interpolation,
        antialias=True,
        channels=3,
        units=("unit-interval",),
        input_range=(0.0, 1.0),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _filtered(checkpoint: Checkpoint, model: Any, card: EncoderCard) -> dict[str, Tensor]:
    """The checkpoint's tensors after timm's own conversion for this architecture, if it has one.

    timm resamples a patch embedding of another patch size as readily as positions of another grid; only the
    latter leaves the model what its card says, so the former is refused here.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if STEM in checkpoint.tensors and isinstance(model, timm.models.EfficientNet):
        return _of_efficientnet_pytorch(checkpoint.tensors, model)
    if convert is None:
        return checkpoint.tensors
    own = model.state_dict()
    mismatched = [
        fault
        for name, fault in other_shapes(checkpoint.tensors, own).items()
        if checkpoint.tensors[name].ndim == own[name].ndim and not any(word in name for word in POSITIONS)
    ]
    check_fit(mismatched=mismatched, facts=card.weights, origin=checkpoint.path)
    try:
        return dict(convert(dict(checkpoint.tensors), model))
    except (KeyError, RuntimeError, ValueError, AttributeError, IndexError, AssertionError) as error:
        raise EvalfmError(
            f"{checkpoint.path} does not fit the encoder (timm cannot convert it: {error}); "
            "give the weights that the card names."
        ) from None


def _of_efficientnet_pytorch(tensors: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Tensors named as the package EfficientNet-PyTorch names them, by timm's names; others keep theirs."""
    blocks = [(f"blocks.{s}.{b}.", block) for s, stage in enumerate(model.blocks) for b, block in enumerate(stage)]
    names = dict(OUTSIDE_BLOCKS)
    for number, (own, block) in enumerate(blocks):
        order = EXPANDED if hasattr(block, "conv_pwl") else SEPARABLE
        names |= {f"_blocks.{number}.{theirs}.": f"{own}{ours}." for theirs, ours in order.items()}
    renamed = {}
    for name, tensor in tensors.items():
        beginning = next((each for each in names if name.startswith(each)), "")
        renamed[names.get(beginning, "") + name.removeprefix(beginning)] = tensor
    return renamed


def _resampled(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether timm made other positions of a file's; that of its CLS token may have gone into the token itself."""
    return any(
        abs(before - after) > 1
        for name, tensor in theirs.items()
        if name in own and any(word in name for word in POSITIONS)
        for before, after in zip(tensor.shape, own[name].shape, strict=False)
    )


def _check_name(architecture: str) -> None:
    if not timm.is_model(architecture):
        raise UnknownNameError("timm model", architecture, timm.list_models())
    try:
        timm.get_pretrained_cfg(architecture)
    except RuntimeError:
        tags = timm.list_pretrained(f"{architecture.partition('.')[0]}.*")
        raise UnknownNameError("timm model with published weights", architecture, tags) from None


def build(card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> Encoder:
    """The card's timm model, with the checkpoint's tensors or random ones."""
    return TimmEncoder(card, state, checkpoint)
