"""BioViL-T against plain forwards of its image encoder for one image and of CXR-BERT, under the authors' names."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional

from evalfm.data.images import Image
from evalfm.encoders import load_encoder
from evalfm.encoders.registry import CARDS
from evalfm.errors import EvalfmError

PLANES, SIDE, JOINT = (64, 128, 256, 512), 64, 128
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "evidence", "of", "pneumo", "##thorax", "findings", "."]
BERT = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}


def published(seed: int = 0) -> dict[str, Tensor]:
    """The image model's state dict, one bottleneck a stage, with the parts that a single radiograph leaves aside."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    tensors: dict[str, Tensor] = {}

    def conv(name: str, out: int, into: int, kernel: int) -> None:
        tensors[f"{name}.weight"] = draw(out, into, kernel, kernel) / math.sqrt(into * kernel**2 / 16)

    def norm(name: str, width: int) -> None:
        tensors.update({f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)})
        tensors.update({f"{name}.running_mean": draw(width), f"{name}.running_var": 1 + draw(width).abs()})
        tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)

    net = "encoder.encoder."
    conv(f"{net}conv1", 64, 3, 7)
    norm(f"{net}bn1", 64)
    into = 64
    for stage, planes in enumerate(PLANES, start=1):
        own = f"{net}layer{stage}.0."
        shapes = (("1", planes, into, 1), ("2", planes, planes, 3), ("3", 4 * planes, planes, 1))
        for number, out, before, kernel in shapes:
            conv(f"{own}conv{number}", out, before, kernel)
            norm(f"{own}bn{number}", out)
        conv(f"{own}downsample.0", 4 * planes, into, 1)
        norm(f"{own}downsample.1", 4 * planes)
        into = 4 * planes
    tensors |= {f"{net}fc.weight": draw(1000, 2048), f"{net}fc.bias": draw(1000)}
    conv("encoder.backbone_to_vit", 256, 2048, 1)
    tensors["encoder.missing_previous_emb"] = draw(1, 256, 1, 1)
    tensors |= {"encoder.vit_pooler.type_embed": draw(2, 1, 256), "encoder.vit_pooler.norm_post.weight": draw(256)}
    tensors["encoder.vit_pooler.blocks.0.attn.proj_q.weight"] = draw(256, 256)
    conv("projector.model.0", JOINT, 512, 1)
    norm("projector.model.1", JOINT)
    conv("projector.model.3", JOINT, JOINT, 1)
    return tensors | {"projector.model.3.bias": draw(JOINT)}


