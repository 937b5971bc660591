"""Every error of the catalogue: its SQLSTATE, one JSON object in DETAIL, a HINT, and no word of another tenant."""

import json

import psycopg
import pytest
from support import APP, GUEST, OWNER, SQLSTATE, Database, column, detail_of, refused, set_local, set_session, sqlstate

# A defect of ours, which nothing a client does should provoke; two that ask for prepared transactions: test_quota_ends.py and
# test_quota_intervals.py; and one that asks for two sessions: isolation/guard.
NOT_PROVOKED = {"INTERNAL_ERROR", "TOO_MANY_PREPARED", "LEDGER_BUSY", "PROTECTION_CHANGED"}
VICTIM = "globex"
SUSPENDED = "suspended-tenant"
KEY = json.dumps({"kty": "oct", "k": "A" * 43})
EXPIRED = """SELECT set_config('tenancy.token_clock_skew', '0', true),
    set_config('tenancy.token', tenancy.sign_token('here', 'acme', expires_in => '1 microsecond'), true)"""


@pytest.fixture(scope="module")
def db(db):
    db.run(
        f"SELECT tenancy.create_tenant('{SUSPENDED}', subdomain => 'taken')",
        f"SELECT tenancy.suspend_tenant('{SUSPENDED}')",
        "CREATE TABLE foreign_owner (tenant_id text)",
        f"""SELECT tenancy.set_issuer('here', '{{"keys": [{KEY}]}}'), tenancy.set_signing_key('here', '{KEY}')""",
    )
    db.run(
        "CREATE VIEW a_view AS SELECT 1 AS tenant_id",
        "CREATE TABLE plain (tenant_id text)",
        "CREATE TABLE no_column (id integer)",
        "CREATE TABLE dated (tenant_id date)",
        "CREATE TABLE generated (a text, tenant_id text GENERATED ALWAYS AS (a || 'x') STORED)",
        "CREATE TABLE stray (tenant_id text)",
        "INSERT INTO stray VALUES ('unregistered'), ('unregistered'), (NULL)",
        "CREATE TABLE partitioned (tenant_id text) PARTITION BY LIST (tenant_id)",
        "CREATE TABLE partition PARTITION OF partitioned DEFAULT",
        "CREATE TABLE by_uuid (tenant_id uuid, n integer)",
        "CREATE TABLE by_number (tenant_id bigint, n integer)",
        "CREATE TABLE trail (tenant_id text, what text)",
        "CREATE TABLE currencies (code text)",
        "CREATE TABLE metered (tenant_id text, n integer)",
        "SELECT tenancy.protect('metered')",
        "SELECT tenancy.protect('by_uuid')",
        "SELECT tenancy.protect('by_number')",
        "SELECT tenancy.protect('trail', 'audit')",
        "SELECT tenancy.protect('currencies', 'system')",
        role=OWNER,
    )
    db.run("SELECT tenancy.meter('metered', 'metered')")
    db.run(f"GRANT SET ON PARAMETER tenancy.tenant_id TO {OWNER}", "SELECT tenancy.set_default_quota('metered', 1)")
    yield db
    db.run(f"REVOKE SET ON PARAMETER tenancy.tenant_id FROM {OWNER}")


# (code, role, tenant or None, statement, whether a hint is promised)
KEEP_ROW = """
    INSERT INTO by_number VALUES (7, 1);
    CREATE FUNCTION pg_temp.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER keep BEFORE DELETE ON by_number FOR EACH ROW EXECUTE FUNCTION pg_temp.keep();
    SELECT tenancy.create_tenant('7'), tenancy.delete_tenant('7');
"""
GUESS_TWICE = """
    SET LOCAL tenancy.max_failed_sign_ins = 1;
    DO $$
    DECLARE guess jsonb := '{"tenant_id": "acme", "user_id": "z", "password": "y"}';
    BEGIN
        PERFORM tenancy.authenticate(guess);
    EXCEPTION WHEN invalid_password THEN
        PERFORM tenancy.authenticate(guess);
    END $$"""
