"""Fixtures: each test file has a database of its own; roles are made once."""

import os
from contextlib import ExitStack

import pytest

import support
from token_support import Issuer


@pytest.fixture(scope="session")
def server():
    server = support.Server(os.environ["PGHOST"], os.environ["PGPORT"])
    owned = f"SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = '{support.OWNER}'"
    for (left_over,) in server.run(owned):
        server.run(f"DROP DATABASE {left_over} WITH (FORCE)")
    server.create_roles()
    yield server
    server.drop_roles(support.GUEST, support.APP, support.OWNER, support.DATA)


@pytest.fixture(scope="module")
def db(server, request):
    """A database with the extension and the table `orders`, see support.Database.create_shop."""
    database = support.Database(server, request.module.__name__.replace("test_", "it_"))
    try:
        database.create_shop()
        yield database
    finally:
        database.drop()


@pytest.fixture
def connect(db):
    """connect(role=APP, **parameters): connections that end with the test."""
    with ExitStack() as stack:
        yield lambda *args, **parameters: stack.enter_context(_closing(db.connect(*args, **parameters)))


@pytest.fixture
def app(connect):
    """A connection of the application's role, in autocommit."""
    return connect(support.APP)


@pytest.fixture
def dba(connect):
    return connect("postgres")


@pytest.fixture
def guest(connect):
    """A connection of a role that may not set a tenant."""
    return connect(support.GUEST)


@pytest.fixture
def issuer(db):
    """An issuer of tokens that the database trusts."""
    return Issuer(db).trust()


@pytest.fixture
def once(db):
    """One whose tokens are good for one use."""
    return Issuer(db).trust(single_use=True)


@pytest.fixture
def make_role(server):
    """make_role(name, may_set=False, **settings): a login role with ALTER ROLE … SET; gone after the test."""
    made = []

    def make(name, may_set=False, **settings):
        server.drop_roles(name)
        made.append(name)
        server.run(f"CREATE ROLE {name} LOGIN IN ROLE {support.DATA}")
        if may_set:
            server.run(f"GRANT SET ON PARAMETER tenancy.tenant_id TO {name}")
        for parameter, value in settings.items():
            server.run(f"ALTER ROLE {name} SET tenancy.{parameter} = '{value}'")
        return name

    yield make
    server.drop_roles(*made)


class _closing:
    """Closes a connection without a last COMMIT, which could hide what a test left undone."""

    def __init__(self, connection):
        self.connection = connection

    def __enter__(self):
        return self.connection

    def __exit__(self, *_):
        self.connection.close()
