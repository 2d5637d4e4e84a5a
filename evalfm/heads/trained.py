"""Heads whose answer is a module: trained with their encoder, or by gradient on its features."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalfm.cautions import Caution
from evalfm.encoders.encoder import Features
from evalfm.errors import EvalfmError
from evalfm.features.readers import read_ahead
from evalfm.features.source import FeatureSource
from evalfm.heads._pooled import tied
from evalfm.heads.head import Context, DenseHead, Examples, Fit, Head, PooledHead
from evalfm.heads.module import AffineModule, HeadModule, Layout, Maps, Statistics
from evalfm.heads.objectives import Objective, objective_of, restored_objective
from evalfm.heads.reading import to_device
from evalfm.heads.segmentation.masks import target_grid
from evalfm.heads.training import fit_together

PREDICTION_BATCH = 16
EXACT_IMAGES = 4
"""Images whose maps are in float64 at once."""


@dataclass(frozen=True)
class Schedule:
    """How heads are trained on frozen features.

    Attributes:
        epochs: passes over train, each with a look at val, within the bounds on steps.
        least_steps, most_steps: bounds on the gradient steps whatever the size of train.
        batch_size: images a step.
        warm_up: share of the steps in which the learning rate rises to its full value; then it falls to 0.
        weight_decay: AdamW's, on every parameter.
        positive_share: for masks, at least this share of each batch shows a lesion.
        patience: a candidate stops after so many looks at val without progress.
        statistics_images: train images that give mean and deviation of each channel.
    """

    epochs: int = 20
    least_steps: int = 200
    most_steps: int = 4000
    batch_size: int = 16
    warm_up: float = 0.1
    weight_decay: float = 0.01
    positive_share: float = 0.25
    patience: int = 6
    statistics_images: int = 64


class TrainableHead(Head):
    """A head whose answer is a module, so that it can be trained together with its encoder."""

    @property
    def reads_maps(self) -> bool:
        """Whether the module looks at maps."""
        return "maps" in self.needs

    def objective(self, train: Examples, context: Context) -> Objective:
        """What is minimised, and by what val chooses; that of the task's kind unless a head says otherwise."""
        return objective_of(train, context)

    def layout(self, source: FeatureSource, context: Context) -> Layout:
        """What the module reads of ``source`` and the shape in which it answers; one vector an image.

        Raises:
            EvalfmError: the source lacks what the head reads.
        """
        return Layout.of(source, len(context.class_names), maps=self.reads_maps)

    @abstractmethod
    def new_module(self, layout: Layout, generator: torch.Generator) -> HeadModule:
        """An untrained module; all its randomness comes from ``generator``."""

    @abstractmethod
    def fitted(self, statistics: Statistics, objective: Objective) -> HeadModule:
        """A module that answers as the fitted head does, on features of these ``statistics``."""

    @abstractmethod
    def set_module(self, module: HeadModule, layout: Layout, objective: Objective, device: torch.device) -> None:
        """Predict by ``module`` from now on."""

    def usable(self, examples: Examples) -> Examples:
        """The examples that can be trained on or chosen by; all of them, unless some lack what the head learns from."""
        return examples

    def after_training(self, train: Examples, val: Examples, context: Context) -> tuple[Caution, ...]:
        """Choose on val what the module itself does not hold, once it is kept; cautions about it."""
        return ()


