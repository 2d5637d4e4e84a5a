"""`evalfm doctor --verify` on a checkpoint of every card, in its published layout and under its published names.

    python benchmarks/acceptance/verify_layouts.py [--full] [--only NAME ...] [--out build/layouts]

The weights are drawn; names, wrappers, settings and tokenizers lie as their authors publish them. The models are
narrow, with a block for every map, or with --full the cards' own. Writes benchmarks/acceptance/verify_layouts.md. What
a card says of true weights only `doctor --verify` on these can tell.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
import torchvision
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evalfm.encoders import EncoderCard, find_card, load_encoder
from evalfm.encoders.beside_library import Beside, beside_library
from evalfm.encoders.registry import CARDS
from evalfm.errors import EvalfmError

TABLE = Path(__file__).with_suffix(".md")

SEED = 7

WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "chest",
    "radio",
    "##graph",
    "with",
    "no",
    "pneumo",
    "##thorax",
)
"""A vocabulary of BERT's kind that knows the sentences of the comparison."""

PIECES = (
    *(
        ("<pad>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<unk>", 0.0, 2),
        ("▁a", -2.0, 1),
        ("▁chest", -3.0, 1),
        ("▁radio", -3.2, 1),
    ),
    *(
        ("graph", -3.4, 1),
        ("▁with", -2.5, 1),
        ("▁no", -2.6, 1),
        ("▁pneumo", -4.0, 1),
        ("thorax", -4.1, 1),
        ("▁", -3.0, 1),
    ),
    *((letter, -8.0 - number / 10, 1) for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")),
)
"""Pieces, scores and kinds of a unigram model of SentencePiece."""


def drawn(model: Any) -> Any:
    """``model`` with every tensor drawn so that all of it counts: none stays zero or one, attention has preferences."""
    generator = torch.Generator().manual_seed(SEED)
    kept = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.add_(noise * 0.1)
            elif kept:
                # Without a norm over what it is given a deep network would lose its signal.
                parameter.add_(noise * 0.3 * parameter.std())
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1, generator=generator)
                module.running_var.uniform_(0.8, 1.2, generator=generator)
    return model.eval()


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": each for name, each in tensors.items()}


def plain(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.contiguous().clone() for name, each in model.state_dict().items()}


# timm, and files whose architecture timm has.


def timm_whole(card: EncoderCard, **changes: Any) -> Any:
    return drawn(timm.create_model(card.architecture, pretrained=False, **{**card.arguments, **changes}))


def of_timm(card: EncoderCard, folder: Path) -> Path:
    path = folder / (card.weights.file or "model.safetensors")
    save_file(plain(timm_whole(card)), path)
    return path


EVA_NAMES = {
    **{"attn.q_proj.bias": "attn.q_bias", "attn.v_proj.bias": "attn.v_bias", "mlp.fc1_g.": "mlp.w1."},
    **{"mlp.fc1_x.": "mlp.w2.", "mlp.fc2.": "mlp.w3.", "mlp.norm.": "mlp.ffn_ln.", "attn.norm.": "attn.inner_attn_ln."},
    "fc_norm.": "norm.",
}
"""timm's names of EVA-02's tensors, and those of the authors of EVA-X."""


def of_eva_x(card: EncoderCard, folder: Path) -> Path:
    theirs = {}
    for name, tensor in plain(timm_whole(card, num_classes=0)).items():
        for ours, their in EVA_NAMES.items():
            name = name.replace(ours, their)
        theirs[name] = tensor
    theirs |= {"mask_token": torch.zeros(1, 1, 8), "lm_head.weight": torch.zeros(7, 8)}
    path = folder / str(card.weights.file)
    torch.save({"module": theirs, "epoch": 900, "loss": np.float64(0.3)}, path)
    return path


def of_sam(card: EncoderCard, folder: Path) -> Path:
    own = plain(timm_whole(card, num_classes=0))
    theirs = {f"image_encoder.{name.replace('mlp.fc', 'mlp.lin')}": each for name, each in own.items()}
    theirs |= {
        "prompt_encoder.no_mask_embed.weight": torch.zeros(1, 256),
        "mask_decoder.iou_token.weight": torch.ones(1),
    }
    path = folder / str(card.weights.file or "sam.pth")
    torch.save(theirs, path)
    return path


