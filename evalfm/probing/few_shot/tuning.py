"""Fine-tuning in few-shot episodes: a copy of the encoder is trained on each support and scores its queries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evalfm.config import THRESHOLD_RULE
from evalfm.data.atomic import write_atomically
from evalfm.data.episodes import Episodes
from evalfm.errors import EvalfmError
from evalfm.features.encoded import EncodedSource
from evalfm.heads import load_head
from evalfm.probing.few_shot.frozen import Scores, of_all_classes
from evalfm.probing.fitting import FitOptions, Training, fit_trained
from evalfm.probing.labelled import SplitAssignment
from evalfm.probing.session import EncoderSession
from evalfm.probing.splits import Split
from evalfm.progress import SILENT, Progress
from evalfm.tasks.cohort import Cohort
from evalfm.training.recipe import Recipe
from evalfm.training.tuning import forget


def check_trainable(session: EncoderSession) -> None:
    """Refuse an encoder that holds nothing to train.

    Raises:
        EvalfmError: it is a table of features or has no weights.
    """
    source = session.source
    if not isinstance(source, EncodedSource) or not any(True for _ in source.encoder.parameters()):
        raise EvalfmError(
            f"{session.name} has no weights, so fine-tune has nothing to train; take another encoder or other methods."
        )


@dataclass(frozen=True)
class FineTuning:
    """The episodes of one encoder, one training each; what is finished stays in ``folder`` until it is published.

    Attributes:
        cohort: whose rows the episodes' positions are.
        folder: of checkpoints and finished scores.
    """

    session: EncoderSession
    cohort: Cohort
    recipe: Recipe
    folder: Path
    seed: int
    workers: int | None
    progress: Progress

    def scores(self, drawn: Episodes, shots: int, episodes: int) -> Scores:
        """Of the first ``episodes`` at ``shots``; those that are finished are not trained again.

        There is no val in an episode: the best epoch is the one with the lowest loss on the support itself.
        """
        label = f"{self.session.name}: fine-tuning on {shots} shots"
        return np.stack(
            [self._finished(drawn, shots, episode) for episode in self.progress.track(range(episodes), label, episodes)]
        )

    def _finished(self, drawn: Episodes, shots: int, episode: int) -> NDArray[np.float64]:
        file = self.folder / f"{shots}-{episode}.npy"
        if not file.is_file():
            scores = self._trained(drawn.support[episode, :, :shots], drawn.query[episode], f"{shots}-{episode}")
            stream = BytesIO()
            np.save(stream, scores)
            write_atomically(file, stream.getvalue())
            forget(self.folder / f"training-{shots}-{episode}")
        return np.asarray(np.load(file), dtype=np.float64)

    def _trained(self, support: NDArray[np.intp], query: NDArray[np.intp], name: str) -> NDArray[np.float64]:
        classes, queries = query.shape
        place = self.folder / f"training-{name}"
        place.mkdir(exist_ok=True)
        # Ordered classes are classes like any other here.
        kind = "binary" if classes == 2 and self.cohort.task.kind == "binary" else "multiclass"
        cohort = replace(self.cohort, task=self.cohort.task.model_copy(update={"kind": kind}))
        split = Split(support.ravel(), support.ravel(), query.ravel())
        fitted = fit_trained(
            self.session,
            load_head("linear", kind),
            SplitAssignment(cohort, None, (split,), ""),
            split,
            FitOptions(self.seed, THRESHOLD_RULE),
            Training("full", self.recipe, place, self.workers),
            SILENT,
        )
        table = fitted.scores.test[[f"score_{each}" for each in cohort.class_names]].to_numpy(np.float64)
        return of_all_classes(table).reshape(classes, queries, classes)