class TrainedHead(TrainableHead):
    """A head whose module ``fit_together`` trains; subclasses give the module."""

    deterministic: ClassVar[bool] = False
    rates: ClassVar[tuple[float, ...]]
    default_schedule: ClassVar[Schedule] = Schedule()

    def __init__(self, schedule: Schedule | None = None, learning_rates: tuple[float, ...] | None = None) -> None:
        self.schedule = schedule or self.default_schedule
        self.learning_rates = tuple(sorted(learning_rates or self.rates))
        self._layout: Layout | None = None
        self._module: HeadModule | None = None
        self._objective: Objective | None = None
        self._device = torch.device("cpu")

    @property
    def grid(self) -> dict[str, object]:
        """Learning rates, schedule and the module's own settings."""
        return {
            "learning_rate": list(self.learning_rates),
            "optimiser": "AdamW",
            "schedule": asdict(self.schedule),
            **self.settings(),
        }

    def settings(self) -> dict[str, object]:
        """The module's own settings."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where the trained module runs."""
        return self._device

    def fitted(self, statistics: Statistics, objective: Objective) -> HeadModule:
        """The trained module itself, which holds its own statistics."""
        return self._fitted()[0]

    def set_module(self, module: HeadModule, layout: Layout, objective: Objective, device: torch.device) -> None:
        """Take the trained module."""
        self._module, self._layout, self._objective = module.to(device).eval(), layout, objective
        self._device = device

    def outputs(self, maps: Maps, pooled: Tensor) -> Tensor:
        """Scores of a batch in any precision, through the objective's link, on the CPU."""
        module, _ = self._fitted()
        assert self._objective is not None
        levels = tuple(to_device(level, self._device).float() for level in maps)
        with torch.no_grad():
            logits: Tensor = module(levels, to_device(pooled, self._device).float())
        return self._objective.link(logits.cpu())

    def check_source(self, source: FeatureSource) -> None:
        """Refuse features of another layout than the head was trained on.

        Raises:
            EvalfmError: there are other ones.
        """
        _, layout = self._fitted()
        given = Layout.of(source, layout.outputs, layout.grid, maps=self.reads_maps)
        if self.reads_maps and (given.channels, given.strides) != (layout.channels, layout.strides):
            raise EvalfmError(
                f"The head {self.name!r} was trained on maps of channels {layout.channels} and strides "
                f"{layout.strides}, which {source.name} does not give; take the encoder of the run."
            )
        if given.pooled_dim != layout.pooled_dim:
            raise EvalfmError(
                f"The head {self.name!r} was trained on {layout.pooled_dim} features and {source.name} gives "
                f"{given.pooled_dim}; take the encoder of the run."
            )

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Train alone; ``fit_together`` trains several heads for one pass over the features."""
        return fit_together([self], train, val, context)[0]

    def tensors(self) -> dict[str, Tensor]:
        """The module's parameters and statistics, ``layout.*``, and ``link.*`` from logits to scores."""
        if self._module is None or self._layout is None or self._objective is None:
            return {}
        state = {name: value.cpu().contiguous() for name, value in self._module.state_dict().items()}
        return state | self._layout.tensors() | self._objective.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Rebuild the module from ``tensors``."""
        layout = Layout.from_tensors(tensors)
        module = self.new_module(layout, torch.Generator())
        own = {name: value for name, value in tensors.items() if not name.startswith(("layout.", "link."))}
        module.load_state_dict(own)
        self.set_module(module, layout, restored_objective(tensors, layout), torch.device("cpu"))

    def _fitted(self) -> tuple[HeadModule, Layout]:
        if self._module is None or self._layout is None:
            raise EvalfmError(f"The head {self.name!r} has not been fitted; fit it or load a run's tensors first.")
        return self._module, self._layout


class TrainedDenseHead(TrainedHead, DenseHead):
    """A trained head that answers in masks.

    Logits go bilinearly onto a grid of a quarter of the input, probabilities from there onto the image.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"segmentation"})
    needs: ClassVar[frozenset[str]] = frozenset({"maps"})

    def layout(self, source: FeatureSource, context: Context) -> Layout:
        """Masks on this head's grid."""
        return Layout.of(source, len(context.class_names), self.answer_grid(source.input_size), maps=True)

    def answer_grid(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the masks that the module gives for an input."""
        return target_grid(input_size)

    def check_source(self, source: FeatureSource) -> None:
        """Refuse maps of another layout, or of another input size, than the head was trained on.

        Raises:
            EvalfmError: there are none or other ones.
        """
        super().check_source(source)
        _, layout = self._fitted()
        if self.answer_grid(source.input_size) != layout.grid:
            raise EvalfmError(
                f"The head {self.name!r} was trained to answer on a grid of {layout.grid} and the input of "
                f"{source.name} needs {self.answer_grid(source.input_size)}; take the input size of the run."
            )

    def predict(self, examples: Examples) -> Iterator[tuple[int, Tensor]]:
        """For each row its probabilities [K, H, W] on the image's grid; 0 where the encoder saw nothing."""
        for row, probabilities in predict_dense([self], examples):
            yield row, probabilities[0]


class TrainedPooledHead(TrainedHead, PooledHead):
    """A trained head that gives each image one vector of scores, or one value."""

    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})

    def predict(self, examples: Examples) -> NDArray[np.float64]:
        """Probabilities per class (binary: K = 1), or values in the target's unit, [N, K]."""
        self.check_source(examples.source)
        assert self._objective is not None
        # In float64, where answers to equal features agree to far more digits than are kept; maps a few at a time.
        exact = copy.deepcopy(self._fitted()[0]).double()
        size = EXACT_IMAGES if self.reads_maps else PREDICTION_BATCH
        outputs = []
        for features, _ in _prefetched(examples, maps=self.reads_maps):
            for part in torch.split(torch.arange(len(features.pooled)), size):
                maps = tuple(to_device(level[part], self._device).double() for level in features.maps)
                with torch.no_grad():
                    outputs.append(exact(maps, to_device(features.pooled[part], self._device).double()).cpu())
        return self._objective.link(torch.from_numpy(tied(torch.cat(outputs).numpy()))).numpy()


