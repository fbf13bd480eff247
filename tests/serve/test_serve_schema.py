"""schemathesis calls the service as its OpenAPI description says, and as it says not to.

By hand with more examples: TEXTMASK_SCHEMA_EXAMPLES=500 pytest tests/serve/test_serve_schema.py
"""

import os
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

if os.environ.get("CI") != "true":
    pytest.importorskip(
        "schemathesis", reason="schemathesis is not installed: pip install -e '.[test]'"
    )
import requests
import schemathesis
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from serving import listening

from textmask.io.loaded import LoadedImage
from textmask.serve.app import create_app
from textmask.serve.segmenter import Upload
from textmask.serve.service import ServiceOptions

EXAMPLES = int(os.environ.get("TEXTMASK_SCHEMA_EXAMPLES", "6"))
TOKEN = "a-token-of-more-than-16"
# bytes that are no image, folders that are not there, and sides that cannot be known fit the description
MEANING = re.compile(r"^(POST|GET) /v1/(images$|jobs$|images/\{id\}/(masks|mask\.|overlay))")


@pytest.fixture(scope="module")
def described(segmenter, tmp_path_factory):
    """The description, the id of an image that is kept, and a session."""
    root = tmp_path_factory.mktemp("jobs")
    app = create_app(segmenter, ServiceOptions(token=TOKEN, jobs_root=root))
    upload = Upload(LoadedImage(np.zeros((20, 30), np.uint8)), 1, "")
    with listening(app) as address, requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {TOKEN}"
        yield (
            schemathesis.openapi.from_url(f"{address}/openapi.json"),
            app.service.images.put(upload, 600),
            session,
        )


OPERATIONS = [
    "POST /v1/images",
    "DELETE /v1/images/{id}",
    "GET /v1/images/{id}/picture.png",
    "POST /v1/images/{id}/masks",
    "GET /v1/images/{id}/mask.png",
    "GET /v1/images/{id}/overlay.png",
    "GET /v1/images/{id}/mask.dcm",
    "POST /v1/jobs",
    "GET /v1/jobs/{id}",
    "DELETE /v1/jobs/{id}",
    "GET /v1/capabilities",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
]


def test_the_list_of_operations_is_complete(described):
    assert sorted(one.ok().label for one in described[0].get_all_operations()) == sorted(OPERATIONS)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", OPERATIONS)
def test_the_service_does_what_its_description_says(described, label, mode):
    operation = next(
        one.ok() for one in described[0].get_all_operations() if one.ok().label == label
    )
    if mode is GenerationMode.NEGATIVE and "{id}" not in label and not label.startswith("POST"):
        return  # nothing to get wrong
    excluded = [positive_data_acceptance] if MEANING.match(label) else []

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def calls(case):
        name = (case.path_parameters or {}).get("id")
        if mode is GenerationMode.POSITIVE and isinstance(name, str) and case.method != "DELETE":
            case.path_parameters["id"] = described[1]
        case.call_and_validate(session=described[2], excluded_checks=excluded)

    calls()
