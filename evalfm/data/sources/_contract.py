"""What every source is given and gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field, field_validator, model_validator

from evalfm.cards import CardModel
from evalfm.data.dataset_info import BlankRule, DatasetInfo, LabelKind, MaskDialect, UncertainRule, check_levels
from evalfm.progress import SILENT, Progress

if TYPE_CHECKING:
    import pandas as pd


class TableMapping(CardModel):
    """Which columns of any table become which columns of a manifest; no other column enters.

    Attributes:
        csv: the table (CSV, TSV or Parquet); by default ``metadata.csv`` under the root.
        name: of the data set; by default that of the root folder.
        image: column with the path of the image under the root.
        id: column with a unique id; by default the path of the image.
        patient: column of the patient, as ``study``, ``group``, ``slice`` and ``split`` of theirs.
        labels: label → column; a list takes the columns by their own names.
        label_kinds: kind of a label; ``class`` where not named but given levels or folders, else ``binary``.
        levels: words of a label in their order, from the lowest; of a binary label the two words, the positive last.
        label_source: where a label comes from, ``unstated`` where not named.
        masks: finding → column of its masks.
        mask_dialects: how a finding's masks are written, ``file`` where not named.
        mask_values: finding → values that are it, where its files are maps of several labels.
        mask_unknown: finding → values of pixels that nobody judged; a mask that holds one is unknown.
        unknown_words: words that count as empty cells, such as ``NA``.
        skip_missing: rows whose image is not there are left out and counted, masks that are not there are unknown.
        class_folders: name of the label that the folders of images are; there is no table then.
        attributes: attribute → column, or a list; these may leave the manifest.
        keep: columns that enter under their own names and never leave.
    """

    csv: Path | None = None
    name: str | None = None
    title: str = ""
    licence: str = "unknown"
    citation: str = ""
    image: str = "file_name"
    id: str | None = None
    patient: str | None = None
    study: str | None = None
    group: str | None = None
    slice: str | None = None
    split: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    label_kinds: dict[str, LabelKind] = Field(default_factory=dict)
    levels: dict[str, list[str]] = Field(default_factory=dict)
    label_source: dict[str, str] = Field(default_factory=dict)
    masks: dict[str, str] = Field(default_factory=dict)
    mask_dialects: dict[str, MaskDialect] = Field(default_factory=dict)
    mask_values: dict[str, list[int]] = Field(default_factory=dict)
    mask_unknown: dict[str, list[int]] = Field(default_factory=dict)
    unknown_words: list[str] = Field(default_factory=list)
    skip_missing: bool = False
    class_folders: str | None = None
    attributes: dict[str, str] = Field(default_factory=dict)
    keep: list[str] = Field(default_factory=list)
    derived_from: list[str] = Field(default_factory=list)
    public_ids: bool = False
    redistributable_images: bool = False
    bits: int | None = None
    unit: str | None = None

    @field_validator("labels", "attributes", mode="before")
    @classmethod
    def _names_for_themselves(cls, value: Any) -> Any:
        return {name: name for name in value} if isinstance(value, list | tuple) else value

    @field_validator("levels", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        # YAML reads 1 and no as a number and a truth value.
        return {name: [str(word) for word in words] for name, words in value.items()} if _is_lists(value) else value

    @model_validator(mode="after")
    def _names_agree(self) -> TableMapping:
        for name, levels in self.levels.items():
            check_levels(name, levels, "class" if self.label_kind(name) == "binary" else self.label_kind(name))
            if self.label_kind(name) == "binary" and len(levels) != 2:
                raise ValueError(f"levels of the binary label {name} must be two, the positive one last")
        for field in ("mask_values", "mask_unknown"):
            for name in getattr(self, field):
                if name not in self.masks:
                    raise ValueError(f"{field} names {name}, which masks does not; add it there (--mask {name}=COLUMN)")
                if self.mask_dialects.get(name, "file") != "file":
                    raise ValueError(f"{field} names {name}, whose masks are no files")
                if set(self.mask_values.get(name, [])) & set(self.mask_unknown.get(name, [])):
                    raise ValueError(f"a value of {name} is both the finding and unknown")
        if self.class_folders is not None and (self.csv is not None or self.labels or self.split or self.patient):
            raise ValueError("class_folders reads no table; leave csv, labels, split and patient out")
        return self

    def label_kind(self, label: str) -> LabelKind:
        """Kind of ``label``: as said, else classes where it has levels or is that of the folders, else binary."""
        has_words = label in self.levels or label == self.class_folders
        return self.label_kinds.get(label, "class" if has_words else "binary")


def _is_lists(value: Any) -> bool:
    """Whether ``value`` maps names to lists."""
    return isinstance(value, dict) and all(isinstance(each, list | tuple) for each in value.values())


@dataclass(frozen=True)
class ImportOptions:
    """What the user may decide about an import.

    Attributes:
        seed: of the hash that deals patients where the source deals any itself.
        blank: what an empty label cell means; None takes the source's convention.
        uncertain: what a label of −1 means; None takes the source's convention.
        mapping: of columns of any table.
        part: which of several sets in one root is meant, by the name of its file or folder.
        labels: a table of labels that does not lie in the root.
        on: by what rows of ``labels`` and images meet, ``MINE`` or ``MINE=THEIRS``.
        burned_in_checked: somebody has looked for names in the pixels of films that do not rule them out.
        salt: of the hashes in a source that takes no name as it is.
        progress: where long work is shown.
    """

    seed: int = 0
    blank: BlankRule | None = None
    uncertain: UncertainRule | None = None
    mapping: TableMapping | None = None
    part: str | None = None
    labels: Path | None = None
    on: str | None = None
    burned_in_checked: bool = False
    salt: str = ""
    progress: Progress = SILENT


CHOICES = ("blank", "uncertain", "mapping", "part", "labels", "on", "burned_in_checked")
"""Options that a source honours only where its ``OPTIONS`` names them; to any other source they are refused."""


@dataclass(frozen=True)
class Imported:
    """The rows of a source and its facts; locators are relative to the root that was given.

    A ``split`` column stands where the source brings an official split, and ``info.split`` then tells of it. Where that
    has no val, ``val_from_train`` asks for it to be drawn by patient from train.
    """

    table: pd.DataFrame
    info: DatasetInfo
    val_from_train: bool = False


class Source(Protocol):
    """Reads a data set in its native layout under ``root``."""

    def __call__(self, root: Path, options: ImportOptions) -> Imported: ...
