"""From a fitted head to rows of predictions, by the kind of the task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalfm.data.masks import encode
from evalfm.features.source import FeatureSource
from evalfm.heads.head import DenseHead, Examples, PooledHead
from evalfm.heads.text.classifier import ZeroShotHead
from evalfm.heads.trained import TrainedDenseHead, predict_dense
from evalfm.metrics.lesions import lesion_counts, lesion_rows, match_lesions
from evalfm.metrics.mask_scores import PixelHistogram, image_scores
from evalfm.probing.operating import Operating
from evalfm.progress import Progress
from evalfm.tasks.kinds import Kind, kind_of
from evalfm.tasks.task import TaskCard


@dataclass(frozen=True)
class Scores:
    """Predictions of one head on val and test.

    Attributes:
        val, test: one row per image with the kind's columns, in the order of the examples.
        operating: thresholds and temperatures that val chose; of masks the pixel threshold of each class.
        by_template: of a zero-shot head the scores of the test images by each template alone, [N, K].
        lesions: of masks a row for each lesion and candidate of the test images, whose ``row`` is the image's place.
    """

    val: pd.DataFrame
    test: pd.DataFrame
    operating: Operating
    by_template: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    lesions: list[dict[str, object]] | None = None


def score_pooled(
    head: PooledHead, val: Examples, test: Examples, task: TaskCard, names: tuple[str, ...], rule: str
) -> Scores:
    """Score every val and test image; operating points (by ``rule``) and temperatures come from val alone."""
    scores = head.predict(val), head.predict(test)
    kind = kind_of(task.kind)
    operating = Operating.chosen(kind, names, val.target, scores[0], rule)
    on_val, on_test = (
        pooled_columns(each, split.target, kind, names).assign(**operating.columns(kind, names, each))
        for each, split in zip(scores, (val, test), strict=True)
    )
    by_template = head.by_template(test) if isinstance(head, ZeroShotHead) else {}
    return Scores(on_val, on_test, operating, by_template)


def pooled_columns(
    scores: NDArray[np.float64], target: NDArray[np.float64] | None, kind: Kind, names: tuple[str, ...]
) -> pd.DataFrame:
    """The kind's columns for scores [N, K] (or values [N, 1]), behind those for ``target`` where it is known."""
    columns = {each.name: score for each, score in zip(kind.score.of(names), scores.T, strict=True)}
    if target is None:
        return pd.DataFrame(columns)
    truth = zip(kind.truth_columns(names), (target if target.ndim > 1 else target[:, None]).T, strict=True)
    return pd.DataFrame({**dict(truth), **columns})


@dataclass(frozen=True)
class SizedExamples:
    """Examples with the size of their pixels.

    Attributes:
        examples: rows with their masks.
        spacing_mm: from a row to the (row, column) spacing of its stored pixels, or None.
    """

    examples: Examples
    spacing_mm: Callable[[int], tuple[float, float] | None]

    def __len__(self) -> int:
        return len(self.examples)

    def truth(self, row: int) -> NDArray[np.bool_]:
        """The masks of ``row``, bool [K, H, W]."""
        if self.examples.masks is None:
            raise ValueError("examples are scored against masks")
        return self.examples.masks(row)


def score_dense(
    heads: list[DenseHead],
    val: SizedExamples,
    test: SizedExamples,
    task: TaskCard,
    names: tuple[str, ...],
    progress: Progress,
) -> list[Scores]:
    """Score every val and test image on its own grid, all heads in step so that an image's maps are made once.

    The pixel threshold maximises pooled-pixel Dice on val.
    """
    histograms = [[PixelHistogram() for _ in names] for _ in heads]
    for row, probabilities in progress.track(_in_step(heads, val.examples), "thresholds on val", len(val)):
        truth = val.truth(row)
        for histogram, probability in zip(histograms, probabilities, strict=True):
            for index in range(len(names)):
                histogram[index].add(probability[index].numpy(), truth[index])
    thresholds = [
        {name: histogram[index].best_threshold() for index, name in enumerate(names)} for histogram in histograms
    ]
    tables: list[list[pd.DataFrame]] = [[] for _ in heads]
    lesions: list[list[dict[str, object]]] = [[] for _ in heads]
    for label, split in (("val", val), ("test", test)):
        rows: list[list[dict[str, object]]] = [[] for _ in heads]
        for row, probabilities in progress.track(_in_step(heads, split.examples), f"scoring {label}", len(split)):
            truth = split.truth(row)
            for lines, probability, chosen in zip(rows, probabilities, thresholds, strict=True):
                lines.append(dense_row(probability, truth, chosen, split.spacing_mm(row), task.nsd_tolerance_mm))
            if label == "test":
                for lines, regions, probability, chosen in zip(rows, lesions, probabilities, thresholds, strict=True):
                    counts, found = detected(probability, truth, chosen, split.spacing_mm(row), len(lines) - 1)
                    lines[-1].update(counts)
                    regions += found
            limits = resolution_limits(split.examples.source, row, truth, names)
            for lines in rows:
                lines[-1].update(limits)
        for table, lines in zip(tables, rows, strict=True):
            table.append(pd.DataFrame(lines))
    return [
        Scores(table[0], table[1], Operating(chosen), lesions=found)
        for table, chosen, found in zip(tables, thresholds, lesions, strict=True)
    ]


