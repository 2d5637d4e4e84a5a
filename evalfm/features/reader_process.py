"""A process that reads and prepares images for its parent; it imports neither torch nor pandas.

It is started by ``reader_pool`` and ends with its standard input, and so with its parent. Messages are JSON behind
their length in four bytes; pixels go through shared memory. The first eight bytes of that memory say which row is in
work, so that the parent can name it should this process be killed.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np

from evalfm.data.images import is_constant, read_stored_depth
from evalfm.data.locators import LinkedRoot
from evalfm.encoders.preprocessing import Prepared, Preparer
from evalfm.errors import EvalfmError

HEADER_BYTES = 64
"""In front of the slots of shared memory; the first eight are the number of the row in work, from 1."""
MOST_MESSAGE = 2**26
_LENGTH = struct.Struct(">I")
_ROW = struct.Struct("<q")


@dataclass(frozen=True)
class ImageFiles:
    """Where images lie and how their pixels are read; fields as the arguments of ``evalfm.data.images.read_image``."""

    root: Path
    bits: int | None
    unit: str | None

    def read(self, preparer: Preparer, locator: str) -> tuple[Prepared, dict[str, float]]:
        """The prepared image of ``locator``, and the processor seconds of its stages.

        Raises:
            EvalfmError: it cannot be read, is constant, or is not what the encoder takes.
        """
        began = time.thread_time()
        image = read_stored_depth(locator, self.root, bits=self.bits, unit=self.unit)
        decoded = time.thread_time()
        if is_constant(image):
            raise EvalfmError(constant_image(float(image.pixels.flat[0]) * image.scale))
        prepared = preparer(image)
        return prepared, {"decode": decoded - began, "resize": time.thread_time() - decoded}


def constant_image(value: float) -> str:
    """Why an image of one ``value`` is refused."""
    return (
        f"all pixels of the image have the value {value:g}; replace the file or drop the row "
        "(`evalfm data check` lists all such rows)."
    )


def send(stream: BinaryIO, message: Mapping[str, Any]) -> None:
    """Write ``message`` behind its length."""
    content = json.dumps(message).encode()
    stream.write(_LENGTH.pack(len(content)) + content)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """The next message; None at the end of the stream, wherever it ends.

    >>> import io
    >>> stream = io.BytesIO()
    >>> send(stream, {"ready": True})
    >>> _ = stream.seek(0)
    >>> receive(stream), receive(stream)
    ({'ready': True}, None)
    """
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MOST_MESSAGE:
        return None
    content = stream.read(length)
    return json.loads(content) if len(content) == length else None


def row_in_work(memory: mmap.mmap) -> int | None:
    """Row that the process of this shared memory is at, or None between two."""
    (row,) = _ROW.unpack_from(memory, 0)
    return int(row) - 1 if row else None


def facts_from(content: Mapping[str, Any]) -> Any:
    """A card's preprocessing from JSON: plain values, for which no library need be loaded.

    >>> facts_from({"input_size": [2, 3], "pad": "start"}).input_size
    (2, 3)
    """
    return SimpleNamespace(**{name: tuple(each) if isinstance(each, list) else each for name, each in content.items()})


class _Worker:
    """What one process knows: how to prepare, where images lie, and the memory that it writes to."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self._preparer = Preparer(facts_from(setup["facts"]), setup["encoder"])
        root = LinkedRoot(setup["root"]) if setup["linked"] else Path(setup["root"])
        self._files = ImageFiles(root, setup["bits"], setup["unit"])
        self._slot_bytes: int = setup["slot_bytes"]
        file = setup["file"]
        descriptor = file if isinstance(file, int) else os.open(file, os.O_RDWR | getattr(os, "O_BINARY", 0))
        self._memory = mmap.mmap(descriptor, setup["bytes"])
        os.close(descriptor)

    def read(self, slot: int, row: int, locator: str) -> dict[str, Any]:
        """Prepare one image into ``slot``; what it is, or what is wrong with it."""
        _ROW.pack_into(self._memory, 0, row + 1)
        try:
            prepared, seconds = self._files.read(self._preparer, locator)
        except EvalfmError as error:
            return {"error": str(error)}
        except MemoryError:
            return {"error": "there is not enough memory to prepare the image; use fewer --workers."}
        except Exception:
            return {"fault": traceback.format_exc()}
        finally:
            _ROW.pack_into(self._memory, 0, 0)
        pixels = prepared.pixels
        start = HEADER_BYTES + slot * self._slot_bytes
        flat = np.frombuffer(self._memory, pixels.dtype, pixels.size, start)
        flat[:] = pixels.reshape(-1)
        kind = pixels.dtype.str
        size = prepared.geometry.source
        return {"kind": kind, "shape": pixels.shape, "size": size, "unit": prepared.unit, "seconds": seconds}


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until they end; the first is the setup."""
    setup = receive(requests)
    if setup is None:
        return
    worker = _Worker(setup)
    send(replies, {"ready": True})
    while (request := receive(requests)) is not None:
        images: Sequence[tuple[int, int, str]] = request["images"]
        send(replies, {"images": [worker.read(*image) for image in images]})


def main() -> None:
    """Serve the parent over the standard streams; whatever else is printed goes to the standard error stream."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # A broken pipe means that the parent is gone.
    with suppress(BrokenPipeError, ConnectionError):
        serve(sys.stdin.buffer, replies)
    # No clean-up is worth the time; the memory is the parent's.
    os._exit(0)


if __name__ == "__main__":
    main()
