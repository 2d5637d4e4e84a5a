from __future__ import annotations

import math

import pytest
import torch

from evalfm.training.noise import gaussian_noise, philox

KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_bits_are_those_of_the_authors(counter: str, key: str, words: str) -> None:
    """The known answers of Random123 for philox4x32-10."""
    one, two = ([torch.tensor([int(word, 16)]) for word in text.split()] for text in (counter, key))
    assert " ".join(f"{int(word):08x}" for word in philox(tuple(one), tuple(two))) == words


def test_noise_is_standard_normal_and_independent() -> None:
    noise = gaussian_noise((1, 200, 200), 3, 1, torch.tensor([5, 6])).double()
    flat = noise.flatten()
    assert torch.isfinite(flat).all()
    assert abs(float(flat.mean())) < 4 / math.sqrt(len(flat))
    assert float(flat.var()) == pytest.approx(1, abs=0.02)
    assert float(flat.pow(4).mean()) == pytest.approx(3, abs=0.1)
    pairs = [(noise[0], noise[1]), (noise[..., 1:], noise[..., :-1]), (noise[..., 1:, :], noise[..., :-1, :])]
    for one, other in pairs:
        assert abs(float((one * other).mean())) < 0.02


def test_seed_epoch_and_row_decide_alone() -> None:
    def drawn(seed: int, epoch: int, *rows: int) -> torch.Tensor:
        return gaussian_noise((2, 5, 3), seed, epoch, torch.tensor(rows))

    first = drawn(1, 2, 3)[0]
    assert torch.equal(first, drawn(1, 2, 9, 3, 7)[1])
    others = [drawn(2, 2, 3), drawn(1, 3, 3), drawn(1, 2, 4), drawn(3, 2, 1), drawn(2**32 + 1, 2, 3)]
    assert all(not torch.equal(first, other[0]) for other in others)
