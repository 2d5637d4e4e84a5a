"""Plain modules as encoders: what is derived of them, what is refused, and that no two share features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image as Pil
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

import evalfm
from evalfm.data.phantom import make_phantom
from evalfm.encoders import Encoder, find_card, from_module, load_encoder
from evalfm.errors import EvalfmError

from .images import drawn

SIZE = 32
TRANSFORM = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.ToTensor()])


class Tokens(nn.Module):
    """Patches of 8 pixels as tokens, ``prefix`` zeros before them."""

    def __init__(self, prefix: int = 1) -> None:
        super().__init__()
        self.prefix = prefix
        self.patches = nn.Conv2d(3, 6, 8, 8)

    def forward(self, batch: Tensor) -> Tensor:
        tokens = self.patches(batch).flatten(2).transpose(1, 2)
        return torch.cat([tokens.new_zeros(len(tokens), self.prefix, 6), tokens], 1)


def network(stride: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3, stride, 1), nn.BatchNorm2d(5), nn.ReLU()).eval()


def test_a_torchvision_network_in_three_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALFM_HOME", str(tmp_path / "home"))
    make_phantom(tmp_path / "small", n=60, size=64)
    torch.manual_seed(0)
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    model = torchvision.models.resnet18()
    model.fc = nn.Identity()
    encoder = evalfm.from_module(model.eval(), weights.transforms(), "my-resnet18")
    (run,) = evalfm.probe(
        encoder, "ptx-cls", data=str(tmp_path / "small"), out=tmp_path / "runs", heads=["linear"], baselines="none"
    )
    assert run.encoder == "my-resnet18"
    assert "What the module has learnt, and from what, is not known." in str(run.record.cautions)
    picture = drawn(300, 231)
    levels = Pil.fromarray(np.rint(picture.pixels[0] * 255).astype(np.uint8)).convert("RGB")
    with torch.no_grad():
        expected = model(weights.transforms()(levels)[None])[0]
    own = encoder.encode(encoder.prepare(picture)[0][None]).pooled[0]
    assert own.shape == (512,)
    assert float(torch.cosine_similarity(own, expected, dim=0)) > 0.9999


def test_a_map_is_averaged_and_kept() -> None:
    encoder = from_module(network(), TRANSFORM, "mine")
    batch = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        expected = encoder.model(batch)
    features = encoder.encode(batch)
    assert (encoder.card.poolings, encoder.map_strides) == ({"gap": 5}, (4,))
    assert torch.equal(features.maps[0], expected)
    assert torch.allclose(features.pooled, expected.mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize(("prefix", "pooling"), [(0, "mean"), (1, "cls"), (5, "cls")])
def test_tokens_before_the_patches_are_told_by_what_is_left_over(prefix: int, pooling: str) -> None:
    module = Tokens(prefix).eval()
    encoder = from_module(module, TRANSFORM, "mine")
    assert (encoder.card.prefix_tokens, encoder.card.pooling, encoder.map_strides) == (prefix, pooling, (8,))
    batch = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        tokens = module(batch)
    features = encoder.encode(batch)
    assert torch.equal(features.maps[0].flatten(2).transpose(1, 2), tokens[:, prefix:])
    assert torch.allclose(features.pooled, tokens[:, 0] if prefix else tokens.mean(1), atol=1e-6)


def test_facts_of_the_card_are_the_callers() -> None:
    seen = ({"name": "MIMIC-CXR", "what": "images"},)
    card = from_module(network(), TRANSFORM, "mine", licence="MIT", pretraining_data=seen, paradigm="image-only").card
    assert (card.licence, card.pretraining_data[0].name, card.paradigm) == ("MIT", "MIMIC-CXR", "image-only")
    facts = find_card("resnet18").preprocessing
    assert from_module(network(), facts, "mine").card.preprocessing == facts


class Doing(nn.Module):
    """Whatever the function does to the batch."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, batch: Tensor) -> Any:
        return self.function(batch)


def flat(batch: Tensor) -> Tensor:
    return batch.flatten(1)


def unlearnt() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()).eval()


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "in training": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3)), r"is in training mode; call its eval\(\) first"),
    "a part in training": (lambda: training_part(), r"is in training mode \(1\); call its eval"),
    "dropout": (
        lambda: Doing(lambda batch: functional.dropout(flat(batch), training=True)).eval(),
        "two results for one image: dropout or sampling is left on",
    ),
    "not finite": (lambda: Doing(lambda batch: flat(batch) / 0).eval(), "NaN or infinite values for a test image"),
    "of the batch": (unlearnt, "changes with the others in its batch"),
    "one number": (lambda: Doing(lambda batch: batch.mean((1, 2, 3))).eval(), r"gives \[2\] for two images"),
    "no batch": (lambda: Doing(lambda batch: batch.mean(0)).eval(), r"gives \[3, 32, 32\] for two images"),
    "a dict": (lambda: Doing(lambda batch: {"x": flat(batch)}).eval(), "gives a dict; wrap it in one"),
    "of another size": (lambda: nn.Linear(7, 7).eval(), r"does not take a batch \[2, 3, 32, 32\]"),
    "no grid": (lambda: Doing(lambda batch: batch[:, :, :13].flatten(2)[:, :, :100].mT).eval(), "tokens .* no grid"),
    "a map of something else": (
        lambda: Doing(lambda batch: batch[:, :, :5, :29]).eval(),
        "does not cover its input of 32 x 32",
    ),
}


