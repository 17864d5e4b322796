"""The HTTP API as Markdown: routes and schemas as in OpenAPI, with answers to examples."""

import asyncio
import json
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx

from app.config.settings import Settings
from app.http.api_keys import new_key
from app.http.app import create_app
from app.http.problems import MEDIA_TYPE as PROBLEM_TYPE
from app.loading import load_model
from app.serving.lifecycle import Lifecycle, State
from benchmarks.load.sample import sample_picture

Schema = dict[str, Any]

PHOTO = "dog.jpg"


@dataclass(frozen=True, slots=True)
class Example:
    """A request, as a command, and the service's answer to it."""

    command: str
    answer: str


@dataclass(frozen=True, slots=True)
class Service:
    """What a running service says of itself."""

    openapi: dict[str, Any]
    examples: dict[tuple[str, str], Example]
    metrics: str


@cache
def service() -> Service:
    """Run the service on the bundled model, with everything that has a route, and ask it."""
    logging.disable()
    try:
        return asyncio.run(ask_service())
    finally:
        logging.disable(logging.NOTSET)


async def ask_service() -> Service:
    with tempfile.TemporaryDirectory() as folder:
        key, line = new_key("docs")
        keys = Path(folder, "keys")
        keys.write_text(line)
        choices = {"api_keys_file": keys, "admin_token": "token", "cache_dir": None}
        settings = Settings.model_validate(Settings.model_construct().model_dump() | choices)
        lifecycle = Lifecycle()
        app = create_app(settings, partial(load_model, settings), lifecycle=lifecycle, environ={})
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://localhost:8000",
            headers={"X-API-Key": key},
        )
        async with app.router.lifespan_context(app), client:
            while lifecycle.state is State.LOADING:
                await asyncio.sleep(0.05)
            examples = {}
            for path, method, route in operations(app.openapi()):
                if example := await ask(client, path, method, route):
                    examples[method, path] = example
            accepted = {"Accept": "application/openmetrics-text"}
            metrics = await client.get("/metrics", headers=accepted)
    return Service(app.openapi(), examples, metrics.text)


def operations(openapi: Schema) -> Iterator[tuple[str, str, Schema]]:
    """Path, method and description of each route."""
    for path, methods in openapi["paths"].items():
        for method, route in methods.items():
            yield path, method.upper(), route


async def ask(client: httpx.AsyncClient, path: str, method: str, route: Schema) -> Example | None:
    """Ask a route that answers with JSON and changes nothing."""
    answer = route["responses"]["200"].get("content", {})
    if "application/json" not in answer or path.startswith("/admin"):
        return None
    for parameter in route.get("parameters", []):
        path = path.replace(f"{{{parameter['name']}}}", str(parameter.get("example")))
    bodies = route.get("requestBody", {}).get("content", {})
    url = f"localhost:8000{path}"
    if "multipart/form-data" in bodies:
        files = {"file": (PHOTO, sample_picture())}
        command = f"curl -F file=@{PHOTO} {url}"
        found = await client.post(path, files=files)
    elif "application/json" in bodies:
        body = bodies["application/json"]["example"]
        command = f"curl --json '{json.dumps(body)}' {url}"
        found = await client.post(path, json=body)
    else:
        flag = "" if method == "GET" else f"-X {method} "
        command = f"curl {flag}{url}"
        found = await client.request(method, path)
    assert found.status_code == 200, found.text
    return Example(command, pretty(found.json()) if found.content else "")


def pretty(answer: object) -> str:
    """As JSON, with lists of plain values on one line."""
    text = json.dumps(answer, indent=2)
    return re.sub(r"\[[^][{}]+\]", lambda found: " ".join(found[0].split()), text)


