"""Constants of an ONNX file found and replaced in place, without the onnx library, which only training needs.

A file is nested protobuf messages: fields of a number and a wire type, those of type 2 with a length. All that is
needed is where the bytes of each constant lie and which constants a convolution reads. New values have the type and
shape of the old ones, so every byte else stays where it is.

    ModelProto   7: graph
    GraphProto   1: node, 5: initializer
    NodeProto    1: input, 2: output, 3: name, 4: op_type
    TensorProto  1: dims, 2: data_type, 4: float_data, 8: name, 9: raw_data
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput

__all__ = ["Constant", "Graph", "Node"]

#: TensorProto.DataType of the constants that are replaced.
_TYPES: Final[dict[int, np.dtype[Any]]] = {
    1: np.dtype("<f4"),
    3: np.dtype("i1"),
    6: np.dtype("<i4"),
    10: np.dtype("<f2"),
}


@dataclass(frozen=True)
class Constant:
    """A tensor whose bytes lie at `start` of the file."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Node:
    name: str
    kind: str
    inputs: tuple[str, ...]


class Graph:
    """An ONNX file in memory: its nodes, and its constants to read and replace. BadInput for what is no ONNX file."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.nodes: list[Node] = []
        self.made_by: dict[str, Node] = {}
        self.constants: dict[str, Constant] = {}
        try:
            for field, start, stop in self._fields(0, len(data)):
                if field == 7:
                    self._read_graph(start, stop)
        except (IndexError, UnicodeDecodeError) as error:
            raise BadInput(f"the network is no readable ONNX file: {error}") from error

    def value(self, name: str) -> NDArray[Any]:
        """A constant's numbers, a copy."""
        constant = self.constants[name]
        count = int(np.prod(constant.shape, dtype=np.int64))
        found = np.frombuffer(self.data, constant.dtype, count, constant.start)
        return found.reshape(constant.shape).copy()

    def replace(self, name: str, value: NDArray[Any]) -> None:
        """Other numbers of the same shape, cast to the constant's type."""
        constant = self.constants[name]
        if value.shape != constant.shape:
            raise BadInput(f"constant {name} is {constant.shape}, given was {value.shape}")
        packed = np.ascontiguousarray(value.astype(constant.dtype)).tobytes()
        self.data[constant.start : constant.start + len(packed)] = packed

    def _read_graph(self, start: int, stop: int) -> None:
        for field, first, last in self._fields(start, stop):
            if field == 1:
                self._read_node(first, last)
            elif field == 5:
                self._read_constant(first, last)

    def _read_node(self, start: int, stop: int) -> None:
        text: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}
        for field, first, last in self._fields(start, stop):
            if field in text:
                text[field].append(self.data[first:last].decode())
        node = Node("".join(text[3]), "".join(text[4]), tuple(text[1]))
        self.nodes.append(node)
        self.made_by.update(dict.fromkeys(text[2], node))

    def _read_constant(self, start: int, stop: int) -> None:
        name, kind = "", 0
        raw: tuple[int, int] | None = None
        shape: list[int] = []
        for field, first, last in self._fields(start, stop):
            if field == 1 and first == last:
                shape.append(self._number)
            elif field == 1:  # packed
                at = first
                while at < last:
                    number, at = self._varint(at)
                    shape.append(number)
            elif field == 2:
                kind = self._number
            elif field == 8:
                name = self.data[first:last].decode()
            elif field == 9 or (field == 4 and last > first):  # packed floats are the same bytes
                raw = (first, last)
        dtype = _TYPES.get(kind)
        if dtype is None or raw is None:
            return  # small ones keep their numbers elsewhere, and nothing replaces them
        if raw[1] - raw[0] != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
            raise BadInput(f"constant {name} of the network has {raw[1] - raw[0]} bytes, its shape is {shape}")
        self.constants[name] = Constant(name, dtype, tuple(shape), raw[0])

    def _fields(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Number, first and last byte of each field; for plain numbers first = last and `_number` has it."""
        at = start
        while at < stop:
            key, at = self._varint(at)
            wire = key & 7
            if wire == 0:
                self._number, at = self._varint(at)
                yield key >> 3, at, at
                continue
            if wire == 2:
                length, at = self._varint(at)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise IndexError(f"wire type {wire} at byte {at}")
            if at + length > stop:
                raise IndexError(f"a field at byte {at} reaches past its end")
            yield key >> 3, at, at + length
            at += length

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = self.data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
            shift += 7
            if shift > 63:
                raise IndexError(f"a number at byte {at} has no end")