def of_mermed(card: EncoderCard, folder: Path) -> Path:
    teacher = prefixed("module.backbone.", plain(timm_whole(card, num_classes=0)))
    teacher["module.head.mlp.0.weight"] = torch.zeros(3, 8)
    student = {name: torch.zeros_like(each) for name, each in teacher.items()}
    path = folder / "mermed.pth"
    torch.save({"student": student, "teacher": teacher, "args": argparse.Namespace(arch="vit_base", lr=1e-3)}, path)
    return path


def of_xrv(card: EncoderCard, folder: Path) -> Path:
    """What `evalfm convert` leaves of the pickled module, whose features bear torchvision's names."""
    whole = torchvision.models.densenet121(weights=None, num_classes=18)
    whole.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    path = folder / "xrv.safetensors"
    save_file(plain(drawn(whole)), path)
    return path


def of_chexfound(card: EncoderCard, folder: Path) -> Path:
    """Names of DINOv2's own code, blocks in four chunks, the heads of training beside."""
    depth, theirs = card.arguments["depth"], {}
    for name, tensor in plain(timm_whole(card, num_classes=0)).items():
        if name.startswith("blocks."):
            _, block, rest = name.split(".", 2)
            rest = rest.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
            name = f"blocks.{min(3, 4 * int(block) // depth)}.{block}.{rest}"
        theirs[name.replace("reg_token", "register_tokens")] = tensor
    # They add a position to CLS at every pass, which timm has in the token.
    position = torch.full_like(theirs["cls_token"], 0.25)
    theirs["cls_token"] = theirs["cls_token"] - position
    theirs["pos_embed"] = torch.cat([position, theirs["pos_embed"]], dim=1)
    theirs["mask_token"] = torch.zeros(1, theirs["cls_token"].shape[-1])
    heads = {"dino_head.last_layer.weight_v": torch.zeros(2, 2), "ibot_head.mlp.0.weight": torch.zeros(2, 2)}
    path = folder / str(card.weights.file)
    torch.save({"teacher": prefixed("backbone.", theirs) | heads}, path)
    return path


# transformers


WHOLE = {
    "segformer-b4": "SegformerForSemanticSegmentation",
    **dict.fromkeys(("vit-b16-in1k", "vit-l16-in1k"), "ViTForImageClassification"),
}
"""What the authors saved where a card reads a part of it."""


def config_of(kind: Any, card: EncoderCard) -> Any:
    return kind.config_class(**{name: each for name, each in card.arguments.items() if name != "projection"})


