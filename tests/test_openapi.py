"""The OpenAPI document is valid, complete and honest, and /docs shows it without internet."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from openapi_spec_validator import validate

from app import openapi
from app.config import Settings
from app.main import create_app

METHODS = ("get", "post", "put", "patch", "delete")
STAFF_SCHEMES = {"staff", "staff-key"}


@pytest.fixture(scope="module")
def document(settings: Settings) -> dict[str, Any]:
    return create_app(settings).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each operation with its name for messages, such as `POST /v1/customers`."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield f"{method.upper()} {path}", item[method]


def schemas_within(node: Any, where: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything in the document that has examples, with its place."""
    if isinstance(node, dict):
        if "examples" in node or "example" in node:
            yield where, node
        for name, value in node.items():
            if name not in {"example", "examples"}:
                yield from schemas_within(value, f"{where}/{name}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from schemas_within(value, f"{where}/{number}")


def test_document_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document)


def test_document_has_the_contract_and_not_its_own_pages(document: dict[str, Any]) -> None:
    assert {"/healthz", "/v1/customers", "/v1/auth/token", "/v1/auth/revoke", "/v1/me"} <= set(document["paths"])
    assert not {"/docs", "/openapi.json"} & set(document["paths"])


def test_every_operation_has_a_summary_a_description_and_one_known_tag(document: dict[str, Any]) -> None:
    known = {str(tag["name"]) for tag in openapi.TAGS}
    for name, operation in operations(document):
        assert len(operation["summary"]) <= 60, name
        assert not operation["summary"].endswith("."), name
        assert operation["description"].endswith((".", "|", "`")), name
        assert len(operation["tags"]) == 1, name
        assert operation["tags"][0] in known, name
    used = {operation["tags"][0] for _, operation in operations(document)}
    assert used <= known


def test_operation_ids_are_unique_names_of_functions(document: dict[str, Any]) -> None:
    ids = Counter(operation["operationId"] for _, operation in operations(document))
    assert [name for name, count in ids.items() if count > 1] == []
    assert all(re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", name) for name in ids)
    # Stable: generated clients call these. Add to the list; never rename.
    assert {"register", "issue_token", "revoke_token", "get_me", "change_me", "close_me", "healthz"} <= set(ids)


def test_operation_ids_do_not_depend_on_the_build(settings: Settings, document: dict[str, Any]) -> None:
    assert create_app(settings).openapi() == document


def test_every_operation_documents_its_errors_as_problems(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        responses = operation["responses"]
        expected = {"422", "500", "503"}
        if operation.get("security"):
            expected.add("401")
        if STAFF_SCHEMES & {scheme for need in operation.get("security", []) for scheme in need}:
            expected.add("403")
        if "{" in name:
            expected.add("404")
        assert expected <= set(responses), f"{name} does not document {expected - set(responses)}"
        for status, response in responses.items():
            if status >= "400":
                assert list(response["content"]) == ["application/problem+json"], f"{name} {status}"
                schema = response["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}, f"{name} {status}"
                assert response["description"], f"{name} {status}"


def test_what_belongs_to_somebody_needs_that_ones_credential(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        schemes = {scheme for need in operation.get("security", []) for scheme in need}
        path = name.split(" ")[1]
        if path.startswith(("/v1/admin", "/sync", "/report")):
            assert schemes == STAFF_SCHEMES, name
        elif path.startswith("/v1/merchant/"):
            assert schemes == {"merchant", "merchant-key"}, name
        elif path == "/v1/me" or path.startswith("/v1/me/"):
            assert schemes == {"customer"}, name


def test_successful_answers_have_a_schema(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            if status.startswith("2") and status != "204":
                contents = response["content"]
                assert contents, name
                if "application/json" in contents:
                    assert contents["application/json"].get("schema"), f"{name} {status}"
            elif status == "204":
                assert "content" not in response, name


def test_examples_fit_their_schemas(document: dict[str, Any]) -> None:
    found = list(schemas_within(document))
    assert len(found) > 30
    for where, node in found:
        schema = node.get(
            "schema", {name: value for name, value in node.items() if name not in {"example", "examples"}}
        )
        examples = node.get("examples", [node["example"]] if "example" in node else [])
        values = [one["value"] for one in examples.values()] if isinstance(examples, dict) else examples
        assert values, where
        validator = OAS31Validator(
            {**schema, "components": document["components"]}, format_checker=oas31_format_checker
        )
        for value in values:
            errors = [error.message for error in validator.iter_errors(value)]
            assert errors == [], where


def test_fields_of_requests_and_answers_show_an_example(document: dict[str, Any]) -> None:
    for name in (
        "CustomerRegistration",
        "CustomerProfile",
        "ProfileChange",
        "TokenRequest",
        "TokenResponse",
        "Problem",
    ):
        for field, schema in document["components"]["schemas"][name]["properties"].items():
            texts = json.dumps(schema)
            assert "examples" in texts or "const" in texts or "$ref" in texts, f"{name}.{field}"


def test_no_model_of_fastapis_own_errors_is_left(document: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in json.dumps(document)


async def test_docs_page_needs_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.status_code == 200
    assert not re.search(r"""https?://|["'(]//[a-z]""", page.text)
    assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert len(assets) >= 3
    for asset in assets:
        answer = await client.get(asset)
        assert answer.status_code == 200, asset
        assert len(answer.content) > 300
    [url] = re.findall(r"url: '([^']+)'", page.text)
    assert (await client.get(url)).json()["info"]["title"] == "Cashback service"


async def test_document_is_served(client: httpx.AsyncClient, document: dict[str, Any]) -> None:
    assert (await client.get("/openapi.json")).json() == document


def test_command_prints_the_same_document_whatever_the_environment(document: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "app.cli", "openapi"]
    printed = subprocess.run(command, capture_output=True, check=True, timeout=60, env={"MAX_BODY_BYTES": "2000000"})
    assert json.loads(printed.stdout) == document
    assert printed.stderr == b""
