"""Names, values and settings outside ASCII, in databases of each kind of encoding: nothing is lost, refused or misspelt."""

import psycopg
import pytest
from sign_in_support import PASSWORD, answer, credentials, new_user, sign_in
from support import APP, GUEST, OWNER, Database, column, refused, value
from token_support import authenticate

ENCODINGS = {"utf8": "UTF8", "latin1": "LATIN1", "win1252": "WIN1252", "euc_jp": "EUC_JP"}
# Letters that each encoding has: of Latin ones EUC_JP takes those of JIS X 0212, which PostgreSQL does not convert.
LETTERS = {"euc_jp": "表列"}
SHOP = """
    CREATE TABLE "m{x}bel" (id bigserial PRIMARY KEY, "mand{x}" text NOT NULL, "gr{x}" bigint, CONSTRAINT "k{x}" UNIQUE ("gr{x}"));
    CREATE TABLE "t{x}il" (LIKE "m{x}bel" INCLUDING DEFAULTS);
    SELECT tenancy.protect('"m{x}bel"', tenant_column => 'mand{x}');
    ALTER TABLE "t{x}il" INHERIT "m{x}bel";
    """


@pytest.fixture(scope="module", params=list(ENCODINGS))
def place(request, server):
    """A database, and letters that it has."""
    name = f"it_encoding_{request.param}"
    options = f"ENCODING '{ENCODINGS[request.param]}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    database = Database(server, name, options=options)
    letters = LETTERS.get(request.param, "äß")
    try:
        database.run(f"SELECT tenancy.create_tenant('acme', plan => 'gro{letters}'), tenancy.create_tenant('globex')")
        database.run(*SHOP.format(x=letters).split(";")[:-1], role=OWNER)
        yield database, letters
    finally:
        database.drop()


@pytest.fixture
def application(place):
    with place[0].connect(APP) as connection:
        connection.execute("SET tenancy.tenant_id = 'acme'")
        yield connection


def test_tables_and_columns(place, application):
    database, x = place
    application.execute(f'INSERT INTO "m{x}bel" ("gr{x}") VALUES (1)')
    with refused("TENANT_ACCESS_DENIED"):
        application.execute(f"""INSERT INTO "m{x}bel" ("mand{x}") VALUES ('globex')""")
    assert column(application, f'SELECT "mand{x}" FROM "m{x}bel"') == ["acme"]
    kept = "SELECT tenant_column::text FROM tenancy.protected_tables WHERE relation = %s::regclass AND drift = '{}'"
    assert column(database.connect("postgres"), kept, [f'"m{x}bel"']) == [f"mand{x}"]


def test_an_error_of_postgresql_is_whole(place, application):
    _, x = place
    application.execute(f'INSERT INTO "m{x}bel" ("gr{x}") VALUES (7)')
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        application.execute(f'INSERT INTO "m{x}bel" ("gr{x}") VALUES (7)')
    assert caught.value.diag.constraint_name == f"k{x}"
    assert f'"k{x}"' in caught.value.diag.message_primary


def test_the_guard_names_the_table(place):
    database, x = place
    with database.connect(OWNER) as owner, refused("PROTECTION_WEAKENED") as caught:
        owner.execute(f'ALTER TABLE "m{x}bel" DISABLE ROW LEVEL SECURITY')
    # JSON, which may write any letter by its number.
    assert caught.detail["relation"] == f'public."m{x}bel"'


def test_a_column_is_renamed(place):
    database, x = place
    old, new = f'"mand{x}"', f'"neu{x}"'
    rename = f'ALTER TABLE "m{x}bel" RENAME COLUMN {{}} TO {{}}'
    database.run(rename.format(old, new), role=OWNER)
    with database.connect(APP, settings={"tenancy.tenant_id": "acme"}) as connection:
        assert set(column(connection, f'SELECT {new} FROM "m{x}bel"')) <= {"acme"}
    database.run(rename.format(new, old), role=OWNER)


def test_who_it_was(place, application):
    database, x = place
    database.run(f"GRANT SET ON PARAMETER tenancy.user_id TO {APP}")
    application.execute(f"SET tenancy.user_id = 'J{x}rg'")
    assert value(application, "SELECT tenancy.context() ->> 'user_id'") == f"J{x}rg"
    application.execute("SELECT tenancy.track_usage('calls', 2, %s::jsonb)", [f'{{"path": "/{x}"}}'])
    record = "SELECT actor, metadata ->> 'path' FROM tenancy.usage_records WHERE resource = 'calls'"
    with database.connect("postgres") as dba:
        assert dba.execute(record).fetchone() == (f"J{x}rg", f"/{x}")


