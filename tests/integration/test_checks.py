"""Each row that is written is asked once whose it is, by one function, and nothing of that can be had otherwise than by asking."""

import threading

import psycopg
import pytest
from support import APP, OWNER, Database, column, refused, set_local, set_session, sqlstate, value

UUID, OTHER_UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
# The type of a tenant column, a tenant and another one, and whether one function says whose a row is.
KINDS = {
    "text": ("text", "acme", "globex", True),
    "varchar": ("varchar(40)", "acme", "globex", True),
    "uuid": ("uuid", UUID, OTHER_UUID, True),
    "bigint": ("bigint", "7", "8", True),
    "integer": ("integer", "7", "8", True),
    # A collation other than the database's is asked.
    "collated": ('text COLLATE "POSIX"', "acme", "globex", False),
}
UPSERT = "INSERT INTO {t} (id, note) VALUES (1, 'again') ON CONFLICT (tenant_id, id) DO UPDATE SET note = excluded.note"
# What a statement checks: in a plan that is kept, without what says nothing new; those of an upsert are of the new row, of the one that is there, and of what becomes of it.
# And where the plan runs once, without what the statement itself says as well.
STATEMENTS = {
    "INSERT INTO {t} (id) VALUES ($1)": (1, 0),
    "INSERT INTO {t} (id) VALUES ($1) RETURNING note": (1, 0),
    "UPDATE {t} SET note = 'new' WHERE id = $1": (1, 0),
    UPSERT + " WHERE {t}.id = $1": (3, 0),
    "WITH i AS (INSERT INTO {t} (id) VALUES ($1) RETURNING id) UPDATE {t} SET note = 'x' FROM i WHERE {t}.id = i.id": (2, 2),
    "MERGE INTO {t} USING (SELECT $1::int AS id) s ON {t}.id = s.id WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id) WHEN MATCHED THEN UPDATE SET note = 'merged'": (None, None),
    "DELETE FROM {t} WHERE id = $1": (0, 0),
}
# Kinds of which the default is computed once more for the column, so that the statement does not say what it is.
COMPUTED = {"varchar", "integer"}


@pytest.fixture(scope="module")
def db(db):
    db.run(f"SELECT tenancy.create_tenant(id) FROM unnest('{{{UUID},{OTHER_UUID},7,8}}'::text[]) AS id")
    for name, (kind, tenant, other, _) in KINDS.items():
        db.run(
            f"CREATE TABLE of_{name} (tenant_id {kind}, id int, note text, PRIMARY KEY (tenant_id, id))",
            f"INSERT INTO of_{name} SELECT t, n, 'old' FROM unnest(ARRAY['{tenant}', '{other}']::{kind.split(' COLL')[0]}[]) t, generate_series(1, 3) n",
            f"SELECT tenancy.protect('of_{name}')",
            role=OWNER,
        )
    return db


def shown(connection, what, statement, arguments=None):
    """What PostgreSQL says that a statement is when it has been rewritten, or planned."""
    said = []
    connection.add_notice_handler(lambda notice: said.append(notice.message_detail or ""))
    connection.execute(f"SET debug_print_{what} = on; SET debug_pretty_print = off; SET client_min_messages = log")
    connection.execute(statement, arguments)
    connection.execute(f"RESET client_min_messages; RESET debug_print_{what}")
    return [" ".join(tree.split()) for tree in said]


def plans(connection, statement, arguments=None):
    return [tree for tree in shown(connection, "plan", statement, arguments) if tree.startswith("{PLANNEDSTMT")]


@pytest.mark.parametrize("name", KINDS)
def test_asked_once(db, name):
    _, tenant, _, is_short = KINDS[name]
    with db.connect("postgres") as dba:
        functions = column(dba, "SELECT oid::text FROM pg_proc WHERE proname = 'is_own'")
    for number, (statement, (expected, _)) in enumerate(STATEMENTS.items()):
        with db.connect(APP) as app:
            set_session(app, tenant)
            app.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE kept (int) AS {statement.format(t=f'of_{name}')}")
            (plan,) = [plan for plan in plans(app, f"EXECUTE kept ({100 + number})") if f"of_{name}" in plan or expected == 0]
            checks = plan.count("{WITHCHECKOPTION")
            if expected is not None:
                assert checks == expected, (statement, plan)
            assert any(f":funcid {function} " in plan for function in functions) == (is_short and checks > 0), (statement, plan)


