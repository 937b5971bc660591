"""Users and members as data: dumped and restored, in databases of every encoding, and very many of them."""

from contextlib import contextmanager

import pytest
from support import APP, Database, column, pg_program, refused, value
from test_dump_restore import connection_options
from test_encoding import place  # noqa: F401 — a fixture
from test_memory import Memory
from test_member import act

STATE = """SELECT (SELECT json_agg(u ORDER BY u.id) FROM _tenancy.users u),
                  (SELECT json_agg(m ORDER BY m.tenant_id, m.user_id) FROM _tenancy.members m)"""
MANY, ASKED = 100_000, 50_000


@pytest.fixture(scope="module")
def db(db):
    db.run(f"GRANT SET ON PARAMETER tenancy.user_id TO {APP}")
    yield db
    db.run(f"REVOKE SET ON PARAMETER tenancy.user_id FROM {APP}")


class TestDump:
    WAYS = {
        "plain": (["-Fp"], ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"], False),
        "parallel": (["-Fd", "-j2"], ["pg_restore", "--exit-on-error", "-j4"], False),
        "extension-is-there": (["-Fc"], ["pg_restore", "--exit-on-error"], True),
        "clean": (["-Fc"], ["pg_restore", "--exit-on-error", "--clean", "--if-exists"], True),
    }

    @pytest.fixture(scope="class")
    @classmethod
    def full(cls, db):
        """The database with some thousand members, and an invitation; returns its code."""
        db.run(
            "SELECT count(tenancy.add_user('user-' || n, 'user-' || n || '@example.com', 'It''s ' || n)) FROM generate_series(1, 3000) n",
            "SELECT count(tenancy.add_member('acme', 'user-' || n, 'role-' || n % 7)) FROM generate_series(1, 3000) n",
            "SELECT count(tenancy.add_member('globex', 'user-' || n)) FROM generate_series(1, 3000, 3) n",
            "SELECT tenancy.suspend_member('acme', 'user-7')",
            "CREATE TABLE desks (id integer, tenant_id text, owner text DEFAULT tenancy.current_user_id())",
            "INSERT INTO desks VALUES (1, 'acme', 'user-1'), (2, 'acme', 'user-2')",
            "SELECT tenancy.protect('desks')",
            "CREATE POLICY mine ON desks AS RESTRICTIVE USING (owner = tenancy.current_user_id() OR tenancy.has_role('role-2'))",
            f"GRANT SELECT ON desks TO {APP}",
        )
        ((code,),) = db.run("SELECT tenancy.invite_member('initech', 'user-1', 'guest')")
        return code

    @pytest.mark.parametrize("way", WAYS)
    def test_ways_to_dump_and_restore(self, db, full, tmp_path, way):
        dump, (program, *arguments), extension = self.WAYS[way]
        file, options = str(tmp_path / "dump"), [*connection_options(db), "-U", "postgres"]
        pg_program("pg_dump", *options, *dump, "-f", file, db.name)
        copy = Database(db.server, "it_member_restored", extension=extension)
        try:
            pg_program(program, *options, "-d", copy.name, *arguments, file)
            assert copy.run(STATE) == db.run(STATE)
            with copy.connect(APP) as app, copy.connect("postgres") as dba:
                for user, desks in (("user-1", [1]), ("user-2", [1, 2]), ("user-7", [])):
                    act(app, user)
                    assert column(app, "SELECT id FROM desks ORDER BY id") == desks
                dba.execute("SELECT tenancy.set_member_role('acme', 'user-1', 'role-2')")
                act(app, "user-1")
                assert column(app, "SELECT id FROM desks ORDER BY id") == [1, 2]
                dba.execute("SELECT tenancy.suspend_member('acme', 'user-1')")
                assert column(app, "SELECT id FROM desks ORDER BY id") == [1]
                accepted = value(dba, "SELECT tenancy.accept_invitation(%s)", [full])
                assert accepted == {"tenant_id": "initech", "user_id": "user-1", "role": "guest"}
                with refused("USER_ALREADY_EXISTS"):
                    dba.execute("SELECT tenancy.add_user('other', 'USER-9@example.com')")
        finally:
            copy.drop()


class TestEncodings:
    @pytest.fixture
    def named(self, db, place):  # noqa: F811
        """A database, and a user of it with letters of its own."""
        database, x = place
        user = f"J{x}rg"
        with database.connect("postgres") as dba:
            if not value(dba, "SELECT count(*) FROM tenancy.users"):
                dba.execute("SELECT tenancy.add_user(%s, %s, %s)", [user, f"{x}@example.com", x])
                dba.execute("SELECT tenancy.add_member('acme', %s, %s)", [user, f"r{x}le"])
            yield database, x, user, dba

    def test_user_and_role(self, named):
        database, x, user, dba = named
        with database.connect(APP) as app:
            act(app, user)
            asked = "SELECT tenancy.current_user_id(), tenancy.has_role(%s), tenancy.has_role('role'), tenancy.is_member(%s, 'acme')"
            assert app.execute(asked, [f"r{x}le", user]).fetchone() == (user, True, False, True)
            assert app.execute("SELECT user_id, role FROM tenancy.members").fetchall() == [(user, f"r{x}le")]
            act(app, f"J{x}{x}rg")
            assert app.execute(asked, [f"r{x}le", user]).fetchone() == (f"J{x}{x}rg", False, False, True)
        with database.connect(APP, client_encoding="utf8") as app:
            act(app, user)
            assert value(app, "SELECT tenancy.has_role(%s)", [f"r{x}le"])

    def test_errors(self, named):
        """Either as it is, or as JSON writes it."""
        _, x, user, dba = named
        for code, call, arguments in (
            ("USER_ALREADY_EXISTS", "add_user(%s)", [user]),
            ("USER_NOT_FOUND", "remove_user(%s)", [f"nobody {x}"]),
            ("MEMBER_ALREADY_EXISTS", "add_member('acme', %s)", [user]),
            ("MEMBER_NOT_FOUND", "suspend_member('globex', %s)", [user]),
        ):
            with refused(code) as caught:
                dba.execute(f"SELECT tenancy.{call}", arguments)
            assert caught.detail["user_id"] == arguments[0]

    def test_an_invitation(self, named):
        _, x, user, dba = named
        code = value(dba, "SELECT tenancy.invite_member('globex', %s, %s)", [user, x])
        for wrong in (x, code + x, code.upper()):
            with refused("INVITATION_INVALID"):
                dba.execute("SELECT tenancy.accept_invitation(%s)", [wrong])
        assert value(dba, "SELECT tenancy.accept_invitation(%s) ->> 'role'", [code]) == x
        dba.execute("SELECT tenancy.remove_member('globex', %s)", [user])

    def test_bytes_of_no_encoding(self, server):
        database = Database(server, "it_member_ascii", options="ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        try:
            database.run("SELECT tenancy.create_tenant('acme')")
            with database.connect("postgres", client_encoding="latin1") as dba:
                dba.execute("SELECT tenancy.add_user('J\u00e4rg'), tenancy.add_member('acme', 'J\u00e4rg', 'r\u00f6le')")
                dba.execute("SET tenancy.tenant_id = 'acme'; SET tenancy.user_id = 'J\u00e4rg'")
                asked = "SELECT tenancy.has_role('r\u00f6le'), tenancy.has_role('role'), tenancy.is_member('J\u00e4rg', 'acme')"
                assert dba.execute(asked).fetchone() == (True, False, True)
                dba.execute("RESET tenancy.tenant_id; RESET tenancy.user_id")
                with refused("INVITATION_INVALID"):
                    dba.execute("SELECT tenancy.accept_invitation('\u00e4')")
        finally:
            database.drop()


class TestMany:
    """What a backend keeps is bounded, and an answer costs what it costs among ten."""

    @pytest.fixture(scope="class")
    @classmethod
    def many(cls, db):
        db.run(
            f"INSERT INTO _tenancy.users (id) SELECT 'many-' || n FROM generate_series(1, {MANY}) n",
            "SELECT tenancy.create_tenant('small'), tenancy.create_tenant('large')",
            f"INSERT INTO _tenancy.members (tenant_id, user_id, role) SELECT 'large', 'many-' || n, 'viewer' FROM generate_series(1, {MANY}) n",
            "INSERT INTO _tenancy.members (tenant_id, user_id, role) SELECT 'small', 'many-' || n, 'viewer' FROM generate_series(1, 10) n",
            # News of a table, as autovacuum sends it, makes backends ask anew.
            "ALTER TABLE _tenancy.members SET (autovacuum_enabled = off)",
            "CREATE TABLE rows WITH (autovacuum_enabled = off) AS SELECT n AS id FROM generate_series(1, 20000) n",
            f"GRANT SELECT ON rows TO {APP}",
            "VACUUM ANALYZE _tenancy.members, _tenancy.users, rows",
        )
        return db

    @pytest.fixture
    def memory(self, many, app, dba):
        dba.execute(f"GRANT SELECT ON pg_backend_memory_contexts TO {APP}")
        dba.execute(f"GRANT EXECUTE ON FUNCTION pg_get_backend_memory_contexts() TO {APP}")
        return Memory(app, dba)

    @contextmanager
    def bounded(self, memory):
        """Where the cache is filled, and begins anew, is by chance: 16,384 members at most. All of them, kept, would be some 16 MB."""
        (contexts, resident), samples = memory.sample(), []
        yield lambda: samples.append(memory.sample())
        assert len(samples) > 1
        assert max(sample[0] for sample in samples) - contexts < 1_000_000, samples
        assert max(sample[1] for sample in samples) - resident < 10_000_000, samples

    def test_users_asked_about(self, app, memory):
        ask = f"SELECT count(*) FILTER (WHERE tenancy.is_member('many-' || n, 'large')) FROM generate_series(1, {MANY}) n"
        with self.bounded(memory) as sample:
            for _ in range(4):
                assert value(app, ask) == MANY
                sample()

    def test_users_acted_for(self, app, memory):
        def visit(first, count):
            app.execute(f"""DO $$
                DECLARE
                    who text;
                BEGIN
                    FOR n IN {first} .. {first + count - 1} LOOP
                        who := 'many-' || n;
                        PERFORM set_config('tenancy.tenant_id', 'large', true), set_config('tenancy.user_id', who, true);
                        IF tenancy.current_user_id() <> who OR NOT tenancy.has_role('viewer', who) OR tenancy.has_role('admin') THEN
                            RAISE 'wrong user';
                        END IF;
                    END LOOP;
                END $$""")

        with self.bounded(memory) as sample:
            for first in (1, ASKED, 1, 20_000):
                visit(first, ASKED)
                sample()

    def test_strangers_are_not_kept(self, app, memory):
        ask = "SELECT count(*) FILTER (WHERE tenancy.is_member(rpad('stranger ' || n, 200), 'large')) FROM generate_series(%s::int, %s::int) n"
        assert value(app, ask, [1, 1000]) == 0
        before = memory.sample()
        assert value(app, ask, [1, ASKED]) == 0
        memory.has_not_grown(before)

    def test_arguments_are_not_kept(self, app, memory):
        act(app, "many-1", "small")
        ask = "SELECT tenancy.has_role(VARIADIC ARRAY[repeat('x', %s), 'viewer', %s])"
        assert value(app, ask, [1, ""])
        before = memory.sample()
        with app.transaction():
            for n in range(8):
                assert value(app, ask, [4_000_000, str(n)])
        memory.has_not_grown(before)

    LOOKUPS = "SELECT idx_scan FROM pg_stat_xact_all_tables WHERE relid = '_tenancy.members'::regclass"

    @staticmethod
    def buffers(connection, query):
        """Pages that a query reads."""
        plan = value(connection, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}")[0]["Plan"]
        return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]

    def test_is_member_costs_no_more_among_many(self, app, many):
        asked = "SELECT tenancy.is_member('many-{}', '{}')"
        for tenant in ("small", "large"):
            assert value(app, asked.format(1, tenant)) is True
        costs = {tenant: [self.buffers(app, asked.format(n, tenant)) for n in range(2, 11)] for tenant in ("small", "large")}
        # Down the index, which has a level or two, and to the row.
        assert set(costs["small"]) == set(costs["large"]) and max(costs["large"]) <= 4, costs
        # What was asked before costs nothing.
        assert [self.buffers(app, asked.format(n, "large")) for n in range(1, 11)] == [0] * 10
        strangers = {tenant: self.buffers(app, asked.format("none", tenant)) for tenant in ("small", "large")}
        assert max(strangers.values()) <= 4

    def test_has_role_is_looked_up_once(self, many, app):
        asked = "SELECT count(*) FROM rows WHERE tenancy.has_role('viewer', 'admin') AND tenancy.current_user_id() = 'many-{}'"
        plain = self.buffers(app, "SELECT count(*) FROM rows")
        for tenant in ("small", "large"):
            act(app, "many-1", tenant)
            assert value(app, asked.format(1)) == 20_000
            for n in range(2, 11):
                act(app, f"many-{n}", tenant)
                assert self.buffers(app, asked.format(n)) - plain <= 4
                assert self.buffers(app, asked.format(n)) == plain
        before = value(app, self.LOOKUPS)
        act(app, "many-11", "large")
        assert value(app, asked.format(11)) == value(app, asked.format(11)) == 20_000
        assert value(app, self.LOOKUPS) == before + 1

    def test_another_user_asks_anew(self, many, app):
        # The control of the one above.
        before = value(app, self.LOOKUPS)
        for n in range(20, 30):
            act(app, f"many-{n}", "large")
            assert value(app, "SELECT tenancy.has_role('viewer')")
        assert value(app, self.LOOKUPS) == before + 10

    def test_changes_among_many(self, many, dba):
        dba.execute("BEGIN")
        calls = ("add_user('{}')", "add_member('large', '{}')", "suspend_member('large', '{}')", "remove_user('{}')")
        for call in calls:
            dba.execute("SELECT tenancy." + call.format("the first"))
        costs = [self.buffers(dba, "SELECT tenancy." + call.format("another")) for call in calls]
        dba.execute("ROLLBACK")
        # None of them reads them all, which are in some hundred pages.
        assert value(dba, "SELECT pg_relation_size('_tenancy.members') / 8192") > 900
        assert max(costs) <= 100, costs
