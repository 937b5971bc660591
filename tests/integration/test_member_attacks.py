"""Attacks on membership: another user's or tenant's rights, another tenant's members, and what is told of them."""

import json

import psycopg
import pytest
from support import APP, GUEST, column, refused, sqlstate, value
from test_member import act
from token_support import told, use

PROVISIONING = [
    "add_user('x')", "remove_user('gus')", "add_member('acme', 'gus')", "invite_member('acme', 'gus')", "accept_invitation('x')",
    "set_member_role('globex', 'gus', 'x')", "suspend_member('globex', 'gus')", "resume_member('globex', 'gus')", "remove_member('globex', 'gus')",
]  # fmt: skip


@pytest.fixture(scope="module")
def db(db):
    """ann is a member of acme, gus of globex and of many others, where he is the only one; large has many."""
    db.run(
        f"GRANT SET ON PARAMETER tenancy.user_id TO {APP}",
        "SELECT tenancy.add_user('ann', 'ann@acme.example'), tenancy.add_user('gus', 'gus@globex.example', 'Gustav G.')",
        "SELECT tenancy.add_member('acme', 'ann', 'admin'), tenancy.add_member('globex', 'gus', 'head-of-globex')",
        "SELECT tenancy.create_tenant('large'), tenancy.create_tenant('small')",
        "INSERT INTO _tenancy.tenants (id) SELECT 'other-' || n FROM generate_series(1, 300) n",
        "INSERT INTO _tenancy.users (id) SELECT 'user-' || n FROM generate_series(1, 3000) n",
        "INSERT INTO _tenancy.members (tenant_id, user_id, role) SELECT 'other-' || n, 'gus', 'viewer' FROM generate_series(1, 300) n",
        "INSERT INTO _tenancy.members (tenant_id, user_id, role) SELECT 'large', 'user-' || n, 'viewer' FROM generate_series(1, 3000) n",
        "INSERT INTO _tenancy.members (tenant_id, user_id, role) SELECT 'acme', 'user-' || n, 'viewer' FROM generate_series(1, 100) n",
        "ANALYZE _tenancy.members, _tenancy.users",
    )
    yield db
    db.run(f"REVOKE SET ON PARAMETER tenancy.user_id FROM {APP}")


@pytest.fixture
def provisioner(db, make_role, server, connect):
    """A role that may call what provisions users, and make objects of its own."""
    role = make_role("it_provisioner", may_set=True)
    functions = "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'tenancy'::regnamespace AND p.prosecdef"
    for (function,) in db.run(functions + " AND p.proname ~ 'user|member|invitation'"):
        db.run(f"GRANT EXECUTE ON FUNCTION {function} TO {role}")
    db.run(f"CREATE SCHEMA {role} AUTHORIZATION {role}")
    yield connect(role)
    db.run(f"DROP OWNED BY {role} CASCADE")


