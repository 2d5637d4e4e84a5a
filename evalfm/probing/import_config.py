"""Every option of importing predictions, stated once."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from evalfm.cards import Option, checked
from evalfm.config import THRESHOLD_RULE
from evalfm.split_options import CohortOptions, SplitOptions

TABLE, MODEL = "Table", "Model"


def _for_itself(value: object) -> object:
    return {value: value} if isinstance(value, str) else value


class ImportPredictionsConfig(CohortOptions):
    """Predictions of any model on the test images of a task: all that a call of ``import_predictions`` may say.

    >>> ImportPredictionsConfig(task="ptx-cls", name="our model", threshold="0.3").given_threshold
    0.3
    """

    task: Annotated[str, Field(description="A task's name, task.yaml, or a label column of the data.")]
    name: Annotated[str, Field(min_length=1, max_length=200, description="What tables and pages call the model.")]
    score: Annotated[
        Annotated[dict[str, str], BeforeValidator(_for_itself)],
        Field(
            description="Column of the score, value or run lengths; of several classes CLASS=COLUMN, repeated. By "
            "default score_CLASS (or score, of one), prediction of values, prediction_rle_CLASS of masks."
        ),
        Option(TABLE, metavar="CLASS=COLUMN", bare=True),
    ] = Field(default_factory=dict)
    join_on: Annotated[
        str | None,
        Field(
            description="MINE=THEIRS, where the table does not name images by id; MINE may be image_name or image_stem "
            "too."
        ),
        Option(TABLE, metavar="MINE=THEIRS"),
    ] = None
    mask_dialect: Annotated[
        Literal["relative", "absolute", "coco"],
        Field(description="How run lengths are written; see `data import table`."),
        Option(TABLE),
    ] = "relative"
    threshold: Annotated[
        str,
        Field(
            description="Of yes-or-no labels: a number, or the rule that picks it on val rows of the table (youden, "
            "f1, sensitivity=.9, specificity=.9). Without val rows .5 of probabilities."
        ),
        Option(MODEL),
    ] = THRESHOLD_RULE
    pretraining_data: Annotated[
        tuple[str, ...],
        Field(description="Data sets that the model was trained on, which are looked for among those it is tested on."),
        Option(MODEL),
    ] = ()
    out: Annotated[Path, Field(description="Where runs are written.")] = Path("runs")
    force: Annotated[bool, Field(description="Make the run again where it is there already.")] = False

    @classmethod
    def checked(cls, **options: object) -> ImportPredictionsConfig:
        """The configuration of ``options``.

        Raises:
            UnknownNameError: there is no such option.
            EvalfmError: names every option that is not valid.
        """
        return checked(cls, options)

    @model_validator(mode="after")
    def _known_rule(self) -> ImportPredictionsConfig:
        if self.given_threshold is not None and not isfinite(self.given_threshold):
            raise ValueError("threshold is no finite number")
        if self.given_threshold is None and self.threshold != THRESHOLD_RULE:
            # Imported where it is needed: help and names come without numpy.
            from evalfm.statistics.classification import choose_threshold

            choose_threshold([0, 1], [0, 1], self.threshold)
        return self

    @property
    def given_threshold(self) -> float | None:
        """The threshold that is a number; None where it is a rule."""
        try:
            return float(self.threshold)
        except ValueError:
            return None

    @property
    def split(self) -> SplitOptions:
        """Which images are tested, as options of a probe."""
        return SplitOptions(**{name: getattr(self, name) for name in CohortOptions.model_fields})
