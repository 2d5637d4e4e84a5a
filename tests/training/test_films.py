from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from evalfm.data.images import Image
from evalfm.errors import EvalfmError
from evalfm.heads.segmentation.masks import read_target
from evalfm.training.augmentation import Augmentation, augmenter
from evalfm.training.films import FilmReader


def reader(bench, part="val", load=None, target=None, grid=(8, 8)):
    examples = bench.examples(part)
    return FilmReader(
        examples, bench.encoder.preparer, load or bench.manifest.image, target=target, grid=grid, workers=2
    )


def test_without_augmentation_radiographs_are_what_the_encoder_prepares(bench):
    bench = bench("masks")
    with reader(bench) as radiographs:
        (first, second) = radiographs.batches([[0, 3], [2]])
        (again, _) = radiographs.batches([[0, 3], [2]])
    assert first.positions == (0, 3)
    assert second.positions == (2,)
    assert torch.equal(first.films, again.films)
    for index, position in enumerate(first.positions):
        row = int(bench.split.val[position])
        row = int(bench.cohort.rows[row])
        tensor, geometry = bench.encoder.prepare(bench.manifest.image(row))
        assert torch.equal(first.films[index], tensor)
        assert torch.equal(first.target[index], read_target(bench.cohort.masks(row), geometry, (8, 8)))


def test_an_augmented_radiograph_has_its_own_masks_and_a_label_stays(bench):
    bench = bench("masks")
    position = next(i for i, row in enumerate(bench.examples("train").rows) if bench.cohort.masks(int(row)).any())
    moved = augmenter(Augmentation(rotation_degrees=0, scale=(1, 1), translation=0.3), 0, 1, 7, is_unit_interval=True)
    with reader(bench, "train") as radiographs:
        (plain,) = radiographs.batches([[position]])
        (changed,) = radiographs.batches([[position]], lambda position: moved)
    assert not torch.equal(plain.films, changed.films)
    # The square is bright: where the mask says it lies, the moved radiograph is bright too.
    mask = torch.nn.functional.interpolate(changed.target.float(), (32, 32))[0, 0] > 200
    assert mask.any()
    assert float(changed.films[0, 0][mask].mean()) > float(changed.films[0, 0][~mask].mean()) + 0.3
    labelled = torch.tensor([[5.0]] * len(bench.split.train))
    with reader(bench, "train", target=labelled, grid=None) as radiographs:
        (batch,) = radiographs.batches([[position]], lambda position: moved)
    assert batch.target.tolist() == [[5.0]]


def test_each_radiograph_is_decoded_once(bench):
    bench = bench("square")
    read = []

    def load(row: int) -> Image:
        read.append(row)
        return bench.manifest.image(row)

    target = torch.zeros(len(bench.split.val), 1)
    with reader(bench, load=load, target=target, grid=None) as radiographs:
        for _ in range(3):
            list(radiographs.batches([[0, 1], [2, 1]]))
    assert len(read) == 3


def test_a_flat_or_broken_radiograph_is_named(bench):
    bench = bench("square")

    def flat(row: int) -> Image:
        radiograph = bench.manifest.image(row)
        return replace(radiograph, pixels=np.full_like(radiograph.pixels, 0.5))

    with (
        reader(bench, load=flat, target=torch.zeros(20, 1), grid=None) as radiographs,
        pytest.raises(EvalfmError, match=r"Row \d+ of the manifest: all pixels"),
    ):
        list(radiographs.batches([[0]]))
