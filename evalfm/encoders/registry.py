"""The encoders that have a name: built-in cards and plug-ins; none is read before it is needed."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evalfm.cards import read_yaml, validate
from evalfm.encoders.card import AbsentCard, EncoderCard
from evalfm.errors import EvalfmError, UnknownNameError

if TYPE_CHECKING:
    from evalfm.encoders.encoder import Encoder

CARDS = Path(__file__).parent / "cards"
ABSENT = CARDS / "precomputed"
"""Cards of encoders that are offered through precomputed embeddings only."""

GROUP = "evalfm.encoders"


def card_names() -> list[str]:
    """Names of the built-in and plugged-in encoders, sorted; no card is read.

    Raises:
        EvalfmError: a name is taken twice.

    >>> "rad-dino" in card_names()
    True
    """
    return sorted([*_built_in(), *_plugins()])


def list_cards() -> dict[str, EncoderCard]:
    """Every built-in card, and the plugged-in ones that are cards, by name.

    >>> list_cards()["rad-dino"].licence
    'MIT'
    """
    cards = {name: read_card(path) for name, path in _built_in().items()}
    for name, plugin in _plugins().items():
        loaded = _load_plugin(name, plugin)
        if isinstance(loaded, EncoderCard):
            cards[name] = loaded
    return dict(sorted(cards.items()))


def list_factories() -> dict[str, str]:
    """The plugged-in encoders that come as code: name → where it is; none is built."""
    plugins = _plugins()
    made = {name: plugin for name, plugin in plugins.items() if not isinstance(_load_plugin(name, plugin), EncoderCard)}
    return {name: plugin.value for name, plugin in sorted(made.items())}


def list_absent() -> dict[str, AbsentCard]:
    """The encoders that evalfm does not load, by name.

    >>> "medclip" in list_absent()
    True
    """
    return {path.stem: _read_absent(path) for path in sorted(ABSENT.glob("*.yaml"))}


def find_absent(name: str) -> AbsentCard | None:
    """The card of an encoder that is offered through precomputed embeddings only, or None.

    >>> find_absent("medclip").pooled_dim
    512
    """
    path = ABSENT / f"{name}.yaml"
    known = name in {each.stem for each in ABSENT.glob("*.yaml")}
    return _read_absent(path) if known else None


def read_card(path: Path) -> EncoderCard:
    """Read and validate one card.

    Raises:
        EvalfmError: not there, not YAML, wrong keys, or a built-in card under another name than its file's.
    """
    card = validate(EncoderCard, read_yaml(path), str(path))
    if path.parent == CARDS and card.name != path.stem:
        raise EvalfmError(f"{path} is the card of {card.name!r}; rename the file or the card.")
    return card


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
    raise UnknownNameError("encoder", name, [*built_in, *_plugins(), *(path.stem for path in ABSENT.glob("*.yaml"))])


def plugin_names() -> set[str]:
    """Names of the plugged-in encoders; their code is not imported.

    Raises:
        EvalfmError: a name is taken twice.
    """
    return set(_plugins())


def load_plugin(name: str) -> EncoderCard | Callable[[], Encoder]:
    """The plugged-in card or factory called ``name``.

    Raises:
        EvalfmError: it cannot be imported, or is neither.
    """
    return _load_plugin(name, _plugins()[name])


def _read_absent(path: Path) -> AbsentCard:
    card = validate(AbsentCard, read_yaml(path), str(path))
    if card.name != path.stem:
        raise EvalfmError(f"{path} is the card of {card.name!r}; rename the file or the card.")
    return card


def _built_in() -> dict[str, Path]:
    return {path.name.removesuffix(".yaml"): path for path in CARDS.glob("*.yaml")}


def _plugins() -> dict[str, EntryPoint]:
    plugins: dict[str, EntryPoint] = {}
    built_in = _built_in()
    for plugin in entry_points(group=GROUP):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", plugin.name):
            raise EvalfmError(f"Entry point {plugin.name!r} of {plugin.value} is no name for an encoder; rename it.")
        other = plugins.get(plugin.name)
        if plugin.name in built_in or (other is not None and other.value != plugin.value):
            rival = "evalfm itself" if other is None else other.value
            raise EvalfmError(
                f"Two encoders are called {plugin.name!r}: one of {plugin.value}, one of {rival}; "
                "uninstall or rename one."
            )
        plugins[plugin.name] = plugin
    return plugins


def _load_plugin(name: str, plugin: EntryPoint) -> EncoderCard | Callable[[], Encoder]:
    try:
        loaded: Any = plugin.load()
    except Exception as error:
        raise EvalfmError(
            f"The plugged-in encoder {name!r} ({plugin.value}) fails to import ({error}); fix or uninstall it."
        ) from error
    if isinstance(loaded, str | Path):
        loaded = read_card(Path(loaded))
    if isinstance(loaded, EncoderCard):
        return loaded
    if callable(loaded):
        return cast("Callable[[], Encoder]", loaded)
    raise EvalfmError(f"The plugged-in encoder {name!r} must be an EncoderCard, a card's path, or a factory.")
