"""Folders and repositories of transformers by name, against plain forwards with their own image processors."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers
from PIL import Image as Pil
from torch import Tensor

from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.beside_library import beside_library
from evalfm.encoders.families._hf import NATIVE
from evalfm.encoders.weight_sources import runs_here
from evalfm.errors import EvalfmError

from ...cli.typed import evalfm
from ..images import drawn, model_tensor
from .test_transformers_duals import TEXT, tokenizer

VIT = {
    **{"image_size": 64, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 2},
    "intermediate_size": 48,
}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
SQUARE = {"height": 64, "width": 64}
CROPPED = {"size": {"shortest_edge": 72}, "crop_size": SQUARE}
CONVNEXT = ("ConvNextImageProcessor", {"size": {"shortest_edge": 64}})
HEADS = {"num_attention_heads": [1, 2, 2, 4]}

Output = Any
Pooled = Callable[[Any, Output], Tensor]


def cls(model: Any, output: Output) -> Tensor:
    return output.last_hidden_state[:, 0]


def own(model: Any, output: Output) -> Tensor:
    return output.pooler_output.flatten(1)


def mean(model: Any, output: Output) -> Tensor:
    last = output.last_hidden_state
    return last.mean(1) if last.ndim == 3 else last.mean((2, 3))


def projected(model: Any, output: Output) -> Tensor:
    return output.pooler_output


SAVED: dict[str, tuple[dict[str, Any], str, dict[str, Any], str | None, Pooled, int | None]] = {
    # settings; processor and its settings; class of the plain forward where another; embedding; prefix tokens
    "Dinov2Model": (VIT, "BitImageProcessor", CROPPED, None, cls, 1),
    "Dinov2WithRegistersModel": (VIT, "BitImageProcessor", CROPPED, None, cls, 5),
    "DINOv3ViTModel": ({**VIT, "num_register_tokens": 4}, "DINOv3ViTImageProcessor", {"size": SQUARE}, None, cls, 5),
    "ViTModel": (VIT, "ViTImageProcessor", {"size": SQUARE}, None, cls, 1),
    "ViTForImageClassification": (VIT, "ViTImageProcessor", {"size": SQUARE}, "ViTModel", cls, 1),
    "ViTMAEForPreTraining": (VIT, "ViTImageProcessor", {"size": SQUARE}, "ViTModel", cls, 1),
    "ViTMSNModel": (VIT, "ViTImageProcessor", {"size": SQUARE}, None, cls, 1),
    "DeiTForImageClassificationWithTeacher": (
        *(VIT, "DeiTImageProcessor", {"size": {"height": 72, "width": 72}, "crop_size": SQUARE}, "DeiTModel", cls, 2),
    ),
    "BeitForImageClassification": (
        {**VIT, "use_relative_position_bias": True, "use_mean_pooling": True},
        *("BeitImageProcessor", {"size": SQUARE}, "BeitModel", own, 1),
    ),
    "BeitModel": ({**VIT, "use_mean_pooling": False}, "BeitImageProcessor", {"size": SQUARE}, None, cls, 1),
    "IJepaModel": (VIT, "ViTImageProcessor", {"size": SQUARE}, None, mean, 0),
    "SwinModel": (SWIN, "ViTImageProcessor", {"size": SQUARE}, None, own, None),
    "Swinv2ForImageClassification": (SWIN, "ViTImageProcessor", {"size": SQUARE}, "Swinv2Model", own, None),
    "ConvNextForImageClassification": (STAGES, *CONVNEXT, "ConvNextModel", own, None),
    "ConvNextV2Model": (STAGES, *CONVNEXT, None, own, None),
    "DINOv3ConvNextModel": (STAGES, "DINOv3ViTImageProcessor", {"size": SQUARE}, None, own, None),
    "ResNetForImageClassification": ({**STAGES, "embedding_size": 8}, *CONVNEXT, "ResNetModel", own, None),
    "RegNetModel": ({**STAGES, "embedding_size": 8, "groups_width": 8}, *CONVNEXT, None, own, None),
    "SegformerForSemanticSegmentation": (
        {**STAGES, **HEADS, "decoder_hidden_size": 16},
        *("SegformerImageProcessor", {"size": SQUARE}, "SegformerModel", mean, None),
    ),
    "PvtV2Model": ({**STAGES, **HEADS, "image_size": 64}, "PvtImageProcessor", {"size": SQUARE}, None, mean, None),
    "CLIPVisionModel": (VIT, "CLIPImageProcessor", CROPPED, None, own, 1),
    "CLIPVisionModelWithProjection": ({**VIT, "projection_dim": 20}, "CLIPImageProcessor", CROPPED, None, own, 1),
    "SiglipVisionModel": (VIT, "SiglipImageProcessor", {"size": SQUARE}, None, own, 0),
}


def filled(model: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def save(name: str, folder: Path, **more: Any) -> Any:
    """The folder as transformers saves a model and its processor."""
    settings, kind, steps, *_ = SAVED[name]
    made = getattr(transformers, name)
    model = filled(made(made.config_class(**settings, **more)))
    model.save_pretrained(folder)
    getattr(transformers, kind)(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3], **steps).save_pretrained(folder)
    return model


def prepared(folder: Path, height: int = 120, width: int = 171) -> tuple[Any, Tensor]:
    """A film that is no square, as evalfm takes it and as the folder's own processor makes it."""
    picture = drawn(height, width)
    levels = Pil.fromarray(np.rint(picture.pixels[0] * 255).astype(np.uint8)).convert("RGB")
    processor: Any = transformers.AutoImageProcessor.from_pretrained(folder)
    return picture, torch.as_tensor(processor(images=levels, return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize("name", SAVED)
def test_a_saved_folder_is_a_plain_forward_with_its_own_processor(name: str, tmp_path: Path) -> None:
    _, _, _, plain_class, embedding, prefix = SAVED[name]
    save(name, tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}")
    assert not encoder.random_weights
    plain = getattr(transformers, plain_class or name).from_pretrained(tmp_path).eval()
    vision = getattr(plain, "vision_model", plain)
    for height, width in ((120, 171), (171, 97)):
        picture, theirs = prepared(tmp_path, height, width)
        tensor, _ = model_tensor(encoder.preparer, picture)
        level = torch.tensor(encoder.preparer.facts.std)[:, None, None] * 255
        assert float(((tensor - theirs[0]) * level).square().mean().sqrt()) < 1.0
        with torch.no_grad():
            output = vision(pixel_values=theirs, output_hidden_states=True)
        features = encoder.encode(theirs)
        expected = embedding(plain, output)
        assert float((features.pooled - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
    card = encoder.card
    assert card.parameters == sum(each.numel() for each in encoder.parameters())
    if prefix is not None:
        assert (card.prefix_tokens, card.map_strides) == (prefix, (16,) * 5)
        norm = next(
            (getattr(vision, each) for each in ("layernorm", "norm") if hasattr(vision, each)), torch.nn.Identity()
        )
        if name.startswith("Siglip"):
            norm = vision.post_layernorm
        assert card.map_norm == ("none" if isinstance(norm, torch.nn.Identity) else "final")
        for mine, theirs in zip(features.maps, output.hidden_states[1:], strict=True):
            assert torch.allclose(mine.flatten(2).transpose(1, 2), norm(theirs)[:, prefix:], atol=1e-4, rtol=1e-4)
    elif not name.startswith("Swin"):
        assert card.map_strides == (4, 8, 16, 32)
        for mine, theirs in zip(features.maps, output.hidden_states[-4:], strict=True):
            assert torch.allclose(mine, theirs, atol=1e-5)
    else:
        assert (card.map_strides, card.map_channels) == ((4, 8), (8, 16))


def test_every_model_type_is_tried() -> None:
    tried = {getattr(transformers, name).config_class.model_type for name in SAVED}
    assert tried | {"clip", "siglip"} == set(NATIVE)


@pytest.mark.parametrize("name", ["BeitForImageClassification", "DeiTForImageClassificationWithTeacher", "RegNetModel"])
def test_doctor_holds_a_folder_against_the_library(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    found = beside_library(load_encoder(f"hf:{tmp_path}"))
    assert found.same, found
    assert {each.part for each in found.parts} >= {"pixels", "embedding", "map 1", "map 4"}


def test_a_written_card_gives_the_same_features_to_the_last_bit(tmp_path: Path) -> None:
    folder, place = tmp_path / "saved", tmp_path / "mine.yaml"
    save("Dinov2WithRegistersModel", folder)
    shown = evalfm("show", "encoder", f"hf:{folder}", "--write-card", str(place))
    assert shown.returncode == 0, shown.stderr
    assert "Dinov2WithRegistersModel (transformers)" in shown.stdout
    assert "5 prefix tokens dropped" in shown.stdout
    assert "shortest edge to 72, then the centre" in shown.stdout
    one, other = load_encoder(f"hf:{folder}"), load_encoder(str(place), weights=folder)
    picture, _ = prepared(folder)
    mine, theirs = (each.encode(each.prepare(picture)[0][None]) for each in (one, other))
    assert torch.equal(mine.pooled, theirs.pooled)
    assert all(torch.equal(*pair) for pair in zip(mine.maps, theirs.maps, strict=True))
    assert str(tmp_path) not in place.read_text()
    assert find_card(f"hf:{folder}@mean").pooling == "mean"


def test_both_towers_of_clip_read_as_the_library_does(tmp_path: Path) -> None:
    config = transformers.CLIPConfig(vision_config=VIT, text_config=TEXT, projection_dim=20)
    model = filled(transformers.CLIPModel(config))
    model.save_pretrained(tmp_path)
    transformers.CLIPImageProcessor(**CROPPED).save_pretrained(tmp_path)
    tokenizer(tmp_path)
    file = str(tmp_path / "tokenizer.json")
    made = transformers.PreTrainedTokenizerFast(tokenizer_file=file, pad_token="</s>")
    made.save_pretrained(tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}@projection")
    assert (encoder.card.paradigm, encoder.card.name) == ("image-text", f"hf:{tmp_path.name}@projection")
    texts = ["no pneumothorax", "a photo of heart"]
    tokens = made(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        _, theirs = prepared(tmp_path)
        image = model.get_image_features(theirs).pooler_output
    assert torch.allclose(encoder.encode_text(texts), expected, atol=1e-5)
    assert torch.allclose(encoder.encode(theirs).pooled, image, atol=1e-5)
    assert encoder.text_tower().logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))


@pytest.mark.parametrize(
    ("kind", "arguments"), [("SiglipTokenizer", "canonical"), ("GemmaTokenizer", "lower"), ("X", "")]
)
def test_siglip_pads_and_lowers_as_its_tokenizer_says(kind: str, arguments: str, tmp_path: Path) -> None:
    config = transformers.SiglipConfig(vision_config=VIT, text_config={**TEXT, "projection_size": 32})
    filled(transformers.SiglipModel(config)).save_pretrained(tmp_path)
    transformers.SiglipImageProcessor(size=SQUARE).save_pretrained(tmp_path)
    tokenizer(tmp_path)
    settings = {
        "tokenizer_class": kind,
        "pad_token": {"content": "<pad>"},
        "added_tokens_decoder": {"0": {"content": "<pad>"}, "1": {"content": "<s>"}},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    card = find_card(f"hf:{tmp_path}")
    assert card.pooling == "map"
    if not arguments:
        assert card.text_tower is None
        return
    assert card.text_tower is not None
    assert card.text_tower.arguments == {"pad_id": 0, arguments: True}
    assert (card.text_tower.dim, card.text_tower.context_length) == (32, 12)
    assert load_encoder(f"hf:{tmp_path}").encode_text(["no pneumothorax"]).shape == (1, 32)


def wrong(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def foreign_processor(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text()) | {
        "image_processor_type": "CuriaImageProcessor",
        "auto_map": {"AutoImageProcessor": "x.Y"},
    }
    path.write_text(json.dumps(settings))
    (folder / "x.py").write_text("raise SystemExit('this code ran')")
    wrong(model_type="dinov2", auto_map={"AutoModel": "x.Y"})(folder)


FOREIGN = {"image_processor_type": "CuriaImageProcessor", "auto_map": {"AutoImageProcessor": "x.Y"}}
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "code alone": (
        wrong(model_type="curia", auto_map={"AutoModel": "x.Y"}),
        "is a 'curia' and runs by code in its repository, which is never run; evalfm knows beit, clip",
    ),
    "of no such kind": (wrong(model_type="bert"), "is a 'bert'; evalfm knows .*convnextv2.*vit_mae"),
    "without a kind": (wrong(model_type=""), "says no model_type"),
    "of timm": (wrong(model_type="", architecture="resnet50", pretrained_cfg={}), "name it timm:resnet50.TAG"),
    "without a processor": (without("preprocessor_config.json"), "has no preprocessor_config.json, so how its images"),
    "without settings": (without("config.json"), "has no config.json; name a folder that transformers has saved"),
    "of strange settings": (wrong(hidden_size="many"), "cannot read the config.json"),
    "endless": (wrong(num_hidden_layers=100_000), "asks for more than 200 blocks"),
    "of patches that do not fit": (wrong(patch_size=7), r"cannot build .* for inputs of \(64, 64\)"),
    "of patches without pixels": (wrong(patch_size=0), "cannot build"),
    "with a processor that is no text": (
        lambda folder: (folder / "preprocessor_config.json").write_bytes(b"\xff\xfe") and None,
        "cannot be read as text",
    ),
    "of its own processor": (foreign_processor, "no image processor of its own"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_one_sentence(name: str, tmp_path: Path) -> None:
    change, words = REFUSED[name]
    save("Dinov2Model", tmp_path)
    change(tmp_path)
    with pytest.raises(EvalfmError, match=words) as refusal:
        find_card(f"hf:{tmp_path}")
    assert "\n" not in str(refusal.value)


def test_a_setting_that_decides_features_is_the_repositorys(tmp_path: Path) -> None:
    """Equal tensors, another activation: the card is made of the settings, and the features follow."""
    save("Dinov2Model", tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    wrong(hidden_act="relu", layer_norm_eps=0.5)(tmp_path / "two")
    one, two = (load_encoder(f"hf:{tmp_path / each}") for each in ("one", "two"))
    assert two.card.arguments["hidden_act"] == "relu"
    _, theirs = prepared(tmp_path / "two")
    plain = transformers.Dinov2Model.from_pretrained(tmp_path / "two").eval()
    with torch.no_grad():
        expected = plain(pixel_values=theirs).pooler_output
    assert torch.allclose(two.encode(theirs).pooled, expected, atol=1e-5)
    assert not torch.allclose(one.encode(theirs).pooled, expected, atol=1e-3)


def test_what_old_files_of_clip_say_twice_counts_as_the_library_reads_it(tmp_path: Path) -> None:
    """Equal tensors: ``vision_config_dict`` goes before ``vision_config``, as in repositories of OpenCLIP's weights."""
    save("ViTModel", tmp_path)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes = {"text_config": tower, "vision_config": {**tower, "image_size": 64, "patch_size": 16}}
    filled(transformers.CLIPModel(transformers.CLIPConfig(**sizes))).save_pretrained(tmp_path)
    vision = json.loads((tmp_path / "config.json").read_text())["vision_config"]
    wrong(vision_config_dict=vision | {"hidden_act": "relu"})(tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}")
    assert encoder.card.arguments["vision_config"]["hidden_act"] == "relu"
    _, theirs = prepared(tmp_path)
    plain = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = plain.vision_model(pixel_values=theirs).pooler_output
    assert torch.allclose(encoder.encode(theirs).pooled, expected, atol=1e-4)


COMMIT = "a" * 40


class FakeHub(BaseHTTPRequestHandler):
    """A hub with the files of one folder, at one commit."""

    folder: ClassVar[Path]
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        match = re.fullmatch(r"/org/(?:model|gated)/resolve/([^/]+)/(.+)", self.path)
        path = None if match is None else self.folder / match[2]
        if self.path == "/" or (path is not None and path.is_file() and match is not None and "gated" not in self.path):
            content = b"" if path is None or self.path == "/" else path.read_bytes()
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
        else:
            content = b""
            self.send_response(403 if "gated" in self.path else 404)
            code = "GatedRepo" if "gated" in self.path else "EntryNotFound" if match else "RepoNotFound"
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.asked.append(self.path)
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def network(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    FakeHub.folder, FakeHub.asked = tmp_path / "published", []
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", host)
    template = f"{host}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield FakeHub
    server.shutdown()
    server.server_close()


def test_a_repository_is_fetched_once_at_the_commit_that_was_read(
    network: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save("Dinov2Model", network.folder)
    (network.folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\nA model.")
    card = find_card("hf:org/model")
    facts = card.weights
    assert (facts.repository, facts.file, facts.revision) == ("org/model", "model.safetensors", COMMIT)
    assert (card.licence, card.commercial_use, card.name) == ("cc-by-nc-4.0", "no", "hf:org/model")
    assert not runs_here(card)
    assert not any("safetensors" in path for path in network.asked)
    encoder = load_encoder("hf:org/model")
    assert runs_here(card)
    _, theirs = prepared(network.folder)
    with torch.no_grad():
        assert torch.allclose(encoder.encode(theirs).pooled, model(pixel_values=theirs).pooler_output, atol=1e-5)
    assert not any(each.code == "unpinned-weights" for each in encoder.cautions)
    assert beside_library(encoder).same
    # From here on the cache is enough, for the branch and for the commit.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    asked = len(network.asked)
    assert load_encoder("hf:org/model").key == encoder.key
    named = find_card(f"hf:org/model@{COMMIT}@mean")
    assert (named.name, named.base_name) == (f"hf:org/model@{COMMIT}@mean", f"hf:org/model@{COMMIT}")
    assert (named.pooling, named.weights.revision) == ("mean", COMMIT)
    assert len(network.asked) == asked


def test_shards_of_a_repository(network: type[FakeHub]) -> None:
    model = save("ViTForImageClassification", network.folder)
    (network.folder / "model.safetensors").unlink()
    model.save_pretrained(network.folder, max_shard_size="20KB")
    assert len(list(network.folder.glob("*.safetensors"))) > 1
    encoder = load_encoder("hf:org/model")
    assert encoder.card.weights.file == "model.safetensors.index.json"
    _, theirs = prepared(network.folder)
    with torch.no_grad():
        expected = model.vit(pixel_values=theirs).last_hidden_state[:, 0]
    assert torch.allclose(encoder.encode(theirs).pooled, expected, atol=1e-5)


def test_what_the_hub_does_not_give_is_one_sentence(network: type[FakeHub]) -> None:
    network.folder.mkdir()
    for name, words in (
        ("hf:org/model", r"has no config\.json at revision main of org/model .* and fix the name"),
        ("hf:org/other", r"has no config\.json at revision main of org/other"),
        ("hf:org/gated", r"gated: accept their licence .* at http://127\.0\.0\.1:\d+/org/gated, log in"),
    ):
        with pytest.raises(EvalfmError, match=words) as refusal:
            find_card(name)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "hf:org/model",
            r"of hf:org/model at revision main is not in the cache and the hub cannot be reached",
        ),
        ("hf:org/model@v1.0", r"at revision v1\.0 is not in the cache"),
        ("hf:model", "'hf:model' names no repository; write it as ORG/MODEL behind the colon, or ./FOLDER"),
        ("hf:org/../model", "names no repository"),
        ("hf:./nowhere", r"There is no folder '\./nowhere'; check --encoder"),
        ("hf:", "does not say which; write it as hf:facebook/dinov2-small"),
        ("hff:org/model", "There is no kind of encoder 'hff:'. Did you mean 'hf:'"),
    ],
)
def test_without_a_network_the_sentence_says_what_to_do(name: str, words: str, cache: Path) -> None:
    with pytest.raises(EvalfmError, match=words):
        find_card(name)
    shown = evalfm("show", "encoder", name)
    assert shown.returncode == 2
    assert "Traceback" not in shown.stderr