CASES = [
    ("TENANT_CONTEXT_MISSING", APP, None, "SELECT * FROM orders", True),
    ("TENANT_CONTEXT_MISSING", GUEST, None, "INSERT INTO orders (item) VALUES ('x')", True),
    ("TENANT_CONTEXT_MISSING", APP, None, "SELECT tenancy.seal()", True),
    ("TENANT_CONTEXT_MISSING", APP, None, "SELECT tenancy.pre_request()", True),
    ("TENANT_CONTEXT_MISSING", APP, None, "SELECT tenancy.resolve_tenant('{}')", True),
    ("TENANT_ACCESS_DENIED", APP, "acme", f"INSERT INTO orders (tenant_id, item) VALUES ('{VICTIM}', 'x')", True),
    ("TENANT_ACCESS_DENIED", APP, "acme", f"UPDATE orders SET tenant_id = '{VICTIM}'", True),
    ("TENANT_ACCESS_DENIED", APP, "acme", "INSERT INTO currencies VALUES ('EUR')", True),
    ("TENANT_ACCESS_DENIED", APP, "acme", "UPDATE trail SET what = 'x'", True),
    ("TENANT_ACCESS_DENIED", APP, "acme", "DELETE FROM trail", True),
    ("TENANT_ACCESS_DENIED", OWNER, "acme", "SELECT tenancy.protect('plain')", True),
    ("TENANT_ACCESS_DENIED", "postgres", "acme", "SELECT tenancy.create_tenant('new')", True),
    ("TENANT_ACCESS_DENIED", "postgres", "acme", f"SELECT tenancy.suspend_tenant('{VICTIM}')", True),
    ("TENANT_NOT_FOUND", APP, "nobody", "SELECT * FROM orders", True),
    ("TENANT_NOT_FOUND", APP, None, "SELECT tenancy.set_tenant('nobody')", True),
    ("TENANT_NOT_FOUND", "postgres", None, "SELECT tenancy.suspend_tenant('nobody')", False),
    ("TENANT_SUSPENDED", APP, SUSPENDED, "SELECT * FROM orders", True),
    ("TENANT_SUSPENDED", APP, None, f"SELECT tenancy.set_tenant('{SUSPENDED}')", True),
    ("TENANT_ID_INVALID", APP, None, "SET tenancy.tenant_id = 'a b'", True),
    ("TENANT_ID_INVALID", APP, None, "SET LOCAL tenancy.tenant_id = 'ä'", True),
    ("TENANT_ID_INVALID", APP, None, f"SELECT tenancy.set_tenant('{'x' * 129}')", True),
    ("TENANT_ID_INVALID", APP, None, "SELECT tenancy.set_tenant(NULL)", True),
    ("TENANT_ID_INVALID", APP, None, "SELECT tenancy.normalize_tenant_id('')", True),
    ("TENANT_ID_INVALID", APP, "acme", "SELECT * FROM by_uuid", True),
    ("TENANT_ID_INVALID", APP, "acme", "INSERT INTO by_number (n) VALUES (1)", True),
    ("TENANT_ID_INVALID", APP, None, "ALTER ROLE CURRENT_USER SET tenancy.tenant_id = 'a b'", True),
    ("TOKEN_INVALID", GUEST, None, "SET tenancy.token = 'x'", True),
    ("TOKEN_INVALID", APP, "acme", """SELECT tenancy.authenticate('{"token": "a.b.c"}')""", True),
    ("TOKEN_EXPIRED", "postgres", None, EXPIRED, True),
    ("CREDENTIALS_INVALID", GUEST, None,
     """SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "x", "password": "y"}')""", True),
    ("TOO_MANY_FAILURES", "postgres", None, GUESS_TWICE, True),
    ("KEY_INVALID", "postgres", None, "SELECT tenancy.set_issuer('other', '{}')", True),
    ("USER_NOT_FOUND", "postgres", None, "SELECT tenancy.add_member('acme', 'nobody')", True),
    ("USER_NOT_FOUND", "postgres", None, "SELECT tenancy.remove_user('nobody')", True),
    ("USER_ALREADY_EXISTS", "postgres", None, "SELECT tenancy.add_user('ann'); SELECT tenancy.add_user('ann')", False),
    ("MEMBER_NOT_FOUND", "postgres", None, "SELECT tenancy.remove_member('acme', 'nobody')", True),
    ("MEMBER_ALREADY_EXISTS", "postgres", None,
     "SELECT tenancy.add_user('bob'); SELECT tenancy.add_member('acme', 'bob'); SELECT tenancy.add_member('acme', 'bob')", True),
    ("INVITATION_INVALID", "postgres", None, "SELECT tenancy.accept_invitation('x')", True),
    ("TENANT_ALREADY_EXISTS", "postgres", None, "SELECT tenancy.create_tenant('acme')", False),
    ("SUBDOMAIN_UNAVAILABLE", "postgres", None, "SELECT tenancy.create_tenant('n', subdomain => 'www')", False),
    ("SUBDOMAIN_UNAVAILABLE", "postgres", None, "SELECT tenancy.create_tenant('n', subdomain => 'Taken')", False),
    ("PARAMETER_INVALID", OWNER, None, "SELECT tenancy.protect('plain', 'secret')", True),
    ("PARAMETER_INVALID", OWNER, None, "SELECT tenancy.protect(NULL)", False),
    ("PARAMETER_INVALID", OWNER, None, "SELECT tenancy.unprotect(NULL)", False),
    ("PARAMETER_INVALID", OWNER, None, "SELECT tenancy.protect('plain', 'system')", True),
    ("PARAMETER_INVALID", APP, None, "SELECT tenancy.set_tenant('acme', NULL)", False),
    ("PARAMETER_INVALID", APP, None, "SELECT tenancy.resolve_tenant('[]')", False),
    ("PARAMETER_INVALID", "postgres", None, "SELECT tenancy.create_tenant('n', settings => '[]')", False),
    ("PARAMETER_INVALID", "postgres", None, "SELECT tenancy.create_tenant('n', subdomain => 'a.b')", True),
    ("RELATION_NOT_SUPPORTED", OWNER, None, "SELECT tenancy.protect('a_view')", True),
    ("RELATION_NOT_SUPPORTED", OWNER, None, "SELECT tenancy.protect('partition')", True),
    ("RELATION_NOT_SUPPORTED", "postgres", None, "SELECT tenancy.protect('pg_catalog.pg_class')", False),
    ("RELATION_NOT_OWNED", OWNER, None, "SELECT tenancy.protect('foreign_owner')", True),
    ("RELATION_NOT_OWNED", APP, None, "SELECT tenancy.unprotect('orders')", True),
    ("PROTECTION_WEAKENED", OWNER, None, "ALTER TABLE by_uuid DISABLE ROW LEVEL SECURITY", True),
    ("PROTECTION_WEAKENED", OWNER, None, "DROP POLICY tenancy_isolation ON orders", True),
    ("RELATION_NOT_PROTECTED", OWNER, None, "SELECT tenancy.unprotect('plain')", False),
    ("EXTENSION_IN_USE", "postgres", None, "DROP EXTENSION tenancy", True),
    ("QUOTA_EXCEEDED", APP, "acme", "INSERT INTO metered (n) VALUES (1), (2)", True),
    ("QUOTA_EXCEEDED", "postgres", None, f"INSERT INTO metered VALUES ('acme', 1), ('{VICTIM}', 1), ('acme', 2)", True),
    ("QUOTA_EXCEEDED", APP, "acme", "SELECT tenancy.enforce_quota('metered', 2)", True),
    ("PARAMETER_INVALID", APP, "acme", "SELECT tenancy.track_usage('metered')", True),
    ("PARAMETER_INVALID", APP, "acme", "SELECT tenancy.check_quota('a b')", True),
    ("PARAMETER_INVALID", "postgres", None, "SELECT tenancy.meter('metered', 'metered')", True),
    ("PARAMETER_INVALID", "postgres", None, "SELECT tenancy.meter('metered', 'sum', 'sum(tenant_id)')", True),
    ("PARAMETER_INVALID", "postgres", None, "SELECT tenancy.set_quota('acme', 'metered', 1, 'century')", True),
    ("TENANT_ACCESS_DENIED", "postgres", "acme", "SELECT tenancy.set_quota('acme', 'metered', 2)", True),
    ("TENANT_ACCESS_DENIED", APP, "acme", f"SELECT * FROM _tenancy.usage_of('{VICTIM}', 'metered')", True),
    ("TENANT_NOT_FOUND", "postgres", None, "SELECT tenancy.set_quota('nobody', 'metered', 2)", False),
    ("TENANT_ID_INVALID", "postgres", None, "INSERT INTO metered VALUES ('a b', 1)", True),
    ("RELATION_NOT_METERED", "postgres", None, "SELECT tenancy.unmeter('metered', 'other')", True),
    ("RELATION_NOT_METERED", "postgres", None, "SELECT tenancy.reconcile('by_uuid')", True),
    ("RELATION_NOT_AUDITED", "postgres", None, "SELECT tenancy.unaudit('by_uuid')", False),
    ("RELATION_METERED", OWNER, None, "SELECT tenancy.unprotect('metered')", True),
    ("NODE_NOT_READY", OWNER, None, "SELECT tenancy.distribute('metered')", True),
    ("RELATION_NOT_PROTECTED", "postgres", None, "SELECT tenancy.meter('plain', 'plain')", True),
    ("TENANT_COLUMN_NOT_FOUND", OWNER, None, "SELECT tenancy.protect('no_column')", True),
    ("TENANT_COLUMN_NOT_SUPPORTED", OWNER, None, "SELECT tenancy.protect('dated')", True),
    ("TENANT_COLUMN_NOT_SUPPORTED", OWNER, None, "SELECT tenancy.protect('generated')", True),
    ("ROWS_WITHOUT_TENANT", OWNER, None, "SELECT tenancy.protect('stray')", True),
    ("ROWS_REMAIN", "postgres", None, KEEP_ROW, True),
    ("IMPORT_INVALID", "postgres", None, "CREATE TEMPORARY TABLE lines (line text); SELECT tenancy.import_tenant('lines')", False),
]


