"""Prompt learning at BiomedCLIP's size with random weights: sentences cut to their length, and images encoded once.

    python benchmarks/prompt_learning.py [--images 48] [--epochs 2] [--steps 3]

ViT-B/16, BERT-base with 256 positions. Prints the CPU seconds of a training step (forward and backward of the prompts)
with filling cut and with all 256 tokens, their ratio, and how often the image tower saw an image while three heads
learnt from it, beside what a tower inside the loop would see. There are no words here, so the tokenizer is a list.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional

from evalfm.data.phantom import make_phantom
from evalfm.encoders import load_encoder
from evalfm.encoders.encoder import Encoder
from evalfm.encoders.text import TextTower
from evalfm.features.encoded import EncodedSource
from evalfm.features.store import FeatureStore
from evalfm.heads.head import Context, Text
from evalfm.heads.text.learned import BiomedCoOpHead, BiomedDPTHead, CoOpHead
from evalfm.heads.text.training import ContextSchedule
from evalfm.probing.labelled import LabelledFeatures
from evalfm.tasks.cohort import select_cohort
from evalfm.tasks.prompts import Own, prompt_set
from evalfm.tasks.task import load_task

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def write_tokenizer(path: Path, sentences: list[str]) -> None:
    """Every word of ``sentences`` a token of its own."""
    splitter = pre_tokenizers.BertPreTokenizer()
    words = sorted({word for said in sentences for word, _ in splitter.pre_tokenize_str(said)})
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*SPECIAL, *words])}, unk_token="[UNK]"))
    made.pre_tokenizer = splitter
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(path))


def step_seconds(tower: TextTower, names: list[str], steps: int, *, cut: bool) -> tuple[float, torch.Tensor]:
    """Seconds of a forward and backward pass of the prompts, and the gradient of their first cosine."""
    with patch.object(type(tower), "filling_unseen", cut):
        prompted = tower.prompted([f"a photo of a {name}." for name in names], "a photo of a")
    context = prompted.initial.clone().requires_grad_()
    taken = []
    for _ in range(steps + 1):
        context.grad = None
        started = time.process_time()
        texts = functional.normalize(prompted.encode(context), dim=-1)
        torch.autograd.backward((texts[0] * texts[1]).sum())
        taken.append(time.process_time() - started)
    assert context.grad is not None
    return min(taken[1:]), context.grad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    encoder = load_encoder("biomedclip", weights="random")
    facts = encoder.card.text_tower
    assert facts is not None
    prompts = prompt_set("ptx-cls", "binary", ("pneumothorax",), Own(facts.present, facts.absent))
    names = [row.name for row in prompts.rows]
    with tempfile.TemporaryDirectory() as folder:
        said = [each for row in prompts.rows for each in row.sentences]
        said += [f"a chest X-ray photo of a {name}." for name in names]
        write_tokenizer(Path(folder) / "tokenizer.json", said)
        with patch("evalfm.encoders.families._tokenizer.fetch_beside", lambda *_: Path(folder) / "tokenizer.json"):
            tower = encoder.text_tower()
        for count in (2, 8):
            asked = [" ".join([names[1]] * (1 + at)) for at in range(count)]
            short, gradient = step_seconds(tower, asked, options.steps, cut=True)
            whole, other = step_seconds(tower, asked, options.steps, cut=False)
            apart = float((gradient - other).abs().max() / other.abs().max())
            print(
                f"{count} prompts: {short:.3f} CPU s a step cut, {whole:.3f} with 256 tokens, "
                f"ratio {whole / short:.1f}; gradients differ by {apart:.1e} of the largest"
            )
        learn(encoder, Text(prompts, tower), options, Path(folder))


def learn(encoder: Encoder, text: Text, options: argparse.Namespace, folder: Path) -> None:
    """Three heads on one store of features."""
    manifest = make_phantom(folder / "data", n=options.images, size=224)
    cohort = select_cohort(load_task("ptx-cls"), manifest)
    source = EncodedSource(encoder, manifest, FeatureStore(folder / "store"))
    side, rows = LabelledFeatures(cohort, source), np.arange(len(cohort))
    train, val = side.examples(rows[: -len(rows) // 4]), side.examples(rows[-len(rows) // 4 :])
    seen: list[int] = []
    model: Any = encoder.model
    hook = model.trunk.patch_embed.register_forward_pre_hook(lambda _module, given: seen.append(len(given[0])))
    started = time.process_time()
    train.pooled(), val.pooled()
    print(f"{len(rows)} images encoded in {time.process_time() - started:.1f} CPU s")
    steps = 0
    for kind in (CoOpHead, BiomedCoOpHead, BiomedDPTHead):
        head = kind(schedule=ContextSchedule(options.epochs, kind.rate))
        started = time.process_time()
        head.fit(train, val, Context("binary", cohort.class_names, text=text, data="phantom", task="ptx-cls"))
        taken = time.process_time() - started
        own_steps = options.epochs * (len(train) // 4)
        steps += own_steps
        each = taken / own_steps
        print(f"{kind.name}: {taken:.1f} CPU s, {each:.3f} a step of 4 images (sentences and val included)")
    hook.remove()
    inside = steps * 4 + 3 * options.epochs * len(val)
    print(f"image tower: {sum(seen)} images seen, {inside} with the tower in the loop, ratio {inside / sum(seen):.1f}")


if __name__ == "__main__":
    main()
