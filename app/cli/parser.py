"""The command-line parser: makes flags from settings, and reports each mistake on one line."""

import argparse
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Literal, NoReturn, get_args, get_origin

from app.config.settings import Settings, SettingsError, flag_of

_FLAG = re.compile(r"--?[A-Za-z]")  # does not match a negative number


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that raises `SettingsError` instead of printing its usage.

    Attributes:
        flags: the flags as they are typed, with their dashes.
        commands: the parser of each command, by name.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.flags: list[str] = []
        self.commands: dict[str, Parser] = {}
        super().__init__(*args, **options)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        action = super().add_argument(*names, **options)
        self.flags += action.option_strings
        return action

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; see {self.prog} --help")


def check_spelling(parser: Parser, words: Sequence[str]) -> None:
    """Suggest the nearest flag or command for a misspelt one, by raising `SettingsError`.

    argparse reports a missing argument before an unknown flag, and suggests nothing.
    """
    if not parser.commands:
        _check_flags(parser, words)
        return
    first = [*takewhile(lambda word: word.startswith("-"), words)]
    _check_flags(parser, first)
    for command in words[len(first) : len(first) + 1]:
        if command not in parser.commands:
            raise SettingsError(_unknown("command", command, parser.commands, parser.prog))
        check_spelling(parser.commands[command], words[len(first) + 1 :])


def _check_flags(parser: Parser, words: Iterable[str]) -> None:
    for word in takewhile(lambda word: word != "--", words):
        name = word.partition("=")[0]
        if _FLAG.match(name) and not any(flag.startswith(name) for flag in parser.flags):
            raise SettingsError(_unknown("option", name, parser.flags, parser.prog))


def _unknown(kind: str, name: str, known: Iterable[str], program: str) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"did you mean {close[0]}?" if close else f"see {program} --help"
    return f"unknown {kind} {name}; {hint}"


def add_settings(parser: Parser, names: Iterable[str]) -> None:
    """Add a flag for each of these settings; `settings_in` returns the values."""
    for name in names:
        field = Settings.model_fields[name]
        default = "" if field.default in (None, "") else f" [{field.default}]"
        text = f"{field.description}{default}".replace("%", "%%")
        flag, options = flag_of(name), {"default": argparse.SUPPRESS, "dest": name}
        if field.annotation is bool:
            switch = {"nargs": "?", "const": "true", "metavar": "true|false"}
            parser.add_argument(flag, **options, **switch, help=text)
            parser.add_argument(
                flag.replace("--", "--no-", 1),
                **options,
                action="store_const",
                const="false",
                help=f"the same as {flag}=false",
            )
        else:
            parser.add_argument(flag, **options, metavar=_metavar(name), help=text)


def _metavar(name: str) -> str:
    """The choices of a setting, or the last word of its name."""
    annotation = Settings.model_fields[name].annotation
    kinds = (annotation, *get_args(annotation))
    for kind in kinds:
        if get_origin(kind) is Literal:
            return "{" + ",".join((*get_args(kind), *("N" for each in kinds if each is int))) + "}"
    return name.rpartition("_")[2].upper()


def settings_in(args: argparse.Namespace) -> Mapping[str, str]:
    """The settings that were given as flags, by name."""
    return {name: value for name, value in vars(args).items() if name in Settings.model_fields}
