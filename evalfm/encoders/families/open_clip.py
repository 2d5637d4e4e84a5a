"""Image-text models of open_clip, built from the configuration on the card; nothing is fetched to build them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import model as library
from open_clip.convert import convert_state_dict
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from torch import Tensor, nn
from transformers import BertConfig

from evalfm.cards import read_json
from evalfm.encoders.card import EncoderCard, TextFacts
from evalfm.encoders.encoder import Encoder, EncoderState, RawFeatures
from evalfm.encoders.families._published import Repository, commercial_use, draft, evenly, measured, stride_of
from evalfm.encoders.families._tokenizer import OpenAiTower, PublishedTower, filled
from evalfm.encoders.families.timm import intermediates
from evalfm.encoders.text import TextTower
from evalfm.encoders.transform_facts import facts_of
from evalfm.encoders.weights import Checkpoint, load_into, read_checkpoint
from evalfm.errors import EvalfmError, UnknownNameError

RENAMED = {"proj": "hf_proj_type", "pooler_type": "hf_pooler_type"}
"""Names of settings in configurations of older releases."""


class OpenClipEncoder(Encoder):
    """The image tower; ``projection`` is its embedding in the space of texts, ``cls`` a timm trunk's token before it.

    A checkpoint is compared with both towers, of which the image tower is kept.
    """

    def __init__(self, card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> None:
        super().__init__(card, state)
        if checkpoint is None:
            self.model: Any = vision_of(card)
        else:
            whole = load(card, checkpoint)
            said = checkpoint.named_for(whole.state_dict()).cautions[len(checkpoint.cautions) :]
            self.add_cautions(*said)
            self.model = whole.visual

    def _forward(self, batch: Tensor) -> RawFeatures:
        indices, normed = list(self.card.map_layers), self.card.map_norm == "final"
        if isinstance(self.model, TimmModel):
            trunk: Any = self.model.trunk
            final, layers, prefix = intermediates(trunk, batch, self.card)
            projected = self.model.head(trunk.forward_head(final))
            return RawFeatures(tuple(layers), final, {"projection": projected}, prefix)
        output = self.model.forward_intermediates(
            batch, indices=indices, normalize_intermediates=normed, output_extra_tokens=True
        )
        layers, prefixes = output["image_intermediates"], output.get("image_intermediates_prefix")
        pooled = {"projection": output["image_features"]}
        if self.card.pooling in ("cls", "cls-mean") and self.card.pooled_layer is None:
            # Of the last block, which is then among those named.
            pooled["cls"] = prefixes[-1][:, 0] if normed else self.model.ln_post(prefixes[-1][:, 0])
        return RawFeatures(tuple(layers), None, pooled, prefixes[-1] if prefixes else None)

    def every_layer(self) -> list[Tensor]:
        """What every block or stage gives of a blank image, [2, C, h, w]."""
        first = next(self.parameters())
        blank = torch.zeros(2, 3, *self.input_size, device=first.device)
        if isinstance(self.model, TimmModel):
            trunk: Any = self.model.trunk
            return list(trunk.forward_intermediates(blank, output_fmt="NCHW", intermediates_only=True))
        return list(self.model.forward_intermediates(blank, intermediates_only=True)["image_intermediates"])

    def _text_tower(self) -> TextTower:
        kind = BertText if "bert" in self.card.arguments["text_cfg"] else OpenClipText
        return kind(self.card, self.state.origin)


class OpenClipText(OpenAiTower):
    """The end-of-text token of a causal transformer, projected; what follows a text is 0."""

    def __init__(self, card: EncoderCard, origin: Path | None) -> None:
        super().__init__(card)
        self.model: Any = whole_of(card) if origin is None else load(card, read_checkpoint(origin, card.weights))
        self.model.visual = nn.Identity()
        self.logit_scale = float(self.model.logit_scale.detach().exp())

    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        rows = self._rows(texts)
        return {"text": filled(rows, self.facts.context_length)}, [len(row) for row in rows]

    def _words(self) -> nn.Module:
        return getattr(self.model, "text", self.model).token_embedding

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        return self.model.encode_text(**tokens)


class BertText(PublishedTower):
    """BERT's CLS token, projected; its tokenizer is one tokenizer.json. Its attention is masked where ids are 0."""

    filling_unseen = True

    def __init__(self, card: EncoderCard, origin: Path | None) -> None:
        super().__init__(card, origin)
        whole: Any = None if origin is None else load(card, read_checkpoint(origin, card.weights))
        self.model = bert_of(card) if whole is None else whole.text
        if whole is not None:
            self.logit_scale = float(whole.logit_scale.detach().exp())

    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        rows = [self.tokenizer.encode(text).ids for text in texts]
        return {"x": filled(rows, self.facts.context_length)}, [len(row) for row in rows]

    def _words(self) -> nn.Module:
        return self.model.transformer.get_input_embeddings()

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        return self.model(**tokens)


