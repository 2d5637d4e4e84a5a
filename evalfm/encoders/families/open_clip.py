"""Image-text models of open_clip, built from the configuration on the card; nothing is fetched to build them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip import model as library
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from torch import Tensor, nn
from transformers import BertConfig

from evalfm.cards import read_json
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, EncoderState, RawFeatures
from evalfm.encoders.families._tokenizer import OpenAiTower, PublishedTower, filled
from evalfm.encoders.families.timm import intermediates
from evalfm.encoders.text import TextTower
from evalfm.encoders.weights import Checkpoint, load_into, read_checkpoint
from evalfm.errors import EvalfmError

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
        layers, prefixes = output["image_intermediates"], output["image_intermediates_prefix"]
        pooled = {"projection": output["image_features"]}
        if self.card.pooling in ("cls", "cls-mean") and self.card.pooled_layer is None:
            # Of the last block, which is then among those named.
            pooled["cls"] = prefixes[-1][:, 0] if normed else self.model.ln_post(prefixes[-1][:, 0])
        return RawFeatures(tuple(layers), None, pooled, prefixes[-1] if prefixes else None)

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
        return self.model.token_embedding

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
    """Both towers with random weights."""
    if "bert" in card.arguments["text_cfg"]:
        return Dual(card)
    vision = library.CLIPVisionCfg(**card.arguments["vision_cfg"])
    text = library.CLIPTextCfg(**card.arguments["text_cfg"])
    return library.CLIP(card.arguments["embed_dim"], vision, text, card.arguments.get("quick_gelu", False))


def load(card: EncoderCard, checkpoint: Checkpoint) -> Any:
    """Both towers with the tensors of ``checkpoint``.

    Raises:
        EvalfmError: a tensor is missing, of another shape or unknown, or an open_clip_config.json beside describes
            another model.
    """
    _check_config(card, checkpoint)
    whole = whole_of(card)
    load_into(whole, checkpoint.named_for(whole.state_dict()).tensors, card.weights, checkpoint.path)
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
    vision = config["vision_cfg"]
    text = {RENAMED.get(name, name): value for name, value in config["text_cfg"].items()}
    names = ("image_size", "layers", "width", "patch_size", "head_width", "timm_model_name", "timm_pool", "timm_proj")
    kept = {f"vision_cfg.{name}": vision.get(name) for name in names}
    kept |= {f"text_cfg.{name}": text.get(name) for name in ("hf_pooler_type", "hf_proj_type", "context_length")}
    return {**kept, "embed_dim": config["embed_dim"], "quick_gelu": bool(config.get("quick_gelu", False))}


def build(card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> Encoder:
    """The card's image tower, with the checkpoint's tensors or random ones."""
    return OpenClipEncoder(card, state, checkpoint)
