"""The interface of a head that can be trained together with its encoder."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from evalfm.cautions import Caution
from evalfm.features.source import FeatureSource
from evalfm.heads.head import Context, Examples, Head
from evalfm.heads.module import AffineModule, HeadModule, Layout, Statistics
from evalfm.heads.objectives import Objective, objective_of


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
