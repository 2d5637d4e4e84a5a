"""Cards by name: built-in, plugged in, one's own, or derived from timm; none is parsed until asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evalfm.cards import read_yaml, validate
from evalfm.encoders.card import AbsentCard, EncoderCard
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.paths import user_path

if TYPE_CHECKING:
    from evalfm.encoders.encoder import Encoder

CARDS = Path(__file__).parent / "cards"
ABSENT = CARDS / "precomputed"
"""Cards of encoders that are offered through precomputed embeddings only."""

GROUP = "evalfm.encoders"
RANDOM = "random:"


def card_names() -> list[str]:
    """Names of the built-in and plugged-in encoders, sorted; no card is read.

    Raises:
        EvalfmError: a name is taken twice.
    """
    return sorted([*_built_in(), *_plugins()])


def list_cards() -> dict[str, EncoderCard]:
    """Every built-in card, and the plugged-in ones that are cards, by name."""
    cards = {name: read_card(path) for name, path in _built_in().items()}
    for name, plugin in _plugins().items():
        found = _load_plugin(name, plugin)
        if isinstance(found, EncoderCard):
            cards[name] = found
    return dict(sorted(cards.items()))


def list_factories() -> dict[str, str]:
    """The plugged-in encoders that come as code: name → where it is; none is built."""
    plugins = _plugins()
    made = {name: plugin for name, plugin in plugins.items() if not isinstance(_load_plugin(name, plugin), EncoderCard)}
    return {name: plugin.value for name, plugin in sorted(made.items())}


def list_absent() -> dict[str, AbsentCard]:
    """The encoders that evalfm does not load, by name."""
    return {path.stem: _read_absent(path) for path in sorted(ABSENT.glob("*.yaml"))}


def find_absent(name: str) -> AbsentCard | None:
    """The card of an encoder that is offered through precomputed embeddings only, or None."""
    path = ABSENT / f"{name}.yaml"
    known = name in {each.stem for each in ABSENT.glob("*.yaml")}
    return _read_absent(path) if known else None


def find_card(name: str) -> EncoderCard:
    """The card that ``name`` stands for: ``card``, ``random:<timm model>`` or a path, each ``@pooling``, ``@variant``.

    Raises:
        EvalfmError: unknown name, pooling or variant, or a card that is not valid.
    """
    base, *asked = name.split("@")
    card = _find(base)
    for word in filter(None, asked):
        card = _with(card, word)
    return card


def _with(card: EncoderCard, word: str) -> EncoderCard:
    """The card with another pooling or a variant, named by it."""
    if word in (card.pooling, card.variant):
        return card
    if word in card.variants:
        change = {"variant": word}
    elif word in card.poolings:
        change = {"pooling": word}
    else:
        kinds = "pooling or variant" if card.variants else "pooling"
        raise UnknownNameError(f"{kinds} of {card.name}", word, [*card.poolings, *card.variants])
    # A golden embedding is of the card as it is published.
    return card.model_copy(update={**change, "golden": None, "name": f"{card.name}@{word}"})


def is_plugin(name: str) -> bool:
    """Whether a plug-in is called ``name``; its code is not imported."""
    return name in _plugins()


def find_plugin(name: str) -> Callable[[], Encoder] | None:
    """The plugged-in factory called ``name``, or None where the name is a card's or nobody's."""
    plugins = _plugins()
    if name not in plugins:
        return None
    found = _load_plugin(name, plugins[name])
    return None if isinstance(found, EncoderCard) else found


def read_card(path: Path) -> EncoderCard:
    """Read and validate one card.

    Raises:
        EvalfmError: not there, not YAML, wrong keys, or a built-in card under another name than its file's.
    """
    card = validate(EncoderCard, read_yaml(path), str(path))
    if path.parent == CARDS and card.name != path.stem:
        raise EvalfmError(f"{path} is the card of {card.name!r}; rename the file or the card.")
    return card


def _find(name: str) -> EncoderCard:
    if name.startswith(RANDOM):
        from evalfm.encoders.families.timm import derive_card

        return derive_card(name.removeprefix(RANDOM))
    if name.endswith((".yaml", ".yml")):
        return read_card(user_path(name, "--encoder"))
    built_in = _built_in()
    plugins = _plugins()
    if name in built_in:
        return read_card(built_in[name])
    if name in plugins:
        found = _load_plugin(name, plugins[name])
        return found if isinstance(found, EncoderCard) else found().card
    absent = find_absent(name)
    if absent is not None:
        raise EvalfmError(
            f"evalfm does not load {name}: {absent.reason} {absent.embeddings} "
            "Give them as --encoder precomputed:FILE, a table joined by image id."
        )
    raise UnknownNameError("encoder", name, [*built_in, *plugins, *(path.stem for path in ABSENT.glob("*.yaml"))])


def _read_absent(path: Path) -> AbsentCard:
    card = validate(AbsentCard, read_yaml(path), str(path))
    if card.name != path.stem:
        raise EvalfmError(f"{path} is the card of {card.name!r}; rename the file or the card.")
    return card


def _built_in() -> dict[str, Path]:
    return {path.name.removesuffix(".yaml"): path for path in CARDS.glob("*.yaml")}


def _plugins() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    built_in = _built_in()
    for plugin in entry_points(group=GROUP):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", plugin.name):
            raise EvalfmError(f"Entry point {plugin.name!r} of {plugin.value} is no name for an encoder; rename it.")
        other = found.get(plugin.name)
        if plugin.name in built_in or (other is not None and other.value != plugin.value):
            rival = "evalfm itself" if other is None else other.value
            raise EvalfmError(
                f"Two encoders are called {plugin.name!r}: one of {plugin.value}, one of {rival}; "
                "uninstall or rename one."
            )
        found[plugin.name] = plugin
    return found


def _load_plugin(name: str, plugin: EntryPoint) -> EncoderCard | Callable[[], Encoder]:
    try:
        found: Any = plugin.load()
    except Exception as error:
        raise EvalfmError(
            f"The plugged-in encoder {name!r} ({plugin.value}) fails to import ({error}); mend or uninstall it."
        ) from error
    if isinstance(found, str | Path):
        found = read_card(Path(found))
    if isinstance(found, EncoderCard):
        return found
    if callable(found):
        return cast("Callable[[], Encoder]", found)
    raise EvalfmError(f"The plugged-in encoder {name!r} must be an EncoderCard, a card's path, or a factory.")
