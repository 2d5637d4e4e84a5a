"""An encoder loaded for the images of a cohort, with the features that heads read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from evalfm.cautions import Caution
from evalfm.config import EncoderConfig
from evalfm.data.manifest import Manifest
from evalfm.data.registered import cache_folder
from evalfm.encoder_options import EncoderOptions
from evalfm.encoders import load_encoder
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.choice import layers_text
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.loading import SEED
from evalfm.encoders.reference import EncoderLike, EncoderRef
from evalfm.errors import EvalfmError
from evalfm.features.cost import seconds_per_image
from evalfm.features.encoded import USUAL_PASSES, EncodedSource
from evalfm.features.profile import NO_TIMES, StageTimes
from evalfm.features.source import FeatureSource
from evalfm.features.store import FeatureStore, estimate_bytes
from evalfm.features.tables import ConstantSource, MetadataSource, PrecomputedSource
from evalfm.probing.provenance import peak_memory_bytes
from evalfm.probing.warm import WarmEncoders
from evalfm.progress import Progress
from evalfm.workers.devices import resolve

METADATA = ("sex", "age", "view")
"""What is known of an image before looking at it."""
TRIAL_FROM = 100
"""Fewer images are encoded before a trial would have shown how long it takes."""


@dataclass(frozen=True)
class EncoderSession:
    """A feature source per manifest, with what a run records of the encoder behind them.

    Attributes:
        name: the encoder's name in runs and tables.
        source: features of the cohort's manifest; ``test`` those of the separate test data, if any.
        card: the card, whole, as plain values.
        weights_digest: SHA-256 of the weights, or None where there are none.
        random_weights: True where nothing was learnt before.
        devices: where the encoder runs: features on the first of them, a training on all.
        precision: how features are computed.
        training_precision: in which the encoder would be trained: as ``precision``; where none was chosen, bfloat16 on
            a GPU that has it, else float16 with loss scaling. The weights that are trained stay float32.
        redraw: makes the encoder again with random weights of another seed; None where weights were learnt.
        requested: the settings that were chosen, as a run may show them.
        cautions: what the encoder says of itself, such as colour reduced to grey.
        times: where seconds per stage are added.
    """

    name: str
    source: FeatureSource
    test: FeatureSource | None
    card: dict[str, Any]
    weights_digest: str | None = None
    random_weights: bool = False
    devices: tuple[str, ...] = ("cpu",)
    precision: str = "float32"
    training_precision: str = "float32"
    requested: dict[str, Any] = field(default_factory=dict)
    redraw: Callable[[int], Encoder] | None = None
    cautions: tuple[Caution, ...] = field(default=())
    times: StageTimes = NO_TIMES

    @property
    def device(self) -> str:
        """Where features are computed."""
        return self.devices[0]

    def close(self) -> None:
        """End the workers that read images, and give the memory of feature maps back."""
        for source in (self.source, self.test):
            if isinstance(source, EncodedSource):
                source.close()

    @property
    def feature_cautions(self) -> tuple[Caution, ...]:
        """What the sources say of where features came from; known once they were read."""
        sources = [source for source in (self.source, self.test) if isinstance(source, EncodedSource)]
        return tuple(dict.fromkeys(caution for source in sources for caution in source.cautions))


def compute_ahead(
    source: FeatureSource,
    rows: NDArray[np.intp],
    *,
    maps: bool,
    progress: Progress,
    passes: float = USUAL_PASSES,
) -> None:
    """Compute what heads will read of ``rows`` in one sweep, having said what it costs; tables cost nothing.

    ``passes`` is how often each map will be read.
    """
    if not isinstance(source, EncodedSource):
        return
    wanted = rows.tolist()
    source.expect(wanted, maps=maps, passes=passes)
    missing = source.missing(wanted, maps=maps)
    if maps and source.map_costs is not None:
        progress.say(f"{source.name}: {source.map_costs.sentence}")
    if missing:
        progress.say(forecast(source, missing, maps=maps, in_memory=source.holds(wanted)))
    source.prefetch(wanted, maps=maps)


def forecast(source: EncodedSource, images: int, *, maps: bool, in_memory: bool = False) -> str:
    """What encoding ``images`` will take: disk, memory so far and, where a trial is worth it, time.

    ``in_memory`` says that there is memory for the maps of all of them.
    """
    stored = maps and source.maps_policy == "store"
    gigabytes = estimate_bytes(source, images, maps=stored) / 1e9
    sentence = f"{source.name}: {images} images to encode, {gigabytes:.2f} GB of disk"
    if images >= TRIAL_FROM:
        sentence += f", about {images * seconds_per_image(source.encoder):.0f} s"
    memory = peak_memory_bytes()
    sentence += "" if memory is None else f"; {memory / 1e9:.1f} GB of memory so far"
    if not maps or stored:
        return sentence
    return sentence + ("; maps stay in memory" if in_memory else "; maps are computed anew in every pass")


def training_forecast(source: EncodedSource, images: int, epochs: int, processes: int) -> str:
    """What training the encoder on ``images`` will take: a step costs about three forward passes."""
    weights = sum(parameter.nbytes for parameter in source.encoder.parameters())
    seconds = 3 * images * seconds_per_image(source.encoder) / processes
    return (
        f"{source.name}: up to {epochs} epochs of {images} images, about {seconds:.0f} s each; "
        f"{5 * weights / 1e9:.2f} GB of disk for checkpoints at most"
    )


def open_session(
    encoder: EncoderLike,
    settings: EncoderConfig,
    manifest: Manifest,
    test: Manifest | None,
    progress: Progress,
    hidden: frozenset[str] = frozenset(),
    times: StageTimes = NO_TIMES,
    warm: WarmEncoders | None = None,
) -> EncoderSession:
    """Open ``encoder`` on ``manifest`` (and on ``test``): a table of features, or a model over images.

    ``hidden`` columns are kept from the metadata: the cohort's own targets. An encoder that is ``warm`` is not loaded.

    Raises:
        EvalfmError: unknown name, missing weights, or no usable metadata.
    """
    ref = EncoderRef.parse(encoder).choosing(settings.pooling, settings.layers)
    if ref.is_table:
        kind, make = ref.kind, TABLES[ref.kind]
        source = make(manifest, ref.path, hidden, manifest)
        tested = None if test is None else make(test, ref.path, hidden, manifest)
        card: dict[str, Any] = {"name": kind, "family": "table", "paradigm": "none", "pretraining_data": []}
        return EncoderSession(kind, source, tested, card, times=times)
    devices = resolve(settings.devices)
    device = devices[0]
    loaded = (warm or WarmEncoders(0)).get(ref, settings, device, SEED, lambda: _load(ref, settings, device))
    store = FeatureStore(cache_folder() / "features")

    def source_of(images: Manifest) -> EncodedSource:
        return EncodedSource(
            loaded,
            images,
            store,
            maps=settings.maps,
            batch_size=settings.batch_size,
            workers=settings.workers,
            cache_images=settings.cache_images,
            progress=progress,
            times=times,
        )

    return EncoderSession(
        name=loaded.card.name,
        source=source_of(manifest),
        test=None if test is None else source_of(test),
        card=loaded.card.model_dump(mode="json", by_alias=True),
        weights_digest=loaded.weights_digest,
        random_weights=loaded.random_weights,
        devices=devices,
        precision=loaded.precision,
        training_precision=_training_precision(settings, device, loaded.precision),
        requested=_public(settings, loaded.card),
        redraw=_redraw(ref, settings, device) if loaded.random_weights else None,
        cautions=loaded.cautions,
        times=times,
    )


def _load(encoder: EncoderRef, settings: EncoderConfig, device: str, seed: int = SEED) -> Encoder:
    """The encoder on ``device``; one from code decides its own precision unless the caller insists."""
    return load_encoder(
        encoder,
        weights=settings.weights,
        input_size=settings.input_size,
        resize=settings.resize,
        precision=settings.precision,
        compile=settings.compile,
        device=device,
        seed=seed,
    )


def _redraw(encoder: EncoderRef, settings: EncoderConfig, device: str) -> Callable[[int], Encoder]:
    """What makes an encoder with random weights of a given seed; one from code is as its code makes it."""

    def redrawn(seed: int) -> Encoder:
        return _load(encoder, settings, device, seed)

    return redrawn


def _public(settings: EncoderConfig, card: EncoderCard) -> dict[str, Any]:
    """The settings as a run may show them: a path of weights becomes the word ``file``, and what is taken is said."""
    weights = settings.weights if settings.weights in ("hub", "random") else "file"
    shown = settings.model_dump(mode="json", include={*EncoderOptions.model_fields, "maps", "batch_size"})
    layers = layers_text(card.map_layers) if card.map_layers else None
    return {**shown, "weights": weights, "pooling": card.pooling, "layers": layers}


def _training_precision(settings: EncoderConfig, device: str, precision: str) -> str:
    """As for frozen features; ``auto`` is bfloat16 on a GPU that has it, else float16 with loss scaling."""
    if settings.precision == "auto" and device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return precision


def metadata_columns(manifest: Manifest, hidden: frozenset[str]) -> list[str]:
    """Sex, age and view as far as the manifest declares them, without the cohort's own targets."""
    declared = set(manifest.info.attributes) & set(map(str, manifest.table.columns))
    return [name for name in METADATA if name in declared and name not in hidden]


