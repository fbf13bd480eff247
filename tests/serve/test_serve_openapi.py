"""What generated clients rely on: the OpenAPI description, HEAD, problem JSON, and the words of messages."""

import pytest
from serving import LOWER_LEFT, refused, upload

# generated clients call these: a changed name breaks them
OPERATIONS = {
    "upload_image", "delete_image", "get_picture", "segment_image", "get_mask_png", "get_overlay_png",
    "get_mask_dicom", "create_job", "get_job", "cancel_job", "get_capabilities", "get_health",
    "get_readiness", "get_metrics",
}  # fmt: skip


@pytest.fixture
def schema(client):
    return client.get("/openapi.json").json()


def operations(schema):
    return [one for methods in schema["paths"].values() for one in methods.values()]


def test_operation_ids_are_short_and_stay(schema):
    assert {one["operationId"] for one in operations(schema)} == OPERATIONS


def test_an_upload_is_a_binary_file(schema):
    file = schema["components"]["schemas"]["Body_upload_image"]["properties"]["file"]
    assert (file["type"], file["format"]) == ("string", "binary")


def test_every_tag_is_described(schema):
    described = {tag["name"] for tag in schema["tags"] if tag["description"]}
    assert {tag for one in operations(schema) for tag in one["tags"]} == described


def test_the_examples_are_accepted(client, png, schema):
    examples = schema["components"]["schemas"]["MaskRequest"]["examples"]
    name = upload(client, png)
    assert len(examples) > 1
    for example in examples:
        answer = client.post(f"/v1/images/{name}/masks", json=example)
        assert answer.status_code == 200, answer.text
    assert schema["components"]["schemas"]["JobRequest"]["examples"]


def test_head_has_the_headers_of_get_and_no_body(client, png):
    name = upload(client, png)
    for path in ("/", "/healthz", "/openapi.json", f"/v1/images/{name}/picture.png"):
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        for header in ("content-type", "content-length"):
            assert head.headers[header] == got.headers[header]
    gone = client.head("/v1/images/" + "a" * 22 + "/picture.png")
    assert (gone.status_code, gone.content) == (404, b"")
    wrong = client.head("/v1/images")
    assert wrong.status_code == 405
    assert "HEAD" in client.post("/healthz").headers["allow"]
    assert 'method="HEAD"' in client.get("/metrics").text


def test_messages_name_fields_and_no_options(client, png):
    name = upload(client, png)
    for change in (
        {"laterality": "unknown"},
        {"laterality": "patient"},
        {"sentence": "opacity in the middle lobe"},
    ):
        answer = client.post(f"/v1/images/{name}/masks", json={**LOWER_LEFT, **change})
        message = refused(answer, 422, "laterality")
        assert "--" not in message, message
        assert "laterality" in message or "view" in message