class TestEscalation:
    def test_objects_in_front_of_ours(self, provisioner):
        """Functions, operators, types and tables of the caller's are not what runs with the rights of the extension's owner."""
        provisioner.execute("""
            CREATE FUNCTION it_provisioner.evil(text, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'evil'; END$$;
            CREATE OPERATOR it_provisioner.= (LEFTARG = text, RIGHTARG = text, FUNCTION = it_provisioner.evil);
            CREATE FUNCTION it_provisioner.evil(interval, interval) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'evil'; END$$;
            CREATE OPERATOR it_provisioner.<= (LEFTARG = interval, RIGHTARG = interval, FUNCTION = it_provisioner.evil);
            CREATE TEMP TABLE users (id text, email text, name text);
            CREATE TEMP TABLE members (tenant_id text, user_id text, role text, status text);
            CREATE TEMP TABLE tenants (id text);
            CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (VALUE = 'evil');
            CREATE DOMAIN pg_temp.jsonb AS pg_catalog.text;
        """)
        for name, arguments in (
            ("sha256", "bytea"), ("convert_to", "text, name"), ("gen_random_uuid", ""), ("now", ""), ("clock_timestamp", ""),
            ("translate", "text, text, text"), ("octet_length", "text"), ("format", "text, VARIADIC text[]"), ("getdatabaseencoding", ""),
            ("current_setting", "text, boolean"), ("jsonb_build_object", "VARIADIC text[]"),
        ):  # fmt: skip
            for schema in ("it_provisioner", "pg_temp"):
                body = "RETURNS pg_catalog.text LANGUAGE plpgsql AS $$BEGIN RAISE 'evil'; END$$"
                provisioner.execute(f"CREATE FUNCTION {schema}.{name}({arguments}) {body}")
        provisioner.execute("SET search_path = pg_temp, it_provisioner, pg_catalog")
        provisioner.execute("SELECT tenancy.add_user('eve'), tenancy.add_member('acme', 'eve')")
        for call in ("set_member_role('acme', 'eve', 'x')", "suspend_member('acme', 'eve')", "resume_member('acme', 'eve')",
                     "remove_member('acme', 'eve')"):  # fmt: skip
            provisioner.execute(f"SELECT tenancy.{call}")
        code = provisioner.execute("SELECT tenancy.invite_member('acme', 'eve')").fetchone()[0]
        assert provisioner.execute("SELECT tenancy.accept_invitation(%s)", [code]).fetchone()[0]["user_id"] == "eve"
        provisioner.execute("SELECT tenancy.remove_user('eve')")

    def test_settings_of_the_caller(self, provisioner):
        for setting in ("row_security = off", "default_transaction_read_only = off", "plan_cache_mode = force_custom_plan",
                        "DateStyle = 'German, DMY'", "IntervalStyle = iso_8601", "bytea_output = escape", "standard_conforming_strings = on",
                        "backslash_quote = on", "extra_float_digits = -15", "TimeZone = 'Asia/Kathmandu'"):  # fmt: skip
            provisioner.execute(f"SET {setting}")
        provisioner.execute("SELECT tenancy.add_user('eve')")
        code = provisioner.execute("SELECT tenancy.invite_member('acme', 'eve', expires_in => '1 hour')").fetchone()[0]
        provisioner.execute("SELECT tenancy.accept_invitation(%s)", [code])
        provisioner.execute("SELECT tenancy.remove_user('eve')")

    def test_nothing_is_changed_from_within_a_tenant(self, provisioner, dba):
        before = column(dba, "SELECT m::text FROM _tenancy.members m UNION ALL SELECT u::text FROM _tenancy.users u ORDER BY 1")
        for parameter in ("tenancy.tenant_id = 'acme'", "tenancy.tenant_id = 'nobody'"):
            provisioner.execute(f"SET {parameter}")
            for call in PROVISIONING:
                with refused("TENANT_ACCESS_DENIED") as caught:
                    provisioner.execute(f"SELECT tenancy.{call}")
                assert "gus" not in told(caught.error) and "globex" not in told(caught.error)
        assert column(dba, "SELECT m::text FROM _tenancy.members m UNION ALL SELECT u::text FROM _tenancy.users u ORDER BY 1") == before

    def test_a_token_is_a_context_too(self, provisioner, issuer):
        use(provisioner, issuer.token(sub="ann"), is_local=False)
        for call in PROVISIONING:
            with refused("TENANT_ACCESS_DENIED"):
                provisioner.execute(f"SELECT tenancy.{call}")

    def test_an_expired_token_is_no_way_out(self, provisioner, issuer):
        provisioner.execute("BEGIN")
        use(provisioner, issuer.token(sub="ann"))
        issuer.distrust()
        with refused("TENANT_ACCESS_DENIED"):
            provisioner.execute("SELECT tenancy.add_user('x')")

    def test_is_member_as_definer(self, db, dba, connect):
        """A function of a superuser's answers for its owner, as with every table; not for the tenants of its caller's context."""
        dba.execute("""CREATE OR REPLACE FUNCTION asks(who text, tenant text) RETURNS boolean LANGUAGE sql SECURITY DEFINER
                       AS 'SELECT tenancy.is_member(who, tenant)'""")
        guest = connect(GUEST)
        assert value(guest, "SELECT asks('gus', 'globex')") is True
        app = connect(APP)
        act(app, "ann")
        with refused("TENANT_ACCESS_DENIED"):
            value(app, "SELECT asks('gus', 'globex')")

    def test_membership_by_pg_write_all_data(self, db, server, connect, make_role):
        role = make_role("it_writes_all", may_set=True)
        server.run(f"GRANT pg_write_all_data TO {role}", f"GRANT SET ON PARAMETER tenancy.user_id TO {role}")
        with connect(role) as writer:
            try:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    writer.execute("INSERT INTO _tenancy.members (tenant_id, user_id, role) VALUES ('acme', 'mallory', 'admin')")
            finally:
                db.run("DELETE FROM _tenancy.members WHERE user_id = 'mallory'")