def _metadata(manifest: Manifest, path: str | None, hidden: frozenset[str], learnt_on: Manifest) -> FeatureSource:
    """Sex, age and view; other data are read with the levels of the data that were learnt on."""
    columns = metadata_columns(learnt_on, hidden)
    if not columns:
        raise EvalfmError(
            f"Data set {learnt_on.info.name} declares none of {', '.join(METADATA)}; take an encoder of images."
        )
    levels = {
        name: tuple(sorted({str(value) for value in learnt_on.table[name].dropna()}))
        for name in columns
        if not pd.api.types.is_numeric_dtype(learnt_on.table[name])
    }
    return MetadataSource(manifest, columns, levels)


def _precomputed(manifest: Manifest, path: str | None, hidden: frozenset[str], learnt_on: Manifest) -> FeatureSource:
    if path is None:
        raise EvalfmError("Say which file holds the embeddings: --encoder precomputed:embeddings.parquet.")
    return PrecomputedSource(manifest, path)


TABLES: dict[str, Callable[[Manifest, str | None, frozenset[str], Manifest], FeatureSource]] = {
    "constant": lambda manifest, path, hidden, learnt_on: ConstantSource(manifest),
    "metadata": _metadata,
    "precomputed": _precomputed,
}
"""Sources of features that are no image encoders, by kind.

Each is made for a manifest, from the path in its name, without the hidden columns, in the form of the manifest
that the head learns on.
"""
