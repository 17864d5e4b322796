"""Reading pickles as data: nothing in them is imported, called or executed.

Containers, numbers and text become Python objects; everything else becomes a
`model.weights.foreign.Foreign`.
"""

import pickletools
import re
from collections.abc import Callable
from pickle import UnpicklingError
from typing import IO, Any, Protocol, cast

from model.weights.foreign import Foreign, call, find

MAX_BYTES = 64 * 2**20
MAX_OPERATIONS = 1_000_000  # each costs about 100 bytes; a large training run takes 100,000
MAX_NUMBER = 2**63
# opcodes whose argument is the value they push
VALUES = re.compile(
    r"(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|((SHORT_)?BIN)?STRING|((SHORT_)?BIN)?UNICODE8?|"
    r"(SHORT_)?BINBYTES8?|BYTEARRAY8"
)


class Readable(Protocol):
    """A binary file, as `pickletools` requires."""

    def read(self, size: int, /) -> bytes: ...
    def readline(self) -> bytes: ...


class _Limited:
    """A file of which one pickle may read `MAX_BYTES` at most."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._left = MAX_BYTES

    def read(self, size: int, /) -> bytes:
        if size > self._left:
            raise UnpicklingError("the pickle is too long")
        return self._count(self._file.read(size))

    def readline(self) -> bytes:
        return self._count(self._file.readline())

    def _count(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data


def read_pickle(file: Readable) -> Any:
    """The object in a pickle; ``file`` is left after its last byte.

    Keys of dictionaries become text; members with keys other than text and numbers are dropped,
    because hashing a hostile key may take unbounded time.

    Raises:
        CodeFound: it refers to a function that runs commands or code; the text is its name.
        UnpicklingError: it is not a pickle, or is longer than any checkpoint needs.
    """
    machine = _Machine()
    try:
        for count, (operation, argument, _) in enumerate(
            pickletools.genops(cast(IO[bytes], _Limited(file)))
        ):
            if count > MAX_OPERATIONS:
                raise UnpicklingError("the pickle is too long")
            OPERATIONS[operation.name](machine, argument)
        return machine.stack.pop()
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise UnpicklingError("not a pickle") from error


class _Machine:
    """The stack and memo of a pickle's opcodes."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: object) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop_mark(self, _: object = None) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def pop_many(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise UnpicklingError("not a pickle")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def remember(self, place: int) -> None:
        if not 0 <= place <= 2**32:
            raise UnpicklingError("not a pickle")
        self.memo[place] = self.stack[-1]

    def memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def recall(self, place: int) -> None:
        self.push(self.memo[place])

    def name(self, module_and_name: str) -> None:
        module, _, name = module_and_name.partition(" ")
        self.push(find(module, name))

    def name_from_stack(self, _: object) -> None:
        module, name = self.pop_many(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnpicklingError("not a pickle")
        self.push(find(module, name))

    def make(self, _: object) -> None:
        """Call a class or function with arguments."""
        function, args = self.pop_many(2)
        self.push(call(function, args))

    def make_with_keywords(self, _: object) -> None:
        self.stack.pop()
        self.make(None)

    def make_from_mark(self, _: object) -> None:
        function, *args = self.pop_mark()
        self.push(call(function, tuple(args)))

    def make_named(self, module_and_name: str) -> None:
        args = self.pop_mark()
        self.name(module_and_name)
        self.push(call(self.stack.pop(), tuple(args)))

    def refer(self, _: object) -> None:
        self.push(call(Foreign("persistent"), self.stack.pop()))

    def set_state(self, _: object) -> None:
        target, state = self.pop_many(2)
        if isinstance(target, Foreign):
            target.state = state
        self.push(target)  # drops attributes of a dictionary, such as _metadata

    def set_items(self, items: list[Any]) -> None:
        members = target = self.stack[-1]
        if isinstance(target, Foreign):
            members = target.items = target.items or {}
        for key, value in zip(items[::2], items[1::2], strict=True):
            if (text := as_key(key)) is not None:
                members[text] = value

    def append(self, items: list[Any]) -> None:
        """Append to a list, or to an object of a class that stays foreign."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Foreign):
            raise UnpicklingError("not a pickle")

    def make_dictionary(self, _: object) -> None:
        items = self.pop_mark()
        self.push({})
        self.set_items(items)


def as_key(key: Any) -> str | None:
    if isinstance(key, str):
        return key
    if isinstance(key, int | float) and abs(key) < MAX_NUMBER:
        return str(key)
    return None


def _push_argument(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


def _nothing(machine: _Machine, argument: Any) -> None:
    pass


def _pushes(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(make())


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(tuple(machine.pop_many(count)))


OPERATIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    **{
        operation.name: _push_argument
        for operation in pickletools.opcodes
        if VALUES.fullmatch(operation.name)
    },
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _nothing),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.make),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), _pushes(list)),
    **dict.fromkeys(("LIST", "FROZENSET"), lambda m, _: m.push(m.pop_mark())),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda m, _: m.append(m.pop_mark())),
    "MEMOIZE": _Machine.memoize,
    "MARK": _Machine.mark,
    "POP": lambda m, _: m.stack.pop() if m.stack else m.pop_mark(),
    "POP_MARK": _Machine.pop_mark,
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "NONE": _pushes(lambda: None),
    "NEWTRUE": _pushes(lambda: True),
    "NEWFALSE": _pushes(lambda: False),
    "APPEND": lambda m, _: m.append(m.pop_many(1)),
    "EMPTY_TUPLE": _pushes(tuple),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "EMPTY_DICT": _pushes(dict),
    "DICT": _Machine.make_dictionary,
    "SETITEM": lambda m, _: m.set_items(m.pop_many(2)),
    "SETITEMS": lambda m, _: m.set_items(m.pop_mark()),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_from_stack,
    "NEWOBJ_EX": _Machine.make_with_keywords,
    "OBJ": _Machine.make_from_mark,
    "INST": _Machine.make_named,
    "BUILD": _Machine.set_state,
    "BINPERSID": _Machine.refer,
}
