"""2,000 patient-clustered bootstrap AUROCs at n = 10,000: weights at once against a loop over scikit-learn.

    python benchmarks/bootstrap_auroc.py

Both sides run in this process, one after the other, on the same data, and must agree on the same resamples.
The loop is timed on its first 100 resamples and scaled. Prints one ratio (loop time / our time).
"""

from __future__ import annotations

import time

import numpy as np
from sklearn.metrics import roc_auc_score

from evalfm.statistics.auroc import Auroc
from evalfm.statistics.resampling import bootstrap, identify, patient_weights

IMAGES, PATIENTS, RESAMPLES, LOOPED, SEED = 10_000, 5_000, 2_000, 100, 0


def main() -> None:
    generator = np.random.default_rng(SEED)
    patients = identify(np.concatenate([np.arange(PATIENTS), generator.integers(0, PATIENTS, IMAGES - PATIENTS)]))
    target = (generator.random(IMAGES) < 0.2).astype(float)
    score = generator.normal(size=IMAGES) + target
    ours, found = timed(lambda: ours_on(target, score, patients))
    loop, expected = timed(lambda: loop_on(target, score, patients))
    np.testing.assert_allclose(found[:LOOPED], expected, atol=1e-12)
    print(f"{loop * RESAMPLES / LOOPED / ours:.1f} (ours {ours:.2f} s, loop {loop * RESAMPLES / LOOPED:.2f} s)")


def ours_on(target, score, patients):
    statistic = Auroc(target, score, patients.codes, patients.count)
    return bootstrap({"auroc": statistic}, patients, resamples=RESAMPLES, seed=SEED)["auroc"]


def loop_on(target, score, patients):
    weights = patient_weights(patients, LOOPED, np.random.default_rng(SEED))
    areas = []
    for row in weights.astype(int):
        drawn = np.repeat(np.arange(IMAGES), row[patients.codes])
        areas.append(roc_auc_score(target[drawn], score[drawn]))
    return np.array(areas)


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
