"""Finished runs on perturbed images: how far features move, and what becomes of scores, decisions and metric."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.analysis.pairing import PairedRuns, pair_tables, usual_metric
from evalfm.analysis.robustness import NeighbourIndex, PerturbationEffect, Robustness, RunRobustness
from evalfm.cautions import ON_TOP, SYNTHETIC, sentences
from evalfm.data.manifest import Manifest
from evalfm.data.perturbations import FIELD_MM, Perturbation, PerturbedImages, parse_perturbations
from evalfm.data.privacy import public_table
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError, UnknownNameError
from evalfm.features.encoded import EncodedSource
from evalfm.probing.applying import RunPredictor, check_applicable
from evalfm.probing.cohort import load_manifest, task_of
from evalfm.probing.feature_quality import draw_patients
from evalfm.probing.held_out import HeldOutImages, held_out_images, own_data
from evalfm.probing.restoring import trained_sources
from evalfm.probing.session import TABLES
from evalfm.progress import SILENT, Progress
from evalfm.run import Run
from evalfm.statistics.comparison import Difference
from evalfm.statistics.estimate import Estimate
from evalfm.statistics.intervals import Measured, estimates
from evalfm.statistics.representation import (
    NEIGHBOURS,
    directions,
    index_estimate,
    jackknifed,
    robustness_index,
    shift_share,
)
from evalfm.statistics.resampling import Patients, Positions, Values, identify, mean_over_images
from evalfm.statistics.shares import Share
from evalfm.tasks.cohort import Cohort
from evalfm.tasks.kinds import Kind
from evalfm.tasks.truth import masks_of

IMAGES = 200
"""By default, of each run: every one is encoded anew for every perturbation."""
MOST_INDEXED = 2000
"""Images of the robustness index, whole patients drawn; similarities are images × images."""
SEVERAL, UNDECIDED = "an image has several scores", "the run decides nothing"
IN_MM = ("dose", "blur", "marker")
"""Perturbations that need the pixel spacing."""
DIFFERENT = 1e-3
"""Clean scores that are farther from those that the run recorded are said to be."""


def robustness(
    runs: Sequence[str | Path | Run],
    data: str | Path | Manifest | None = None,
    *,
    perturbations: Sequence[str] | None = None,
    by: str | None = None,
    images: int | None = IMAGES,
    seed: int = 0,
    trained_on: str | Path | Manifest | None = None,
    weights: str | Path | None = None,
    encoder: str | Encoder | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Robustness:
    """Measure what perturbations of the images change in ``runs``, on images that each run has not seen.

    Args:
        runs: finished runs, of one or several encoders and tasks.
        data: where the images are; None takes each run's own data by its recorded name.
        perturbations: names, or ``name=strength``, as ``parse_perturbations`` takes them; None tries all.
        by: a declared attribute with sites or scanners, for the robustness index.
        images: at most so many of each run, whole patients drawn by ``seed``; None takes all. The index is over all.
        seed: of the draw of images, and of what perturbations draw.
        trained_on: the runs' own data, where ``data`` are others.
        weights: the checkpoint, for runs whose weights came from a file.
        encoder: an encoder's code file or object, where a run's is not in the catalogue.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        What was found; ``left_out`` names runs that cannot be measured (tables, episodes, imported predictions).

    Raises:
        EvalfmError: a name is none, or no run is left.

    >>> from evalfm.data.phantom import make_phantom
    >>> from evalfm.probing.probe import probe
    >>> data = make_phantom("small", n=200, size=64)
    >>> (run,) = probe("pixels", "ptx-cls", data=data, heads="linear", baselines="none", out="runs")
    >>> (found,) = robustness([run], data, perturbations=["inversion", "gamma=1"]).runs
    >>> [(each.label, round(each.shift.value, 2)) for each in found.effects]
    [('inversion 1', 12.98), ('gamma 1', 0.0)]
    """
    wanted = parse_perturbations(perturbations)
    if not wanted and by is None:
        raise EvalfmError("No perturbation is named, and no attribute for the robustness index; name one.")
    if images is not None and images < 1:
        raise EvalfmError(f"--images must be 1 at least, not {images}.")
    opened = [run if isinstance(run, Run) else Run.read(run) for run in runs]
    recorded = {run.record.config.encoder.weights for run in opened}
    if weights is not None and "file" not in recorded and str(weights) not in recorded:
        raise EvalfmError("--weights is of runs whose weights came from a file, and none of these is; leave it out.")
    if trained_on is not None:
        trained_on = load_manifest(trained_on, "", progress)
    manifests: dict[str, Manifest] = {}

    def manifest_of(run: Run) -> Manifest:
        name = f"{data}" if data is not None else run.record.data.name
        if name not in manifests:
            manifests[name] = own_data(run, progress) if data is None else load_manifest(data, run.task, progress)
        return manifests[name]

    measured, left_out = [], []
    for run in opened:
        reason = _unmeasurable(run)
        if reason is not None:
            left_out.append((f"{run.encoder} · {run.head} on {run.task}", reason))
            continue
        manifest = manifest_of(run)
        findings = masks_of(task_of(run), manifest)
        manifest.validate(deep=True, findings=findings, progress=progress)
        if by is not None and by not in manifest.info.attributes:
            raise UnknownNameError("declared attribute", by, manifest.info.attributes)
        unseen = held_out_images(run, manifest, trained_on, progress)
        # A checkpoint is named for runs that came from one; others beside them load as they did.
        own = weights if run.record.config.encoder.weights == "file" else None
        ready = RunPredictor.of(run, manifest, own, encoder, device, progress)
        with closing(ready.session), tempfile.TemporaryDirectory(prefix="evalfm-") as scratch, ExitStack() as trained:
            sources = trained_sources(run, ready.session, manifest, Path(scratch))
            for each in sources:
                trained.enter_context(each)
            if not sources and isinstance(ready.session.source, EncodedSource):
                sources = [ready.session.source]
            measuring = _Measuring(ready, sources, unseen, wanted, images, seed, by, progress)
            measured.append(measuring.found())
    if not measured:
        raise EvalfmError(
            f"No run is left: {'; '.join(f'{name} {why}' for name, why in left_out) or 'none was named'}."
        )
    return Robustness(tuple(measured), tuple(left_out), seed)


def _unmeasurable(run: Run) -> str | None:
    """Why ``run`` has no features or scores of changed images; None where it has."""
    if run.encoder in TABLES:
        return "reads no image"
    try:
        check_applicable(run)
    except EvalfmError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class _Answers:
    """One condition: features [N, D] and predictions of the images."""

    features: Values
    table: pd.DataFrame


@dataclass(frozen=True)
class _Measuring:
    """One run on its held-out images.

    Attributes:
        sources: of clean images: one, or one per fold where each trained its encoder.
    """

    ready: RunPredictor
    sources: Sequence[EncodedSource]
    unseen: HeldOutImages
    perturbations: tuple[Perturbation, ...]
    images: int | None
    seed: int
    by: str | None
    progress: Progress

    @property
    def run(self) -> Run:
        return self.ready.run

    @property
    def cohort(self) -> Cohort:
        return self.unseen.cohort

    @property
    def kind(self) -> Kind:
        return self.cohort.kind

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.run.record.data.class_names)

    def found(self) -> RunRobustness:
        """Everything that is said of the run."""
        run, manifest = self.run, self.cohort.manifest
        if self.kind.has_classes and not self.kind.one_label and self.cohort.class_names != self.names:
            raise EvalfmError(
                f"{manifest.info.name} has the classes {', '.join(self.cohort.class_names)}, and the run "
                f"{', '.join(self.names)}; name data with the same."
            )
        positions = np.sort(np.concatenate([part for _, part in self.unseen.groups]))
        if self.images is not None:
            positions = positions[draw_patients(self._patients(positions), self.images, self.seed)]
        unit = "patients" if manifest.patients_known else "images"
        clean, effects = None, []
        if self.perturbations:
            clean = self._answers(None, positions)
            label = f"{run.encoder} · {run.head} on {run.task}: perturbations"
            for each in self.progress.track(self.perturbations, label, len(self.perturbations)):
                effects.append(self._effect(each, clean, self._answers(each, positions), positions, unit))
        return RunRobustness(
            run=run.record.key,
            encoder=run.encoder,
            head=run.head,
            adaptation=run.adaptation,
            task=run.task,
            data=manifest.info.name,
            metric=usual_metric(run).name,
            clean=self._clean(clean, unit),
            images=len(positions),
            patients=len(set(self._patients(positions).tolist())),
            unit=unit,
            baseline=run.is_baseline,
            effects=tuple(effects),
            index=None if self.by is None else self._index(self.by, unit),
            cautions=tuple(dict.fromkeys(self._cautions(positions, clean))),
        )

    def _patients(self, positions: Positions) -> NDArray[np.object_]:
        return self.cohort.manifest.patients[self.cohort.rows[positions]]

    @property
    def _folds(self) -> NDArray[np.intp] | None:
        """Fold of each position of the cohort, [N]; None without folds."""
        folds = np.full(len(self.cohort), -1, dtype=np.intp)
        for fold, part in self.unseen.groups:
            if fold is None:
                return None
            folds[part] = fold
        return folds

    # One condition

    def _answers(self, perturbation: Perturbation | None, positions: Positions) -> _Answers:
        """Features and predictions of sorted ``positions``, each by the head, and encoder, that has not seen it."""
        shown = PerturbedImages.of(self.cohort.manifest, perturbation, self.seed)
        truth = self.cohort.masks if self.kind.pixelwise else None
        features, tables, order = [], [], []
        with ExitStack() as opened:
            changed = [opened.enter_context(each.like(manifest=shown)) for each in self.sources]
            by_head = changed if len(changed) > 1 else changed * len(self.ready.heads)
            for fold, part in self.unseen.groups:
                here = np.intersect1d(part, positions)
                if not len(here):
                    continue
                rows = self.cohort.rows[here]
                features.append(by_head[fold or 0].features(rows.tolist()).pooled.numpy().astype(np.float64))
                tables.append(self.ready.answers_by(by_head, rows, fold=fold, truth=truth))
                order.append(here)
        back = np.argsort(np.concatenate(order), kind="stable")
        table = pd.concat(tables, ignore_index=True).iloc[back].reset_index(drop=True)
        known: dict[str, NDArray[np.generic]] = {"patient": self._patients(positions)}
        if not self.kind.pixelwise:
            truths = self.cohort.target[positions].reshape(len(positions), -1)
            known |= dict(zip(self.kind.truth_columns(self.names), truths.T, strict=True))
        if self._folds is not None:
            known["fold"] = self._folds[positions]
        return _Answers(np.concatenate(features)[back], table.assign(**known))

    def _effect(
        self, perturbation: Perturbation, clean: _Answers, changed: _Answers, positions: Positions, unit: str
    ) -> PerturbationEffect:
        patient = self._patients(positions)
        patients = identify(patient)
        moved = ((directions(clean.features) - directions(changed.features)) ** 2).sum(axis=1) / 2
        found: dict[str, Measured | Estimate] = {
            "cosine": Measured(mean_over_images(1 - moved, patients), patients.count, "no image"),
            **self._scores(clean.table, changed.table, patients),
        }
        # Encoders that were trained fold by fold have no features in common.
        folds = self._folds if self.run.adaptation != "frozen" else None
        fold = None if folds is None else folds[positions]

        def share(rows: Positions) -> float:
            within = None if fold is None else fold[rows]
            return shift_share(clean.features[rows], changed.features[rows], patient[rows], within)

        metric, reason = self._difference(clean.table, changed.table)
        return PerturbationEffect(
            perturbation.name,
            perturbation.strength,
            perturbation.label,
            **estimates(found, patients, seed=self.seed, unit=unit),
            shift=jackknifed(share, patient, seed=self.seed, unit=unit),
            metric=metric,
            reason=reason,
        )

    def _scores(self, clean: pd.DataFrame, changed: pd.DataFrame, patients: Patients) -> dict[str, Measured | Estimate]:
        """Mean change, mean absolute change, and share of decisions that change."""
        columns = [each.name for each in self.kind.score.of(self.names)]
        before, after = (each[columns].to_numpy(dtype=np.float64) for each in (clean, changed))
        given = np.isfinite(before).all(axis=0) & np.isfinite(after).all(axis=0)
        if not given.any():
            return dict.fromkeys(("score", "absolute", "flipped"), Estimate.absent("the run gives no score"))
        change, n = (after - before)[:, given], patients.count
        absolute = mean_over_images(np.abs(change).mean(axis=1), patients)
        found: dict[str, Measured | Estimate] = {
            "score": Estimate.absent(SEVERAL, n=n),
            "absolute": Measured(absolute, n, "no image"),
            "flipped": Estimate.absent(UNDECIDED, n=n),
        }
        if change.shape[1] == 1:
            found["score"] = Measured(mean_over_images(change[:, 0], patients), n, "no image")
        flips = None
        if self.kind.exclusive:
            flips = (before.argmax(axis=1) != after.argmax(axis=1))[:, None]
        elif self.kind.yes_or_no:
            decided = [f"decision_{name}" for name in self.names if f"decision_{name}" in clean]
            flips = (clean[decided].to_numpy() != changed[decided].to_numpy()) if decided else None
        if flips is not None:
            # Several decisions of an image are that many rows of its patient.
            codes = np.repeat(patients.codes, flips.shape[1])
            share = Share(flips.ravel(), np.ones(flips.size), codes, n)
            found["flipped"] = Measured(share, n, "no image")
        return found

    def _paired(self, tables: Sequence[pd.DataFrame]) -> PairedRuns:
        unit = "patients" if self.cohort.manifest.patients_known else "images"
        return pair_tables(self.kind.name, usual_metric(self.run).name, tables, self.names, unit)

    def _difference(self, clean: pd.DataFrame, changed: pd.DataFrame) -> tuple[Difference | None, str | None]:
        """The metric on changed images less that on clean ones, or why there is none."""
        try:
            paired = self._paired([clean, changed])
            (found,) = paired.contrast.test(paired.rows, np.array([[-1.0, 1.0]]))
        except (EvalfmError, ValueError) as error:
            return None, str(error)
        return found, None

    def _clean(self, clean: _Answers | None, unit: str) -> Estimate:
        if clean is None:
            return Estimate.absent("no perturbation was asked for")
        try:
            paired = self._paired([clean.table])
        except (EvalfmError, ValueError) as error:
            return Estimate.absent(str(error))
        patients = paired.rows[0].scored.patients
        return estimates({"": paired.measured[0]}, patients, seed=self.seed, unit=unit)[""]

    # Site against class

    def _index(self, by: str, unit: str) -> NeighbourIndex:
        """The index of the clean features of all images that the run has not seen and whose ``by`` is known."""
        manifest, positions = self.cohort.manifest, np.concatenate([part for _, part in self.unseen.groups])
        known = manifest.table[by].notna().to_numpy()[self.cohort.rows[positions]]
        positions = np.sort(positions[known])
        positions = positions[draw_patients(self._patients(positions), MOST_INDEXED, self.seed)]
        rows, patient = self.cohort.rows[positions], self._patients(positions)
        site, label = manifest.table[by].to_numpy(dtype=object)[rows], self.cohort.strata[positions]

        def absent(reason: str) -> NeighbourIndex:
            return NeighbourIndex(by, NEIGHBOURS, Estimate.absent(reason, unit=unit), None, len(rows))

        if not self.kind.one_class:
            return absent("an image must be of one class")
        if self.run.adaptation != "frozen" and self._folds is not None:
            return absent("each fold trained an encoder of its own, whose features cannot be compared")
        features = self.sources[0].features(rows.tolist()).pooled.numpy().astype(np.float64)

        try:
            chance = robustness_index(features, label, site, patient).chance
            index = index_estimate(features, label, site, patient, seed=self.seed, unit=unit)
        except ValueError as error:
            return absent(str(error))
        return NeighbourIndex(by, NEIGHBOURS, index, chance, len(rows))

    # What must be said

    def _cautions(self, positions: Positions, clean: _Answers | None) -> Iterator[str]:
        run, manifest = self.run, self.cohort.manifest
        yield from sentences(run.record.cautions, ON_TOP)
        if manifest.info.synthetic and not run.record.provenance.synthetic:
            yield SYNTHETIC.sentence
        if clean is None:
            return
        in_mm = [each for each in dict.fromkeys(each.name for each in self.perturbations) if each in IN_MM]
        unknown = in_mm and sum(manifest.spacing_mm(row) is None for row in self.cohort.rows[positions].tolist())
        if unknown:
            yield (
                f"{unknown} of {len(positions)} images have no pixel spacing: for {', '.join(in_mm)} their long side "
                f"is taken to be {FIELD_MM:g} mm."
            )
        farthest = self._farthest(positions, clean.table)
        if farthest > DIFFERENT:
            yield f"Scores of the clean images differ from those that the run recorded, by {farthest:.3g} at most."

    def _farthest(self, positions: Positions, table: pd.DataFrame) -> float:
        """The largest difference of a clean score to that of the same image in the run; 0 where it has none of them."""
        recorded = self.run.test_predictions().set_index("id")
        ids = public_table(self.cohort.manifest, self.cohort.rows[positions])["id"]
        if not ids.isin(recorded.index).all() or recorded.index.has_duplicates:
            return 0.0
        columns = [each.name for each in self.kind.score.of(self.names)]
        apart = np.abs(
            recorded.loc[ids, columns].to_numpy(dtype=np.float64) - table[columns].to_numpy(dtype=np.float64)
        )
        return float(np.nanmax(apart, initial=0.0))
