"""A hook of the site: the reference, from the code itself.

A page of docs/reference says in a comment what belongs there, ``<!-- reference: settings -->``, and
gets it when the site is built.
"""

import argparse
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import xcit_client
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from xcit_client.images import ImageLike

import app.cli.main
import app.cli.serve
import app.serving.errors
import training.command
from app.config.settings import ENV_PREFIX, Settings
from documentation.openapi import default_of, http_api, operations, service, table, type_of

WIDTH = 80  # characters of a signature on one line
MARK = re.compile(r"^<!-- reference: ([\w-]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put each reference in the place of its comment."""
    return MARK.sub(lambda mark: REFERENCES[mark[1]](), markdown)


def settings() -> str:
    """Every setting: variable, flag, type, default, meaning."""
    schemas = Settings.model_json_schema()["properties"]
    return table(
        ("variable and flag", "type", "default", "meaning"),
        [
            (
                f"`{variable}`{{#{variable.lower()}}}<br>`--{name.replace('_', '-')}`",
                type_of(schemas[name]).removesuffix(" or null"),
                default_of(schemas[name]),
                code(field.description or ""),
            )
            for name, field in Settings.model_fields.items()
            if (variable := ENV_PREFIX + name.upper())
        ],
    )


def metrics() -> str:
    """Every metric of the service's own: name, type, labels, meaning."""
    rows = []
    for family in read_metrics(service().metrics):
        if family.name.startswith("xcit_"):
            name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels = {label: None for sample in family.samples for label in sample.labels}
            labels.pop("le", None)
            told = ", ".join(f"`{label}`" for label in labels)
            rows.append((f"`{name}`{{#{name}}}", family.type, told, code(family.documentation)))
    return table(("metric", "type", "labels", "meaning"), rows)


def read_metrics(text: str) -> Iterator[Metric]:
    yield from openmetrics.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]


def problems() -> str:
    """The tree of errors, and where each can come from."""
    tree = inspect.cleandoc(app.serving.errors.__doc__ or "").split("\n\n")[1]
    return f"```text\n{tree}\n```\n\n" + table(
        ("problem", "status", "title", "routes"),
        [
            (
                f"`/problems/{error.problem}`{{#{error.problem}}}",
                str(error.status),
                error.title,
                ", ".join(f"`{path}`" for path in routes_with(error)),
            )
            for error in sorted(
                leaves(app.serving.errors.ServiceError), key=lambda e: (e.status, e.problem)
            )
        ],
    )


def leaves(
    error: type[app.serving.errors.ServiceError],
) -> Iterator[type[app.serving.errors.ServiceError]]:
    children = error.__subclasses__()
    for child in children:
        yield from leaves(child)
    if not children:
        yield error


def routes_with(error: type[app.serving.errors.ServiceError]) -> Iterator[str]:
    """The paths whose contract has a problem, without those that are the same by version."""
    for path, _, route in operations(service().openapi):
        answer = route["responses"].get(str(error.status), {})
        if f"`{error.problem}`" in answer.get("description", "") and "{version}" not in path:
            yield path


def command_line() -> str:
    """Every command, with its arguments."""
    return "\n\n".join(
        [
            *describe_parser(app.cli.main.build_parser()),
            *describe_parser(training.command.build_parser()),
        ]
    )


def describe_parser(parser: argparse.ArgumentParser) -> Iterator[str]:
    for command, listed in subcommands(parser):
        yield f"## `{command.prog}`"
        yield code(command.description or f"{listed}.".capitalize())
        if command.get_default("command") is not app.cli.serve.run:  # it has `settings`
            yield table(("argument", "meaning"), arguments(command))


def subcommands(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[argparse.ArgumentParser, str | None]]:
    """The commands of a parser, and what ``--help`` says of each."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = (listed.help for listed in action._choices_actions)
            yield from zip(action.choices.values(), helps, strict=True)


def arguments(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if action.dest != "help":
            value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
            value = "{" + ",".join(action.choices) + "}" if action.choices else str(value)
            names = ", ".join(action.option_strings)
            meaning = (action.help or "").replace("%%", "%")
            yield f"`{f'{names} {value}'.strip()}`", code(meaning)


def python_client() -> str:
    """Every name of the client, with its signature and docstring."""
    return "\n\n".join(part for name in xcit_client.__all__ for part in describe_name(name))


def describe_name(name: str) -> Iterator[str]:
    value = getattr(xcit_client, name)
    yield f"## `{name}`"
    if not inspect.isclass(value):
        yield f"`{value!r}`"
        return
    if not issubclass(value, Exception):
        yield signature(name, value)
    yield prose(value)
    for member, function in vars(value).items():
        if member.startswith("_"):
            continue
        if isinstance(function, FunctionType):
            yield f"### `{name}.{member}()`"
            yield signature(member, function)
            yield prose(function)
        elif isinstance(function, property):
            yield f"### `{name}.{member}`"
            yield prose(function)


def signature(name: str, function: Callable[..., Any]) -> str:
    """As Python has it, without modules; a long one with a line for each parameter."""
    text = str(inspect.signature(function)).replace(
        inspect.formatannotation(ImageLike), "ImageLike"
    )
    text = re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", text)
    text = name + re.sub(r"^\(self(, )?", "(", text)
    if inspect.isclass(function):
        text = text.removesuffix(" -> None")
    if len(text) > WIDTH:
        inside, _, result = text.removeprefix(f"{name}(").rpartition(")")
        parameters = re.split(r", (?=\*|\w+:)", inside)
        text = "\n    ".join([f"{name}(", *(f"{each}," for each in parameters)]) + f"\n){result}"
    return f"```python\n{text}\n```"


def prose(value: object) -> str:
    """A docstring; its sections as lists."""
    parts = []
    for part in inspect.cleandoc(value.__doc__ or "").split("\n\n"):
        heading, _, rest = part.partition(":\n")
        if rest and heading in {"Args", "Attributes", "Raises", "Returns"}:
            items = re.split(r"\n(?=\S)", textwrap.dedent(rest))
            part = f"{heading}:\n\n" + "\n".join(f"- {' '.join(item.split())}" for item in items)
        parts.append(part)
    return code("\n\n".join(parts))


def code(text: str) -> str:
    """Docstrings' code as Markdown's."""
    return text.replace("``", "`").replace("*", "\\*")


REFERENCES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "metrics": metrics,
    "problems": problems,
    "command-line": command_line,
    "http": http_api,
    "client": python_client,
}
