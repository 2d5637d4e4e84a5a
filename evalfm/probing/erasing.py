"""A device painted out of real images, against a region of the same shape: what a run's prediction changes by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evalfm.cautions import SYNTHETIC, sentences
from evalfm.data.images import Image
from evalfm.data.inpainting import Region, control_region, inpainted, widened, widening
from evalfm.data.manifest import Manifest
from evalfm.data.perturbations import ChangedImages
from evalfm.encoders.encoder import Encoder
from evalfm.errors import EvalfmError
from evalfm.probing.applying import RunPredictor
from evalfm.probing.cohort import load_manifest, task_of
from evalfm.probing.counterfactual import answers_of, mean, too_little
from evalfm.probing.held_out import HeldOutImages, held_out_images
from evalfm.progress import SILENT, Progress
from evalfm.run import Run
from evalfm.statistics.comparison import Difference, compare_means
from evalfm.tasks.cohort import Cohort, Exclusion
from evalfm.tasks.truth import masks_of

DEVICE = "chest_tube"


@dataclass(frozen=True)
class Erasure:
    """One column among images of one truth.

    Attributes:
        answer: the column of the predictions.
        among: which images.
        as_it_is: its mean on the untouched images, None where it has none.
        device: without the device minus as it is, paired by image; None with the ``reason``.
        control: with the control region painted over minus as it is.
        contrast: device minus control: what the device does beyond painting.
    """

    answer: str
    among: str
    images: int
    patients: int
    as_it_is: float | None
    device: Difference | None
    control: Difference | None
    contrast: Difference | None
    reason: str | None = None


@dataclass(frozen=True)
class Erased:
    """What painting a device out changes, and which images it was done on.

    Attributes:
        images: how many; ``left_out`` names the others.
    """

    model: str
    task: str
    data: str
    mask: str
    images: int
    erasures: tuple[Erasure, ...]
    left_out: tuple[Exclusion, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class PaintedOver(ChangedImages):
    """A manifest whose images come with a region painted over, in memory alone."""

    regions: Mapping[int, Region]

    def changed(self, image: Image, row: int) -> Image:
        """The image of ``row`` with its region filled in."""
        return replace(image, pixels=inpainted(image.pixels, self.regions[row]))

    def mark(self, row: int) -> bytes:
        """Where its region lies."""
        region = self.regions[row]
        return f"{region.top} {region.left} {region.shape.shape}".encode() + np.packbits(region.shape).tobytes()


def erase(
    run: str | Path | Run,
    data: str | Path | Manifest,
    *,
    mask: str = DEVICE,
    trained_on: str | Path | Manifest | None = None,
    weights: str | Path | None = None,
    encoder: str | Encoder | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Erased:
    """Apply ``run`` to images with a device: as they are, with it painted out, and with a control region painted over.

    Only images that the run has not seen are used. Nothing of their pixels or features is kept.

    Args:
        run: a finished run.
        data: a data set with ``<mask>_mask``: the run's own (its test images are used) or another.
        mask: the device.
        trained_on: the run's own data, where ``data`` are others and its name does not lead to it.
        weights, encoder, device: as for ``predict``.

    Raises:
        EvalfmError: there are no such masks, no image is left, or the run cannot be applied.
    """
    run = run if isinstance(run, Run) else Run.read(run)
    manifest = load_manifest(data, run.task, progress)
    if mask not in manifest.findings:
        held = f"has masks of {', '.join(manifest.findings)}" if manifest.findings else "has no masks"
        raise EvalfmError(
            f"{manifest.info.name} {held}, not of {mask}; name a data set with a column {mask}_mask, as CANDID-PTX has "
            "of chest tubes, another device with --mask, or leave --data out for phantom images."
        )
    task = task_of(run)
    manifest.validate(deep=True, findings={mask, *task.target, *masks_of(task, manifest)}, progress=progress)
    unseen = held_out_images(run, manifest, trained_on, progress)
    places = _places(unseen, mask, progress)
    ready = RunPredictor.of(run, manifest, weights, encoder, device, progress)
    with closing(ready.session):
        erasures = tuple(_erasures(unseen.cohort, *_answers(ready, unseen, places)))
    name = f"{run.encoder} · {run.head} · {run.adaptation}"
    left_out = (*unseen.left_out, *places.left_out)
    notes = tuple(_notes(run, unseen.cohort, mask, places))
    return Erased(name, run.task, manifest.info.name, mask, len(places.device), erasures, left_out, notes)


@dataclass(frozen=True)
class _Places:
    """Per row of the manifest what is painted over: the device, and its control."""

    device: dict[int, Region]
    control: dict[int, Region]
    left_out: tuple[Exclusion, ...]
    lesion_unknown: int

    @property
    def both(self) -> tuple[dict[int, Region], dict[int, Region]]:
        """Device and control."""
        return self.device, self.control


def _places(unseen: HeldOutImages, mask: str, progress: Progress) -> _Places:
    """Where the device and its control lie on each image; images without one are counted.

    Raises:
        EvalfmError: no image has both.
    """
    cohort = unseen.cohort
    manifest = cohort.manifest
    findings = [name for name in cohort.task.target if name != mask and name in manifest.findings]
    device, control = {}, {}
    reasons: Counter[str] = Counter()
    lesion_unknown = 0
    rows = np.concatenate([cohort.rows[positions] for _, positions in unseen.groups]).tolist()
    for row in progress.track(rows, f"places of {mask}", len(rows)):
        drawn = manifest.mask(row, mask)
        if drawn is None or not drawn.any():
            reasons[f"whose {mask} mask is unknown" if drawn is None else f"without {mask}"] += 1
            continue
        wide = widened(drawn, widening(drawn.shape[0]))
        lesions = [manifest.mask(row, name) for name in findings]
        keep_off = np.logical_or.reduce([wide, *(each for each in lesions if each is not None)])
        region = Region.of(wide)
        place = control_region(region, keep_off, _blank(manifest.image(row).pixels))
        if place is None:
            reasons["without a place for the control region"] += 1
            continue
        device[row], control[row] = region, place
        lesion_unknown += any(each is None for each in lesions)
    left_out = tuple(Exclusion(reason, images) for reason, images in reasons.items())
    if not device:
        reasons_given = "; ".join(f"{item.images} {item.reason}" for item in (*unseen.left_out, *left_out))
        raise EvalfmError(
            f"No image of {manifest.info.name} is left to paint a {mask} out of ({reasons_given}); name other data or "
            "another --mask."
        )
    return _Places(device, control, left_out, lesion_unknown)


def _blank(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where an image [C, H, W] shows nothing: its lowest or its highest value, as of padding and bare detector."""
    flat = pixels.mean(axis=0)
    return np.asarray((flat == flat.min()) | (flat == flat.max()))


