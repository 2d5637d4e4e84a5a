"""The manifest: one row per example, with dataset.yaml beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.data.atomic import write_atomically
from evalfm.data.columns import EMPTY_MASK, MASK_SUFFIX, SPACING_COLUMNS, canonical, read_table, without_words
from evalfm.data.dataset_info import DATASET_FILE, DatasetInfo, dataset_yaml, read_dataset_info
from evalfm.data.digests import KnownDigests, RowDigests
from evalfm.data.expressions import evaluate
from evalfm.data.locators import LinkedRoot, expand_root, relative_root
from evalfm.data.privacy import SPLIT_KEY, mask_split_keys, public_names
from evalfm.data.registered import registered_folder
from evalfm.data.work_folders import recover
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.paths import user_path
from evalfm.progress import SILENT, Progress

if TYPE_CHECKING:
    from evalfm.data.images import Image

PARQUET_FILE = "manifest.parquet"
CSV_FILE = "manifest.csv"


@dataclass(frozen=True, eq=False)
class Manifest:
    """A table of images with the facts that hold for all of them.

    Attributes:
        info: dataset.yaml.
        table: the rows, numbered from 0; text as str or None, labels and numbers as float64, NaN where
            unknown.
        folder: where dataset.yaml lies or will lie; a relative ``info.root`` starts here.

    >>> table = pd.DataFrame({"id": ["a", "b"], "image": ["a.png", "b.png"], "edema": [1, 0]})
    >>> manifest = Manifest(DatasetInfo(name="mine", label_source={"edema": "radiologist"}), table, Path("mine"))
    >>> manifest.labels, manifest.label("edema").tolist(), manifest.where("edema == 1").tolist()
    (['edema'], [1.0, 0.0], [True, False])
    >>> manifest.select([1]).table["id"].tolist()
    ['b']
    """

    info: DatasetInfo
    table: pd.DataFrame
    folder: Path
    _known: KnownDigests = field(init=False, repr=False, default_factory=KnownDigests)

    def __post_init__(self) -> None:
        absent = [name for name in ("id", "image") if name not in self.table]
        if absent:
            raise EvalfmError(
                f"The manifest of {self.info.name!r} lacks the columns {', '.join(absent)}; "
                "every row needs an id of its own and the path of its image."
            )
        object.__setattr__(self, "table", canonical(self.table, self.info))

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def read(cls, path: Path | str, *, validate: bool = True) -> Manifest:
        """Read a data set: its folder (dataset.yaml, manifest.parquet or manifest.csv) or the table in it.

        Raises:
            EvalfmError: a file is missing or not readable, or the data have faults (all of them are listed).

        >>> from evalfm.data.phantom import make_phantom
        >>> folder = make_phantom("read", n=4, size=64).folder
        >>> len(Manifest.read(folder))
        4
        """
        file = _table_file(Path(path))
        info = read_dataset_info(file.parent / DATASET_FILE)
        table = without_words(read_table(file), info.unknown_words)
        from_text = file.suffix.lower() not in {".parquet", ".pq"}
        manifest = cls(info, canonical(table, info, from_text=from_text), file.parent)
        if validate:
            manifest.validate()
        return manifest

    def write(self, folder: Path | str) -> Manifest:
        """Write manifest.parquet (or manifest.csv where one lies) and dataset.yaml; images stay in place.

        The root stays as it was given where it leads to the same place from ``folder``; else it is written relative
        where it lies in ``folder``, and absolute elsewhere. Returns the manifest as written.
        """
        target = Path(folder)
        info, given = self.info, expand_root(self.info.root)
        place = os.path.abspath(self.folder / given)
        if not given.is_absolute() and os.path.abspath(target / given) != place:
            inside = Path(place).is_relative_to(os.path.abspath(target))
            info = info.model_copy(update={"root": relative_root(Path(place), target) if inside else place})
        if (target / CSV_FILE).exists():
            # As it is: it is read again, and an apostrophe would change an id.
            write_atomically(target / CSV_FILE, self.table.to_csv(index=False).encode())
        else:
            stream = BytesIO()
            self.table.to_parquet(stream, index=False)
            write_atomically(target / PARQUET_FILE, stream.getvalue())
        write_atomically(target / DATASET_FILE, dataset_yaml(info).encode())
        return Manifest(info, self.table, target)

    def validate(
        self, *, deep: bool = False, findings: Collection[str] | None = None, progress: Progress = SILENT
    ) -> None:
        """Check the rows before any computing; ``deep`` also reads files: identical bytes, masks.

        Of masks those of ``findings`` are read, all by default, and only where they have changed since the last time.

        Raises:
            EvalfmError: lists every fault with its row (counted from 1) and remedy, the first 20 in full.
        """
        from evalfm.data.checks import deep_faults, quick_faults, raise_faults

        raise_faults(quick_faults(self), self)
        if deep:
            raise_faults(deep_faults(self, findings=findings, progress=progress), self)

    # Files of a row

    @property
    def root(self) -> Path:
        """Folder under which all files of the table lie, absolute."""
        place = user_path(expand_root(self.info.root), "The root", beside=self.folder).resolve()
        return LinkedRoot(place) if self.info.follow_links else place

    def locator(self, row: int) -> str:
        """Locator of the image of ``row``, relative to the root."""
        return str(self.table["image"].iat[row])

    def locators(self, rows: Sequence[int]) -> list[str]:
        """Locators of the images of ``rows``, in order."""
        return list(map(str, self.table["image"].to_numpy()[np.asarray(rows, dtype=np.intp)]))

    def image(self, row: int) -> Image:
        """The image of ``row``, with the table's pixel spacing where it has one.

        Raises:
            EvalfmError: the file is missing or cannot be decoded.
        """
        from evalfm.data.images import read_image

        image = read_image(self.locator(row), self.root, bits=self.info.bits, unit=self.info.unit)
        if self._has_spacing_columns:
            return dataclasses.replace(image, spacing_mm=self._table_spacing(row))
        return image

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) in pixels of the stored image of ``row``."""
        from evalfm.data.images import image_size

        return image_size(self.locator(row), self.root)

    def digest(self, row: int) -> str:
        """sha256 (hex) of the stored bytes of the image of ``row``; read anew each time."""
        from evalfm.data.images import image_digest

        return image_digest(self.locator(row), self.root)

    def digests(self, rows: Sequence[int] | None = None, *, progress: Progress = SILENT) -> NDArray[np.object_]:
        """Digests of ``rows`` (all by default) at once: in parallel, remembered while no file changes.

        Raises:
            EvalfmError: an image cannot be read.
        """
        digests = self.stored_digests(rows, progress=progress)
        if digests.failed:
            name, reason = next(iter(digests.failed.items()))
            raise EvalfmError(f"{len(digests.failed)} images cannot be read, the first is {name} ({reason}).")
        return digests.in_hex()

    def stored_digests(
        self, rows: Sequence[int] | None = None, *, headers: bool = False, progress: Progress = SILENT
    ) -> RowDigests:
        """Digests of the stored bytes of ``rows`` (all by default), and why others have none."""
        wanted = np.arange(len(self)) if rows is None else np.asarray(rows, dtype=np.intp)
        locators = self.table["image"].to_numpy(dtype=object)
        return self._known.of(locators, self.root, wanted, headers=headers, progress=progress)

    def mask(self, row: int, finding: str) -> NDArray[np.bool_] | None:
        """Truth of ``finding`` on the grid of the stored image, bool [H, W]; None where it is unknown.

        An empty cell is unknown; ``-1`` is a known empty mask in every dialect.

        Raises:
            UnknownNameError: the manifest has no masks of ``finding``.
            EvalfmError: the mask cannot be read, or has a size that is neither the image's nor declared.
        """
        from evalfm.data.masks import decode, onto_grid, read_mask_file

        dialect = self.info.mask_dialects.get(finding)
        if dialect is None or finding + MASK_SUFFIX not in self.table:
            raise UnknownNameError("mask", finding, self.findings)
        cell = self.table[finding + MASK_SUFFIX].iat[row]
        if cell is None:
            return None
        size = self.size(row)
        if cell == EMPTY_MASK:
            return np.zeros(size, dtype=bool)
        stored = self.info.mask_sizes.get(finding)
        if dialect == "file":
            named = [value for values in self.info.mask_values.values() for value in values]
            mask = read_mask_file(str(cell), self.root, self.info.mask_values.get(finding), named)
        else:
            mask = decode(dialect, str(cell), stored or size)
        if mask.shape not in (size, stored):
            raise EvalfmError(
                f"The {finding} mask of row {row + 1} has {_by(mask.shape)} pixels, its image {_by(size)}; "
                f"correct it or declare `mask_sizes: {{{finding}: {list(mask.shape)}}}` in dataset.yaml."
            )
        return mask if mask.shape == size else onto_grid(mask, size)

    def spacing_mm(self, row: int) -> tuple[float, float] | None:
        """Pixel spacing (row, column) in mm of the stored image; None where it is unknown.

        The table's where it has the columns, else the file's.
        """
        return self._table_spacing(row) if self._has_spacing_columns else self.image(row).spacing_mm

    @property
    def _has_spacing_columns(self) -> bool:
        return all(name in self.table for name in SPACING_COLUMNS)

    def _table_spacing(self, row: int) -> tuple[float, float] | None:
        height, width = (float(self.table[name].to_numpy()[row]) for name in SPACING_COLUMNS)
        return None if np.isnan(height) or np.isnan(width) else (height, width)

    # Columns

    @property
    def labels(self) -> list[str]:
        """Declared label columns that the table holds."""
        return [name for name in self.info.label_source if name in self.table]

    @property
    def findings(self) -> list[str]:
        """Findings with masks."""
        return [name for name in self.info.mask_dialects if name + MASK_SUFFIX in self.table]

    @property
    def file_columns(self) -> list[str]:
        """Columns whose cells name files: images, and the masks that are files."""
        masks = [name + MASK_SUFFIX for name in self.findings if self.info.mask_dialects[name] == "file"]
        return ["image", *masks]

    def label(self, name: str) -> NDArray[np.float64]:
        """A column as numbers, float64 [N], NaN where unknown.

        Raises:
            UnknownNameError: there is no such column.
            EvalfmError: the column holds words.
        """
        if name not in self.table:
            raise UnknownNameError("column", name, [str(column) for column in self.table.columns])
        column = self.table[name]
        if not pd.api.types.is_numeric_dtype(column.dtype):
            words = [(row, cell) for row, cell in enumerate(column, start=1) if isinstance(cell, str)]
            if words:
                raise EvalfmError(
                    f"The column {name!r} holds words, not numbers (row {words[0][0]}: {words[0][1]!r}); give each "
                    "class a number from 0, and leave unknown cells empty."
                )
            return np.full(len(column), np.nan)
        return column.to_numpy(dtype=np.float64)

    @property
    def patient_column(self) -> str:
        """The column that stands for the patient: ``patient``, else ``study``, ``group``, else ``id``."""
        for name in ("patient", "study", "group"):
            if name in self.table and self.table[name].notna().any():
                return name
        return "id"

    @property
    def patients_known(self) -> bool:
        """Whether the table says which patient each image is of; where not, tables say "patients unknown"."""
        return self.patient_column == "patient"

    @property
    def patients(self) -> NDArray[np.object_]:
        """Patient of each row, [N] str; the exam or else the image itself where no patient is known."""
        column = self.table[self.patient_column]
        return column.where(column.notna(), self.table["id"]).to_numpy(dtype=object)

    @property
    def split_keys(self) -> NDArray[np.object_]:
        """What hashes of the split are made of, [N] str: patients, or a hash of their names where they are salted.

        A salted name would give another split with every salt.
        """
        if SPLIT_KEY not in self.table or not self.info.salt:
            return self.patients
        masked = self.table[SPLIT_KEY].fillna("")
        return mask_split_keys(masked, self.patients, self.info.salt)

    @property
    def splits(self) -> NDArray[np.object_]:
        """Split of each row, [N] str.

        Raises:
            EvalfmError: the table has no split.
        """
        if "split" not in self.table:
            raise EvalfmError(
                f"The data set {self.info.name!r} has no split; make one: `evalfm data split {self.folder}`."
            )
        return self.table["split"].to_numpy(dtype=object)

    def public_id(self, row: int) -> str:
        """The id of ``row`` as it may leave the manifest."""
        return str(public_names([str(self.table["id"].iat[row])], self.info)[0])

    # Rows and splits

    def where(self, expr: str) -> NDArray[np.bool_]:
        """Rows that satisfy ``expr``, such as ``age >= 18 and view == 'PA'``; see ``expressions``."""
        return evaluate(expr, self.table)

    def select(self, keep: NDArray[np.bool_] | NDArray[np.intp] | Sequence[int]) -> Manifest:
        """The manifest of some rows: a mask bool [N], or positions in the order wanted.

        Raises:
            ValueError: the mask has another length than the manifest.
        """
        chosen = np.asarray(keep)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise ValueError(f"A mask of {len(self)} rows is needed, not of shape {chosen.shape}.")
            chosen = np.flatnonzero(chosen)
        return dataclasses.replace(self, table=self.table.iloc[chosen.astype(np.intp)].reset_index(drop=True))

    def with_split(self, split: NDArray[np.object_] | Sequence[str], info: DatasetInfo | None = None) -> Manifest:
        """The manifest with another split [N], and with ``info`` that describes it."""
        table = self.table.assign(split=pd.Series(list(split), dtype=object))
        return Manifest(info or self.info, table, self.folder)

    def split_hash(self) -> str:
        """Hex digest of which id and patient lie in which split; the order of rows does not matter."""
        split = self.splits
        rows = sorted(
            "\x1f".join((str(name), str(patient), str(name_of_split)))
            for name, patient, name_of_split in zip(self.table["id"], self.patients, split, strict=True)
        )
        return hashlib.sha256("\x1e".join(rows).encode()).hexdigest()