def dense_row(
    probability: Tensor,
    truth: NDArray[np.bool_] | None,
    thresholds: dict[str, float],
    spacing_mm: tuple[float, float] | None,
    tolerance_mm: float,
) -> dict[str, object]:
    """The columns of one image: per class its scores against ``truth`` (if known) and the predicted mask as RLE."""
    row: dict[str, object] = {}
    for index, (name, threshold) in enumerate(thresholds.items()):
        scores = probability[index].numpy()
        known = np.zeros(scores.shape, dtype=bool) if truth is None else truth[index]
        scored = image_scores(scores, known, threshold, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
        values = scored.columns()
        if truth is None:
            values = {key: values[key] for key in ("area_predicted", "score")}
        row |= {f"{key}_{name}": value for key, value in values.items()}
        row[f"prediction_rle_{name}"] = encode("relative", scores >= threshold)
        row[f"threshold_{name}"] = threshold
    height, width = probability.shape[-2:]
    return row | {"height": height, "width": width}


def detected(
    probability: Tensor,
    truth: NDArray[np.bool_],
    thresholds: dict[str, float],
    spacing_mm: tuple[float, float] | None,
    row: int,
    *,
    scored: bool = True,
) -> tuple[dict[str, object], list[dict[str, object]]]:
    """How many lesions of one image are found, as columns of its row, and a row for each lesion and candidate.

    Where nothing but a mask is known, candidates are not ``scored``.
    """
    columns: dict[str, object] = {}
    rows: list[dict[str, object]] = []
    for index, (name, threshold) in enumerate(thresholds.items()):
        scores = probability[index].numpy()
        match = match_lesions(scores >= threshold, truth[index], scores if scored else None)
        columns |= {f"{what}_{name}": count for what, count in lesion_counts(match).items()}
        rows += [{"row": row, "finding": name, **each} for each in lesion_rows(match, scores.size, spacing_mm)]
    return columns, rows


def resolution_limits(
    source: FeatureSource, row: int, truth: NDArray[np.bool_], names: tuple[str, ...]
) -> dict[str, float]:
    """What the encoder could see of each lesion, and the Dice of the truth passed through its finest map grid."""
    limits: dict[str, float] = {}
    strides = source.map_strides
    geometry = source.geometry(row)
    visible = geometry.visible().numpy()
    for index, name in enumerate(names):
        area = int(truth[index].sum())
        limits[f"visible_lesion_fraction_{name}"] = float(truth[index][visible].sum() / area) if area else np.nan
        if not strides or not area:
            limits[f"oracle_dice_{name}"] = np.nan
            continue
        grid = tuple(-(-labelled // min(strides)) for labelled in source.input_size)
        mask = torch.from_numpy(truth[index][None]).float()
        passed = geometry.to_source(geometry.to_input(mask, (grid[0], grid[1])))[0].numpy() >= 0.5
        limits[f"oracle_dice_{name}"] = float(2 * (passed & truth[index]).sum() / (passed.sum() + area))
    return limits


def _in_step(heads: list[DenseHead], examples: Examples) -> Iterator[tuple[int, list[Tensor]]]:
    """Every head's probabilities image by image; trained heads share one reading of the maps."""
    trained = [head for head in heads if isinstance(head, TrainedDenseHead)]
    if len(trained) == len(heads):
        for row, probabilities in predict_dense(trained, examples):
            yield row, list(probabilities)
        return
    for together in zip(*(head.predict(examples) for head in heads), strict=True):
        yield together[0][0], [probability for _, probability in together]
