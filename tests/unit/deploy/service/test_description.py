"""The service does what its own description says, whatever that lets one ask."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.deploy.service.conftest import file_of
from tests.unit.deploy.service.running import Running

schemathesis = pytest.importorskip("schemathesis")

positive_data_acceptance = pytest.importorskip("schemathesis.checks").positive_data_acceptance
PATHS = ("/predict", "/explain", "/models", "/health", "/ready", "/metrics")


def test_all_that_there_is_is_described(service: Running) -> None:
    said = service.get("/openapi.json").json
    assert set(said["paths"]) == set(PATHS)
    forms = said["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "application/json"} <= set(forms)


@pytest.mark.parametrize("path", PATHS)
def test_whatever_the_description_lets_one_ask_gets_an_answer_that_it_names(
    service: Running, path: str
) -> None:
    described = schemathesis.openapi.from_url(f"http://127.0.0.1:{service.port}/openapi.json")
    (operation,) = described[path].values()

    @settings(
        max_examples=8 if path in ("/predict", "/explain") else 2,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        # That whatever fits the description is taken cannot be: it cannot say what is a picture.
        data.draw(operation.as_strategy()).call_and_validate(excluded_checks=[positive_data_acceptance])

    ask()


def test_an_answer_that_is_not_as_described_would_be_seen(service: Running) -> None:
    """The control: the same answer beside a description that names another status."""
    said = service.get("/openapi.json").json
    said["paths"]["/health"]["get"]["responses"] = {"201": {"description": "never"}}
    described = schemathesis.openapi.from_dict(said)
    described.config.update(base_url=f"http://127.0.0.1:{service.port}")
    with pytest.raises(BaseException, match="status code"):
        described["/health"]["GET"].Case().call_and_validate()
    assert service.predict(file_of(1)).status == 200
