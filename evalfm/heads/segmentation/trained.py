"""What every trained dense head is: a small decoder of maps, its settings, and its way back to the film."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from evalfm.errors import EvalfmError
from evalfm.features.source import FeatureSource
from evalfm.heads.head import Context, DenseHead, Examples, Fit
from evalfm.heads.segmentation.targets import target_grid

PREDICTION_BATCH = 16
Maps = tuple[Tensor, ...]


@dataclass(frozen=True)
class Schedule:
    """How dense heads are trained.

    Attributes:
        epochs: passes over train, each with a look at val, within the bounds on steps.
        least_steps, most_steps: bounds on the gradient steps whatever the size of train.
        batch_size: images a step.
        warm_up: share of the steps in which the learning rate rises to its full value; then it falls to 0.
        weight_decay: AdamW's, on every parameter.
        positive_share: at least this share of each batch shows a lesion.
        patience: a candidate stops after so many looks at val without progress.
        statistics_images: train images that give mean and deviation of each map channel.
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


@dataclass(frozen=True)
class MapLayout:
    """The maps that a decoder reads and the grid it answers on.

    Attributes:
        channels: of each map, shallow to deep. strides: input pixels per cell of each map.
        outputs: mask channels K. grid: height and width of the answer.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    outputs: int
    grid: tuple[int, int]

    @classmethod
    def of(cls, source: FeatureSource, outputs: int) -> MapLayout:
        """Read it off a source.

        Raises:
            EvalfmError: the source has no maps.
        """
        if not source.map_channels:
            raise EvalfmError(
                f"{source.name} has no feature maps, so it cannot be segmented from; "
                "take an encoder with maps (`evalfm ls encoders`) or a task that needs none."
            )
        return cls(tuple(source.map_channels), tuple(source.map_strides), outputs, target_grid(source.input_size))


class Projection(nn.Module):
    """A 1×1 convolution of a standardised map; mean and deviation are folded into the kernel."""

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int, outputs: int, deviation: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, channels, generator=generator) * deviation)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] to [B, outputs, h, w]."""
        weight = self.weight / self.scale
        bias = self.bias - weight @ self.mean
        return functional.conv2d(features, weight[:, :, None, None], bias)


class Decoder(nn.Module):
    """Maps to logits on the target grid."""

    @abstractmethod
    def forward(self, maps: Maps) -> Tensor:
        """[B, C, h, w] of each map to logits [B, K, *grid]."""

    @abstractmethod
    def standardise(self, means: Sequence[Tensor], scales: Sequence[Tensor]) -> None:
        """Take mean and standard deviation [C] of each map over train."""

    @abstractmethod
    def start_at(self, fraction: Tensor) -> None:
        """Set the last bias so that the first answer is the foreground ``fraction`` [K]."""


