"""Stand-ins for what a pickle refers to: classes, functions and objects are never imported."""

import re
import sys
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

MAX_NAME = 200  # characters
# Modules without data classes: a file that refers to one is meant to run something.
COMMANDS = re.compile(
    r"builtins|code|codeop|commands|concurrent|ctypes|ftplib|http|importlib|marshal|"
    r"multiprocessing|nt|os|pickle|pip|platform|posix|pty|runpy|shutil|signal|site|smtplib|socket|"
    r"subprocess|sys|threading|timeit|urllib|webbrowser"
)
ATTRIBUTE = "builtins.getattr"  # how older pickles name a nested class
# Types and functions of data, some with their Python 2 names, which torch.save writes.
HARMLESS_BUILTINS = re.compile(
    r"Ellipsis|NotImplemented|[A-Z]\w*(Error|Exception|Warning|Exit|Interrupt|Iteration)|Exception|"
    r"abs|all|any|basestring|bool|bytearray|bytes|complex|dict|enumerate|float|frozenset|getattr|"
    r"int|len|list|long|max|memoryview|min|object|pow|range|reversed|round|set|slice|sorted|str|"
    r"sum|tuple|type|unicode|xrange|zip"
)
PYTHON_2_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}


class CodeFound(Exception):
    """The pickle names a function that runs commands or code."""


@dataclass(slots=True, eq=False)
class Foreign:
    """An object, class or function that Python would import; only its name is kept.

    Attributes:
        name: ``module.name`` of the class or function; ``persistent`` for a reference to a tensor's
            storage outside the pickle.
        args: arguments of the call; ``None`` for the class or function itself.
        state: attributes of the object.
        items: members of a subclass of ``dict``.
    """

    name: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    items: dict[str, Any] | None = None


def find(module: str, name: str) -> Foreign:
    """The class or function of that name.

    Raises:
        CodeFound: it runs commands or code, or is a method of a built-in type.
    """
    module = PYTHON_2_NAMES.get(module, module)
    whole = f"{module}.{name}"
    if len(whole) > MAX_NAME or not whole.isprintable():
        raise UnpicklingError("not a pickle")
    harmless = module == "builtins" and HARMLESS_BUILTINS.fullmatch(name)
    package, *outer = (module.partition(".")[0], *name.split(".")[:-1])
    method = outer and package in sys.stdlib_module_names
    if not harmless and (method or any(map(COMMANDS.fullmatch, (package, *outer)))):
        raise CodeFound(whole)
    return Foreign(sys.intern(whole))


def call(function: Any, args: Any) -> Any:
    """Represent a call without making it; an ordered dictionary becomes a dictionary."""
    if not isinstance(function, Foreign) or not isinstance(args, tuple):
        raise UnpicklingError("not a pickle")
    if function.name == "collections.OrderedDict" and not args:
        return {}
    if function.name == ATTRIBUTE:
        if function.args is not None:
            raise CodeFound(ATTRIBUTE)  # a method of an object
        if named := _attribute(args):
            return find(*named)
    return Foreign(function.name, args)


def _attribute(args: tuple[Any, ...]) -> tuple[str, str] | None:
    """The module and name of the class attribute that ``getattr`` would return."""
    match args:
        case (Foreign(name, None), str(attribute)):
            module, _, outer = name.rpartition(".")
            return module, f"{outer}.{attribute}"
    return None
