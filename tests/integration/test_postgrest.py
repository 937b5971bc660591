"""The contract with PostgREST: what it does around a request, with tenancy.pre_request() as its db-pre-request."""

import json

import pytest
from support import items, refused, sqlstate, value

AUTHENTICATOR, USER, NOBODY = "it_authenticator", "it_web_user", "it_web_nobody"
ROWS = {"acme": ["a1", "a2", "a3"], "globex": ["g1", "g2"]}


@pytest.fixture(scope="module")
def db(db):
    server = db.server
    server.drop_roles(AUTHENTICATOR, USER, NOBODY)
    server.run(
        f"CREATE ROLE {AUTHENTICATOR} LOGIN NOINHERIT",
        f"CREATE ROLE {USER} NOLOGIN IN ROLE it_data ROLE {AUTHENTICATOR}",
        f"CREATE ROLE {NOBODY} NOLOGIN IN ROLE it_data ROLE {AUTHENTICATOR}",
        f"GRANT SET ON PARAMETER tenancy.tenant_id TO {USER}",
        f"GRANT SET ON PARAMETER tenancy.user_id TO {USER}",
    )
    db.run(
        "SELECT tenancy.create_tenant('hosted', subdomain => 'shop')",
        "SELECT tenancy.create_tenant('www-tenant', subdomain => 'www2')",
        "INSERT INTO orders (tenant_id, item) VALUES ('hosted', 'h1')",
        "SELECT tenancy.create_tenant('closed', subdomain => 'closed')",
        "SELECT tenancy.suspend_tenant('closed')",
    )
    yield db
    server.drop_roles(AUTHENTICATOR, USER, NOBODY)


class Response:
    """What PostgREST would answer with."""

    def __init__(self, connection):
        self.items = items(connection)
        self.headers = json.loads(value(connection, "SELECT current_setting('response.headers', true)"))
        self.user = value(connection, "SELECT current_setting('tenancy.user_id')")
        self.tenant = value(connection, "SELECT tenancy.current_tenant()")


@pytest.fixture
def request_(connect):
    """request_(claims, headers, role): one request, as PostgREST 12 runs it on a pooled connection."""
    connection = connect(AUTHENTICATOR)

    def request(claims=None, headers=None, role=USER):
        with connection.transaction():
            connection.execute(
                "SELECT set_config('search_path', %s, true), set_config('role', %s, true),"
                " set_config('request.jwt.claims', %s, true), set_config('request.method', 'GET', true),"
                " set_config('request.path', '/orders', true), set_config('request.headers', %s, true),"
                " set_config('request.cookies', '{}', true)",
                ["public", role, json.dumps(claims or {"role": role}), json.dumps(headers or {})],
            )
            connection.execute("SELECT tenancy.pre_request()")
            return Response(connection)

    return request


def test_claim(request_):
    for tenant, rows in ROWS.items():
        response = request_({"role": USER, "tenant_id": tenant, "sub": f"user of {tenant}"})
        assert response.items == rows
        assert response.tenant == tenant
        assert response.headers == [{"X-Tenant-ID": tenant}]
        assert response.user == f"user of {tenant}"


def test_nothing_is_left_for_the_next_request(request_):
    assert request_({"tenant_id": "acme", "sub": "alice"}).user == "alice"
    with refused("TENANT_CONTEXT_MISSING"):
        request_()
    assert request_({"tenant_id": "globex"}).user == ""


@pytest.mark.parametrize("name", ["x-tenant-id", "X-Tenant-ID", "X-TENANT-ID", "x-Tenant-iD"])
def test_header_in_any_case(request_, name):
    assert request_(headers={name: "globex"}).items == ROWS["globex"]


@pytest.mark.parametrize(
    "host", ["shop.example.com", "SHOP.example.com", "shop.example.com:8443", "shop.localhost", "shop.example.com."]
)
def test_host(request_, host):
    response = request_(headers={"host": host})
    assert (response.tenant, response.items) == ("hosted", ["h1"])


@pytest.mark.parametrize("host", ["www.example.com", "example.com", "shop", "10.0.0.1", "[::1]:3000", "nobody.x.y", ""])
def test_host_that_names_no_tenant(request_, host):
    with refused("TENANT_CONTEXT_MISSING") as caught:
        request_(headers={"host": host})
    assert "X-Tenant-ID" in caught.error.diag.message_hint


def test_order_is_claim_header_host(request_):
    everything = {"x-tenant-id": "globex", "host": "shop.example.com"}
    assert request_({"tenant_id": "acme"}, everything).tenant == "acme"
    assert request_({}, everything).tenant == "globex"
    assert request_({"tenant_id": ""}, everything).tenant == "globex"
    assert request_({"tenant_id": None}, everything).tenant == "globex"
    assert request_({}, {"x-tenant-id": "", "host": "shop.example.com"}).tenant == "hosted"


def test_headers_that_contradict_each_other(request_):
    with refused("TENANT_ID_INVALID"):
        request_(headers={"x-tenant-id": "acme", "X-Tenant-ID": "globex"})
    with refused("TENANT_ID_INVALID"):
        request_(headers={"x-tenant-id": "acme, globex"})
    assert request_(headers={"x-tenant-id": "acme", "X-Tenant-ID": "acme"}).tenant == "acme"


def test_errors(request_):
    with refused("TENANT_CONTEXT_MISSING") as caught:
        request_()
    assert caught.error.diag.message_hint
    with refused("TENANT_NOT_FOUND"):
        request_({"tenant_id": "nobody"})
    with refused("TENANT_SUSPENDED"):
        request_(headers={"host": "closed.example.com"})
    for malformed in ("a b", "a/b", "x" * 129, {"id": "acme"}, ["acme"], True):
        with refused("TENANT_ID_INVALID"):
            request_({"tenant_id": malformed})


def test_a_claim_that_is_wrong_does_not_fall_back_to_the_header(request_):
    with refused("TENANT_NOT_FOUND"):
        request_({"tenant_id": "nobody"}, {"x-tenant-id": "acme"})


def test_role_without_the_privilege(request_):
    with sqlstate("42501"):
        request_({"tenant_id": "acme"}, role=NOBODY)


def test_headers_that_the_application_added_stay(connect):
    connection = connect(AUTHENTICATOR)
    with connection.transaction():
        connection.execute(f"SET LOCAL ROLE {USER}")
        connection.execute("SELECT set_config('request.jwt.claims', '{\"tenant_id\": \"acme\"}', true)")
        connection.execute("SELECT set_config('response.headers', '[{\"Cache-Control\": \"no-store\"}]', true)")
        connection.execute("SELECT tenancy.pre_request()")
        assert json.loads(value(connection, "SELECT current_setting('response.headers')")) == [
            {"Cache-Control": "no-store"},
            {"X-Tenant-ID": "acme"},
        ]


def test_the_context_belongs_to_the_role_of_the_request(connect):
    # The authenticator itself may set nothing and read nothing.
    connection = connect(AUTHENTICATOR)
    with sqlstate("42501"):
        connection.execute("SET tenancy.tenant_id = 'acme'")
    connection.execute("SET tenancy.missing_tenant = 'empty'")  # else planning asks for a tenant first
    with sqlstate("42501"):
        items(connection)
