"""What the integration tests share: databases, roles, and how a refusal looks to a client.

The environment names the server and its tools: PGHOST, PGPORT, TENANCY_SERVER, TENANCY_PG_MAJOR, TENANCY_PG_BIN,
TENANCY_SERVER_TOOL, TENANCY_PGBOUNCER, NODE_PATH. tests/tools/test.sh sets them; the library must be preloaded.
"""

import json
import os
import subprocess
import time
from contextlib import contextmanager

import psycopg
import pytest

MAJOR = int(os.environ["TENANCY_PG_MAJOR"])

# Roles are of the whole cluster, so the prefix keeps ours apart. Rows are granted to DATA, which nobody logs
# in as; APP may set the tenant, GUEST may not, OWNER owns the tables and is no superuser.
DATA, APP, GUEST, OWNER = "it_data", "it_app", "it_guest", "it_owner"

# The catalogue as the documentation promises it; test_error_catalogue.py compares the server's own.
SQLSTATE = {
    "TENANT_CONTEXT_MISSING": "55000",
    "TENANT_ACCESS_DENIED": "42501",
    "TENANT_NOT_FOUND": "42704",
    "TENANT_SUSPENDED": "55000",
    "TENANT_ID_INVALID": "22023",
    "ROWS_REMAIN": "55000",
    "IMPORT_INVALID": "22023",
    "USER_NOT_FOUND": "42704",
    "USER_ALREADY_EXISTS": "42710",
    "MEMBER_NOT_FOUND": "42704",
    "MEMBER_ALREADY_EXISTS": "42710",
    "INVITATION_INVALID": "28000",
    "TENANT_ALREADY_EXISTS": "42710",
    "SUBDOMAIN_UNAVAILABLE": "42710",
    "PARAMETER_INVALID": "22023",
    "RELATION_NOT_SUPPORTED": "42809",
    "RELATION_NOT_OWNED": "42501",
    "PROTECTION_WEAKENED": "55000",
    "PROTECTION_CHANGED": "40001",
    "RELATION_NOT_PROTECTED": "55000",
    "TENANT_COLUMN_NOT_FOUND": "42703",
    "TENANT_COLUMN_NOT_SUPPORTED": "0A000",
    "ROWS_WITHOUT_TENANT": "23514",
    "QUOTA_EXCEEDED": "53400",
    "RELATION_NOT_METERED": "55000",
    "RELATION_METERED": "55006",
    "RELATION_NOT_AUDITED": "55000",
    "TOO_MANY_PREPARED": "53400",
    "LEDGER_BUSY": "55P03",
    "NODE_NOT_READY": "55000",
    "TOKEN_INVALID": "28000",
    "TOKEN_EXPIRED": "28000",
    "CREDENTIALS_INVALID": "28P01",
    "TOO_MANY_FAILURES": "53400",
    "KEY_INVALID": "22023",
    "EXTENSION_NOT_INSTALLED": "55000",
    "EXTENSION_IN_USE": "2BP01",
    "INTERNAL_ERROR": "XX000",
}


class Server:
    """A PostgreSQL server, and connections to it."""

    def __init__(self, host, port):
        self.host, self.port = host, port

    def connect(self, role="postgres", dbname="postgres", autocommit=True, **parameters):
        """A connection; `parameters` go to psycopg, except settings={name: value}: start-up options."""
        settings = parameters.pop("settings", None)
        if settings:
            parameters["options"] = " ".join(f"-c {name}={value}" for name, value in settings.items())
        parameters = {"host": self.host, "port": self.port} | parameters
        return psycopg.connect(user=role, dbname=dbname, autocommit=autocommit, **parameters)

    def run(self, *statements, dbname="postgres", role="postgres"):
        """Runs statements outside a transaction; returns the rows of the last one."""
        with self.connect(role, dbname) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def create_roles(self):
        self.drop_roles(GUEST, APP, OWNER, DATA)
        self.run(
            f"CREATE ROLE {DATA}",
            f"CREATE ROLE {OWNER} LOGIN",
            f"CREATE ROLE {APP} LOGIN IN ROLE {DATA}",
            f"CREATE ROLE {GUEST} LOGIN IN ROLE {DATA}",
            f"GRANT SET ON PARAMETER tenancy.tenant_id TO {APP}",
        )

    def drop_roles(self, *roles):
        known = {name for (name,) in self.run("SELECT rolname FROM pg_roles")}
        for role in roles:
            if role in known:
                self.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


