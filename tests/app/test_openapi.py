"""The OpenAPI document."""

import json
import re
from functools import reduce
from operator import getitem

import pytest

from app.http.app import create_app

from .conftest import (
    FakeClassifier,
    make_settings,
    running,
)

pytestmark = pytest.mark.anyio


async def test_openapi_lists_every_error_of_predict(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/predict"]["post"]
    assert set(operation["responses"]) == {
        *("200", "400", "401", "403", "408", "413", "415", "421", "422", "500", "503", "504")
    }
    for status, response in operation["responses"].items():
        if status != "200":
            (media_type,) = response["content"].items()
            assert media_type[0] == "application/problem+json"
            assert "request_id" in media_type[1]["schema"]["required"]
    assert "`overloaded`" in operation["responses"]["503"]["description"]
    assert set(operation["requestBody"]["content"]) == {
        *("multipart/form-data", "application/json", "application/octet-stream", "image/*")
    }
    assert {"/livez", "/readyz", "/healthz", "/metrics"} < set(document["paths"])


@pytest.mark.parametrize("cloud", [None, "sagemaker", "vertex"])
def test_every_openapi_reference_resolves(cloud: str | None) -> None:
    document = create_app(make_settings(cloud=cloud), FakeClassifier, environ={}).openapi()
    references = set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)))
    assert references
    for reference in references:
        root, *path = reference.split("/")
        assert root == "#"
        assert reduce(getitem, path, document), reference
    assert '"$defs"' not in json.dumps(document)
