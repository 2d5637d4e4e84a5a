import pytest
import torch

from evalfm.errors import EvalfmError
from evalfm.workers.devices import device_class, name_devices, name_of, only_visible, resolve, visible


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gpu", "'gpu' is no device"),
        ("", "'' is no device"),
        ("0,,1", "'' is no device"),
        ("cpu,0", "do not go together"),
        ("all,0", "do not go together"),
        ("auto,auto", "do not go together"),
        ("mps,mps", "do not go together"),
        ("0,0", "name a GPU twice"),
        ("cuda,1", "name a GPU twice"),
        ("-1", "is no device"),
        ("cuda:x", "is no device"),
        ("٣", "is no device"),
    ],
)
def test_what_is_no_device_is_refused_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(EvalfmError, match=sentence):
        name_devices(text)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_is_one_and_all_is_every_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    assert (resolve("auto"), resolve("all")) == (("cpu",), ("cpu",))
    gpus(monkeypatch, 1)
    assert (resolve("auto"), resolve("all")) == (("cuda",), ("cuda",))
    gpus(monkeypatch, 3)
    assert resolve("auto") == ("cuda",)
    assert resolve("all") == ("cuda:0", "cuda:1", "cuda:2")
    assert resolve("2,0") == ("cuda:2", "cuda:0")


@pytest.mark.parametrize(
    ("text", "count", "sentence"),
    [("0", 0, "no usable GPU"), ("cuda", 0, "no usable GPU"), ("0,3", 2, "no GPU 3 here; GPUs 0 to 1 are"),
     ("1", 1, "no GPU 1 here; only GPU 0 is")],
)  # fmt: skip
def test_a_gpu_that_is_not_there(text: str, count: int, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, count)
    with pytest.raises(EvalfmError, match=sentence):
        resolve(text)


def test_a_process_sees_its_own_gpu_of_those_that_are_visible_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible(["cuda:1"], {}) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert visible(["cuda:1", "cuda:0"], {"CUDA_VISIBLE_DEVICES": "4, GPU-7a"}) == {"CUDA_VISIBLE_DEVICES": "GPU-7a,4"}
    assert visible(["cpu"], {"CUDA_VISIBLE_DEVICES": "4"}) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    with only_visible(["cuda:1"]):
        assert visible(["cuda"]) == {"CUDA_VISIBLE_DEVICES": "6"}
    assert visible(["cuda"]) == {"CUDA_VISIBLE_DEVICES": "5"}
    assert (device_class("cuda:3"), name_of("cuda:3", 7), name_of("cpu", 7)) == ("cuda", "GPU 3", "CPU process 8")
