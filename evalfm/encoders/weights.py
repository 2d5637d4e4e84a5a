"""Checkpoints read without running code in them, and fitted to a model with no tensor over or missing."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evalfm.cards import read_json
from evalfm.cautions import Caution
from evalfm.encoders.card import WeightsFacts
from evalfm.encoders.weight_files import INDEX, check_plain, find_shards, has_shards, listed, read_content
from evalfm.errors import EvalfmError
from evalfm.paths import file_digest

COUNTERS = ".num_batches_tracked"
"""Counters of batch norms, which files from before PyTorch 0.4.1 lack and no forward pass reads."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a file by name, unwrapped, with the file's SHA-256.

    ``config`` is the ``config.json`` that lay beside the file in a folder, if any. Of several shards, ``path`` is the
    index or the first, and ``sha256`` is made of the names and digests of all. ``cautions`` say, as sentences, what the
    card does not know of the file.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    config: dict[str, Any] | None = None
    cautions: tuple[Caution, ...] = ()

    def named_for(self, expected: Iterable[str]) -> Checkpoint:
        """The checkpoint with the names ``expected`` by a model, where one prefix stands before all of them.

        A training script that holds the encoder as ``self.model`` or ``self.backbone`` saves it so, beside its own
        heads; what bears another prefix is left out, and ``cautions`` say it. Anything else stays as it is.

        Raises:
            EvalfmError: several prefixes stand before all names.
        """
        names = [name for name in expected if not name.endswith(COUNTERS)]
        if not names or any(name in self.tensors for name in names):
            return self
        ends = [name.removesuffix(names[0]) for name in self.tensors if name.endswith("." + names[0])]
        prefixes = [prefix for prefix in ends if all(prefix + name in self.tensors for name in names)]
        if len(prefixes) > 1:
            raise EvalfmError(
                f"{self.path} holds the encoder's tensors under {listed(prefixes)}, and which are meant is not "
                "clear; name one in the card's weights.strip_prefix, or save it alone."
            )
        if not prefixes:
            return self
        (prefix,) = prefixes
        kept = {name.removeprefix(prefix): each for name, each in self.tensors.items() if name.startswith(prefix)}
        others = len(self.tensors) - len(kept)
        words = f"The names of the encoder's tensors bear {prefix} in the file, which was left out" + (
            f", and so were {others} tensors without it." if others else "."
        )
        note = Caution("renamed-weights", words)
        return replace(self, tensors=kept, cautions=(*self.cautions, note))


def read_checkpoint(location: Path, facts: WeightsFacts) -> Checkpoint:
    """Read the checkpoint at ``location``: a file, one of several shards or their index, or a folder that holds them.

    The content decides the format, never the extension: safetensors, npz, torch's zip and legacy files.
    Pickles are read by torch's restricted unpickler, which builds tensors and plain containers; beside these
    only the data classes on the card's reviewed list may stand there, and they are not built. Tensors lie where the
    card's ``wrapper`` says, or under the usual names of training programs, which ``cautions`` then tell.

    Raises:
        EvalfmError: nothing there, damaged, of no known format, holding code, or holding NaN.
    """
    path = _find(location, facts)
    shards = find_shards(path)
    tensors: dict[str, Tensor] = {}
    cautions: list[Caution] = []
    for shard in shards:
        content, sentences = _unwrap(read_content(shard, facts), facts, shard)
        twice = sorted(set(tensors) & set(content))
        if twice:
            raise EvalfmError(f"{shard} holds {listed(twice)}, as another shard does; fetch the shards again.")
        tensors |= check_plain(shard, content)
        cautions += [each for each in sentences if each not in cautions]
    digests = [(shard.name, file_digest(shard)) for shard in shards]
    together = "".join(f"{name} {digest}\n" for name, digest in digests)
    sha256 = digests[0][1] if shards == [path] else hashlib.sha256(together.encode()).hexdigest()
    config_path = path.parent / "config.json"
    config = None
    if location.is_dir() and config_path.is_file():
        config = read_json(config_path)
        if not isinstance(config, dict):
            raise EvalfmError(f"{config_path} holds no settings by name; fetch it again or remove it.")
    return Checkpoint(path, sha256, tensors, config, tuple(cautions))


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], facts: WeightsFacts, origin: Path) -> None:
    """Copy ``tensors`` into ``model``: none missing or of another shape, none over but the card's own list.

    Counters of batch norms may be missing and stay as they are.

    Raises:
        EvalfmError: names every tensor that does not fit; the model is left as it was.
    """
    expected = model.state_dict()
    check_fit(
        missing=[name for name in expected if name not in tensors],
        unexpected=[name for name in tensors if name not in expected],
        mismatched=other_shapes(tensors, expected).values(),
        facts=facts,
        origin=origin,
    )
    model.load_state_dict({name: tensors.get(name, tensor) for name, tensor in expected.items()})


