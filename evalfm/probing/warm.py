"""Encoders that stay loaded from one cell to the next, where a process measures the same one again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evalfm.config import EncoderConfig
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef


class WarmEncoders:
    """The encoders that were loaded last; an encoder from the user's own code is made anew each time.

    >>> from evalfm.encoders import load_encoder
    >>> warm, ref = WarmEncoders(1), EncoderRef.parse("random:test_vit")
    >>> first = warm.get(ref, EncoderConfig(), "cpu", 0, lambda: load_encoder("random:test_vit"))
    >>> warm.get(ref, EncoderConfig(), "cpu", 0, lambda: load_encoder("random:test_vit")) is first
    True
    """

    def __init__(self, most: int = 1) -> None:
        """``most`` encoders with weights are kept; 0 keeps none."""
        self._most = most
        self._kept: dict[tuple[object, ...], Encoder] = {}

    def get(
        self, ref: EncoderRef, settings: EncoderConfig, device: str, seed: int, load: Callable[[], Encoder]
    ) -> Encoder:
        """What ``load`` gives, or what it gave for the same card, weights, settings, device and seed."""
        key = _key(ref, settings, device, seed)
        if key is None or not self._most:
            return load()
        if key in self._kept:
            # The last used stands last.
            self._kept[key] = self._kept.pop(key)
            return self._kept[key]
        while len(self._kept) >= self._most:
            # Before the next takes memory.
            del self._kept[next(iter(self._kept))]
        encoder = load()
        self._kept[key] = encoder
        return encoder


def _key(ref: EncoderRef, settings: EncoderConfig, device: str, seed: int) -> tuple[object, ...] | None:
    """All that decides the encoder; None where code or a folder of files decides it, or where nothing is loaded."""
    if not (ref.kind in ("card", "card-file") or ref.is_library) or ref.folder or Path(settings.weights).is_dir():
        return None
    card = ref.card()
    if card is None or card.parameters == 0:
        return None
    files = tuple(_state(text) for text in (ref.path or ref.label, settings.weights))
    options = (settings.input_size, settings.resize, settings.precision, settings.compile)
    return (ref.label, settings.weights, files, *options, device, seed)


def _state(text: str) -> tuple[int, int] | None:
    """When a file was changed, and its size; None for what is no file."""
    try:
        found = Path(text).stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size
