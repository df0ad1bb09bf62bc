"""Reads the pickles inside PyTorch's weights files without running any of them.

Python's own unpickler calls what a file names; this one interprets the few operations that a dictionary of tensors is
written with (protocols 2 to 4, `pickletools` documents them) and refuses every other. A value can stand in many places
of a pickle for two bytes each, so that whatever walks through one (copying, hashing, printing it) first asks how large
it is.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Final, cast

import numpy as np

from patchcore_engine.errors import WeightsFormatError

# The table of wide_resnet50_2 has 20,000 operations and 60 KB.
MAX_OPERATIONS: Final = 400_000
MAX_PICKLE_BYTES: Final = 8 * 1024**2
# Of a call's arguments, and of a tensor's dimensions.
_MOST_ARGUMENTS: Final = 16
_MOST_DIMENSIONS: Final = 32
_LARGEST_COUNT: Final = 2**63 - 1
_LONGEST_SHOWN: Final = 80

_STORAGE_DTYPES: Final = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


@dataclass(frozen=True, slots=True)
class StorageReference:
    """A block of `length` elements elsewhere in the file, called `key`."""

    key: str
    dtype: np.dtype[Any]
    length: int

    @property
    def nbytes(self) -> int:
        return self.length * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class TensorReference:
    """A tensor that views `storage`; `offset` and `strides` count elements."""

    storage: StorageReference
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Global:
    module: str
    name: str


class _Mark:
    pass


class _Bounded:
    """What `genops` needs of a file, up to MAX_PICKLE_BYTES."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = MAX_PICKLE_BYTES

    def read(self, count: int) -> bytes:
        return self._take(self._file.read(count) if 0 <= count <= self._left else None)

    def readline(self) -> bytes:
        return self._take(self._file.readline(self._left + 1))

    def _take(self, data: bytes | None) -> bytes:
        if data is None or len(data) > self._left:
            raise WeightsFormatError("its table of tensors is too large.")
        self._left -= len(data)
        return data


_MARK: Final = _Mark()


def read_pickle(file: IO[bytes]) -> Any:
    """Read one pickle from `file` and leave the file right behind it.

    Returns dicts, lists, tuples, strings, numbers, None and `TensorReference`s; raises WeightsFormatError for any
    other content.
    """
    try:
        return _interpret(file)
    except WeightsFormatError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WeightsFormatError("it isn't a well-formed PyTorch weights file.") from error