def training_part() -> nn.Module:
    module = network()
    module[1].train()
    return module


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_encoder_is_one_sentence(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(EvalfmError, match=words) as refusal:
        from_module(make(), TRANSFORM, "mine")
    assert "\n" not in str(refusal.value)


def test_a_name_that_another_encoder_has_is_refused() -> None:
    for name in ("rad-dino", "timm"):
        with pytest.raises(EvalfmError, match="is the name of another encoder"):
            from_module(network(), TRANSFORM, name)


class Scaled(nn.Module):
    """No tensors at all: a setting decides."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, batch: Tensor) -> Tensor:
        return batch[:, :, ::8, ::8] * self.factor


def key(module: nn.Module, transform: Any = TRANSFORM, name: str = "mine") -> str:
    return from_module(module.eval(), transform, name).key


def test_two_modules_never_share_features() -> None:
    changed = network()
    with torch.no_grad():
        changed[0].bias[0] += 1e-3
    shifted = transforms.Compose([TRANSFORM, transforms.Normalize([0.1] * 3, [1.0] * 3)])
    cropped = transforms.Compose([transforms.Resize(40), transforms.CenterCrop(SIZE), transforms.ToTensor()])
    keys = [
        key(network()),
        key(changed),
        key(network(), name="other"),
        key(network(), shifted),
        key(network(), cropped),
        key(nn.Sequential(network()[0], network()[1], nn.GELU())),
        key(Scaled(2.0)),
        key(Scaled(2.0000001)),
        key(nn.AvgPool2d(8)),
        key(nn.MaxPool2d(8)),
        key(Doing(torch.relu)),
        key(Doing(torch.tanh)),
        key(Doing(lambda batch: batch * 2)),
        key(Doing(lambda batch: batch * 3)),
    ]
    assert len(set(keys)) == len(keys)
    assert key(network()) == keys[0]


class Cut(nn.Module):
    """Values above a level are turned round; no image that is tried has any."""

    def __init__(self, level: Any, function: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self._level = level
        self._function = function

    def forward(self, batch: Tensor) -> Tensor:
        seen = batch[:, :, ::8, ::8]
        return turned(seen, float(self._level[0])) if self._function is None else self._function(seen)


def turned(values: Tensor, level: float) -> Tensor:
    return torch.where(values > level, -values, values)


class Held:
    def __init__(self, level: float) -> None:
        self.level = level

    def __getitem__(self, index: int) -> float:
        return self.level

    def turn(self, values: Tensor) -> Tensor:
        return turned(values, self.level)


def enclosed(level: float) -> Callable[[Tensor], Tensor]:
    return lambda values: turned(values, level)


def by_default(number: float) -> Callable[[Tensor], Tensor]:
    def function(values: Tensor, level: float = number) -> Tensor:
        return turned(values, level)

    return function


def hooked(level: float) -> nn.Module:
    module = nn.AvgPool2d(8)
    module.register_forward_hook(lambda _module, _inputs, output: turned(output, level))
    return module


HIDDEN: dict[str, Callable[[float], nn.Module]] = {
    "a private setting": lambda level: Cut([level]),
    "an array": lambda level: Cut(np.array([level])),
    "a tensor of half precision": lambda level: Cut(torch.tensor([level], dtype=torch.bfloat16)),
    "an object": lambda level: Cut(Held(level)),
    "a bound method": lambda level: Cut(None, Held(level).turn),
    "a closure": lambda level: Cut(None, enclosed(level)),
    "a default": lambda level: Cut(None, by_default(level)),
    "a hook": hooked,
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_shows_on_no_test_image_is_in_the_key(name: str) -> None:
    make = HIDDEN[name]
    assert key(make(5.0)) == key(make(5.0))
    assert key(make(5.0)) != key(make(6.0))


def test_a_setting_that_holds_itself_ends() -> None:
    round_about: list[Any] = []
    round_about.append(round_about)
    module = Scaled(2.0)
    module.more = round_about  # type: ignore[assignment]
    assert key(module) != key(Scaled(2.0))


@pytest.mark.parametrize("name", ["a b", "../x", "hf:mine", "mine@mean", "x" * 101])
def test_a_name_that_no_run_can_have_is_one_sentence(name: str) -> None:
    with pytest.raises(EvalfmError, match="is no name of a module") as refusal:
        from_module(network(), TRANSFORM, name)
    assert "\n" not in str(refusal.value)


def test_a_scripted_module_is_refused() -> None:
    with pytest.raises(EvalfmError, match="give the module that it was made of"):
        from_module(torch.jit.script(network()), TRANSFORM, "mine")


def test_the_key_is_the_same_in_another_process(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(
        "import torch\nfrom torch import nn\nfrom torchvision import transforms\n"
        "from evalfm.encoders import from_module\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    made = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])\n"
        "    body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.GELU()).eval()\n"
        "    return from_module(body, made, 'mine')\n"
        "if __name__ == '__main__':\n"
        "    print(build().key)\n"
    )
    import subprocess
    import sys

    keys = {subprocess.check_output([sys.executable, str(code)], text=True).strip() for _ in range(2)}
    assert len(keys) == 1
    named = load_encoder(f"{code}:build")
    assert isinstance(named, Encoder)
    assert named.state.code_digest is not None
    assert named.state.code_digest != load_encoder(from_code(code)).state.code_digest


def from_code(code: Path) -> Encoder:
    """The encoder of the file's function without the file's own digest."""
    space: dict[str, Any] = {"__name__": "mine"}
    exec(compile(code.read_text(), str(code), "exec"), space)
    made: Encoder = space["build"]()
    return made