def other_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, str]:
    """Names that stand in both with two shapes, and these in words."""
    return {
        name: f"{name} {list(tensors[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    }


def check_fit(
    *,
    facts: WeightsFacts,
    origin: Path,
    missing: Iterable[str] = (),
    unexpected: Iterable[str] = (),
    mismatched: Iterable[str] = (),
) -> None:
    """Refuse a checkpoint that does not fit, naming its tensors; ``mismatched`` entries say name and shapes.

    Raises:
        EvalfmError: anything is missing (but counters of batch norms) or of another shape, or left over and not on
            the card's list.
    """
    left_over = [
        name for name in unexpected if not any(fnmatchcase(name, pattern) for pattern in facts.unexpected_keys)
    ]
    faults = {
        "missing": sorted(name for name in missing if not name.endswith(COUNTERS)),
        "of another shape": sorted(mismatched),
        "not known to the model": sorted(left_over),
    }
    present = [f"{what}: {listed(names)}" for what, names in faults.items() if names]
    if present:
        raise EvalfmError(
            f"{origin} does not fit the encoder ({'; '.join(present)}); give the weights that the card names."
        )


def _find(location: Path, facts: WeightsFacts) -> Path:
    """The file of weights at ``location``; of several shards the index, or the first."""
    if location.is_file():
        return location
    if not location.exists():
        raise EvalfmError(f"There is no file or folder {location}; check --weights.")
    if not location.is_dir():
        raise EvalfmError(f"{location} is neither file nor folder; check --weights.")
    for name in (facts.file, "model.safetensors", "pytorch_model.bin"):
        for each in () if name is None else (name, name + INDEX):
            if (location / each).is_file():
                return location / each
    every = sorted(each for each in location.iterdir() if each.is_file())
    indices = [each for each in every if each.name.endswith(INDEX)]
    candidates = indices or [each for each in every if each.suffix in (".safetensors", ".npz", ".pt", ".pth", ".bin")]
    # Shards without an index: the first stands for all of them.
    if candidates and not indices and has_shards(candidates):
        return candidates[0]
    if len(candidates) != 1:
        names = ", ".join(each.name for each in candidates) or "none"
        raise EvalfmError(f"{location} must hold one file of weights (it holds {names}); give the file to --weights.")
    return candidates[0]


DEEPEST = 4
"""How many mappings deep tensors are looked for."""

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "teacher", "network", "net")
"""Entries under which training programs keep the tensors; of a teacher and a student the teacher is published."""

RARER_WRAPPERS = (
    "student",
    "state_dict_ema",
    "model_ema",
    "ema",
    "params_ema",
    "params",
    "weights",
    "encoder",
    "backbone",
)
"""Looked for where there is none of ``WRAPPERS``."""


def _unwrap(content: object, facts: WeightsFacts, path: Path) -> tuple[dict[str, Tensor], list[Caution]]:
    """The tensors by the names that the card expects, and cautions on what the card did not say of the file."""
    if not isinstance(content, Mapping):
        raise EvalfmError(f"{path} holds a {type(content).__name__}, not tensors by name; save its state dict.")
    steps = list(facts.wrapper)
    taken: list[str] = []
    step: str | None
    # A mapping may hold itself.
    while not _is_flat(content) and len(taken) < DEEPEST:
        if steps and steps[0] in content:
            step = steps.pop(0)
        else:
            step = _well_known(content, path)
            if step is None and steps:
                raise EvalfmError(f"{path} has no entry {steps[0]!r}, where the card looks for the tensors.")
            if step is None:
                break
            taken.append(step)
            steps = [each for each in steps if each != step]
        content = content[step]
        if not isinstance(content, Mapping):
            raise EvalfmError(f"{path} holds no tensors by name under {step!r}, but a {type(content).__name__}.")
    strange = [str(name)[:100] for name, value in content.items() if not isinstance(value, Tensor)]
    if strange or not content:
        raise EvalfmError(
            f"{path} holds entries that are no tensors ({listed(strange) if strange else 'it is empty'}); "
            "give a state dict, or name the wrapper's keys in the card's weights.wrapper."
        )
    words = f"The tensors lay under {' / '.join(taken)} in the file of weights."
    cautions = [Caution("renamed-weights", words)] if taken else []
    tensors, shortened = _renamed({str(name): value for name, value in content.items()}, facts)
    if shortened:
        words = f"The names of the tensors bear {' and '.join(shortened)} in the file, which was left out."
        cautions.append(Caution("renamed-weights", words))
    if len(tensors) < len(content):
        raise EvalfmError(
            f"{path} holds two tensors of one name once the card's strip_prefix {facts.strip_prefix!r} and rename "
            "are applied; fix the card."
        )
    return tensors, cautions