def _interpret(file: IO[bytes]) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for count, (operation, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], _Bounded(file)))):
        if count > MAX_OPERATIONS:
            raise WeightsFormatError("it holds too many objects for a weights file.")
        name = operation.name
        if name == "STOP":
            return stack.pop()
        if name in _IGNORED:
            continue
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _VALUES:
            stack.append(argument)
        elif name in _CONTAINERS:
            stack.append(_CONTAINERS[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[cast(int, argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[cast(int, argument)])
        elif name == "GLOBAL":
            module, _, attribute = cast(str, argument).partition(" ")
            stack.append(_admit(module, attribute))
        elif name in _STEPS:
            _STEPS[name](stack)
        else:
            raise WeightsFormatError(f"it holds more than tensors (the pickle operation {name}).")
    raise WeightsFormatError("it ends in the middle of its table of tensors.")


def _admit(module: Any, name: Any) -> _Global:
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("not a name")
    known = (module, name) in _CALLS or (module == "torch" and name in _STORAGE_DTYPES)
    if not known:
        shown = f"{module[:_LONGEST_SHOWN]}.{name[:_LONGEST_SHOWN]}"
        raise WeightsFormatError(f"it holds more than tensors ({shown}).")
    return _Global(module, name)


def _pop_mark(stack: list[Any]) -> list[Any]:
    position = len(stack) - 1
    while stack[position] is not _MARK:
        position -= 1
        if position < 0:
            raise ValueError("no mark on the stack")
    items = stack[position + 1 :]
    del stack[position:]
    return items


def _tuple_of(count: int) -> Callable[[list[Any]], None]:
    def step(stack: list[Any]) -> None:
        items = tuple(stack[len(stack) - count :])
        if len(items) != count:
            raise ValueError("the stack is too short")
        del stack[len(stack) - count :]
        stack.append(items)

    return step


def _marked_tuple(stack: list[Any]) -> None:
    items = _pop_mark(stack)
    stack.append(tuple(items))


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    _fill(stack[-1], [key, value])


def _set_items(stack: list[Any]) -> None:
    items = _pop_mark(stack)
    _fill(stack[-1], items)


def _fill(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict):
        raise TypeError("not a dictionary")
    # Hashing anything else could take for ever: a tuple of the same two tuples, forty times over.
    if not all(isinstance(key, str | int) for key in items[::2]):
        raise TypeError("a key that is no name")
    target.update(zip(items[::2], items[1::2], strict=True))


def _append(stack: list[Any]) -> None:
    value = stack.pop()
    _extend(stack[-1], [value])


def _appends(stack: list[Any]) -> None:
    items = _pop_mark(stack)
    _extend(stack[-1], items)


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise TypeError("not a list")
    target.extend(items)


def _stack_global(stack: list[Any]) -> None:
    name, module = stack.pop(), stack.pop()
    stack.append(_admit(module, name))


def _reduce(stack: list[Any]) -> None:
    arguments, function = stack.pop(), stack.pop()
    stack.append(_CALLS[function.module, function.name](*_short_tuple(arguments, _MOST_ARGUMENTS)))


def _short_tuple(value: Any, most: int) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or len(value) > most:
        raise TypeError("not a tuple, or too long")
    return value


def _build(stack: list[Any]) -> None:
    # A module's state dictionary carries version numbers as attributes; they don't matter here.
    stack.pop()
    if not isinstance(stack[-1], dict):
        raise TypeError("attributes of something else than a dictionary")


def _persistent(stack: list[Any]) -> None:
    kind, storage_type, key, _location, length, *rest = _short_tuple(stack.pop(), _MOST_ARGUMENTS)
    if kind != "storage" or not isinstance(storage_type, _Global) or any(item is not None for item in rest):
        raise WeightsFormatError("it refers to data in a way that isn't known here.")
    dtype = np.dtype(_STORAGE_DTYPES[storage_type.name])
    if not isinstance(key, str) or not isinstance(length, int) or not 0 <= length <= _LARGEST_COUNT:
        raise TypeError("not a storage")
    stack.append(StorageReference(key, dtype, length))


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    """Python 2 wrote a list of pairs. It is used up, so that no list is gone through twice."""
    filled: dict[Any, Any] = {}
    if not isinstance(items, list):
        items = list(_short_tuple(items, 0))
    items.reverse()
    while items:
        pair = items.pop()
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise TypeError("not a pair")
        _fill(filled, list(pair))
    return filled


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorReference:
    shape, strides = _short_tuple(shape, _MOST_DIMENSIONS), _short_tuple(strides, _MOST_DIMENSIONS)
    if not isinstance(storage, StorageReference) or len(shape) != len(strides):
        raise TypeError("not a tensor")
    if any(not isinstance(number, int) or not 0 <= number <= _LARGEST_COUNT for number in (offset, *shape, *strides)):
        raise ValueError("a tensor's shape holds something else than counts")
    count = int(np.prod(shape, dtype=object))
    last = offset + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
    # The second condition keeps a few stored bytes from standing for a huge tensor.
    if count and (last >= storage.length or count > storage.length):
        raise WeightsFormatError("a tensor reaches beyond its stored data.")
    return TensorReference(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_IGNORED: Final = frozenset({"PROTO", "FRAME"})
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK, "EMPTY_TUPLE": ()}
_CONTAINERS: Final[dict[str, Callable[[], Any]]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_VALUES: Final = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING"}
    | {"SHORT_BINSTRING"}
)
_STEPS: Final[dict[str, Callable[[list[Any]], None]]] = {
    "TUPLE": _marked_tuple,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "APPEND": _append,
    "APPENDS": _appends,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
_CALLS: Final[dict[tuple[str, str], Callable[..., Any]]] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
