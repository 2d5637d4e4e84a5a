"""What may be decided about an import or a join: the fields are the options of the command line and of Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, SkipValidation, ValidationInfo, field_validator, model_validator

from evalfm.cards import CardModel, Option, read_yaml, validate
from evalfm.data.dataset_info import BlankRule, LabelKind, MaskDialect, UncertainRule, check_levels
from evalfm.progress import SILENT, Progress

LEAST_RCA = 0.7
"""Estimated Dice (reverse classification accuracy) below which CheXmask's authors advise to leave masks out."""

_TABLE = "Columns of the table"
_SOURCE = "Of some sources"
_FILE_ONLY = Option(hidden=True)


class TableColumns(CardModel):
    """Columns of a table that become labels, attributes and masks."""

    labels: Annotated[
        dict[str, str],
        Field(description="Label column, or NAME=COLUMN; repeat for several."),
        Option(_TABLE, ("--label",), "NAME[=COLUMN]", bare=True),
    ] = Field(default_factory=dict)
    label_kinds: Annotated[
        dict[str, LabelKind],
        Field(description="Kind of a label: binary (default), class or number."),
        Option(_TABLE, ("--label-kind",), "LABEL=class"),
    ] = Field(default_factory=dict)
    attributes: Annotated[
        dict[str, str],
        Field(description="Attribute column, or NAME=COLUMN; attributes may leave the manifest."),
        Option(_TABLE, ("--attribute",), "NAME[=COLUMN]", bare=True),
    ] = Field(default_factory=dict)
    masks: Annotated[
        dict[str, str],
        Field(description="Column of the mask files of a finding."),
        Option(_TABLE, ("--mask",), "FINDING=COLUMN", bare=True),
    ] = Field(default_factory=dict)

    @field_validator("labels", "attributes", mode="before")
    @classmethod
    def _names_for_themselves(cls, value: Any) -> Any:
        return {name: name for name in value} if isinstance(value, list | tuple) else value


