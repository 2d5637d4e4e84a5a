"""The plain models of ports: a library's backbone, read by its own means, and what follows it in words of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from evalfm.encoders.card import EncoderCard, WeightsFacts
from evalfm.encoders.hub import fetch_beside
from evalfm.encoders.library_models import LibraryModel, Text, outputs_of
from evalfm.encoders.weights import read_checkpoint
from evalfm.errors import EvalfmError


def _ark(card: EncoderCard, origin: Path) -> LibraryModel:
    """timm's Swin, by timm's own conversion, and the projector behind it."""
    import timm
    from timm.models import swin_transformer

    convert: Any = swin_transformer.checkpoint_filter_fn
    arguments = {name: each for name, each in card.arguments.items() if name not in ("backbone", "projector")}
    name, size = card.arguments["backbone"], card.preprocessing.input_size
    swin: Any = timm.create_model(name, pretrained=False, num_classes=0, img_size=size, **arguments).eval()
    tensors = read_checkpoint(origin, card.weights).tensors
    behind = {name: each for name, each in tensors.items() if name.startswith("projector.")}
    report = swin.load_state_dict(
        convert({name: each for name, each in tensors.items() if name not in behind}, swin), strict=False
    )

    def run(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        with outputs_of(swin.layers, card.map_layers) as cells:
            mean = swin.forward_features(batch).mean((1, 2))
        maps = [each.permute(0, 3, 1, 2) for each in cells]
        if card.pooling == "mean":
            return mean, maps
        return functional.linear(mean, behind["projector.weight"], behind["projector.bias"]), maps

    return LibraryModel(
        run, report.missing_keys, report.unexpected_keys, f"timm.create_model({name!r}) and a projector"
    )


def _medimageinsight(card: EncoderCard, origin: Path) -> LibraryModel:
    """timm's DaViT, by timm's own conversion of Florence-2's names, and the projection behind it."""
    import timm
    from timm.models import davit as library

    convert: Any = library.checkpoint_filter_fn
    arguments = {name: each for name, each in card.arguments.items() if name not in ("backbone", "projection")}
    name = card.arguments["backbone"]
    davit: Any = timm.create_model(name, pretrained=False, num_classes=0, **arguments).eval()
    tensors = dict(read_checkpoint(origin, card.weights).tensors)
    projection = tensors.pop("image_projection")
    ends = {f"head.norm.{each}": tensors.pop(f"norms.{each}") for each in ("weight", "bias")}
    florence = {f"vision_tower.{name}": each for name, each in tensors.items() if not name.startswith("lang_")}
    report = davit.load_state_dict(convert(florence, davit) | ends, strict=False)

    def run(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        with outputs_of(davit.stages, card.map_layers) as maps:
            features = davit.forward_head(davit.forward_features(batch), pre_logits=True)
        return features if card.pooling == "features" else functional.normalize(features @ projection, dim=-1), maps

    return LibraryModel(
        run, report.missing_keys, report.unexpected_keys, f"timm.create_model({name!r}) and a projection"
    )


def _biovil_t(card: EncoderCard, origin: Path) -> LibraryModel:
    """torchvision's ResNet and what follows it in words of torch; transformers' BERT and the head on its CLS token."""
    from torchvision.models.resnet import Bottleneck, ResNet

    tensors = read_checkpoint(origin, card.weights).tensors
    net = ResNet(Bottleneck, list(card.arguments["layers"])).eval()
    own = "encoder.encoder."
    report = net.load_state_dict(
        {name.removeprefix(own): each for name, each in tensors.items() if name.startswith(own)}, strict=False
    )

    def run(batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        with outputs_of([net.layer1, net.layer2, net.layer3, net.layer4], range(4)) as maps:
            net(batch)
        cells = functional.conv2d(maps[-1], tensors["encoder.backbone_to_vit.weight"])
        fused = torch.cat([cells, tensors["encoder.missing_previous_emb"].expand_as(cells)], 1)
        hidden = functional.conv2d(fused, tensors["projector.model.0.weight"])
        named = ("running_mean", "running_var", "weight", "bias")
        mean, var, weight, bias = (tensors[f"projector.model.1.{each}"] for each in named)
        hidden = functional.batch_norm(hidden, mean, var, weight, bias).relu()
        last = functional.conv2d(hidden, tensors["projector.model.3.weight"], tensors["projector.model.3.bias"])
        return (fused if card.pooling == "fused" else last).mean((2, 3)), [*maps, fused]

    return LibraryModel(
        run, report.missing_keys, report.unexpected_keys, "torchvision's ResNet-50", text=_cxr_bert(card, origin)
    )


def _cxr_bert(card: EncoderCard, origin: Path) -> Text | None:
    from transformers import BertConfig, BertModel, BertTokenizer

    from evalfm.encoders.families._transformers_loading import quiet

    assert card.text_tower is not None
    facts, names = card.text_tower.arguments, card.text_tower.tokenizer
    try:
        vocabulary = fetch_beside(card, origin, names[0])
        weights = fetch_beside(card, origin, facts["weights"])
    except EvalfmError:
        return None
    tensors = read_checkpoint(weights, WeightsFacts(source="path")).tensors
    kind: Any = BertModel
    with quiet():
        bert = kind.from_pretrained(
            None, config=BertConfig(**facts["bert"]), state_dict=tensors, add_pooling_layer=False
        ).eval()
    tokenizer = BertTokenizer(vocab=str(vocabulary))

    def dense(name: str, values: Tensor) -> Tensor:
        parts = (tensors[f"cls_projection_head.{name}.{each}"] for each in ("weight", "bias"))
        return functional.linear(values, *parts)

    def text(sentences: Sequence[str]) -> Tensor:
        cls = bert(**tokenizer(list(sentences), padding=True, return_tensors="pt")).last_hidden_state[:, 0]
        weight, bias = (tensors[f"cls_projection_head.LayerNorm.{each}"] for each in ("weight", "bias"))
        hidden = functional.gelu(dense("dense_to_hidden", cls))
        return dense("dense_to_output", functional.layer_norm(hidden, hidden.shape[-1:], weight, bias, eps=1e-12))

    return text


PORTS: dict[str, Callable[[EncoderCard, Path], LibraryModel]] = {
    "ark-swin": _ark,
    "medimageinsight-davit": _medimageinsight,
    "biovil-t-resnet50": _biovil_t,
}
"""By the card's architecture."""
