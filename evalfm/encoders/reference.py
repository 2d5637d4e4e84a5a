"""The name of an encoder, parsed once: what kind of thing it stands for, and where that is."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from evalfm.encoders.card import REVISION, EncoderCard
from evalfm.encoders.choice import LAYERS, chosen, layers_text
from evalfm.encoders.registry import PREFIXES, Prefix, encoder_plugins, load_plugin, named_card, read_card
from evalfm.errors import EvalfmError, UnknownNameError, shown
from evalfm.paths import user_path

if TYPE_CHECKING:
    from evalfm.encoders.encoder import Encoder

_CARD_FILE = re.compile(r"(?P<path>.+\.ya?ml)(?P<modifiers>(?:@[\w.-]*)*)", re.DOTALL)
_FOLDER = re.compile(r"(?P<path>(?:[.~/\\]|[A-Za-z]:[/\\]).*?)(?P<modifiers>(?:@[\w+-]*)*)", re.DOTALL)


@dataclass(frozen=True)
class EncoderRef:
    """What a caller names as an encoder; everything that a name can say is read here, without torch.

    Attributes:
        kind: a built-in ``card`` (or an unknown name), a ``card-file``, a ``plug-in``, ``code`` (a function in a Python
            file), an ``object`` (encoder, card or function in place of a name), or one of ``PREFIXES``.
        label: the name as it was given, or the name of the object's card.
        name: of the card, of the plug-in, or of the model behind the prefix.
        path: of the card, of the code, of the embeddings or of a model's folder; None where a run records
            ``precomputed`` alone.
        attribute: the function that builds the encoder, for ``code``.
        modifiers: what is chosen behind ``@`` (:mod:`evalfm.encoders.choice`), in order.
        given: the object, for ``object``.
    """

    kind: str
    label: str
    name: str = ""
    path: str | None = None
    attribute: str | None = None
    modifiers: tuple[str, ...] = ()
    given: Any = field(default=None, hash=False)

    @classmethod
    def parse(cls, given: EncoderLike) -> EncoderRef:
        r"""Read a name, or take an object in place of one; nothing that it names need be there.

        Raises:
            EvalfmError: it says too little (``random:``, ``mine.py``) or too much (``constant:1``).

        >>> EncoderRef.parse("rad-dino@mean").modifiers
        ('mean',)
        >>> code = EncoderRef.parse(r"C:\models\mine.py:build")
        >>> (code.kind, code.path, code.attribute)
        ('code', 'C:\\models\\mine.py', 'build')
        >>> EncoderRef.parse("precomputed:embeddings.parquet").is_table
        True
        """
        if isinstance(given, EncoderRef):
            return given
        if isinstance(given, os.PathLike):
            given = os.fspath(given)
        if not isinstance(given, str):
            card = _card_of(given)
            if card is None and not callable(given):
                raise EvalfmError(f"{shown(repr(given))} is no encoder; give a name, a card or a function.")
            return cls("object", card.name if card else getattr(given, "__name__", repr(given)), given=given)
        word, colon, rest = given.partition(":")
        if word in PREFIXES:
            return cls._prefixed(given, PREFIXES[word], rest if colon else None)
        path, colon, attribute = given.rpartition(":")
        if colon and path.endswith(".py"):
            if not attribute.isidentifier():
                raise EvalfmError(f"{shown(given)} names no function; say which builds the encoder: {path}:build.")
            return cls("code", given, path=path, attribute=attribute)
        if given.endswith(".py"):
            raise EvalfmError(f"{shown(given)} names no function; say which builds the encoder: {given}:build.")
        file = _CARD_FILE.fullmatch(given)
        if file is not None:
            return cls("card-file", given, path=file["path"], modifiers=_words(file["modifiers"]))
        name, _, modifiers = given.partition("@")
        kind = "plug-in" if name in encoder_plugins() else "card"
        return cls(kind, given, name=name, modifiers=_words(modifiers))

    @classmethod
    def _prefixed(cls, given: str, prefix: Prefix, rest: str | None) -> EncoderRef:
        if ":" not in prefix.example:
            if rest is not None:
                raise EvalfmError(f"{shown(given)} says too much; the encoder is called {prefix.example}.")
            return cls(prefix.kind, given, name=prefix.kind)
        if prefix.takes_path:
            return cls(prefix.kind, given, name=prefix.kind, path=rest or None)
        folder = _FOLDER.fullmatch(rest or "") if prefix.takes_folder else None
        if folder is not None:
            path = folder["path"]
            return cls(prefix.kind, given, name=path, path=path, modifiers=_words(folder["modifiers"]))
        name, _, behind = (rest or "").partition("@")
        if not name:
            raise EvalfmError(f"{shown(given)} does not say which; write it as {prefix.example}.")
        modifiers = _words(behind)
        if prefix.revisions and modifiers and REVISION.fullmatch(modifiers[0]):
            name, modifiers = f"{name}@{modifiers[0]}", modifiers[1:]
        return cls(prefix.kind, given, name=name, modifiers=modifiers)

    @property
    def is_table(self) -> bool:
        """Whether it is a table of features: no model, no maps, nothing to train."""
        return self.kind in PREFIXES and PREFIXES[self.kind].is_table

    @property
    def folder(self) -> str | None:
        """The folder with a model that a library has saved, where the name is that of one: its weights are there."""
        return self.path if self.kind in PREFIXES and PREFIXES[self.kind].takes_folder else None

    @property
    def is_code(self) -> bool:
        """Whether code builds the encoder and decides its settings; a plug-in is imported to see."""
        return self.kind == "code" or self.factory() is not None

    @property
    def is_library(self) -> bool:
        """Whether it is a library's model, whose card is made of what the library says."""
        return self.kind in PREFIXES and PREFIXES[self.kind].card is not None

    @property
    def is_slow(self) -> bool:
        """Whether a library, or a plug-in's own code, must be imported to look it up."""
        return self.kind == "plug-in" or self.is_library

    def choosing(self, pooling: str | None = None, layers: object = None) -> EncoderRef:
        """The same with another pooling, or other layers, under the one name that this has; None changes nothing.

        Raises:
            EvalfmError: it is a table or code, or its card has no such pooling or layer.

        >>> EncoderRef.parse("rad-dino").choosing("mean", "9,3").label
        'rad-dino@mean@layers-3-9'
        >>> EncoderRef.parse("rad-dino").choosing("cls", "1,4,6,9,11").label
        'rad-dino'
        """
        if pooling is None and layers is None:
            return self
        option = "--pooling" if pooling is not None else "--layers"
        if self.is_table:
            raise EvalfmError(f"{self.label} is a table of features, whose pooling was chosen; leave {option} out.")
        if self.is_code:
            raise EvalfmError(
                f"{self.label} is an encoder from code, which decides its own pooling; leave {option} out."
            )
        said = [*self.modifiers, pooling, None if layers is None else LAYERS + layers_text(layers).replace(",", "-")]
        words = [each for each in dict.fromkeys(said) if each is not None]
        if self.kind == "object":
            return EncoderRef.parse(chosen(self.given, words))
        stem = self.label.removesuffix("".join(f"@{word}" for word in self.modifiers))
        if not self.is_slow:
            card = self._card()
            assert card is not None
            words = chosen(card, words).name.split("@")[1:]
        return replace(self, label="@".join([stem, *words]), modifiers=tuple(words))

    def factory(self) -> Callable[[], Encoder] | None:
        """What a plug-in or an object is where it is no card: the function that makes the encoder; else None.

        Raises:
            EvalfmError: the plug-in cannot be imported, or is code and was named with a pooling.
        """
        if self.kind == "object":
            given = self.given
            if isinstance(given, EncoderCard):
                return None
            return given if _card_of(given) is None else lambda: given
        made = load_plugin(self.name) if self.kind == "plug-in" else None
        if made is None or isinstance(made, EncoderCard):
            return None
        if self.modifiers:
            raise EvalfmError(f"{self.name} comes from code and takes no @{self.modifiers[0]}; leave it out.")
        return made

    def card(self) -> EncoderCard | None:
        """The card, where one can be had without running code; None for tables and code.

        Raises:
            EvalfmError: unknown name, pooling or variant, or a card that is not valid.

        >>> EncoderRef.parse("rad-dino").card().family
        'transformers'
        >>> EncoderRef.parse("constant").card() is None
        True
        """
        card = self._card()
        return None if card is None else chosen(card, self.modifiers)

    def _card(self) -> EncoderCard | None:
        if self.kind == "card":
            word, colon, _ = self.name.partition(":")
            if colon:
                known = [f"{prefix.kind}:" for prefix in PREFIXES.values() if ":" in prefix.example]
                raise UnknownNameError("kind of encoder", f"{word}:", known)
            return named_card(self.name)
        if self.kind == "card-file":
            return read_card(user_path(self.path or "", "--encoder"))
        if self.kind == "object":
            return _card_of(self.given)
        if self.kind == "plug-in":
            loaded = load_plugin(self.name)
            return loaded if isinstance(loaded, EncoderCard) else None
        location = PREFIXES[self.kind].card if self.kind in PREFIXES else None
        if location is None:
            return None
        module, _, function = location.partition(":")
        card: EncoderCard = getattr(import_module(module), function)(self.name)
        return card

    def check(self) -> None:
        """Refuse an encoder that is not there, before data are read or made.

        Raises:
            EvalfmError: there is no such card, plug-in, pooling or file.

        >>> EncoderRef.parse("hog").check()
        """
        prefix = PREFIXES.get(self.kind)
        if prefix is not None and prefix.takes_path and self.path is None:
            raise EvalfmError(f"{self.label} does not say which file; write it as {prefix.example}.")
        if self.path is not None and self.kind != "card-file" and self.folder is None:
            if not os.path.isfile(user_path(self.path, "--encoder")):
                raise EvalfmError(f"There is no file {self.path}; check --encoder.")
            return
        if self.factory() is None:
            self.card()


