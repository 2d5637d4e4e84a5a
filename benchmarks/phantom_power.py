"""How often the subgroup tests find that a head leans on the tube, over how tightly the tube went with its labels.

    python benchmarks/phantom_power.py [--studies 500]

A linear head on the `hog` embedding of 1,000 phantom images (C by the log-loss of 300 others), in which the tube goes
with pneumothorax by a dial: 0 is 30 % of either kind of image, 1 is 80 % and 5 %, the two sets of docs/shortcuts.md.
Each study asks the head's scores of 300 further images, three in ten of them with a tube for either label. Every image
is drawn with and without its tube, so that what the tube does to the logit is known. Seeds are 0, 1, 2, …
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import evalfm
from evalfm.data.images import Image
from evalfm.data.phantom import render
from evalfm.statistics.fixed_label import at_fixed_label
from evalfm.statistics.subgroups import SubgroupScores

SEED, TRAIN, VALIDATION, POOL, TESTED = 11, 1000, 300, 1100, 300
STRENGTHS = 10.0 ** np.arange(-6, 1)
DIAL = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=500)
    options = parser.parse_args()
    features, label, patient = drawn(TRAIN + VALIDATION + POOL)
    place = np.arange(len(label))
    learnt, chosen, pool = np.split(place, [TRAIN, TRAIN + VALIDATION])
    print("| dial | what the tube adds, SD of negatives | AUROC(a given y = 0) | effect at y = 0 | verdict |")
    print("|---" * 5 + "|")
    for dial in DIAL:
        share = np.where(label, 0.3 + 0.5 * dial, 0.3 - 0.25 * dial)
        tube = (np.random.default_rng(SEED).random(len(label)) < share).astype(int)
        head = fitted(features[tube, place], label, learnt, chosen)
        logit = np.stack([head.decision_function(each[pool]) for each in features])
        negative = ~label[pool]
        spread = np.where(np.random.default_rng(SEED).random(POOL) < 0.3, logit[1], logit[0])[negative].std()
        added = (logit[1] - logit[0])[negative].mean() / spread
        rejected = np.zeros(3)
        for seed in range(options.studies):
            generator = np.random.default_rng(seed)
            rows = generator.permutation(POOL)[:TESTED]
            member = generator.random(TESTED) < 0.3
            score = logit[member.astype(int), rows]
            found = at_fixed_label(SubgroupScores.of(label[pool][rows], score, member, patient[pool][rows]))[0]
            effect = found.effect.p < 0.05
            rejected += [found.p < 0.05, effect, effect and found.excludes_chance]
        cells = " | ".join(f"{count / options.studies:.3f}" for count in rejected)
        print(f"| {dial:g} | {added:+.2f} | {cells} |", flush=True)


def drawn(radiographs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings [2, images, D] without and with a tube, whether there is a pneumothorax, and whose images they are."""
    encoder = evalfm.load_encoder("hog")
    features, label, patient = [], [], []
    for index in range(radiographs):
        pair = [render(SEED, index, tube=tube) for tube in (False, True)]
        batch = [
            encoder.prepare(Image(radiograph.pixels[None], "unit-interval", 8, None, "phantom"))[0]
            for radiograph in pair
        ]
        features.append(encoder.encode(torch.stack(batch)).pooled.numpy())
        label.append(pair[0].pneumothorax)
        patient.append(pair[0].patient)
    return np.stack(features, axis=1), np.array(label, dtype=bool), np.array(patient)


def fitted(features: np.ndarray, label: np.ndarray, learnt: np.ndarray, chosen: np.ndarray) -> LogisticRegression:
    """The head of the strength that does best on the radiographs it has not learnt from."""
    heads = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(
            features[learnt], label[learnt]
        )
        for strength in STRENGTHS
    ]
    losses = [log_loss(label[chosen], head.predict_proba(features[chosen])[:, 1]) for head in heads]
    return heads[int(np.argmin(losses))]


if __name__ == "__main__":
    main()
