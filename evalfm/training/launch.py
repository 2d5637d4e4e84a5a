"""Running a training: in this process or in several, with less memory where it is short."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from evalfm.cautions import Caution
from evalfm.data.geometry import Geometry
from evalfm.encoders.adaptation.checkpointing import activation_checkpointing
from evalfm.encoders.encoder import Features, Precision
from evalfm.encoders.preprocessing import Preparer
from evalfm.errors import EvalfmError
from evalfm.heads.head import Examples
from evalfm.progress import SILENT, Progress
from evalfm.training.job import Job
from evalfm.training.loop import train
from evalfm.training.team import Team

CPU_MICRO_BATCH = 16
TOLD, FAULT, SHORT = "told.txt", "fault.txt", "short-of-memory"
"""Files by which worker processes speak to the one that started them."""


@dataclass(frozen=True)
class Fitting:
    """How a step is made to fit into memory.

    Attributes:
        micro_batch: images per process and forward pass; gradients are added up to the effective batch.
        recompute: activation checkpointing: activations are computed again in the backward pass.
    """

    micro_batch: int
    recompute: bool = False


def run_job(job: Job, device: torch.device, precision: Precision, progress: Progress) -> tuple[Caution, ...]:
    """Train to the end; the result is the checkpoint in the job's folder. Cautions that the run must repeat.

    A step that does not fit the memory is tried again from the last checkpoint, first with activation
    checkpointing, then with half the micro-batch, each said aloud.

    Raises:
        EvalfmError: not even one image fits; or as ``train``.
    """
    share = max(1, job.recipe.batch_size // job.processes)
    fitting = Fitting(min(share, CPU_MICRO_BATCH) if device.type == "cpu" else share)
    job.folder.mkdir(parents=True, exist_ok=True)
    cautions: list[Caution] = []
    while True:
        short = False
        try:
            if job.processes == 1:
                train(job, Team(device, precision), fitting.micro_batch, progress.say)
            else:
                _in_processes(job, device, precision, fitting, progress)
        except torch.OutOfMemoryError:
            # Not retried in here: the error holds on to what filled the memory.
            short = True
        if not short:
            return tuple(cautions)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        fitting, told = _smaller(job, fitting, device)
        cautions.append(Caution("memory", told))
        progress.say(told)


def _smaller(job: Job, fitting: Fitting, device: torch.device) -> tuple[Fitting, str]:
    """Less memory than ``fitting``, and a sentence that says how."""
    if not fitting.recompute and activation_checkpointing(job.encoder):
        return replace(fitting, recompute=True), "Memory was short: activation checkpointing is on."
    half = fitting.micro_batch // 2
    if half == 0:
        raise EvalfmError(
            f"Not even one image of {job.encoder.card.name} can be trained in the memory of {device}; "
            "take --adaptation lora or frozen, a smaller --input-size, or a larger device."
        )
    told = (
        f"Memory was short: micro-batches of {half} image(s) make up the batch of {job.recipe.batch_size}; "
        "batch Dice and batch norm see one micro-batch at a time."
    )
    return replace(fitting, micro_batch=half), told


@dataclass(frozen=True)
class _Places:
    """Where films lie in the encoder's input: all that a worker asks of a feature source."""

    preparer: Preparer
    size: Callable[[int], tuple[int, int]]
    name: str = "images"
    key: str = ""
    pooled_dim: int = 0
    map_channels: tuple[int, ...] = ()
    map_strides: tuple[int, ...] = ()

    @property
    def input_size(self) -> tuple[int, int]:
        return self.preparer.facts.input_size

    def geometry(self, row: int) -> Geometry:
        return self.preparer.geometry_of(*self.size(row))

    def features(self, rows: object, *, maps: bool = False) -> Features:
        raise NotImplementedError("films are trained on here, not stored features")


def sendable(job: Job, size: Callable[[int], tuple[int, int]]) -> Job:
    """``job`` without what another process cannot be sent: feature stores and bars."""

    def plain(examples: Examples) -> Examples:
        return replace(examples, source=_Places(job.encoder.preparer, size))

    context = replace(job.context, progress=SILENT)
    return replace(job, train=plain(job.train), val=plain(job.val), context=context)


def _in_processes(job: Job, device: torch.device, precision: Precision, fitting: Fitting, progress: Progress) -> None:
    """Start the workers by torch elastic, repeat what the first says, and pass on what stops them."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if device.type == "cuda" and job.processes > torch.cuda.device_count():
        raise EvalfmError(
            f"{job.processes} processes need as many GPUs and there are {torch.cuda.device_count()}; "
            f"say --processes {torch.cuda.device_count()}."
        )
    for name in (TOLD, FAULT, SHORT):
        (job.folder / name).unlink(missing_ok=True)
    # Read by a worker when it loads torch; DDP would warn that every parameter is used, which some heads do not.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    configuration = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=job.folder.name,
        max_restarts=0,
        start_method="spawn",
        monitor_interval=0.2,
    )
    job.encoder.cpu()
    job.module.cpu()
    try:
        with _repeating(job.folder / TOLD, progress.say):
            elastic_launch(configuration, work_on)(job, device.type, precision, fitting.micro_batch)
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        if (job.folder / SHORT).is_file():
            raise torch.OutOfMemoryError from None
        if (job.folder / FAULT).is_file():
            raise EvalfmError((job.folder / FAULT).read_text(encoding="utf-8")) from None
        raise EvalfmError(
            f"A training process died ({str(error).strip().splitlines()[0]}); type the same command again to go on "
            "from the last checkpoint, or leave --processes out."
        ) from None
    finally:
        job.encoder.to(device)
        job.module.to(device)


def work_on(job: Job, device: str, precision: Precision, micro_batch: int) -> None:
    """What every worker process does; the first one's words go into a file."""
    if device == "cpu":
        # Said to accelerate too, which would warn that nobody has.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // job.processes)))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.processes))
    try:
        team = Team(torch.device(device), precision, job.processes)
        told = (job.folder / TOLD).open("a", encoding="utf-8")
        with told:

            def say(message: str) -> None:
                told.write(message + "\n")
                told.flush()

            train(job, team, micro_batch, say)
    except EvalfmError as error:
        (job.folder / FAULT).write_text(str(error), encoding="utf-8")
        raise SystemExit(3) from None
    except torch.OutOfMemoryError:
        (job.folder / SHORT).touch()
        raise SystemExit(4) from None
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@contextmanager
def _repeating(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Say every line that appears in ``path`` while the block runs."""
    stop = threading.Event()

    def follow() -> None:
        seen = 0
        while True:
            last = stop.wait(0.2)
            if path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines()
                for line in lines[seen:]:
                    say(line)
                seen = len(lines)
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