def test_plans_and_meters(place, application):
    database, x = place
    database.run(f"SELECT tenancy.set_plan_quota('gro{x}', 'minutes', 5)")
    with refused("QUOTA_EXCEEDED"):
        application.execute("SELECT tenancy.track_usage('minutes', 6)")
    database.run(f"""SELECT tenancy.meter('"m{x}bel"', 'size', 'sum(gr{x})')""")
    database.run("SELECT tenancy.set_quota('acme', 'size', 1000000)")
    used = "SELECT used FROM tenancy.quota_status WHERE resource = 'size'"
    before = value(application, used)
    application.execute(f'INSERT INTO "m{x}bel" ("gr{x}") VALUES (1000)')
    assert value(application, used) == before + 1000
    database.run(f"""SELECT tenancy.unmeter('"m{x}bel"', 'size')""")


def test_signing_in(place):
    """User, email and password; and a token, which is UTF-8 everywhere."""
    database, x = place
    user = new_user(database, user=f"J{x}rg", email=f"{x}@Example.com", password=f"geheim {x}")
    with database.connect(GUEST, client_encoding="utf8") as guest:  # which is how psycopg reads JSON
        for who in ({"user": user}, {"email": f"{x}@example.COM"}):
            with guest.transaction():
                told = sign_in(guest, password=f"geheim {x}", **who)
                assert told["user_id"] == value(guest, "SELECT tenancy.current_user_id()") == user
            with guest.transaction():
                assert authenticate(guest, told["token"])["user_id"] == user
        for who in ({"user": user}, {"user": f"J{x}"}, {"email": f"{x}{x}@example.com"}):
            for password in (x, "geheim ", f"geheim {x} ", "geheim ??", PASSWORD):
                assert answer(guest, password=password, **who) in ("CREDENTIALS_INVALID", "TOO_MANY_FAILURES")
        # Letters that the encoding has not are PostgreSQL's to refuse.
        escaped = credentials("nobody").replace("nobody", "\\u0142\\u0436")
        with pytest.raises(psycopg.Error) as info:
            guest.execute("SELECT tenancy.authenticate(%s::text::jsonb)", [escaped])
        assert info.value.sqlstate in ("28P01", "22P05")


@pytest.mark.parametrize(
    "call",
    [
        "SELECT tenancy.set_tenant(%s)",
        "SELECT tenancy.normalize_tenant_id(%s)",
        "SELECT tenancy.check_quota(%s)",
        "SELECT tenancy.enforce_quota(%s)",
        "SELECT tenancy.track_usage(%s)",
        "SELECT _tenancy.usage_of('acme', %s)",
        "SELECT _tenancy.usage_of(%s, 'calls')",
    ],
)
def test_what_is_no_name_is_told_so(place, application, call):
    with refused("TENANT_ID_INVALID" if any(name in call for name in ("tenant_id(", "set_tenant(", "of(%s")) else "PARAMETER_INVALID"):
        application.execute(call, [place[1]])


def test_bytes_of_no_encoding(server):
    """SQL_ASCII keeps whatever it is given; what cannot be shown is shown as such."""
    database = Database(server, "it_encoding_ascii", options="ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        database.run("SELECT tenancy.create_tenant('acme')", f"GRANT SET ON PARAMETER tenancy.user_id TO {APP}")
        with database.connect(APP, client_encoding="latin1") as connection:
            connection.execute("SET tenancy.tenant_id = 'acme'; SET tenancy.user_id = 'J\u00e4rg'")
            user = "SELECT convert_to(tenancy.context() ->> 'user_id', 'UTF8') = '\\x4aefbfbd7267'"
            assert value(connection, user) is True
            with refused("TENANT_ID_INVALID"):
                connection.execute("SELECT tenancy.normalize_tenant_id('\u00e4')")
            connection.execute("SELECT tenancy.track_usage('calls')")
        with database.connect("postgres") as dba:
            actor = "SELECT convert_to(actor, 'SQL_ASCII') FROM tenancy.usage_records"
            assert value(dba, actor) == b"J\xe4rg"
        # What is no text is no password: two of them would be alike.
        new_user(database, user="ann")
        with database.connect("postgres", client_encoding="latin1") as dba, refused("PARAMETER_INVALID"):
            dba.execute("SELECT tenancy.set_password('ann', 'geheim \u00e4')")
        with database.connect(GUEST, client_encoding="latin1") as guest:
            assert answer(guest, "ann", "geheim \u00e4") == "CREDENTIALS_INVALID"
            assert answer(guest, "J\u00e4rg") == "CREDENTIALS_INVALID"
            assert answer(guest, "ann") == "accepted"
    finally:
        database.drop()
