"""What an ONNX file asks for, read from its bytes before any engine sees it.

An ONNX file is a protocol-buffer message, and may name other files for its weights. ONNX Runtime would open
them; here whatever is not plain data in the file itself is refused. Only the fields that say so are followed,
by the wire format alone: lengths are checked against the bytes that are there, and nothing is built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from headstart.errors import ConfigError

# Domains whose operators ONNX Runtime itself carries.
_DOMAINS = frozenset({b"", b"ai.onnx", b"com.microsoft"})
_SUBGRAPHS = frozenset({b"If", b"Loop", b"Scan", b"SequenceMap"})
_MAX_ELEMENTS = 2**33
_MAX_NODES = 200_000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Of the messages in onnx.proto, the fields that are looked at.
_GRAPH, _OPSETS, _FUNCTIONS = 7, 8, 25
_NODE, _INITIALIZER, _SPARSE, _INPUT, _OUTPUT = 1, 5, 15, 11, 12
_NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
_TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 13, 14


@dataclass(frozen=True)
class Ports:
    """The names of a graph's inputs and outputs, in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def check_onnx(data: bytes, name: str) -> Ports:
    """Return the inputs and outputs of an ONNX file, `name` in errors.

    Raises `ConfigError` for what is no ONNX file, for weights outside of the file, for operators that
    are not ONNX's or ONNX Runtime's own, for graphs inside of nodes, for functions, and for tensors that
    claim more than 2³³ elements.
    """
    try:
        return _model(memoryview(data))
    except _RefusedError as error:
        raise ConfigError(f"{name} is refused: {error}", "export the model again") from error
    except (IndexError, ValueError) as error:
        raise ConfigError(f"{name} is no ONNX file", "export the model again") from error


class _RefusedError(Exception):
    pass


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: (number, value), bytes as a view of them."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, position = _varint(data, position)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("an unknown wire type")
        if length > len(data) - position:
            raise ValueError("it is cut short")
        yield key >> 3, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number without an end")


def _view(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number in place of a message")
    return value


def _model(data: memoryview) -> Ports:
    ports = None
    for number, value in _fields(data):
        if number == _GRAPH:
            if ports is not None:
                raise _RefusedError("it holds two graphs")
            ports = _graph(_view(value))
        elif number == _FUNCTIONS:
            raise _RefusedError("it brings functions of its own")
        elif number == _OPSETS:
            domain = next((bytes(_view(text)) for field, text in _fields(_view(value)) if field == 1), b"")
            _check_domain(domain)
    if ports is None:
        raise ValueError("it holds no graph")
    return ports


def _graph(data: memoryview) -> Ports:
    inputs: list[str] = []
    outputs: list[str] = []
    nodes = 0
    for number, value in _fields(data):
        if number == _NODE:
            nodes += 1
            if nodes > _MAX_NODES:
                raise _RefusedError(f"it has more than {_MAX_NODES} nodes")
            _node(_view(value))
        elif number == _INITIALIZER:
            _tensor(_view(value))
        elif number == _SPARSE:
            raise _RefusedError("it holds sparse tensors")
        elif number in (_INPUT, _OUTPUT):
            names = [bytes(_view(text)) for field, text in _fields(_view(value)) if field == 1]
            (inputs if number == _INPUT else outputs).append(b"".join(names[:1]).decode())
    return Ports(tuple(inputs), tuple(outputs))


def _node(data: memoryview) -> None:
    for number, value in _fields(data):
        if number == _NODE_DOMAIN:
            _check_domain(bytes(_view(value)))
        elif number == _NODE_OP and bytes(_view(value)) in _SUBGRAPHS:
            raise _RefusedError(f"it holds a graph inside of a node ({bytes(_view(value)).decode()})")
        elif number == _NODE_ATTRIBUTE:
            _attribute(_view(value))


def _attribute(data: memoryview) -> None:
    for number, value in _fields(data):
        if number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            _tensor(_view(value))
        elif number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            raise _RefusedError("it holds a graph inside of a node")
        elif number in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES):
            raise _RefusedError("it holds sparse tensors")


def _tensor(data: memoryview) -> None:
    dims: list[int] = []
    for number, value in _fields(data):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value != 0):
            raise _RefusedError("it names another file for its weights")
        if number == _TENSOR_DIMS:
            dims += [value] if isinstance(value, int) else _packed(value)
    if math.prod(dims) > _MAX_ELEMENTS or any(side >= 2**63 for side in dims):
        raise _RefusedError(f"a tensor claims {'x'.join(map(str, dims[:8]))} elements")


def _packed(data: memoryview) -> list[int]:
    values, position = [], 0
    while position < len(data):
        value, position = _varint(data, position)
        values.append(value)
    return values


def _check_domain(domain: bytes) -> None:
    if domain not in _DOMAINS:
        raise _RefusedError(f"it asks for operators of {domain[:60].decode(errors='replace')!r}")
