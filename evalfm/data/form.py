"""What the form of a picture tells of its label: size, colour, depth, borders, corners, brightness, device.

None of it is disease. Where a label goes with it, positives come from elsewhere or were marked: a model may learn that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as connected

from evalfm.statistics.auroc import auroc
from evalfm.statistics.comparison import holm

if TYPE_CHECKING:
    from evalfm.data.images import Image
    from evalfm.data.manifest import Manifest

LEAST_PATIENTS = 10
"""With and without a label, below which nothing is said of it."""
MOST_LEVELS = 12
READABLE = 0.9
"""AUROC from which on a label can be read off the picture's form."""
TELLING = 0.6
THUMBNAIL, FOLDS, MOST_IMAGES = 16, 5, 5000
ALPHA = 0.05
_EDGE, _LOOKED_AT, _FLAT, _BRIGHT, _CORNER = 3, 192, 0.06, 0.9, 8


@dataclass(frozen=True)
class Form:
    """What one picture shows without being read.

    Attributes:
        facts: numbers and words by name.
        thumbnail: means of 16 × 16 blocks of the grey picture, [256].
    """

    facts: dict[str, float | str]
    thumbnail: NDArray[np.float32]


@dataclass(frozen=True)
class FormAssociation:
    """How well one property alone tells a label.

    Attributes:
        property: such as ``height`` or ``stored as: JPEG``.
        auroc: of the property as a score, turned so that it is at least one half.
        p: Mann–Whitney on one image a patient, corrected over all labels and properties (Holm).
        images: positive and negative ones whose property is known.
    """

    label: str
    property: str
    auroc: float
    p: float
    images: tuple[int, int]


@dataclass(frozen=True)
class FormReport:
    """What form tells of every label.

    Attributes:
        associations: the most telling first.
        thumbnails: per label the AUROC of a logistic regression on 16 × 16 grey thumbnails, five folds of patients.
    """

    associations: tuple[FormAssociation, ...] = ()
    thumbnails: dict[str, float] | None = None

    @property
    def remarks(self) -> list[str]:
        """A sentence for each label that form tells."""
        said = []
        for label in dict.fromkeys([*(self.thumbnails or {}), *(each.label for each in self.associations)]):
            telling = [each for each in self.associations if each.label == label and tells(each)]
            pixels = (self.thumbnails or {}).get(label, 0.5)
            if not telling and pixels < READABLE:
                continue
            best = ", ".join(f"{each.property} (AUROC {each.auroc:.2f})" for each in telling[:3])
            alone = [f"{best}{', each' if len(telling) > 1 else ''} alone" if best else ""]
            if pixels >= READABLE:
                alone.append(f"a picture of {THUMBNAIL} × {THUMBNAIL} grey cells (AUROC {pixels:.2f})")
            readable = pixels >= READABLE or any(each.auroc >= READABLE for each in telling)
            verdict = "The label can be read off the picture's form" if readable else "The picture's form goes with it"
            said.append(
                f"{label}: told by {', and by '.join(filter(None, alone))}. {verdict}: see whether images with and "
                "without it came from one place, and what `evalfm bias` says of a model."
            )
        return said


def tells(association: FormAssociation) -> bool:
    """Whether a property tells enough of a label to be named.

    >>> tells(FormAssociation("tb", "height", 0.7, 0.001, (50, 50)))
    True
    """
    return association.p < ALPHA and association.auroc >= TELLING