@pytest.mark.parametrize("name", KINDS)
def test_not_asked_what_the_statement_says(db, name):
    """By itself, and bound to a value."""
    _, tenant, _, _ = KINDS[name]
    for number, (statement, (kept, expected)) in enumerate(STATEMENTS.items()):
        if name in COMPUTED and statement.startswith("INSERT"):
            # What becomes of the one that is there says nothing of the column.
            expected = kept - ("CONFLICT" in statement)
        for text, arguments in ((statement.replace("$1", str(120 + number)), None), (statement.replace("$1", "%s"), [140 + number])):
            with db.connect(APP) as app:
                set_session(app, tenant)
                (plan,) = [plan for plan in plans(app, text.format(t=f"of_{name}"), arguments) if f"of_{name}" in plan or expected == 0]
                if expected is not None:
                    assert plan.count("{WITHCHECKOPTION") == expected, (text, plan)


ARBITERS = {
    # By what rows are in the way of each other, what the statement says of it, and whether it can be the row of another tenant.
    "key": ("PRIMARY KEY (tenant_id, id)", "(tenant_id, id)", False),
    "part": ("UNIQUE (id, tenant_id)", "(id, tenant_id) WHERE id < 10", False),
    "named": ("CONSTRAINT known UNIQUE (tenant_id, id)", "ON CONSTRAINT known", False),
    "collated": ("UNIQUE (tenant_id, id)", '(tenant_id COLLATE "C", id)', False),
    "elsewhere": ("PRIMARY KEY (id)", "(id)", True),
    "named elsewhere": ("CONSTRAINT known UNIQUE (id)", "ON CONSTRAINT known", True),
    "included": ("UNIQUE (id) INCLUDE (tenant_id)", "(id)", True),
    "computed": ("UNIQUE (tenant_id, id)", "(lower(tenant_id), id)", True),
    "blanks": ("UNIQUE (id, note)", "(tenant_id, id)", True),
    "loose": ("UNIQUE (tenant_id, id)", "(tenant_id, id)", True),
    "loose beside": ("UNIQUE (id)", '(tenant_id COLLATE "loose", id)', True),
}


@pytest.mark.parametrize("name", ARBITERS)
def test_a_row_in_the_way(db, dba, name):
    """Is not asked whose it is where it can only be the tenant's: by hand, and by us, it is never another's that is changed."""
    key, arbiter, is_strange = ARBITERS[name]
    if "loose" in name:
        try:
            dba.execute("CREATE COLLATION IF NOT EXISTS loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)")
        except psycopg.errors.FeatureNotSupported:
            pytest.skip("this server has no ICU")
    indexes = {
        "part": "CREATE UNIQUE INDEX ON ways (id, tenant_id) WHERE id < 10",
        "collated": 'CREATE UNIQUE INDEX ON ways (tenant_id COLLATE "C", id)',
        "computed": "CREATE UNIQUE INDEX ON ways (lower(tenant_id), id)",
        "blanks": "CREATE UNIQUE INDEX ON ways (tenant_id bpchar_ops, id)",
        "loose": 'ALTER TABLE ways DROP CONSTRAINT ways_tenant_id_id_key; CREATE UNIQUE INDEX ON ways (tenant_id COLLATE "loose", id)',
        "loose beside": 'CREATE UNIQUE INDEX ON ways (tenant_id COLLATE "loose", id)',
    }
    dba.execute("SELECT tenancy.create_tenant(id) FROM unnest('{ACME}'::text[]) AS id WHERE id NOT IN (SELECT id FROM _tenancy.tenants)")
    dba.execute(f"CREATE TABLE ways (tenant_id text NOT NULL, id int NOT NULL, note text, {key})")
    try:
        dba.execute(indexes.get(name, "SELECT 1"))
        dba.execute("INSERT INTO ways VALUES ('acme', 1, 'old')")
        # Of nobody, in a way.
        stranger = "acme " if name == "blanks" else "ACME"
        theirs = f"INSERT INTO ways VALUES ('{stranger}', 2, 'theirs')"
        by_hand = f"INSERT INTO ways (tenant_id, id, note) VALUES ('acme', %s, 'new') ON CONFLICT {arbiter} DO UPDATE SET note = excluded.note RETURNING tenant_id"
        with dba.transaction(force_rollback=True):
            dba.execute(theirs)
            assert (value(dba, by_hand, [2]) == stranger) == is_strange
        dba.execute(f"SELECT tenancy.protect('ways'); GRANT SELECT, INSERT, UPDATE ON ways TO {APP}")
        dba.execute(theirs)
        with db.connect(APP) as app:
            set_session(app, "acme")
            statement = by_hand.replace("tenant_id, id, note", "id, note", 1).replace("'acme', ", "")
            (plan,) = [plan for plan in plans(app, statement, [1]) if "of_" not in plan]
            assert plan.count("{WITHCHECKOPTION") == is_strange, plan
            assert value(app, "SELECT note FROM ways WHERE id = 1") == "new"
            if is_strange:
                with sqlstate("42501"):
                    app.execute(statement, [2])
        assert value(dba, "SELECT note FROM ways WHERE tenant_id = %s", [stranger]) == "theirs"
    finally:
        dba.execute("DROP TABLE ways")


