"""Few-shot episodes: how well an encoder's features serve a task with a few images of each class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import evalfm
from evalfm.cards import takes
from evalfm.cautions import Caution
from evalfm.data.episodes import QUERY, SUPPORT
from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_names
from evalfm.data.work_folders import adopt, recover, remove_unfinished
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef
from evalfm.episodes import RECORD, EpisodeRecord, EpisodeRun, ShotsResult, write_episodes
from evalfm.heads import episodic
from evalfm.heads.head import Text
from evalfm.heads.text.zeroshot import ZeroShotHead
from evalfm.probing.existing import Known
from evalfm.probing.few_shot.cohort import EpisodeCohort, draw_cohort
from evalfm.probing.few_shot.config import FINE_TUNE, ZERO_SHOT, EpisodeConfig, Method
from evalfm.probing.few_shot.frozen import Frozen, Scores
from evalfm.probing.few_shot.tuning import FineTuning, check_trainable
from evalfm.probing.labelled import facts_key
from evalfm.probing.names import check_names
from evalfm.probing.provenance import Stopwatch
from evalfm.probing.recording import as_trained, of_result, provenance
from evalfm.probing.session import EncoderSession, open_session
from evalfm.probing.texts import text_for, text_key
from evalfm.progress import SILENT, Progress
from evalfm.run import WORK, IfExists, check_writable, content_key, publishing, remove_leftovers, run_folder
from evalfm.statistics.auroc import episode_auroc
from evalfm.statistics.intervals import over_episodes
from evalfm.training.tuning import forget

OVERLAP = Caution(
    "overlapping-episodes",
    "Episodes draw from one pool of images and overlap: sd is the spread over episodes, the interval is of their mean "
    "and narrows with their number; neither says how it would be on other patients.",
)


@takes(EpisodeConfig)
def run_episodes(
    encoder: str | Encoder,
    task: str,
    *,
    data: str | Path | Manifest | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> list[EpisodeRun]:
    """Learn a task from a few images of each class, many times over.

    Args:
        encoder: as ``probe`` takes it.
        task: a binary, multiclass or ordinal one; ordered classes are classes like any other here.
        data: a data set's folder, registered name or manifest; None takes the phantom.
        progress: where long work is shown.
        options: the fields of ``EpisodeConfig``, which are those of ``evalfm episodes``.

    Returns:
        One result a method, each over all numbers of shots; one that is there already is returned as it is, and said
        so, unless ``force``.

    Raises:
        EvalfmError: anything the caller can fix, in one sentence.

    >>> from evalfm.data.phantom import make_phantom
    >>> data = make_phantom("small", n=100, size=64)
    >>> (run,) = run_episodes("pixels", "ptx-cls", data=data, shots=(1,), queries=2, episodes=4, methods=("knn",))
    >>> run.encoder
    'pixels'
    """
    where = data.info.name if isinstance(data, Manifest) else data
    config = EpisodeConfig.checked(encoder=EncoderRef.parse(encoder).label, task=task, data=where, **options)
    check_names([encoder], [task], data=[data])
    return solve_episodes(encoder, draw_cohort(config, data, progress), config, progress)


def solve_episodes(
    encoder: str | Encoder, cohort: EpisodeCohort, config: EpisodeConfig, progress: Progress = SILENT
) -> list[EpisodeRun]:
    """The results of ``encoder`` on episodes that were drawn by ``config`` (its methods may be fewer).

    Raises:
        EvalfmError: the encoder cannot be had, or cannot solve them by one of the methods.
    """
    remove_leftovers(config.out)
    hidden = frozenset(cohort.cohort.task.target)
    session = open_session(encoder, config.encoder_config, cohort.cohort.manifest, None, progress, hidden)
    if FINE_TUNE in config.methods:
        check_trainable(session)
    text = None
    if ZERO_SHOT in config.methods:
        text = text_for([ZeroShotHead()], session, cohort.cohort, config.prompts)
    known = Known(config.force)
    builder = EpisodeBuilder(session, cohort, config, known, progress, text, Frozen(session, cohort, progress))
    runs = [builder.result(method) for method in config.methods]
    known.say(progress)
    return runs


Result = tuple[int, Scores, list[Caution]]


@dataclass(frozen=True)
class EpisodeBuilder:
    """Makes the results of one encoder; each appears whole or not at all."""

    session: EncoderSession
    episodes: EpisodeCohort
    config: EpisodeConfig
    known: Known
    progress: Progress
    text: Text | None
    frozen: Frozen

    def result(self, method: Method) -> EpisodeRun:
        """The result of ``method``, from disk where it is there."""
        folder, key = self._place(method)
        recover(folder, self.config.out / WORK)
        if self.known.is_there(folder, RECORD):
            # Of a process that was killed after it had published.
            remove_unfinished(self.config.out / WORK, f"episodes-{key[:16]}")
            return EpisodeRun.read(folder)
        check_writable(self.config.out)
        watch = Stopwatch()
        self.progress.say(f"{self.session.name} × {self.episodes.cohort.task.name}: {method}")
        # What fine-tuning has finished stays there when the process dies, and is taken over by the next one.
        work = adopt(self.config.out / WORK, f"episodes-{key[:16]}") if method == FINE_TUNE else None
        aurocs: dict[int, NDArray[np.float64]] = {}
        cautions: list[Caution] = []
        for shots, scores, more in self._frozen(method) if work is None else self._fine_tuned(work):
            aurocs[shots] = episode_auroc(scores)
            cautions += more
        record = self._record(method, key, aurocs, cautions, watch.seconds())
        with publishing(self.config.out, folder, IfExists.REPLACED if self.known.force else IfExists.KEPT) as place:
            write_episodes(place, record, self._table(aurocs))
        if work is not None:
            forget(work)
        return EpisodeRun.read(folder)

    def _place(self, method: Method) -> tuple[Path, str]:
        """Where the result of ``method`` stands, and its key: a hash over all that decides it."""
        task = self.episodes.cohort.task
        content = {
            "schema": 1,
            "evalfm": evalfm.__version__,
            "encoder": self.session.source.key,
            "seen": self.session.card["pretraining_data"],
            "task": task.model_dump(mode="json"),
            "method": self._method(method),
            "data": self._images_key(method),
            "facts": facts_key(self.episodes.cohort, attributes=False),
            "shots": self.config.shots_of(method),
            "episodes": self.config.episodes_of(method),
            "seed": self.config.seed,
        }
        key = content_key(content)
        return run_folder(self.config.out, self.session.name, task.name, method, "episodes", key), key

    def _images_key(self, method: Method) -> str:
        return self.episodes.key(self.config.episodes_of(method))

    def _frozen(self, method: Method) -> Iterator[Result]:
        """Number of shots, scores, and what must be said of them."""
        for shots in self.config.shots_of(method):
            if method == ZERO_SHOT:
                assert self.text is not None
                yield shots, self.frozen.by_sentences(self.text), []
            else:
                yield shots, *self.frozen.learned(method, shots, self.config.strength)

    def _fine_tuned(self, work: Path) -> Iterator[Result]:
        """The same of trained copies of the encoder."""
        config, workers = self.config, self.config.workers
        tuning = FineTuning(
            self.session, self.episodes.cohort, config.whole_recipe, work, config.seed, workers, self.progress
        )
        for shots in config.shots:
            yield shots, tuning.scores(self.episodes.drawn, shots, config.episodes_of(FINE_TUNE)), []

    def _table(self, aurocs: Mapping[int, NDArray[np.float64]]) -> pd.DataFrame:
        cohort, drawn = self.episodes.cohort, self.episodes.drawn
        ids = public_names([str(each) for each in cohort.manifest.table["id"]], cohort.manifest.info)[cohort.rows]
        lines = [
            {
                "episode": episode,
                "shots": shots,
                "macro_auroc": float(value),
                "support": ids[drawn.support[episode, :, :shots].ravel()].tolist(),
                "query": ids[drawn.query[episode].ravel()].tolist(),
            }
            for shots, values in aurocs.items()
            for episode, value in enumerate(values)
        ]
        return pd.DataFrame(lines)

    def _record(
        self,
        method: Method,
        key: str,
        aurocs: Mapping[int, NDArray[np.float64]],
        cautions: list[Caution],
        seconds: float,
    ) -> EpisodeRecord:
        cohort, config = self.episodes.cohort, self.config
        info = cohort.manifest.info
        session = as_trained(self.session, "full") if method == FINE_TUNE else self.session
        results = []
        for shots, values in aurocs.items():
            mean, deviation = over_episodes(values)
            results.append(ShotsResult(shots=shots, mean=mean, sd=deviation))
        options = config.recorded() | {
            # The task's name and not the path of its card, which may name a person or a place.
            "task": cohort.task.name,
            "methods": [method],
            "shots": list(config.shots_of(method)),
            "episodes": config.episodes_of(method),
            "data": info.name,
            "encoder": {"name": session.name, **session.requested},
        }
        counted = {"images": len(self.episodes.drawn.used), "images_of_cohort": len(cohort)}
        return EpisodeRecord(
            schema=2,
            key=key,
            config=options,
            encoder=session.card,
            task=cohort.task.model_dump(mode="json", by_alias=True),
            method=self._method(method),
            data={
                "name": info.name,
                "licence": info.licence,
                "citation": info.citation,
                "class_names": list(self.episodes.class_names),
                "label_source": cohort.label_source,
                "patients_known": bool(cohort.manifest.patients_known),
                "support_from": SUPPORT if self.episodes.split else "patients who are not queried",
                "query_from": QUERY if self.episodes.split else "all patients",
                **counted,
            },
            results=results,
            cautions=self._cautions(session, cautions),
            provenance=provenance(session, self._images_key(method), seconds, synthetic=bool(info.synthetic)),
        )

    def _method(self, method: Method) -> dict[str, Any]:
        """Its name and what decides its scores."""
        content: dict[str, Any] = {"name": method, **self._settings_of(method)}
        if method == ZERO_SHOT and self.text is not None:
            content["text"] = text_key(self.text, self.episodes.cohort.manifest.info.name)
        return content

    def _settings_of(self, method: Method) -> dict[str, Any]:
        """What decides the scores of ``method``, as plain values."""
        if method == FINE_TUNE:
            recipe = self.config.whole_recipe.model_dump(mode="json")
            return {"head": "linear", "recipe": recipe, "chosen_on": "support"}
        if method == ZERO_SHOT:
            return dict(ZeroShotHead().grid)
        return episodic.settings_of(method, self.config.strength)

    def _cautions(self, session: EncoderSession, of_methods: Sequence[Caution]) -> list[Caution]:
        """Every caution that belongs beside the figures, each once."""
        cohort = self.episodes.cohort
        unknown = "Patients unknown: images of one patient may be in support and in queries."
        cautions = of_result(session, [cohort.manifest], unknown, cohort.cautions)
        return list(dict.fromkeys([OVERLAP, *cautions, *of_methods]))
