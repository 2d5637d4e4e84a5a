"""Few-shot episodes: how well an encoder's features answer a task that shows a few images of each class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

import evalfm
from evalfm.data.episodes import QUERY, SUPPORT, Episodes, draw_episodes
from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_names
from evalfm.data.work_folders import adopt
from evalfm.encoders.encoder import Encoder
from evalfm.episodes import RECORD, EpisodeRun, Record, ShotsResult, write_episodes
from evalfm.errors import EvalfmError
from evalfm.heads import episodic
from evalfm.probing.episode_settings import (
    DEFAULT_METHODS,
    DEFAULT_SHOTS,
    EPISODES,
    FINE_TUNE,
    FINE_TUNED_EPISODES,
    QUERIES,
    EpisodeSettings,
    Method,
)
from evalfm.probing.episode_tuning import FineTuning, check_trainable
from evalfm.probing.loading import load_question
from evalfm.probing.opened import Opened, check_name, compute_ahead, open_encoder
from evalfm.probing.provenance import Stopwatch, git_commit, peak_memory_bytes, versions
from evalfm.probing.recording import as_trained, contamination
from evalfm.probing.settings import EncoderSettings, Settings
from evalfm.probing.sides import data_key
from evalfm.progress import SILENT, Progress
from evalfm.runs import (
    WORK,
    InTheWay,
    Provenance,
    check_writable,
    content_key,
    publishing,
    remove_leftovers,
    run_folder,
)
from evalfm.statistics.episodes import episode_auroc, over_episodes
from evalfm.tasks.question import Question
from evalfm.training.tuning import forget

OVERLAP = (
    "Episodes draw from one pool of images and overlap: sd is the spread over episodes, the interval is of their mean "
    "and narrows with their number; neither says how it would be on other patients."
)
KINDS = ("binary", "multiclass", "ordinal")


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
        methods: of ``linear``, ``prototypes``, ``knn``, ``fine-tune``.
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
        where=where,
        seed=seed,
    )
    encoder_settings = EncoderSettings.checked(
        name=encoder if isinstance(encoder, str) else encoder.card.name,
        weights=str(weights),
        input_size=input_size,
        resize=resize,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
    )
    check_name(encoder)
    folder = Path(out)
    remove_leftovers(folder)
    asked = pose_episodes(settings, data, progress)
    hidden = frozenset(asked.question.task.target)
    opened = open_encoder(encoder, encoder_settings, asked.question.manifest, None, progress, hidden)
    if FINE_TUNE in settings.methods:
        check_trainable(opened)
    making = _Making(opened, asked, settings, encoder_settings, folder, force, progress)
    return [making.result(method) for method in settings.methods]


@dataclass(frozen=True)
class AskedEpisodes:
    """A question with its episodes.

    Attributes:
        class_names: of all classes; a binary task's two.
        split: whether support and queries come from the parts of a split.
        key: hash of the images, their truth and the draw.
    """

    question: Question
    drawn: Episodes
    class_names: tuple[str, ...]
    split: bool
    key: str


def pose_episodes(
    settings: EpisodeSettings, data: str | Path | Manifest | None, progress: Progress = SILENT
) -> AskedEpisodes:
    """Read the data, pose the task and draw the episodes, before anything is computed.

    Raises:
        EvalfmError: the data have faults, the task has no classes, or a class has too few images.
    """
    question = load_question(Settings.checked(task=settings.task, where=settings.where), data, progress)
    task, manifest = question.task, question.manifest
    if task.kind not in KINDS:
        remedy = "ask one of its labels, as --task LABEL" if task.kind == "multilabel" else "ask a task of classes"
        raise EvalfmError(
            f"Episodes take n images of each class, and an image of the {task.kind} task {task.name} is of no one "
            f"class; {remedy}."
        )
    names = question.class_names
    if task.kind == "binary":
        names = (f"no {names[0]}", names[0])
    if len(names) < 2:
        raise EvalfmError(f"{task.name} has one class only, {names[0]}; take data with two or more.")
    has_split = "split" in manifest.table.columns
    drawn = draw_episodes(
        question.target.astype(np.intp),
        manifest.patients[question.rows],
        [str(each) for each in manifest.table["id"].to_numpy()[question.rows]],
        names,
        shots=max(settings.shots),
        queries=settings.queries,
        episodes=settings.episodes,
        name=manifest.info.name,
        seed=settings.seed,
        split=manifest.splits[question.rows] if has_split else None,
    )
    dealt = [("support", drawn.support.ravel()), ("query", drawn.query.ravel())]
    return AskedEpisodes(question, drawn, names, has_split, data_key(question, dealt))


@dataclass(frozen=True)
class _Making:
    """The making of the results of one encoder; each appears whole or not at all."""

    opened: Opened
    asked: AskedEpisodes
    settings: EpisodeSettings
    encoder_settings: EncoderSettings
    out: Path
    force: bool
    progress: Progress

    def result(self, method: Method) -> EpisodeRun:
        """That of ``method``, from disk where it is there."""
        folder, key = self._place(method)
        if not self.force and (folder / RECORD).is_file():
            return EpisodeRun.read(folder)
        check_writable(self.out)
        watch = Stopwatch()
        self.progress.say(f"{self.opened.name} × {self.asked.question.task.name}: {method}")
        works: list[Path] = []
        scorer = self._fine_tuned(key, works) if method == FINE_TUNE else self._batched(method)
        aurocs, notes = {}, []
        for shots in self.settings.shots:
            scores, told = scorer(shots)
            aurocs[shots] = episode_auroc(scores)
            notes += told
        record = self._record(method, key, aurocs, notes, watch.seconds())
        with publishing(self.out, folder, InTheWay.REPLACED if self.force else InTheWay.KEPT) as work:
            write_episodes(work, record, self._table(aurocs))
        for place in works:
            forget(place)
        return EpisodeRun.read(folder)

    def _place(self, method: Method) -> tuple[Path, str]:
        """Where the result of ``method`` stands, and its key: a hash over all that decides it."""
        task = self.asked.question.task
        content = {
            "schema": 1,
            "evalfm": evalfm.__version__,
            "encoder": self.opened.source.key,
            "seen": self.opened.card["pretraining_data"],
            "task": task.model_dump(mode="json"),
            "method": {"name": method, **self.settings.of_method(method)},
            "data": self.asked.key,
            "shots": self.settings.shots,
            "episodes": self.settings.episodes_of(method),
            "seed": self.settings.seed,
        }
        key = content_key(content)
        return run_folder(self.out, self.opened.name, task.name, method, "episodes", key), key

    def _batched(self, method: Method) -> Callable[[int], tuple[NDArray[np.float64], list[str]]]:
        used, drawn = self.asked.drawn.used, self.asked.drawn
        query = np.searchsorted(used, drawn.query)

        def scorer(shots: int) -> tuple[NDArray[np.float64], list[str]]:
            support = np.searchsorted(used, drawn.support[:, :, :shots])
            found = episodic.solve(method, self._features, support, query, self.settings.strength)
            late = int((~found.converged).sum())
            notes = [f"The solver stopped before its tolerance in {late} episodes of {shots} shots."] if late else []
            shape = (*query.shape, query.shape[1])
            return found.scores.reshape(shape).numpy(), notes

        return scorer

    def _fine_tuned(self, key: str, works: list[Path]) -> Callable[[int], tuple[NDArray[np.float64], list[str]]]:
        works.append(adopt(self.out / WORK, f"episodes-{key[:16]}"))
        tuning = FineTuning(
            self.opened,
            self.asked.question,
            self.settings.whole_recipe,
            works[0],
            self.settings.seed,
            self.encoder_settings.workers,
            self.progress,
        )
        episodes = self.settings.episodes_of(FINE_TUNE)
        return lambda shots: (tuning.scores(self.asked.drawn, shots, episodes), [])

    @cached_property
    def _features(self) -> Tensor:
        """Features of every image that stands in an episode, each divided by its length, [M, D] float64."""
        rows = self.asked.question.rows[self.asked.drawn.used]
        compute_ahead(self.opened.source, rows, maps=False, progress=self.progress)
        pooled = self.opened.source.features(rows.tolist()).pooled
        broken = int((~torch.isfinite(pooled).all(dim=1)).sum())
        if broken:
            raise EvalfmError(
                f"{self.opened.name} gives {broken} images features that are not finite; take out these images, or "
                "compute the features with --precision float32."
            )
        return episodic.normalised(pooled)

    def _table(self, aurocs: Mapping[int, NDArray[np.float64]]) -> pd.DataFrame:
        question, drawn = self.asked.question, self.asked.drawn
        ids = public_names([str(each) for each in question.manifest.table["id"]], question.manifest.info)[question.rows]
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
        self, method: Method, key: str, aurocs: Mapping[int, NDArray[np.float64]], notes: list[str], seconds: float
    ) -> Record:
        question, settings = self.asked.question, self.settings
        info = question.manifest.info
        opened = as_trained(self.opened, "full") if method == FINE_TUNE else self.opened
        results = []
        for shots, values in aurocs.items():
            mean, deviation = over_episodes(values)
            results.append(ShotsResult(shots=shots, mean=mean.to_json(), sd=deviation))
        config: dict[str, Any] = settings.model_dump(mode="json") | {
            # The task's name and not the path of its card, which may name a person or a place.
            "task": question.task.name,
            "methods": [method],
            "episodes": settings.episodes_of(method),
            "data": info.name,
            "encoder": {"name": opened.name, **opened.asked},
        }
        counted = {"images": len(self.asked.drawn.used), "images_of_cohort": len(question)}
        return Record(
            schema=1,
            key=key,
            config=config,
            encoder=opened.card,
            task=question.task.model_dump(mode="json", by_alias=True),
            method={"name": method, **settings.of_method(method)},
            data={
                "name": info.name,
                "licence": info.licence,
                "citation": info.citation,
                "class_names": list(self.asked.class_names),
                "label_source": question.label_source,
                "patients_known": bool(question.manifest.patients_known),
                "support_from": SUPPORT if self.asked.split else "patients who are not asked",
                "query_from": QUERY if self.asked.split else "all patients",
                **counted,
            },
            results=results,
            notes=self._notes(opened, notes),
            provenance=Provenance(
                versions=versions(),
                git_commit=git_commit(),
                device=opened.device,
                precision=opened.precision,
                seconds=round(seconds, 3),
                peak_memory_bytes=peak_memory_bytes(),
                weights_digest=opened.weights_digest,
                feature_key=opened.source.key,
                split_hash=self.asked.key,
                synthetic=bool(info.synthetic),
                random_weights=opened.random_weights,
            ),
        )

    def _notes(self, opened: Opened, told: list[str]) -> list[str]:
        """Every caution that belongs beside the figures, each once."""
        manifest = self.asked.question.manifest
        notes = [OVERLAP]
        if manifest.info.synthetic:
            notes.append("Synthetic data: these figures say nothing about patients.")
        if opened.random_weights:
            notes.append("Random weights: the encoder has learnt nothing.")
        if not manifest.patients_known:
            notes.append("Patients unknown: images of one patient may stand in support and queries.")
        notes += contamination(opened.card, [manifest])
        notes += [*self.asked.question.notes, *opened.notes, *told]
        return list(dict.fromkeys(notes))