class Database:
    """A database with the extension; its tables belong to OWNER and are granted to DATA."""

    def __init__(self, server, name, extension=True, options=""):
        self.server, self.name = server, name
        self.tenants = 0
        self.drop()
        server.run(f"CREATE DATABASE {name} OWNER {OWNER} {options}")
        self.run(
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER}"
            f" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {DATA}",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT USAGE ON SEQUENCES TO {DATA}",
        )
        if extension:
            self.run("CREATE EXTENSION tenancy")

    def drop(self):
        self.server.run(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")

    def run(self, *statements, role="postgres"):
        return self.server.run(*statements, dbname=self.name, role=role)

    def connect(self, role=APP, **parameters):
        return self.server.connect(role, self.name, **parameters)

    async def connect_async(self, role=APP):
        return await psycopg.AsyncConnection.connect(
            user=role, dbname=self.name, host=self.server.host, port=self.server.port, autocommit=True
        )

    def create_shop(self):
        """`orders` with three rows of acme, two of globex and one of initech; umbrella has none."""
        self.run(
            """
            CREATE TABLE orders (
                id bigserial PRIMARY KEY,
                tenant_id text,
                item text NOT NULL,
                amount integer NOT NULL DEFAULT 1 CONSTRAINT orders_amount_positive CHECK (amount > 0),
                CONSTRAINT orders_item_key UNIQUE (tenant_id, item))""",
            role=OWNER,
        )
        self.run(
            "SELECT tenancy.create_tenant(id) FROM unnest('{acme,globex,initech,umbrella}'::text[]) AS id",
            """INSERT INTO orders (tenant_id, item) VALUES ('acme', 'a1'), ('acme', 'a2'), ('acme', 'a3'),
               ('globex', 'g1'), ('globex', 'g2'), ('initech', 'i1')""",
        )
        self.run("SELECT tenancy.protect('orders')", role=OWNER)

    def new_tenant(self, *items):
        """A tenant that no other test knows, with orders of these items."""
        self.tenants += 1
        tenant = f"tenant-{self.tenants}"
        with self.connect("postgres") as dba:
            dba.execute("SELECT tenancy.create_tenant(%s)", [tenant])
            dba.cursor().executemany(
                "INSERT INTO orders (tenant_id, item) VALUES (%s, %s)", [(tenant, item) for item in items]
            )
        return tenant


def column(source, query, arguments=None):
    """The first column of a query as a list; `source` is a connection or a cursor."""
    return [row[0] for row in source.execute(query, arguments).fetchall()]


def value(source, query, arguments=None):
    """The only value of a query."""
    (only,) = column(source, query, arguments)
    return only


def items(source):
    """What the session sees of `orders`."""
    return column(source, "SELECT item FROM orders ORDER BY item")


def set_local(connection, tenant):
    """`SET LOCAL`, with the tenant as a bound parameter."""
    connection.execute("SELECT set_config('tenancy.tenant_id', %s, true)", [tenant])


def set_session(connection, tenant):
    """Plain `SET`, with the tenant as a bound parameter."""
    connection.execute("SELECT set_config('tenancy.tenant_id', %s, false)", [tenant])


def detail_of(error):
    """The JSON object in an error's DETAIL. Fails where DETAIL is not one JSON object."""
    detail = json.loads(error.diag.message_detail)
    assert isinstance(detail, dict), error.diag.message_detail
    return detail


class Caught:
    """The error that `refused` caught, and its DETAIL."""

    error = None
    detail = None


@contextmanager
def refused(code):
    """Expects an error of the catalogue, with its SQLSTATE and a DETAIL that begins with its code."""
    caught = Caught()
    with pytest.raises(psycopg.Error) as info:
        yield caught
    caught.error = info.value
    assert caught.error.diag.message_detail, f"no DETAIL: {caught.error}"
    caught.detail = detail_of(caught.error)
    assert caught.detail["code"] == code, caught.error
    assert next(iter(caught.detail)) == "code"
    assert caught.error.sqlstate == SQLSTATE[code]


@contextmanager
def sqlstate(code):
    """Expects an error of PostgreSQL itself."""
    caught = Caught()
    with pytest.raises(psycopg.Error) as info:
        yield caught
    caught.error = info.value
    assert caught.error.sqlstate == code, caught.error


def eventually(condition, timeout=30):
    """Waits until `condition()` is true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not true after {timeout} s"
        time.sleep(0.02)


def server_tool(*arguments):
    """Runs tests/tools/server.sh; returns what it prints."""
    done = subprocess.run(
        [os.environ["TENANCY_SERVER_TOOL"], *arguments], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def server_of(env_file):
    """The server that a file of server.sh describes."""
    shown = subprocess.run(
        ["bash", "-c", '. "$1" && echo "$PGHOST" && echo "$PGPORT"', "bash", env_file],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Server(*shown.stdout.split())


@contextmanager
def own_server(name, *options):
    """A server of a test's own, with the roles, as long as it is needed."""
    server = server_of(server_tool("start", str(MAJOR), name, *options))
    try:
        server.create_roles()
        yield server
    finally:
        server_tool("stop", name)


def pg_program(name, *arguments, check=True, **environment):
    """Runs a client program of the server's own version."""
    program = os.path.join(os.environ["TENANCY_PG_BIN"], name)
    environment = {**os.environ, **environment}
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, env=environment)
    assert not check or done.returncode == 0, done.stderr
    return done
