from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalfm import plugins
from evalfm.encoders import EncoderRef, find_card, registry
from evalfm.encoders.card import EncoderCard
from evalfm.errors import EvalfmError

from .expected import EXPECTED

NAMES = sorted(EXPECTED)


def test_the_names_of_the_cards() -> None:
    assert registry.card_names() == NAMES
    cards = registry.list_cards()
    assert list(cards) == NAMES
    assert [card.name for card in cards.values()] == NAMES


def test_names_are_had_without_reading_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> dict[str, Any]:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(registry, "read_yaml", refuse)
    assert registry.card_names() == NAMES


def test_a_near_miss_is_answered_with_the_right_name() -> None:
    with pytest.raises(EvalfmError, match="'rad-dino'"):
        find_card("raddino")
    with pytest.raises(EvalfmError, match="resnet18"):
        find_card("random:resnet81")


def test_another_pooling_is_another_card() -> None:
    card = find_card("rad-dino@mean")
    assert (card.name, card.pooling) == ("rad-dino@mean", "mean")
    assert find_card("rad-dino@cls") == find_card("rad-dino")
    with pytest.raises(EvalfmError, match="pooling of rad-dino 'meen'"):
        find_card("rad-dino@meen")


def test_a_card_of_ones_own_is_read_from_its_path(tmp_path: Path) -> None:
    text = (registry.CARDS / "hog.yaml").read_text().replace("name: hog", "name: my-hog")
    (tmp_path / "mine.yaml").write_text(text)
    assert find_card(str(tmp_path / "mine.yaml")).name == "my-hog"
    with pytest.raises(EvalfmError, match="no file"):
        find_card(str(tmp_path / "other.yaml"))


def test_plugged_in_cards_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    card = find_card("pixels").model_copy(update={"name": "theirs"})
    point = SimpleNamespace(name="theirs", value="package:CARD", module="package", dist=None, load=lambda: card)
    monkeypatch.setattr(plugins, "installed_points", lambda group: (point,) if group == "evalfm.encoders" else ())
    assert find_card("theirs") is card
    assert registry.list_cards()["theirs"] is card
    assert not EncoderRef.parse("theirs").is_code


def test_a_built_in_card_bears_its_files_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "CARDS", tmp_path)
    source = Path(registry.__file__).parent / "cards" / "hog.yaml"
    (tmp_path / "renamed.yaml").write_text(source.read_text())
    with pytest.raises(EvalfmError, match="card of 'hog'"):
        find_card("renamed")


def test_a_random_card_takes_timms_own_facts() -> None:
    card = find_card("random:resnet18")
    # timm's model list: resnet18 has 11.69 M parameters with a classifier of 512 x 1000 + 1000.
    assert card.parameters == 11_689_512 - 513_000
    assert isinstance(card, EncoderCard)
    assert (card.pooled_dim, card.map_channels, card.map_strides) == (
        512,
        (64, 128, 256, 512),
        (4, 8, 16, 32),
    )
    assert card.preprocessing.mean == (0.485, 0.456, 0.406)
    vit = find_card("random:vit_tiny_patch16_224")
    assert (vit.map_layers, vit.map_norm, vit.prefix_tokens, vit.size_multiple) == (
        (1, 4, 6, 9, 11),
        "final",
        1,
        16,
    )


def based(folder: Path, name: str, text: str) -> Path:
    (folder / f"{name}.yaml").write_text(f"schema: 1\nname: {name}\n{text}")
    return folder / f"{name}.yaml"


OWN = "summary: Mine.\nweights: {source: path}\nparameters: 7\n"


def test_a_card_with_a_base_says_only_what_is_other(tmp_path: Path) -> None:
    whole = find_card("dinov2-small")
    path = based(tmp_path, "mine", f"base: dinov2-small\n{OWN}preprocessing: {{mean: [0.1, 0.2, 0.3]}}\n")
    card = find_card(str(path))
    assert (card.name, card.parameters, card.weights.source) == ("mine", 7, "path")
    assert card.arguments == whole.arguments
    assert card.preprocessing == whole.preprocessing.model_copy(update={"mean": (0.1, 0.2, 0.3)})
    further = based(tmp_path, "further", f"base: mine\n{OWN}licence: ours\narguments: {{hidden_size: 8}}\n")
    card = find_card(str(further))
    assert (card.preprocessing.mean, card.licence) == ((0.1, 0.2, 0.3), "ours")
    # A key takes the place of the whole key.
    assert card.arguments == {"hidden_size": 8}


@pytest.mark.parametrize("left_out", ["summary", "weights", "parameters"])
def test_other_weights_are_never_the_bases(left_out: str, tmp_path: Path) -> None:
    own = "".join(f"{line}\n" for line in OWN.splitlines() if not line.startswith(left_out))
    path = based(tmp_path, "mine", f"base: dinov2-small\n{own}")
    with pytest.raises(EvalfmError, match=f"{left_out}: Field required"):
        find_card(str(path))


def test_doubts_and_proofs_are_never_the_bases(tmp_path: Path) -> None:
    card = find_card(str(based(tmp_path, "mine", f"base: squeezenet1-0.caffe\n{OWN}")))
    theirs = find_card("squeezenet1-0.caffe")
    assert theirs.golden
    assert theirs.confirmed
    assert (card.golden, card.confirmed, card.unconfirmed, card.weights.sha256) == (None, (), (), None)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("mine", "its own base"),
        ("nothing", "no card nothing.yaml beside it or built in"),
        ("../other/mine", "is no card's name"),
        ("[a, b]", "is no card's name"),
    ],
)
def test_a_base_that_cannot_be(base: str, words: str, tmp_path: Path) -> None:
    path = based(tmp_path, "mine", f"base: {base}\n{OWN}")
    with pytest.raises(EvalfmError, match=words):
        find_card(str(path))
