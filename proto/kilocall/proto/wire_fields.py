"""Kinds of fields that wire messages have: what is allowed, and what a value is in msgpack.

A message names the kind of each of its fields beside the type, `Annotated[int, Integer(0, 9)]`. Whatever does not fit
raises BadPacket, with the message's and the field's name in it.
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kilocall.proto.errors import BadPacket

__all__ = ["Choice", "Data", "Field", "Flag", "Float32", "Float32s", "HexDigest", "Integer", "OrNil", "Text"]

T = TypeVar("T")
V = TypeVar("V")


class Field(ABC, Generic[T]):
    """One kind of field. `where` is the names of message and field, for errors."""

    @property
    def depends(self) -> bool:
        """Whether what is allowed depends on other fields, which are checked first."""
        return False

    @abstractmethod
    def checked(self, where: str, value: T, message: object) -> T:
        """The value as `message` keeps it."""

    @abstractmethod
    def read(self, where: str, value: object) -> T:
        """From what msgpack gave, which may be of any type; what else is wrong with it `checked` tells."""

    def write(self, value: T) -> object:
        """For msgpack."""
        return value


@dataclass(frozen=True)
class Integer(Field[int]):
    """`least` to `most`, which may be a function of the message."""

    least: int
    most: int | Callable[[Any], int]

    @property
    def depends(self) -> bool:
        return not isinstance(self.most, int)

    def checked(self, where: str, value: int, message: object) -> int:
        most = self.most if isinstance(self.most, int) else self.most(message)
        if not self.least <= value <= most:
            raise BadPacket(f"{where} is {value}, allowed is {self.least} to {most}")
        return value

    def read(self, where: str, value: object) -> int:
        return _of(where, value, int)


@dataclass(frozen=True)
class Flag(Field[bool]):
    """Yes or no."""

    def checked(self, where: str, value: bool, message: object) -> bool:
        return value

    def read(self, where: str, value: object) -> bool:
        return _of(where, value, bool)


@dataclass(frozen=True)
class Float32(Field[float]):
    """Rounded to what 32 bits hold, then `least` to `most`."""

    least: float
    most: float

    def checked(self, where: str, value: float, message: object) -> float:
        rounded = _float32(where, value)
        if not self.least <= rounded <= self.most:
            raise BadPacket(f"{where} is {rounded:g}, allowed is {self.least} to {self.most}")
        return rounded

    def read(self, where: str, value: object) -> float:
        return _of(where, value, float)


@dataclass(frozen=True)
class Float32s(Field["tuple[float, ...] | None"]):
    """At most `most` numbers, four bytes each on the wire; or none at all, nil."""

    most: int

    def checked(self, where: str, value: tuple[float, ...] | None, message: object) -> tuple[float, ...] | None:
        if value is None:
            return None
        if len(value) > self.most:
            raise BadPacket(f"{where} has {len(value)} numbers, most is {self.most}")
        return tuple(_float32(where, number) for number in value)

    def read(self, where: str, value: object) -> tuple[float, ...] | None:
        if value is None:
            return None
        packed = _of(where, value, bytes)
        if len(packed) % 4 or len(packed) > 4 * self.most:
            raise BadPacket(f"{where} is {len(packed)} bytes, allowed are multiples of 4 up to {4 * self.most}")
        return struct.unpack(f">{len(packed) // 4}f", packed)

    def write(self, value: tuple[float, ...] | None) -> bytes | None:
        return None if value is None else struct.pack(f">{len(value)}f", *value)


@dataclass(frozen=True)
class Text(Field[str]):
    """At most so many bytes of UTF-8."""

    most: int

    def checked(self, where: str, value: str, message: object) -> str:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise BadPacket(f"{where} holds half a surrogate pair") from None
        if size > self.most:
            raise BadPacket(f"{where} is {size} bytes, most is {self.most}")
        return value

    def read(self, where: str, value: object) -> str:
        return _of(where, value, str)


@dataclass(frozen=True)
class Data(Field[bytes]):
    """`least` to `most` bytes."""

    least: int
    most: int

    def checked(self, where: str, value: bytes, message: object) -> bytes:
        if not self.least <= len(value) <= self.most:
            allowed = f"allowed are {self.least} to {self.most}"
            if self.least in (0, self.most):
                allowed = f"most is {self.most}" if self.least == 0 else f"not {self.most}"
            raise BadPacket(f"{where} is {len(value)} bytes, {allowed}")
        return value

    def read(self, where: str, value: object) -> bytes:
        return _of(where, value, bytes)


@dataclass(frozen=True)
class HexDigest(Field[str]):
    """A SHA-256: 64 hexadecimal digits here, 32 bytes on the wire."""

    def checked(self, where: str, value: str, message: object) -> str:
        if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            raise BadPacket(f"{where} is {value!r:.80}, not 64 hexadecimal digits")
        return value

    def read(self, where: str, value: object) -> str:
        return _of(where, value, bytes).hex()

    def write(self, value: str) -> bytes:
        return bytes.fromhex(value)


@dataclass(frozen=True)
class Choice(Field[str]):
    """One of a few names; its number on the wire."""

    names: tuple[str, ...]

    def checked(self, where: str, value: str, message: object) -> str:
        if value not in self.names:
            raise BadPacket(f"{where} is {value!r}, allowed are {', '.join(self.names)}")
        return value

    def read(self, where: str, value: object) -> str:
        number = _of(where, value, int)
        if not 0 <= number < len(self.names):
            raise BadPacket(f"{where} is number {number}, allowed is 0 to {len(self.names) - 1}")
        return self.names[number]

    def write(self, value: str) -> int:
        return self.names.index(value)


@dataclass(frozen=True)
class OrNil(Field[T | None]):
    """One of another kind, or none at all, nil."""

    kind: Field[T]

    @property
    def depends(self) -> bool:
        return self.kind.depends

    def checked(self, where: str, value: T | None, message: object) -> T | None:
        return None if value is None else self.kind.checked(where, value, message)

    def read(self, where: str, value: object) -> T | None:
        return None if value is None else self.kind.read(where, value)

    def write(self, value: T | None) -> object:
        return None if value is None else self.kind.write(value)


def _of(where: str, value: object, kind: type[V]) -> V:
    # Not isinstance: True is an int.
    if type(value) is not kind:
        raise BadPacket(f"{where} is of type {type(value).__name__}, not {kind.__name__}")
    return value


def _float32(where: str, value: float) -> float:
    try:
        rounded: float = struct.unpack(">f", struct.pack(">f", value))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise BadPacket(f"{where} is {value}, not a finite float32")
    return rounded
