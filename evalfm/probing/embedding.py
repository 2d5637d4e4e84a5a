"""Embeddings of every image of a data set by encoders, in files that other programs read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evalfm.cards import takes
from evalfm.cautions import Caution
from evalfm.data.manifest import Manifest
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.features.embedding_writers import read_facts
from evalfm.features.profile import NO_TIMES, StageTimes
from evalfm.probing.crews import crew_for
from evalfm.probing.embed_config import EmbedConfig, EmbedPlan, plan_files
from evalfm.probing.embedder import Embedder, select_rows
from evalfm.probing.warm import WarmEncoders
from evalfm.progress import SILENT, Progress
from evalfm.workers.job import Job, Worker
from evalfm.workers.pool import Crew, Pool


@dataclass(frozen=True)
class Embedded:
    """A file of embeddings.

    Attributes:
        file: where it is.
        encoder: the encoder's name.
        images: rows of the file.
        dim: D of the pooled embeddings [N, D], float32.
        maps: channels, height and width of each map, shallow to deep; none where they were not asked for.
        key: hash of all that decides the features.
        encoded_images: images that went through the encoder for it; the others were in the feature store.
        ids: ``public``, ``hashed`` or ``plain``.
        existing: whether it was there already and is returned as it is.
        cautions: to print beside it; the file holds them too.
    """

    file: Path
    encoder: str
    images: int
    dim: int
    maps: tuple[tuple[int, ...], ...]
    key: str
    encoded_images: int
    ids: str
    existing: bool
    cautions: tuple[Caution, ...]

    @classmethod
    def of(cls, file: Path, facts: dict[str, Any], *, encoded_images: int = 0, existing: bool = False) -> Embedded:
        """The file that says ``facts`` of itself."""
        return cls(
            file=file,
            encoder=facts["encoder"],
            images=facts["images"],
            dim=facts["dim"],
            maps=tuple(tuple(each["shape"]) for each in facts["maps"]),
            key=facts["feature_key"],
            encoded_images=encoded_images,
            ids=facts["ids"],
            existing=existing,
            cautions=tuple(Caution(**each) for each in facts["cautions"]),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "file": str(self.file), "maps": [list(each) for each in self.maps]}


@takes(EmbedConfig)
def embed(
    encoder: str | Encoder | Sequence[str | Encoder],
    data: str | Path | Manifest | None = None,
    *,
    progress: Progress = SILENT,
    times: StageTimes | None = None,
    **options: Any,
) -> list[Embedded]:
    """Write what encoders make of every image of a data set to files; no label and no split is needed.

    Rows are in the order of the data set. Images go through the encoder into the feature store, from which the file is
    then written, so after a break the same call goes on, and what a probe has stored is not computed again.

    Args:
        encoder: a card's name or path, ``file.py:build``, an ``Encoder``, or several of these.
        data: a data set's folder, registered name or manifest; None takes the phantom.
        progress: where long work is shown.
        times: where seconds per stage are added; with ``profile`` and without these, a table is said at the end.
        options: the fields of ``EmbedConfig``, which are those of ``evalfm embed``.

    Returns:
        The file of each encoder. One that is there already and holds the same is returned as it is, unless ``force``.

    Raises:
        EvalfmError: anything the caller can fix, in one sentence.

    >>> from evalfm.data.phantom import make_phantom
    >>> data = make_phantom("small", n=8, size=64)
    >>> (made,) = embed("pixels", data, out="pixels.parquet")
    >>> made.images, made.dim, made.encoded_images
    (8, 256, 8)
    >>> import pandas as pd
    >>> pd.read_parquet("pixels.parquet").columns.tolist()
    ['id', 'embedding']
    """
    encoders = [encoder] if isinstance(encoder, str | Encoder) else list(encoder)
    plans = plan_files(encoders, data, options)
    config = plans[0].config
    crew = crew_for(config.encoder_config, out=plans[0].file.parent, data=[config.data])
    if crew is not None:
        if isinstance(data, Manifest) or any(not isinstance(each, str) for each in encoders):
            raise EvalfmError(
                "Other processes cannot be sent an encoder or manifest that is an object; name both, or leave devices "
                "out."
            )
        with crew:
            return [_side_by_side(plan, crew, progress) for plan in plans]
    measured = times or (StageTimes() if config.profile else NO_TIMES)
    manifest, rows = select_rows(config, data, progress)
    made = []
    for plan in plans:
        with closing(Embedder.of(plan, manifest, rows, progress, measured)) as embedder:
            made.append(_made(embedder, progress))
    if times is None and measured.measures:
        progress.say("\n".join(measured.table()))
    return made


def fill(worker: Worker, *, config: dict[str, Any]) -> dict[str, Any]:
    """Bring what ``write`` of ``config`` will read into the feature store; several processes may at once.

    Args:
        worker: the process that does it.
        config: an ``EmbedConfig`` as JSON.

    Returns:
        ``images``: how many went through the encoder here; none where the file is there already.

    Raises:
        EvalfmError: anything the caller can fix, in one sentence.
    """
    with _in_worker(worker, config) as embedder:
        return {"images": 0 if embedder.existing() is not None else embedder.extract(worker.progress)}


def write(worker: Worker, *, config: dict[str, Any]) -> dict[str, Any]:
    """Write the file of ``config`` (an ``EmbedConfig`` as JSON); what the store lacks is encoded first.

    Returns:
        ``images``: how many went through the encoder here. ``existing``: whether the file was there already.

    Raises:
        EvalfmError: anything the caller can fix, in one sentence.
    """
    with _in_worker(worker, config) as embedder:
        made = _made(embedder, worker.progress)
    return {"images": made.encoded_images, "existing": made.existing}


def _made(embedder: Embedder, progress: Progress) -> Embedded:
    """The file, as it is there or as it is written."""
    facts = embedder.existing()
    if facts is not None:
        return Embedded.of(embedder.plan.file, facts, existing=True)
    encoded = embedder.extract(progress)
    return Embedded.of(embedder.plan.file, embedder.write(progress), encoded_images=encoded)


def _side_by_side(plan: EmbedPlan, crew: Crew, progress: Progress) -> Embedded:
    """The file by workers that fill the store together, of whom one then writes it."""
    pool, config = Pool(crew, progress), plan.config.model_dump(mode="json")
    filled = _all_of(pool, [_job("fill", config, f"images for {config['encoder']}") for _ in crew.names])
    (written,) = _all_of(pool, [_job("write", config, plan.file.name)])
    encoded = sum(each["images"] for each in (*filled, written))
    facts = read_facts(plan.file)
    if facts is None:
        raise EvalfmError(f"{plan.file} is gone since it was written; a worker's disk must be this one's.")
    return Embedded.of(plan.file, facts, encoded_images=encoded, existing=written["existing"])


def _job(function: str, config: dict[str, Any], label: str) -> Job:
    return Job(f"{__name__}:{function}", {"config": config}, label, config["encoder"])


def _all_of(pool: Pool, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """What every job returned.

    Raises:
        EvalfmError: one of them failed.
    """
    values = []
    for done in pool.run(jobs):
        if done.fault is not None:
            fault = done.fault
            raise EvalfmError(
                fault.sentence if fault.trace is None else f"{fault.error}: {fault.sentence}\n{fault.trace}"
            )
        values.append(done.value)
    return values


@contextmanager
def _in_worker(worker: Worker, config: dict[str, Any]) -> Iterator[Embedder]:
    """An encoder over the rows of a job, which the worker keeps for the next one; times are said at the end."""
    asked = EmbedConfig.checked(**{**config, "devices": worker.device, "executor": None, "address": None})
    encoder = EncoderRef.parse(asked.encoder)
    times = StageTimes() if asked.profile else NO_TIMES
    warm = worker.kept.setdefault("encoders", WarmEncoders())
    plan = EmbedPlan(encoder, asked, asked.file(encoder))
    manifest, rows = select_rows(asked, asked.data, worker.progress)
    with closing(Embedder.of(plan, manifest, rows, worker.progress, times, warm)) as embedder:
        yield embedder
    if times.measures:
        worker.progress.say("\n".join(times.table()))
