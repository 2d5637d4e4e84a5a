"""A card for any repository, or folder, of a model that transformers has a native class for; no code in it is run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from evalfm.cards import read_json, read_text
from evalfm.encoders.card import EncoderCard, TextFacts
from evalfm.encoders.encoder import EncoderState
from evalfm.encoders.families._published import Repository, commercial_use, draft, evenly, measured
from evalfm.encoders.families._transformers_loading import quiet
from evalfm.encoders.families.transformers import KINDS, TransformersEncoder
from evalfm.encoders.transform_facts import facts_of
from evalfm.errors import EvalfmError, shown

NATIVE = {
    **{"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel", "dinov3_vit": "DINOv3ViTModel"},
    **{"vit": "ViTModel", "vit_mae": "ViTModel", "vit_msn": "ViTMSNModel", "deit": "DeiTModel", "beit": "BeitModel"},
    **{"ijepa": "IJepaModel", "clip": "CLIPModel", "clip_vision_model": "CLIPVisionModelWithProjection"},
    **{"siglip": "SiglipModel", "siglip_vision_model": "SiglipVisionModel", "swin": "SwinModel"},
    **{"swinv2": "Swinv2Model", "convnext": "ConvNextModel", "convnextv2": "ConvNextV2Model"},
    **{"dinov3_convnext": "DINOv3ConvNextModel", "resnet": "ResNetModel", "regnet": "RegNetModel"},
    **{"segformer": "SegformerModel", "pvt_v2": "PvtV2Model"},
}
"""The class for each ``model_type`` of a config.json; of a masked autoencoder the encoder without masking."""

SAYS_NOTHING = re.compile(
    "architectures|model_type|transformers_version|(torch_)?dtype|id2label|label2id|_name_or_path|problem_type|auto_map"
    "|output_.*|return_dict.*|initializer_.*|_.*|use_cache|num_labels|out_.*"
    "|stage_names|semantic_loss_ignore_index|.*dropout.*|drop_path_rate|decoder_.*|mask_ratio|norm_pix_loss"
)
"""Settings of a config.json that leave features as they are."""

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
DEEPEST = 200
"""More blocks than any published model has."""


def published_card(name: str) -> EncoderCard:
    """A card for ``ORG/MODEL``, ``ORG/MODEL@REVISION`` or the path of a folder that transformers saved.

    The class goes by config.json, the input by the repository's own image processor, which is held against evalfm's
    preparation; dimensions and maps are measured by a forward pass of the model in shapes alone. The card pins the
    commit that was read.

    Raises:
        EvalfmError: there is no such repository, it cannot be reached, transformers has no native class for it, or a
            card cannot say how its images are prepared.
    """
    place = Repository.of(f"hf:{name}", name)
    config_file = place.file("config.json")
    processor = next((each for each in map(place.optional, PROCESSORS) if each is not None), None)
    if processor is None:
        raise EvalfmError(
            f"{place.name} has no {PROCESSORS[0]}, so how its images are prepared is not known; write a card that says "
            "it."
        )
    config = read_json(config_file)
    if not isinstance(config, dict):
        raise EvalfmError(f"{config_file} holds no settings by name; fetch it again.")
    facts = json.loads(_facts(place.name, config_file.parent, json.dumps(config), read_text(processor)))
    pinned = place.pinned(config_file)
    licence = pinned.licence()
    weights = pinned.weights(WEIGHTS, tuple(facts.pop("unexpected")))
    tower = facts.pop("tower")
    saved = " ".join(map(str, config.get("architectures") or ()))
    labels = re.search("For(ImageClassification|SemanticSegmentation)", saved)
    paradigm: Literal["image-text", "label-supervised", "image-only"]
    paradigm = "image-text" if facts["architecture"] in DUALS else "label-supervised" if labels else "image-only"
    own_code = ("The repository brings code of its own, which is not run; transformers' class stands for it.",)
    return EncoderCard(
        name=place.name,
        summary=f"{facts['architecture']} of transformers, as the {'folder' if place.folder else 'repository'} has it.",
        weights=weights,
        licence=licence or "not stated",
        commercial_use=commercial_use(licence) if licence else "ask",
        paradigm=paradigm,
        domain="not stated",
        pretraining_data=({"name": "not stated", "what": SEEN[paradigm]},),
        text_tower=None if tower is None else _text_facts(pinned, tower),
        confirmed=(
            "Input: evalfm's pixels are those of the repository's image processor, but for its 8 bits.",
            "Dimensions and maps were measured on transformers' model of its config.json.",
        ),
        unconfirmed=(
            *(own_code if "auto_map" in config else ()),
            f"That it is {paradigm} is read off its config.json; what it has seen is not known.",
            *(() if tower is None else ("The prompts are evalfm's choice.",)),
        ),
        **facts,
    )


PROCESSORS = ("preprocessor_config.json", "processor_config.json")
SEEN: dict[str, Literal["text", "labels", "images"]]
SEEN = {"image-text": "text", "label-supervised": "labels", "image-only": "images"}
DUALS = ("CLIPModel", "SiglipModel", "CLIPVisionModel", "CLIPVisionModelWithProjection", "SiglipVisionModel")


@lru_cache(maxsize=32)
def _facts(name: str, folder: Path, config_text: str, processor_text: str) -> str:
    """What of a card config.json and the image processor beside it in ``folder`` tell, as JSON.

    Both are given too, so that what is kept is forgotten when they change.
    """
    content = json.loads(config_text)
    kind = _native(name, content)
    arguments = _arguments(name, kind, content)
    whole = kind.config_class(**arguments)
    settings = getattr(whole, "vision_config", whole)
    preprocessing = _preprocessing(name, folder, 1 if getattr(settings, "num_channels", 3) == 1 else 3)
    encoder_class = KINDS.get(kind.__name__, TransformersEncoder)
    depths = getattr(settings, "depths", None)
    depth = len(depths) if depths else int(settings.num_hidden_layers)
    built = {"family": "transformers", "architecture": kind.__name__, "arguments": arguments}
    try:
        card = draft(
            name=name,
            preprocessing=preprocessing.model_dump(mode="json"),
            size_multiple=encoder_class.multiple(settings),
            map_layers=tuple(range(depth)) if depths else tuple(evenly(depth)),
            **built,
        )
        with torch.device("meta"):
            encoder = encoder_class(card, EncoderState(), None)
        facts = measured(encoder, encoder.own_poolings)
    except EvalfmError:
        raise
    except Exception as error:
        # Settings that do not go together; the library says it in whatever way.
        raise EvalfmError(
            f"transformers cannot build {name} for inputs of {preprocessing.input_size} ({_first_line(error)}); write "
            "a card, or an Encoder of your own."
        ) from None
    return json.dumps(
        {
            **{**built, **facts, "size_multiple": card.size_multiple, "map_layers": card.map_layers},
            **{"preprocessing": preprocessing.model_dump(mode="json"), "map_norm": encoder.map_norm},
            **{"unexpected": _heads(kind, content), "tower": _tower(kind.__name__, whole)},
        }
    )


def _first_line(error: Exception) -> str:
    return next((line.strip()[:160] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _native(name: str, config: Mapping[str, Any]) -> Any:
    """transformers' class for the ``model_type``."""
    model_type = str(config.get("model_type", ""))
    if model_type == "clip_vision_model" and "CLIPVisionModel" in (config.get("architectures") or ()):
        # Without the projection.
        return transformers.CLIPVisionModel
    if model_type in NATIVE:
        return getattr(transformers, NATIVE[model_type])
    if "pretrained_cfg" in config and "architecture" in config:
        raise EvalfmError(f"{name} is a model of timm; name it timm:{shown(str(config['architecture']))[1:-1]}.TAG.")
    what = f"is a {shown(model_type)}" if model_type else "says no model_type"
    code = " and runs by code in its repository, which is never run" if "auto_map" in config else ""
    raise EvalfmError(
        f"{name} {what}{code}; evalfm knows {', '.join(sorted(NATIVE))}: take one of these, write an Encoder, or bring "
        "its embeddings as precomputed:FILE."
    )


