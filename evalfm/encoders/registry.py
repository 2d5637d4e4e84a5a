"""The encoders that have a name: built-in cards and plug-ins; none is read before it is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from evalfm.cards import read_yaml, validate
from evalfm.encoders.card import AbsentCard, EncoderCard
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.plugins import PlugIn, find_plugins, load_all

if TYPE_CHECKING:
    from evalfm.encoders.encoder import Encoder

Card = TypeVar("Card", EncoderCard, AbsentCard)

CARDS = Path(__file__).parent / "cards"
ABSENT = CARDS / "precomputed"
"""Cards of encoders that are offered through precomputed embeddings only."""


class Prefix(NamedTuple):
    """A word that may stand before the first colon of a name.

    Attributes:
        kind: what a name that begins with it stands for.
        example: a whole name, for messages and lists.
        is_table: whether it is a table of features and no model.
        takes_path: whether a file stands behind the colon.
        card: ``module:function`` that makes the card of what stands behind the colon; imported when it is called.
        revisions: whether ``@`` may be followed by a commit, ``main``, or a tag or branch with a digit in it.
        takes_folder: whether a folder may stand behind the colon too, written as a path.
    """

    kind: str
    example: str
    is_table: bool = False
    takes_path: bool = False
    card: str | None = None
    revisions: bool = False
    takes_folder: bool = False


_FAMILIES = "evalfm.encoders.families"
PREFIXES = {
    prefix.kind: prefix
    for prefix in (
        Prefix("random", "random:resnet18", card=f"{_FAMILIES}.timm:derive_card"),
        Prefix("timm", "timm:vit_small_patch16_dinov3.lvd1689m", card=f"{_FAMILIES}.timm:published_card"),
        Prefix(
            "hf",
            "hf:facebook/dinov2-small",
            card=f"{_FAMILIES}._hf:published_card",
            revisions=True,
            takes_folder=True,
        ),
        Prefix(
            "open_clip",
            "open_clip:ViT-B-32/laion2b_s34b_b79k",
            card=f"{_FAMILIES}.open_clip:published_card",
            revisions=True,
        ),
        Prefix("precomputed", "precomputed:embeddings.parquet", is_table=True, takes_path=True),
        Prefix("constant", "constant", is_table=True),
        Prefix("metadata", "metadata", is_table=True),
    )
}
"""Everything that is named by a word and a colon, by the word; without a colon in the example, the word stands alone.

A new library is one line here, and a function that makes an ``EncoderCard`` of a name.
"""

RESERVED = (*PREFIXES, "unet-resnet34", "unet-efficientnet-b4")
"""Words that mean something in place of a card's name (``PREFIXES`` and ``reference.ALIASES``)."""
OF_ITS_OWN = ("name", "summary", "weights", "parameters", "golden", "confirmed", "unconfirmed")
"""What a card says for itself whatever its ``base`` says: other weights are another file, and other doubts."""


def card_names() -> list[str]:
    """Names of the built-in and plugged-in encoders, sorted; no card is read.

    >>> "rad-dino" in card_names()
    True
    """
    return sorted({*_built_in(), *encoder_plugins()})


def list_cards() -> dict[str, EncoderCard]:
    """Every built-in card, and the plugged-in ones that are cards, by name; broken plug-ins are left out.

    >>> list_cards()["rad-dino"].licence
    'MIT'
    """
    plugged = load_all(encoder_plugins())[0]
    cards = {name: read_card(path) for name, path in _built_in().items()}
    cards |= {name: loaded for name, loaded in plugged.items() if isinstance(loaded, EncoderCard)}
    return dict(sorted(cards.items()))


def list_absent() -> dict[str, AbsentCard]:
    """The encoders that evalfm does not load, by name.

    >>> "medclip" in list_absent()
    True
    """
    return {path.stem: _read(AbsentCard, path) for path in sorted(ABSENT.glob("*.yaml"))}