def test_how_often_it_would_be_asked(db, app):
    """What the documentation says of an upsert."""
    set_session(app, "acme")
    trees = shown(app, "rewritten", UPSERT.format(t="of_text"))
    assert max(tree.count("{WITHCHECKOPTION") for tree in trees) == 10


@pytest.mark.parametrize("name", KINDS)
def test_still_refused(db, name):
    """Whatever is written for another tenant, or none, by whichever way."""
    _, tenant, other, _ = KINDS[name]
    table = f"of_{name}"
    with db.connect(APP) as app, db.connect("postgres") as dba:
        before = value(dba, f"SELECT count(*) FROM {table} WHERE tenant_id::text = %s", [other])
        set_session(app, tenant)
        for foreign in (other, None):
            for statement in (
                f"INSERT INTO {table} (tenant_id, id) VALUES (%s, 900)",
                f"INSERT INTO {table} (tenant_id, id) VALUES (%s, 1) ON CONFLICT DO NOTHING",
                f"INSERT INTO {table} (tenant_id, id) VALUES (%s, 1) ON CONFLICT (tenant_id, id) DO UPDATE SET note = 'stolen'",
                f"INSERT INTO {table} (id) VALUES (1) ON CONFLICT (tenant_id, id) DO UPDATE SET tenant_id = %s",
                f"UPDATE {table} SET tenant_id = %s WHERE id = 1",
                f"WITH i AS (INSERT INTO {table} (tenant_id, id) VALUES (%s, 901) RETURNING id) SELECT * FROM i",
                f"MERGE INTO {table} USING (SELECT 902 AS id) s ON {table}.id = s.id WHEN NOT MATCHED THEN INSERT (tenant_id, id) VALUES (%s, s.id)",
                f"MERGE INTO {table} USING (SELECT 1 AS id) s ON {table}.id = s.id WHEN MATCHED THEN UPDATE SET tenant_id = %s",
            ):
                with refused("TENANT_ACCESS_DENIED"):
                    app.execute(statement, [foreign])
        # A trigger of the owner's own comes before the check.
        dba.execute(f"CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.tenant_id := '{other}'; RETURN NEW; END$$")
        dba.execute(f"CREATE TRIGGER moves BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION move()")
        for statement in (f"INSERT INTO {table} (id) VALUES (904)", f"UPDATE {table} SET note = 'moved' WHERE id = 2", UPSERT.format(t=table)):
            with refused("TENANT_ACCESS_DENIED"):
                app.execute(statement)
        dba.execute("DROP FUNCTION move CASCADE")
        assert value(dba, f"SELECT count(*) FROM {table} WHERE tenant_id::text = %s", [other]) == before
        assert value(dba, f"SELECT count(*) FROM {table} WHERE note IN ('stolen', 'moved')") == 0
        app.execute("RESET tenancy.tenant_id")
        with refused("TENANT_CONTEXT_MISSING"):
            app.execute(f"INSERT INTO {table} (tenant_id, id) VALUES (%s, 905)", [tenant])


