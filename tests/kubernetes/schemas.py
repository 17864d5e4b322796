"""Schemas that the manifests must satisfy.

Those of Kubernetes come with ``kubernetes-validate``, and those of KServe are read from the classes
of its Python package. KEDA and the Prometheus Operator have no package: ``schemas.yml`` describes
the fields that the manifests use, written from their public documentation.
"""

import json
import re
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate.utils import all_versions
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

VERSIONS = (all_versions()[0], all_versions()[-1])  # the oldest and the newest Kubernetes
OURS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "schemas.yml").read_text())
GROUPS = ("apps.v1", "autoscaling.v2", "core.v1")


@cache
def definitions() -> Any:
    """The definitions of all types of the newest Kubernetes."""
    spec = find_spec("kubernetes_validate")
    assert spec
    assert spec.submodule_search_locations
    schemas = Path(spec.submodule_search_locations[0]) / "kubernetes-json-schema"
    return json.loads((schemas / f"v{VERSIONS[-1]}-local-strict/_definitions.json").read_text())


def check_kubernetes(part: dict[str, Any], version: str) -> None:
    """Validate a part of Kubernetes itself; unknown fields are errors."""
    kubernetes_validate.validate(part, version, strict=True)


def check_schema(value: Any, schema: dict[str, Any]) -> None:
    """Validate against a schema that may refer to `definitions`."""
    resource = Resource.from_contents(definitions(), default_specification=DRAFT202012)
    registry: Registry[Any] = resource @ Registry()
    jsonschema.Draft202012Validator(schema, registry=registry).validate(value)


def check_documented(part: dict[str, Any]) -> None:
    """Validate a part of KEDA or the Prometheus Operator."""
    check_schema(part, OURS[part["kind"]])


def check_type(value: Any, name: str) -> None:
    """Validate against a type of Kubernetes by its short name, such as ``Container``."""
    types = definitions()["$defs"]
    names = [f"io.k8s.api.{group}.{name}" for group in GROUPS]
    names.append(f"io.k8s.apimachinery.pkg.apis.meta.v1.{name}")
    (full,) = (each for each in names if each in types)
    check_schema(value, {"$ref": f"{definitions()['$id']}#/$defs/{full}"})


@cache
def kserve_models() -> ModuleType:
    """The classes of KServe's resources.

    They are imported without the package's ``__init__``, which needs servers and clients that are
    not installed.
    """
    spec = find_spec("kserve")
    assert spec, "KServe's models are missing: make fetches them with requirements-dev.txt"
    package = ModuleType("kserve")
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["kserve"] = package
    return import_module("kserve.models")


def check_kserve(value: Any, kind: str) -> None:
    """Validate against a type as KServe's classes name it, such as ``list[V1Container]``.

    Classes of KServe check required fields when they are made; types of Kubernetes are validated
    against its schemas.
    """
    models = kserve_models()
    if found := re.fullmatch(r"list\[(.*)\]", kind):
        assert isinstance(value, list), value
        for each in value:
            check_kserve(each, found[1])
    elif found := re.fullmatch(r"dict\(str, (.*)\)", kind):
        for each in value.values():
            check_kserve(each, found[1])
    elif model := getattr(models, kind, None):
        names = {field: name for name, field in model.attribute_map.items()}
        assert set(value) <= set(names), f"{kind} has no {sorted(set(value) - set(names))}"
        for field, each in value.items():
            check_kserve(each, model.openapi_types[names[field]])
        model(**{names[field]: each for field, each in value.items()})
    elif plain := {"str": str, "int": int, "bool": bool}.get(kind):
        assert type(value) is plain, f"{value!r} is not of type {kind}"
    else:
        check_type(value, kind.removeprefix("V1"))
