"""Pickles of plain values: what is read, and that nothing else is ever made, called or followed for ever."""

from __future__ import annotations

import os
import pickle
import random
import struct
import tracemalloc
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalfm.data import pickle_streams, plain_pickle
from evalfm.data.joining import read_other
from evalfm.data.plain_pickle import read_plain_mapping
from evalfm.errors import EvalfmError

STOP = b"."
START = b"\x80\x04"


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], Any]:
    def reader(content: bytes) -> Any:
        (tmp_path / "p.pkl").write_bytes(content)
        return read_plain_mapping(tmp_path / "p.pkl")

    return reader


VALUES = {
    "plain": {"a": True, "b": False, "c": 1, "d": -(2**63), "e": 2.5, "f": None, "g": "é", 7: 0, "": 2**40},
    "many": {f"1.2.276.{n}": bool(n % 3) for n in range(3000)},
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", VALUES)
def test_plain_values_come_back(read: Callable[[bytes], Any], protocol: int, name: str) -> None:
    assert read(pickle.dumps(VALUES[name], protocol=protocol)) == VALUES[name]


@pytest.mark.parametrize("protocol", range(6))
def test_numbers_of_numpy_and_dicts_of_collections_become_plain(read: Callable[[bytes], Any], protocol: int) -> None:
    kinds = ["bool", *(f"{sign}{size}" for sign in ("int", "uint") for size in (8, 16, 32, 64))]
    kinds += ["float16", "float32", "float64"]
    values = {kind: np.array([1], dtype=kind)[0] for kind in kinds}
    values |= {"half": np.float32(0.5), "below": np.int16(-2), "word": np.str_("tübe"), "swapped": swapped(-2)}
    content = read(pickle.dumps(OrderedDict(values), protocol=protocol))
    assert content == {**dict.fromkeys(kinds, 1), "half": 0.5, "below": -2, "word": "tübe", "swapped": -2}
    assert {type(each) for each in content.values()} == {bool, int, float, str}
    assert type(content) is dict
    counted = read(pickle.dumps(Counter("aab"), protocol=protocol))
    assert (counted, type(counted)) == ({"a": 2, "b": 1}, dict)
    for kind in (bool, int, float, str, list, None):
        filled = defaultdict(kind, {"a": 1})
        assert read(pickle.dumps(filled, protocol=protocol)) == {"a": 1}


def swapped(value: int) -> Any:
    """A number of the other byte order, as numpy pickles it."""

    class Swapped:
        def __reduce__(self) -> Any:
            scalar = np.int16(0).__reduce__()[0]
            return scalar, (np.dtype(">i2"), struct.pack(">h", value))

    return Swapped()


def test_what_python_2_wrote_is_read(read: Callable[[bytes], Any]) -> None:
    # An OrderedDict of the second protocol, with text of bytes and a numpy.bool_.
    state = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    number = b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02b1K\x00K\x01\x87R" + state + b"U\x01\x01\x86R"
    content = b"\x80\x02ccollections\nOrderedDict\n]]U\x01aa" + number + b"aa\x85R" + STOP
    assert read(content) == {"a": True}
    assert read(b"\x80\x02}U\x02\xe9aK\x01s" + STOP) == {"éa": 1}
    assert read(b"(dS'a'\nI01\nsS'b'\nI5\ns.") == {"a": True, "b": 5}


class Made:
    """An object whose pickle calls what it is told to."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def dtype_of(state: tuple[Any, ...], code: str = "V8") -> bytes:
    """A number of the kind ``code``, whose dtype is given ``state``, with eight bytes that would be an address."""
    return pickle.dumps({"a": Made(np.int16(0).__reduce__()[0], (Made(np.dtype, (code,), state), b"A" * 8))})


NAMED = (3, "|", None, ("f",), {"f": (np.dtype("O"), 0)}, 8, 1, 0)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Made(os.system, ("touch should-not-exist",)), "system"),
        (Made(eval, ("1",)), r"builtins.eval|__builtin__.eval"),
        (Decimal(1), "decimal.Decimal"),
        (np.arange(3), r"multiarray\._reconstruct|_frombuffer"),
        (np.datetime64("2020-01-01"), "'M8'"),
        (np.complex128(1), "'c16'"),
        ({1, 2}, "set|no mapping"),
        (bytearray(b"ab"), "bytearray|no mapping"),
        (2**80, "no mapping"),
        ([1, (2, 3)], "no mapping"),
        ({"b": 1}, "no mapping"),
        ({None: {frozenset(): 1}}, "frozenset|no mapping"),
    ],
)
def test_anything_else_is_refused_by_name_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[bytes], Any], protocol: int, value: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvalfmError, match=f"p.pkl (was refused.*|holds )({said})"):
        read(pickle.dumps({"a": value}, protocol=protocol))
    assert not (tmp_path / "should-not-exist").exists()


@pytest.mark.parametrize("content", [dtype_of(NAMED), dtype_of(NAMED, "f8"), dtype_of(NAMED[:5], "i8"), dtype_of((3,))])
def test_a_state_that_makes_a_number_an_address_is_refused(read: Callable[[bytes], Any], content: bytes) -> None:
    with pytest.raises(EvalfmError, match="refused"):
        read(content)


ENTRY = b"\x8c\x01aN"
BOMBS = {
    "tuples as a key": START + b"}N" + b"\x86".join([b"N2"] * 60) + b"\x86Ns" + STOP,
    "a huge memo": START + b"}r\xff\xff\xff\xff(" + ENTRY + b"u" + STOP,
    "a frame that lies": START + b"\x95" + b"\xff" * 7 + b"\x00}(" + ENTRY + b"u" + STOP,
    "a long number": START + b"\x8b" + struct.pack("<i", 2**31 - 1) + b"1" + STOP,
    "a long text": START + b"\x8d" + struct.pack("<Q", 2**62) + b"a" + STOP,
    "long bytes": START + b"\x8e" + struct.pack("<Q", 2**62) + b"a" + STOP,
    "a long array": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a" + STOP,
    "many digits": b"I" + b"9" * 10**6 + b"\n.",
    "an extension": START + b"\x82\x01" + STOP,
    "a name for elsewhere": b"Pid\n.",
    "a name for elsewhere, on the stack": START + b"NQ" + STOP,
    "an instance": b"(icollections\nOrderedDict\n.",
    "an object": START + b"cnumpy\ndtype\n)\x81" + STOP,
    "a buffer": b"\x80\x05\x97.",
    "an empty stack": START + b"0000" + STOP,
    "no mark": START + b"u" + STOP,
    "half of a pair": START + b"(}(Nu" + STOP,
    "no such memo": START + b"h\x07" + STOP,
    "no protocol of pickle": b"\x80\x09\xff" + STOP,
    "halves of letters": b"(dV\\ud800\nI1\ns.",
    "halves of letters as a value": b"(dVa\nV\\ud800\ns.",
    "a tuple as a key": START + b"}NN\x86Ns" + STOP,
    "bytes as a key": START + b"}C\x01aNs" + STOP,
    "a state of a name": START + b"}\x8c\x01acnumpy\ndtype\n}bs" + STOP,
    "a call of a factory": START + b"}\x8c\x01acbuiltins\nlist\n)Rs" + STOP,
    "depth": START + b"]" * 200_000 + b"a" * 199_999 + STOP,
    "a call of no name": START + b"N)R" + STOP,
    "a call without arguments": START + b"cnumpy\ndtype\nNR" + STOP,
    "a default": START + b"ccollections\ndefaultdict\n}\x85R" + STOP,
    "not ended": START + b"}",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_ask_for_much_end_at_once_in_little_memory(tmp_path: Path, name: str) -> None:
    (tmp_path / "p.pkl").write_bytes(BOMBS[name])
    tracemalloc.start()
    try:
        with pytest.raises(EvalfmError, match=r"refused|damaged|no mapping"):
            read_plain_mapping(tmp_path / "p.pkl")
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_what_is_copied_again_and_again_is_paid_for(
    read: Callable[[bytes], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_pickle, "MOST_STEPS", 20_000)
    monkeypatch.setattr(pickle_streams, "MAX_VALUES", 20_000)
    counts = START + b"}(" + b"".join(b"K" + bytes([n]) + b"N" for n in range(200)) + b"u\x94"
    assert len(read(counts + b"ccollections\nCounter\nh\x00\x85R" + STOP)) == 200
    with pytest.raises(EvalfmError, match="20,000 values looked up or copied"):
        read(counts + b"ccollections\nCounter\nh\x00\x85R" * 200 + STOP)
    text = START + b"}\x8c\x01aX" + struct.pack("<I", 16_000) + b"a" * 16_000 + b"\x94"
    encoded = b"c_codecs\nencode\nh\x00\x85R0"
    assert read(text + encoded * 9 + b"s" + STOP) == {"a": "a" * 16_000}
    with pytest.raises(EvalfmError, match="20,000 steps"):
        read(text + encoded * 30 + b"s" + STOP)
    with pytest.raises(EvalfmError, match="20,000 steps"):
        read(START + b"N" * 30_000 + STOP)


def test_a_file_that_is_too_large_is_not_read(read: Callable[[bytes], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "MOST_BYTES", 2**20)
    with pytest.raises(EvalfmError, match=r"more than 1 MiB.*CSV"):
        read(START + b"N" * 2**20 + STOP)


@pytest.mark.parametrize("value", [b"bytes", [1], {"b": 1}, (1,)])
def test_a_mapping_to_more_than_values_is_no_table(tmp_path: Path, value: Any) -> None:
    (tmp_path / "p.pkl").write_bytes(pickle.dumps({"a": value}))
    with pytest.raises(EvalfmError, match="no mapping of ids to plain values"):
        read_other(tmp_path / "p.pkl")
    # What only the stack machine knows is no value either.
    for machine in (b"}\x8c\x01a(s.", b"}\x8c\x01acnumpy\ndtype\ns.", b"}\x8c\x01acnumpy\ndtype\n\x8c\x02f8\x85Rs."):
        (tmp_path / "p.pkl").write_bytes(START + machine)
        with pytest.raises(EvalfmError, match=r"no mapping of ids to plain values|damaged"):
            read_other(tmp_path / "p.pkl")


def test_damage_is_reported_whatever_byte_it_hits(read: Callable[[bytes], Any]) -> None:
    draw = random.Random(5)
    values = {"a": np.bool_(True), "b": np.float64(2), "c": [1, "x"], "d": 2**40, "é": None}
    whole = [pickle.dumps(OrderedDict(values), protocol=protocol) for protocol in range(6)]
    refused = 0
    for _ in range(1500):
        content = bytearray(draw.choice(whole))
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(content))
            content[place : place + draw.randint(0, 2)] = draw.randbytes(draw.randint(0, 2))
        try:
            read(bytes(content))
        except EvalfmError:
            refused += 1
    assert refused > 500
