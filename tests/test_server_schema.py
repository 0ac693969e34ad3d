"""The API does what its description says, whatever it is asked: schemathesis makes the requests."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable

from tests.server_fixtures import client_of, needs_server

schemathesis = pytest.importorskip("schemathesis", reason="needs '.[dev]': no schemathesis")
pytestmark = [*needs_server, pytest.mark.slow]
# A stream without end, and a run for every request.
_LEFT_OUT = r"^/api/v1/(events|indexing)$"


def test_every_answer_is_one_that_is_described(indexed: Path) -> None:
    with client_of(indexed) as client:
        url = str(client.base_url).rstrip("/")
        schema = schemathesis.openapi.from_url(f"{url}/api/v1/openapi.json")
        operations = [
            found.ok() for found in schema.exclude(path_regex=_LEFT_OUT).get_all_operations()
        ]
        assert len(operations) >= 12
        for operation in operations:
            for mode in schemathesis.GenerationMode:
                ask(operation, mode)


def ask(operation: Any, mode: Any) -> None:
    """Ask for one operation in many ways. mode: requests that are right, or wrong."""
    from schemathesis.specs.openapi import checks

    @seed(0)
    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        # A value may be right in form and make no sense: a day such as 2024-13, an unknown folder.
        case.call_and_validate(excluded_checks=[checks.positive_data_acceptance])

    with suppress(Unsatisfiable):  # without parameters there is no wrong request
        check()
