"""Signed tokens under attack: used twice, shown, forged, and as a way to another tenant than their own."""

import os
import threading
from contextlib import suppress

import psycopg
import pytest
from support import APP, DATA, GUEST, OWNER, Database, eventually, items, refused, server_tool, value
from test_parallel import parallel
from token_support import KEY, OTHER, ROWS, Issuer, authenticate, bad_tokens, gives_nothing, got, jwks, sign, tenants_in
from token_support import told, turned_down, use

SIGNING_KEY = '{"kty": "oct", "k": "' + "A" * 43 + '"}'
BOTH = "SELECT string_agg(item, ',') FROM orders"


@pytest.fixture(scope="module")
def db(db):
    db.run(f"ALTER DATABASE {db.name} SET tenancy.token_clock_skew = 0")
    return db


def secrets(token):
    """What must be seen nowhere: the claims and the signature."""
    return [token, *token.split(".")[1:]]


class TestSingleUse:
    def test_one_use(self, guest, connect, once):
        token = once.token(jti="1")
        with guest.transaction():
            assert authenticate(guest, token)["tenant_id"] == "acme"
            assert items(guest) == ROWS["acme"]
            assert items(guest) == ROWS["acme"]
        for connection in (guest, connect(GUEST)):
            with refused("TOKEN_INVALID") as caught, connection.transaction():
                authenticate(connection, token)
            assert "used before" in caught.detail["reason"]
        authenticate(guest, once.token("globex", jti="2"), is_local=False)
        assert items(guest) == ROWS["globex"]

    def test_an_id_is_of_its_issuer_and_tenant(self, guest, db, once):
        other = Issuer(db).trust(single_use=True)
        for tenant, of in (("acme", once), ("globex", other), ("globex", once)):
            with guest.transaction():
                authenticate(guest, of.token(tenant, jti="same"))
                assert items(guest) == ROWS[tenant]
        with refused("TOKEN_INVALID"):
            authenticate(guest, once.token("globex", jti="same"))
        assert turned_down(guest, once.token())

    def test_plain_set_is_refused_at_use(self, guest, once):
        token = once.token(jti="set")
        for is_local in (True, False):
            with refused("TOKEN_INVALID"), guest.transaction():
                use(guest, token, is_local)
                items(guest)
        with guest.transaction():
            authenticate(guest, token)
            use(guest, token)
            with refused("TOKEN_INVALID"), guest.transaction():
                items(guest)

    def test_a_refused_token_does_not_let_the_next_one_through(self, guest, once, issuer):
        for refused_one in (issuer.token(seconds=-5), once.token(jti="late", seconds=-5)):
            token = once.token("globex", jti="replayed")
            with suppress(psycopg.Error), guest.transaction():
                authenticate(guest, token)
            with guest.transaction():
                with refused("TOKEN_EXPIRED"), guest.transaction():
                    authenticate(guest, refused_one)
                with refused("TOKEN_INVALID"), guest.transaction():
                    use(guest, token)
                    items(guest)

    def test_rollback_gives_it_back(self, guest, connect, once):
        token = once.token(jti="back")
        with guest.transaction(force_rollback=True):
            authenticate(guest, token)
            assert items(guest) == ROWS["acme"]
        with refused("TENANT_CONTEXT_MISSING"):
            items(guest)
        with guest.transaction():
            with guest.transaction(force_rollback=True):
                authenticate(guest, token, is_local=False)
            with refused("TENANT_CONTEXT_MISSING"), guest.transaction():
                items(guest)
            authenticate(guest, token)
        with refused("TOKEN_INVALID"):
            authenticate(connect(GUEST), token)

    def test_a_prepared_transaction_does_not_give_it_back(self, guest, connect, once):
        token = once.token(jti="prepared")
        reached = 0
        guest.execute("BEGIN")
        authenticate(guest, token, is_local=False)
        with suppress(psycopg.Error):
            guest.execute("PREPARE TRANSACTION 'it_token'")
            guest.execute("ROLLBACK PREPARED 'it_token'")
        guest.execute("ROLLBACK")
        other = connect(GUEST)
        for session, attempt in ((other, lambda: authenticate(other, token, is_local=False)), (guest, lambda: None)):
            with suppress(psycopg.Error):
                attempt()
                reached += items(session) == ROWS["acme"]
        assert reached <= 1, "two sessions at once by a token that is good for one use"

    @pytest.mark.parametrize("commits", [True, False])
    def test_two_wait_for_each_other(self, guest, connect, dba, once, commits):
        token, other, outcome = once.token(jti="wait"), connect(GUEST), []

        def second():
            try:
                outcome.append(authenticate(other, token, is_local=False))
            except psycopg.Error as error:
                outcome.append(error.diag.message_detail)

        guest.execute("BEGIN")
        authenticate(guest, token)
        thread = threading.Thread(target=second)
        thread.start()
        waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: value(dba, waits, [other.info.backend_pid]))
        guest.execute("COMMIT" if commits else "ROLLBACK")
        thread.join(30)
        if commits:
            assert "used before" in outcome[0]
            with refused("TENANT_CONTEXT_MISSING"):
                items(other)
        else:
            assert outcome[0]["tenant_id"] == "acme"
            assert items(other) == ROWS["acme"]

    @pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
    def test_race(self, connect, once, level):
        sessions = [connect(GUEST) for _ in range(4)]
        for turn in range(10):
            token, barrier, winners = once.token(jti=f"{level} {turn}"), threading.Barrier(len(sessions)), []

            def run(session, token=token, barrier=barrier, winners=winners):
                session.execute(f"BEGIN ISOLATION LEVEL {level}")
                session.execute("SELECT count(*) FROM pg_class")
                barrier.wait(30)
                with suppress(psycopg.Error):
                    authenticate(session, token)
                    winners.append(items(session))
                session.execute("COMMIT")

            threads = [threading.Thread(target=run, args=[session]) for session in sessions]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert winners == [ROWS["acme"]]


