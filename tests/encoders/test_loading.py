"""From a name to an encoder: weights that fit or are refused, seeds, overrides, the hub's answers."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torchvision.models
from huggingface_hub import errors
from safetensors.torch import save_file
from torch import Tensor

from evalfm.encoders import find_card, hub, load_encoder
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.registry import CARDS
from evalfm.errors import EvalfmError

TINY = "random:test_vit"


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[str, dict[str, Tensor]]:
    """A card of a tiny ViT with weights to be given, and such weights with a classifier."""
    model = timm.create_model("test_vit", pretrained=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(3))
    card = find_card(TINY)
    content = card.model_dump(mode="json", by_alias=True)
    content |= {
        "name": "tiny",
        "poolings": {"cls": card.pooled_dim, "mean": card.pooled_dim},
        "pooling": "cls",
    }
    content["weights"] = {"source": "path", "unexpected_keys": ["head.*"]}
    import yaml

    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path), dict(model.state_dict())


def saved(tensors: dict[str, Tensor], folder: Path) -> Path:
    path = folder / "tiny.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def test_timm_weights_give_timms_own_features(tiny: tuple[str, dict[str, Tensor]], tmp_path: Path) -> None:
    card, tensors = tiny
    encoder = load_encoder(card, weights=saved(tensors, tmp_path))
    oracle = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
    oracle.load_state_dict({name: each for name, each in tensors.items() if not name.startswith("head.")})
    batch = torch.rand(2, 3, *encoder.input_size, generator=torch.Generator().manual_seed(0))
    features = encoder.encode(batch)
    with torch.no_grad():
        final = oracle.forward_features(batch)
        layers = oracle.get_intermediate_layers(batch, n=list(encoder.card.map_layers), reshape=True, norm=True)
    assert torch.allclose(features.pooled, final[:, 0], atol=1e-6)
    assert torch.allclose(features.maps[-1].flatten(2).transpose(1, 2), final[:, 1:], atol=1e-6)
    for mine, theirs in zip(features.maps, layers, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
    mean = load_encoder(f"{card}@mean", weights=saved(tensors, tmp_path))
    assert torch.allclose(mean.encode(batch).pooled, final[:, 1:].mean(1), atol=1e-6)
    assert encoder.random_weights is False
    assert encoder.state.weights_file is not None


def missing(tensors: dict[str, Tensor]) -> None:
    del tensors["blocks.1.attn.qkv.weight"]


def renamed(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.1.attn.qvk.weight"] = tensors.pop("blocks.1.attn.qkv.weight")


def reshaped(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.1.attn.qkv.weight"] = tensors["blocks.1.attn.qkv.weight"][:-3]


def other_patch(tensors: dict[str, Tensor]) -> None:
    tensors["patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"].repeat(1, 1, 2, 2)


def spoilt(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.1.attn.qkv.weight"][5, 5] = float("nan")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (missing, r"missing: blocks\.1\.attn\.qkv\.weight"),
        (renamed, r"not known to the model: blocks\.1\.attn\.qvk\.weight"),
        (reshaped, r"of another shape: blocks\.1\.attn\.qkv\.weight"),
        (other_patch, r"of another shape: patch_embed\.proj\.weight"),
        (spoilt, r"NaN or infinite values in blocks\.1\.attn\.qkv\.weight"),
    ],
)
def test_weights_with_one_wrong_tensor_are_refused(
    tiny: tuple[str, dict[str, Tensor]], tmp_path: Path, spoil: object, said: str
) -> None:
    card, tensors = tiny
    assert callable(spoil)
    spoil(tensors)
    with pytest.raises(EvalfmError, match=said):
        load_encoder(card, weights=saved(tensors, tmp_path))


def test_weights_of_another_architecture_are_refused(tiny: tuple[str, dict[str, Tensor]], tmp_path: Path) -> None:
    card, _ = tiny
    other = timm.create_model("test_resnet", pretrained=False).state_dict()
    with pytest.raises(EvalfmError, match="does not fit"):
        load_encoder(card, weights=saved(dict(other), tmp_path))


def test_another_input_size_interpolates_positions_and_says_so(
    tiny: tuple[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    card, tensors = tiny
    path = saved(tensors, tmp_path)
    native, larger = load_encoder(card, weights=path), load_encoder(card, weights=path, input_size=192)
    assert any("interpolates the positions" in str(each) for each in larger.cautions)
    assert not any("interpolates" in str(each) for each in native.cautions)
    assert larger.key != native.key
    grid = 192 // larger.map_strides[0]
    features = larger.encode(torch.zeros(1, 3, 192, 192))
    assert features.maps[0].shape[2:] == (grid, grid)
    with pytest.raises(EvalfmError, match="multiples of 16"):
        load_encoder(card, weights=path, input_size=200)


def test_random_weights_are_seeded_and_leave_the_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    one = load_encoder("random:test_resnet")
    assert torch.equal(torch.rand(1), expected)
    other = load_encoder("random:test_resnet")
    assert one.weights_digest == other.weights_digest
    assert one.key == other.key
    assert one.random_weights
    assert list(map(str, one.cautions)) == ["random:test_resnet has random weights: it has learnt nothing."]
    flat = [parameter for parameter in one.parameters() if parameter.ndim > 1]
    assert all(float(parameter.detach().std()) > 0 for parameter in flat)


def test_random_weights_of_a_card_are_not_its_weights() -> None:
    encoder = load_encoder("squeezenet1-0.caffe", weights="random")
    assert encoder.random_weights
    assert "squeezenet1-0.caffe has random weights: it has learnt nothing." in map(str, encoder.cautions)


def test_an_encoder_without_weights_takes_none(tmp_path: Path) -> None:
    encoder = load_encoder("hog")
    assert encoder.random_weights is False
    for weights in ("random", str(tmp_path)):
        with pytest.raises(EvalfmError, match="takes no weights"):
            load_encoder("hog", weights=weights)


def test_a_changed_mean_changes_the_key(tmp_path: Path) -> None:
    text = (CARDS / "hog.yaml").read_text()
    (tmp_path / "hog.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text(text.replace("mean: [0]", "mean: [0.001]"))
    same, other = (load_encoder(str(tmp_path / name)).key for name in ("hog.yaml", "other.yaml"))
    assert same == load_encoder("hog").key != other


@pytest.mark.parametrize("change", [{"input_size": 128}, {"resize": "letterbox"}, {"precision": "bfloat16"}])
def test_an_override_changes_the_key(change: dict[str, object]) -> None:
    assert load_encoder("hog", **change).key != load_encoder("hog").key  # type: ignore[arg-type]


def test_an_object_a_factory_and_a_card_are_taken_as_they_are() -> None:
    encoder = load_encoder("pixels")
    key = encoder.key
    assert load_encoder(encoder) is encoder
    assert load_encoder(lambda: encoder) is encoder
    assert load_encoder(find_card("pixels")).key == key
    with pytest.raises(EvalfmError, match="set them where it is built"):
        load_encoder(encoder, input_size=128)
    with pytest.raises(EvalfmError, match="must give an evalfm Encoder, not a dict"):
        load_encoder(lambda: {})  # type: ignore[arg-type, return-value]


def test_an_object_that_was_trained_has_a_new_key() -> None:
    encoder = load_encoder("random:test_resnet")
    before = encoder.key
    with torch.no_grad():
        next(iter(encoder.parameters())).add_(1e-3)
    assert load_encoder(encoder).key != before


def test_wrong_options_are_said() -> None:
    with pytest.raises(EvalfmError, match="no precision 'int8'"):
        load_encoder("hog", precision="int8")
    with pytest.raises(EvalfmError, match="no device 'gpu'"):
        load_encoder("hog", device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(EvalfmError, match="no usable GPU"):
            load_encoder("hog", device="cuda")


def test_a_card_with_a_wrong_number_of_parameters_is_refused(tmp_path: Path) -> None:
    text = (CARDS / "squeezenet1-0.caffe.yaml").read_text().replace("735424", "735425")
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(EvalfmError, match="735,424 parameters where its card says 735,425"):
        load_encoder(str(tmp_path / "wrong.yaml"), weights="random")


def test_a_path_may_hold_other_weights_than_the_cards_and_says_so(tmp_path: Path) -> None:
    model = torchvision.models.squeezenet1_0(weights=None)
    path = tmp_path / "mine.npz"
    np.savez(path, **{name: tensor.numpy() for name, tensor in model.state_dict().items()})
    encoder = load_encoder("squeezenet1-0.caffe", weights=path)
    assert any("another file than the one its card pins" in str(each) for each in encoder.cautions)
    batch = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = model.features(batch).mean((2, 3))
    assert torch.allclose(encoder.encode(batch).pooled, expected, atol=1e-6)


def test_weights_on_no_hub_are_asked_for() -> None:
    with pytest.raises(EvalfmError, match=r"ark-plus are on no hub.*--weights PATH.*pixels"):
        load_encoder("ark-plus")


def test_without_network_the_sentence_says_what_to_place_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(
        EvalfmError,
        match=r"model\.safetensors from https://huggingface\.co/microsoft/rad-dino.*--weights PATH.*hog",
    ):
        load_encoder("rad-dino")
    assert time.monotonic() - start < 2


def test_a_pinned_commit_that_is_not_cached_is_named_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    other = tmp_path / "models--microsoft--rad-dino" / "snapshots" / ("0" * 40)
    other.mkdir(parents=True)
    (other / "model.safetensors").write_bytes(b"another")
    pinned = find_card("rad-dino").weights.revision
    with pytest.raises(EvalfmError, match=f"at revision {pinned} is not in the cache .which holds {'0' * 40}"):
        hub.fetch(find_card("rad-dino"))


def test_messages_name_the_host_that_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://mirror.example")
    with pytest.raises(EvalfmError) as refusal:
        hub.fetch(find_card("rad-dino"))
    assert "from https://mirror.example/microsoft/rad-dino/tree/2ec9ca0e" in str(refusal.value)
    assert "huggingface" not in str(refusal.value)


class Cutting(BaseHTTPRequestHandler):
    """A hub that breaks off in the middle of a file until ``whole`` is set, and gives ranges."""

    content = bytes(range(256)) * 4096
    whole = False
    begun: ClassVar[list[int]] = []

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        given = self.headers.get("Range")
        start = int(given.removeprefix("bytes=").split("-")[0]) if given else 0
        self.begun.append(start)
        self.answer(start)
        self.wfile.write(self.content[start:] if self.whole else self.content[start : start + 100_000])

    def answer(self, start: int = 0) -> None:
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", "2" * 40)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def cutting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[EncoderCard]:
    """A card whose hub breaks off."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cutting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    host = f"http://127.0.0.1:{server.server_port}"
    template = f"{host}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", host)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(Cutting, "whole", False)
    Cutting.begun.clear()
    card = find_card("rad-dino")
    yield card.model_copy(update={"weights": card.weights.model_copy(update={"revision": "2" * 40})})
    server.shutdown()
    server.server_close()


