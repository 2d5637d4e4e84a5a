"""Vision transformers of the transformers library, through its native classes; remote code is never run."""

from __future__ import annotations

import inspect
import re
import string
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from evalfm.cautions import Caution
from evalfm.encoders.card import EncoderCard
from evalfm.encoders.encoder import Encoder, EncoderState, RawFeatures
from evalfm.encoders.families._tokenizer import PublishedTower, filled
from evalfm.encoders.families._transformers_loading import config_of, load, model_of, named_for
from evalfm.encoders.text import TextTower
from evalfm.encoders.weights import Checkpoint, load_into, read_checkpoint


class TransformersEncoder(Encoder):
    """A model that gives ``last_hidden_state`` (after ``layernorm``) and ``hidden_states``.

    A checkpoint goes through ``from_pretrained``, which converts the key names of older releases; loading it
    directly would leave tensors out. Its keys are compared with the whole model that the authors saved, of which
    ``_image_part`` is kept.
    """

    def __init__(self, card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> None:
        super().__init__(card, state)
        config = config_of(card)
        self.model: Any
        if checkpoint is None:
            self.model = self._drawn(config)
        else:
            named = named_for(card, config, checkpoint)
            self.add_cautions(*named.cautions[len(checkpoint.cautions) :])
            self.model = self._image_part(load(card, config, named))
        self.model.eval()
        trained = getattr(getattr(config, "vision_config", config), "image_size", None)
        if isinstance(trained, int) and self.input_size != (trained, trained):
            words = f"transformers interpolates the positions of {card.name}, made for {trained} pixels."
            note = Caution("input-changed", words)
            self.add_cautions(note)

    def _drawn(self, config: Any) -> Any:
        """The image part with random weights."""
        return model_of(self.card, config)

    def _image_part(self, model: Any) -> Any:
        """What of the authors' model is the image encoder."""
        return model

    def _forward(self, batch: Tensor) -> RawFeatures:
        output = _run(self.model, batch)
        return RawFeatures(layers=self._chosen(output.hidden_states), final=output.last_hidden_state)

    def _chosen(self, hidden: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # The first hidden state is the embedding, before any block.
        return tuple(hidden[index + 1] for index in self.card.map_layers)

    def _final_norm(self, tokens: Tensor) -> Tensor:
        return _last_norm(self.model)(tokens)

    @classmethod
    def multiple(cls, settings: Any) -> int:
        """What input sizes are multiples of, by the model's settings."""
        return int(settings.patch_size)

    @property
    def map_norm(self) -> Literal["final", "none"]:
        """Whether the model has a last norm that its patches go through."""
        return "none" if isinstance(_last_norm(self.model), nn.Identity) else "final"

    @property
    def own_poolings(self) -> tuple[str, ...]:
        """Poolings that there may be, the published one first."""
        return ("cls", "mean")


class BeitEncoder(TransformersEncoder):
    """BEiT: where its settings say so, the embedding is the mean of patches before its norm, and maps have none."""

    def _forward(self, batch: Tensor) -> RawFeatures:
        output = _run(self.model, batch)
        own = {"mean": output.pooler_output} if self.model.config.use_mean_pooling else {}
        return RawFeatures(self._chosen(output.hidden_states), output.last_hidden_state, own)

    @property
    def own_poolings(self) -> tuple[str, ...]:
        """Its own mean, or as others have."""
        return ("mean",) if self.model.config.use_mean_pooling else ("cls", "mean")


class StagesEncoder(TransformersEncoder):
    """ConvNeXt, ResNet, SegFormer and others of stages that are maps; ``head`` is the model's own pooling."""

    def _forward(self, batch: Tensor) -> RawFeatures:
        output = _run(self.model, batch)
        pooled = getattr(output, "pooler_output", None)
        own = {} if pooled is None else {"head": pooled.flatten(1)}
        return RawFeatures(self._chosen(output.hidden_states), output.hidden_states[-1], own)

    def _chosen(self, hidden: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # Some give the stem before the stages too.
        stages = hidden[-len(self.model.config.depths) :]
        return tuple(stages[index] for index in self.card.map_layers)

    @classmethod
    def multiple(cls, settings: Any) -> int:
        """Any size."""
        return 1

    @property
    def map_norm(self) -> Literal["final", "none"]:
        """Stages are as they are."""
        return "none"

    @property
    def own_poolings(self) -> tuple[str, ...]:
        """Its own, else the mean over the last stage."""
        return ("head", "mean")


class SiglipEncoder(TransformersEncoder):
    """SigLIP and SigLIP 2: no CLS token; the pooling ``map`` is the attention head's, the space shared with text."""

    def _drawn(self, config: Any) -> Any:
        return transformers.SiglipVisionModel(getattr(config, "vision_config", config))

    def _image_part(self, model: Any) -> Any:
        return getattr(model, "vision_model", model)

    @property
    def own_poolings(self) -> tuple[str, ...]:
        """The attention head's, which meets texts."""
        return ("map", "mean")

    def _forward(self, batch: Tensor) -> RawFeatures:
        output = _run(self.model, batch)
        pooled = {} if output.pooler_output is None else {"map": output.pooler_output}
        return RawFeatures(self._chosen(output.hidden_states), output.last_hidden_state, pooled)

    def _text_tower(self) -> TextTower:
        return SiglipText(self.card, self.state.origin)


class ClipEncoder(TransformersEncoder):
    """CLIP: ``cls`` after the last norm, ``projection`` of it into the space of texts; patches have no last norm.

    A ``CLIPVisionModel`` that was published alone has no projection.
    """

    def _drawn(self, config: Any) -> Any:
        settings = getattr(config, "vision_config", config)
        parts: dict[str, nn.Module] = {"vision": transformers.CLIPVisionModel(settings)}
        if self.card.architecture != "CLIPVisionModel":
            parts["projection"] = nn.Linear(settings.hidden_size, config.projection_dim, bias=False)
        return nn.ModuleDict(parts)

    @property
    def map_norm(self) -> Literal["final", "none"]:
        """Patches go through none."""
        return "none"

    @property
    def own_poolings(self) -> tuple[str, ...]:
        """Its token, and that where texts are."""
        return ("cls", "projection", "mean")

    def _image_part(self, model: Any) -> Any:
        parts: dict[str, nn.Module] = {"vision": getattr(model, "vision_model", model)}
        if hasattr(model, "visual_projection"):
            parts["projection"] = model.visual_projection
        return nn.ModuleDict(parts)

    def _forward(self, batch: Tensor) -> RawFeatures:
        output = _run(self.model["vision"], batch)
        cls = output.pooler_output
        pooled = {"cls": cls}
        if "projection" in self.model:
            pooled["projection"] = self.model["projection"](cls)
        return RawFeatures(self._chosen(output.hidden_states), output.last_hidden_state, pooled)

    def _text_tower(self) -> TextTower:
        return ClipText(self.card, self.state.origin)


class SwinEncoder(TransformersEncoder):
    """Swin: maps are its stages before they are halved; ``first`` is the first cell of the last map, after its norm.

    With ``projection`` among the card's arguments there is an embedding ``projection`` of so many dimensions too:
    ``first`` through a linear layer with bias, at length 1 (You et al., CXR-CLIP, MICCAI 2023).
    """

    def __init__(self, card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> None:
        dim = card.arguments.get("projection")
        behind: dict[str, Tensor] = {}
        if dim is not None and checkpoint is not None:
            every = checkpoint.tensors
            behind = {
                name.removeprefix(PROJECTION): each for name, each in every.items() if name.startswith(PROJECTION)
            }
            swin = {name: each for name, each in every.items() if not name.startswith(PROJECTION)}
            checkpoint = replace(checkpoint, tensors=swin)
        super().__init__(card, state, checkpoint)
        self.projection = None if dim is None else nn.Linear(self.model.config.hidden_size, dim)
        if self.projection is not None and checkpoint is not None:
            load_into(self.projection, behind, card.weights, checkpoint.path)

    def _forward(self, batch: Tensor) -> RawFeatures:
        stages: list[Tensor] = []

        def keep(_module: nn.Module, _given: Any, output: Any) -> None:
            stages.append(output[0] if isinstance(output, tuple) else output)

        with ExitStack() as hooks:
            for stage in self.model.encoder.layers:
                hooks.enter_context(stage.blocks[-1].register_forward_hook(keep))
            output = _run(self.model, batch)
        maps = tuple(self._as_cells(stages[index], batch, index) for index in self.card.map_layers)
        pooled = {"first": output.last_hidden_state[:, 0]}
        if self.projection is not None:
            pooled["projection"] = functional.normalize(self.projection(pooled["first"]), dim=-1)
        return RawFeatures(maps, output.last_hidden_state, pooled)

    @classmethod
    def multiple(cls, settings: Any) -> int:
        """The last stride."""
        return int(settings.patch_size * 2 ** (len(settings.depths) - 1))

    @property
    def map_norm(self) -> Literal["final", "none"]:
        """Stages are as they are."""
        return "none"

    @property
    def own_poolings(self) -> tuple[str, ...]:
        """The library's is the mean."""
        return ("mean", "first")

    def _text_tower(self) -> TextTower:
        from evalfm.encoders.families._swin_text import SwinText

        return SwinText(self.card, self.state.origin)

    def _as_cells(self, tokens: Tensor, batch: Tensor, stage: int) -> Tensor:
        """Tokens [B, N, C] of a stage as a map [B, C, h, w]."""
        stride = self.model.config.patch_size * 2**stage
        rows, columns = (-(-side // stride) for side in batch.shape[2:])
        return tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns)


PUNCTUATION = str.maketrans("", "", string.punctuation)


class _DualText(PublishedTower):
    """Reads the whole model again and keeps its text part; without ``origin`` the weights are drawn."""

    text_class: ClassVar[Any]

    def __init__(self, card: EncoderCard, origin: Path | None) -> None:
        super().__init__(card, origin)
        config = config_of(card)
        if origin is None:
            self._take(self.text_class(config.text_config), config, None)
        else:
            model = load(card, config, named_for(card, config, read_checkpoint(origin, card.weights)))
            self._take(model.text_model, config, model)

    def _take(self, text: Any, config: Any, whole: Any) -> None:
        """Keep the text model and what follows it."""
        raise NotImplementedError

    def _written(self, text: str) -> str:
        """A sentence as the model was trained to read it."""
        facts = self.facts.arguments
        if facts.get("canonical"):
            text = " ".join(text.translate(PUNCTUATION).split())
        return text.lower() if facts.get("canonical") or facts.get("lower") else re.sub(r"\s+", " ", text).strip()

    def _tokenize(self, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
        rows = [self.tokenizer.encode(self._written(text)).ids for text in texts]
        ids = filled(rows, self.facts.context_length, int(self.facts.arguments["pad_id"]))
        return {"input_ids": ids}, [len(each) for each in rows]


class ClipText(_DualText):
    """CLIP: the end-of-text token of a causal transformer, projected. What pads comes after it and is not seen."""

    text_class = transformers.CLIPTextModel
    filling_unseen = True

    def _take(self, text: Any, config: Any, whole: Any) -> None:
        self.model = text
        drawn = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.projection = drawn if whole is None else whole.text_projection
        scale = config.logit_scale_init_value if whole is None else float(whole.logit_scale.detach())
        self.logit_scale = float(torch.tensor(scale).exp())

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        return self.projection(self.model(**tokens).pooler_output)


class SiglipText(_DualText):
    """SigLIP: the last of always ``context_length`` tokens, padding seen, through the text head."""

    text_class = transformers.SiglipTextModel

    def _take(self, text: Any, config: Any, whole: Any) -> None:
        self.model = text
        if whole is not None:
            self.logit_scale = float(whole.logit_scale.detach().exp())
            self.logit_bias = float(whole.logit_bias.detach())

    def _forward(self, tokens: dict[str, Tensor]) -> Tensor:
        return self.model(**tokens).pooler_output


PROJECTION = "image_projection.projection."
"""Where a file keeps the layer behind a Swin."""

KINDS: dict[str, type[TransformersEncoder]] = {
    "BeitModel": BeitEncoder,
    **dict.fromkeys(("CLIPModel", "CLIPVisionModel", "CLIPVisionModelWithProjection"), ClipEncoder),
    **dict.fromkeys(("SiglipModel", "SiglipVisionModel"), SiglipEncoder),
    **dict.fromkeys(("SwinModel", "Swinv2Model"), SwinEncoder),
    **dict.fromkeys(("ConvNextModel", "ConvNextV2Model", "DINOv3ConvNextModel"), StagesEncoder),
    **dict.fromkeys(("ResNetModel", "RegNetModel", "SegformerModel", "PvtV2Model"), StagesEncoder),
}
"""Models that are not one plain transformer over patches."""


def _last_norm(model: Any) -> nn.Module:
    names = ("layernorm", "post_layernorm", "norm")
    return next((getattr(model, name) for name in names if hasattr(model, name)), nn.Identity())


def _run(model: Any, batch: Tensor) -> Any:
    takes = inspect.signature(model.forward).parameters
    options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
    return model(pixel_values=batch, output_hidden_states=True, **options)


def build(card: EncoderCard, state: EncoderState, checkpoint: Checkpoint | None) -> Encoder:
    """The card's transformers model, with the checkpoint's tensors or random ones."""
    return KINDS.get(card.architecture, TransformersEncoder)(card, state, checkpoint)
