"""A second probe on the same encoder and data against the first, which extracts the features.

    python benchmarks/second_probe.py [--encoder resnet50] [--images 1000]

Prints the ratio of their seconds (process start apart) and how many batches the encoder saw in each; the second must
see none. Then ten more radiographs are added, and the encoder sees just those.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EVALFM_HOME"] = folder
        from evalfm.data.phantom import make_phantom
        from evalfm.encoders import Encoder, load_encoder
        from evalfm.probing.probe import probe

        encoder = load_encoder(options.encoder, weights="random")
        seen = 0
        forward = encoder._forward

        def counted(batch):
            nonlocal seen
            seen += len(batch)
            return forward(batch)

        encoder._forward = counted  # type: ignore[method-assign]
        assert isinstance(encoder, Encoder)
        large = make_phantom(Path(folder) / "data", n=options.images + 10, size=224)
        small = large.select(list(range(options.images)))

        def timed(manifest, task: str) -> tuple[float, int]:
            nonlocal seen
            seen, started = 0, time.perf_counter()
            probe(encoder, task, data=manifest, heads=["linear"], baselines="none", out=Path(folder) / "runs")
            return time.perf_counter() - started, seen

        first, radiographs = timed(small, "ptx-cls")
        second, again = timed(small, "cardiomegaly-cls")
        _, more = timed(large, "cardiomegaly-cls")
        print(
            f"{second / first:.3f} (first {first:.1f} s, {radiographs} images encoded; second {second:.1f} s, {again}; "
            f"ten more rows: {more})"
        )


if __name__ == "__main__":
    main()
