"""Leases on parts of the images of one encoder, so that processes that extract at once divide the images between them.

Images are dealt to ``BUCKETS`` buckets by a hash, the same in every process. Whoever holds the lease of a bucket may
encode its images. The lease is a file ``<bucket>.<generation>``, which only one can make: a second name of its holder's
own file, by link(2), which is atomic on network file systems too. The holder's file says who he is and changes every
few seconds. Where a holder has died, the next generation of the lease is made; the highest counts.

Two holders at once cost a second encoding of some images and never a wrong row: the store keeps either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evalfm.data.work_folders import is_gone, machine, process_start
from evalfm.features.disk import names_in, open_file

BUCKETS = 512
"""Every process must count the same. More would divide finer; each costs a file system two calls."""
FRAMES = 32
"""Neighbouring frames of one file that go together, so that few processes decode it."""
BEAT_SECONDS = 10.0
"""How often a holder's file changes."""
DEAD_SECONDS = 60.0
"""How long it stands still before its holder counts as dead, by the clock of whoever waits."""
LONGEST_LOOK_SECONDS = 5.0
"""Most that counts between two looks, of which the second may have been held up by a file system that stood still."""
OWNER, LEASE = ".owner", re.compile(r"\d{4}\.\d+")
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}

Held = Mapping[int, Mapping[int, int]]
"""By bucket and generation, the number (inode) of the holder's file."""


def bucket_of(sharing: str) -> int:
    """The bucket of images that ``sharing`` names, from 0 to ``BUCKETS`` - 1.

    >>> bucket_of("film.png"), bucket_of("film.png")
    (305, 305)
    """
    return zlib.crc32(sharing.encode()) % BUCKETS


def sharing_of(address: str, locator: str) -> str:
    """What an image shares a bucket by: its address, or for frames of one file the file's name and the part of it.

    >>> sharing_of("0a1b", "films/1.png")
    '0a1b'
    >>> sharing_of("0a1b", "ct/7.dcm#33") == sharing_of("2c3d", "ct/7.dcm#34")
    True
    """
    file, mark, member = locator.partition("#")
    if not mark:
        return address
    array, _, number = member.rpartition("/")
    part = int(number) // FRAMES if number.isdecimal() else number
    return f"{file}#{array}/{part}"


@dataclass
class _Seen:
    """What was read of a holder's file, when last, and for how many seconds it has been the same."""

    content: bytes
    looked: float
    still: float = 0.0


class LeaseFolder:
    """The leases of one encoder on one path, and which of their holders live; for threads.

    Attributes:
        path: where they lie; made by the first who takes one, removed by the last.
        divides: False once the file system has turned out to have no hard links: nobody can take leases there, and
            everybody encodes what he lacks.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is read or made yet."""
        self.path = Path(path)
        self.divides = True
        self._lock = threading.Lock()
        self._seen: dict[int, _Seen] = {}

    def held(self, *, but: int | None = None, fresh: bool = False) -> Held:
        """All leases, of the living and the dead, ``but`` those of the holder whose own file has this number."""
        found: dict[int, dict[int, int]] = {}
        for name, number in names_in(self.path, fresh=fresh).items():
            if number != but and LEASE.fullmatch(name):
                found.setdefault(int(name[:4]), {})[int(name[5:])] = number
        return found

    def remove_dead_owners(self) -> None:
        """Remove the holders' own files of the dead; their leases stay until somebody takes them over."""
        for name, number in names_in(self.path).items():
            if name.endswith(OWNER) and self._is_dead(self.path / name, number):
                with contextlib.suppress(OSError):
                    os.unlink(self.path / name)

    def is_any_free(self, buckets: Iterable[int]) -> bool:
        """Whether one of ``buckets`` can be taken now: nobody holds it, or its holder is dead."""
        held = self.held(fresh=True)
        dead: dict[int, bool] = {}
        return any(self.is_free(bucket, held.get(bucket, {}), dead) for bucket in buckets)

    def is_free(self, bucket: int, generations: Mapping[int, int], dead: dict[int, bool]) -> bool:
        """Whether a bucket with these leases can be taken; ``dead`` remembers of which holders it was asked already."""
        return not generations or self.is_dead(bucket, max(generations), generations[max(generations)], dead)

    def is_dead(self, bucket: int, generation: int, number: int, dead: dict[int, bool]) -> bool:
        """Whether the holder of a lease, whose own file has ``number``, lives no more."""
        if number not in dead:
            dead[number] = self._is_dead(self.path / lease_name(bucket, generation), number)
        return dead[number]

    def _is_dead(self, path: Path, number: int) -> bool:
        try:
            content = path.read_bytes()
        except OSError:
            # Given back just now.
            return False
        words = content.decode(errors="replace").split()
        known = len(words) == 5 and words[0] == machine() and words[1].isdecimal()
        if known and is_gone(int(words[1]), words[2].strip("-")):
            return True
        with self._lock:
            now = time.monotonic()
            seen = self._seen.get(number)
            if seen is None or seen.content != content:
                self._seen[number] = _Seen(content, now)
                return False
            seen.still += min(now - seen.looked, LONGEST_LOOK_SECONDS)
            seen.looked = now
            return seen.still >= DEAD_SECONDS