class TableMapping(TableColumns):
    """Which columns of any table become which columns of a manifest; no other column enters."""

    csv: Annotated[
        Path | None,
        Field(description="Table (CSV, TSV or Parquet). Default: metadata.csv under the root."),
        Option(_TABLE),
    ] = None
    name: Annotated[
        str | None, Field(description="Name of the data set in runs. Default: that of the root."), Option(_TABLE)
    ] = None
    image: Annotated[str, Field(description="Column of the image path under the root."), Option(_TABLE)] = "file_name"
    id: Annotated[
        str | None, Field(description="Column of a unique id. Default: the path of the image."), Option(_TABLE)
    ] = None
    patient: Annotated[str | None, Field(description="Column of the patient."), Option(_TABLE)] = None
    study: Annotated[str | None, Field(description="Column of the exam."), Option(_TABLE)] = None
    group: Annotated[str | None, Field(description="Column of the group."), _FILE_ONLY] = None
    slice: Annotated[str | None, Field(description="Column of the number of the slice."), _FILE_ONLY] = None
    split: Annotated[str | None, Field(description="Column of the split."), Option(_TABLE)] = None
    levels: Annotated[
        dict[str, list[str]],
        Field(description="Words of a class label in their order; of a binary label both, the positive one last."),
        Option(_TABLE, metavar="LABEL=LOW,…,HIGH"),
    ] = Field(default_factory=dict)
    label_source: Annotated[
        dict[str, str], Field(description="Where a label comes from, `unstated` where not named."), _FILE_ONLY
    ] = Field(default_factory=dict)
    mask_dialects: Annotated[
        dict[str, MaskDialect],
        Field(description="How the masks of a finding are written, `file` where not named."),
        _FILE_ONLY,
    ] = Field(default_factory=dict)
    mask_values: Annotated[
        dict[str, list[int]],
        Field(description="Pixel values that are the finding, where mask files are label maps."),
        Option(_TABLE, metavar="FINDING=1,2"),
    ] = Field(default_factory=dict)
    mask_unknown: Annotated[
        dict[str, list[int]],
        Field(description="Pixel values that nobody judged; a mask that holds one is unknown."),
        Option(_TABLE, metavar="FINDING=255"),
    ] = Field(default_factory=dict)
    unknown_words: Annotated[
        tuple[str, ...],
        Field(description="Word that means an empty cell, such as NA."),
        Option(_TABLE, ("--unknown",)),
    ] = ()
    class_folders: Annotated[
        str | None,
        Field(description="Name of the label that the folders of images are; there is no table then."),
        Option(_TABLE),
    ] = None
    skip_missing: Annotated[
        bool,
        Field(description="Leave out and count rows whose image is missing; missing masks are unknown."),
        Option(_TABLE),
    ] = False
    keep: Annotated[
        list[str], Field(description="Columns that enter under their own names and never leave."), _FILE_ONLY
    ] = Field(default_factory=list)
    title: Annotated[str, Field(description="Full name of the data set."), _FILE_ONLY] = ""
    licence: Annotated[str, Field(description="Licence of the data set."), _FILE_ONLY] = "unknown"
    citation: Annotated[str, Field(description="What to cite."), _FILE_ONLY] = ""
    derived_from: Annotated[list[str], Field(description="Data sets whose images these are."), _FILE_ONLY] = Field(
        default_factory=list
    )
    public_ids: Annotated[bool, Field(description="Whether ids are published already."), _FILE_ONLY] = False
    redistributable_images: Annotated[bool, Field(description="Whether reports may show images."), _FILE_ONLY] = False
    bits: Annotated[int | None, Field(description="Bit depth where files do not say it."), _FILE_ONLY] = None
    unit: Annotated[str | None, Field(description="Unit of the pixel values."), _FILE_ONLY] = None

    @field_validator("levels", "mask_values", "mask_unknown", mode="before")
    @classmethod
    def _between_commas(cls, value: Any, info: ValidationInfo) -> Any:
        def read(words: Any) -> Any:
            if isinstance(words, str):
                return [word.strip() for word in words.split(",")]
            # YAML reads 1 and no as a number and a truth value.
            is_text = info.field_name == "levels" and isinstance(words, list | tuple)
            return [str(word) for word in words] if is_text else words

        return {name: read(words) for name, words in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
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
        """Kind of ``label``: as declared, else classes where it has levels or is that of the folders, else binary."""
        has_words = label in self.levels or label == self.class_folders
        return self.label_kinds.get(label, "class" if has_words else "binary")


class ImportOptions(CardModel):
    """What of an import's configuration its source reads."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    subset: Annotated[
        str | None, Field(description="Which of several sets in the root: its file or folder."), Option(_SOURCE)
    ] = None
    label_table: Annotated[
        Path | None,
        Field(description="Table of labels that lies outside of the root."),
        Option(_SOURCE, ("--labels",)),
    ] = None
    join_on: Annotated[
        str | None,
        Field(description="SOPInstanceUID or AccessionNumber, or one of them=COLUMN of --labels."),
        Option(_SOURCE),
    ] = None
    burned_in_checked: Annotated[
        bool,
        Field(description="Images that may hold names in their pixels were looked at."),
        Option(_SOURCE),
    ] = False
    blank: Annotated[
        BlankRule | None,
        Field(description="What an empty label cell means. Default: the source's convention."),
        Option(_SOURCE),
    ] = None
    uncertain: Annotated[
        UncertainRule | None,
        Field(description="What a label of -1 means. Default: the source's convention."),
        Option(_SOURCE),
    ] = None
    mapping: Annotated[
        TableMapping | None,
        Field(description="YAML that maps columns, for `table`, `density`, `dicom`; the options below go over it."),
        Option(_TABLE),
    ] = None
    salt: Annotated[
        str,
        Field(repr=False, description="Of hashed ids. Default: that of the import that is replaced, else random."),
        Option(hidden=True),
    ] = ""
    progress: Annotated[SkipValidation[Progress], Field(repr=False), Option(hidden=True)] = SILENT

    @model_validator(mode="before")
    @classmethod
    def _columns_over_the_mapping(cls, content: Any) -> Any:
        """Fields of a mapping that stand beside it go over what it says; a path is that of its YAML file."""
        columns = {name: value for name, value in content.items() if name in TableMapping.model_fields}
        rest = {name: value for name, value in content.items() if name not in columns}
        mapping = rest.get("mapping")
        if isinstance(mapping, TableMapping):
            mapping = {name: getattr(mapping, name) for name in mapping.model_fields_set}
        elif isinstance(mapping, str | Path):
            mapping = read_yaml(Path(mapping))
        if mapping is not None or columns:
            rest["mapping"] = validate(TableMapping, {**(mapping or {}), **columns}, "The mapping of columns")
        return rest


class ImportConfig(ImportOptions):
    """An import: from the root of a data set as published to the folder of a manifest."""

    source: Annotated[str, Field(description="Name of a source; `evalfm ls data` lists them."), Option(hidden=True)]
    root: Annotated[str, Field(description="Folder of the data set as published.")]
    out: Annotated[Path, Field(description="New folder for the manifest.")]
    seed: Annotated[int, Field(description="Of the split.")] = 0
    stratify: Annotated[str | None, Field(description="Label whose share is kept equal in all splits.")] = None
    official: Annotated[
        tuple[Path, ...], Field(description="Lists of ids: train….txt, val….txt, test….txt; repeat.")
    ] = ()
    val_from_train: Annotated[bool, Field(description="Draw val by patient from train, where the set has no val.")] = (
        False
    )
    copy_images: Annotated[
        bool, Field(description="Copy the images instead of referring to them."), Option(names=("--copy",))
    ] = False
    follow_links: Annotated[bool, Field(description="Trust links under the root, wherever they lead.")] = False
    force: Annotated[bool, Field(description="Replace an earlier import.")] = False


class JoinConfig(TableColumns):
    """What is taken from a second table, and by which columns it meets the manifest.

    Attributes:
        mask_size: (height, width) of the masks, where it is not the image's.
        note: a sentence for dataset.yaml beside the counts.
    """

    known: Annotated[
        str | None,
        Field(description="A table that evalfm knows: tubes, drains or chexmask."),
        Option(names=("--as",)),
    ] = None
    join_on: Annotated[
        str | None,
        Field(description="COLUMN, or MINE=THEIRS; MINE may be image_name or image_stem too."),
        Option(metavar="MINE=THEIRS"),
    ] = None
    dialect: Annotated[MaskDialect, Field(description="How the masks are written.")] = "file"
    source: Annotated[str, Field(description="Where the labels come from, for label_source.")] = "unstated"
    least_rca: Annotated[float, Field(description="Of CheXmask: least mean estimated Dice.")] = LEAST_RCA
    replace: Annotated[bool, Field(description="Let known values be changed.")] = False
    mask_size: Annotated[tuple[int, int] | None, Option(hidden=True)] = None
    note: Annotated[str | None, Option(hidden=True)] = None

    @model_validator(mode="after")
    def _one_way_to_meet(self) -> Self:
        if self.known is None and self.join_on is None:
            raise ValueError(
                "say by which columns the tables meet, --join-on MINE=THEIRS, or which known table it is, --as"
            )
        if self.known is not None and (self.join_on is not None or self.labels or self.attributes or self.masks):
            raise ValueError(
                f"--as {self.known} decides what is joined and by what; leave --join-on, --label and the like out"
            )
        return self

    @property
    def keys(self) -> tuple[str, str]:
        """Column of the manifest (or one of ``joining.IMAGE_KEYS``), and column of the other table."""
        mine, _, theirs = (self.join_on or "id").partition("=")
        return mine, theirs or mine
