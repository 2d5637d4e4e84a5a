"""Ark+ against a plain Swin that is written as timm 0.5.4 named and ran it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional

from evalfm.encoders import find_card, load_encoder
from evalfm.encoders.encoder import EncoderState
from evalfm.encoders.families.ports.ark import ArkEncoder
from evalfm.encoders.registry import CARDS
from evalfm.errors import EvalfmError

WIDTHS, HEADS, DEPTHS, WINDOW, SIDE = (8, 16, 32, 64), (1, 2, 4, 8), (2, 2, 2, 2), 3, 96
PROJECTED = 11


def published(seed: int = 0) -> dict[str, Tensor]:
    """A state dict under timm 0.5.4's names: downsample belongs to the stage before, masks are kept."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    tensors = {"patch_embed.proj.weight": draw(WIDTHS[0], 3, 4, 4), "patch_embed.proj.bias": draw(WIDTHS[0])}
    tensors |= {"patch_embed.norm.weight": 1 + draw(WIDTHS[0]), "patch_embed.norm.bias": draw(WIDTHS[0])}
    for stage, (width, heads) in enumerate(zip(WIDTHS, HEADS, strict=True)):
        rows = SIDE // 4 // 2**stage
        for block in range(DEPTHS[stage]):
            own = f"layers.{stage}.blocks.{block}."
            for norm in ("norm1", "norm2"):
                tensors |= {f"{own}{norm}.weight": 1 + draw(width), f"{own}{norm}.bias": draw(width)}
            shapes = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
            for name, (out, into) in shapes.items():
                tensors |= {f"{own}{name}.weight": draw(out * width, into * width) / width**0.5}
                tensors |= {f"{own}{name}.bias": draw(out * width)}
            tensors[f"{own}attn.relative_position_bias_table"] = draw((2 * WINDOW - 1) ** 2, heads) * 5
            tensors[f"{own}attn.relative_position_index"] = torch.zeros(WINDOW**2, WINDOW**2, dtype=torch.long)
            if block % 2 and rows > WINDOW:
                tensors[f"{own}attn_mask"] = torch.zeros((rows // WINDOW) ** 2, WINDOW**2, WINDOW**2)
        if stage < 3:
            own = f"layers.{stage}.downsample."
            tensors |= {f"{own}norm.weight": 1 + draw(4 * width), f"{own}norm.bias": draw(4 * width)}
            tensors[f"{own}reduction.weight"] = draw(2 * width, 4 * width) / width**0.5
    tensors |= {"norm.weight": 1 + draw(WIDTHS[-1]), "norm.bias": draw(WIDTHS[-1])}
    tensors |= {"projector.weight": draw(PROJECTED, WIDTHS[-1]), "projector.bias": draw(PROJECTED)}
    tensors |= {"head.weight": draw(1000, WIDTHS[-1]), "head.bias": draw(1000)}
    for index, classes in enumerate((14, 14, 14, 3, 6, 1)):
        tensors |= {f"omni_heads.{index}.weight": draw(classes, PROJECTED), f"omni_heads.{index}.bias": draw(classes)}
    return tensors


def save(tensors: dict[str, Tensor], path: Path) -> Path:
    """As the authors save it: student and teacher, an epoch, losses as numpy's numbers, the wrapper of several GPUs."""
    teacher = {f"module.{name}": tensor for name, tensor in tensors.items()}
    student = {f"module.{name}": torch.zeros_like(tensor) for name, tensor in tensors.items()}
    content = {"epoch": 50, "lossMIN": [np.float64(0.25)], "state_dict": student, "teacher": teacher}
    torch.save(content | {"optimizer": {"state": {}}, "scheduler": {"last_epoch": 3}}, path)
    return path


def by_hand(tensors: dict[str, Tensor], batch: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """The stages [B, C, h, w], the mean after the last norm, and its projection."""

    def norm(name: str, values: Tensor) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def linear(name: str, values: Tensor) -> Tensor:
        return values @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    cells = functional.conv2d(batch, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=4)
    cells = norm("patch_embed.norm", cells.permute(0, 2, 3, 1))
    stages = []
    for stage, heads in enumerate(HEADS):
        for block in range(DEPTHS[stage]):
            own = f"layers.{stage}.blocks.{block}."
            cells = cells + attended(tensors, own, norm(f"{own}norm1", cells), heads, shifted=bool(block % 2))
            hidden = functional.gelu(linear(f"{own}mlp.fc1", norm(f"{own}norm2", cells)))
            cells = cells + linear(f"{own}mlp.fc2", hidden)
        stages.append(cells.permute(0, 3, 1, 2))
        if stage < 3:
            corners = [cells[:, y::2, x::2] for x in (0, 1) for y in (0, 1)]
            merged = norm(f"layers.{stage}.downsample.norm", torch.cat(corners, -1))
            cells = merged @ tensors[f"layers.{stage}.downsample.reduction.weight"].T
    mean = norm("norm", cells).mean((1, 2))
    return stages, mean, linear("projector", mean)


def attended(tensors: dict[str, Tensor], own: str, cells: Tensor, heads: int, shifted: bool) -> Tensor:
    """Window attention one query at a time: a cell sees its window of the shifted grid, not across the border."""
    count, rows, _, width = cells.shape
    shift = WINDOW // 2 if shifted and rows > WINDOW else 0
    qkv = cells @ tensors[f"{own}attn.qkv.weight"].T + tensors[f"{own}attn.qkv.bias"]
    query, key, value = qkv.reshape(count, rows, rows, 3, heads, width // heads).unbind(3)
    table = tensors[f"{own}attn.relative_position_bias_table"]
    # Cells that came round the border are no neighbours: window and region must both agree.
    place = (torch.arange(rows) - shift) % rows
    region = torch.where(torch.arange(rows) < shift, -1, place // WINDOW)
    out = torch.zeros_like(query)
    for y in range(rows):
        for x in range(rows):
            seen_y = [i for i in range(rows) if region[i] == region[y]]
            seen_x = [i for i in range(rows) if region[i] == region[x]]
            near = [(i, j) for i in seen_y for j in seen_x]
            at_y, at_x = torch.tensor(near).T
            bias = table[(y - at_y + WINDOW - 1) * (2 * WINDOW - 1) + (x - at_x + WINDOW - 1)]
            keys, values = key[:, at_y, at_x], value[:, at_y, at_x]
            score = torch.einsum("bhc,bnhc->bnh", query[:, y, x], keys) * (width // heads) ** -0.5
            weight = (score + bias).softmax(1)
            out[:, y, x] = torch.einsum("bnh,bnhc->bhc", weight, values)
    flat = out.reshape(count, rows, rows, width)
    return flat @ tensors[f"{own}attn.proj.weight"].T + tensors[f"{own}attn.proj.bias"]


@pytest.fixture
def card(tmp_path: Path) -> str:
    content: dict[str, Any] = yaml.safe_load((CARDS / "ark-plus.yaml").read_text())
    content |= {
        "name": "tiny-ark",
        "arguments": {
            "backbone": "swin_large_patch4_window12_384",
            "projector": PROJECTED,
            "embed_dim": WIDTHS[0],
            "depths": list(DEPTHS),
            "num_heads": list(HEADS),
            "window_size": WINDOW,
        },
        "parameters": sum(
            each.numel()
            for name, each in published().items()
            if not name.startswith(("head", "omni")) and "index" not in name and "mask" not in name
        ),
        "size_multiple": SIDE,
        "poolings": {"projector": PROJECTED, "mean": WIDTHS[-1]},
        "map_channels": list(WIDTHS),
    }
    content["preprocessing"]["input_size"] = [SIDE, SIDE]
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def batch() -> Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def test_the_authors_file_gives_the_features_of_a_plain_forward(card: str, tmp_path: Path) -> None:
    tensors = published()
    encoder = load_encoder(card, weights=save(tensors, tmp_path / "Ark6.pth.tar"))
    stages, mean, projected = by_hand(tensors, batch())
    features = encoder.encode(batch())
    assert torch.allclose(features.pooled, projected, atol=1e-5 * float(projected.abs().max()))
    for mine, theirs in zip(features.maps, stages, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5 * float(theirs.abs().max()))
    other = load_encoder(f"{card}@mean", weights=tmp_path / "Ark6.pth.tar").encode(batch()).pooled
    assert torch.allclose(other, mean, atol=1e-5 * float(mean.abs().max()))


def test_the_teachers_tensors_are_loaded_all_of_them(card: str, tmp_path: Path) -> None:
    tensors = published()
    loaded = load_encoder(card, weights=save(tensors, tmp_path / "Ark6.pth.tar")).state_dict()
    expected = {}
    for name, tensor in tensors.items():
        if name.startswith(("head.", "omni_heads.")) or name.endswith(("attn_mask", "relative_position_index")):
            continue
        for stage in (2, 1, 0):
            name = name.replace(f"layers.{stage}.downsample", f"layers.{stage + 1}.downsample")
        expected[f"model.{name}"] = tensor
    learnt = {name: each for name, each in loaded.items() if name in expected}
    assert set(learnt) == set(expected)
    assert all(torch.equal(learnt[name], tensor) for name, tensor in expected.items())
    assert set(loaded) - set(expected) == set()


def without_projector(tensors: dict[str, Tensor]) -> None:
    del tensors["projector.weight"], tensors["projector.bias"]


def without_downsample(tensors: dict[str, Tensor]) -> None:
    del tensors["layers.2.downsample.reduction.weight"]


def other_window(tensors: dict[str, Tensor]) -> None:
    tensors["layers.0.blocks.0.attn.relative_position_bias_table"] = torch.zeros(49, 1)


def other_patch(tensors: dict[str, Tensor]) -> None:
    tensors["patch_embed.proj.weight"] = torch.zeros(WIDTHS[0], 3, 8, 8)


def other_projector(tensors: dict[str, Tensor]) -> None:
    tensors["projector.0.weight"] = tensors.pop("projector.weight")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_projector, r"missing: projector\.bias, projector\.weight"),
        (without_downsample, r"missing: layers\.3\.downsample\.reduction\.weight"),
        (other_window, r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table \[49, 1\] instead of \[25, 1\]"),
        (other_patch, r"patch_embed\.proj\.weight \[8, 3, 8, 8\] instead of \[8, 3, 4, 4\]"),
        (other_projector, r"not known to the model: projector\.0\.weight"),
    ],
)
def test_a_file_that_is_not_arks_is_refused(
    card: str, tmp_path: Path, spoil: Callable[[dict[str, Tensor]], None], said: str
) -> None:
    tensors = published()
    spoil(tensors)
    with pytest.raises(EvalfmError, match=said):
        load_encoder(card, weights=save(tensors, tmp_path / "Ark6.pth.tar"))


def test_an_embedding_of_another_dimension_is_refused(card: str, tmp_path: Path) -> None:
    """A drifted library once gave the 1536 values before the projector under the projector's name."""
    encoder: Any = load_encoder(card, weights=save(published(), tmp_path / "Ark6.pth.tar"))
    encoder.model.projector = torch.nn.Identity()
    with pytest.raises(EvalfmError, match=r"gives features \[\(2, 64\).*promises \[\(2, 11\)"):
        encoder.encode(batch())


def test_the_weights_are_asked_for_by_form() -> None:
    with pytest.raises(EvalfmError, match=r"request form.*--weights PATH"):
        load_encoder("ark-plus")


def test_the_card_builds_the_authors_configuration() -> None:
    """Windows of 12 at every stage of 768 pixels, every second block shifted by 6 cells."""
    card = find_card("ark-plus")
    with torch.device("meta"):
        encoder: Any = ArkEncoder(card, EncoderState(preprocessing=card.preprocessing), None)
    for stage, heads in zip(encoder.model.layers, (6, 12, 24, 48), strict=True):
        for index, block in enumerate(stage.blocks):
            assert (block.attn.num_heads, block.window_size) == (heads, (12, 12))
            assert block.shift_size == ((6, 6) if index % 2 else (0, 0))