class TestLeaks:
    QUERIES = [
        "SELECT * FROM tenancy.members",
        "SELECT * FROM tenancy.members WHERE peep(user_id)",
        "SELECT * FROM tenancy.members WHERE peep(tenant_id) AND peep(role)",
        "SELECT * FROM tenancy.members WHERE user_id ~ '^g' AND peep(status)",
        "SELECT count(*) FROM tenancy.members WHERE user_id LIKE 'g%' AND user_id::integer > 0",
        "SELECT m.* FROM tenancy.members m JOIN (VALUES ('gus'), ('ann')) v(id) ON v.id = m.user_id AND peep(m.user_id)",
        "SELECT m.* FROM (VALUES ('gus'), ('ann')) v(id) LEFT JOIN tenancy.members m ON v.id = m.user_id AND peep(m.tenant_id)",
        "SELECT * FROM tenancy.members m WHERE EXISTS (SELECT FROM tenancy.members n WHERE n.user_id = m.user_id AND n.tenant_id <> m.tenant_id)",
        "SELECT max(user_id), count(DISTINCT tenant_id) FROM tenancy.members HAVING peep(max(role))",
        "SELECT user_id, count(*) OVER (PARTITION BY peep(user_id)) FROM tenancy.members",
        "SELECT * FROM tenancy.members ORDER BY peep(user_id), tenant_id LIMIT 1",
        "SELECT * FROM tenancy.members WHERE ctid_of(members) IS NOT NULL",
        "SELECT tenancy.is_member(user_id, tenant_id) FROM tenancy.members WHERE peep(user_id)",
        "SELECT tenancy.has_role(VARIADIC ARRAY[role]) FROM tenancy.members WHERE tenancy.has_role(VARIADIC ARRAY[role, 'viewer']) AND peep(role)",
        "SELECT tenancy.is_member('gus', 'globex')",
        "SELECT tenancy.is_member('gus', t) FROM unnest('{acme,globex,other-1}'::text[]) t",
        "SELECT * FROM tenancy.users",
        "SELECT * FROM _tenancy.members",
    ]
    WITHOUT = ["enable_indexscan", "enable_bitmapscan", "enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_nestloop"]

    @pytest.fixture(autouse=True)
    def peep(self, dba):
        dba.execute("""
            CREATE OR REPLACE FUNCTION peep(text) RETURNS boolean LANGUAGE plpgsql COST 0.000001
            AS $$BEGIN RAISE WARNING 'seen: %', $1; RETURN true; END$$;
            CREATE OR REPLACE FUNCTION ctid_of(tenancy.members) RETURNS text LANGUAGE plpgsql COST 0.000001
            AS $$BEGIN RAISE WARNING 'seen: %', $1; RETURN 'x'; END$$""")

    @pytest.mark.parametrize("role", [APP, GUEST, "it_leak_bound"])
    def test_other_tenants_members(self, connect, make_role, role):
        make_role("it_leak_bound", tenant_id="acme")
        session, heard = connect(role), []
        session.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        if role == APP:
            session.execute("SET tenancy.tenant_id = 'acme'")
        else:
            session.execute("SET tenancy.missing_tenant = 'empty'")
        saw = set()
        for without in [None, *self.WITHOUT]:
            if without:
                session.execute(f"SET {without} = off")
            for query in self.QUERIES:
                heard.clear()
                try:
                    # gus himself is asked for.
                    text = str(session.execute(query).fetchall())
                except psycopg.Error as error:
                    text = told(error).replace(query, "")
                text += "\n".join(heard)
                assert "gus" not in text.replace("'gus', None", "") and "globex" not in text and "other-" not in text and "large" not in text, query
                saw |= {word for word in ("ann", "user-1") if word in text}
        assert saw == (set() if role == GUEST else {"ann", "user-1"})

    def explained(self, session, query, costs):
        plan = value(session, f"EXPLAIN (ANALYZE, COSTS {costs}, TIMING off, SUMMARY off, BUFFERS off, FORMAT JSON) {query}")
        return json.dumps(plan)

    PAIRS = ["user_id = 'gus' / user_id = 'sug'", "tenant_id = 'large' / tenant_id = 'small'", "role = 'viewer' / role = 'reweiv'"]

    @pytest.mark.parametrize("costs", ["off", "on"])
    @pytest.mark.parametrize("role", [APP, GUEST])
    @pytest.mark.parametrize("pair", PAIRS)
    def test_explain_tells_nobody_from_another(self, connect, role, pair, costs):
        """Whether somebody is in other tenants, and how many are in another one; asked from umbrella, which has no members."""
        session = connect(role)
        if role == APP:
            session.execute("SET tenancy.tenant_id = 'umbrella'")
        else:
            session.execute("SET tenancy.missing_tenant = 'empty'")
        known, unknown = pair.split(" / ")
        for without in (None, *self.WITHOUT[:3]):
            if without:
                session.execute(f"SET {without} = off")
            plans = [self.explained(session, f"SELECT * FROM tenancy.members WHERE {asked}", costs) for asked in (known, unknown)]
            word, other = known.split("'")[1], unknown.split("'")[1]
            assert plans[0].replace(word, other) == plans[1]

    def test_statistics_views(self, connect):
        for role in (APP, GUEST):
            with connect(role) as session:
                for view in ("pg_stats", "pg_stats_ext", "pg_stats_ext_exprs"):
                    assert value(session, f"SELECT count(*) FROM {view} WHERE schemaname = '_tenancy'") == 0
                with sqlstate("42501"):
                    session.execute("SELECT * FROM pg_statistic")

    def test_what_is_told_of_another_tenant(self, connect, make_role):
        """Whatever there is or is not in another tenant, the answer is the same to the letter."""
        bound = connect(make_role("it_leak_bound", tenant_id="acme"))
        answers = set()
        for tenant in ("globex", "other-1", "nobody", "small"):
            for user in ("gus", "ann", "nobody", ""):
                with refused("TENANT_ACCESS_DENIED") as caught:
                    bound.execute("SELECT tenancy.is_member(%s, %s)", [user, tenant])
                answers.add(told(caught.error))
        (answer,) = answers
        assert not any(word in answer for word in ("globex", "gus", "nobody"))