def by_hand(tensors: dict[str, Tensor], batch: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """The five maps, the mean of the fused cells and the mean of the projected cells."""

    def conv(name: str, cells: Tensor, stride: int = 1) -> Tensor:
        weight = tensors[f"{name}.weight"]
        return functional.conv2d(cells, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(name: str, cells: Tensor) -> Tensor:
        mean, var, weight, bias = (
            tensors[f"{name}.{each}"][:, None, None] for each in ("running_mean", "running_var", "weight", "bias")
        )
        return (cells - mean) / (var + 1e-5).sqrt() * weight + bias

    net = "encoder.encoder."
    cells = norm(f"{net}bn1", conv(f"{net}conv1", batch, 2)).relu()
    cells = functional.max_pool2d(cells, 3, 2, 1)
    maps = []
    for stage in range(1, 5):
        own, stride = f"{net}layer{stage}.0.", 1 if stage == 1 else 2
        inner = norm(f"{own}bn1", conv(f"{own}conv1", cells)).relu()
        inner = norm(f"{own}bn2", conv(f"{own}conv2", inner, stride)).relu()
        inner = norm(f"{own}bn3", conv(f"{own}conv3", inner))
        cells = (inner + norm(f"{own}downsample.1", conv(f"{own}downsample.0", cells, stride))).relu()
        maps.append(cells)
    static = conv("encoder.backbone_to_vit", cells)
    missing = torch.zeros_like(static) + tensors["encoder.missing_previous_emb"]
    fused = torch.cat([static, missing], 1)
    hidden = norm("projector.model.1", conv("projector.model.0", fused)).relu()
    projected = conv("projector.model.3", hidden) + tensors["projector.model.3.bias"][:, None, None]
    return [*maps, fused], fused.mean((2, 3)), projected.mean((2, 3))


def sentences(seed: int = 0) -> dict[str, Tensor]:
    """CXR-BERT's state dict as its authors' library saved it, with the head for masked words."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.4

    width, inner = BERT["hidden_size"], BERT["intermediate_size"]
    tensors: dict[str, Tensor] = {"bert.embeddings.position_ids": torch.arange(32)[None]}

    def dense(name: str, out: int, into: int) -> None:
        tensors.update({f"{name}.weight": draw(out, into), f"{name}.bias": draw(out)})

    def norm(name: str, size: int) -> None:
        tensors.update({f"{name}.weight": 1 + draw(size), f"{name}.bias": draw(size)})

    for table, count in (("word", len(WORDS)), ("position", 32), ("token_type", 2)):
        tensors[f"bert.embeddings.{table}_embeddings.weight"] = draw(count, width)
    norm("bert.embeddings.LayerNorm", width)
    for layer in range(2):
        own = f"bert.encoder.layer.{layer}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            dense(f"{own}attention.{part}", width, width)
        norm(f"{own}attention.output.LayerNorm", width)
        dense(f"{own}intermediate.dense", inner, width)
        dense(f"{own}output.dense", width, inner)
        norm(f"{own}output.LayerNorm", width)
    dense("cls.predictions.transform.dense", width, width)
    norm("cls.predictions.transform.LayerNorm", width)
    tensors["cls.predictions.bias"] = draw(len(WORDS))
    dense("cls_projection_head.dense_to_hidden", JOINT, width)
    norm("cls_projection_head.LayerNorm", JOINT)
    dense("cls_projection_head.dense_to_output", JOINT, JOINT)
    return tensors


def sentence_by_hand(tensors: dict[str, Tensor], row: list[int]) -> Tensor:
    """The projected CLS token of one sentence, alone."""

    def linear(name: str, values: Tensor) -> Tensor:
        return values @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(name: str, values: Tensor) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    table = "bert.embeddings.{}_embeddings.weight"
    hidden = tensors[table.format("word")][row] + tensors[table.format("position")][: len(row)]
    hidden = norm("bert.embeddings.LayerNorm", hidden + tensors[table.format("token_type")][0])
    for layer in range(2):
        own = f"bert.encoder.layer.{layer}."
        query, key, value = (
            linear(f"{own}attention.self.{part}", hidden).reshape(len(row), 2, -1) for part in ("query", "key", "value")
        )
        score = torch.einsum("nhc,mhc->hnm", query, key) / math.sqrt(BERT["hidden_size"] / 2)
        seen = torch.einsum("hnm,mhc->nhc", score.softmax(-1), value).reshape(hidden.shape)
        hidden = norm(f"{own}attention.output.LayerNorm", hidden + linear(f"{own}attention.output.dense", seen))
        inner = functional.gelu(linear(f"{own}intermediate.dense", hidden))
        hidden = norm(f"{own}output.LayerNorm", hidden + linear(f"{own}output.dense", inner))
    head = "cls_projection_head."
    inner = functional.gelu(linear(f"{head}dense_to_hidden", hidden[0]))
    return linear(f"{head}dense_to_output", norm(f"{head}LayerNorm", inner))


def tiny_card(folder: Path) -> str:
    content: dict[str, Any] = yaml.safe_load((CARDS / "biovil-t.yaml").read_text())
    aside = ("encoder.vit_pooler", "encoder.encoder.fc")
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    content |= {
        "name": "tiny-biovil-t",
        "arguments": {"layers": [1, 1, 1, 1]},
        "parameters": sum(
            each.numel()
            for name, each in published().items()
            if not name.startswith(aside) and not name.endswith(buffers)
        ),
    }
    content["text_tower"] |= {"context_length": 32, "arguments": {"weights": "pytorch_model.bin", "bert": BERT}}
    content["preprocessing"] |= {"input_size": [SIDE, SIDE], "resize_to": 72}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.fixture
def card(tmp_path: Path) -> str:
    return tiny_card(tmp_path)


def save(tensors: dict[str, Tensor], folder: Path, texts: dict[str, Tensor] | None = None) -> Path:
    """The repository's files as far as they are read."""
    path = folder / "biovil_t_image_model_proj_size_128.pt"
    torch.save(tensors, path)
    torch.save(sentences() if texts is None else texts, folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return path


def batch() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def test_the_authors_file_gives_the_features_of_a_plain_forward(card: str, tmp_path: Path) -> None:
    tensors = published()
    encoder = load_encoder(card, weights=save(tensors, tmp_path))
    maps, fused, projected = by_hand(tensors, batch())
    features = encoder.encode(batch())
    assert torch.allclose(features.pooled, projected, atol=1e-5 * float(projected.abs().max()))
    for mine, theirs in zip(features.maps, maps, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5 * float(theirs.abs().max()))
    other = load_encoder(f"{card}@fused", weights=tmp_path / "biovil_t_image_model_proj_size_128.pt")
    assert torch.allclose(other.encode(batch()).pooled, fused, atol=1e-5 * float(fused.abs().max()))


def test_every_tensor_that_a_single_radiograph_needs_is_loaded(card: str, tmp_path: Path) -> None:
    tensors = published()
    loaded = load_encoder(card, weights=save(tensors, tmp_path)).state_dict()
    mine = {name: each for name, each in tensors.items() if "vit_pooler" not in name and ".fc." not in name}
    assert set(loaded) == {f"model.{name}" for name in mine}
    assert all(torch.equal(loaded[f"model.{name}"], tensor) for name, tensor in mine.items())


SENTENCES = ["No evidence of pneumothorax.", "findings"]
ROWS = [[2, 5, 6, 7, 8, 9, 11, 3], [2, 10, 3]]


def test_texts_give_the_embeddings_of_a_plain_forward(card: str, tmp_path: Path) -> None:
    encoder = load_encoder(card, weights=save(published(), tmp_path))
    expected = torch.stack([sentence_by_hand(sentences(), row) for row in ROWS])
    embeddings = encoder.encode_text(SENTENCES)
    assert torch.allclose(embeddings, expected, atol=1e-5 * float(expected.abs().max()))
    assert encoder.text_tower().logit_scale == 1
    assert not any(name.startswith(("bert", "head")) for name in encoder.state_dict())
    with pytest.raises(EvalfmError, match="reads 32 tokens"):
        encoder.encode_text(["no " * 40])


def lost(tensors: dict[str, Tensor]) -> None:
    del tensors["bert.encoder.layer.1.output.dense.bias"]


def lost_head(tensors: dict[str, Tensor]) -> None:
    del tensors["cls_projection_head.dense_to_output.bias"]


def another(tensors: dict[str, Tensor]) -> None:
    tensors["bert.encoder.layer.2.output.dense.bias"] = torch.ones(16)


def reshaped(tensors: dict[str, Tensor]) -> None:
    tensors["bert.embeddings.word_embeddings.weight"] = torch.ones(5, 16)


def stranger(tensors: dict[str, Tensor]) -> None:
    tensors["roberta.pooler.weight"] = torch.ones(1)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lost, r"missing: bert\.encoder\.layer\.1\.output\.dense\.bias"),
        (lost_head, r"missing: dense_to_output\.bias"),
        (another, r"not known to the model: bert\.encoder\.layer\.2\.output\.dense\.bias"),
        (reshaped, r"bert\.embeddings\.word_embeddings\.weight \[5, 16\] instead of \[12, 16\]"),
        (stranger, r"not known to the model: roberta\.pooler\.weight"),
    ],
)
def test_text_weights_that_do_not_fit_are_refused(
    card: str, tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None], said: str
) -> None:
    texts = sentences()
    spoil(texts)
    encoder = load_encoder(card, weights=save(published(), tmp_path, texts))
    with pytest.raises(EvalfmError, match=said):
        encoder.encode_text(SENTENCES)


