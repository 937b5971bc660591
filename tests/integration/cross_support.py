"""What the tests of crossing tenants share: an operator, its scopes, and what is on record of them."""

import pytest
from support import column, value

ACME, GLOBEX = ["a1", "a2", "a3"], ["g1", "g2"]
BOTH = ACME + GLOBEX
OPERATOR, CREW = "it_operator", "it_crew"
TRAIL = "SELECT tenant_id, operation, detail FROM tenancy.audit_log WHERE detail ->> 'scope' = %s ORDER BY recorded_at, tenant_id, number"


def grant(dba, tenants="{acme,globex}", until="infinity", read_only=True, role=OPERATOR):
    """`until` is a time, or an interval from now."""
    moment = "now() + %s::interval" if until.split()[-1].startswith("second") else "%s::timestamptz"
    dba.execute(f"SELECT tenancy.grant_cross_tenant(%s, %s, {moment}, %s)", [role, tenants, until, read_only])


def revoke(dba, tenants=None, role=OPERATOR):
    return value(dba, "SELECT tenancy.revoke_cross_tenant(%s, %s)", [role, tenants])


def begin(connection, tenants="{acme,globex}", reason="a test", duration=None):
    """Returns when it ends, as text: psycopg knows no infinity."""
    return value(connection, "SELECT tenancy.begin_cross_tenant(%s, %s, %s)::text", [tenants, reason, duration])


def end(connection):
    return value(connection, "SELECT tenancy.end_cross_tenant()")


def scope_of(connection):
    """What the context says of the scope; none where the session is in none."""
    return value(connection, "SELECT tenancy.context() -> 'cross_tenant'")


def trail(source, scope):
    """What is on record of a scope: tenant, operation, and the rest without what is said of each."""
    return [
        (tenant, operation, {name: said for name, said in detail.items() if name not in ("scope", "until", "reason")})
        for tenant, operation, detail in source.execute(TRAIL, [str(scope)]).fetchall()
    ]


def problems(dba):
    return column(dba, "SELECT v FROM (SELECT id FROM _tenancy.tenants UNION ALL SELECT NULL) AS t(id), tenancy.verify_audit(t.id) AS v")


@pytest.fixture
def operator(connect, dba, make_role):
    """A connection of a role that may cross to acme and globex, and is in the group CREW."""
    make_role(CREW)
    make_role(OPERATOR)
    dba.execute(f"GRANT {CREW} TO {OPERATOR}")
    grant(dba)
    connection = connect(OPERATOR)
    yield connection
    connection.close()
    for role in (OPERATOR, CREW):
        revoke(dba, role=role)
        dba.execute(f"DROP OWNED BY {role}")