def _is_flat(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(value, Tensor) for value in content.values())


def _well_known(content: Mapping[Any, Any], path: Path) -> str | None:
    """The one usual entry that holds a mapping with tensors in it."""
    wrappers = [name for name in WRAPPERS if _holds_tensors(content.get(name))]
    wrappers = wrappers or [name for name in RARER_WRAPPERS if _holds_tensors(content.get(name))]
    if len(wrappers) > 1:
        raise EvalfmError(
            f"{path} holds tensors under {listed(wrappers)}, and which are meant is not clear; name one in the card's "
            "weights.wrapper, or save it alone."
        )
    return wrappers[0] if wrappers else None


def _holds_tensors(value: object) -> bool:
    """Whether a mapping has a tensor in it or in one of its mappings; each is looked into once."""
    level, seen = [value], {id(value)}
    for _ in range(DEEPEST):
        mappings = [each for each in level if isinstance(each, Mapping)]
        level = [each for mapping in mappings for each in mapping.values() if id(each) not in seen]
        if any(isinstance(each, Tensor) for each in level):
            return True
        seen |= {id(each) for each in level}
        level = list({id(each): each for each in level}.values())
    return False


def _renamed(tensors: dict[str, Tensor], facts: WeightsFacts) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under the card's names, and the prefixes of usual wrappers that the card does not name."""
    shortened = []
    if any(COMPILED in name for name in tensors):
        shortened.append(COMPILED)
    prefix = facts.strip_prefix
    if prefix and not any(name.replace(COMPILED, "").startswith(prefix) for name in tensors):
        # Saved without the wrapper for several devices that the authors' file has.
        prefix = prefix.removeprefix(PARALLEL)
    names = {name: name.replace(COMPILED, "").removeprefix(prefix) for name in tensors}
    while all(name.startswith(PARALLEL) for name in names.values()):
        names = {name: short.removeprefix(PARALLEL) for name, short in names.items()}
        shortened = [*dict.fromkeys([*shortened, PARALLEL])]
    for name, short in names.items():
        for beginning, replacement in facts.rename.items():
            if short.startswith(beginning):
                names[name] = replacement + short.removeprefix(beginning)
                break
    return {names[name]: tensor for name, tensor in tensors.items()}, shortened


PARALLEL, COMPILED = "module.", "_orig_mod."
"""What torch's wrappers for several devices and for compilation put into the names of tensors."""


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors by sorted name, with type and shape; the same on every device.

    >>> tensor_digest({"weight": torch.zeros(2)})[:8]
    '90f6dae6'
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def foreign_code(kind: type) -> list[str]:
    """SHA-256 of the files that define the classes of ``kind`` that are the user's own.

    >>> foreign_code(nn.Linear)
    []
    """
    digests = []
    for each in kind.__mro__:
        if each.__module__.split(".")[0] in ("evalfm", "torch", "abc", "builtins"):
            continue
        try:
            source = inspect.getsourcefile(each)
        except TypeError:
            source = None
        if source is not None:
            digests.append(file_digest(Path(source)))
        else:
            # Typed at a prompt: no file, so the compiled hook stands for it.
            code = getattr(vars(each).get("_forward"), "__code__", None)
            digests.append(hashlib.sha256(repr((code and code.co_code, code and code.co_consts)).encode()).hexdigest())
    return digests