def of_transformers(card: EncoderCard, folder: Path) -> Path:
    kind = getattr(transformers, WHOLE.get(card.base_name, card.architecture))
    options = {"add_pooling_layer": False} if card.architecture == "IJepaModel" else {}
    if card.name == "mae-b16":
        kind, small = transformers.ViTMAEForPreTraining, {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1}
        config = kind.config_class(
            **card.arguments, **small, decoder_num_attention_heads=2, decoder_intermediate_size=32
        )
    else:
        config = config_of(kind, card)
    model = drawn(kind(config, **options))
    model.save_pretrained(folder)
    name = str(card.weights.file)
    if name.endswith(".bin"):
        # The library saves under the names that the hub's files have had from the first.
        tensors = load_file(folder / "model.safetensors")
        if card.architecture == "CLIPModel":
            counts = {"text": 77, "vision": 1 + (card.preprocessing.input_size[0] // card.size_multiple) ** 2}
            tensors |= {f"{part}_model.embeddings.position_ids": torch.arange(n)[None] for part, n in counts.items()}
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / name)
    processor(card, folder)
    if card.text_tower is not None:
        tokenizer_of(card, folder)
    return folder


def processor(card: EncoderCard, folder: Path) -> None:
    """The settings by which the library prepares an image; Curia's and MedSigLIP's are code or none of its own."""
    facts = card.preprocessing
    if facts.scaling != "range" or not facts.antialias or facts.resize == "letterbox":
        return
    height, width = facts.input_size
    kinds = {"CLIPModel": "CLIPImageProcessor", "SiglipModel": "SiglipImageProcessor"}
    settings = {
        "image_processor_type": kinds.get(card.architecture, "BitImageProcessor"),
        "do_resize": True,
        "resample": {"bilinear": 2, "bicubic": 3}[facts.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": list(facts.mean),
        "image_std": list(facts.std),
    }
    if facts.resize == "squash":
        settings |= {"size": {"height": height, "width": width}, "do_center_crop": False}
    else:
        crop = {"height": height, "width": width}
        settings |= {"size": {"shortest_edge": facts.resize_to}, "do_center_crop": True, "crop_size": crop}
    if facts.resize == "squash" and card.architecture != "SiglipModel":
        settings["image_processor_type"] = "ViTImageProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def tokenizer_of(card: EncoderCard, folder: Path) -> None:
    """OpenAI's own vocabulary for CLIP, a small one of SentencePiece's kind for SigLIP."""
    if card.architecture == "CLIPModel":
        own = open_clip.tokenizer.SimpleTokenizer()
        merges = [tuple(pair) for pair in own.bpe_ranks]
        words = {word.replace("<start_of_text>", "<|startoftext|>"): each for word, each in own.encoder.items()}
        words = {word.replace("<end_of_text>", "<|endoftext|>"): each for word, each in words.items()}
        transformers.CLIPTokenizer(vocab=words, merges=merges).save_pretrained(folder)
        return
    assert card.text_tower is not None
    sentencepiece(folder / "spiece.model")
    if card.text_tower.tokenizer != ("spiece.model",):
        from evalfm.encoders.families._tokenizer import from_sentencepiece

        made = from_sentencepiece(folder / "spiece.model")
        made.save(str(folder / "tokenizer.json"))
        pad = made.id_to_token(int(card.text_tower.arguments["pad_id"]))
        fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token=pad)
        (folder / "spiece.model").unlink()
        fast.save_pretrained(folder)


def sentencepiece(path: Path) -> None:
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    for piece, score, kind in PIECES:
        proto.pieces.add(piece=piece, score=score, type=kind)
    for name, value in {"model_type": 1, "unk_id": 2, "eos_id": 1, "bos_id": -1, "pad_id": 0}.items():
        setattr(proto.trainer_spec, name, value)
    proto.normalizer_spec.name = "identity"
    path.write_bytes(proto.SerializeToString())


def of_cxr_clip(card: EncoderCard, folder: Path) -> Path:
    swin = drawn(transformers.SwinModel(config_of(transformers.SwinModel, card)))
    image = drawn(nn.Linear(swin.config.hidden_size, card.arguments["projection"]))
    whole = prefixed("image_encoder.image_encoder.", plain(swin))
    whole |= prefixed("image_projection.projection.", plain(image)) | {"logit_scale": torch.tensor(2.6)}
    assert card.text_tower is not None
    bert = drawn(transformers.BertModel(transformers.BertConfig(**card.text_tower.arguments["bert"])))
    whole |= prefixed("text_encoder.text_encoder.", plain(bert))
    whole |= prefixed(
        "text_projection.projection.", plain(drawn(nn.Linear(bert.config.hidden_size, card.text_tower.dim)))
    )
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    path = folder / str(card.weights.file)
    torch.save({"model": whole, "epoch": 3}, path)
    return path


# open_clip


def bert_folder(card: EncoderCard, folder: Path) -> None:
    transformers.BertConfig(**card.arguments["text_cfg"]["bert"]).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")


def of_open_clip(card: EncoderCard, folder: Path) -> Path:
    settings = dict(card.arguments)
    text = dict(settings["text_cfg"])
    with tempfile.TemporaryDirectory() as made:
        if text.pop("bert", None) is not None:
            bert_folder(card, Path(made))
            text |= {"hf_model_name": made, "hf_tokenizer_name": made}
        (Path(made) / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**settings, "text_cfg": text}}))
        model = open_clip.create_model(f"local-dir:{made}", load_weights=False, pretrained_text=False)
    tensors = {name: each for name, each in plain(drawn(model)).items() if ".pooler.dense." not in name}
    name = str(card.weights.file)
    if card.name == "biomedclip":
        text = {"hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract", "proj": "mlp"}
        text |= {"hf_tokenizer_name": text["hf_model_name"], "pooler_type": "cls_last_hidden_state_pooler"}
        text |= {"context_length": card.arguments["text_cfg"]["context_length"]}
        config = {"model_cfg": {**settings, "text_cfg": text}, "preprocess_cfg": statistics(card)}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        tensors["text.transformer.embeddings.position_ids"] = torch.arange(512)[None]
        torch.save(tensors, folder / name)
        bert_folder(card, folder)
        (folder / "config.json").unlink()
        transformers.BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
        return folder
    if card.name.startswith("unimed"):
        theirs = {
            f"module.{'text_encoder.' + key[5:] if key.startswith('text.') else key}": each
            for key, each in tensors.items()
        }
        torch.save({"epoch": 10, "loss": np.float64(0.5), "state_dict": theirs}, folder / name)
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        return folder / name
    torch.save(tensors | {"input_resolution": torch.tensor(224), "vocab_size": torch.tensor(49408)}, folder / name)
    return folder / name


