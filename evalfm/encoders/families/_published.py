"""What cards of published names share: their repository, which layers are maps, what one forward pass tells."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import nn

from evalfm.encoders.card import EncoderCard, WeightsFacts
from evalfm.encoders.encoder import Encoder, RawFeatures
from evalfm.encoders.hub import HubFile, fetch_file, first_there
from evalfm.encoders.outputs import pool
from evalfm.errors import EvalfmError, shown
from evalfm.paths import user_path

FREE, NOT_FREE = ("apache-2.0", "mit", "bsd"), ("-nc", "non-commercial", "research")


def commercial_use(licence: str) -> Literal["yes", "no", "ask"]:
    """What a licence that is named by a hub's word allows.

    >>> commercial_use("apache-2.0"), commercial_use("cc-by-nc-4.0"), commercial_use("other")
    ('yes', 'no', 'ask')
    """
    if licence.lower().startswith(FREE):
        return "yes"
    return "no" if any(word in licence.lower() for word in NOT_FREE) else "ask"


def evenly(depth: int) -> list[int]:
    """Four evenly spaced blocks and the last, as indices.

    >>> evenly(12), evenly(2)
    ([1, 4, 6, 9, 11], [0, 1])
    """
    return sorted({max(0, round(depth * part / 5) - 1) for part in range(1, 6)})


def draft(**facts: Any) -> EncoderCard:
    """A card with the facts that building a model needs, the others not measured yet."""
    unknown: dict[str, Any] = {
        **{"name": "draft", "summary": "", "weights": {"source": "none"}, "licence": "", "commercial_use": "ask"},
        **{"parameters": 0, "poolings": {"mean": 1}, "pooling": "mean", "paradigm": "none", "domain": "none"},
    }
    layers = facts.get("map_layers", ())
    return EncoderCard(**unknown | {"map_channels": (1,) * len(layers), "map_strides": (1,) * len(layers)} | facts)


def measured(encoder: Encoder, poolings: Sequence[str]) -> dict[str, Any]:
    """What of a card a forward pass of ``encoder`` on its own device tells: dimensions, maps, prefix, other sizes.

    Args:
        encoder: with a card that is a ``draft``; its model may be in shapes alone.
        poolings: which may be there, the published one first.

    Raises:
        EvalfmError: a layer is no map and no grid of tokens, or no pooling is there.
    """
    card, size = encoder.card, encoder.input_size
    raw = _forward(encoder, size)
    prefix = {_prefix(each.shape[1], size, card.size_multiple) for each in raw.layers if each.ndim == 3}
    if len(prefix) > 1 or None in prefix:
        raise EvalfmError(
            f"The tokens of {card.name} are no grid of its input; write a card or an Encoder of your own."
        )
    kept = prefix.pop() if prefix else 0
    dims = {}
    for name in poolings:
        if name == "cls" and not kept and name not in raw.pooled:
            continue
        try:
            asked = card.model_copy(update={"pooling": name, "prefix_tokens": kept or 0})
            # A norm leaves shapes as they are.
            shape = pool(raw, asked, nn.Identity()).shape
        except EvalfmError:
            continue
        if len(shape) == 2:
            dims[name] = shape[1]
    if not dims:
        raise EvalfmError(f"{card.name} gives no embedding; write a card or an Encoder of your own.")
    strides = [card.size_multiple if each.ndim == 3 else stride_of(each.shape[2:], size) for each in raw.layers]
    if None in strides:
        raise EvalfmError(f"The maps of {card.name} do not cover its input; write a card or an Encoder of your own.")
    return {
        "poolings": dims,
        "pooling": next(iter(dims)),
        "map_channels": tuple(each.shape[-1] if each.ndim == 3 else each.shape[1] for each in raw.layers),
        "map_strides": tuple(strides),
        "prefix_tokens": kept,
        "parameters": sum(each.numel() for each in encoder.parameters()),
        "fixed_input_size": card.fixed_input_size or not _takes_another(encoder),
    }


def stride_of(cells: Sequence[int], size: tuple[int, int]) -> int | None:
    """Input pixels per cell of a map of so many cells, at most two lost at the border; None where no stride fits.

    >>> stride_of((7, 7), (224, 224)), stride_of((5, 9), (224, 224))
    (32, None)
    """
    for stride in dict.fromkeys((size[0] // cells[0], round(size[0] / cells[0]), math.ceil(size[0] / cells[0]))):
        if stride and all(0 <= math.ceil(side / stride) - count <= 2 for side, count in zip(size, cells, strict=True)):
            return stride
    return None


def _prefix(count: int, size: tuple[int, int], patch: int) -> int | None:
    """How many of ``count`` tokens stand before those of the patches."""
    before = count - (size[0] // patch) * (size[1] // patch)
    return before if before >= 0 else None


@torch.no_grad()
def _forward(encoder: Encoder, size: tuple[int, int]) -> RawFeatures:
    first = next(encoder.parameters(), torch.empty(0))
    channels = encoder.preparer.facts.channels
    return encoder.eval()._forward(torch.zeros(2, channels, *size, device=first.device))


def _takes_another(encoder: Encoder) -> bool:
    """Whether a forward pass at the next larger size goes well."""
    step = max(encoder.card.size_multiple, 32)
    try:
        _forward(encoder, (encoder.input_size[0] + step, encoder.input_size[1] + step))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError):
        return False
    return True


@dataclass(frozen=True)
class Repository:
    """A repository at a revision, or a folder.

    Attributes:
        name: of the card.
        folder: where the files lie, where it is no repository.
    """

    name: str
    folder: Path | None = None
    repository: str = ""
    revision: str = "main"

    @classmethod
    def of(cls, label: str, name: str) -> Repository:
        """What ``name`` stands for, ``ORG/MODEL``, ``ORG/MODEL@REVISION`` or a folder's path; ``label`` is the whole.

        Raises:
            EvalfmError: it is none of these, or there is no such folder.
        """
        if is_folder(name):
            folder = user_path(name, "--encoder")
            if not folder.is_dir():
                raise EvalfmError(f"There is no folder {shown(name)}; check --encoder.")
            word = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._") or "folder"
            return cls(f"{label.partition(':')[0]}:{word}", folder)
        repository, _, revision = name.partition("@")
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]*[\w]", repository) or ".." in repository:
            raise EvalfmError(
                f"{shown(label)} names no repository; write it as ORG/MODEL behind the colon, or ./FOLDER for a folder."
            )
        return cls(label, None, repository, revision or "main")

    def file(self, name: str) -> Path:
        """A file that must be there."""
        if self.folder is None:
            remedy = "in one folder with the rest of the repository, and name that folder"
            return fetch_file(self.name, HubFile(self.repository, name, self.revision), remedy, fault="the name")
        if not (self.folder / name).is_file():
            raise EvalfmError(f"{self.folder} has no {name}; name a folder that transformers has saved.")
        return self.folder / name

    def optional(self, name: str) -> Path | None:
        """A file that may be there."""
        try:
            return self.file(name)
        except EvalfmError:
            return None

    def pinned(self, file: Path) -> Repository:
        """The repository at the commit that ``file`` was read at."""
        if self.folder is not None or file.parent.parent.name != "snapshots":
            return self
        return Repository(self.name, None, self.repository, file.parent.name)

    def weights(self, files: Sequence[str], unexpected: tuple[str, ...]) -> WeightsFacts:
        """The first of ``files`` that is there, with the tensors that the encoder does not use."""
        if self.folder is not None:
            return WeightsFacts(source="path", unexpected_keys=unexpected)
        found = first_there([HubFile(self.repository, name, self.revision) for name in files])
        return WeightsFacts(
            source="hub",
            repository=self.repository,
            file=found.name,
            revision=self.revision,
            unexpected_keys=unexpected,
        )

    def licence(self) -> str:
        """The word for it at the head of README.md; empty where there is none."""
        page = self.optional("README.md")
        head = re.match(r"---\s*\n(.{0,20000}?)\n---", "" if page is None else page.read_text("utf-8", "replace"), re.S)
        try:
            facts = yaml.safe_load(head[1]) if head else None
        except yaml.YAMLError:
            facts = None
        known = facts if isinstance(facts, dict) else {}
        word = known.get("license_name") if known.get("license") == "other" else None
        return str(word or known.get("license") or "")[:100]


def is_folder(name: str) -> bool:
    """Whether a name is the path of a folder and no repository.

    >>> is_folder("./mine"), is_folder("org/mine")
    (True, False)
    """
    return re.match(r"[.~/\\]|[A-Za-z]:[/\\]", name) is not None
