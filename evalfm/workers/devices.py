"""The devices that a user names, and those that they stand for on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from evalfm.errors import EvalfmError, shown

AUTO, ALL, CPU, GPU = "auto", "all", "cpu", "cuda"
VISIBLE = "CUDA_VISIBLE_DEVICES"
_NAME = re.compile(r"auto|all|cpu|mps|cuda|(?:cuda:)?(?P<number>\d{1,4})", re.ASCII)


def name_devices(value: object) -> str:
    """Devices as a user writes them: ``auto``, ``all``, numbers of GPUs, ``cpu`` as often as wanted, ``mps``.

    Whether they are there is not asked; ``resolve`` does. Numbers become names of PyTorch's.

    Raises:
        EvalfmError: a name is none of these, or they do not go together.

    >>> name_devices("0,1"), name_devices("cpu, cpu"), name_devices([2, 3])
    ('cuda:0,cuda:1', 'cpu,cpu', 'cuda:2,cuda:3')
    """
    items = value if isinstance(value, list | tuple) else [value]
    names = [text.strip() for item in items for text in str(item).split(",")]
    devices = []
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            raise EvalfmError(f"{shown(name)} is no device; write auto, all, cpu, or numbers of GPUs such as 0,1.")
        devices.append(name if match["number"] is None else f"{GPU}:{int(match['number'])}")
    kinds = {_kind(name) for name in devices}
    if len(devices) > 1 and (len(kinds) > 1 or not kinds <= {CPU, GPU}):
        raise EvalfmError(f"The devices {','.join(names)} do not go together; write GPUs such as 0,1, or cpu,cpu.")
    if kinds == {GPU} and len(devices) > 1 and (GPU in devices or len(set(devices)) < len(devices)):
        raise EvalfmError(f"The devices {','.join(names)} name a GPU twice; write each number once, such as 0,1.")
    return ",".join(devices)


def resolve(given: str) -> tuple[str, ...]:
    """The devices that ``given`` (of ``name_devices``) stands for here: ``cpu``, ``mps``, ``cuda`` or ``cuda:1``.

    ``auto`` is one: a GPU if there is one, else the processor. ``all`` is every GPU that is visible, else the processor
    once.

    Raises:
        EvalfmError: a GPU is not there.

    >>> resolve("cpu,cpu")
    ('cpu', 'cpu')
    """
    devices = name_devices(given).split(",")
    if not any(name in (AUTO, ALL) or _kind(name) == GPU for name in devices):
        return tuple(devices)
    import torch

    count = torch.cuda.device_count()
    if devices[0] in (AUTO, ALL):
        if count == 0:
            return (CPU,)
        return tuple(f"{GPU}:{number}" for number in range(count)) if devices[0] == ALL and count > 1 else (GPU,)
    if count == 0:
        raise EvalfmError("There is no usable GPU here; leave --devices out or say --devices cpu.")
    absent = [name for name in devices if name != GPU and _number(name) >= count]
    if absent:
        there = "only GPU 0 is" if count == 1 else f"GPUs 0 to {count - 1} are"
        raise EvalfmError(f"There is no GPU {', '.join(str(_number(name)) for name in absent)} here; {there}.")
    return tuple(devices)


def device_class(device: str) -> str:
    """``cpu``, ``mps`` or ``cuda``: what a process that sees one device of its own calls it.

    >>> device_class("cuda:3")
    'cuda'
    """
    return _kind(device)


def name_of(device: str, position: int) -> str:
    """What a person calls the worker at ``position`` (from 0), which has ``device``.

    >>> name_of("cuda:3", 0), name_of("cpu", 1)
    ('GPU 3', 'CPU process 2')
    """
    return f"GPU {_number(device)}" if _kind(device) == GPU else f"{device.upper()} process {position + 1}"


def visible(devices: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment of a process that shall see ``devices`` alone; empty for what is no GPU.

    Numbers are of those GPUs that this process sees, which may itself be shown some of the machine's alone.

    >>> visible(["cuda:1"], {"CUDA_VISIBLE_DEVICES": "4,7"})
    {'CUDA_VISIBLE_DEVICES': '7'}
    """
    if not devices or _kind(devices[0]) != GPU:
        return {}
    shown_here = (os.environ if environment is None else environment).get(VISIBLE)
    names = None if shown_here is None else [name.strip() for name in shown_here.split(",")]
    numbers = [_number(name) for name in devices]
    return {VISIBLE: ",".join(str(number) if names is None else names[number] for number in numbers)}


@contextmanager
def only_visible(devices: Sequence[str]) -> Iterator[None]:
    """A block in which processes that are started see ``devices`` alone; this one is not changed by it."""
    changes = visible(devices)
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _number(device: str) -> int:
    return int(device.partition(":")[2] or 0)
