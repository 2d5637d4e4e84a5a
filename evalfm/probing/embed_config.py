"""Every option of embedding, stated once, and the files that it comes to."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from evalfm.cards import Option, checked
from evalfm.config import ON_MACHINE, ComputeOptions, EncoderConfig, Executor, MachineOptions, Shard
from evalfm.data.atomic import check_writable_file, file_place
from evalfm.encoder_options import EncoderOptions, in_name
from evalfm.encoders.reference import EncoderLike, EncoderRef
from evalfm.errors import EvalfmError, shown
from evalfm.paths import user_path
from evalfm.split_options import Text

if TYPE_CHECKING:
    from evalfm.data.manifest import Manifest

PARQUET, SAFETENSORS = ".parquet", ".safetensors"
ENCODER = "{encoder}"
"""Stands in the name of a file for that of the encoder."""
ROWS, FILE = "Rows", "File"


def _said(name: str) -> str | None:
    """The help of an option that a probe has too."""
    return MachineOptions.model_fields[name].description


class EmbedConfig(EncoderOptions, ComputeOptions):
    """Embeddings of one encoder on one data set: all that a call of ``embed`` may say.

    It is a pure function of its JSON, so that it can be sent to another process or machine.

    >>> EmbedConfig(encoder="hog", out="hog.parquet").out.name
    'hog.parquet'
    """

    encoder: Annotated[
        str,
        Field(
            description="A card's name, a library's model (hf:ORG/MODEL, timm:NAME, open_clip:NAME/TAG), card.yaml or "
            "file.py:build; repeat for several, or commas between."
        ),
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
    executor: Annotated[Executor, Field(description=_said("executor")), ON_MACHINE] = "local"
    address: Annotated[str | None, Field(description=_said("address")), ON_MACHINE] = None
    profile: Annotated[bool, Field(description=_said("profile")), ON_MACHINE] = False

    @classmethod
    def checked(cls, **options: object) -> EmbedConfig:
        """The configuration of ``options``.

        Raises:
            UnknownNameError: there is no such option.
            EvalfmError: names every option that is not valid.
        """
        return checked(cls, options)

    @model_validator(mode="before")
    @classmethod
    def _write_out(cls, content: Any) -> Any:
        return in_name(content) if isinstance(content, dict) else content

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
        names = (*EncoderOptions.model_fields, *ComputeOptions.model_fields, "executor", "address")
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


@dataclass(frozen=True)
class EmbedPlan:
    """One encoder, and the file that its embeddings go to."""

    encoder: EncoderRef
    config: EmbedConfig
    file: Path


def plan_files(
    encoders: Sequence[EncoderLike], data: str | Path | Manifest | None, options: dict[str, Any]
) -> list[EmbedPlan]:
    """What ``embed`` has to do, after every check that needs no image and no model.

    Raises:
        EvalfmError: a name or option is not valid, an encoder is a table of features or has no maps where they are
            asked for, several encoders would go into one file, or something else is in the place of a file.
    """
    from evalfm.probing.names import check_names

    options = dict(options)
    taken = {name: options.pop(name, None) for name in ("pooling", "layers")}
    refs = [EncoderRef.parse(each).choosing(**taken) for each in encoders]
    if not refs:
        raise EvalfmError("Name at least one encoder with --encoder.")
    for ref in refs:
        if ref.is_table:
            raise EvalfmError(f"{ref.label} is a table of features already; name an encoder of images.")
    if len(refs) > 1 and str(options.get("weights", "hub")) not in ("hub", "random"):
        raise EvalfmError("--weights PATH is of one encoder; name one with --encoder.")
    named = str(data) if isinstance(data, str | Path) else None
    configs = [EmbedConfig.checked(encoder=ref.label, data=named, **options) for ref in refs]
    files = [config.file(ref) for config, ref in zip(configs, refs, strict=True)]
    if len(set(files)) < len(files):
        out = configs[0].out
        assert out is not None
        if ENCODER in out.name:
            raise EvalfmError(f"Two encoders would be written to one file called {files[0]}; embed them one by one.")
        remedy = out.with_name(f"{out.stem}-{ENCODER}{out.suffix}")
        raise EvalfmError(f"A file holds the embeddings of one encoder; of several write --out '{remedy}'.")
    check_names(refs, data=[data])
    for ref in refs if configs[0].maps else ():
        card = None if ref.is_slow or ref.is_code else ref.card()
        if card is not None and not card.map_channels:
            raise EvalfmError(no_maps(ref.label))
    for file in files:
        if file.exists() and not configs[0].force:
            _check_taken(file)
    return [EmbedPlan(*each) for each in zip(refs, configs, files, strict=True)]


def no_maps(encoder: str) -> str:
    """What is said of an encoder without maps where they are asked for."""
    return f"{encoder} has no feature maps; leave --maps out, or name an encoder that has them."


def _check_taken(file: Path) -> None:
    """Refuse to write over what is no embeddings."""
    from evalfm.features.embedding_writers import KIND, read_facts

    if (read_facts(file) or {}).get("kind") != KIND:
        raise EvalfmError(
            f"{file} is there already and holds no embeddings of evalfm; name another file, or write over it with "
            "--force."
        )


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
