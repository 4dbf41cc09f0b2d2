"""Memory that other processes can map: files without a name, gone with the last process that holds them."""

import mmap
import os
import threading
import weakref
from functools import cache
from itertools import count
from typing import NamedTuple

import numpy as np

_numbers = count()


class SharedFile:
    """A file in memory of `size` bytes, all zero; it takes memory only where something was written.

    Attributes:
      number: tells it from all others of this process, which its descriptor does not: the system uses those again.
      descriptor: of the file; closed when this object is garbage.
      map: the bytes; they live as long as an array shows them.

    Raises:
      OSError: the system has no such files, or no addresses left.
    """

    def __init__(self, size: int):
        if not hasattr(os, "memfd_create"):
            raise OSError("this system has no memfd_create")
        self.number = next(_numbers)
        self.descriptor = os.memfd_create("jaxtl")
        weakref.finalize(self, os.close, self.descriptor)
        self.resize(size)

    def resize(self, size: int) -> None:
        """Changes the size in bytes; what was mapped before stays as it is."""
        os.ftruncate(self.descriptor, size)
        self.map = mmap.mmap(self.descriptor, size)


@cache
def available() -> bool:
    """Tells whether this system has memory that can be shared so: Linux does, macOS and Windows do not."""
    try:
        SharedFile(1)
    except OSError:
        return False
    return True


class Place(NamedTuple):
    """Where in which shared file the pixels uint8 [shape] lie."""

    number: int
    offset: int
    shape: tuple[int, ...]


class PixelStore:
    """Room for decoded images in one shared file; where there are no such files, images stay ordinary arrays."""

    def __init__(self, size: int):
        self._lock = threading.Lock()
        self._used = 0
        self.file: SharedFile | None = None
        try:
            self.file = SharedFile(size)
        except (OSError, ValueError, OverflowError):  # mmap refuses sizes of 0 and beyond all addresses.
            return
        self._bytes = np.frombuffer(self.file.map, np.uint8)
        self.start = _address(self._bytes)
        _stores[self.file.number] = self

    def keep(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the same pixels uint8, in the shared file if there is room left."""
        if self.file is None:
            return pixels
        with self._lock:
            start, end = self._used, self._used + pixels.nbytes
            if end > len(self._bytes):
                return pixels
            self._used = end
        kept = self._bytes[start:end].reshape(pixels.shape)
        kept[...] = pixels
        return kept


# By number. Weak, so that the pixels of a data set go when it goes.
_stores: weakref.WeakValueDictionary[int, PixelStore] = weakref.WeakValueDictionary()


def find(pixels: np.ndarray) -> tuple[Place, SharedFile] | None:
    """Returns where an array lies in a `PixelStore`; None if it lies elsewhere, or not in one piece."""
    if pixels.dtype != np.uint8 or not pixels.flags.c_contiguous:
        return None
    address = _address(pixels)
    for reference in _stores.valuerefs():  # A list: stores may come and go meanwhile.
        store = reference()
        if store is not None and store.file is not None:
            offset = address - store.start
            if offset >= 0 and offset + pixels.nbytes <= len(store.file.map):
                return Place(store.file.number, offset, pixels.shape), store.file
    return None


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