def predict_dense(heads: Sequence[TrainedDenseHead], examples: Examples) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """For each row the probabilities [K, H, W] of every head; maps are fetched once for all heads."""
    for head in heads:
        head.check_source(examples.source)
    for features, rows in _prefetched(examples, maps=True):
        outputs = [head.outputs(features.maps, features.pooled) for head in heads]
        for position, row in enumerate(rows):
            geometry = examples.source.geometry(row)
            yield row, tuple(geometry.to_source(output[position], outside=0.0) for output in outputs)


def _prefetched(examples: Examples, *, maps: bool) -> Iterator[tuple[Features, list[int]]]:
    """Features of all examples in batches with their rows, the next batch read while one is used."""
    rows = examples.rows.tolist()
    parts = [rows[start : start + PREDICTION_BATCH] for start in range(0, len(rows), PREDICTION_BATCH)]
    return zip(read_ahead(parts, lambda part: examples.source.features(part, maps=maps)), parts, strict=True)


def trained_together(heads: Sequence[Head]) -> list[list[TrainedHead]]:
    """The trained heads among ``heads``, in groups that can share one pass over the features."""
    groups: dict[tuple[Schedule, bool], list[TrainedHead]] = {}
    for head in heads:
        if isinstance(head, TrainedHead):
            groups.setdefault((head.schedule, head.reads_maps), []).append(head)
    return list(groups.values())


class TrainableAffineHead(TrainableHead):
    """A head that is one affine map of the pooled features: weight [K, D] and bias [K] on features as they are."""

    @abstractmethod
    def affine(self, objective: Objective) -> tuple[Tensor, Tensor]:
        """The fitted weight and bias in the objective's scale, float64."""

    @abstractmethod
    def take_affine(self, weight: Tensor, bias: Tensor, objective: Objective) -> None:
        """Predict by ``weight`` and ``bias``, given in the objective's scale, float64."""

    def new_module(self, layout: Layout, generator: torch.Generator) -> AffineModule:
        """Zero weights."""
        return AffineModule(layout, generator)

    def fitted(self, statistics: Statistics, objective: Objective) -> HeadModule:
        """The fitted map."""
        weight, bias = self.affine(objective)
        layout = Layout(weight.shape[1], (), (), weight.shape[0])
        module = AffineModule(layout, torch.Generator())
        module.standardise(statistics)
        module.take_raw(weight, bias)
        return module

    def set_module(self, module: HeadModule, layout: Layout, objective: Objective, device: torch.device) -> None:
        """Take the map back."""
        assert isinstance(module, AffineModule)
        weight, bias = module.raw()
        self.take_affine(weight.cpu(), bias.cpu(), objective)
