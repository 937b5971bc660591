"""What the integration tests share serves these as well."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))


@pytest.fixture(scope="session")
def server():
    import support

    server = support.Server(os.environ["PGHOST"], os.environ["PGPORT"])
    server.create_roles()
    yield server
    server.drop_roles(support.GUEST, support.APP, support.OWNER, support.DATA)