class TestNothingLeaks:
    def test_to_the_session(self, guest, dba, issuer):
        token = issuer.token(sub="ada")
        authenticate(guest, token, is_local=False)
        seen = value(dba, "SELECT query FROM pg_stat_activity WHERE pid = %s", [guest.info.backend_pid])
        assert "authenticate" in seen
        made = "RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT current_setting(''tenancy.token'')'"
        guest.execute(f"CREATE FUNCTION pg_temp.shown() {made}")
        guest.execute("CREATE DOMAIN pg_temp.shown AS text CHECK (VALUE = current_setting('tenancy.token'))")
        for query in (
            "SHOW ALL", "SHOW tenancy.token", "SELECT current_setting('tenancy.token')", "TABLE pg_settings",
            "SELECT pg_show_all_settings()", "TABLE pg_stat_activity", "SELECT pg_temp.shown()", "TABLE pg_prepared_statements",
            "EXPLAIN (ANALYZE, VERBOSE, SETTINGS) TABLE orders", "EXPLAIN (VERBOSE) SELECT pg_temp.shown()",
            "COPY (SELECT current_setting('tenancy.token')) TO STDOUT", "SELECT set_config('x.y', current_setting('tenancy.token'), true)",
            "SELECT tenancy.context()", "SELECT 1/0, current_setting('tenancy.token')", "TABLE pg_db_role_setting",
            "SELECT tenancy.authenticate(jsonb_build_object('token', current_setting('tenancy.token')))",
        ):  # fmt: skip
            seen += got(guest, query)
        seen += got(guest, "SELECT %s::pg_temp.shown", [token])
        seen += str(guest.execute("SELECT set_config('tenancy.token', %s, false)", [token]).fetchall())
        assert "********" in seen
        assert not [secret for secret in secrets(token) if secret in seen]
        guest.execute("CREATE FUNCTION pg_temp.kept() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
        for kept in ("ALTER FUNCTION pg_temp.kept() SET tenancy.token FROM CURRENT", f"ALTER ROLE {GUEST} SET tenancy.token FROM CURRENT"):
            with refused("PARAMETER_INVALID"):
                guest.execute(kept)
        assert items(guest) == ROWS["acme"]

    def test_to_errors_and_the_log(self, db, connect, issuer):
        path = server_tool("log", os.environ["TENANCY_SERVER"])

        def log_of(*settings):
            """What is logged, and what the client is told, of tokens that are refused."""
            begin, seen = os.path.getsize(path), ""
            for setting in ("log_error_verbosity = verbose", *settings):
                db.run(f"ALTER DATABASE {db.name} SET {setting}")
            guest = connect(GUEST)
            for token in bad_tokens(issuer).values():
                for statement in (
                    "SELECT set_config('tenancy.token', %s, true)",
                    "SELECT tenancy.authenticate(jsonb_build_object('token', %s::text))",
                ):
                    for cursor in (guest.cursor(), psycopg.ClientCursor(guest)):
                        with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification) as info:
                            cursor.execute(statement, [token])
                        seen += told(info.value)
                with suppress(psycopg.Error), db.connect(GUEST, settings={"tenancy.token": token}) as other:
                    seen += got(other, "TABLE orders")
            with open(path, "rb") as log:
                log.seek(begin)
                return log.read().decode(), seen

        try:
            log, seen = log_of("log_min_error_statement = panic", "log_min_messages = debug1")
            found = [secret for token in bad_tokens(issuer).values() for secret in secrets(token)[1:] if secret in log + seen]
            assert "token is not accepted" in log and not found
            log, _ = log_of("log_min_error_statement = error")  # the control: what is planted is found
            assert "wombat-wombat" in log
        finally:
            db.run(f"ALTER DATABASE {db.name} RESET ALL", f"ALTER DATABASE {db.name} SET tenancy.token_clock_skew = 0")