def http_api() -> str:
    """Every route by its tag, and every schema."""
    found = service()
    schemas = dict(found.openapi["components"]["schemas"])
    parts = []
    by_tag = groupby(operations(found.openapi), lambda each: each[2]["tags"][0])
    for tag, routes in by_tag:
        parts.append(f"## {tag.capitalize()}")
        for (method, _), same in groupby(routes, lambda each: (each[1], each[2]["summary"])):
            paths, _, (route, *_) = zip(*same, strict=True)
            parts += describe_route(method, paths, route, found, schemas)
    parts.append("## Schemas")
    described: set[str] = set()
    while names := sorted(set(schemas) - described):  # those met in others come along
        for name in names:
            parts += describe_schema(name, schemas[name], schemas)
        described |= set(names)
    return "\n\n".join(parts)


def describe_route(
    method: str, paths: Sequence[str], route: Schema, asked: Service, schemas: dict[str, Schema]
) -> Iterator[str]:
    """A route; those after the first path are the same by another name."""
    yield f"### `{method} {paths[0]}` {{#{method.lower()}-{slug(paths[0])}}}"
    yield " ".join(route["description"].replace("``", "`").split())
    if paths[1:]:
        yield "Also " + ", ".join(f"`{method} {path}`" for path in paths[1:]) + "."
    if route.get("security"):
        yield "With `Authorization: Bearer`, where a key or token is needed."
    if parameters := route.get("parameters"):
        yield table(
            ("parameter", "in", "type", "default", "meaning"),
            [describe_parameter(parameter, schemas) for parameter in parameters],
        )
    if body := route.get("requestBody"):
        yield table(
            ("request body", "schema"),
            (
                (f"`{media}`", type_of(content.get("schema", {}), schemas))
                for media, content in body["content"].items()
            ),
        )
    yield table(("status", "answer", "what"), answers_of(route, schemas))
    if example := asked.examples.get((method, paths[0])):
        yield f"```console\n$ {example.command}\n```"
        if example.answer:
            yield f"```json\n{example.answer}\n```"


def describe_parameter(parameter: Schema, schemas: dict[str, Schema]) -> tuple[str, ...]:
    schema = parameter["schema"]
    meaning = parameter.get("description", "")
    name = f"`{parameter['name']}`"
    return name, parameter["in"], type_of(schema, schemas), default_of(schema), meaning


def answers_of(route: Schema, schemas: dict[str, Schema]) -> Iterator[tuple[str, str, str]]:
    for status, answer in sorted(route["responses"].items()):
        content = answer.get("content", {})
        kinds = dict.fromkeys(type_of(each.get("schema", {}), schemas) for each in content.values())
        what = answer["description"].replace("Successful Response", "")
        if PROBLEM_TYPE in content:
            what = re.sub(r"`([\w-]+)`", r"[`\1`](problems.md#\1)", what)
        headers = ", ".join(f"`{name}`" for name in answer.get("headers", {}))
        yield status, ", ".join(kinds), what + (f"; with {headers}" if headers else "")


def describe_schema(name: str, schema: Schema, schemas: dict[str, Schema]) -> Iterator[str]:
    yield f"### `{name}` {{#{slug(name)}}}"
    if "description" in schema:
        yield " ".join(schema["description"].replace("``", "`").split())
    required = schema.get("required", [])
    rows = [
        (
            f"`{member}`",
            type_of(kind, schemas),
            "yes" if member in required else "",
            kind.get("description", ""),
        )
        for member, kind in schema.get("properties", {}).items()
    ]
    if rows:
        yield table(("member", "type", "required", "meaning"), rows)


def type_of(schema: Schema, schemas: dict[str, Schema] | None = None) -> str:
    """A schema in a few words; those of ``schemas`` are links, and named ones join them."""
    schemas = {} if schemas is None else schemas
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[`{name}`](#{slug(name)})"
    if "properties" in schema and "title" in schema:
        schemas.setdefault(schema["title"], schema)
        return type_of({"$ref": schema["title"]}, schemas)
    if "properties" in schema:
        members = schema["properties"].items()
        return "; ".join(f"`{name}`: {type_of(kind, schemas)}" for name, kind in members)
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(type_of(choice, schemas) for choice in choices)
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}), schemas)}"
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
    """Rows as a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )


def slug(text: str) -> str:
    """The anchor of a route or a schema."""
    return "-".join("".join(c if c.isalnum() else " " for c in text).lower().split()) or "root"