class TrainedDenseHead(DenseHead):
    """A dense head whose decoder is trained by ``fit_dense``; subclasses say which decoder.

    Logits go bilinearly onto a grid of a quarter of the input, probabilities from there onto the film.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"segmentation"})
    needs: ClassVar[frozenset[str]] = frozenset({"maps"})
    deterministic: ClassVar[bool] = False
    rates: ClassVar[tuple[float, ...]]

    def __init__(self, schedule: Schedule | None = None, learning_rates: tuple[float, ...] | None = None) -> None:
        self.schedule = schedule or Schedule()
        self.learning_rates = tuple(sorted(learning_rates or self.rates))
        self._layout: MapLayout | None = None
        self._decoder: Decoder | None = None
        self._device = torch.device("cpu")

    @property
    def grid(self) -> dict[str, object]:
        """Learning rates, schedule, loss and the decoder's own settings."""
        return {
            "learning_rate": list(self.learning_rates),
            "optimiser": "AdamW",
            "loss": "binary cross-entropy + batch Dice",
            "schedule": asdict(self.schedule),
            **self.settings(),
        }

    def settings(self) -> dict[str, object]:
        """The decoder's own settings."""
        return {}

    @abstractmethod
    def decoder(self, layout: MapLayout, generator: torch.Generator) -> Decoder:
        """A fresh decoder; all its randomness comes from ``generator``."""

    def keep(self, decoder: Decoder, layout: MapLayout, device: torch.device) -> None:
        """Take the trained decoder."""
        self._decoder, self._layout, self._device = decoder.to(device).eval(), layout, device

    def probabilities(self, maps: Maps) -> Tensor:
        """Probabilities [B, K, *target grid] of a batch of maps."""
        if self._decoder is None:
            raise EvalfmError(f"The head {self.name!r} has not been fitted; fit it or load a run's tensors first.")
        with torch.no_grad():
            logits: Tensor = self._decoder(tuple(level.to(self._device) for level in maps))
        return torch.sigmoid(logits).cpu()

    def check_source(self, source: FeatureSource) -> None:
        """Refuse maps of another layout than the head was trained on.

        Raises:
            EvalfmError: there are no maps or other ones.
        """
        if self._layout is None:
            raise EvalfmError(f"The head {self.name!r} has not been fitted; fit it or load a run's tensors first.")
        if MapLayout.of(source, self._layout.outputs) != self._layout:
            raise EvalfmError(
                f"The head {self.name!r} was trained on maps of channels {self._layout.channels} and strides "
                f"{self._layout.strides}, which {source.name} does not give; "
                "take the encoder and the input size of the run."
            )

    def fit(self, train: Examples, val: Examples, context: Context) -> Fit:
        """Train alone; ``fit_dense`` trains several heads for one pass over the maps."""
        from evalfm.heads.segmentation.training import fit_dense  # which imports this module

        return fit_dense([self], train, val, context)[0]

    def predict(self, examples: Examples) -> Iterator[tuple[int, Tensor]]:
        """For each row its probabilities [K, H, W] on the film's grid; 0 where the encoder saw nothing."""
        for row, probabilities in predict_dense([self], examples):
            yield row, probabilities[0]

    def tensors(self) -> dict[str, Tensor]:
        """The decoder's parameters and statistics, and ``layout.*``: channels, strides, outputs and grid."""
        if self._decoder is None or self._layout is None:
            return {}
        layout = {f"layout.{name}": torch.tensor(value) for name, value in asdict(self._layout).items()}
        return {name: value.cpu().contiguous() for name, value in self._decoder.state_dict().items()} | layout

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Rebuild the decoder from ``tensors``."""
        height, width = tensors["layout.grid"].tolist()
        layout = MapLayout(
            tuple(tensors["layout.channels"].tolist()),
            tuple(tensors["layout.strides"].tolist()),
            int(tensors["layout.outputs"].item()),
            (height, width),
        )
        decoder = self.decoder(layout, torch.Generator())
        decoder.load_state_dict({name: tensors[name] for name in tensors if not name.startswith("layout.")})
        self.keep(decoder, layout, torch.device("cpu"))


def predict_dense(heads: Sequence[TrainedDenseHead], examples: Examples) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """For each row the probabilities [K, H, W] of every head; maps are fetched once for all heads."""
    for head in heads:
        head.check_source(examples.source)
    rows = examples.rows.tolist()
    for start in range(0, len(rows), PREDICTION_BATCH):
        batch = rows[start : start + PREDICTION_BATCH]
        maps = examples.source.features(batch, maps=True).maps
        answers = [head.probabilities(maps) for head in heads]
        for position, row in enumerate(batch):
            geometry = examples.source.geometry(row)
            yield row, tuple(geometry.to_source(answer[position], outside=0.0) for answer in answers)


def log_odds(fraction: Tensor) -> Tensor:
    """Log odds of a foreground ``fraction`` [K], kept off 0 and 1."""
    return torch.logit(fraction.double().clamp(1e-4, 0.5)).float()


def fan_in_deviation(inputs: int) -> float:
    """Standard deviation of weights that keeps the variance of ``inputs`` standardised inputs."""
    return 1 / math.sqrt(inputs)