class TestStartUp:
    def test_a_good_one(self, connect, issuer):
        guest = connect(GUEST, settings={"tenancy.token": issuer.token("acme", sub="ada")})
        assert items(guest) == ROWS["acme"]
        assert value(guest, "SELECT tenancy.context() ->> 'user_id'") == "ada"
        assert items(parallel(guest)) == ROWS["acme"]
        use(guest, issuer.token("globex"), is_local=False)
        assert items(guest) == ROWS["globex"]
        guest.execute("DISCARD ALL")
        assert items(guest) == ROWS["acme"]
        for _ in range(2):
            with guest.transaction():
                authenticate(guest, issuer.token("globex"))
                assert items(guest) == ROWS["globex"]
            assert items(guest) == ROWS["acme"]
        issuer.distrust()
        with refused("TOKEN_INVALID"):
            items(guest)

    def test_a_bad_one(self, db, issuer, once):
        for bad in (*bad_tokens(issuer).values(), once.token(jti="start-up")):
            gives_nothing(db, bad)

    def test_a_bound_role(self, connect, make_role, issuer):
        role = make_role("it_token_bound", tenant_id="acme")
        assert items(connect(role, settings={"tenancy.token": issuer.token("acme")})) == ROWS["acme"]
        with pytest.raises(psycopg.Error) as info:
            items(connect(role, settings={"tenancy.token": issuer.token("globex")}))
        assert info.value.sqlstate in ("42501", None)

    def test_it_is_kept_nowhere(self, db, guest, dba, issuer):
        token = issuer.token()
        for connection, command in (
            (guest, "ALTER ROLE CURRENT_USER"), (dba, f"ALTER ROLE {GUEST}"), (dba, f"ALTER DATABASE {db.name}"),
            (dba, "ALTER ROLE ALL"), (guest, "CREATE FUNCTION pg_temp.f() RETURNS integer LANGUAGE sql AS 'SELECT 1'"),
        ):  # fmt: skip
            with refused("PARAMETER_INVALID"):
                connection.execute(f"{command} SET tenancy.token = '{token}'")