def test_a_plan_that_is_kept(db, app):
    """The function asks at each run, so a plan that was made for one tenant writes for another."""
    app.execute("SET plan_cache_mode = force_generic_plan")
    app.execute("PREPARE put (text, int) AS INSERT INTO of_text (tenant_id, id) VALUES ($1, $2)")
    for number, tenant in enumerate(("acme", "globex", "acme", "initech")):
        with app.transaction():
            set_local(app, tenant)
            app.execute(f"EXECUTE put ('{tenant}', {500 + number})")
        with refused("TENANT_ACCESS_DENIED"), app.transaction():
            set_local(app, tenant)
            app.execute(f"EXECUTE put ('umbrella', {600 + number})")


def test_long_values(db, app):
    """A value is compared whole, however it is stored."""
    set_session(app, "acme")
    for tenant in ("acme" + "x" * 10_000, "acm", "acme ", "ACME", ""):
        with refused("TENANT_ACCESS_DENIED"):
            app.execute("INSERT INTO of_text (tenant_id, id) VALUES (%s, 700)", [tenant])
    app.execute("CREATE TEMPORARY TABLE kept (tenant text)")
    app.execute("INSERT INTO kept VALUES (repeat('acme', 5000)), ('acme')")
    with refused("TENANT_ACCESS_DENIED"):
        app.execute("INSERT INTO of_text (tenant_id, id) SELECT tenant, 701 FROM kept")
    app.execute("INSERT INTO of_text (tenant_id, id) SELECT tenant, 701 FROM kept WHERE length(tenant) = 4")
    # Kept elsewhere: to read it takes a lock, and with that the news that tenants have changed.
    app.execute("CREATE TEMPORARY TABLE far (n int, tenant text)")
    app.execute("ALTER TABLE far ALTER tenant SET STORAGE EXTERNAL")
    app.execute("INSERT INTO far VALUES (1, 'acme'), (2, repeat('acme', 5000))")
    news = threading.Timer(1.5, db.run, ["SELECT tenancy.create_tenant('news')"])
    news.start()
    with refused("TENANT_ACCESS_DENIED"):
        app.execute("INSERT INTO of_text (tenant_id, id) SELECT f.tenant, 710 + f.n FROM far f, LATERAL (SELECT pg_sleep(1 + 0 * f.n)) s")
    news.join()


def test_what_others_ask_stays(db, app):
    """Policies of the owner's own, permissive and restrictive, are asked beside."""
    db.run(
        "CREATE TABLE watched (tenant_id text, id int, note text)",
        "CREATE POLICY short ON watched USING (length(note) < 10)",
        "CREATE POLICY never ON watched AS RESTRICTIVE FOR INSERT WITH CHECK (note <> 'never')",
        "CREATE POLICY often ON watched AS RESTRICTIVE FOR UPDATE USING (true) WITH CHECK (note <> 'often')",
        "CREATE POLICY twice ON watched AS RESTRICTIVE FOR UPDATE USING (true) WITH CHECK (note <> 'often')",
        "SELECT tenancy.protect('watched')",
        "CREATE VIEW few WITH (security_invoker = true) AS SELECT * FROM watched WHERE id > 0 WITH CHECK OPTION",
        f"GRANT SELECT, INSERT, UPDATE ON few TO {APP}",
        role=OWNER,
    )
    set_session(app, "acme")
    app.execute("INSERT INTO watched (id, note) VALUES (1, 'good')")
    for statement in (
        "INSERT INTO watched (id, note) VALUES (2, 'never')",
        "INSERT INTO watched (id, note) VALUES (2, 'much longer than that')",
        "UPDATE watched SET note = 'often'",
        "UPDATE watched SET note = 'much longer than that'",
    ):
        with sqlstate("42501"):
            app.execute(statement)
    for statement in ("INSERT INTO few (id, note) VALUES (0, 'low')", "UPDATE few SET id = -1"):
        with sqlstate("44000"):
            app.execute(statement)
    with refused("TENANT_ACCESS_DENIED"):
        app.execute("INSERT INTO few (tenant_id, id, note) VALUES ('globex', 3, 'good')")
    assert app.execute("SELECT tenant_id, id, note FROM watched").fetchall() == [("acme", 1, "good")]