def read_data(name_or_path: str | Path) -> Manifest:
    """Read and validate a data set: its folder, its table, or a name given with ``evalfm data register``.

    Raises:
        EvalfmError: it is not there (near names are proposed), or it has faults.

    >>> from evalfm.data.phantom import make_phantom
    >>> read_data(make_phantom("data", n=4, size=64).folder).image(0).pixels.shape
    (1, 64, 64)
    """
    return Manifest.read(find_folder(name_or_path))


def find_folder(name_or_path: str | Path) -> Path:
    """The path of a data set: what is given where that is a path, else the folder registered under the name.

    Raises:
        UnknownNameError: it is neither; near names are proposed.
        EvalfmError: no path can be so.
    """
    path = user_path(name_or_path, "The data set")
    return path if _is_path(name_or_path, path) else registered_folder(str(name_or_path))


def _is_path(given: str | Path, path: Path) -> bool:
    """A bare word is a path only where it is a file or a data set; stray folders hide no registered name."""
    if isinstance(given, Path) or os.sep in given or given.startswith((".", "~")):
        return True
    return path.is_file() or (path / DATASET_FILE).is_file()


def _table_file(path: Path) -> Path:
    if path.is_file():
        return path if path.name != DATASET_FILE else _table_file(path.parent)
    if not path.is_dir():
        # An import that was killed while it replaced an earlier one.
        recover(path, path.parent)
    if not path.is_dir():
        raise EvalfmError(f"There is no folder or manifest {path}; check the path.")
    tables = [path / name for name in (PARQUET_FILE, CSV_FILE) if (path / name).is_file()]
    if len(tables) == 2:
        raise EvalfmError(f"{path} holds both {PARQUET_FILE} and {CSV_FILE}; remove the one that is out of date.")
    if not tables:
        raise EvalfmError(
            f"{path} holds neither {PARQUET_FILE} nor {CSV_FILE}; import the data with `evalfm data import`."
        )
    return tables[0]


def _by(size: tuple[int, ...]) -> str:
    return " × ".join(str(side) for side in size)