MADE = "CREATE FUNCTION pg_temp.{} LANGUAGE {} AS $f$ {} $f$"
# What the holder of a token tries; {globex} is no token of his.
ATTACKS = [
    ["SET tenancy.tenant_id = 'globex'"],
    ["SELECT set_config('tenancy.tenant_id', 'globex', {})".format(is_local) for is_local in ("true", "false")],
    ["SELECT tenancy.set_tenant('globex')", "SELECT tenancy.clear_tenant()"],
    [f"SET ROLE {DATA}"], [f"SET ROLE {APP}", f"SET SESSION AUTHORIZATION {APP}", "SET ROLE postgres"],
    ["SET SESSION AUTHORIZATION DEFAULT"], ["RESET ALL"], ["RESET tenancy.token"], ["DISCARD ALL"], ["RESET ROLE"],
    ["SET tenancy.token = ''", "SET tenancy.missing_tenant = 'empty'"],
    ["SET tenancy.mode = 'single'", "SET tenancy.default_tenant = 'globex'", "SET tenancy.token = ''"],
    ["SET row_security = off"], ["ALTER TABLE orders DISABLE ROW LEVEL SECURITY"], ["DROP POLICY tenancy_isolation ON orders"],
    ["SET tenancy.token_clock_skew = 600", "SET tenancy.session_context = 'allow'", "SET tenancy.bypass_guard = 'off'"],
    ["CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql SET tenancy.tenant_id = 'globex' AS $f$" + BOTH + "$f$", "SELECT pg_temp.f()"],
    ["ALTER ROLE CURRENT_USER SET tenancy.tenant_id = 'globex'", "ALTER ROLE CURRENT_USER SET tenancy.mode = 'single'"],
    ["TABLE _tenancy.issuers", "TABLE _tenancy.signing_keys", "TABLE _tenancy.used_tokens", "TABLE tenancy.issuers"],
    ["SELECT tenancy.sign_token('x', 'globex')", "SELECT tenancy.set_signing_key('x', NULL)", "SELECT tenancy.remove_issuer('x')"],
    [f"SELECT tenancy.set_issuer('mine', '{jwks(KEY)}')", f"SELECT _tenancy.sign('{{}}', '{jwks(KEY)}')"],
    ["INSERT INTO _tenancy.issuers (issuer, jwks) VALUES ('mine', '{}')", "DELETE FROM _tenancy.used_tokens"],
    ["SELECT _tenancy.note_use('x', 'y', 1)", "SELECT _tenancy.begin_anew()", "SELECT _tenancy.use_token('x', true)"],
    [MADE.format("current_tenant() RETURNS text", "sql", "SELECT 'globex'::text"), "SET search_path = pg_temp, tenancy, public"],
    [MADE.format("note_use(text, text, bigint) RETURNS boolean", "sql", "SELECT true"), "SET search_path = pg_temp, _tenancy, public"],
    ["CREATE TEMP TABLE issuers (issuer text, tenant_id text, jwks jsonb)", "CREATE TEMP TABLE tenants (id text)",
     "SET search_path = pg_temp, public"],
    ["DO $$ BEGIN PERFORM set_config('tenancy.tenant_id', 'globex', false); END $$"],
    ["BEGIN", "SAVEPOINT s", "SET LOCAL tenancy.token = ''", "SET LOCAL tenancy.tenant_id = 'globex'", "ROLLBACK TO s"],
    ["PREPARE p AS TABLE orders", "SET plan_cache_mode = force_generic_plan", "EXECUTE p", "RESET tenancy.token", "EXECUTE p"],
    ["BEGIN", "DECLARE c CURSOR WITH HOLD FOR TABLE orders", "COMMIT", "RESET tenancy.token", "FETCH ALL FROM c"],
    ["UPDATE orders SET tenant_id = 'globex'"], ["INSERT INTO orders (tenant_id, item) VALUES ('globex', 'x') RETURNING *"],
    [MADE.format("leak(text) RETURNS boolean", "plpgsql COST 0.0000001", "BEGIN RAISE EXCEPTION '%', $1; END"),
     "SELECT * FROM orders WHERE tenant_id <> 'acme' AND pg_temp.leak(item)"],
]  # fmt: skip