def test_in_their_order(db, app):
    """What a policy of the owner's asks, behind one for the tenant, it asks of the tenant's own rows only; and as often as before."""
    db.run(
        "CREATE TABLE ordered (tenant_id text, id int, UNIQUE (tenant_id, id))",
        "CREATE SEQUENCE asked",
        "CREATE FUNCTION limited(of text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN PERFORM nextval('asked'); RETURN true; END$$",
        "CREATE POLICY mine ON ordered USING (tenant_id = tenancy.current_tenant())",
        "CREATE POLICY a_limit ON ordered AS RESTRICTIVE FOR INSERT WITH CHECK (limited(tenant_id))",
        "CREATE POLICY b_limit ON ordered AS RESTRICTIVE FOR INSERT WITH CHECK (limited(tenant_id))",
        "SELECT tenancy.protect('ordered')",
        role=OWNER,
    )
    set_session(app, "acme")
    with refused("TENANT_ACCESS_DENIED"):
        app.execute("INSERT INTO ordered (tenant_id, id) VALUES ('globex', 1)")
    assert db.run("SELECT is_called FROM asked") == [(False,)]
    app.execute("INSERT INTO ordered (id) VALUES (1)")
    assert db.run("SELECT last_value FROM asked") == [(2,)]


def test_only_ours(db, app):
    """A function that has the name of ours says nothing of what it was asked beside; nor has a table that is not protected anything less to check."""
    db.run(
        "CREATE SCHEMA tenant_tools",
        "CREATE FUNCTION tenant_tools.deny_write() RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        f"GRANT USAGE ON SCHEMA tenant_tools TO {APP}",
        "CREATE TABLE own (id int, whose text DEFAULT current_user)",
        "ALTER TABLE own ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY every ON own USING (true)",
        "CREATE POLICY lax ON own AS RESTRICTIVE USING (true) WITH CHECK (whose = current_user OR tenant_tools.deny_write())",
        "CREATE POLICY strict ON own AS RESTRICTIVE USING (true) WITH CHECK (whose = current_user)",
        role=OWNER,
    )
    app.execute("INSERT INTO own (id) VALUES (1)")
    with sqlstate("42501"):
        app.execute("INSERT INTO own VALUES (2, 'somebody')")


def test_a_grant_opens_nothing(db, dba):
    """What policies call is for PUBLIC without a list of privileges; a grant makes one, which is no finding."""
    assert dba.execute("SELECT proacl FROM pg_proc WHERE oid = ANY (_tenancy.called_by_policies()) AND proacl IS NOT NULL").fetchall() == []
    dba.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA tenancy TO {OWNER}")
    assert value(dba, "SELECT proacl::text ~ '=X/' FROM pg_proc WHERE oid = 'tenancy.current_tenant()'::regprocedure")
    assert column(dba, "SELECT object FROM tenancy.lint() WHERE rule = 'administration_public'") == []
    dba.execute(f"REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA tenancy FROM {OWNER}")
    dba.execute("GRANT EXECUTE ON FUNCTION tenancy.suspend_tenant(text, text) TO PUBLIC")
    assert column(dba, "SELECT object FROM tenancy.lint() WHERE rule = 'administration_public'") == ["tenancy.suspend_tenant(text,text)"]
    dba.execute("REVOKE EXECUTE ON FUNCTION tenancy.suspend_tenant(text, text) FROM PUBLIC")


def test_without_the_function(server):
    """An earlier version of the extension has it not, before ALTER EXTENSION UPDATE: the policies say the same."""
    database = Database(server, "it_checks_earlier")
    try:
        database.create_shop()
        with database.connect(APP) as app:
            set_session(app, "acme")
            app.execute("INSERT INTO orders (item) VALUES ('before')")
            for kind in ("text", "uuid", "bigint", "integer"):
                database.run(f"ALTER EXTENSION tenancy DROP FUNCTION _tenancy.is_own({kind})", f"DROP FUNCTION _tenancy.is_own({kind})")
            app.execute("INSERT INTO orders (item) VALUES ('after')")
            app.execute("PREPARE later AS INSERT INTO orders (item) VALUES ('later')")
            (plan,) = [plan for plan in plans(app, "EXECUTE later") if "orders" in plan]
            assert plan.count("{WITHCHECKOPTION") == 1 and "{BOOLEXPR" in plan
            with refused("TENANT_ACCESS_DENIED"):
                app.execute("INSERT INTO orders (tenant_id, item) VALUES ('globex', 'theirs')")
    finally:
        database.drop()
