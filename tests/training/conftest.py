"""A tiny vision transformer on radiographs with bright squares, and everything that a training of it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from evalfm.data.manifest import Manifest
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Encoder
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import FeatureStore
from evalfm.heads import load_head
from evalfm.heads.head import Context, Examples, Head
from evalfm.probing.labelled import LabelledFeatures
from evalfm.probing.splits import make_splits
from evalfm.split_options import SplitOptions
from evalfm.tasks.cohort import resolve_task, select_cohort
from evalfm.training import tuning
from evalfm.training.checkpoint import in_memory
from evalfm.training.recipe import recipe_of
from evalfm.training.tuning import FineTuneConfig, FineTuned, TrainingData, TrainingEnvironment, tune

VIT, RESNET = "random:test_vit", "random:test_resnet"


@dataclass
class Bench:
    """One question with an encoder, ready to be trained."""

    manifest: Manifest
    folder: Path
    task: str = "square"
    encoder_name: str = VIT
    seed: int = 0
    said: list[str] = field(default_factory=list)
    last: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cohort = select_cohort(resolve_task(self.task, self.manifest), self.manifest)
        self.encoder: Encoder = load_encoder(self.encoder_name, input_size=32, seed=self.seed)
        self.split = make_splits(self.cohort, SplitOptions())[0]
        self.context = Context(self.cohort.task.kind, self.cohort.class_names, self.seed, progress=self)

    def track(self, items, label, total=None):
        yield from items

    def say(self, message: str) -> None:
        self.said.append(message)

    def source(self, encoder: Encoder | None = None, maps: str = "stream") -> EncodedSource:
        store = FeatureStore(self.folder / "features")
        return EncodedSource(encoder or self.encoder, self.manifest, store, maps=maps)

    def examples(self, part: str, maps: str = "stream") -> Examples:
        return LabelledFeatures(self.cohort, self.source(maps=maps)).examples(getattr(self.split, part))

    def head(self, name: str = "linear") -> Head:
        return load_head(name, self.cohort.task.kind)

    def tune(
        self,
        adaptation: str,
        head: Head | None = None,
        *,
        place: str = "work",
        processes: int = 1,
        encoder: Encoder | None = None,
        **changes: object,
    ) -> tuple[FineTuned, Head]:
        head = head or self.head()
        recipe = recipe_of(adaptation, {"epochs": 2, "least_steps": 4, **changes})
        assert recipe is not None
        base = encoder or self.encoder
        side = LabelledFeatures(self.cohort, self.source(base))
        run_job = tuning.run_job

        def watched(*arguments: Any) -> Any:
            state, cautions = run_job(*arguments)
            self.last[place] = in_memory(state.tensors)
            return state, cautions

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tuning, "run_job", watched)
            tuned = tune(
                base,
                head,
                TrainingData(
                    side.examples(self.split.train), side.examples(self.split.val), self.manifest, self.source
                ),
                self.context,
                FineTuneConfig(adaptation, recipe),
                TrainingEnvironment(self.folder / place, torch.device("cpu"), "float32", processes=processes),
            )
        return tuned, head


@pytest.fixture
def bench(squares: Manifest, square_seg: str, tmp_path: Path) -> Callable[..., Bench]:
    def build(task: str = "square", **options: object) -> Bench:
        return Bench(squares, tmp_path, square_seg if task == "masks" else task, **options)

    return build


def curve_of(tuned: FineTuned, name: str) -> list[float]:
    return [line[name] for line in tuned.fit.curve]


def last_tensors(bench: Bench, place: str = "work") -> dict[str, torch.Tensor]:
    """The trained tensors after the last epoch, whatever val liked best."""
    return bench.last[place]
