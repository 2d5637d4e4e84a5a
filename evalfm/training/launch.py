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
from evalfm.data.manifest import Manifest
from evalfm.encoders.adaptation.checkpointing import activation_checkpointing
from evalfm.encoders.encoder import Encoder, Features, Precision
from evalfm.errors import EvalfmError
from evalfm.features.source import DeclaredByEncoder
from evalfm.heads.head import Examples
from evalfm.progress import SILENT, Progress
from evalfm.training.checkpoint import TrainingState, in_memory, read_state
from evalfm.training.distributed import Distributed
from evalfm.training.job import EncoderWithHead, TrainingJob, trained_tensors
from evalfm.training.loop import train
from evalfm.training.recipe import EpochPlan

CPU_MICRO_BATCH = 16
MESSAGES, FAULT, SHORT = "messages.txt", "fault.txt", "short-of-memory"
"""Files by which worker processes speak to the one that started them."""


@dataclass(frozen=True)
class MemoryPlan:
    """How a step is made to fit into memory.

    Attributes:
        micro_batch: images per process and forward pass; gradients are added up to the effective batch.
        recompute: activation checkpointing: activations are computed again in the backward pass.
    """

    micro_batch: int
    recompute: bool = False


def run_job(
    job: TrainingJob, device: torch.device, precision: Precision, progress: Progress
) -> tuple[TrainingState, tuple[Caution, ...]]:
    """Train to the end: the last state with the best tensors, and cautions that the run must repeat.

    A step that does not fit the memory is tried again from the last checkpoint (or the start), first with activation
    checkpointing, then with half the micro-batch, each said aloud.

    Raises:
        EvalfmError: not even one image fits; or as ``train``.
    """
    # Before any process is started, which takes seconds.
    EpochPlan.of(job.recipe, len(job.train), job.processes)
    share = max(1, job.recipe.batch_size // job.processes)
    plan = MemoryPlan(min(share, CPU_MICRO_BATCH) if device.type == "cpu" else share)
    job.folder.mkdir(parents=True, exist_ok=True)
    trained = trained_tensors(EncoderWithHead(job.encoder, job.module), job.adaptation)
    start = in_memory(trained) if job.processes == 1 else {}
    cautions: list[Caution] = []
    while True:
        try:
            if job.processes == 1:
                state = train(job, Distributed(device, precision), plan.micro_batch, progress.say)
            else:
                state = _in_processes(job, device, precision, plan, progress)
            return state, tuple(cautions)
        except torch.OutOfMemoryError:
            # Not retried in here: the error holds on to what filled the memory.
            pass
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        with torch.no_grad():
            for name, value in start.items():
                trained[name].copy_(value)
        plan, sentence = _smaller(job, plan, device)
        cautions.append(Caution("memory", sentence))
        progress.say(sentence)


def _smaller(job: TrainingJob, plan: MemoryPlan, device: torch.device) -> tuple[MemoryPlan, str]:
    """Less memory than ``plan``, and a sentence that says how."""
    if not plan.recompute and activation_checkpointing(job.encoder):
        return replace(plan, recompute=True), "Memory was short: activation checkpointing is on."
    half = plan.micro_batch // 2
    if half == 0:
        raise EvalfmError(
            f"Not even one image of {job.encoder.card.name} can be trained in the memory of {device}; "
            "take --adaptation lora or frozen, a smaller --input-size, or a larger device."
        )
    sentence = (
        f"Memory was short: micro-batches of {half} image(s) make up the batch of {job.recipe.batch_size}; "
        "batch Dice and batch norm see one micro-batch at a time."
    )
    return replace(plan, micro_batch=half), sentence


@dataclass(frozen=True)
class _ImagePlaces(DeclaredByEncoder):
    """Where images lie in the encoder's input: all that a worker asks of a feature source."""

    encoder: Encoder
    manifest: Manifest
    key: str = ""

    def geometry(self, row: int) -> Geometry:
        return self.encoder.geometry_of(*self.manifest.size(row))

    def features(self, rows: object, *, maps: bool = False) -> Features:
        raise NotImplementedError("images are trained on here, not stored features")


def sendable(job: TrainingJob) -> TrainingJob:
    """``job`` without what another process cannot be sent: feature stores and bars."""

    def plain(examples: Examples) -> Examples:
        return replace(examples, source=_ImagePlaces(job.encoder, job.manifest))

    context = replace(job.context, progress=SILENT)
    return replace(job, train=plain(job.train), val=plain(job.val), context=context)


def _in_processes(
    job: TrainingJob, device: torch.device, precision: Precision, plan: MemoryPlan, progress: Progress
) -> TrainingState:
    """Start the workers by torch elastic, repeat what the first says, and pass on what stops them."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if device.type == "cuda" and job.processes > torch.cuda.device_count():
        raise EvalfmError(
            f"{job.processes} processes need as many GPUs and there are {torch.cuda.device_count()}; "
            "name those that are there with --devices."
        )
    for name in (MESSAGES, FAULT, SHORT):
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
        with _repeating(job.folder / MESSAGES, progress.say):
            elastic_launch(configuration, work_on)(job, device.type, precision, plan.micro_batch)
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        if (job.folder / SHORT).is_file():
            raise torch.OutOfMemoryError from None
        if (job.folder / FAULT).is_file():
            raise EvalfmError((job.folder / FAULT).read_text(encoding="utf-8")) from None
        raise EvalfmError(
            f"A training process died ({str(error).strip().splitlines()[0]}); type the same command again to go on "
            "from the last checkpoint, or name one device with --devices."
        ) from None
    finally:
        job.encoder.to(device)
        job.module.to(device)
    state = read_state(job.folder)
    assert state is not None
    return state


def work_on(job: TrainingJob, device: str, precision: Precision, micro_batch: int) -> None:
    """What every worker process does; the first one's words go into a file."""
    if device == "cpu":
        # Said to accelerate too, which would warn that nobody has.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // job.processes)))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.processes))
    try:
        processes = Distributed(torch.device(device), precision, job.processes)
        with (job.folder / MESSAGES).open("a", encoding="utf-8") as stream:

            def say(message: str) -> None:
                stream.write(message + "\n")
                stream.flush()

            train(job, processes, micro_batch, say)
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