class Leases:
    """The leases that one extraction holds; a context manager that gives all of them back.

    Attributes:
        refused: whether it was here that the folder turned out to know no hard links.

    >>> import tempfile
    >>> folder = LeaseFolder(Path(tempfile.mkdtemp()) / "leases")
    >>> with Leases(folder) as mine, Leases(folder) as others:
    ...     print(mine.claim({3: 10, 5: 10, 8: 10}, enough=15), others.claim({3: 10, 8: 10}, enough=15))
    [3, 5] [8]
    """

    def __init__(self, folder: LeaseFolder) -> None:
        """Nothing is made before a lease is taken."""
        self.refused = False
        self._folder = folder
        self._held: dict[int, list[str]] = {}
        self._owner: _Owner | None = None
        self._process = os.getpid()

    def __enter__(self) -> Leases:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def claim(self, images: Mapping[int, int], enough: int) -> list[int]:
        """Take leases, in order, on those buckets of ``images`` that can be had, until they have ``enough`` images.

        Args:
            images: how many there are to encode in each bucket.
            enough: at least one; the last bucket may bring more.

        Returns:
            The buckets that are held now and were not before; none where living others hold all of them.

        Raises:
            OSError: the folder cannot be written.
        """
        held, dead = self._others(), dict[int, bool]()
        made: dict[int, int] = {}
        freely: list[int] = []
        count = 0
        for bucket, size in images.items():
            if count >= enough:
                break
            generations = held.get(bucket, {})
            if self._folder.divides and (bucket in self._held or not self._folder.is_free(bucket, generations, dead)):
                continue
            generation = max(generations, default=-1) + 1
            if self._folder.divides and self._make(lease_name(bucket, generation)):
                made[bucket] = generation
                count += size
            elif not self._folder.divides:
                freely.append(bucket)
                count += size
        return self._confirmed(made) + freely

    def release(self, buckets: Iterable[int]) -> None:
        """Give leases back; of a bucket that is not held nothing happens."""
        for bucket in buckets:
            *earlier, own = self._held.pop(bucket, [""])
            for name in earlier:
                self._remove(name)
            if own:
                self._give_back(own)

    def close(self) -> None:
        """Give all leases back, and remove those that a dead process of this machine has left."""
        if os.getpid() != self._process or self._owner is None:
            return
        try:
            self.release(list(self._held))
            with contextlib.suppress(OSError):
                # An interrupt may have come between the making of a lease and its being noted.
                for name, number in names_in(self._folder.path).items():
                    if number == self._owner.number and LEASE.fullmatch(name):
                        self._remove(name)
                # Taken over like any other, so that nobody loses what he takes at this moment.
                self.release(self.claim(dict.fromkeys(self._others(), 1), BUCKETS))
                self._folder.remove_dead_owners()
        finally:
            self._held.clear()
            self._owner.close()
            self._owner = None
            # Not empty where others are at work.
            with contextlib.suppress(OSError):
                self._folder.path.rmdir()

    def _others(self) -> Held:
        return self._folder.held(but=None if self._owner is None else self._owner.number)

    def _make(self, name: str) -> bool:
        """Make a lease; False where somebody else was faster."""
        if self._owner is None:
            self._owner = _Owner(self._folder.path)
        lease = self._folder.path / name
        try:
            os.link(self._owner.path, lease)
        except FileNotFoundError:
            # Somebody took this process for dead, or removed the folder: it begins anew.
            self._owner.close()
            self._owner = _Owner(self._folder.path)
            return self._make(name)
        except FileExistsError:
            # A network file system may say so of the lease that it has just made, when the answer was lost.
            return self._is_own(lease)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._folder.divides = False
            self.refused = True
            return False
        return True

    def _confirmed(self, made: Mapping[int, int]) -> list[int]:
        """Those of the leases just ``made`` that hold: nobody has a higher one, and who has a lower one is dead.

        Between the look and the making another may have taken the bucket and given it back, and a third have begun at
        generation 0 again. Whoever makes a lease looks once more, so that of two at least one sees the other.
        """
        if not made:
            return []
        held, dead, confirmed = self._others(), dict[int, bool](), []
        for bucket, generation in made.items():
            others = held.get(bucket, {})
            own = lease_name(bucket, generation)
            if all(
                each < generation and self._folder.is_dead(bucket, each, number, dead)
                for each, number in others.items()
            ):
                self._held[bucket] = [*(lease_name(bucket, each) for each in sorted(others)), own]
                confirmed.append(bucket)
            else:
                self._give_back(own)
        return confirmed

    def _give_back(self, name: str) -> None:
        # Somebody who took this process for dead may have removed it, and a third have made another.
        if self._is_own(self._folder.path / name):
            self._remove(name)

    def _is_own(self, lease: Path) -> bool:
        with contextlib.suppress(OSError):
            return self._owner is not None and os.stat(lease).st_ino == self._owner.number
        return False

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._folder.path / name)