class Dual(nn.Module):
    """An image tower and a BERT under the names of open_clip's CustomTextCLIP."""

    def __init__(self, card: EncoderCard) -> None:
        super().__init__()
        self.visual = vision_of(card)
        self.text = bert_of(card)
        self.logit_scale = nn.Parameter(torch.ones(()) * 2.6593)


def vision_of(card: EncoderCard) -> Any:
    """The image tower with random weights."""
    arguments = card.arguments
    vision = library.CLIPVisionCfg(**{**arguments["vision_cfg"], "timm_model_pretrained": False})
    return library._build_vision_tower(arguments["embed_dim"], vision, arguments.get("quick_gelu", False))


def bert_of(card: EncoderCard) -> HFTextEncoder:
    """The BERT of ``text_cfg.bert`` (settings that differ from transformers' defaults), with open_clip's projection."""
    arguments = card.arguments
    config = BertConfig(**arguments["text_cfg"]["bert"])
    text = HFTextEncoder(
        "",
        output_dim=arguments["embed_dim"],
        config=config,
        pooler_type=arguments["text_cfg"]["hf_pooler_type"],
        proj_type=arguments["text_cfg"]["hf_proj_type"],
        pretrained=False,
    )
    # BERT's own pooler is in no checkpoint of these models.
    text.transformer.pooler = None
    return text


def whole_of(card: EncoderCard) -> Any:
    """Both towers with random weights; the image tower alone where the card says nothing of texts."""
    if "text_cfg" not in card.arguments:
        return nn.ModuleDict({"visual": vision_of(card)})
    if "bert" in card.arguments["text_cfg"]:
        return Dual(card)
    vision = library.CLIPVisionCfg(**card.arguments["vision_cfg"])
    text = library.CLIPTextCfg(**card.arguments["text_cfg"])
    kind: Any = library.CustomTextCLIP if card.arguments.get("custom_text") else library.CLIP
    return kind(card.arguments["embed_dim"], vision, text, card.arguments.get("quick_gelu", False))


def load(card: EncoderCard, checkpoint: Checkpoint) -> Any:
    """Both towers with the tensors of ``checkpoint``.

    Raises:
        EvalfmError: a tensor is missing, of another shape or unknown, or an open_clip_config.json beside describes
            another model.
    """
    _check_config(card, checkpoint)
    whole = whole_of(card)
    tensors: dict[str, Tensor] = checkpoint.named_for(whole.state_dict()).tensors
    if card.arguments.get("custom_text"):
        tensors = library.convert_to_custom_text_state_dict(convert_state_dict(whole, dict(tensors)))
    load_into(whole, tensors, card.weights, checkpoint.path)
    return whole.eval()


