"""node-postgres: a program of its own (node/program.js), each of whose checks is a test here."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from support import APP, GUEST

PROGRAM = Path(__file__).parent / "node" / "program.js"
CHECKS = [
    "pool",
    "preparedStatements",
    "cursor",
    "insertWithDefault",
    "errorFields",
    "startupOption",
    "plainSetStaysOnTheConnection",
    "parameterStatus",
]


@pytest.fixture(scope="module")
def results(db):
    environment = os.environ | {"PGHOST": db.server.host, "PGPORT": db.server.port, "PGDATABASE": db.name}
    done = subprocess.run(
        ["node", str(PROGRAM), APP, GUEST], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("check", CHECKS)
def test_node_postgres(results, check):
    assert results[check] == "ok", results[check]


def test_every_check_is_listed(results):
    assert list(results) == CHECKS
