"""MkDocs hook that generates the reference pages from the code.

A comment such as ``<!-- reference: settings -->`` in a page is replaced when the site is built.
"""

import argparse
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from types import FunctionType
from typing import Any

import xcit_client
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from xcit_client.images import ImageLike

import app.cli.main
import app.cli.serve
import app.serving.errors
import training.command
from app.config.settings import ENV_PREFIX, Settings
from app.http.app import create_app
from app.loading import load_model
from app.observability.metrics import MODEL_LABELS, Metrics
from app.observability.process_metrics import ProcessesCollector

Schema = dict[str, Any]

WIDTH = 80  # longest signature on one line, in characters
MARK = re.compile(r"^<!-- reference: ([\w-]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace each reference comment with generated Markdown."""
    return MARK.sub(lambda mark: REFERENCES[mark[1]](), markdown)


def settings() -> str:
    """List every setting: variable, flag, type, default, meaning."""
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
    """List every xcit_ metric: name, type, labels, meaning."""
    registry = Metrics(processes=ProcessesCollector(dict)).registry
    rows = []
    for family in registry.collect():
        if family.name.startswith("xcit_"):
            name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
            declared: Any = registry._names_to_collectors.get(name, family)
            labels = (*declared._labelnames, *(MODEL_LABELS if family.type == "info" else ()))
            names = ", ".join(f"`{label}`" for label in labels)
            rows.append((f"`{name}`{{#{name}}}", family.type, names, code(family.documentation)))
    return table(("metric", "type", "labels", "meaning"), rows)


def problems() -> str:
    """Show the tree of errors, and list the routes that can return each."""
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
    """Yield the paths that document a problem; versioned duplicates of a path are skipped."""
    for path, route in operations():
        answer = route["responses"].get(str(error.status), {})
        if f"`{error.problem}`" in answer.get("description", "") and "{version}" not in path:
            yield path


@cache
def operations() -> list[tuple[str, Schema]]:
    """Path and OpenAPI description of every route, the optional ones included."""
    defaults = Settings.model_construct().model_dump()
    settings = Settings.model_validate(defaults | {"admin_token": "token"})
    app = create_app(settings, partial(load_model, settings), environ={})
    paths = app.openapi()["paths"].items()
    return [(path, route) for path, methods in paths for route in methods.values()]


def command_line() -> str:
    """Describe every command and its arguments."""
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
        if command.get_default("command") is not app.cli.serve.run:  # see settings()
            yield table(("argument", "meaning"), arguments(command))


def subcommands(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[argparse.ArgumentParser, str | None]]:
    """Yield each subcommand with its one-line help."""
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
    """Describe every public name of the client: signature and docstring."""
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
    """Format a signature without module names; a long one gets one line per parameter."""
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
    """Convert a docstring to Markdown, with its sections as lists."""
    parts = []
    for part in inspect.cleandoc(value.__doc__ or "").split("\n\n"):
        heading, _, rest = part.partition(":\n")
        if rest and heading in {"Args", "Attributes", "Raises", "Returns"}:
            items = re.split(r"\n(?=\S)", textwrap.dedent(rest))
            part = f"{heading}:\n\n" + "\n".join(f"- {' '.join(item.split())}" for item in items)
        parts.append(part)
    return code("\n\n".join(parts))


def code(text: str) -> str:
    """Convert a docstring's code marks to Markdown."""
    return text.replace("``", "`").replace("*", "\\*")


def type_of(schema: Schema) -> str:
    """Describe the JSON schema of a setting in a few words."""
    if choices := schema.get("anyOf"):
        return " or ".join(type_of(choice) for choice in choices)
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    kind = str(schema.get("format", schema.get("type", "any")))
    return ", ".join(["`true`, `false`" if kind == "boolean" else kind, *bounds_of(schema)])


def bounds_of(schema: Schema) -> Iterator[str]:
    if {"minimum", "maximum"} <= schema.keys():
        yield f"{schema['minimum']:,} to {schema['maximum']:,}"
        return
    words = {"minimum": "at least", "exclusiveMinimum": "over", "maximum": "at most"}
    for bound in sorted(words.keys() & schema.keys()):
        yield f"{words[bound]} {schema[bound]:,}"


def default_of(schema: Schema) -> str:
    default = schema.get("default")
    text = default if isinstance(default, str) else json.dumps(default)
    return "" if text in {"", "null"} else f"`{text}`"


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Format rows as a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )


REFERENCES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "metrics": metrics,
    "problems": problems,
    "command-line": command_line,
    "client": python_client,
}