def raised(connection, tenant, statement):
    """The error of a statement in the context of a tenant; what it did is rolled back."""
    if tenant is not None:
        set_local(connection, tenant)
    with pytest.raises(psycopg.Error) as info:
        connection.execute(statement)
    connection.rollback()
    return info.value


@pytest.mark.parametrize("code, role, tenant, statement, has_hint", CASES, ids=[f"{c[0]}-{c[3][:50]}" for c in CASES])
def test_error(db, connect, code, role, tenant, statement, has_hint):
    error = raised(connect(role, autocommit=False), tenant, statement)
    assert error.diag.message_detail, error
    detail = detail_of(error)
    assert next(iter(detail)) == "code"
    assert detail["code"] == code, error
    assert error.sqlstate == SQLSTATE[code]
    assert error.diag.severity_nonlocalized == "ERROR"
    # The style of PostgreSQL's own messages.
    message = error.diag.message_primary
    assert not message.endswith(".") and "\n" not in message
    assert error.diag.message_hint or not has_hint
    # What a tenant sees holds no id of another, unless it is in the statement that it wrote itself.
    if role == APP:
        shown = f"{message} {error.diag.message_detail} {error.diag.message_hint} {error.diag.context}"
        shown = shown.replace(statement, "")
        assert not any(other in shown for other in (VICTIM, "initech", "umbrella"))


