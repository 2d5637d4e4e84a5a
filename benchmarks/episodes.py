"""Linear probes of few-shot episodes solved in one batch against a loop of scikit-learn fits on the same features.

    python benchmarks/episodes.py [--episodes 1000] [--classes 5] [--shots 5] [--dimensions 512] [--rounds 3]

Both sides get the same stored features, divided by their length, and the same episodes; what is timed is gathering an
episode's features, fit and prediction, AUROC apart. Ours is timed ``--rounds`` times and all are printed, the fastest
counts. The loop runs on one thread: on two it is several times slower, for its problems are small. On a machine that
others use too the clock on the wall says little, so processor seconds, both sides on one thread, stand beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from evalfm.data.episodes import Episodes, draw_episodes
from evalfm.heads.episodic import Answers, normalised, solve
from evalfm.statistics.auroc import episode_auroc

IMAGES, QUERIES = 5000, 10


def stored(classes: int, dimensions: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Features as embeddings are: a falling spectrum, a common mean, classes that overlap."""
    generator = np.random.default_rng(0)
    label = generator.integers(classes, size=IMAGES)
    centre = generator.normal(size=(classes, dimensions)) * 0.05
    noise = generator.normal(size=(IMAGES, dimensions)) * np.arange(1, dimensions + 1) ** -0.25
    return (noise + centre[label] + 0.3).astype(np.float32), label


def drawn(label: NDArray[np.intp], options: argparse.Namespace) -> Episodes:
    names = np.arange(IMAGES).astype(str).astype(object)
    split = np.where(np.arange(IMAGES) < 0.7 * IMAGES, "train", "test").astype(object)
    return draw_episodes(
        label,
        names,
        names.tolist(),
        [f"class {each}" for each in range(options.classes)],
        shots=options.shots,
        queries=QUERIES,
        episodes=options.episodes,
        seed=0,
        split=split,
    )


def loop(features: NDArray[np.float64], episodes: Episodes) -> NDArray[np.float64]:
    """Probabilities [E, C · q, C] by one fit after the other."""
    classes, shots = episodes.support.shape[1:]
    truth = np.repeat(np.arange(classes), shots)
    found = []
    for support, query in zip(episodes.support, episodes.query, strict=True):
        model = LogisticRegression(max_iter=1000).fit(features[support.ravel()], truth)
        found.append(model.predict_proba(features[query.ravel()]))
    return np.stack(found)


@dataclass(frozen=True)
class Timed:
    """What some work gave, and its seconds by the clock on the wall and of the processor."""

    result: Any
    wall: float
    processor: float


def timed(work: Callable[[], Any]) -> Timed:
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return Timed(result, time.perf_counter() - wall, time.process_time() - processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pooled, label = stored(options.classes, options.dimensions)
    started = time.perf_counter()
    episodes = drawn(label, options)
    draw = time.perf_counter() - started
    features = normalised(torch.from_numpy(pooled))

    def ours_once() -> Answers:
        return solve("linear", features, episodes.support, episodes.query)

    threads = torch.get_num_threads()
    rounds = [timed(ours_once) for _ in range(options.rounds)]
    torch.set_num_threads(1)
    alone = [timed(ours_once) for _ in range(options.rounds)]
    with threadpool_limits(1):
        other = timed(lambda: loop(features.numpy(), episodes))
    answers, probability = rounds[0].result, other.result
    shape = (options.episodes, options.classes, QUERIES, options.classes)
    ours, theirs = episode_auroc(answers.scores.reshape(shape).numpy()), episode_auroc(probability.reshape(shape))
    truth = np.repeat(np.arange(options.classes), QUERIES)
    checked = [
        roc_auc_score(truth, each if options.classes > 2 else each[:, 1], multi_class="ovr")
        for each in probability[:50]
    ]
    assert np.allclose(checked, theirs[:50])
    assert bool(answers.converged.all())
    best, own = min(each.wall for each in rounds), min(each.processor for each in alone)
    told = ", ".join(f"{each.wall:.2f}" for each in rounds)
    print(
        f"{options.episodes} episodes, {options.classes} classes, {options.shots} shots, {options.dimensions} features"
    )
    print(f"ours {told} s on {threads} threads (draw {draw:.2f} s); loop {other.wall:.1f} s; {other.wall / best:.1f}")
    print(f"processor seconds, one thread: {own:.2f} against {other.processor:.2f}; {other.processor / own:.1f}")
    print(
        f"mean AUROC {ours.mean():.5f} against {theirs.mean():.5f}; an episode's at most {abs(ours - theirs).max():.1e}"
    )


if __name__ == "__main__":
    main()
