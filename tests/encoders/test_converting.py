"""Whole pickled models to safetensors: nothing that they name is run, before a yes or after it."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import os
import pickle
import runpy
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evalfm.encoders import converting, load_encoder
from evalfm.encoders.card import WeightsFacts
from evalfm.encoders.converting import convert, examine
from evalfm.encoders.weight_files import unsafe_globals
from evalfm.encoders.weights import read_checkpoint
from evalfm.errors import EvalfmError

PLAIN = WeightsFacts(source="path")
ROOT = Path(__file__).resolve().parents[2]


@cache
def script() -> dict[str, Any]:
    """The script that the process runs."""
    return runpy.run_path(str(converting.READER))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in this process: the content is what is tested, and a process of its own takes seconds to start."""

    class Here(contextlib.AbstractContextManager["Here"]):
        """In the place of the process."""

        def __init__(self, command: list[str], **_: object) -> None:
            source, target, metadata = command[-3:]
            assert command[:3] == [sys.executable, "-I", str(converting.READER)]
            self.stdout = io.BytesIO(json.dumps(script()["convert"](source, target, json.loads(metadata))).encode())

        def wait(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(subprocess, "Popen", Here)


class Harmful:
    """Read without care, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Callable[[], type[nn.Module]]:
    """A DenseNet class of a library that is there while the model is pickled, and not when it is read."""
    library = types.ModuleType("library_that_is_gone")

    class DenseNet(torchvision.models.DenseNet):
        pass

    DenseNet.__module__ = library.__name__
    DenseNet.__qualname__ = "DenseNet"
    library.DenseNet = DenseNet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, library.__name__, library)
    return lambda: DenseNet


def small_densenet(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    model = kind(growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8, num_classes=18)
    model.op_threshs = [0.1, float("nan")]  # type: ignore[assignment]
    model.register_buffer("passing", torch.ones(2), persistent=False)
    return model


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_module_gives_its_state_dict_without_its_library(
    tmp_path: Path,
    gone: Callable[[], type[nn.Module]],
    zipped: bool,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if not zipped:
        request.getfixturevalue("here")
    model = small_densenet(gone())
    path, out = tmp_path / "whole.pt", tmp_path / "whole.safetensors"
    torch.save(model, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "library_that_is_gone")
    with pytest.raises(EvalfmError, match=r"evalfm convert \S*whole\.pt --out whole\.safetensors"):
        read_checkpoint(path, PLAIN)
    examined = examine(path)
    assert "library_that_is_gone.DenseNet" in examined.imports
    made = convert(examined, out)
    expected = model.state_dict()
    read = load_file(out)
    assert set(read) == set(expected)
    assert "passing" not in read
    assert all(
        torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in expected.items()
    )
    assert (made.tensors, made.values) == (len(expected), sum(each.numel() for each in expected.values()))
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["source_sha256"] == examined.sha256
        assert file.metadata()["source"] == "whole.pt"
    assert set(read_checkpoint(out, PLAIN).tensors) == set(expected)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["whole.pt", "whole.safetensors"]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_harmful_pickle_is_run_by_nobody(tmp_path: Path, protocol: int, request: pytest.FixtureRequest) -> None:
    if protocol == 4:
        request.getfixturevalue("here")
    marker, path, out = tmp_path / "marker", tmp_path / "harmful.pt", tmp_path / "harmful.safetensors"
    content = {"weight": torch.ones(2), "again": Harmful(marker), "harmful": Harmful(marker)}
    torch.save(content, path, pickle_protocol=protocol)
    with pytest.raises(EvalfmError, match=r"posix\.system"):
        load_encoder("xrv-densenet121-all", weights=path)
    examined = examine(path)
    assert "posix.system" in examined.imports
    assert not marker.exists()
    made = convert(examined, out)
    # Longer than the command would take: nothing was run after the yes either.
    assert not marker.exists()
    assert made.left_out == ("again", "harmful")
    assert set(load_file(out)) == {"weight"}
    torch.load(path, weights_only=False)
    assert marker.exists()  # It is as harmful as it is meant to be.


class Hidden(nn.Module):
    """A parameter whose rebuilding is another library's."""

    def __init__(self, made: Any) -> None:
        super().__init__()
        self._parameters["weight"] = made


class Odd:
    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return torch._utils._rebuild_qtensor, (1, 2, 3)


class Custom:
    pass


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: Hidden(Odd()), r"_rebuild_qtensor"),
        (lambda: Hidden(Custom()), r"weight is no plain tensor"),
        (lambda: {"weight": torch.ones(2, dtype=torch.complex64), "other": Custom()}, r"weight of .*complex64"),
        (lambda: {"other": Custom()}, r"holds no tensors by name"),
        (lambda: {"a.b": torch.ones(1), "a": {"b": torch.ones(2)}, "other": Custom()}, r"two tensors of the name a\.b"),
    ],
)
def test_no_tensor_is_left_out_in_silence(tmp_path: Path, content: Callable[[], Any], said: str) -> None:
    path = tmp_path / "odd.pt"
    torch.save(content(), path)
    with pytest.raises(EvalfmError, match=said):
        convert(examine(path), tmp_path / "odd.safetensors")
    assert [each.name for each in tmp_path.iterdir()] == ["odd.pt"]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.other = self.one
        self.view = nn.Parameter(torch.empty(0))
        whole = torch.arange(12.0).reshape(3, 4)
        self.view.data = whole[:, 1:3]
        self.register_buffer("rest", whole.T)


