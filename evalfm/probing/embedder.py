"""An encoder over rows of a data set, whose features go through the store into a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np
from numpy.typing import NDArray

import evalfm
from evalfm.cautions import RANDOM_WEIGHTS, Caution
from evalfm.data.atomic import new_file
from evalfm.data.manifest import Manifest
from evalfm.data.privacy import public_names
from evalfm.data.registered import cache_folder
from evalfm.errors import EvalfmError
from evalfm.features.embedding_writers import KIND, MAP, WRITERS, EmbeddingTable, Piece, read_facts
from evalfm.features.encoded import EncodedSource
from evalfm.features.profile import NO_TIMES, StageTimes
from evalfm.features.segment_format import ArrayLayout, Layout
from evalfm.features.source import map_grids
from evalfm.features.store import FeatureStore, estimate_bytes
from evalfm.features.stored_source import StoredSource
from evalfm.probing.cohort import load_manifest
from evalfm.probing.embed_config import EmbedConfig, EmbedPlan, no_maps
from evalfm.probing.session import EncoderSession, forecast, open_session
from evalfm.probing.warm import WarmEncoders
from evalfm.progress import Progress
from evalfm.publishing import content_key

GIGABYTE = 1e9
SYNTHETIC = Caution("synthetic", "Synthetic data: these embeddings are not of patients.")


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
class Embedder:
    """An encoder, loaded, with the rows of a data set whose embeddings a file is to hold.

    Attributes:
        plan: what is asked for. manifest: the data set. rows: of it, those of the shard in their order.
        session: the encoder. source: its features.
    """

    plan: EmbedPlan
    manifest: Manifest
    rows: list[int]
    session: EncoderSession
    source: StoredSource

    @classmethod
    def of(
        cls,
        plan: EmbedPlan,
        manifest: Manifest,
        rows: NDArray[np.intp],
        progress: Progress,
        times: StageTimes = NO_TIMES,
        warm: WarmEncoders | None = None,
    ) -> Embedder:
        """Load the encoder of ``plan``; ``rows`` are those of all shards together.

        Raises:
            EvalfmError: the weights are not there, or the encoder has no maps where they are asked for.
        """
        config = plan.config
        session = open_session(plan.encoder, config.encoder_config, manifest, None, progress, times=times, warm=warm)
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
        part, wanted = config.part, [int(row) for row in rows]
        if part is not None:
            wanted = [row for row, address in zip(wanted, source.addresses(wanted), strict=True) if part.holds(address)]
        return cls(plan, manifest, wanted, replace(session, source=source), source)

    def close(self) -> None:
        """End the workers."""
        self.session.close()

    @cached_property
    def ids(self) -> list[str]:
        """What the file calls the images."""
        own = [str(name) for name in self.manifest.table["id"].to_numpy(dtype=object)[np.array(self.rows, np.intp)]]
        return own if self.kind_of_ids != "hashed" else public_names(own, self.manifest.info).tolist()

    @property
    def kind_of_ids(self) -> str:
        """``public`` as the data set has them, ``plain`` for its own where these are not public, else ``hashed``."""
        if self.manifest.info.names_are_public:
            return "public"
        return "plain" if self.plan.config.plain_ids else "hashed"

    @cached_property
    def key(self) -> str:
        """Hash of all that the file depends on."""
        content = {
            "evalfm": evalfm.__version__,
            "features": [self.source.key, self.source.encoder.feature_path.name],
            "images": self.source.addresses(self.rows),
            "ids": self.ids,
            "maps": self.plan.config.maps,
            "shard": self.plan.config.shard,
        }
        return content_key(content)

    def existing(self) -> dict[str, Any] | None:
        """What the file says of itself where it is there and holds the same; None where it is to be written.

        Raises:
            EvalfmError: it holds other embeddings.
        """
        file = self.plan.file
        if not file.exists() or self.plan.config.force:
            return None
        facts = read_facts(file) or {}
        if facts.get("key") != self.key:
            raise EvalfmError(
                f"{file} is there already and holds other embeddings (of another encoder, other images or with other "
                "options); name another file, or write over it with --force."
            )
        return facts

    def extract(self, progress: Progress) -> int:
        """Bring the features into the store; how many images went through the encoder.

        Raises:
            EvalfmError: an image cannot be read, or a disk will not hold the features or the file.
        """
        maps = self.plan.config.maps
        self._check_space()
        missing = self.source.missing(self.rows, maps=maps) if self.rows else 0
        if not missing:
            return 0
        progress.say(forecast(self.source, missing, maps=maps))
        self.source.prefetch(self.rows, maps=maps)
        return self.source.encoded_images

    def write(self, progress: Progress) -> dict[str, Any]:
        """Write the file from the store; what it says of itself.

        Raises:
            EvalfmError: the disk is full or cannot be written.
        """
        file, layout = self.plan.file, self._layout()
        facts = self._facts(layout)
        table = EmbeddingTable(self.ids, self.source.pooled_dim, layout, facts)
        label, count = f"{self.session.name}: writing {file.name}", -(-len(self.rows) // table.piece_rows)
        with new_file(file) as place:
            WRITERS[file.suffix](place, table, progress.track(self._pieces(table), label, count))
        return facts

    def _facts(self, layout: Layout) -> dict[str, Any]:
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
            "shard": self.plan.config.shard,
            "images": len(self.rows),
            "ids": self.kind_of_ids,
            "key": self.key,
            "cautions": [asdict(each) for each in cautions],
        }

    def _check_space(self) -> None:
        folder, maps = self.plan.file.absolute().parent, self.plan.config.maps
        needed, free = estimate_bytes(self.source, len(self.rows), maps=maps), disk_usage(folder).free
        if needed > free:
            raise EvalfmError(
                f"{self.plan.file} would take {needed / GIGABYTE:.1f} GB and its disk has {free / GIGABYTE:.1f} GB "
                "free; name a file on another disk, or fewer images with --where or --limit."
            )

    def _layout(self) -> Layout:
        """Shape and dtype of each map that is written."""
        if not self.plan.config.maps:
            return ()
        if self.rows:
            return self.source.map_layout(self.rows)
        grids = zip(self.source.map_channels, map_grids(self.source), strict=True)
        return tuple(ArrayLayout((channels, *grid), "<f2") for channels, grid in grids)

    def _pieces(self, table: EmbeddingTable) -> Iterator[Piece]:
        """The features from the store, as many at once as memory shall hold."""
        for first in range(0, len(self.rows), table.piece_rows):
            rows = self.rows[first : first + table.piece_rows]
            features = self.source.features(rows, maps=self.plan.config.maps)
            yield features.pooled.cpu().numpy(), tuple(level.cpu().numpy() for level in features.maps)