def statistics(card: EncoderCard) -> dict[str, Any]:
    return {"mean": list(card.preprocessing.mean), "std": list(card.preprocessing.std)}


# Ports


def of_ark(card: EncoderCard, folder: Path) -> Path:
    arguments = {name: each for name, each in card.arguments.items() if name not in ("backbone", "projector")}
    swin = timm.create_model(card.arguments["backbone"], img_size=card.preprocessing.input_size, **arguments)
    projector = nn.Linear(swin.num_features, card.arguments["projector"])
    theirs = {}
    for name, tensor in plain(drawn(swin)).items():
        # timm 0.5.4 counted what halves a stage to the stage before, and had one name less in the head.
        for stage in (1, 2, 3):
            name = name.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample")
        theirs[name.replace("head.fc.", "head.")] = tensor
    theirs |= prefixed("projector.", plain(drawn(projector)))
    theirs |= {"omni_heads.0.weight": torch.zeros(14, 8), "layers.0.blocks.1.attn_mask": torch.zeros(4, 9, 9)}
    teacher = prefixed("module.", theirs)
    path = folder / str(card.weights.file)
    student = {name: torch.zeros(1) for name in teacher}
    torch.save({"epoch": 50, "lossMIN": [np.float64(0.25)], "state_dict": student, "teacher": teacher}, path)
    return path