class TestUser:
    """The user is the tenant's own business: it may change where the tenant may not. What that means."""

    @pytest.fixture
    def desk(self, dba):
        dba.execute("""
            CREATE TABLE desk (tenant_id text, owner text);
            INSERT INTO desk VALUES ('acme', 'ann'), ('acme', 'bob'), ('acme', 'ann'), ('acme', 'bob');
            SELECT tenancy.protect('desk', create_index => false);
            CREATE POLICY mine ON desk AS RESTRICTIVE USING (owner = tenancy.current_user_id());
            GRANT SELECT ON desk TO it_data""")
        yield
        dba.execute("DROP TABLE desk")

    @pytest.mark.usefixtures("desk")
    def test_a_statement_of_two_users(self, connect, guest, issuer):
        # The limit: it takes a role that may set the user, or tokens of both.
        tokens = {user: issuer.token(sub=user) for user in ("ann", "bob")}
        with guest.transaction():
            use(guest, tokens["ann"])
            guest.execute("DECLARE c CURSOR FOR SELECT owner FROM desk")
            assert column(guest, "FETCH 1 FROM c") == ["ann"]
            use(guest, tokens["bob"])
            assert column(guest, "FETCH ALL FROM c") == ["bob", "bob"]
            use(guest, tokens["ann"])
            changing = "SELECT owner, set_config('tenancy.token', %s, true) <> '' FROM desk"
            assert column(guest, changing, [tokens["bob"]]) == ["ann", "bob", "bob"]
        with sqlstate("42501"), guest.transaction():
            use(guest, tokens["ann"])
            guest.execute("SELECT owner, set_config('tenancy.user_id', 'bob', true) FROM desk")

    @pytest.mark.usefixtures("desk")
    @pytest.mark.parametrize("volatility", ["STABLE", "IMMUTABLE"])
    def test_a_function_that_asks_who_it_is(self, dba, app, volatility):
        """One that is falsely declared IMMUTABLE becomes a constant of a plan that is kept: of one tenant, but of any of its users."""
        dba.execute(f"CREATE OR REPLACE FUNCTION me() RETURNS text LANGUAGE plpgsql {volatility} AS $$BEGIN RETURN tenancy.current_user_id(); END$$")
        dba.execute("CREATE POLICY me ON desk AS RESTRICTIVE USING (owner = me())")
        app.execute("SET plan_cache_mode = force_generic_plan")
        app.execute("PREPARE q AS SELECT DISTINCT owner FROM desk")
        act(app, "ann")
        assert column(app, "EXECUTE q") == ["ann"]
        act(app, "bob")
        assert column(app, "EXECUTE q") == (["bob"] if volatility == "STABLE" else [])  # the limit: his own are left out
        dba.execute("DROP POLICY me ON desk")

    @pytest.mark.usefixtures("desk")
    @pytest.mark.parametrize("asks", ["tenancy.current_user_id() IS NOT NULL", "tenancy.has_role('admin')"])
    def test_lint_names_such_a_function(self, dba, asks):
        dba.execute(f"CREATE OR REPLACE FUNCTION may() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN {asks}; END$$")
        dba.execute("CREATE POLICY may ON desk AS RESTRICTIVE USING (may())")
        assert ("immutable_context", "desk") in dba.execute("SELECT rule, replace(object, 'public.', '') FROM tenancy.lint()").fetchall()

    def test_a_user_id_that_is_longer_than_any(self, app):
        """libpq takes no report of 30,000 bytes or more for one, and the connection is lost; no user's id has more than 255."""
        try:
            app.execute("SELECT set_config('tenancy.user_id', repeat('x', 100000), false) <> ''")
        except psycopg.Error as error:
            assert error.sqlstate == "22023"
        assert value(app, "SELECT 1") == 1