EncoderLike: TypeAlias = "str | EncoderCard | Encoder | Callable[[], Encoder] | EncoderRef"
"""What a caller may give where an encoder is wanted."""


def find_card(encoder: EncoderLike) -> EncoderCard:
    """The card that ``encoder`` stands for: a name, a library's model (``PREFIXES``) or a path.

    Behind each may stand ``@pooling``, ``@variant`` and ``@layers-3-6-9``. A plug-in that is code is run for its card.

    Raises:
        EvalfmError: unknown name, pooling or variant, a card that is not valid, or something that has no card.

    >>> find_card("rad-dino@mean").pooled_dim
    768
    """
    ref = EncoderRef.parse(encoder)
    card = ref.card()
    if card is None and ref.kind == "plug-in":
        factory = ref.factory()
        card = None if factory is None else factory().card
    if card is None:
        what = "a table of features" if ref.is_table else "code"
        raise EvalfmError(f"{ref.label} is {what} and has no card; `evalfm ls encoders` lists those that have one.")
    return card


def _words(modifiers: str) -> tuple[str, ...]:
    return tuple(filter(None, modifiers.split("@")))


def _card_of(given: object) -> EncoderCard | None:
    """The card that is given, or that an encoder bears, by which it is known from a function without torch."""
    card = given if isinstance(given, EncoderCard) else getattr(given, "card", None)
    return card if isinstance(card, EncoderCard) else None