def test_without_the_text_files_a_sentence_says_what_to_place_where(card: str, tmp_path: Path) -> None:
    path = save(published(), tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(EvalfmError, match=r"pytorch_model\.bin.*beside biovil_t_image_model_proj_size_128\.pt"):
        load_encoder(card, weights=path).encode_text(SENTENCES)
    (tmp_path / "vocab.txt").unlink()
    for weights in (str(path), "random"):
        with pytest.raises(EvalfmError, match=r"vocab\.txt"):
            load_encoder(card, weights=weights).encode_text(SENTENCES)


def without_previous(tensors: dict[str, Tensor]) -> None:
    """BioViL without T has neither this nor the convolution before it."""
    del tensors["encoder.missing_previous_emb"], tensors["encoder.backbone_to_vit.weight"]


def batchless(tensors: dict[str, Tensor]) -> None:
    del tensors["projector.model.1.running_var"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_previous, r"missing: encoder\.backbone_to_vit\.weight, encoder\.missing_previous_emb"),
        (batchless, r"missing: projector\.model\.1\.running_var"),
    ],
)
def test_another_file_is_refused(
    card: str, tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None], said: str
) -> None:
    tensors = published()
    spoil(tensors)
    with pytest.raises(EvalfmError, match=said):
        load_encoder(card, weights=save(tensors, tmp_path))


def test_the_radiograph_is_brought_to_its_own_range(card: str) -> None:
    encoder = load_encoder(card, weights="random")
    pixels = np.linspace(0.3, 0.5, 90 * 80, dtype=np.float32).reshape(1, 90, 80)
    image = Image(pixels=pixels, unit="unit-interval", bits=16, spacing_mm=None, rule="test")
    whole = np.asarray(encoder.prepare(image)[0])
    wider = Image(pixels=(pixels - 0.3) * 5, unit="unit-interval", bits=16, spacing_mm=None, rule="test")
    assert np.allclose(whole, np.asarray(encoder.prepare(wider)[0]), atol=1e-5)
    # Before the crop it reached from 0 to 1.
    assert 0 < whole.min() < 0.15
    assert 0.85 < whole.max() < 1