@pytest.mark.usefixtures("here")
def test_names_that_share_a_tensor_all_come_out(tmp_path: Path) -> None:
    path, out = tmp_path / "tied.pt", tmp_path / "tied.safetensors"
    model = Tied()
    torch.save({"model": model, "epoch": 3}, path)
    made = convert(examine(path), out)
    read = load_file(out)
    assert set(read) == {f"model.{name}" for name in model.state_dict()}
    assert all(torch.equal(read[f"model.{name}"], tensor) for name, tensor in model.state_dict().items())
    assert made.left_out == ("epoch",)


class Settings(dict):  # type: ignore[type-arg]
    """A mapping of some library's own."""


class Several(set):  # type: ignore[type-arg]
    """A set of some library's own."""


class Row(list):  # type: ignore[type-arg]
    """A list of some library's own."""


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.usefixtures("here")
def test_mappings_of_other_classes_give_their_tensors(tmp_path: Path) -> None:
    path, out = tmp_path / "own.pt", tmp_path / "own.safetensors"
    inner = collections.defaultdict(Custom, {"weight": torch.arange(3.0)})
    content = {
        "model": Settings(inner=inner, name="x"),
        "layers": [torch.ones(1)],
        "tags": Several([1]),
        "row": Row([2]),
    }
    torch.save(content, path, pickle_protocol=4)
    made = convert(examine(path), out)
    assert torch.equal(load_file(out)["model.inner.weight"], torch.arange(3.0))
    assert made.tensors == 1
    assert made.left_out == ("model.name", "layers", "tags", "row")


def plain_files(folder: Path) -> list[Path]:
    tensors = {"weight": torch.ones(2, 3)}
    save_file(tensors, folder / "a.pt")
    torch.save(tensors, folder / "b.pt")
    torch.save(tensors, folder / "c.pt", _use_new_zipfile_serialization=False)
    return [folder / name for name in ("a.pt", "b.pt", "c.pt")]


def test_a_file_that_needs_no_conversion_is_said_to(tmp_path: Path) -> None:
    for path in plain_files(tmp_path):
        with pytest.raises(EvalfmError, match="needs no conversion: give it to --weights"):
            examine(path)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
