"""dataset.yaml: what is true of a whole data set, beside its table."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import ConfigDict, Field, model_validator

from evalfm.cards import CardModel, read_yaml, refuse, validate
from evalfm.errors import EvalfmError

MaskDialect = Literal["file", "relative", "absolute", "coco"]
LabelKind = Literal["binary", "class", "number"]
BlankRule = Literal["negative", "unknown"]
UncertainRule = Literal["unknown", "zero", "one"]

DATASET_FILE = "dataset.yaml"


class SplitRule(CardModel):
    """How the ``split`` column came to be.

    Attributes:
        rule: ``hash`` (per patient, stable), ``stratified``, ``official`` (lists of ids), ``source`` (a
            column of the source), ``test-where`` (an expression names the test patients) or ``other``.
        seed: of the hash, where one took part.
        fractions: of train, val and test, where they were used.
        stratify: the label whose frequency was kept equal.
        where: the expression of ``test-where``.
        note: anything else worth knowing, such as from where val was drawn.
    """

    rule: Literal["hash", "stratified", "official", "source", "test-where", "other"]
    seed: int | None = None
    fractions: tuple[float, float, float] | None = None
    stratify: str | None = None
    where: str | None = None
    note: str | None = None


class DatasetInfo(CardModel):
    """Facts about a data set that hold for every row of its manifest.

    Attributes:
        schema_version: of this file; its key in dataset.yaml is ``schema``.
        name: short name, such as ``nih-cxr14``.
        synthetic: True where the images are made up; every result then says so.
        root: folder of the images, as it was given: absolute or relative to dataset.yaml, or with ``~`` and
            ``${VARIABLE}``; locators never leave it.
        follow_links: links under the root are trusted, wherever they lead.
        mask_dialects: per finding, how the cells of ``<finding>_mask`` are written.
        mask_values: per finding whose files are maps of several labels, the values that are the finding; all others are
            not. A palette counts by its indices.
        mask_sizes: per finding, (height, width) of masks that were stored at another size than the image;
            they are brought onto the image's grid by nearest neighbour.
        label_source: per label column or mask finding where it comes from: text-mined, radiologist, mask,
            ctr>0.5, pseudo, ….
        label_kinds: kind of a label column; ``binary`` where not named.
        levels: words of a ``class`` label in their order, from the lowest; without, they are classes in no order.
        derived_from: data sets whose images these are, such as ``nih-cxr14`` for SIIM-ACR.
        attributes: columns that may leave the manifest, as subgroups and in predictions; nothing else does.
        redistributable_images: pixels may be shown in reports.
        public_ids: ids and patients are published already and need no hash.
        bits: significant bits of the stored pixels, where the files do not say.
        unit: unit of the pixels, where the files do not say (``unit-interval``, ``HU``, ``raw``).
        blank: what an empty label cell was taken for.
        uncertain: what a label of -1 was taken for.
        unknown_words: words of the table that count as empty cells, such as ``NA``; none by default.
        spacing_note: what is known of the pixel spacing.
        split: how the split came to be.
        salt: secret of the hashes of id and patient; stays in dataset.yaml and goes into no run.
        notes: what the import left out or changed, in sentences.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str = Field(min_length=1)
    title: str = ""
    licence: str = "unknown"
    citation: str = ""
    synthetic: bool = False
    root: str = "."
    follow_links: bool = False
    mask_dialects: dict[str, MaskDialect] = Field(default_factory=dict)
    mask_values: dict[str, list[int]] = Field(default_factory=dict)
    mask_sizes: dict[str, tuple[int, int]] = Field(default_factory=dict)
    label_source: dict[str, str] = Field(default_factory=dict)
    label_kinds: dict[str, LabelKind] = Field(default_factory=dict)
    levels: dict[str, list[str]] = Field(default_factory=dict)
    derived_from: list[str] = Field(default_factory=list)
    attributes: list[str] = Field(default_factory=list)
    redistributable_images: bool = False
    public_ids: bool = False
    bits: int | None = Field(default=None, ge=1, le=32)
    unit: str | None = None
    blank: BlankRule | None = None
    uncertain: UncertainRule | None = None
    unknown_words: list[str] = Field(default_factory=list)
    spacing_note: str | None = None
    split: SplitRule | None = None
    salt: str | None = Field(default=None, repr=False)
    notes: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _names_agree(self) -> DatasetInfo:
        kinds, sizes = set(self.label_kinds) - set(self.label_source), set(self.mask_sizes) - set(self.mask_dialects)
        refuse(
            {
                f"label_kinds names {', '.join(sorted(kinds))}, which label_source does not": kinds,
                f"mask_sizes names {', '.join(sorted(sizes))}, which mask_dialects does not": sizes,
            }
        )
        for name, levels in self.levels.items():
            check_levels(name, levels, self.label_kinds.get(name))
        for name, values in self.mask_values.items():
            if self.mask_dialects.get(name) != "file":
                raise ValueError(f"mask_values names {name}, whose masks are no files")
            if not values or min(values) < 0:
                raise ValueError(f"mask_values of {name} must be whole numbers from 0")
        return self

    @property
    def names_are_public(self) -> bool:
        """Whether ids and patients may leave as they are: published already, or made up."""
        return self.public_ids or self.synthetic

    def label_kind(self, label: str) -> LabelKind:
        """Kind of the label column ``label``: ``binary`` unless declared."""
        return self.label_kinds.get(label, "binary")


def check_levels(label: str, levels: list[str], kind: LabelKind | None) -> None:
    """Raise ValueError unless ``levels`` are two or more different words of a label of classes."""
    if kind != "class":
        raise ValueError(f"levels names {label}, whose label_kinds is not class")
    if len(set(levels)) != len(levels) or len(levels) < 2 or not all(levels):
        raise ValueError(f"levels of {label} must be two or more different words, not {', '.join(levels) or 'none'}")


def read_dataset_info(path: Path) -> DatasetInfo:
    """Read dataset.yaml.

    Raises:
        EvalfmError: the file is absent or not valid; every fault is named.
    """
    if not path.is_file():
        raise EvalfmError(
            f"There is no {path.name} in {path.parent}; write one (at least `schema: 1` and `name: …`) "
            "or import the data with `evalfm data import`."
        )
    return validate(DatasetInfo, read_yaml(path), str(path))


def dataset_yaml(info: DatasetInfo) -> str:
    """The text of dataset.yaml, fields in their order, without unset values.

    >>> print(dataset_yaml(DatasetInfo(name="mine", label_source={"edema": "radiologist"})).splitlines()[1])
    name: mine
    """
    content = info.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
