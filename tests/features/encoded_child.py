"""Run by test_encoded_kills.py in a process of its own: extracts slowly, says what it sees, and waits to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from conftest import CountingEncoder, Radiographs

from evalfm.features import segment_writer
from evalfm.features.encoded import EncodedSource
from evalfm.features.memory import MemoryBudget
from evalfm.features.store import FeatureStore

IMAGES = 24


def source(folder: Path, seconds: float = 0.0) -> EncodedSource:
    encoder = CountingEncoder()
    encoder.seconds = seconds
    images, store = Radiographs(list(range(IMAGES))), FeatureStore(folder)
    return EncodedSource(encoder, images, store, maps="store", batch_size=2, memory=MemoryBudget({"host": 10**7}))


def main(folder: Path, seconds: float) -> None:
    segment_writer.COMMIT_BYTES = 1
    opened = source(folder, seconds)
    encode = opened.encoder.encode

    def said(batch: torch.Tensor, check: bool = True) -> object:
        print(sum(opened.encoder.batches), flush=True)
        return encode(batch, check)

    opened.encoder.encode = said  # type: ignore[method-assign]
    opened.prefetch(range(IMAGES), maps=True)
    print("done", opened.encoded_images, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), float(sys.argv[2]))