def of_biovil_t(card: EncoderCard, folder: Path) -> Path:
    from torchvision.models.resnet import Bottleneck, ResNet

    theirs = prefixed("encoder.encoder.", plain(drawn(ResNet(Bottleneck, list(card.arguments["layers"])))))
    theirs |= prefixed("encoder.backbone_to_vit.", plain(drawn(nn.Conv2d(2048, 256, 1, bias=False))))
    theirs |= {"encoder.missing_previous_emb": torch.randn(1, 256, 1, 1, generator=torch.Generator().manual_seed(SEED))}
    theirs |= {"encoder.vit_pooler.type_embed": torch.zeros(2, 1, 256)}
    head = nn.Sequential(nn.Conv2d(512, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 128, 1))
    theirs |= prefixed("projector.model.", plain(drawn(head)))
    torch.save(theirs, folder / str(card.weights.file))
    assert card.text_tower is not None
    bert = drawn(transformers.BertForMaskedLM(transformers.BertConfig(**card.text_tower.arguments["bert"])))
    width = bert.config.hidden_size
    parts = {
        "dense_to_hidden": nn.Linear(width, 128),
        "LayerNorm": nn.LayerNorm(128),
        "dense_to_output": nn.Linear(128, 128),
    }
    texts = {name: each for name, each in plain(bert).items() if name != "cls.predictions.decoder.weight"}
    texts |= prefixed("cls_projection_head.", plain(drawn(nn.ModuleDict(parts))))
    torch.save(texts, folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder / str(card.weights.file)


DAVIT_NAMES = (
    *(("stem.conv.", "convs.0.proj."), ("stem.norm.", "convs.0.norm."), ("head.norm.", "norms.")),
    *((f"stages.{each}.downsample.conv.", f"convs.{each}.proj.") for each in (1, 2, 3)),
    *((f"stages.{each}.downsample.norm.", f"convs.{each}.norm.") for each in (1, 2, 3)),
    *((f"stages.{each}.blocks.", f"blocks.{each}.") for each in range(4)),
    *(("cpe1.proj.", "conv1.fn.dw."), ("cpe2.proj.", "conv2.fn.dw.")),
    *(
        ("spatial_block.norm1.", "spatial_block.window_attn.norm."),
        ("spatial_block.attn.", "spatial_block.window_attn.fn."),
    ),
    *(
        ("channel_block.norm1.", "channel_block.channel_attn.norm."),
        ("channel_block.attn.", "channel_block.channel_attn.fn."),
    ),
    *(("norm2.", "ffn.norm."), ("mlp.", "ffn.fn.net.")),
)
"""timm's names of DaViT's tensors, and those of MedImageInsight's authors."""


def of_medimageinsight(card: EncoderCard, folder: Path) -> Path:
    arguments = {name: each for name, each in card.arguments.items() if name not in ("backbone", "projection")}
    davit = drawn(timm.create_model(card.arguments["backbone"], num_classes=0, **arguments))
    theirs = {}
    for name, tensor in plain(davit).items():
        for ours, their in DAVIT_NAMES:
            name = name.replace(ours, their)
        theirs[f"image_encoder.{name}"] = tensor
    generator = torch.Generator().manual_seed(SEED)
    joint = card.arguments["projection"]
    theirs["image_projection"] = torch.randn(davit.num_features, joint, generator=generator) * 0.05
    assert card.text_tower is not None
    shape = card.text_tower.arguments
    config = open_clip.CLIPTextCfg(77, 49408, width=shape["width"], heads=shape["heads"], layers=shape["layers"])
    vision = open_clip.CLIPVisionCfg(layers=1, width=64, image_size=32, patch_size=32)
    clip = drawn(open_clip.model.CLIP(joint, vision, config, quick_gelu=True))
    lang = {f"resblocks.{name}": each for name, each in plain(clip.transformer.resblocks).items()}
    lang |= {
        "token_embedding.weight": clip.token_embedding.weight.detach(),
        "positional_embedding": clip.positional_embedding.detach(),
    }
    lang |= prefixed("ln_final.", plain(clip.ln_final))
    theirs |= prefixed("lang_encoder.", {name.replace(".mlp.gelu", ""): each for name, each in lang.items()})
    theirs |= {"lang_projection": clip.text_projection.detach().clone(), "logit_scale": torch.tensor(3.5)}
    path = folder / str(card.weights.file)
    path.parent.mkdir(parents=True)
    save_file({name: each.contiguous().clone() for name, each in theirs.items()}, path)
    return path


def of_torchvision(card: EncoderCard, folder: Path) -> Path:
    path = folder / "squeezenet.npz"
    model = drawn(torchvision.models.get_model(card.architecture, weights=None, **card.arguments))
    np.savez(path, **{name: each.numpy() for name, each in plain(model).items()})
    return path


SPECIAL: dict[str, Callable[[EncoderCard, Path], Path]] = {
    **dict.fromkeys(("eva-x-ti", "eva-x-s", "eva-x-b"), of_eva_x),
    **dict.fromkeys(("sam-b", "medsam"), of_sam),
    **{"mermed-fm": of_mermed, "xrv-densenet121-all": of_xrv, "cxr-clip-swint": of_cxr_clip, "ark-plus": of_ark},
    **{"biovil-t": of_biovil_t, "medimageinsight": of_medimageinsight, "chexfound": of_chexfound},
}
"""Cards whose files are not as their library saves them."""

FAMILIES: dict[str, Callable[[EncoderCard, Path], Path]] = {
    "timm": of_timm,
    "transformers": of_transformers,
    "open_clip": of_open_clip,
    "torchvision": of_torchvision,
}


def layout(card: EncoderCard, folder: Path) -> Path:
    """A drawn checkpoint of ``card`` in ``folder``, as it is published; what is to be given to --weights."""
    return (SPECIAL.get(card.base_name) or FAMILIES[card.family])(card, folder)


def with_arguments(card: EncoderCard, **changes: Any) -> EncoderCard:
    """``card`` with ``changes`` of its content, its parameters counted anew."""
    from evalfm.encoders.encoder import EncoderState
    from evalfm.encoders.families import builder

    content = {**card.model_dump(mode="json", by_alias=True), **changes}
    other = type(card).model_validate(content)
    with torch.device("meta"):
        made = builder(other.family)(other, EncoderState(preprocessing=other.preprocessing), None)
    return other.model_copy(update={"parameters": sum(each.numel() for each in made.parameters())})


VIT = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 48}
BERT = {"vocab_size": 13, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TIMM: dict[str, dict[str, Any]] = {
    "convnext_base": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "resnet101": {"layers": [1, 1, 1, 1]},
    "swin_base_patch4_window7_224": {"depths": [1, 1, 1, 1], "embed_dim": 8, "num_heads": [1, 2, 2, 4]},
}
PORTS: dict[str, dict[str, Any]] = {
    "ark-plus": {"projector": 11, "embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 3},
    "medimageinsight": {
        "projection": 12,
        "embed_dims": [8, 16, 32, 64],
        "num_heads": [1, 2, 4, 8],
        "depths": [1, 1, 2, 1],
        "window_size": 4,
    },
    "biovil-t": {"layers": [1, 1, 1, 1]},
}


def narrow(card: EncoderCard) -> EncoderCard:
    """The card with a narrow model of as many blocks as it has maps; every other fact is its own."""
    content = card.model_dump(mode="json", by_alias=True)
    arguments, tower, facts = content["arguments"], content["text_tower"] or {}, content["preprocessing"]
    count, stride = len(content["map_layers"]), content["map_strides"][0]
    evenly = content["map_strides"] == [stride] * count
    widths: dict[str, int] = {}
    side = facts["input_size"][0]
    if content["family"] == "transformers" and "vision_config" in arguments:
        side = 4 * stride
        arguments["vision_config"] |= VIT | {"image_size": side}
        arguments["text_config"] |= VIT | {"num_hidden_layers": 2}
        if "vocab_size" in arguments["text_config"]:
            arguments["text_config"] |= {"vocab_size": 64, "projection_size": 32}
        if "projection_dim" in arguments:
            arguments["projection_dim"] = 20
        widths = {pooling: 20 if pooling == "projection" else 32 for pooling in content["poolings"]}
    elif content["family"] == "transformers" and evenly:
        # A model trained at another size than the card's interpolates its positions.
        side, other = 4 * stride, arguments["image_size"] != side
        shape = {key: value for key, value in VIT.items() if key in arguments}
        arguments |= shape | {"image_size": side + 2 * stride * other}
        widths = dict.fromkeys(content["poolings"], 32)
    elif content["architecture"] == "SegformerModel":
        side, stages = 64, [8, 16, 24, 32]
        arguments |= {"depths": [1, 1, 1, 1], "hidden_sizes": stages, "num_attention_heads": [1, 2, 2, 4]}
        content |= {"map_channels": stages}
        widths = {"mean": 32}
    elif content["family"] == "transformers":
        side, stages = 64, [12, 24, 48, 96]
        arguments |= {"image_size": 64, "embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}
        arguments |= {"window_size": 2, "projection": 20}
        content |= {"map_channels": stages, "size_multiple": 64}
        tower["arguments"]["bert"] = BERT
        widths = {pooling: 20 if pooling == "projection" else 96 for pooling in content["poolings"]}
    elif content["family"] == "open_clip":
        if "timm_model_name" in arguments["vision_cfg"]:
            arguments["vision_cfg"]["timm_model_name"] = "vit_tiny_patch16_224"
        else:
            side = 2 * stride
            arguments["vision_cfg"] |= {"image_size": side, "layers": count, "width": 48, "head_width": 24}
        arguments["embed_dim"] = 20
        if "bert" in arguments["text_cfg"]:
            arguments["text_cfg"]["bert"] = BERT
        else:
            arguments["text_cfg"] |= {"width": 32, "heads": 2, "layers": 2}
        widths = {pooling: 20 if pooling == "projection" else 192 for pooling in content["poolings"]}
    elif content["family"] == "ports":
        arguments |= PORTS[card.name]
        side = {"ark-plus": 96, "medimageinsight": 64, "biovil-t": 64}[card.name]
        content["size_multiple"] = min(content["size_multiple"], 96)
        if card.name != "biovil-t":
            content["map_channels"] = [8, 16, 32, 64]
            widths = {pooling: arguments.get(pooling, 64) for pooling in content["poolings"]}
        elif "bert" in tower["arguments"]:
            tower["arguments"]["bert"] = BERT
        if "width" in tower.get("arguments", {}):
            tower["arguments"] = {"width": 16, "heads": 2, "layers": 2}
    elif evenly and content["family"] == "timm":
        arguments |= {"embed_dim": 48, "depth": count, "num_heads": 2}
        if "samvit" in content["architecture"]:
            side = 64
            arguments |= {"img_size": side, "global_attn_indexes": [1, 4]}
        widths = {pooling: 256 if pooling == "gap" else 48 for pooling in content["poolings"]}
    elif content["architecture"] in TIMM:
        arguments |= TIMM[content["architecture"]]
        stages = arguments.get("dims", [8, 16, 32, 64] if "embed_dim" in arguments else content["map_channels"])
        content |= {"map_channels": stages}
        widths = dict.fromkeys(content["poolings"], stages[-1])
    if evenly and content["family"] != "torchvision":
        content["map_layers"] = list(range(count))
        content["map_channels"] = [widths.get("cls" if card.name == "biomedclip" else "", 48)] * count
        if content["family"] == "transformers":
            content["map_channels"] = [32] * count
    if facts["resize_to"] is not None:
        facts["resize_to"] = round(facts["resize_to"] * side / facts["input_size"][0])
    facts["input_size"] = [side, side]
    content["poolings"] |= widths
    if tower:
        tower["dim"] = content["poolings"][tower["pooling"]]
    return with_arguments(card, **content)


def verified(card: EncoderCard, folder: Path) -> Beside:
    """``card`` beside its library with the checkpoint that ``layout`` makes in ``folder``.

    Raises:
        EvalfmError: no library can be held against it, or the checkpoint does not load.
    """
    return beside_library(load_encoder(card, weights=layout(card, folder)))


COLUMNS = ("pixels", "embedding", "maps", "text", "missing", "unexpected")


def row(found: Beside) -> dict[str, str]:
    """The figures of one card: cosines, the lowest of the maps, and counts of tensors."""
    cosines = {each.part: each.cosine for each in found.parts}
    maps = [cosine for part, cosine in cosines.items() if part.startswith("map ")]
    shown = {part: f"{cosines[part]:.6f}" if part in cosines else "–" for part in ("pixels", "embedding", "text")}
    shown["maps"] = f"{min(maps):.6f} ({len(maps)})" if maps else "–"
    return shown | {"missing": str(len(found.missing)), "unexpected": str(len(found.unexpected))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+")
    parser.add_argument(
        "--full", action="store_true", help="at full size; a row of these stays until the next such run"
    )
    parser.add_argument("--out", type=Path, default=Path("build/layouts"))
    options = parser.parse_args()
    names = options.only or sorted(path.name.removesuffix(".yaml") for path in CARDS.glob("*.yaml"))
    cards = [card for card in map(find_card, names) if card.weights.source not in ("none", "package")]
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "rows.json"
    for card in sorted(cards, key=cost):
        began, folder = time.perf_counter(), options.out / card.name
        taken = card if options.full else narrow(card)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            found = verified(taken, folder)
            figures, said = row(found), list(found.left_out)
        except EvalfmError as error:
            figures, said = dict.fromkeys(COLUMNS, "–"), [str(error)]
        finally:
            shutil.rmtree(folder)
        figures["size"] = "full" if taken.parameters == card.parameters else "narrow"
        rows = json.loads(kept.read_text()) if kept.is_file() else {}
        if figures["size"] == "full" or rows.get(card.name, {}).get("size") != "full":
            rows[card.name] = {**figures, "said": said}
        kept.write_text(json.dumps(rows))
        print(card.name, figures, f"{time.perf_counter() - began:.0f} s", flush=True)
        TABLE.write_text(page(rows))


def cost(card: EncoderCard) -> int:
    """Work of a forward pass, roughly: the cheap come first, and what stops the run has cost little."""
    height, width = card.preprocessing.input_size
    return card.parameters * height * width


def page(rows: Mapping[str, Mapping[str, Any]]) -> str:
    libraries = ", ".join(
        f"{each.__name__} {each.__version__}" for each in (torch, torchvision, timm, transformers, open_clip)
    )
    head = [
        "# Every card in its published layout, beside its library",
        "",
        f"`python benchmarks/acceptance/verify_layouts.py [--full]`; {libraries}.",
        "Drawn weights in the published names, wrappers and folders, at the card's full size or with a narrow model",
        "that has a block for every map; cosines of evalfm and of the library's own model, the lowest of two sentences",
        "and of all maps; tensors missing and left over. Encoders without weights, and those whose weights come in a",
        "package, are left out: docs/encoders.md has the latter with their true weights.",
        "",
        f"| encoder | {' | '.join(COLUMNS)} | model |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    lines = [
        f"| {name} | {' | '.join(rows[name][column] for column in COLUMNS)} | {rows[name]['size']} |"
        for name in sorted(rows)
    ]
    said: dict[str, list[str]] = {}
    for name in sorted(rows):
        for sentence in rows[name]["said"]:
            said.setdefault(sentence, []).append(name)
    why = [f"- {sentence} ({', '.join(names)})" for sentence, names in sorted(said.items())]
    return "\n".join([*head, *lines, "", "Not compared, and why:", "", *why]) + "\n"


if __name__ == "__main__":
    main()