def _arguments(name: str, kind: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of config.json that make the model, without those that are the class's own."""
    try:
        known = kind.config_class().to_dict()
        names = {*known, *getattr(kind.config_class, "attribute_map", {})}
        # Older files say of CLIP's towers here what counts before the settings under their own name.
        names |= {f"{key}_dict" for key in known if key.endswith("_config")}
        given = {key: value for key, value in content.items() if key in names}
        config = kind.config_class(**given)
        arguments = _differing(config.to_dict(), known)
        rebuilt = kind.config_class(**arguments)
    except Exception as error:
        # Settings of strange types trip the library up anywhere.
        raise EvalfmError(
            f"transformers cannot read the config.json of {name} ({_first_line(error)}); fetch it again."
        ) from None
    if _differing(rebuilt.to_dict(), config.to_dict()):
        raise EvalfmError(f"The config.json of {name} says more than a card can; write an Encoder of your own.")
    for part in (arguments, *(each for each in arguments.values() if isinstance(each, dict))):
        blocks = [part.get("num_hidden_layers"), *(part.get("depths") or ())]
        if any(isinstance(each, int) and each > DEEPEST for each in blocks):
            raise EvalfmError(f"The config.json of {name} asks for more than {DEEPEST} blocks; fetch it again.")
    return arguments


def _differing(settings: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` that are not those ``known`` and say something, at any depth."""
    found = {}
    for key, value in settings.items():
        if SAYS_NOTHING.fullmatch(key) or key not in known:
            continue
        if isinstance(value, dict) and isinstance(known.get(key), dict):
            value = _differing(value, known[key])
            if value:
                found[key] = value
        elif value != known[key]:
            found[key] = value
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _preprocessing(name: str, folder: Path, channels: Literal[1, 3]) -> Any:
    """What the image processor in ``folder`` does."""
    reader: Any = transformers.AutoImageProcessor
    with quiet():
        try:
            processor = reader.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except Exception as error:
            # A processor of the repository's own code, or settings that the library cannot read.
            raise EvalfmError(
                f"transformers has no image processor of its own for {name} ({_first_line(error)}); write a card that "
                "says how images are prepared."
            ) from None
        statistics = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
        known = None if not all(isinstance(each, Sequence) for each in statistics) else statistics

        def transform(picture: Any) -> Any:
            return processor(images=picture, return_tensors="pt")["pixel_values"][0]

        return facts_of(transform, name, statistics=known, channels=channels)  # type: ignore[arg-type]


def _heads(kind: Any, content: Mapping[str, Any]) -> list[str]:
    """Names of tensors behind or beside the encoder in what the repository's own class saves."""
    patterns = ["*position_ids", "*pooler.dense.*", "*mask_token", "*relative_position_index"]
    for name in content.get("architectures") or ():
        own = getattr(transformers, str(name), None)
        if not (isinstance(own, type) and issubclass(own, transformers.PreTrainedModel)):
            continue
        config_class: Any = own.config_class
        try:
            with torch.device("meta"):
                children = [child for child, _ in own(config_class.from_dict(dict(content))).named_children()]
                base = {child for child, _ in kind(kind.config_class()).named_children()}
        except Exception:
            # Settings that only that class would need.
            continue
        patterns += [f"{child}.*" for child in children if child not in (*base, own.base_model_prefix)]
    if content.get("model_type") == "vit_mae":
        patterns.append("decoder.*")
    return sorted(set(patterns))


def _tower(kind: str, config: Any) -> dict[str, Any] | None:
    """The text tower of a dual model by its settings."""
    if kind == "CLIPModel":
        length, dim, pooling = config.text_config.max_position_embeddings, config.projection_dim, "projection"
        # After the end of a text, which nothing looks at.
        arguments: dict[str, Any] = {"pad_id": config.text_config.pad_token_id or 0}
    elif kind == "SiglipModel":
        length, pooling = config.text_config.max_position_embeddings, "map"
        dim = getattr(config.text_config, "projection_size", None) or config.text_config.hidden_size
        arguments = {"pad_id": config.text_config.pad_token_id}
    else:
        return None
    return {"dim": dim, "pooling": pooling, "context_length": length, "arguments": arguments}


def _text_facts(place: Repository, facts: dict[str, Any]) -> TextFacts | None:
    """The tower as far as the repository has a tokenizer that evalfm reads."""
    file = next((name for name in ("tokenizer.json", "spiece.model") if place.optional(name) is not None), None)
    settings = place.optional("tokenizer_config.json")
    if file is None or settings is None:
        return None
    known = read_json(settings)
    kind = str(known.get("tokenizer_class", ""))
    arguments = dict(facts["arguments"])
    if facts["pooling"] == "map":
        # SigLIP sees what pads; its own tokenizer leaves punctuation out, its successor's only lowers.
        if not kind.startswith(("Siglip", "Gemma")):
            return None
        word = known.get("pad_token")
        word = word.get("content") if isinstance(word, dict) else word
        added = {each.get("content"): int(number) for number, each in known.get("added_tokens_decoder", {}).items()}
        if word in added:
            arguments["pad_id"] = added[word]
        arguments |= {"canonical": True} if kind.startswith("SiglipTokenizer") else {"lower": True}
    return TextFacts(**facts | {"tokenizer": (file,), "arguments": arguments})