def test_a_damaged_file_leaves_nothing(tmp_path: Path, zipped: bool, kept: float) -> None:
    path, out = tmp_path / "whole.pt", tmp_path / "whole.safetensors"
    torch.save(nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(EvalfmError, match=r"whole\.pt (is|names)"):
        convert(examine(path), out)
    assert not out.exists()
    assert [each.name for each in tmp_path.iterdir()] == ["whole.pt"]


@pytest.mark.usefixtures("here")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.pt").write_bytes(b"<html>not found</html>")
    (tmp_path / "list.pt").write_bytes(pickle.dumps([Custom()], protocol=2))
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "program.pt")
    with pytest.raises(EvalfmError, match="no file"):
        examine(tmp_path / "absent.pt")
    with pytest.raises(EvalfmError, match="no checkpoint"):
        examine(tmp_path / "page.pt")
    with pytest.raises(EvalfmError, match="TorchScript"):
        examine(tmp_path / "program.pt")
    with pytest.raises(EvalfmError, match="no checkpoint"):
        convert(examine(tmp_path / "list.pt"), tmp_path / "list.safetensors")


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.pt"
    torch.save(nn.Linear(3, 2), path)
    return path


@pytest.mark.usefixtures("here")
def test_an_existing_file_is_replaced_with_force_only(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(EvalfmError, match="--force"):
        convert(examine(whole), out)
    assert out.read_bytes() == b"mine"
    convert(examine(whole), out, force=True)
    assert set(load_file(out)) == {"weight", "bias"}
    with pytest.raises(EvalfmError, match=r"must end in \.safetensors"):
        convert(examine(whole), tmp_path / "out.pt")
    with pytest.raises(EvalfmError, match="no folder"):
        convert(examine(whole), tmp_path / "absent" / "out.safetensors")


def test_a_link_stays_and_a_pipe_is_no_file_to_write(tmp_path: Path, whole: Path, here: None) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.safetensors").symlink_to("folder/made.safetensors")
    convert(examine(whole), tmp_path / "link.safetensors")
    convert(examine(whole), tmp_path / "link.safetensors", force=True)
    assert (tmp_path / "link.safetensors").is_symlink()
    assert load_file(tmp_path / "folder/made.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(EvalfmError, match="pipe or device"):
        convert(examine(whole), tmp_path / "pipe.safetensors", force=True)
    assert (tmp_path / "pipe.safetensors").is_fifo()


@pytest.mark.usefixtures("here")
def test_a_file_that_changed_after_it_was_shown_is_not_converted(tmp_path: Path, whole: Path) -> None:
    examined = examine(whole)
    torch.save(nn.Linear(3, 2), whole)
    with pytest.raises(EvalfmError, match="changed while it was read"):
        convert(examined, tmp_path / "out.safetensors")
    assert [each.name for each in tmp_path.iterdir()] == ["whole.pt"]


def test_the_reading_process_is_not_given_the_callers_environment(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = tmp_path / "reader.py"
    reader.write_text("import os, sys\nprint(sorted(os.environ), sys.flags.isolated, file=sys.stderr)\n")
    monkeypatch.setattr(converting, "READER", reader)
    monkeypatch.setenv("HF_TOKEN", "secret")
    with pytest.raises(EvalfmError, match=r"\[.*'PATH'.*\] 1") as refusal:
        convert(examine(whole), tmp_path / "out.safetensors")
    assert "HF_TOKEN" not in str(refusal.value)
    assert not list(tmp_path.glob("*.safetensors*"))


SLOW = """
import runpy, sys, time
import safetensors.torch

def half(*_, **__):
    with open(sys.argv[2], "wb") as file:
        file.write(b"half")
    open({started!r}, "w").close()
    time.sleep(60)

safetensors.torch.save_file = half
runpy.run_path({reader!r}, run_name="__main__")
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stop_half_way_leaves_nothing(tmp_path: Path, whole: Path, how: signal.Signals) -> None:
    out, started, reader = tmp_path / "out.safetensors", tmp_path / "started", tmp_path / "reader.py"
    reader.write_text(SLOW.format(reader=str(converting.READER), started=str(started)))
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from evalfm.encoders import converting\n"
        "converting.READER = Path(sys.argv[2])\n"
        "converting.convert(converting.examine(Path(sys.argv[3])), Path(sys.argv[4]))\n"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(reader), str(whole), str(out)]
    # A shell starts what runs in the background deaf to Ctrl-C, which would be handed down to here.
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=heard)
    until = time.monotonic() + 60
    while not started.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert list(tmp_path.glob(".writing-*"))
    process.send_signal(how)
    process.wait()
    while list(tmp_path.glob(".writing-*")) and time.monotonic() < until:
        time.sleep(0.02)
    assert {each.name for each in tmp_path.iterdir()} == {"whole.pt", "reader.py", "started"}


def test_names_pushed_from_a_pickles_memory_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "memory.pt"
    # Protocol 4 keeps "posix" and "system" once and calls them again.
    path.write_bytes(pickle.dumps([os.system, os.system.__name__, Custom, os.getpid], protocol=4))
    shown = unsafe_globals(path, PLAIN)
    assert {"posix.system", "posix.getpid", f"{__name__}.Custom"} <= set(shown)


@pytest.mark.usefixtures("here")
def test_torchxrayvisions_file_becomes_the_encoders_weights(
    tmp_path: Path, gone: Callable[[], type[nn.Module]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = gone()
    torch.manual_seed(5)
    model = kind(num_classes=18).eval()
    model.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
    path, out = tmp_path / "xrv.pt", tmp_path / "xrv.safetensors"
    torch.save(model, path)
    monkeypatch.delitem(sys.modules, "library_that_is_gone")
    convert(examine(path), out)
    encoder = load_encoder("xrv-densenet121-all", weights=out, input_size=64)
    batch = torch.randn(2, 1, 64, 64) * 300
    maps: list[Tensor] = []
    with torch.no_grad():
        cells = batch
        for name, layer in model.features.named_children():
            cells = layer(cells)
            if name in ("denseblock1", "denseblock2", "denseblock3"):
                maps.append(cells.clone())
        maps.append(torch.relu(cells))
        pooled = maps[-1].mean((2, 3))
    features = encoder.encode(batch)
    scale = float(pooled.abs().max())
    assert torch.allclose(features.pooled, pooled, atol=1e-5 * scale)
    for mine, theirs in zip(features.maps, maps, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5 * float(theirs.abs().max()))
    assert torch.equal(encoder.state_dict()["model.features.conv0.weight"], model.features.conv0.weight)
    # Three channels, or torchvision's own file, are other weights.
    save_file(dict(torchvision.models.densenet121(weights=None).state_dict()), tmp_path / "other.safetensors")
    with pytest.raises(EvalfmError, match=r"features\.conv0\.weight \[64, 3, 7, 7\] instead of \[64, 1, 7, 7\]"):
        load_encoder("xrv-densenet121-all", weights=tmp_path / "other.safetensors")


def test_the_librarys_own_module_gives_its_own_features(tmp_path: Path) -> None:
    library = pytest.importorskip("torchxrayvision", reason="torchxrayvision is not installed")
    torch.manual_seed(0)
    model = library.models.DenseNet(weights=None, num_classes=18, in_channels=1).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    torch.save(model, tmp_path / "xrv.pt")
    convert(examine(tmp_path / "xrv.pt"), tmp_path / "xrv.safetensors")
    encoder = load_encoder("xrv-densenet121-all", weights=tmp_path / "xrv.safetensors")
    batch = torch.randn(2, 1, 224, 224) * 400
    with torch.no_grad():
        expected = model.features2(batch)
    assert torch.allclose(encoder.encode(batch).pooled, expected, atol=1e-6 * float(expected.abs().max()))


def test_the_card_tells_how_to_have_the_weights() -> None:
    with pytest.raises(EvalfmError, match=r"mlmed/torchxrayvision/releases.*evalfm convert"):
        load_encoder("xrv-densenet121-all")
