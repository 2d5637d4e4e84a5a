"""The catalogue's filters, its page, and the encoders that are not loaded."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evalfm.cli.app import app
from evalfm.encoders import find_card
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.catalogue import Wanted, catalogue, described, parameters_of
from evalfm.encoders.choice import poolings_of
from evalfm.encoders.registry import ABSENT, list_absent
from evalfm.errors import EvalfmError

DOCS = Path(__file__).parents[2] / "docs"


def test_filters_keep_what_matches() -> None:
    chest = catalogue(Wanted(domain="CHEST", commercial="yes", most=100_000_000))
    assert "eva-x-b" in chest
    assert "chexzero" in chest
    assert "rad-dino" in chest
    assert {"rad-dino-maira-2", "clip-l14", "ark-plus", "medclip"}.isdisjoint(chest)
    readers = catalogue(Wanted(text=True))
    assert {"biomedclip", "medsiglip", "clip-l14"} <= set(readers)
    assert all(isinstance(card, EncoderCard) and card.text_tower for card in readers.values())
    gated = catalogue(Wanted(gated=True))
    assert {"medsiglip", "curia", "cxr-foundation"} <= set(gated)
    assert "rad-dino" not in gated
    assert set(catalogue(Wanted(gated=False))) | set(gated) == set(catalogue())
    assert set(catalogue(Wanted(paradigm="label-supervised", least=80_000_000))) >= {"convnext-base", "sam-b"}
    assert "resnet50" not in catalogue(Wanted(least=80_000_000))
    assert set(catalogue(Wanted(licence="apache"))) >= {"dinov2-large", "resnet50"}
    with pytest.raises(EvalfmError, match="No encoder meets all conditions; leave one out"):
        catalogue(Wanted(domain="chest", licence="no such licence"))


@pytest.mark.parametrize(
    ("text", "count"), [("90M", 90_000_000), ("1.2b", 1_200_000_000), ("500 k", 500_000), ("7", 7)]
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parameters_of(text) == count


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(EvalfmError, match="write it as 90M"):
        parameters_of("big")


@pytest.mark.parametrize("name", [path.stem for path in ABSENT.glob("*.yaml")])
def test_what_is_not_loaded_says_why_and_how(name: str) -> None:
    card = list_absent()[name]
    assert card.reason.endswith(".")
    assert card.embeddings.endswith(".")
    with pytest.raises(EvalfmError, match=f"evalfm does not load {name}: .*precomputed:FILE"):
        find_card(name)
    said = CliRunner().invoke(app, ["show", "encoder", name])
    assert said.exit_code == 0
    assert card.reason in said.stdout


def test_the_six_are_there() -> None:
    names = {"cxr-foundation", "radimagenet-r50", "chexagent-8b", "medclip", "bmc-clip", "pmc-clip"}
    assert set(list_absent()) == names


def test_the_list_on_the_command_line() -> None:
    shown = CliRunner().invoke(app, ["ls", "encoders", "--text", "--json"])
    assert set(json.loads(shown.stdout)) == set(catalogue(Wanted(text=True)))
    assert "chexzero" in CliRunner().invoke(app, ["ls", "encoders", "--domain", "chest"]).stdout
    wrong = CliRunner().invoke(app, ["ls", "encoders", "--paradigm", "image-txt"])
    assert wrong.exit_code != 0
    assert "Did you mean 'image-text'" in str(wrong.exception) + wrong.output


def test_the_page_is_what_the_cards_say() -> None:
    specification = importlib.util.spec_from_file_location("write_encoders", DOCS / "write_encoders.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    page = (DOCS / "encoders.md").read_text(encoding="utf-8")
    assert page == module.as_page(), "run: python docs/write_encoders.py"
    assert "## rad-dino" in page
    assert "| 86.6M | 518 × 518 | 768 |" in page


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_every_card_can_be_read_by_a_person(name: str) -> None:
    card = catalogue()[name]
    sections = dict(described(card))
    lines = [line for each in sections.values() for line in each]
    assert sections[""] == [f"{name}: {card.summary}"]
    assert card.licence in sections["Licence"][0]
    assert not any("None" in line or "[" in line for line in lines if line not in (*card.unconfirmed, card.summary))
    assert set(card.unconfirmed) <= set(lines)
    if isinstance(card, EncoderCard):
        height, width = card.preprocessing.input_size
        assert sections["Input"][0].startswith(f"{height} × {width}, ")
        assert len(sections["Embedding"]) == len(poolings_of(card)) >= len(card.poolings)
        assert sections["Embedding"][0].startswith(f"{card.pooling}: {card.pooled_dim} ")
        assert ("Text" in sections) == (card.text_tower is not None)
    else:
        assert card.reason in sections["evalfm does not load it"]


def test_scaling_and_resizing_are_told_in_words() -> None:
    def input_lines(name: str) -> str:
        return " | ".join(dict(described(find_card(name)))["Input"])

    assert "black and white become 0 and 255; then mean 123, 117, 104, standard deviation 1" in input_lines(
        "squeezenet1-0.caffe"
    )
    assert "the image's smallest and largest value become 0 and 1" in input_lines("biovil-t")
    assert "the image's histogram is made flat; black and white become 0 and 1" in input_lines("cxformer-s")
    assert "no other size" in input_lines("biomedclip")
    assert "multiples of 14" in input_lines("rad-dino")


def test_poolings_and_layers_that_can_be_chosen_are_listed_with_dimensions_and_strides() -> None:
    def lines(name: str, title: str) -> list[str]:
        return dict(described(find_card(name)))[title]

    assert lines("rad-dino", "Embedding") == [
        "cls: 768 dimensions",
        "mean: 768 dimensions; take it with --pooling mean",
        "cls-mean: 1536 dimensions; take it with --pooling cls-mean",
    ]
    assert "--layers chooses others of the blocks 0 to 11, such as --layers 5 or last4" in lines("rad-dino", "Maps")
    assert lines("ark-plus", "Embedding")[1] == "mean: 1536 dimensions; take it with --pooling mean"
    strides = "0 (stride 4), 1 (stride 8), 2 (stride 16), 3 (stride 32)"
    assert f"--layers chooses among {strides}" in lines("ark-plus", "Maps")
    assert lines("ark-plus@mean@layers-2", "Embedding") == [
        "mean: 768 dimensions",
        "of layer 2, the deepest of its maps, and not of the network's end",
        "chosen of ark-plus, whose others `evalfm show encoder ark-plus` lists",
    ]
    assert not any("--layers" in line for name in ("hog", "rad-dino@mean") for line in lines(name, "Maps"))
