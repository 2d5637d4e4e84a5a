"""Predictions of any model as a run: what it says of the test images of a task, measured as evalfm's own are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import evalfm
from evalfm.cards import takes
from evalfm.cautions import Caution
from evalfm.config import THRESHOLD_RULE
from evalfm.data.images import read_stored
from evalfm.data.manifest import Manifest
from evalfm.data.masks import decode, read_mask_file
from evalfm.data.work_folders import recover
from evalfm.errors import EvalfmError, shown
from evalfm.heads.head import Fit
from evalfm.metrics.labels import DEFAULT_THRESHOLD
from evalfm.metrics.registry import compute_metrics, plugins_of
from evalfm.probing.cohort import load_cohort, matching_test
from evalfm.probing.import_config import ImportPredictionsConfig
from evalfm.probing.imported_model import UNKNOWN, ImportedHead, imported_session
from evalfm.probing.imported_rows import Placed, Placement, Role, own_folds, place
from evalfm.probing.imported_table import ImportedPredictions, read_imported
from evalfm.probing.labelled import SplitAssignment
from evalfm.probing.operating import Operating
from evalfm.probing.provenance import Stopwatch
from evalfm.probing.recording import (
    HeadResult,
    TestResult,
    chosen_by_val,
    lesions_table,
    make_record,
    predictions_table,
    scored_of,
)
from evalfm.probing.scoring import Scores, dense_row, detected, pooled_columns
from evalfm.probing.splits import Split, draw_splits
from evalfm.progress import SILENT, Progress
from evalfm.publishing import IfExists, check_writable, content_key, publishing, run_folder, write_run
from evalfm.record import IMPORTED, ImportedTable
from evalfm.run import RECORD, WORK, Run
from evalfm.tasks.cohort import Cohort

SUMS_TO_ONE = 1e-3
"""How far probabilities of exclusive classes may be from that."""


@takes(ImportPredictionsConfig)
def import_predictions(
    table: str | Path,
    task: str,
    name: str,
    *,
    data: str | Path | Manifest | None = None,
    test_data: str | Path | Manifest | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> Run:
    """Make a run of the predictions of any model, to be compared, chosen, reported and audited like evalfm's own.

    Test images are those that a probe with the same options tests, so that the two can be paired; each needs one row.
    Thresholds and temperatures are chosen on val rows where the table has all of them.

    Args:
        table: CSV or Parquet with a row per image: scores, values or masks as run lengths; of masks also a folder with
            a file per image. A column ``split`` says what the model saw, ``fold`` which rows one model predicted.
        task: a task card's name or path, or a label column of the data.
        name: of the model in tables and pages.
        data: a data set's folder, registered name or manifest; None takes that of the task, else the phantom.
        test_data: another data set, tested whole in place of the test split.
        progress: where long work is shown.
        options: the other fields of ``ImportPredictionsConfig``, as of ``evalfm data import-predictions``.

    Returns:
        The run; one of the same predictions that is there already is returned as it is, unless ``force``.

    Raises:
        EvalfmError: rows are missing, double or of unknown images, or hold what is no prediction of the task.

    >>> from evalfm.data.phantom import make_phantom
    >>> data = make_phantom("small", n=100, size=64)
    >>> scores = data.table[["id", "split"]].assign(score=data.label("pneumothorax") * 0.8 + 0.1)
    >>> scores.to_csv("theirs.csv", index=False)
    >>> run = import_predictions("theirs.csv", "ptx-cls", "their model", data=data, out="runs")
    >>> run.encoder, run.head, run.metrics["brier"].value
    ('their model', 'imported', 0.010000000000000002)
    """
    texts = {
        each: given.info.name if isinstance(given, Manifest) else given
        for each, given in (("data", data), ("test_data", test_data))
    }
    config = ImportPredictionsConfig.checked(task=task, name=name, **{**texts, **options})
    watch = Stopwatch()
    split = config.split
    cohort = load_cohort(task, split, data, progress)
    test = None
    if test_data is not None:
        test = matching_test(cohort, load_cohort(task, split, test_data, progress))
    if config.threshold != THRESHOLD_RULE and not cohort.kind.yes_or_no:
        raise EvalfmError(f"--threshold is for yes-or-no labels; {cohort.task.name} is {cohort.task.kind}.")
    read = read_imported(table, config, cohort.kind, _columns(cohort))
    if "mask_dialect" in config.model_fields_set and (cohort.kind.target != "masks" or read.root):
        raise EvalfmError("--mask-dialect is for run lengths of masks in a column of the table; leave it out.")
    elsewhere = config.folds or config.test_where or test is not None
    found = None if elsewhere else own_folds(read, cohort, config.join_on)
    splits = found or draw_splits(cohort, split)
    if not all(len(each.test) for each in splits) and test is None:
        raise EvalfmError("No image is left in test; take more data, another split or fewer conditions.")
    placement = place(read, cohort, test, splits, config.join_on)
    answers = _Answers(config, read, placement, SplitAssignment.of(cohort, test, splits), progress)
    key = answers.key
    folder = run_folder(config.out, name, cohort.task.name, IMPORTED, UNKNOWN, key)
    recover(folder, config.out / WORK)
    if (folder / RECORD).is_file() and not config.force:
        progress.say(f"Run {folder} is there already, returned as it is; --force makes it again.")
        return Run.read(folder)
    check_writable(config.out)
    answers.publish(folder, key, watch)
    return Run.read(folder)


def _columns(cohort: Cohort) -> tuple[str, ...]:
    """What has a column of predictions: classes, or the one value."""
    return () if cohort.kind.measured else cohort.class_names


@dataclass(frozen=True)
class _Answers:
    """Rows of a table brought to the images of a split, which become the files of a run."""

    config: ImportPredictionsConfig
    read: ImportedPredictions
    placement: Placement
    assignment: SplitAssignment
    progress: Progress
    cautions: list[Caution] = field(default_factory=list)

    @property
    def cohort(self) -> Cohort:
        """Of train and val."""
        return self.assignment.cohort

    @property
    def tested(self) -> Cohort:
        """Of test."""
        return self.assignment.test or self.cohort

    @cached_property
    def digest(self) -> str:
        """Hash of every prediction that is used and of which image it is, in hex."""
        digest = hashlib.sha256()
        for each in self.placement.placed:
            for rows in (each.val, each.test):
                content = self._texts(rows) if self.cohort.kind.pixelwise else self._scores(rows).tolist()
                digest.update(json.dumps([len(rows), content]).encode())
        return digest.hexdigest()

    @property
    def key(self) -> str:
        """The run's key."""
        config, task, assignment = self.config, self.cohort.task, self.assignment
        content: dict[str, Any] = {
            "schema": 1,
            "evalfm": evalfm.__version__,
            "imported": self.digest,
            "model": config.name,
            "seen": sorted(config.pretraining_data),
            "task": task.model_dump(mode="json"),
            "data": assignment.key,
            "facts": assignment.facts,
            "options": config.split.model_dump(mode="json", exclude={"data", "test_data"}),
            "threshold": config.threshold,
        }
        plugged = {each: [plugin.version, plugin.code] for each, plugin in plugins_of(task.metrics).items()}
        if plugged:
            content["metrics"] = plugged
        return content_key(content)

    def publish(self, folder: Path, key: str, watch: Stopwatch) -> None:
        """Measure the predictions and write the run into ``folder``."""
        config, assignment = self.config, self.assignment
        results = [HeadResult(each.split, Fit({}), self._scored(each), {}) for each in self.placement.placed]
        table, rows = predictions_table(self.cohort, assignment.test, results)
        lesions = lesions_table(results, table)
        scored = scored_of(assignment, table, lesions)
        metrics = compute_metrics(self.cohort.kind.name, scored, named=self.cohort.task.metrics)
        head = ImportedHead()
        # Each once, however many folds said it.
        self.cautions[:] = dict.fromkeys([*self._what_it_is(), *self.cautions])
        measured = TestResult({}, metrics, chosen_by_val(results), list(self.cautions))
        session = imported_session(config, self.cohort.manifest, self.digest)
        recorded = {
            **config.split.model_dump(mode="json"),
            "baseline": False,
            "adaptation": UNKNOWN,
            "seed": 0,
            "threshold": self._threshold_words,
            "task": self.cohort.task.name,
            "encoder": {"name": config.name},
        }
        record = make_record(session, assignment, head, measured, recorded, key, watch.seconds())
        source = ImportedTable(file=self.read.source, sha256=self.read.sha256)
        record = record.model_copy(update={"provenance": record.provenance.model_copy(update={"imported": source})})
        if_exists = IfExists.REPLACED if config.force else IfExists.KEPT
        with publishing(config.out, folder, if_exists) as work:
            write_run(work, record, table, {}, lesions=lesions)
            # With matplotlib, which only a run that is made needs.
            from evalfm.probing.pictures import draw_pictures

            draw_pictures(work, record, table, self.tested, rows)

    @property
    def _has_val(self) -> bool:
        return bool(len(self.placement.placed[0].val))

    @property
    def _threshold_words(self) -> str:
        """The rule, or the number where none was chosen on val."""
        if self._has_val or self.config.given_threshold is not None or not self.cohort.kind.yes_or_no:
            return self.config.threshold
        return f"{DEFAULT_THRESHOLD:g}" if self._probable else THRESHOLD_RULE

    @property
    def _probable(self) -> bool:
        """Whether every test score can be a probability."""
        scores = np.concatenate([self._scores(each.test) for each in self.placement.placed])
        return bool(np.nanmin(scores) >= 0 and np.nanmax(scores) <= 1)

    def _what_it_is(self) -> list[Caution]:
        config, placement = self.config, self.placement
        words = (
            f"Imported predictions: {config.name} was trained elsewhere, on what and how is unknown here; sizes of "
            "train and val are those of the data set's split."
        )
        if placement.seen:
            words += f" {placement.seen} rows of images that it saw are not used."
        if placement.unused:
            words += f" {placement.unused} rows of images that are not tested are not used."
        found = [Caution("imported", words)]
        if not config.pretraining_data:
            doubt = f"Contamination unknown: nobody said which data sets {config.name} was trained on."
            found.append(Caution("contamination-unknown", doubt))
        if placement.placed[0].split.fold is not None and self.read.fold is None:
            doubt = (
                "The table does not say which model predicted which fold; that none was trained on its fold is assumed."
            )
            found.append(Caution("imported", doubt))
        return found

    def _scores(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        return self.read.numbers(rows, partly=self.cohort.kind.several_labels)

    def _scored(self, placed: Placed) -> Scores:
        """The kind's columns of val and test, operating points chosen on val."""
        split = placed.split
        on_test = np.arange(len(self.tested)) if self.assignment.test is not None else split.test
        if self.cohort.kind.pixelwise:
            val, _ = self._masks(self.cohort, split.val, placed.val, "val")
            test, lesions = self._masks(self.tested, on_test, placed.test, "test")
            return Scores(val, test, Operating(), lesions=lesions)
        kind, names = self.cohort.kind, self.cohort.class_names
        scores = self._scores(placed.val), self._scores(placed.test)
        operating = self._operating(split, *scores)
        val, test = (
            pooled_columns(each, cohort.target[positions], kind, names).assign(**operating(each))
            for each, cohort, positions in (
                (scores[0], self.cohort, split.val),
                (scores[1], self.tested, on_test),
            )
        )
        return Scores(val, test, operating.chosen)

    def _operating(self, split: Split, val: NDArray[np.float64], test: NDArray[np.float64]) -> _OperatingColumns:
        kind, names, given = self.cohort.kind, self.cohort.class_names, self.config.given_threshold
        scored = tuple(name for name, column in zip(names, test.T, strict=True) if np.isfinite(column).all())
        operating = Operating()
        if len(val) and kind.has_classes:
            rule = self.config.threshold if given is None else THRESHOLD_RULE
            operating = Operating.chosen(kind, names, self.cohort.target[split.val], np.nan_to_num(val), rule)
        if kind.exclusive and np.abs(test.sum(axis=1) - 1).max() > SUMS_TO_ONE:
            words = "Scores of the classes do not add up to 1, so no temperature is fitted to them."
            self.cautions.append(Caution("threshold", words))
            operating = Operating()
        if kind.yes_or_no:
            operating = self._with_thresholds(operating, scored, bool(len(val)))
        kept = {name: each for name, each in operating.thresholds.items() if name in scored}
        return _OperatingColumns(kind, names, replace(operating, thresholds=kept))

    def _with_thresholds(self, operating: Operating, scored: Sequence[str], has_val: bool) -> Operating:
        given = self.config.given_threshold
        if given is not None:
            if self._probable and not 0 <= given <= 1:
                raise EvalfmError(f"{given:g} is no threshold of probabilities; give one between 0 and 1.")
            return replace(operating, thresholds=dict.fromkeys(scored, given))
        if has_val:
            return operating
        if self._probable:
            words = f"No val rows: the threshold is {DEFAULT_THRESHOLD:g}, which nobody chose for this model."
            self.cautions.append(Caution("threshold", words))
            return Operating(dict.fromkeys(scored, DEFAULT_THRESHOLD))
        words = "No val rows, and scores that are no probabilities: there is no threshold, nor what is counted at one."
        self.cautions.append(Caution("threshold", words))
        return Operating()

    def _texts(self, rows: NDArray[np.intp]) -> list[list[str | None]]:
        """What decides each mask: its run lengths, or the hash of its file."""
        root = self.read.root

        def text(cell: object) -> str | None:
            if pd.isna(cell):  # type: ignore[call-overload]
                return None
            return str(cell) if root is None else hashlib.sha256((root / str(cell)).read_bytes()).hexdigest()

        return [[text(cells.iloc[row]) for cells in self.read.cells.values()] for row in rows.tolist()]

    def _masks(
        self, cohort: Cohort, positions: NDArray[np.intp], rows: NDArray[np.intp], label: Role
    ) -> tuple[pd.DataFrame, list[dict[str, object]]]:
        """A row per image: its predicted masks against the truth, on the image's grid; of test its regions too."""
        lines: list[dict[str, object]] = []
        lesions: list[dict[str, object]] = []
        manifest = cohort.manifest
        thresholds = dict.fromkeys(cohort.class_names, DEFAULT_THRESHOLD)
        images = zip(cohort.rows[positions].tolist(), rows.tolist(), strict=True)
        for row, line in self.progress.track(images, f"scoring {label}", len(rows)):
            truth = cohort.masks(row)
            masks = np.stack([self._mask(name, line, truth.shape[1:]) for name in cohort.class_names])
            probability = torch.from_numpy(masks.astype(np.float32))
            columns = dense_row(probability, truth, thresholds, manifest.spacing_mm(row), cohort.task.nsd_tolerance_mm)
            # A mask has no probabilities that would rank images, and no threshold.
            without = {f"{what}_{name}" for name in cohort.class_names for what in ("score", "threshold")}
            lines.append({name: value for name, value in columns.items() if name not in without} | self._ranks(line))
            if label == "test":
                place, spacing = len(lines) - 1, manifest.spacing_mm(row)
                counts, found = detected(probability, truth, thresholds, spacing, place, scored=False)
                lines[-1].update(counts)
                lesions += found
        return pd.DataFrame(lines), lesions

    def _ranks(self, line: int) -> dict[str, float]:
        """The scores of an image that the table has beside its masks."""
        return {name: float(values[line]) for name, values in self.read.image_scores.items()}

    def _mask(self, name: str, line: int, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The predicted mask of ``name`` in the table's row ``line``, bool [H, W].

        Raises:
            EvalfmError: there is none, it cannot be read, or it is on another grid than the truth.
        """
        read, cell = self.read, self.read.cells[name].iloc[line]
        image = shown(str(read.key[line]))
        if pd.isna(cell):
            remedy = "write -1 where nothing is predicted" if read.root is None else "give an empty mask"
            raise EvalfmError(f"{read.source} has no mask of {name!r} for {image}; {remedy}.")
        if read.root is None:
            stated = None if read.sizes is None else tuple(read.sizes[line].tolist())
            if stated is not None and stated != tuple(size):
                raise EvalfmError(
                    f"The mask of {image} in {read.source} is of {stated[0]:g} × {stated[1]:g} pixels, its image of "
                    f"{size[0]} × {size[1]}; bring masks to the grid of the stored image."
                )
            try:
                return decode(self.config.mask_dialect, str(cell), size)
            except EvalfmError as error:
                raise EvalfmError(f"The mask of {image} in {read.source}: {error}") from None
        file = read.root / str(cell)
        pixels = read_stored(file.name, file.parent).values
        if pixels.dtype.kind == "f" and not np.isin(pixels, (0, 1)).all():
            raise EvalfmError(
                f"{cell} of {read.source} holds probabilities; save the mask at the model's threshold, as 0 and 1."
            )
        mask = read_mask_file(file.name, file.parent)
        if mask.shape != tuple(size):
            raise EvalfmError(
                f"The mask {cell} of {read.source} has {mask.shape[0]} × {mask.shape[1]} pixels, its image "
                f"{size[0]} × {size[1]}; bring masks to the grid of the stored image."
            )
        return mask


@dataclass(frozen=True)
class _OperatingColumns:
    """Operating points as columns beside scores; a threshold that there is not is empty."""

    kind: Any
    names: tuple[str, ...]
    chosen: Operating

    def __call__(self, scores: NDArray[np.float64]) -> dict[str, Any]:
        if self.kind.one_label and not self.chosen.thresholds:
            return {"threshold": np.nan}
        return self.chosen.columns(self.kind, self.names, scores)
