"""Images through an encoder once: read ahead, computed without waiting, kept in memory or stored in the background."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from torch import Tensor

from evalfm.encoders.encoder import Encoder, finite_flag
from evalfm.encoders.model_input import model_input
from evalfm.errors import EvalfmError
from evalfm.features.extraction_plan import Destination, ExtractionPlan, Item
from evalfm.features.forward import Forward, device_of
from evalfm.features.leases import Leases
from evalfm.features.memory import HOST
from evalfm.features.profile import DOWNLOAD, ENCODE, NO_TIMES, UPLOAD, WAIT, WRITE, StageTimes
from evalfm.features.tiers import halved, pack
from evalfm.progress import SILENT, Progress

if TYPE_CHECKING:
    from evalfm.features.feature_arrays import FeatureArrays
    from evalfm.features.readers import PreparedBatch
    from evalfm.features.segment_writer import SegmentWriter

NO_LEASES = (
    "The feature store lies on a file system without hard links: several processes that encode the same images at once "
    "do not divide them."
)
IN_FLIGHT = 2
"""Batches that a GPU works on before the first of them is looked at."""


class BatchReader(Protocol):
    """Reads prepared images batch by batch: an ``ImageReader``, or one of what is kept on disk."""

    def batches(self, parts: Iterable[Sequence[int]]) -> Iterator[PreparedBatch]:
        """Prepared images of each of ``parts`` (rows), in order, read ahead."""


@dataclass(frozen=True)
class Work:
    """What was computed: calls of the encoder, images that went through it, and seconds from the first to the last."""

    calls: int = 0
    images: int = 0
    seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.calls + other.calls, self.images + other.images, self.seconds + other.seconds)


@dataclass(frozen=True)
class Encoded:
    """Features of a batch, looked at: all of them are finite.

    Attributes:
        rows: [B] of the manifest.
        sizes: [B] height and width of the images.
        pooled: float32 [B, D] on the CPU.
        maps: packed maps [B, C, h, w] on the encoder's device; empty where they were not asked for there.
        host_maps: the same on the CPU; likewise.
    """

    rows: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    pooled: Tensor
    maps: tuple[Tensor, ...] = ()
    host_maps: tuple[Tensor, ...] = ()


_Spans: TypeAlias = list[tuple[str, torch.cuda.Event, torch.cuda.Event]]
"""Stages of a batch on a GPU, from one event to another."""


@dataclass
class _Flight:
    """A batch that the device is at work on; its tensors must not be read before ``done``."""

    batch: PreparedBatch
    pixels: Tensor
    flags: Tensor
    pooled: Tensor
    maps: tuple[Tensor, ...]
    host_maps: tuple[Tensor, ...]
    done: torch.cuda.Event | None = None
    spans: _Spans = field(default_factory=list)


class SharedCount:
    """A count that threads add to.

    >>> tally = SharedCount()
    >>> tally.add(3)
    >>> tally.count
    3
    """

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Add ``count``."""
        with self._lock:
            self.count += count


ENCODED = SharedCount()
"""Images that have gone through any encoder in this process."""