def test_a_download_that_ends_too_soon_is_one_sentence_and_the_next_run_has_it(cutting: EncoderCard) -> None:
    with pytest.raises(
        EvalfmError, match=r"model\.safetensors of rad-dino could not be fetched whole .* run again"
    ) as said:
        hub.fetch(cutting)
    assert "\n" not in str(said.value)
    assert len(Cutting.begun) > 1
    Cutting.whole = True
    assert hub.fetch(cutting).read_bytes() == Cutting.content


def test_a_cut_download_is_taken_up_where_it_was_cut(cutting: EncoderCard, monkeypatch: pytest.MonkeyPatch) -> None:
    # The client writes whole pieces, of 10 MB where they are not set smaller.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    assert hub.fetch(cutting).read_bytes() == Cutting.content
    assert Cutting.begun == list(range(0, len(Cutting.content), 100_000))


def test_shards_are_fetched_with_their_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetched = []

    def give(repository: str, file: str, *, revision: str, **keywords: object) -> str:
        fetched.append((file, revision))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "urlopen", lambda request, timeout: io.BytesIO())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", give)
    index = tmp_path / "m.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}')
    own = find_card("rad-dino")
    card = own.model_copy(update={"weights": own.weights.model_copy(update={"file": index.name, "revision": "d"})})
    assert hub.fetch(card) == index
    assert fetched == [(index.name, "d"), ("m-1.safetensors", "d"), ("m-2.safetensors", "d")]


