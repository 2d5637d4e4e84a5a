"""Encoders turn images into features: cards hold their facts, families build them, one contract runs them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalfm.encoders.card import EncoderCard as EncoderCard
    from evalfm.encoders.encoder import Encoder as Encoder
    from evalfm.encoders.encoder import EncoderState as EncoderState
    from evalfm.encoders.encoder import Features as Features
    from evalfm.encoders.encoder import RawFeatures as RawFeatures
    from evalfm.encoders.loading import load_encoder as load_encoder
    from evalfm.encoders.modules import from_module as from_module
    from evalfm.encoders.reference import EncoderRef as EncoderRef
    from evalfm.encoders.reference import find_card as find_card
    from evalfm.encoders.registry import list_cards as list_cards

_HOME = {
    "Encoder": "encoder",
    "EncoderCard": "card",
    "EncoderRef": "reference",
    "EncoderState": "encoder",
    "Features": "encoder",
    "RawFeatures": "encoder",
    "find_card": "reference",
    "list_cards": "registry",
    "from_module": "modules",
    "load_encoder": "loading",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    # Cards are listed without torch; only an encoder's use imports it.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
