"""Signed tokens in a session that loads the library late: what was set before is verified then."""

import os

import psycopg
import pytest
from support import GUEST, items, own_server, refused
from token_support import ROWS, bad_tokens, gives_nothing, got, reaches, tenants_in

NAME = f"it-token-late-{os.getpid()}"


@pytest.fixture(scope="module")
def server():
    """A server of its own, in place of the one that the other files share."""
    with own_server(NAME, "--no-preload") as server:
        yield server


def test_set_before_the_load(connect, issuer):
    for statement, end in (("SET", "DISCARD ALL"), ("BEGIN; SET LOCAL", "COMMIT")):
        guest = connect(GUEST)
        guest.execute(f"{statement} tenancy.token = '{issuer.token('globex')}'")
        assert items(guest) == ROWS["globex"]
        guest.execute(end)
        with refused("TENANT_CONTEXT_MISSING"):
            items(guest)
        assert reaches(guest, issuer.token("acme"), ROWS["acme"])
    assert items(connect(GUEST, settings={"tenancy.token": issuer.token()})) == ROWS["acme"]


def test_a_bad_one(db, connect, issuer, once):
    for bad in (*bad_tokens(issuer).values(), once.token(jti="late")):
        for statement in ("SET", "BEGIN; SET LOCAL", f"SET tenancy.token = '{issuer.token()}'; BEGIN; SET LOCAL"):
            guest = connect(GUEST)
            guest.execute(f"{statement} tenancy.token = '{bad}'")
            assert "globex" not in tenants_in(got(guest, "TABLE orders"))
            if not statement.startswith("SET tenancy"):
                with pytest.raises(psycopg.Error):
                    items(guest)
        gives_nothing(db, bad)


def test_savepoints_across_the_load(connect, issuer):
    guest = connect(GUEST)
    guest.execute(f"BEGIN; SET LOCAL tenancy.token = '{issuer.token('acme')}'; SAVEPOINT s")
    guest.execute(f"SET LOCAL tenancy.token = '{issuer.token('globex')}'")
    assert items(guest) == ROWS["globex"]
    guest.execute("ROLLBACK TO s")
    assert items(guest) == ROWS["acme"]


def test_left_over(connect, make_role, issuer):
    role = make_role("it_token_late", session_context="refuse")
    guest = connect(role)
    guest.execute(f"SET tenancy.token = '{issuer.token()}'")
    with refused("TENANT_CONTEXT_MISSING"):
        items(guest)
    assert reaches(guest, issuer.token("globex"), ROWS["globex"])