@pytest.mark.parametrize("is_session", [True, False], ids=["session", "start-up"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack[0][:50])
def test_no_way_to_another_tenant(connect, issuer, attack, is_session):
    token = issuer.token("acme")
    guest = connect(GUEST, **({} if is_session else {"settings": {"tenancy.token": token}}))
    notices = []
    guest.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    if is_session:
        use(guest, token, is_local=False)
    assert tenants_in(got(guest, "TABLE orders")) == {"acme"}
    seen = "".join(got(guest, statement) for statement in attack)
    for statement in ("TABLE orders", BOTH, "COPY orders TO STDOUT", "UPDATE orders SET amount = 2 RETURNING *", "ROLLBACK", BOTH):
        seen += got(guest, statement)
    assert tenants_in(seen + str(notices)) <= {"acme"}


READ = "(SELECT string_agg(item, ',') FROM orders)"
CHANGE = "set_config('tenancy.token', %(globex)s, true)"
SIGN_IN = "tenancy.authenticate(jsonb_build_object('token', %(globex)s::text))::text"
TWICE = """DECLARE seen text; BEGIN
    SELECT string_agg(item, ',') INTO seen FROM orders; {} RETURN concat(seen, (SELECT string_agg(item, ',') FROM orders)); END"""
CHANGES = [
    "PERFORM set_config('tenancy.token', other, true);", "PERFORM set_config('tenancy.token', other, false);",
    "PERFORM tenancy.authenticate(jsonb_build_object('token', other));", "EXECUTE format('SET LOCAL tenancy.token = %L', other);",
    "BEGIN PERFORM set_config('tenancy.token', '', true); PERFORM set_config('tenancy.token', other, true); END;",
    "BEGIN PERFORM set_config('tenancy.token', other, true); seen := concat(seen, (SELECT string_agg(item, ',') FROM orders));"
    " RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END;",
]  # fmt: skip
MIXED = [
    f"SELECT item, {{}} FROM orders", f"SELECT {READ}, {{}}, {READ}", f"SELECT {{}}, {READ}, (SELECT max(item) FROM orders)",
    "WITH a AS MATERIALIZED (TABLE orders), b AS MATERIALIZED (SELECT {}) SELECT item FROM a, b UNION ALL SELECT item FROM orders, b",
    "SELECT item FROM orders WHERE {} IS NOT NULL UNION ALL SELECT item FROM orders",
    "UPDATE orders SET amount = length({}) RETURNING item, (SELECT min(item) FROM orders)",
]  # fmt: skip


@pytest.mark.parametrize("is_session", [True, False], ids=["session", "start-up"])
def test_a_statement_is_of_one_tenant(connect, issuer, is_session):
    """The holder of two tokens changes from one to the other in the middle of a statement."""
    acme, globex = issuer.token("acme"), issuer.token("globex")
    guest = connect(GUEST, **({} if is_session else {"settings": {"tenancy.token": acme}}))
    if is_session:
        use(guest, acme, is_local=False)
    statements = [mixed.format(change) for mixed in MIXED for change in (CHANGE, SIGN_IN)]
    for number, change in enumerate(CHANGES):
        guest.execute(MADE.format(f"twice{number}(other text) RETURNS text", "plpgsql", TWICE.format(change)))
        statements.append(f"SELECT pg_temp.twice{number}(%(globex)s)")
        statements.append(f"SELECT item, pg_temp.twice{number}(%(globex)s) FROM orders")
    for statement in statements:
        guest.execute("BEGIN")
        seen = got(guest, statement, {"globex": globex})
        assert len(tenants_in(seen)) <= 1, f"{statement}: {seen}"
        guest.execute("ROLLBACK")
        assert items(guest) == ROWS["acme"], statement


def test_what_was_begun_by_one_token_and_goes_on_by_another(guest, issuer):
    acme, globex = issuer.token("acme"), issuer.token("globex")
    for mode in ("auto", "force_generic_plan", "force_custom_plan"):
        guest.prepare_threshold = None
        guest.execute("DISCARD ALL")
        guest.execute(f"SET plan_cache_mode = {mode}")
        use(guest, acme, is_local=False)
        guest.execute("PREPARE p AS SELECT item FROM orders")
        for token, tenant in (acme, "acme"), (globex, "globex"), (acme, "acme"):
            use(guest, token, is_local=False)
            for _ in range(7):
                assert tenants_in(got(guest, "EXECUTE p")) == {tenant}
    guest.execute("BEGIN")
    for cursor in ("c NO SCROLL", "d SCROLL", "e"):
        guest.execute(f"DECLARE {cursor} CURSOR FOR SELECT item FROM orders")
        assert tenants_in(got(guest, f"FETCH 1 FROM {cursor[0]}")) == {"acme"}
    use(guest, globex)
    for cursor in ("c", "d", "e"):
        guest.execute("SAVEPOINT s")
        assert tenants_in(got(guest, f"FETCH ALL FROM {cursor}")) <= {"acme"}
        guest.execute("ROLLBACK TO s")
    assert items(guest) == ROWS["globex"]


def test_a_sealed_role_stays_with_its_first_token(connect, make_role, issuer):
    sealed = connect(make_role("it_token_sealed", seal="transaction"))
    for first, other in (("acme", "globex"), ("globex", "acme")):
        with sealed.transaction():
            use(sealed, issuer.token(first))
            assert items(sealed) == ROWS[first]
            for give in (use, authenticate):
                with refused("TENANT_ACCESS_DENIED"), sealed.transaction():
                    give(sealed, issuer.token(other))
            use(sealed, issuer.token(first, jti="a newer one"))
            assert items(sealed) == ROWS[first]


@pytest.mark.parametrize("power", ["pg_read_all_data", "pg_write_all_data"])
def test_keys_are_the_owners_alone(db, connect, make_role, issuer, power):
    """Roles that read or write every table: with a key they would be every tenant."""
    role = make_role("it_powerful")
    db.run(f"GRANT {power} TO {role}", f"SELECT tenancy.set_signing_key('{issuer.name}', '{SIGNING_KEY}')")
    powerful = connect(role)
    if power == "pg_read_all_data":
        for table in ("issuers", "signing_keys", "used_tokens"):
            assert powerful.execute(f"TABLE _tenancy.{table}").fetchall() == []
    else:
        for added in (
            f"INSERT INTO _tenancy.issuers (issuer, jwks) VALUES ('mine', '{jwks(OTHER)}')",
            f"INSERT INTO _tenancy.signing_keys (issuer, key) VALUES ('mine', '{SIGNING_KEY}')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                powerful.execute(added)


def test_tables_of_our_name_without_the_extension(server):
    """The library is loaded in every database: what it reads must be the extension's own, or anybody could hand it pointers."""
    database = Database(server, "it_token_decoy", extension=False)
    try:
        database.run(
            "CREATE SCHEMA _tenancy",
            "CREATE TABLE _tenancy.tenants (id text COLLATE \"C\" CONSTRAINT tenants_pkey PRIMARY KEY, status bigint)",
            "INSERT INTO _tenancy.tenants VALUES ('acme', 1234567890123)",
            "CREATE TABLE _tenancy.issuers (issuer text COLLATE \"C\" CONSTRAINT issuers_pkey PRIMARY KEY, tenant_id bigint, jwks text)",
            "INSERT INTO _tenancy.issuers VALUES ('decoy', 1234567890123, 'x')",
            role=OWNER,
        )
        with database.connect(APP) as connection:
            with refused("EXTENSION_NOT_INSTALLED"):
                use(connection, sign({"iss": "decoy", "exp": 2**40}), False)
            connection.execute("SET tenancy.tenant_id = 'acme'")
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        database.drop()
