"""Restoring a dump into a database whose schemas protect their tables as they are created: what breaks elsewhere, and the ways that do not.

Without them pg_restore finds policies that it wants to create (as a superuser), or cannot load the rows (as the owner of the tables).
"""

import pytest
from support import OWNER, Database, pg_program, refused

ROWS = [("acme", "a"), ("beta", "b")]


def options(db, user):
    return ["--host", db.server.host, "--port", db.server.port, "-U", user]


def prepare(database):
    """Two tenants, and a schema that protects."""
    known = {tenant for (tenant,) in database.run("SELECT id FROM tenancy.tenants")}
    for tenant in {"acme", "beta"} - known:
        database.run(f"SELECT tenancy.create_tenant('{tenant}')")
    database.run(f"CREATE SCHEMA app AUTHORIZATION {OWNER}", "SELECT tenancy.protect_schema('app')")


@pytest.fixture
def dump(db, tmp_path):
    """The schema of a database in which it protects, with rows; without the registry, which is not the owner's."""
    prepare(db)
    db.run("CREATE TABLE app.doc (tenant_id text, body text)", "CREATE TABLE app.part (tenant_id text, n integer) PARTITION BY RANGE (n)", role=OWNER)
    db.run("CREATE TABLE app.part_1 PARTITION OF app.part FOR VALUES FROM (0) TO (10)", role=OWNER)
    db.run("INSERT INTO app.doc VALUES ('acme', 'a'), ('beta', 'b')")
    db.run("INSERT INTO app.part VALUES ('acme', 1)")
    file = str(tmp_path / "dump")
    pg_program("pg_dump", *options(db, "postgres"), "-Fc", "-n", "app", "-f", file, db.name)
    yield file
    db.run("DROP SCHEMA app CASCADE")


@pytest.fixture
def target(db):
    copy = Database(db.server, "it_protecting")
    prepare(copy)
    yield copy
    copy.drop()


def restore(target, file, user, *more, **environment):
    pg_program("pg_restore", *options(target, user), "--exit-on-error", "--no-owner", *more, "-d", target.name, file, **environment)


def assert_protected(target):
    # The registry came along with nobody; whoever restored says once more that the schema protects.
    target.run("SELECT tenancy.protect_schema('app')")
    assert target.run("SELECT relation::text, kind, drift FROM tenancy.protected_tables ORDER BY 1") == [
        ("app.doc", "tenant", []),
        ("app.part", "tenant", []),
        ("app.part_1", "tenant", []),
    ]
    assert target.run("SELECT tenant_id, body FROM app.doc ORDER BY 1") == ROWS


def test_superuser(dump, target):
    target.run("DROP SCHEMA app")
    target.run("CREATE SCHEMA app", "SELECT tenancy.protect_schema('app')")
    restore(target, dump, "postgres", "--clean", "--if-exists")
    assert_protected(target)


def test_superuser_into_the_schema(dump, target):
    restore(target, dump, "postgres", "--section=pre-data", "-t", "doc")
    assert target.run("SELECT count(*) FROM tenancy.protected_tables") == [(0,)]  # pg_restore sets row_security off
    restore(target, dump, "postgres", "--section=data", "--section=post-data", "-t", "doc")
    assert target.run("SELECT tenant_id, body FROM app.doc ORDER BY 1") == ROWS


def test_superuser_who_is_not_known_as_restoring(dump, target):
    """pg_restore --enable-row-security sets row_security on: tables are protected as they are created, and their policies then come once more."""
    done = pg_program("pg_restore", *options(target, "postgres"), "--no-owner", "-n", "app", "--enable-row-security", "-d", target.name, dump, check=False)
    assert done.returncode == 1
    for policy in ("tenancy_isolation", "tenancy_access"):
        assert f'policy "{policy}" for table "doc" already exists' in done.stderr
    target.run("DROP TABLE app.doc, app.part")
    restore(target, dump, "postgres", "-n", "app", "--enable-row-security", PGOPTIONS="-c tenancy.restoring=on")
    assert_protected(target)


def test_superuser_into_a_schema_that_protects(dump, target):
    """By row_security alone, which pg_restore sets off."""
    restore(target, dump, "postgres", "-n", "app")
    assert_protected(target)


def test_owner(dump, target):
    with pytest.raises(AssertionError, match="row-level security"):
        restore(target, dump, OWNER, "-t", "doc")
    target.run("DROP TABLE app.doc")
    target.run(f"GRANT SET ON PARAMETER tenancy.restoring TO {OWNER}")
    try:
        restore(target, dump, OWNER, "-t", "doc", PGOPTIONS="-c tenancy.restoring=on")
    finally:
        target.run(f"REVOKE SET ON PARAMETER tenancy.restoring FROM {OWNER}")
    assert target.run("SELECT tenant_id, body FROM app.doc ORDER BY 1") == ROWS
    assert target.run("SELECT count(*) FROM tenancy.protected_tables") == [(0,)]
    target.run("SELECT tenancy.protect_schema('app')")
    with target.connect() as app, refused("TENANT_CONTEXT_MISSING"):
        target.run("GRANT USAGE ON SCHEMA app TO PUBLIC", "GRANT SELECT ON app.doc TO PUBLIC")
        app.execute("SELECT * FROM app.doc")


def test_an_owner_cannot_call_himself_restoring(dump, target):
    """row_security = off is anybody's to set: as a sign of pg_restore it counts for those who are exempt from policies anyway."""
    target.run("SET row_security = off", "CREATE TABLE app.mine (tenant_id text)", role=OWNER)
    assert target.run("SELECT relation::text FROM tenancy.protected_tables") == [("app.mine",)]
    with refused("PROTECTION_WEAKENED"):
        target.run("SET row_security = off", "ALTER TABLE app.mine DISABLE ROW LEVEL SECURITY", role=OWNER)
