"""Pickles in torch files, read as data: nothing is imported, no object is created, no function is called.

A pickle is a program for a small stack machine. Python's pickletools parses its instructions; this module executes the
few that a state dict needs and rejects all others. A call to one of torch's functions becomes a record of its
arguments.

torch's own reader (``weights_only``) is not used: before torch 2.6 a file could make it run code (CVE-2025-32434), a
file of a few kilobytes whose keys are nested tuples makes it hang, and one with a bytearray exhausts the memory.
"""

import io
import math
import pickletools
from typing import Any, NamedTuple

from cnnjax.errors import UserError, printable

MOST_INSTRUCTIONS = 1_000_000
"""Maximum instructions; a state dict of a thousand tensors with optimizer state has a few hundred thousand."""
LITERALS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING",
    "SHORT_BINSTRING",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
IGNORED = {"PROTO", "FRAME"}
DTYPES = {
    "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "DoubleStorage": "float64",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
"""dtypes of torch's storages, which are named ``torch.FloatStorage`` and so on."""
ORDERED_DICT = "collections.OrderedDict"
TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
PARAMETER = "torch._utils._rebuild_parameter"


class Storage(NamedTuple):
    """A flat array of values, stored elsewhere in the file under a key."""

    key: str
    dtype: str
    length: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count values, and the view lies within the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Global(NamedTuple):
    """A name that the pickle refers to; it is never looked up."""

    name: str


class Malformed(ValueError):
    """The instructions are not those of a pickler."""


class Described(NamedTuple):
    """The value that a pickle describes, and all its storages by key.

    Dicts, lists, tuples, numbers and text are plain Python values; tensors and storages are records.
    """

    value: Any
    storages: dict[str, Storage]


def read_pickle(file: io.BytesIO) -> Described:
    """Read the pickle at the file's position and leave the position after it.

    Raises:
        UserError: the pickle contains more than tensors and could run code.
        Exception: the pickle is damaged.
    """
    machine = _Machine()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if number > MOST_INSTRUCTIONS:
            raise Malformed(f"it has more than {MOST_INSTRUCTIONS:,} instructions")
        if opcode.name in LITERALS:
            machine.stack.append(argument)
        elif opcode.name in CONSTANTS:
            machine.stack.append(CONSTANTS[opcode.name])
        elif opcode.name in INSTRUCTIONS:
            INSTRUCTIONS[opcode.name](machine, argument)
        elif opcode.name == "STOP":
            return Described(machine.stack.pop(), machine.storages)
        elif opcode.name not in IGNORED:
            raise UserError(f"it contains more than tensors and could run code: the instruction {opcode.name}")
    raise Malformed("it has no end")


class _Machine:
    """The stack, its marks, and the memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def above_mark(self) -> list[Any]:
        """Pop the values above the last mark."""
        start = self.marks.pop()
        if start > len(self.stack):
            raise Malformed("a mark lies above the stack")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def take(self, count: int) -> tuple[Any, ...]:
        """Pop the last ``count`` values as a tuple."""
        if count > len(self.stack):
            raise Malformed("the stack is empty")
        taken = tuple(self.stack[-count:])
        del self.stack[-count:]
        return taken

    def memoize(self, index: int | None = None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Malformed("an item is appended to a value that is not a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise Malformed("keys are set in a value that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):  # hashing a nested tuple may take forever
                raise UserError(f"it contains more than tensors: a dict with a key of type {type(key).__name__}")
            self.stack[-1][key] = value

    def build(self) -> None:
        """Drop the attributes of a state dict, which are versions of layers."""
        self.stack.pop()
        if type(self.stack[-1]) is not dict:
            raise UserError("it contains more than tensors and could run code: an object with attributes")

    def reduce(self) -> None:
        called, arguments = self.take(2)
        if not isinstance(called, _Global) or type(arguments) is not tuple:
            raise Malformed("a value that is not a function is called")
        if called.name == ORDERED_DICT and not arguments:
            self.push({})
        elif called.name in TENSORS and len(arguments) >= 4:
            self.push(_tensor(*arguments[:4]))
        elif called.name == PARAMETER and arguments and isinstance(arguments[0], Tensor):
            self.push(arguments[0])
        else:
            raise UserError(f"it contains more than tensors and could run code: it calls {_shown(called.name)}")

    def storage(self) -> None:
        """Read a persistent id: ``("storage", torch.FloatStorage, key, device, count)``, and ``None`` in old files."""
        kind, stored, key, _, count, *view = self.stack.pop()
        if kind != "storage" or type(key) is not str or not _is_count(count) or any(v is not None for v in view):
            raise Malformed("the description of a storage is malformed")
        name = stored.name if isinstance(stored, _Global) else ""
        dtype = DTYPES.get(name.removeprefix("torch."))
        if not dtype:
            raise UserError(f"it contains values of an unsupported type: {_shown(name)}")
        storage = Storage(key, dtype, count)
        if self.storages.setdefault(key, storage) != storage:
            raise Malformed("a storage has two different descriptions")
        self.push(storage)


INSTRUCTIONS: dict[str, Any] = {
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push(machine.take(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.take(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.take(3)),
    "MARK": lambda machine, _: machine.mark(),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.above_mark())),
    "LIST": lambda machine, _: machine.push(machine.above_mark()),
    "APPEND": lambda machine, _: machine.append(list(machine.take(1))),
    "APPENDS": lambda machine, _: machine.append(machine.above_mark()),
    "SETITEM": lambda machine, _: machine.set_items(list(machine.take(2))),
    "SETITEMS": lambda machine, _: machine.set_items(machine.above_mark()),
    "BINPUT": lambda machine, index: machine.memoize(index),
    "LONG_BINPUT": lambda machine, index: machine.memoize(index),
    "MEMOIZE": lambda machine, _: machine.memoize(),
    "BINGET": lambda machine, index: machine.recall(index),
    "LONG_BINGET": lambda machine, index: machine.recall(index),
    "GLOBAL": lambda machine, name: machine.push(_Global(name.replace(" ", "."))),
    "STACK_GLOBAL": lambda machine, _: machine.push(_Global(".".join(machine.take(2)))),
    "BINPERSID": lambda machine, _: machine.storage(),
    "BUILD": lambda machine, _: machine.build(),
    "REDUCE": lambda machine, _: machine.reduce(),
}
"""Actions of the instructions that a state dict needs, besides `LITERALS` and `CONSTANTS`."""


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    well_formed = (
        isinstance(storage, Storage)
        and _is_count(offset)
        and type(shape) is type(strides) is tuple
        and len(shape) == len(strides)
        and all(map(_is_count, shape + strides))
    )
    if not well_formed:
        raise Malformed("the description of a tensor is malformed")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.length:
        raise Malformed(f"a tensor extends to value {last:,} of a storage with {storage.length:,} values")
    return Tensor(storage, offset, shape, strides)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _shown(name: str) -> str:
    return printable(name[:80]) or "nothing"