def find_absent(name: str) -> AbsentCard | None:
    """The card of an encoder that is offered through precomputed embeddings only, or None.

    >>> find_absent("medclip").pooled_dim
    512
    """
    path = ABSENT / f"{name}.yaml"
    return _read(AbsentCard, path) if name in _absent_names() else None


def read_card(path: Path) -> EncoderCard:
    """Read and validate one card; what it leaves out is its ``base``'s, another card beside it or a built-in one.

    A key takes the place of the base's whole key, but those of ``preprocessing`` one by one. Weights, parameters and
    what was confirmed are never the base's.

    Raises:
        EvalfmError: not there, not YAML, wrong keys, a base that there is not, or a built-in card under another name
            than its file's.
    """
    return _read(EncoderCard, path)


def named_card(name: str) -> EncoderCard:
    """The built-in card called ``name``.

    Raises:
        EvalfmError: there is none, or evalfm takes this encoder's precomputed embeddings only.

    >>> named_card("hog").pooled_dim
    576
    """
    built_in = _built_in()
    if name in built_in:
        return read_card(built_in[name])
    absent = find_absent(name)
    if absent is not None:
        raise EvalfmError(
            f"evalfm does not load {name}: {absent.reason} {absent.embeddings} "
            "Give them as --encoder precomputed:FILE, a table joined by image id."
        )
    raise UnknownNameError("encoder", name, [*card_names(), *_absent_names()])


def encoder_plugins() -> dict[str, PlugIn[EncoderCard | Callable[[], Encoder]]]:
    """The encoders that other packages bring, by name; their code is not imported."""
    return find_plugins("encoder", {*_built_in(), *_absent_names(), *RESERVED}, _card_or_factory)


def load_plugin(name: str) -> EncoderCard | Callable[[], Encoder]:
    """The plugged-in card or factory called ``name``.

    Raises:
        EvalfmError: its name is taken, it cannot be imported, or it is neither.
    """
    return encoder_plugins()[name].load()


def _read(model: type[Card], path: Path) -> Card:
    card = validate(model, _inherited(path), str(path))
    if path.parent in (CARDS, ABSENT) and card.name != path.stem:
        raise EvalfmError(f"{path} is the card of {card.name!r}; rename the file or the card.")
    return card


def _inherited(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The content of a card with what it leaves out of its base's."""
    if path in seen:
        raise EvalfmError(f"{path} is its own base; fix its base.")
    content = read_yaml(path)
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str) or "/" in base or "\\" in base:
        raise EvalfmError(
            f"The base of {path} is no card's name; write one beside it, or a built-in one, without a path."
        )
    parent = next((each for each in (path.parent / f"{base}.yaml", CARDS / f"{base}.yaml") if each.is_file()), None)
    if parent is None:
        raise EvalfmError(f"{path} has the base {base!r}, but there is no card {base}.yaml beside it or built in.")
    taken = {name: value for name, value in _inherited(parent, (*seen, path)).items() if name not in OF_ITS_OWN}
    theirs, own = taken.get("preprocessing"), content.get("preprocessing")
    if isinstance(theirs, dict) and isinstance(own, dict):
        content["preprocessing"] = {**theirs, **own}
    return {**taken, **content}


def _absent_names() -> set[str]:
    return {path.stem for path in ABSENT.glob("*.yaml")}


def _built_in() -> dict[str, Path]:
    return {path.name.removesuffix(".yaml"): path for path in CARDS.glob("*.yaml")}


def _card_or_factory(name: str, loaded: Any) -> EncoderCard | Callable[[], Encoder]:
    card = read_card(Path(loaded)) if isinstance(loaded, str | Path) else loaded
    if isinstance(card, EncoderCard):
        if card.name != name:
            raise EvalfmError(f"its card is called {card.name!r}")
        return card
    if callable(loaded):
        return cast("Callable[[], Encoder]", loaded)
    raise EvalfmError(f"it is {type(loaded).__name__}, not an EncoderCard, a card's path, or a function")