class Pipeline:
    """Takes prepared images to an encoder's device and features down from it, without waiting for either.

    On a GPU, copies run beside the computing on streams of their own, and whether features are finite is asked
    ``in_flight`` batches late: always before they are handed on. On a CPU each batch is done when the next begins.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        times: StageTimes = NO_TIMES,
        in_flight: int | None = None,
        forward: Forward | None = None,
    ) -> None:
        """``in_flight``: batches computed before the first is looked at; by the device where None."""
        self._encoder = encoder
        self._forward = forward or Forward(encoder)
        self._device = device_of(encoder)
        self._times = times
        self._on_gpu = self._device.type == "cuda"
        self._in_flight = (IN_FLIGHT if self._on_gpu else 0) if in_flight is None else in_flight
        self._up = _stream(self._device) if self._on_gpu else None
        self._down = _stream(self._device) if self._on_gpu else None

    def encode(
        self, batches: Iterable[PreparedBatch], *, maps: bool = False, host_maps: bool = False
    ) -> Iterator[Encoded]:
        """Features of ``batches``, in order: with maps on the device, on the CPU, both or neither.

        Raises:
            EvalfmError: features are not finite or not as declared, or what ``batches`` raises.
        """
        flights: deque[_Flight] = deque()
        for batch in self._waited_for(batches):
            flights.append(self._launch(batch, maps, host_maps))
            while len(flights) > self._in_flight:
                yield self._landed(flights.popleft())
        while flights:
            yield self._landed(flights.popleft())

    def _waited_for(self, batches: Iterable[PreparedBatch]) -> Iterator[PreparedBatch]:
        iterator = iter(batches)
        while True:
            with self._times.stage(WAIT):
                batch = next(iterator, None)
            if batch is None:
                return
            self._times.update(batch.seconds)
            yield batch

    def _launch(self, batch: PreparedBatch, maps: bool, host_maps: bool) -> _Flight:
        spans: _Spans = []
        with self._on(self._up, UPLOAD, spans):
            pixels = batch.pixels.to(self._device, non_blocking=True)
        if self._up is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_stream(self._up)
            pixels.record_stream(computing)
        with self._on(None, ENCODE, spans):
            pooled, flags, packed = self._computed(pixels, maps or host_maps)
        if self._down is not None:
            self._down.wait_stream(torch.cuda.current_stream(self._device))
        with self._on(self._down, DOWNLOAD, spans):
            flight = _Flight(
                batch,
                pixels,
                self._to_host(flags),
                self._to_host(pooled),
                packed if maps else (),
                tuple(self._to_host(level) for level in packed) if host_maps else (),
                spans=spans,
            )
            if self._down is not None:
                flight.done = _event()
                flight.done.record(self._down)
        return flight

    def _computed(self, pixels: Tensor, maps: bool) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Pooled, flags [1 + levels] (finite; each level fits half precision) and half maps, on the device."""
        features = self._forward(model_input(pixels, self._encoder.preparer.facts))
        levels = [halved(level) for level in features.maps] if maps else []
        flags = torch.stack([finite_flag(features), *(fits for _, fits in levels)])
        return features.pooled.float(), flags, tuple(half for half, _ in levels)

    def _landed(self, flight: _Flight) -> Encoded:
        """The features of a batch, once they are known to be finite."""
        if flight.done is not None:
            flight.done.synchronize()
        for stage, start, end in flight.spans:
            # The last of them is recorded just behind what was waited for.
            end.synchronize()
            self._times.add(stage, start.elapsed_time(end) / 1000)
        finite, *fits = flight.flags.tolist()
        if not finite:
            raise EvalfmError(self._encoder.not_finite)
        maps, host_maps = flight.maps, flight.host_maps
        if not all(fits):
            # Rare enough to compute the batch once more rather than to hold float32 maps of every batch.
            features = self._forward(model_input(flight.pixels, self._encoder.preparer.facts))
            packed = tuple(pack(level) for level in features.maps)
            maps = packed if maps else ()
            host_maps = tuple(level.cpu() for level in packed) if host_maps else ()
        sizes = tuple(geometry.source for geometry in flight.batch.geometries)
        ENCODED.add(len(flight.batch.rows))
        return Encoded(flight.batch.rows, sizes, flight.pooled, maps, host_maps)

    def _on(self, stream: torch.cuda.Stream | None, stage: str, spans: _Spans) -> ExitStack:
        """A block on ``stream`` of a GPU, timed by its events; on a CPU by the clock."""
        stack = ExitStack()
        if not self._on_gpu:
            stack.enter_context(self._times.stage(stage))
            return stack
        if stream is not None:
            stack.enter_context(torch.cuda.stream(stream))
        if self._times.measures:
            on = stream or torch.cuda.current_stream(self._device)
            start, end = _event(timed=True), _event(timed=True)
            start.record(on)
            spans.append((stage, start, end))
            stack.callback(end.record, on)
        return stack

    def _to_host(self, tensor: Tensor) -> Tensor:
        if self._down is None:
            return tensor.cpu()
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._down)
        return host


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _event(*, timed: bool = False) -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=timed)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Extraction:
    """What became of an extraction.

    Attributes:
        work: what was computed.
        left: addresses that were left to other processes, which are encoding them.
    """

    work: Work
    left: frozenset[str] = frozenset()