@dataclass(frozen=True)
class Alias:
    """What a word stands for.

    Attributes:
        name: the word. encoder, head, adaptation, resize: as they would be named one by one. The whole image is
            squashed to the input, for nothing was learnt with the crop that the encoder's card has.
    """

    name: str
    encoder: str
    head: str
    adaptation: str
    resize: str = "squash"

    def applied(self, adaptation: str | None, heads: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
        """Adaptation and heads, where the caller said nothing else.

        Raises:
            EvalfmError: the caller named something else.
        """
        if adaptation not in (None, self.adaptation) or (heads and tuple(heads) != (self.head,)):
            raise EvalfmError(
                f"{self.name} stands for --encoder {self.encoder} --head {self.head} --adaptation {self.adaptation}; "
                f"say --encoder {self.encoder} to choose another head or adaptation."
            )
        return self.adaptation, (self.head,)


ALIASES = {
    alias.name: alias
    for alias in (
        Alias("unet-resnet34", "resnet34", "unet", "scratch"),
        Alias("unet-efficientnet-b4", "efficientnet-b4", "unet", "scratch"),
    )
}


def find_alias(encoder: EncoderLike) -> Alias | None:
    """The whole baseline that ``encoder`` stands for, or None where it is an encoder alone.

    >>> find_alias("unet-resnet34").encoder
    'resnet34'
    """
    return ALIASES.get(encoder) if isinstance(encoder, str) else None
