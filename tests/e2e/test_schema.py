"""Generated requests to every operation of /openapi.json, with answers checked against it."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.config import SchemathesisConfig

from app.http.api_keys import new_key
from app.http.app import create_app
from app.http.parameters import TIMEOUT_HEADER
from tests.app.conftest import FakeClassifier, make_settings
from tests.server_process import Server

from .conftest import StartServer
from .test_contract import picture

pytestmark = pytest.mark.one_process("about the schema of the routes")

EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "50"))  # of each operation
KEY, LINE = new_key("test")
TOKEN = "token-of-the-test"


def locked(directory: Path) -> dict[str, object]:
    """Settings that enable every route, and require a key wherever possible."""
    file = directory / "keys"
    file.write_text(LINE)
    return {"api_keys_file": file, "metrics_need_key": True, "admin_token": TOKEN}


# Generate real images where the document declares one.
IMAGES = st.sampled_from(
    [picture(image_format=image_format) for image_format in ("JPEG", "PNG", "GIF", "BMP", "TIFF")]
)
schemathesis.openapi.media_type("image/png", IMAGES)
schemathesis.openapi.media_type("application/octet-stream", IMAGES)
schemathesis.openapi.format("binary", IMAGES)

# A schema does not say which text is an image, how many classes exist or how long anything takes.
REFUSED_ALL_THE_SAME = {400, 404, 413, 415, 422}
TOO_LATE = {408, 504}
PREDICT = {
    "positive_data_acceptance": {"expected-statuses": [200, *REFUSED_ALL_THE_SAME, *TOO_LATE]},
    "negative_data_rejection": {"expected-statuses": ["4xx", 504]},
    "not_a_server_error": {"expected-statuses": ["2xx", "4xx", 504]},
}
BATCH = PREDICT | {"negative_data_rejection": {"enabled": False}}  # each image has its own error
CONFIG = SchemathesisConfig.from_dict(
    {
        "generation": {"max-examples": EXAMPLES, "with-security-parameters": False},
        "request-timeout": 120,  # a reload loads a model
        "operations": [
            {"include-path": "/predict/batch", "checks": BATCH},
            {"include-path-regex": "^/(predict|explain|.*infer)", "checks": PREDICT},
        ],
    }
)
with tempfile.TemporaryDirectory() as directory:
    DOCUMENT = create_app(make_settings(**locked(Path(directory))), FakeClassifier).openapi()
schema = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)


@pytest.fixture(scope="module")
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    return start_server(**locked(tmp_path_factory.mktemp("keys")))


def test_the_document_is_served(server: Server) -> None:
    assert server.client.get("/openapi.json").json() == DOCUMENT


@schema.parametrize()
def test_every_answer_is_one_that_the_document_allows(case: Case[Any], server: Server) -> None:
    headers: Any = case.headers or {}
    if len(str(headers.get(TIMEOUT_HEADER, ""))) < 4:
        headers.pop(TIMEOUT_HEADER, None)  # so few milliseconds can only end in 504
    secret = TOKEN if case.operation.path.startswith("/admin/") else KEY
    case.call_and_validate(server.url, headers={"Authorization": f"Bearer {secret}"})


def test_requests_covered_every_status(server: Server) -> None:
    metrics = server.client.get("/metrics", headers={"X-API-Key": KEY}).text
    told = re.findall(r'^xcit_requests_total{code="(\d+)",endpoint="(.+)"}', metrics, re.MULTILINE)
    for path, operations in DOCUMENT["paths"].items():
        expected = {200, 405}
        if any("security" in operation for operation in operations.values()):
            expected |= {401}
        if path == "/predict":
            expected |= {400, 415, 422}
        if path.endswith("/infer"):
            expected |= {400, 404}
        assert expected <= {int(code) for code, endpoint in told if endpoint == path}, path