def test_a_hub_that_does_not_answer_is_given_up_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(EvalfmError, match="hub cannot be reached"):
        hub.fetch(find_card("rad-dino"))
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            errors.GatedRepoError,
            r"gated: accept their licence \(MIT\) at https://huggingface\.co/microsoft/rad-dino",
        ),
        (errors.RepositoryNotFoundError, "or it needs a login"),
        (errors.RevisionNotFoundError, "revision 2ec9ca0e"),
    ],
)
def test_the_hubs_refusals_are_put_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], said: str
) -> None:
    def refuse(*arguments: object, **keywords: object) -> str:
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "urlopen", lambda request, timeout: io.BytesIO())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(EvalfmError, match=said):
        hub.fetch(find_card("rad-dino"))


def test_the_pinned_revision_is_what_is_fetched_and_its_digest_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: tuple[str, dict[str, Tensor]]
) -> None:
    card, tensors = tiny
    path = saved(tensors, tmp_path)
    fetched = []

    def give(repository: str, file: str, *, revision: str, **keywords: object) -> str:
        fetched.append((repository, file, revision))
        return str(path)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "urlopen", lambda request, timeout: io.BytesIO())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", give)
    own = find_card(card)
    facts = {
        "source": "hub",
        "repository": "a/b",
        "file": "c",
        "revision": "d",
        "unexpected_keys": ("head.*",),
    }
    hubbed = own.model_copy(update={"weights": own.weights.model_copy(update=facts)})
    encoder = load_encoder(hubbed)
    assert fetched == [("a/b", "c", "d")]
    assert isinstance(encoder, Encoder)
    pinned = hubbed.model_copy(update={"weights": hubbed.weights.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(EvalfmError, match="pins by its SHA-256"):
        load_encoder(pinned)