class _Owner:
    """A holder's file, which a thread changes every few seconds as long as its process lives.

    Attributes:
        path: of the file.
        number: its inode.
    """

    def __init__(self, folder: Path) -> None:
        self._who = f"{machine()} {os.getpid()} {process_start(os.getpid()) or '-'} {uuid.uuid4().hex}"
        self._ended = threading.Event()
        self.path = folder / f"{uuid.uuid4().hex}{OWNER}"
        file = self._created(folder)
        try:
            self.number = os.fstat(file).st_ino
            os.write(file, self._content(0))
        except BaseException:
            os.unlink(self.path)
            raise
        finally:
            os.close(file)
        threading.Thread(target=self._beat, name="evalfm-leases", daemon=True).start()

    def close(self) -> None:
        """Stop, and remove the file."""
        self._ended.set()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def _created(self, folder: Path) -> int:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            # Another process that has finished may remove the folder at this moment.
            with contextlib.suppress(FileNotFoundError):
                return open_file(self.path, new=True)

    def _content(self, count: int) -> bytes:
        # Always as long, so that it is replaced in place.
        return f"{self._who} {count:012d}\n".encode()

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(BEAT_SECONDS):
            count += 1
            with contextlib.suppress(OSError):
                file = open_file(self.path, write=True)
                try:
                    os.write(file, self._content(count))
                finally:
                    os.close(file)


def lease_name(bucket: int, generation: int) -> str:
    """The file of a lease.

    >>> lease_name(17, 0)
    '0017.0'
    """
    return f"{bucket:04d}.{generation}"
