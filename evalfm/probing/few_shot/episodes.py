"""Few-shot episodes: how well an encoder's features answer a task that shows a few images of each class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import evalfm
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
from evalfm.probing.few_shot.cohort import EpisodeCohort, pose_episodes
from evalfm.probing.few_shot.frozen import Frozen, Scores
from evalfm.probing.few_shot.settings import (
    DEFAULT_METHODS,
    DEFAULT_SHOTS,
    EPISODES,
    FINE_TUNE,
    FINE_TUNED_EPISODES,
    QUERIES,
    ZERO_SHOT,
    EpisodeSettings,
    Method,
)
from evalfm.probing.few_shot.tuning import FineTuning, check_trainable
from evalfm.probing.labelled import facts_key
from evalfm.probing.names import check_names
from evalfm.probing.provenance import Stopwatch
from evalfm.probing.recording import as_trained, of_result, provenance
from evalfm.probing.session import EncoderSession, open_session
from evalfm.probing.settings import EncoderSettings
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


def run_episodes(
    encoder: str | Encoder,
    task: str,
    *,
    data: str | Path | Manifest | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    shots: Sequence[int] = DEFAULT_SHOTS,
    queries: int = QUERIES,
    episodes: int = EPISODES,
    fine_tune_episodes: int = FINE_TUNED_EPISODES,
    recipe: Mapping[str, object] | None = None,
    strength: float = episodic.STRENGTH,
    prompts: str | Path | None = None,
    where: str | None = None,
    seed: int = 0,
    weights: str | Path = "hub",
    input_size: int | None = None,
    resize: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    workers: int = 2,
    out: str | Path = "episodes",
    force: bool = False,
    progress: Progress = SILENT,
) -> list[EpisodeRun]:
    """Answer ``task`` from a few images of each class, many times over.

    Args:
        encoder: as ``probe`` takes it.
        task: a binary, multiclass or ordinal one; ordered classes are classes like any other here.
        data: a data set's folder, registered name or manifest; None takes the phantom.
        methods: of ``linear``, ``prototypes``, ``knn``, ``zeroshot``, ``fine-tune``.
        out: where results go; one that is there already is returned as it is unless ``force``.

    The other arguments are those of ``EpisodeSettings`` and ``EncoderSettings``.

    Returns:
        One result a method, each over all numbers of shots.

    Raises:
        EvalfmError: anything the caller can mend, in one sentence.
    """
    settings = EpisodeSettings.checked(
        task=task,
        methods=tuple(methods),
        shots=tuple(shots),
        queries=queries,
        episodes=episodes,
        fine_tune_episodes=fine_tune_episodes,
        recipe=dict(recipe or {}),
        strength=strength,
        prompts=None if prompts is None else str(prompts),
        where=where,
        seed=seed,
    )
    encoder_settings = EncoderSettings.checked(
        name=EncoderRef.parse(encoder).label,
        weights=str(weights),
        input_size=input_size,
        resize=resize,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
    )
    check_names([encoder], [task], data=[data])
    asked = pose_episodes(settings, data, progress)
    return answer_episodes(encoder, encoder_settings, asked, settings, Path(out), force=force, progress=progress)


def answer_episodes(
    encoder: str | Encoder,
    encoder_settings: EncoderSettings,
    asked: EpisodeCohort,
    settings: EpisodeSettings,
    out: Path,
    *,
    force: bool = False,
    progress: Progress = SILENT,
) -> list[EpisodeRun]:
    """The results of ``encoder`` on episodes that were posed with ``settings`` (its methods may be fewer).

    Raises:
        EvalfmError: the encoder cannot be had, or cannot answer by one of the methods.
    """
    remove_leftovers(out)
    hidden = frozenset(asked.cohort.task.target)
    session = open_session(encoder, encoder_settings, asked.cohort.manifest, None, progress, hidden)
    if FINE_TUNE in settings.methods:
        check_trainable(session)
    text = None
    if ZERO_SHOT in settings.methods:
        text = text_for([ZeroShotHead()], session, asked.cohort, settings.prompts)
    frozen = Frozen(session, asked, progress)
    known = Known(force)
    making = EpisodeBuilder(session, asked, settings, encoder_settings, out, known, progress, text, frozen)
    found = [making.result(method) for method in settings.methods]
    known.tell(progress)
    return found


Answer = tuple[int, Scores, list[Caution]]


@dataclass(frozen=True)
class EpisodeBuilder:
    """The making of the results of one encoder; each appears whole or not at all."""

    session: EncoderSession
    asked: EpisodeCohort
    settings: EpisodeSettings
    encoder_settings: EncoderSettings
    out: Path
    known: Known
    progress: Progress
    text: Text | None
    frozen: Frozen

    def result(self, method: Method) -> EpisodeRun:
        """That of ``method``, from disk where it is there."""
        folder, key = self._place(method)
        recover(folder, self.out / WORK)
        if self.known.is_there(folder, RECORD):
            # Of a process that was killed after it had published.
            remove_unfinished(self.out / WORK, f"episodes-{key[:16]}")
            return EpisodeRun.read(folder)
        check_writable(self.out)
        watch = Stopwatch()
        self.progress.say(f"{self.session.name} × {self.asked.cohort.task.name}: {method}")
        # What fine-tuning has finished stays there when the process dies, and is taken over by the next one.
        work = adopt(self.out / WORK, f"episodes-{key[:16]}") if method == FINE_TUNE else None
        aurocs: dict[int, NDArray[np.float64]] = {}
        cautions: list[Caution] = []
        for shots, scores, told in self._frozen(method) if work is None else self._fine_tuned(work):
            aurocs[shots] = episode_auroc(scores)
            cautions += told
        record = self._record(method, key, aurocs, cautions, watch.seconds())
        with publishing(self.out, folder, IfExists.REPLACED if self.known.force else IfExists.KEPT) as place:
            write_episodes(place, record, self._table(aurocs))
        if work is not None:
            forget(work)
        return EpisodeRun.read(folder)

    def _place(self, method: Method) -> tuple[Path, str]:
        """Where the result of ``method`` stands, and its key: a hash over all that decides it."""
        task = self.asked.cohort.task
        content = {
            "schema": 1,
            "evalfm": evalfm.__version__,
            "encoder": self.session.source.key,
            "seen": self.session.card["pretraining_data"],
            "task": task.model_dump(mode="json"),
            "method": self._method(method),
            "data": self._images_key(method),
            "facts": facts_key(self.asked.cohort, attributes=False),
            "shots": self.settings.shots_of(method),
            "episodes": self.settings.episodes_of(method),
            "seed": self.settings.seed,
        }
        key = content_key(content)
        return run_folder(self.out, self.session.name, task.name, method, "episodes", key), key

    def _images_key(self, method: Method) -> str:
        return self.asked.key(self.settings.episodes_of(method))

    def _frozen(self, method: Method) -> Iterator[Answer]:
        """Number of shots, scores, and what must be said of them."""
        for shots in self.settings.shots_of(method):
            if method == ZERO_SHOT:
                assert self.text is not None
                yield shots, self.frozen.told(self.text), []
            else:
                yield shots, *self.frozen.learnt(method, shots, self.settings.strength)

    def _fine_tuned(self, work: Path) -> Iterator[Answer]:
        """The same of trained copies of the encoder."""
        settings, workers = self.settings, self.encoder_settings.workers
        tuning = FineTuning(
            self.session, self.asked.cohort, settings.whole_recipe, work, settings.seed, workers, self.progress
        )
        for shots in settings.shots:
            yield shots, tuning.scores(self.asked.drawn, shots, settings.episodes_of(FINE_TUNE)), []

    def _table(self, aurocs: Mapping[int, NDArray[np.float64]]) -> pd.DataFrame:
        cohort, drawn = self.asked.cohort, self.asked.drawn
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
        cohort, settings = self.asked.cohort, self.settings
        info = cohort.manifest.info
        session = as_trained(self.session, "full") if method == FINE_TUNE else self.session
        results = []
        for shots, values in aurocs.items():
            mean, deviation = over_episodes(values)
            results.append(ShotsResult(shots=shots, mean=mean, sd=deviation))
        config: dict[str, Any] = settings.model_dump(mode="json") | {
            # The task's name and not the path of its card, which may name a person or a place.
            "task": cohort.task.name,
            "methods": [method],
            "shots": list(settings.shots_of(method)),
            "prompts": None if settings.prompts is None else "file",
            "episodes": settings.episodes_of(method),
            "data": info.name,
            "encoder": {"name": session.name, **session.requested},
        }
        counted = {"images": len(self.asked.drawn.used), "images_of_cohort": len(cohort)}
        return EpisodeRecord(
            schema=2,
            key=key,
            config=config,
            encoder=session.card,
            task=cohort.task.model_dump(mode="json", by_alias=True),
            method=self._method(method),
            data={
                "name": info.name,
                "licence": info.licence,
                "citation": info.citation,
                "class_names": list(self.asked.class_names),
                "label_source": cohort.label_source,
                "patients_known": bool(cohort.manifest.patients_known),
                "support_from": SUPPORT if self.asked.split else "patients who are not asked",
                "query_from": QUERY if self.asked.split else "all patients",
                **counted,
            },
            results=results,
            cautions=self._cautions(session, cautions),
            provenance=provenance(session, self._images_key(method), seconds, synthetic=bool(info.synthetic)),
        )

    def _method(self, method: Method) -> dict[str, Any]:
        """Its name and what decides its answer."""
        told: dict[str, Any] = {"name": method, **self.settings.of_method(method)}
        if method == ZERO_SHOT and self.text is not None:
            told["text"] = text_key(self.text, self.asked.cohort.manifest.info.name)
        return told

    def _cautions(self, session: EncoderSession, of_methods: Sequence[Caution]) -> list[Caution]:
        """Every caution that belongs beside the figures, each once."""
        cohort = self.asked.cohort
        unknown = "Patients unknown: images of one patient may be in support and in queries."
        cautions = of_result(session, [cohort.manifest], unknown, cohort.cautions)
        return list(dict.fromkeys([OVERLAP, *cautions, *of_methods]))