def extract(
    pipeline: Pipeline,
    reader: BatchReader,
    items: Sequence[Item],
    to: Destination,
    *,
    batch_size: int,
    times: StageTimes = NO_TIMES,
    label: str = "features",
    progress: Progress = SILENT,
) -> Extraction:
    """Run the encoder over ``items`` and keep what ``to`` lacks of them, but for what other processes are encoding.

    Rows are appended batch by batch while the next ones are computed. What was committed when the process is killed
    stays, and the next call goes on with the rest. Nobody is waited for: see ``wait_for_others``.

    Args:
        pipeline: of the encoder, in evaluation mode.
        reader: reads the images of a row.
        items: what to extract, each address once.
        to: where the features go.
        batch_size: images per batch.
        times: where seconds per stage are added.
        label: what the bar is called.
        progress: where the work is shown.

    Raises:
        EvalfmError: an image cannot be read, features are not finite or not as declared, the disk is full.
    """
    address_of = {item.row: item.address for item in items}
    places = to.memory.places if to.memory is not None else frozenset()
    work, started = Work(), time.perf_counter()
    with ExitStack() as stack:
        # Given back when the writers have committed or dropped their rows.
        leases = stack.enter_context(Leases(to.cache.leases))
        plan = ExtractionPlan(items, batch_size, to, leases)
        pooled_writer = stack.enter_context(to.cache.pooled.writer())
        map_writer = stack.enter_context(to.cache.maps.writer()) if to.store_maps else None
        batches = pipeline.encode(
            reader.batches(plan.parts()),
            maps=bool(places - {HOST}),
            host_maps=map_writer is not None or HOST in places,
        )
        for batch in progress.track(batches, label, -(-len(items) // batch_size)):
            work += Work(1, len(batch.rows))
            addresses = [address_of[row] for row in batch.rows]
            if to.memory is not None:
                pooled = (
                    batch.pooled
                    if plan.pooled.issuperset(addresses)
                    else as_stored(batch.pooled, addresses, to.cache.pooled)
                )
                to.memory.put(addresses, pooled, batch.maps, batch.host_maps)
            with times.stage(WRITE):
                _append(pooled_writer, addresses, plan.pooled, batch.sizes, (batch.pooled,))
                if map_writer is not None:
                    _append(map_writer, addresses, plan.maps, batch.sizes, batch.host_maps)
        with times.stage(WRITE):
            for writer in (map_writer, pooled_writer):
                if writer is not None:
                    writer.flush()
        if leases.refused:
            progress.say(NO_LEASES)
    return Extraction(work + Work(seconds=time.perf_counter() - started), plan.left)


def _append(
    writer: SegmentWriter,
    addresses: Sequence[str],
    lacking: set[str],
    sizes: Sequence[tuple[int, int]],
    arrays: Sequence[Tensor],
) -> None:
    keep = [number for number, address in enumerate(addresses) if address in lacking]
    if not keep:
        return
    if len(keep) < len(addresses):
        addresses, sizes = [addresses[number] for number in keep], [sizes[number] for number in keep]
        arrays = [array[keep] for array in arrays]
    writer.append(addresses, sizes, [array.numpy() for array in arrays])


def as_stored(pooled: Tensor, addresses: Sequence[str], stored: FeatureArrays) -> Tensor:
    """Pooled features [B, D], those that are stored already as they are stored: another batch may round otherwise."""
    lacking = set(stored.missing(addresses))
    known = [number for number, address in enumerate(addresses) if address not in lacking]
    if not known:
        return pooled
    whole = pooled.clone()
    # What turns out damaged is computed again for the store when it is next asked for.
    with contextlib.suppress(KeyError):
        (whole[known],) = stored.read([addresses[number] for number in known])
    return whole