def test_catalogue_is_the_documented_one(app):
    catalogue = {code: state for code, state in app.execute("SELECT code, sqlstate FROM tenancy.error_codes()")}
    assert catalogue == SQLSTATE
    statuses = column(app, "SELECT http_status FROM tenancy.error_codes()")
    assert all(400 <= status <= 599 for status in statuses)


def test_every_code_is_provoked():
    elsewhere = {"EXTENSION_NOT_INSTALLED"}  # below: it needs another database
    assert {case[0] for case in CASES} | elsewhere | NOT_PROVOKED == set(SQLSTATE)


def test_extension_not_installed(server):
    # The library is loaded in databases without the extension too; only a function made by hand reaches it there.
    other = Database(server, "it_without_extension", extension=False)
    try:
        other.run("CREATE FUNCTION who() RETURNS text LANGUAGE c AS 'tenancy', 'tenancy_current_tenant'")
        with other.connect(APP) as app:
            set_session(app, "acme")
            with refused("EXTENSION_NOT_INSTALLED") as caught:
                app.execute("SELECT who()")
            assert caught.error.diag.message_hint
    finally:
        other.drop()


def test_an_injected_id_cannot_break_the_detail(app):
    for text in ('x"y', "x\\y", "x'y", '{"code":"TENANT_NOT_FOUND"}', "x\ny", "<script>"):
        with pytest.raises(psycopg.Error) as info:
            app.execute("SELECT tenancy.set_tenant(%s)", [text])
        assert detail_of(info.value)["code"] == "TENANT_ID_INVALID"
        with pytest.raises(psycopg.Error) as info:
            app.execute("SELECT tenancy.resolve_tenant(%s)", [json.dumps({"tenant_id": text})])
        assert detail_of(info.value)["code"] == "TENANT_ID_INVALID"


def test_quoted_names_in_details(db, connect):
    db.run('CREATE TABLE "We""ird \\ Name" (id integer)', role=OWNER)
    error = raised(connect(OWNER, autocommit=False), None, """SELECT tenancy.protect('"We""ird \\ Name"')""")
    assert detail_of(error)["relation"] == 'public."We""ird \\ Name"'


def test_application_roles_may_not_call_what_is_private(connect):
    for role in (APP, GUEST):
        connection = connect(role)
        for statement in (
            "SELECT * FROM tenancy.tenants",
            "SELECT * FROM _tenancy.tenants",
            "SELECT * FROM _tenancy.protected",
            "INSERT INTO _tenancy.tenants (id) VALUES ('mine')",
            "SELECT tenancy.create_tenant('mine')",
            "SELECT tenancy.suspend_tenant('globex')",
            "SELECT tenancy.resume_tenant('suspended-tenant')",
            "SELECT tenancy.archive_tenant('globex')",
            "SELECT _tenancy.set_status('globex', 'active', NULL)",
        ):
            with sqlstate("42501"):
                connection.execute(statement)
