from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image as Pil

from evalfm.errors import EvalfmError
from evalfm.features.readers import ImageReader
from evalfm.heads.segmentation.masks import read_target
from evalfm.training.augmentation import Augmentation, Augmenter
from evalfm.training.job import ImageBatches
from evalfm.training.masks import InputMasks

CPU = torch.device("cpu")
MOVE = Augmentation(rotation_degrees=0, scale=(1, 1), translation=0.3)


def reader(bench, workers: int = 2) -> ImageReader:
    return ImageReader(bench.encoder.preparer, bench.manifest, workers=workers, keep=True)


def batches(bench, images: ImageReader, part: str = "val", **options) -> ImageBatches:
    examples = bench.examples(part)
    target = options.pop("target", torch.arange(float(len(examples)))[:, None])
    return ImageBatches(examples, images, bench.encoder.preparer.facts, target, CPU, **options)


def whole(batch) -> tuple[torch.Tensor, torch.Tensor]:
    ((images, target),) = batch.micro_batches(len(batch))
    return images, target


def test_without_augmentation_images_are_what_the_encoder_prepares(bench):
    bench = bench("square")
    with reader(bench) as images:
        (first, second) = batches(bench, images).read([[0, 3], [2]])
    assert (first.positions, second.positions) == ((0, 3), (2,))
    inputs, target = whole(first)
    assert target.tolist() == [[0], [3]]
    for index, position in enumerate(first.positions):
        row = int(bench.cohort.rows[bench.split.val[position]])
        tensor, _ = bench.encoder.prepare(bench.manifest.image(row))
        assert torch.equal(inputs[index], tensor)


def test_an_augmented_image_has_its_own_masks_and_a_label_stays(bench):
    bench = bench("masks")
    examples, grid = bench.examples("train"), (8, 8)
    # Its place among the examples is not that in the manifest.
    position = next(i for i, row in enumerate(examples.rows) if i != row and bench.cohort.masks(int(row)).any())
    row = int(examples.rows[position])
    augmenter = Augmenter(MOVE, 0, True)
    geometry = examples.source.geometry(row)
    target = torch.full((len(examples), 1), 5.0)
    with reader(bench) as images, InputMasks(examples, (32, 32)) as masks:
        masks.examples.masks(row)
        plain, _ = whole(next(batches(bench, images, "train").read([[position]])))
        moving = batches(bench, images, "train", augmenter=augmenter, masks=masks, grid=grid)
        changed, moved = whole(next(moving.read([[position]], epoch=1)))
        other, _ = whole(next(moving.read([[position]], epoch=2)))
        labelled = batches(bench, images, "train", augmenter=augmenter, target=target)
        same, label = whole(next(labelled.read([[position]], epoch=1)))
    assert not torch.equal(plain, changed)
    assert not torch.equal(other, changed)
    # The square is bright: where the mask says it lies, the moved image is bright too.
    mask = torch.nn.functional.interpolate(moved.float(), (32, 32))[0, 0] > 200
    assert mask.any()
    assert float(changed[0, 0][mask].mean()) > float(changed[0, 0][~mask].mean()) + 0.3
    expected = read_target(bench.cohort.masks(row), augmenter.draw(1, [row], [geometry]).geometries[0], grid)
    assert float((moved[0].float() - expected.float()).abs().mean()) < 3
    assert torch.equal(same, changed)
    assert label.tolist() == [[5]]


def test_an_image_becomes_the_same_in_any_batch_with_any_number_of_workers(bench):
    bench = bench("masks")
    examples = bench.examples("train")
    augmenter = Augmenter(Augmentation(), 3, True)
    order = [15, 3, *range(7, 12)]
    found = []
    for workers in (1, 3):
        with reader(bench, workers) as images, InputMasks(examples, (32, 32)) as masks:
            given = batches(bench, images, "train", augmenter=augmenter, masks=masks, grid=(8, 8))
            inputs, target = whole(next(given.read([range(16)], epoch=4)))
            parts = [pair for batch in given.read([order[:2], order[2:]], epoch=4) for pair in batch.micro_batches(2)]
        assert [len(images) for images, _ in parts] == [2, 2, 2, 1]
        assert torch.equal(torch.cat([images for images, _ in parts]), inputs[order])
        assert torch.equal(torch.cat([truth for _, truth in parts]), target[order])
        assert target.any()
        found.append((inputs, target))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_second_epoch_decodes_nothing(bench):
    bench = bench("square")
    with reader(bench) as images:
        train, val = batches(bench, images, "train"), batches(bench, images, "val")
        for _ in range(3):
            list(train.read([[0, 1], [2, 1]]))
            list(val.read([[4, 1]]))
            assert images.decoded == 5


def test_a_constant_or_broken_image_is_named(bench, tmp_path):
    bench = bench("square")
    row = int(bench.examples("val").rows[1])
    table, root = bench.manifest.table.copy(), tmp_path / "data"
    shutil.copytree(bench.manifest.root, root)
    Pil.fromarray(np.full((40, 40), 9, np.uint8)).save(root / "flat.png")
    (root / "broken.png").write_bytes(b"nothing")
    for name, message in (("flat", "all pixels"), ("broken", "broken.png")):
        table.loc[row, "image"] = f"{name}.png"
        bench.manifest = type(bench.manifest)(bench.manifest.info, table, root)
        with reader(bench) as images, pytest.raises(EvalfmError, match=rf"Row {row + 1} of the manifest: .*{message}"):
            list(batches(bench, images).read([[0], [1]]))
