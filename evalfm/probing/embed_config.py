"""Every option of embedding, stated once, and the files that it comes to."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from evalfm.cards import Option, checked
from evalfm.config import ComputeOptions, EncoderConfig, EncoderOptions, MachineOptions, Shard, Text
from evalfm.data.atomic import check_writable_file, file_place
from evalfm.encoders.reference import EncoderLike, EncoderRef
from evalfm.errors import EvalfmError, shown
from evalfm.paths import user_path

PARQUET, SAFETENSORS = ".parquet", ".safetensors"
ENCODER = "{encoder}"
"""Stands in the name of a file for that of the encoder."""
ROWS, FILE = "Rows", "File"


class EmbedConfig(EncoderOptions, ComputeOptions):
    """Embeddings of one encoder on one data set: all that a call of ``embed`` may say.

    It is a pure function of its JSON, so that it can be sent to another process or machine.

    >>> EmbedConfig(encoder="hog", out="hog.parquet").out.name
    'hog.parquet'
    """

    encoder: Annotated[
        str,
        Field(description="A card's name, random:NAME, card.yaml or file.py:build; repeat for several, or commas."),
        Option(several=True),
    ]
    data: Annotated[
        Text | None, Field(description="Folder or registered name of a data set; without it the phantom.")
    ] = None
    out: Annotated[
        Path | None,
        Field(
            description="The file to write, .parquet or .safetensors; {encoder} in its name stands for the encoder's. "
            "With --similarity, a folder for features.json."
        ),
    ] = None
    maps: Annotated[
        bool, Field(description="Feature maps too, map_0, map_1 … from shallow to deep; .safetensors holds them.")
    ] = False
    where: Annotated[
        str | None, Field(description="Rows of the table, e.g. \"view == 'PA'\"; others are left out."), Option(ROWS)
    ] = None
    limit: Annotated[
        int | None,
        Field(ge=1, description="At most so many images, always the same; with --similarity 1000, by patient."),
        Option(ROWS),
    ] = None
    shard: Annotated[
        str | None,
        Field(description="Only the images of shard K of N, e.g. 2/8; without it a later call gathers all."),
        Option(ROWS, metavar="K/N"),
    ] = None
    plain_ids: Annotated[
        bool, Field(description="The data set's own ids, where the file would hold salted hashes."), Option(FILE)
    ] = False
    force: Annotated[bool, Field(description="Write again what is there already."), Option(FILE)] = False
    profile: Annotated[
        bool, Field(description=MachineOptions.model_fields["profile"].description), Option("Machine")
    ] = False

    @classmethod
    def checked(cls, **options: object) -> EmbedConfig:
        """The configuration of ``options``.

        Raises:
            UnknownNameError: there is no such option.
            EvalfmError: names every option that is not valid.
        """
        return checked(cls, options)

    @model_validator(mode="after")
    def _sensible(self) -> EmbedConfig:
        _ = self.part
        if self.out is not None and self.out.suffix not in (PARQUET, SAFETENSORS):
            raise EvalfmError(
                f"--out {shown(str(self.out))} is no file of embeddings; name one that ends in .parquet or "
                ".safetensors, such as features.parquet."
            )
        if self.maps and self.out is not None and self.out.suffix == PARQUET:
            raise EvalfmError(f"Parquet holds no maps; write --out {self.out.stem}.safetensors, or leave --maps out.")
        return self

    @property
    def part(self) -> Shard | None:
        """The shard; None for all of the images."""
        return None if self.shard is None else Shard.parse(self.shard)

    @property
    def encoder_config(self) -> EncoderConfig:
        """How the encoder is loaded and run."""
        names = (*EncoderOptions.model_fields, *ComputeOptions.model_fields)
        return EncoderConfig(**{name: getattr(self, name) for name in names})

    def file(self, encoder: EncoderRef) -> Path:
        """The file to write: with the name of ``encoder``, and of the shard, where these stand in it.

        Raises:
            EvalfmError: no file was named, or nothing can be written there.

        >>> config = EmbedConfig(encoder="random:resnet18", out="{encoder}.parquet", shard="2/8")
        >>> config.file(EncoderRef.parse(config.encoder)).name
        'random-resnet18-2-of-8.parquet'
        """
        if self.out is None:
            raise EvalfmError("Say which file to write with --out, such as --out features.parquet.")
        name = self.out.name.replace(ENCODER, _file_word(encoder))
        out = user_path(self.out.parent / name if self.part is None else self.out.parent / self.part.file_name(name))
        check_writable_file(out)
        if file_place(out) is None:
            raise EvalfmError(f"{out} is a pipe or device, which holds no such file; name a file.")
        return out


def check_encoders(encoders: Sequence[EncoderLike], options: dict[str, Any]) -> list[EncoderRef]:
    """The encoders, where each of them can have a file of its own.

    Raises:
        EvalfmError: one is a table of features, or several of them go into one file.
    """
    refs = [EncoderRef.parse(each) for each in encoders]
    if not refs:
        raise EvalfmError("Name at least one encoder with --encoder.")
    for ref in refs:
        if ref.is_table:
            raise EvalfmError(f"{ref.label} is a table of features already; name an encoder of images.")
    weights = str(options.get("weights", "hub"))
    if len(refs) > 1 and weights not in ("hub", "random"):
        raise EvalfmError("--weights PATH is of one encoder; name one with --encoder.")
    words = [_file_word(ref) for ref in refs]
    out = options.get("out")
    if len(refs) > 1 and out is not None and (ENCODER not in Path(out).name or len(set(words)) < len(words)):
        twice = next((word for word in words if words.count(word) > 1), None)
        if twice is not None and ENCODER in Path(out).name:
            raise EvalfmError(f"Two encoders would be written to one file named after {twice}; embed them one by one.")
        path = Path(out)
        named = path.with_name(f"{path.stem}-{ENCODER}{path.suffix}")
        raise EvalfmError(
            f"One file holds the embeddings of one encoder; of {len(refs)} write --out '{named}', which stands for one "
            "file each."
        )
    return refs


def _file_word(encoder: EncoderRef) -> str:
    """The name of ``encoder`` as it stands in that of a file.

    >>> _file_word(EncoderRef.parse("models/mine.py:build")), _file_word(EncoderRef.parse("rad-dino@mean"))
    ('mine-build', 'rad-dino@mean')
    """
    if encoder.kind in ("code", "card-file"):
        stem = os.path.basename(encoder.path or "").rpartition(".")[0]
        words = [stem, encoder.attribute or "", *encoder.modifiers]
        return "-".join(re.sub(r"[^\w.@+-]+", "-", word) for word in words if word)
    return re.sub(r"[^\w.@+-]+", "-", encoder.label)