def _check_config(card: EncoderCard, checkpoint: Checkpoint) -> None:
    """Compare open_clip_config.json beside the weights with the card: equal shapes may still mean another model."""
    path = checkpoint.path.parent / "open_clip_config.json"
    if not path.is_file():
        return
    content = read_json(path)
    try:
        written: Mapping[str, Any] = content.get("model_cfg", content)
        theirs, own = _plain(written), _plain(card.arguments)
    except (ValueError, AttributeError, TypeError):
        raise EvalfmError(f"{path} is no configuration of open_clip; fetch it again or remove it.") from None
    differing = [f"{name} {theirs[name]!r} instead of {own[name]!r}" for name in own if theirs.get(name) != own[name]]
    if differing:
        raise EvalfmError(
            f"{path} describes another model than the card ({', '.join(differing)}); give the weights that the card "
            "names, or write a card for these."
        )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the features of an image tower and its text tower's reading, under today's names."""
    vision = {**asdict(library.CLIPVisionCfg()), **config["vision_cfg"]}
    text = {RENAMED.get(name, name): value for name, value in config.get("text_cfg", {}).items()}
    names = ("image_size", "layers", "width", "patch_size", "head_width", "timm_model_name", "timm_pool", "timm_proj")
    kept = {f"vision_cfg.{name}": vision.get(name) for name in names}
    kept |= {f"text_cfg.{name}": text.get(name) for name in ("hf_pooler_type", "hf_proj_type", "context_length")}
    return {**kept, "embed_dim": config["embed_dim"], "quick_gelu": bool(config.get("quick_gelu", False))}


OF_TEXTS = (
    *("text.*", "text_decoder.*", "transformer.*", "token_embedding.*", "positional_embedding", "ln_final.*"),
    *("text_projection", "logit_scale", "logit_bias"),
)
"""Tensors of a text tower that is not read."""
WEIGHTS: tuple[str, ...] = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
CONFIG = "open_clip_config.json"


def published_card(name: str) -> EncoderCard:
    """A card for ``NAME/TAG`` of open_clip's list, or ``hf-hub:ORG/MODEL`` with an open_clip_config.json.

    Input and architecture are open_clip's own; dimensions and maps are measured by a forward pass of the image tower in
    shapes alone. QuickGELU goes by the tag, for which open_clip itself only warns. ``@REVISION`` pins the repository.

    Raises:
        EvalfmError: open_clip has no such weights, or a card cannot say how it prepares images.

    >>> card = published_card("ViT-B-32/openai")
    >>> card.weights.repository, card.poolings, card.arguments["quick_gelu"]
    ('timm/vit_base_patch32_clip_224.openai', {'projection': 512}, True)
    """
    label, files = f"open_clip:{name}", WEIGHTS
    if name.startswith("hf-hub:"):
        place = Repository.of(label, name.removeprefix("hf-hub:"))
        path = place.file(CONFIG)
        content = read_json(path)
        place, tag = place.pinned(path), ""
        said = content if isinstance(content, dict) else {}
        config, prepared = said.get("model_cfg"), said.get("preprocess_cfg")
        if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
            raise EvalfmError(f"{path} is no configuration of open_clip; fetch it again or name another repository.")
    else:
        known, _, revision = name.partition("@")
        architecture, _, tag = known.rpartition("/")
        if known not in [f"{one}/{other}" for one, other in open_clip.list_pretrained()]:
            every = [f"{one}/{other}" for one, other in open_clip.list_pretrained()]
            raise UnknownNameError("open_clip model with a tag", known, every)
        prepared = dict(open_clip.get_pretrained_cfg(architecture, tag))
        config = dict(open_clip.get_model_config(architecture)) | {"quick_gelu": prepared.get("quick_gelu", False)}
        repository, _, file = prepared["hf_hub"].rpartition("/")
        files = (file,) if file else WEIGHTS
        place = Repository(label, None, repository, revision or "main")
    facts, tower = _measured(label, json.dumps(config), json.dumps(prepared or {}))
    licence = place.licence()
    position_ids = ("text.transformer.embeddings.position_ids",)
    return EncoderCard(
        name=label,
        summary="An image tower of open_clip" + (f" with its weights {tag}." if tag else ", as the repository has it."),
        weights=place.weights(files, position_ids if tower else OF_TEXTS),
        licence=licence or "not stated",
        commercial_use=commercial_use(licence) if licence else "ask",
        paradigm="image-text",
        domain="not stated",
        pretraining_data=({"name": tag or "not stated", "what": "text"},),
        text_tower=tower,
        confirmed=(
            "Input: evalfm's pixels are those of open_clip's own transform, but for its 8 bits.",
            "Dimensions and maps were measured on open_clip's image tower.",
        ),
        unconfirmed=(
            "What it has seen is not known but for the word of its tag.",
            "The prompts are evalfm's choice."
            if tower
            else "Its texts are not read: their tokenizer is another library's.",
        ),
        **facts,
    )


@lru_cache(maxsize=32)
def _measured(label: str, config_text: str, prepared_text: str) -> tuple[dict[str, Any], TextFacts | None]:
    """What of a card a configuration and its preprocessing, both JSON, and the image tower in shapes tell."""
    config, prepared = json.loads(config_text), json.loads(prepared_text)
    known = {each.name for each in fields(library.CLIPVisionCfg)}
    vision = {name: value for name, value in config["vision_cfg"].items() if name in known} | {
        "timm_model_pretrained": False
    }
    text = config["text_cfg"]
    readable = not (
        {"hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs"} & set(text) or "multimodal_cfg" in config
    )
    arguments: dict[str, Any] = {
        **{"embed_dim": config["embed_dim"], "quick_gelu": bool(config.get("quick_gelu")), "vision_cfg": vision},
        **({"text_cfg": text, "custom_text": bool(config.get("custom_text"))} if readable else {}),
    }
    built = {"family": "open_clip", "architecture": "open_clip", "arguments": arguments}
    side = vision.get("image_size", 224)
    size = (side, side) if isinstance(side, int) else tuple(side)
    try:
        settings = merge_preprocess_dict(PreprocessCfg(size=size), {**prepared, "size": size})
        transform: Any = image_transform_v2(PreprocessCfg(**settings), is_train=False)
        preprocessing = facts_of(transform, label, statistics=(settings["mean"], settings["std"]))
        with torch.device("meta"):
            encoder = OpenClipEncoder(draft(name=label, preprocessing=preprocessing, **built), EncoderState(), None)
            layers = [tuple(each.shape) for each in encoder.every_layer()]
    except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise EvalfmError(f"open_clip cannot build {label} ({lines[0][:160]}); choose another.") from None
    strides = [stride_of(shape[2:], size) or 0 for shape in layers]
    plain = len(set(strides)) == 1
    # Of a network the last layer of each stride.
    stages = {stride: index for index, stride in enumerate(strides) if stride >= 4}
    kept = tuple(evenly(len(layers)) if plain else stages.values())
    multiple = strides[0] if plain else 1
    card = draft(name=label, preprocessing=preprocessing, map_layers=kept, size_multiple=multiple, **built)
    encoder.card = card
    # A transformer of open_clip's own has one token before its patches, one of timm's as many as it says.
    tokens = plain and isinstance(encoder.model, TimmModel)
    facts = {
        **built,
        "preprocessing": preprocessing,
        "size_multiple": card.size_multiple,
        "map_layers": card.map_layers,
        "map_norm": "final" if tokens else "none",
        **measured(encoder, ("projection",)),
        "prefix_tokens": getattr(encoder.model.trunk, "num_prefix_tokens", 0) if tokens else int(plain),
    }
    tower = TextFacts(dim=config["embed_dim"], pooling="projection", context_length=text.get("context_length", 77))
    return facts, tower if readable else None


def build(card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> Encoder:
    """The card's image tower, with the checkpoint's tensors or random ones."""
    return OpenClipEncoder(card, state, checkpoint)