def form_of(image: Image, manufacturer: str | None = None) -> Form:
    """The form of a picture; ``manufacturer`` as a DICOM header names it.

    >>> from evalfm.data.images import Image
    >>> pixels = np.linspace(0, 1, 48 * 32, dtype=np.float32).reshape(1, 48, 32)
    >>> form = form_of(Image(pixels, "unit-interval", 8, None, "PNG"))
    >>> {name: form.facts[name] for name in ("height", "width", "stored as")}
    {'height': 48.0, 'width': 32.0, 'stored as': 'PNG'}
    """
    channels, height, width = image.pixels.shape
    # Some hundred rows and columns show all of this, at a fraction of the cost of decoding.
    grey = image.pixels[:, :: max(1, height // _LOOKED_AT), :: max(1, width // _LOOKED_AT)].mean(axis=0)
    lowest, highest = float(grey.min()), float(grey.max())
    scaled = (grey - lowest) / (highest - lowest) if highest > lowest else np.zeros_like(grey)
    rows, columns = (max(1, side // _CORNER) for side in grey.shape)
    corners = [scaled[y, x] for y in (slice(rows), slice(-rows, None)) for x in (slice(columns), slice(-columns, None))]
    facts: dict[str, float | str] = {
        "height": float(height),
        "width": float(width),
        "height ÷ width": height / width,
        "bits": float(image.bits),
        "channels": float(channels),
        "mean brightness": float(grey.mean()),
        "contrast (standard deviation)": float(grey.std()),
        "share of black or white border": float(_border(scaled)),
        "bright share of the corners": float(np.mean([(corner > _BRIGHT).mean() for corner in corners])),
        "stored as": image.rule,
    }
    if manufacturer:
        facts["manufacturer"] = manufacturer
    return Form(facts, _thumbnail(grey))


def _border(scaled: NDArray[np.float32]) -> float:
    """Share of the picture that is flat black or white up to its edge."""
    inner = np.zeros(scaled.shape, dtype=bool)
    inner[_EDGE:-_EDGE, _EDGE:-_EDGE] = True
    shares = 0.0
    for flat in (scaled < _FLAT, scaled > 1 - _FLAT):
        numbers, _ = connected(flat)
        edges = np.unique(numbers[~inner])
        shares += float(np.isin(numbers, edges[edges > 0]).mean())
    return shares


def _thumbnail(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, columns = (np.linspace(0, side, THUMBNAIL, endpoint=False).astype(int) for side in grey.shape)
    sums = np.add.reduceat(np.add.reduceat(grey, rows, axis=0), columns, axis=1)
    counts = np.diff([*rows, grey.shape[0]])[:, None] * np.diff([*columns, grey.shape[1]])
    return np.asarray(sums / np.maximum(counts, 1), dtype=np.float32).ravel()


def form_report(manifest: Manifest, forms: Sequence[Form | None]) -> FormReport:
    """What the form of each row, None where it could not be read, tells of the binary labels of ``manifest``."""
    known = np.array([form is not None for form in forms])
    patients = manifest.patients
    labels = {
        name: target
        for name in manifest.labels
        if manifest.info.label_kind(name) == "binary"
        for target in [np.where(known, manifest.label(name), np.nan)]
        if all(len(set(patients[target == value])) >= LEAST_PATIENTS for value in (0, 1))
    }
    if not labels:
        return FormReport()
    found = [
        association
        for name, target in labels.items()
        for column, values in _columns(forms)
        if (association := _association(name, target, column, values, patients)) is not None
    ]
    corrected = holm([each.p for each in found]).tolist() if found else []
    associations = [
        FormAssociation(each.label, each.property, each.auroc, p, each.images)
        for each, p in zip(found, corrected, strict=True)
    ]
    thumbnails = np.stack([np.zeros(THUMBNAIL**2, np.float32) if form is None else form.thumbnail for form in forms])
    told = {name: _told_by_thumbnails(target, thumbnails, patients) for name, target in labels.items()}
    ordered = sorted(associations, key=lambda each: (each.p >= ALPHA, -each.auroc))
    return FormReport(tuple(ordered), {name: value for name, value in told.items() if value is not None})


def _columns(forms: Sequence[Form | None]) -> list[tuple[str, NDArray[np.float64]]]:
    """Every property as numbers [N], NaN where unknown; of words each level against the others."""
    names = dict.fromkeys(name for form in forms if form is not None for name in form.facts)
    columns = []
    for name in names:
        values = [None if form is None else form.facts.get(name) for form in forms]
        words = [value for value in values if isinstance(value, str)]
        if not words:
            columns.append((name, np.array([np.nan if value is None else value for value in values], dtype=np.float64)))
            continue
        levels = sorted(set(words), key=lambda level: -words.count(level))[:MOST_LEVELS]
        for level in levels if len(levels) > 2 else levels[1:]:
            is_level = [np.nan if value is None else float(value == level) for value in values]
            columns.append((f"{name}: {level}", np.array(is_level)))
    return [(name, values) for name, values in columns if np.nanmin(values) < np.nanmax(values)]


def _association(
    label: str, target: NDArray[np.float64], name: str, values: NDArray[np.float64], patients: NDArray[np.object_]
) -> FormAssociation | None:
    from scipy.stats import mannwhitneyu

    both = np.flatnonzero(np.isfinite(target) & np.isfinite(values))
    one_each = both[np.unique(patients[both].astype(str), return_index=True)[1]]
    positive, negative = (values[one_each][target[one_each] == value] for value in (1, 0))
    if min(len(positive), len(negative)) < LEAST_PATIENTS:
        return None
    area = auroc(target[both], values[both])
    p = float(mannwhitneyu(positive, negative, method="asymptotic").pvalue)
    counts = (int((target[both] == 1).sum()), int((target[both] == 0).sum()))
    # Where one image of each patient has the same value everywhere there is nothing to test.
    return FormAssociation(label, name, max(area, 1 - area), 1.0 if np.isnan(p) else p, counts)


def _told_by_thumbnails(
    target: NDArray[np.float64], thumbnails: NDArray[np.float32], patients: NDArray[np.object_]
) -> float | None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.flatnonzero(np.isfinite(target))
    if len(rows) > MOST_IMAGES:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_IMAGES, replace=False))
    truth, groups = target[rows].astype(int), patients[rows].astype(str)
    areas = []
    for train, test in StratifiedGroupKFold(FOLDS).split(rows, truth, groups):
        if min(len(set(truth[train])), len(set(truth[test]))) == 2:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
            model.fit(thumbnails[rows[train]], truth[train])
            areas.append(auroc(truth[test], model.decision_function(thumbnails[rows[test]])))
    return float(np.mean(areas)) if areas else None
