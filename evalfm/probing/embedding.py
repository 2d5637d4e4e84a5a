"""Embeddings of every image of a data set by an encoder, in a file that other programs read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np
from numpy.typing import NDArray

import evalfm
from evalfm.cards import takes
from evalfm.cautions import RANDOM_WEIGHTS, Caution
from evalfm.data.atomic import new_file
from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_names
from evalfm.data.registered import cache_folder
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.reference import EncoderRef
from evalfm.errors import EvalfmError
from evalfm.features.embedding_writers import KIND, MAP, WRITERS, EmbeddingTable, Piece, read_facts
from evalfm.features.encoded import EncodedSource
from evalfm.features.profile import NO_TIMES, StageTimes
from evalfm.features.segment_format import ArrayLayout, Layout
from evalfm.features.source import map_grids
from evalfm.features.store import FeatureStore, estimate_bytes
from evalfm.features.stored_source import StoredSource
from evalfm.probing.cohort import load_manifest
from evalfm.probing.embed_config import EmbedConfig, EmbedPlan, no_maps, plan_files
from evalfm.probing.session import EncoderSession, forecast, open_session
from evalfm.progress import SILENT, Progress
from evalfm.run import content_key
from evalfm.workers.job import Worker

GIGABYTE = 1e9
SYNTHETIC = Caution("synthetic", "Synthetic data: these embeddings are not of patients.")


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
    measured = times or (StageTimes() if plans[0].config.profile else NO_TIMES)
    manifest, rows = select_rows(plans[0].config, data, progress)
    made = [_embed(plan, manifest, rows, progress, measured) for plan in plans]
    if times is None and measured.measures:
        progress.say("\n".join(measured.table()))
    return made


def fill(worker: Worker, *, config: dict[str, Any]) -> dict[str, Any]:
    """Bring what ``embed`` of ``config`` will read into the feature store; several processes may at once.

    Args:
        worker: the process that does it.
        config: an ``EmbedConfig`` as JSON.

    Returns:
        ``images``: how many went through the encoder here.

    Raises:
        EvalfmError: anything the caller can fix, in one sentence.
    """
    asked = EmbedConfig.checked(**{**config, "device": worker.device})
    manifest, rows = select_rows(asked, asked.data, worker.progress)
    with closing(_Opened.of(EncoderRef.parse(asked.encoder), asked, manifest, worker.progress, NO_TIMES)) as opened:
        return {"images": opened.extract(opened.rows_of_shard(rows), worker.progress)}


def select_rows(
    config: EmbedConfig, data: str | Path | Manifest | None, progress: Progress
) -> tuple[Manifest, NDArray[np.intp]]:
    """The manifest, checked, and its rows that ``config`` asks for, in their order; of all shards together.

    Raises:
        EvalfmError: the data cannot be read, or no image is left.
    """
    manifest = load_manifest(data, "", progress)
    if not len(manifest):
        raise EvalfmError(f"Data set {manifest.info.name} has no rows; import it again or check the file.")
    kept = np.ones(len(manifest), dtype=bool) if config.where is None else manifest.where(config.where)
    rows = np.flatnonzero(kept)
    if not len(rows):
        raise EvalfmError(f"No image of {manifest.info.name} satisfies --where {config.where!r}; correct it.")
    if config.limit is not None and config.limit < len(rows):
        names = manifest.table["id"].to_numpy(dtype=object)[rows]
        order = np.argsort([hashlib.sha256(str(name).encode()).hexdigest() for name in names], kind="stable")
        rows = np.sort(rows[order[: config.limit]])
    manifest.validate(deep=True, findings=(), progress=progress)
    return manifest, rows


@dataclass(frozen=True)
class _Opened:
    """An encoder over the images of a data set, whose features go through the store."""

    config: EmbedConfig
    manifest: Manifest
    session: EncoderSession
    source: StoredSource

    @classmethod
    def of(
        cls, encoder: EncoderRef, config: EmbedConfig, manifest: Manifest, progress: Progress, times: StageTimes
    ) -> _Opened:
        """Load ``encoder``.

        Raises:
            EvalfmError: the weights are not there, or the encoder has no maps where they are asked for.
        """
        session = open_session(encoder, config.encoder_config, manifest, None, progress, times=times)
        assert isinstance(session.source, EncodedSource)
        source = StoredSource(
            session.source.encoder,
            manifest,
            FeatureStore(cache_folder() / "features"),
            batch_size=config.batch_size,
            workers=config.workers,
            progress=progress,
            times=times,
        )
        if config.maps and not source.map_channels:
            raise EvalfmError(no_maps(session.name))
        return cls(config, manifest, replace(session, source=source), source)

    def close(self) -> None:
        """End the workers."""
        self.session.close()

    def rows_of_shard(self, rows: NDArray[np.intp]) -> list[int]:
        """Those of ``rows`` whose image is in the shard, wherever it stands in the table."""
        part, wanted = self.config.part, [int(row) for row in rows]
        if part is None:
            return wanted
        return [row for row, address in zip(wanted, self.source.addresses(wanted), strict=True) if part.holds(address)]

    def key(self, rows: Sequence[int], ids: Sequence[str]) -> str:
        """Hash of all that the file depends on."""
        content = {
            "evalfm": evalfm.__version__,
            "features": [self.source.key, self.source.encoder.feature_path.name],
            "images": self.source.addresses(rows),
            "ids": list(ids),
            "maps": self.config.maps,
            "shard": self.config.shard,
        }
        return content_key(content)

    def facts(self, layout: Layout) -> dict[str, Any]:
        """What the file says of itself; features must have been extracted. No path is in it."""
        session, source, info = self.session, self.source, self.manifest.info
        cautions = [SYNTHETIC] if info.synthetic else []
        cautions += [*session.cautions, *session.feature_cautions]
        if session.random_weights and all(each.code != RANDOM_WEIGHTS.code for each in cautions):
            cautions.append(RANDOM_WEIGHTS)
        strides = source.map_strides[: len(layout)]
        return {
            "schema": 1,
            "kind": KIND,
            "evalfm": evalfm.__version__,
            "encoder": session.name,
            "weights": "none" if session.weights_digest is None else session.requested["weights"],
            "weights_digest": session.weights_digest,
            "random_weights": session.random_weights,
            "feature_key": source.key,
            "feature_path": source.feature_path,
            "precision": session.precision,
            "input_size": list(source.input_size),
            "dim": source.pooled_dim,
            "maps": [
                {"name": MAP.format(number), "shape": list(each.shape), "stride": stride}
                for number, (each, stride) in enumerate(zip(layout, strides, strict=True))
            ],
            "data": info.name,
            "images_of_data": len(self.manifest),
            "synthetic": bool(info.synthetic),
            "shard": self.config.shard,
            "cautions": [asdict(each) for each in cautions],
        }

    def check_space(self, file: Path, images: int) -> None:
        """Refuse before the encoder runs what the disk of ``file`` will not hold.

        Raises:
            EvalfmError: there is too little free.
        """
        needed, free = (
            estimate_bytes(self.source, images, maps=self.config.maps),
            disk_usage(file.absolute().parent).free,
        )
        if needed > free:
            raise EvalfmError(
                f"{file} would take {needed / GIGABYTE:.1f} GB and its disk has {free / GIGABYTE:.1f} GB free; name a "
                "file on another disk, or fewer images with --where or --limit."
            )

    def extract(self, rows: Sequence[int], progress: Progress) -> int:
        """Bring the features of ``rows`` into the store; how many images went through the encoder."""
        missing = self.source.missing(rows, maps=self.config.maps) if rows else 0
        if missing:
            progress.say(forecast(self.source, missing, maps=self.config.maps))
        self.source.prefetch(rows, maps=self.config.maps)
        return self.source.encoded_images if missing else 0

    def pieces(self, rows: Sequence[int], table: EmbeddingTable) -> Iterator[Piece]:
        """The features of ``rows`` from the store, as many at once as memory shall hold."""
        for first in range(0, len(rows), table.piece_rows):
            features = self.source.features(rows[first : first + table.piece_rows], maps=self.config.maps)
            yield features.pooled.cpu().numpy(), tuple(level.cpu().numpy() for level in features.maps)

    def layout(self, rows: Sequence[int]) -> Layout:
        """Shape and dtype of each map that is written."""
        if not self.config.maps:
            return ()
        if rows:
            return self.source.map_layout(rows)
        grids = zip(self.source.map_channels, map_grids(self.source), strict=True)
        return tuple(ArrayLayout((channels, *grid), "<f2") for channels, grid in grids)


def _embed(
    plan: EmbedPlan, manifest: Manifest, rows: NDArray[np.intp], progress: Progress, times: StageTimes
) -> Embedded:
    config, file = plan.config, plan.file
    with closing(_Opened.of(plan.encoder, config, manifest, progress, times)) as opened:
        wanted = opened.rows_of_shard(rows)
        kind, ids = _ids(config, manifest, wanted)
        key = opened.key(wanted, ids)
        if file.exists() and not config.force:
            facts = read_facts(file) or {}
            if facts.get("key") != key:
                raise EvalfmError(
                    f"{file} is there already and holds other embeddings (of another encoder, other images or with "
                    "other options); name another file, or write over it with --force."
                )
            return Embedded.of(file, facts, existing=True)
        opened.check_space(file, len(ids))
        encoded = opened.extract(wanted, progress)
        layout = opened.layout(wanted)
        facts = opened.facts(layout) | {"images": len(ids), "ids": kind, "key": key}
        table = EmbeddingTable(ids, opened.source.pooled_dim, layout, facts)
        pieces = opened.pieces(wanted, table)
        label, count = f"{opened.session.name}: writing {file.name}", -(-len(ids) // table.piece_rows)
        with new_file(file) as place:
            WRITERS[file.suffix](place, table, progress.track(pieces, label, count))
        return Embedded.of(file, facts, encoded_images=encoded)


def _ids(config: EmbedConfig, manifest: Manifest, rows: Sequence[int]) -> tuple[str, list[str]]:
    """What the ids in the file are, and the ids."""
    own = [str(name) for name in manifest.table["id"].to_numpy(dtype=object)[np.asarray(rows, dtype=np.intp)]]
    if manifest.info.names_are_public:
        return "public", own
    return ("plain", own) if config.plain_ids else ("hashed", public_names(own, manifest.info).tolist())