def _answers(
    ready: RunPredictor, unseen: HeldOutImages, places: _Places
) -> tuple[NDArray[np.intp], list[pd.DataFrame]]:
    """Positions into the cohort's rows, and for each the predictions: as it is, device, control."""
    cohort = unseen.cohort
    manifest = cohort.manifest
    shown = [None, *(PaintedOver(manifest.info, manifest.table, manifest.folder, each) for each in places.both)]
    used: list[NDArray[np.intp]] = []
    tables: list[list[pd.DataFrame]] = [[] for _ in shown]
    for fold, positions in unseen.groups:
        kept = positions[[row in places.device for row in cohort.rows[positions].tolist()]]
        if not len(kept):
            continue
        used.append(kept)
        for table, painted in zip(tables, shown, strict=True):
            table.append(ready.answers(cohort.rows[kept], fold=fold, images=painted))
    return np.concatenate(used), [pd.concat(each, ignore_index=True) for each in tables]


def _erasures(cohort: Cohort, positions: NDArray[np.intp], tables: Sequence[pd.DataFrame]) -> Iterator[Erasure]:
    patients = cohort.manifest.patients[cohort.rows[positions]]
    for answer in answers_of(tables[0]):
        as_it_is, device, control = (each[answer].to_numpy(dtype=np.float64) for each in tables)
        for among, rows in _groups(cohort, positions, answer):
            whose, number = patients[rows], len(set(patients[rows].tolist()))
            sizes = int(rows.sum()), number, mean(as_it_is[rows])
            reason = too_little(as_it_is[rows], device[rows], control[rows], patients=number)
            if reason:
                yield Erasure(answer, among, *sizes, None, None, None, reason)
                continue
            alone, painting, beyond = (
                compare_means(one[rows], other[rows], whose)
                for one, other in ((device, as_it_is), (control, as_it_is), (device, control))
            )
            yield Erasure(answer, among, *sizes, alone, painting, beyond)


def _groups(cohort: Cohort, positions: NDArray[np.intp], answer: str) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The images that ``answer`` is given for apart: without and with its finding, where the task has findings."""
    one_finding = cohort.kind.has_finding and len(cohort.task.target) == 1
    truths = cohort.target if cohort.kind.several_labels else cohort.positive[:, None][:, : int(one_finding)]
    for name, truth in zip(cohort.class_names, truths[positions].T, strict=False):
        if answer.endswith(f"_{name}"):
            yield f"without {name}", truth == 0
            yield f"with {name}", truth == 1
            return
    yield "all images", np.ones(len(positions), dtype=bool)


def _notes(run: Run, cohort: Cohort, mask: str, places: _Places) -> Iterator[str]:
    info = cohort.manifest.info
    if info.synthetic or run.record.provenance.synthetic:
        yield SYNTHETIC.sentence
    yield from sentences(run.record.cautions, {"random-weights", "contamination"})
    if not cohort.manifest.patients_known:
        yield "Patients unknown: intervals are over images."
    if places.lesion_unknown:
        yield f"On {places.lesion_unknown} images the finding's outline is unknown; the control may lie on it."
    yield (
        f"Painted over by biharmonic inpainting, which is seen too: that is what the control is for. What goes with a "
        f"{mask} on the same image (a re-expanded lung, other devices) stays."
    )