class TestOthers:
    """What visits tenants for the administrator's sake."""

    def test_prove_is_not_satisfied_by_a_refusal(self, db, dba, server):
        dba.execute("""
            CREATE TABLE open (tenant_id text, x integer);
            INSERT INTO open VALUES ('acme', 1), ('globex', 2);
            SELECT tenancy.protect('open');
            GRANT SELECT, INSERT, UPDATE, DELETE ON open TO it_app;
            SET tenancy.restoring = on;
            ALTER POLICY tenancy_isolation ON open USING (true) WITH CHECK (true);
            ALTER POLICY tenancy_access ON open USING (true) WITH CHECK (true);
            RESET tenancy.restoring""")
        leaked = "SELECT count(*) FROM tenancy.prove('it_app', 'open') WHERE result = 'leaked'"
        try:
            assert value(dba, leaked) > 10
            dba.execute("SET tenancy.require_membership = on; SET tenancy.user_id = 'ann'")
            assert value(dba, leaked) > 10
        finally:
            dba.execute("RESET ALL; SET tenancy.restoring = on; DROP TABLE open")

    def test_prove_holds_where_membership_is_required(self, db, dba):
        dba.execute("SET tenancy.require_membership = on")
        assert column(dba, f"SELECT DISTINCT result FROM tenancy.prove('{APP}', 'orders')") == ["held"]
