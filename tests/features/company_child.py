"""Run by test_encoded_company.py in a process of its own: extracts beside others and says how much it encoded."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
from conftest import CountingEncoder

from evalfm.data.manifest import read_data
from evalfm.features import segment_writer
from evalfm.features.encoded import EncodedSource
from evalfm.features.memory import MemoryBudget
from evalfm.features.running_encoder import encoded_here
from evalfm.features.store import FeatureStore
from evalfm.progress import Silent


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def main(folder: Path, data: Path, rows: list[int], maps: str, memory: int, seconds: float) -> None:
    segment_writer.COMMIT_SECONDS = 0.2
    encoder, heard, before = CountingEncoder(), Heard(), encoded_here()
    encoder.seconds = seconds
    encode = encoder.encode

    def told(batch: torch.Tensor, check: bool = True) -> object:
        features = encode(batch, check)
        print(sum(encoder.batches), flush=True)
        return features

    encoder.encode = told  # type: ignore[method-assign]
    source = EncodedSource(
        encoder,
        read_data(data),
        FeatureStore(folder),
        maps=maps or "auto",
        batch_size=4,
        workers=1,
        progress=heard,
        memory=MemoryBudget({"host": memory}),
    )
    with source:
        source.missing(rows)
        print("ready", flush=True)
        sys.stdin.readline()
        source.prefetch(rows, maps=bool(maps))
        features = source.features(rows, maps=bool(maps))
        encoded = source.encoded_images
    arrays = [each.float().numpy().tobytes() for each in (features.pooled, *features.maps)]
    digest = hashlib.sha256(b"".join(arrays)).hexdigest()
    told_here = encoded_here() - before
    print(json.dumps({"encoded": encoded, "here": told_here, "digest": digest, "said": heard.said}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), **json.loads(sys.argv[3]))
