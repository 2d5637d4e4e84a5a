"""Ways to spoil bytes, text and plain values, all drawn from a seeded generator."""

from __future__ import annotations

import copy
import random
from typing import Any

WORDS = (
    "",
    "NA",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "-1",
    "0",
    "2",
    "1.5",
    "99999999999999999999999",
    "true",
    "None",
    "null",
    "\x00",
    "a\x00b",
    "../../etc/passwd",
    "/dev/zero",
    "/dev/null",
    "~nosuchuser/x",
    "~",
    ".",
    "..",
    "",
    "[bold]x[/bold]",
    "[/x]",
    "<script>alert(1)</script>",
    "=HYPERLINK(1)",
    "{x}",
    "%s%n",
    "é" * 40,
    "𝔘",
    "\u202e",
    "x" * 5000,
    "a,b",
    'a"b',
    "a|b",
    "2020-13-45",
    "0x10",
    "1_000",
    "!!python/object/apply:os.system [id]",
    "&a [*a]",
    "- -",
    "? x",
    "[" * 400,
    "{" * 400,
)
NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, -(2**31))
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1e308,
    2**70,
    0.5,
    "",
    "x",
    "\x00",
    "[/x]",
    "<b>",
    "x" * 5000,
    [],
    {},
    [None],
    ["x", 1],
    {"x": {"y": []}},
    [[[[[]]]]],
)


def spoil_bytes(content: bytes, draw: random.Random) -> bytes:
    """One to eight changes of ``content``: flips, cuts, repeats, inserted and overwritten numbers."""
    spoilt = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        if not spoilt:
            return bytes(draw.randrange(256) for _ in range(draw.randrange(64)))
        # Headers hold what decides, so half of all changes fall there.
        place = draw.randrange(min(len(spoilt), 400) if draw.random() < 0.5 else len(spoilt))
        kind = draw.randrange(9)
        if kind == 0:
            spoilt[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            spoilt[place] = draw.choice((0, 255, 127, 128, draw.randrange(256)))
        elif kind == 2:
            del spoilt[place:]
        elif kind == 3:
            del spoilt[place : place + draw.choice((1, 2, 4, 16, 256))]
        elif kind == 4:
            piece = spoilt[place : place + draw.choice((1, 4, 32, 512))]
            spoilt[place:place] = piece * draw.choice((1, 2, 64))
        elif kind in (5, 6):
            width = draw.choice((1, 2, 4, 8))
            number = draw.choice(NUMBERS) % (1 << 8 * width)
            spoilt[place : place + width] = number.to_bytes(width, draw.choice(("little", "big")))
        elif kind == 7:
            other = draw.randrange(len(spoilt))
            length = draw.choice((2, 8, 64))
            spoilt[place : place + length] = spoilt[other : other + length]
        else:
            spoilt[place:place] = draw.choice(WORDS).encode()
    return bytes(spoilt[: 1 << 20])


def spoil_text(content: str, draw: random.Random) -> bytes:
    """Lines and words of ``content`` exchanged, doubled, lost or replaced; now and then its bytes too."""
    lines = content.split("\n")
    for _ in range(draw.choice((1, 1, 2, 4))):
        place = draw.randrange(len(lines))
        kind = draw.randrange(7)
        if kind == 0:
            del lines[place]
            lines = lines or [""]
        elif kind == 1:
            lines.insert(place, lines[draw.randrange(len(lines))])
        elif kind == 2:
            lines[place] = " " * draw.randrange(6) + lines[place]
        elif kind == 3:
            lines[place] = lines[place] + draw.choice(WORDS)
        else:
            comma = "," if "," in lines[place] else " "
            words = lines[place].split(comma)
            words[draw.randrange(len(words))] = draw.choice(WORDS)
            lines[place] = comma.join(words)
    text = "\n".join(lines).encode("utf-8", "surrogatepass")
    return spoil_bytes(text, draw) if draw.random() < 0.2 else text


def spoil_tree(content: Any, draw: random.Random) -> Any:
    """A copy of nested dicts and lists in which a few places are lost, replaced, renamed or of another type."""
    tree = copy.deepcopy(content)
    for _ in range(draw.choice((1, 1, 2, 3))):
        holder: Any = tree
        while True:
            places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not places:
                break
            place = draw.choice(places)
            inner = holder[place]
            if isinstance(inner, dict | list) and inner and draw.random() < 0.75:
                holder = inner
                continue
            kind = draw.randrange(4)
            if kind == 0:
                del holder[place]
            elif kind == 1 and isinstance(holder, dict):
                holder[draw.choice(("x", "", "schema", "name"))] = holder.pop(place)
            elif kind == 2 and isinstance(inner, str | int | float):
                holder[place] = [inner] if draw.random() < 0.5 else str(inner)
            else:
                holder[place] = draw.choice(VALUES)
            break
    return tree
