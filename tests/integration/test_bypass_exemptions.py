"""tenancy.bypass_guard = 'refuse' for a database, and what is exempt from it: pg_dump, replication, checks of foreign keys."""

import os

import psycopg
import pytest
from support import APP, MAJOR, OWNER, Database, eventually, items, own_server, pg_program, refused, server_of, server_tool, set_local
from support import set_session, value

NAME = f"it-exempt-{os.getpid()}"
RETRY = "wal_retrieve_retry_interval=100ms"  # of workers that failed
BYPASSER = "it_bypasser"
REFUSE = "ALTER DATABASE {} SET tenancy.bypass_guard = 'refuse'"
ALL_ITEMS = ["a1", "a2", "a3", "g1", "g2", "i1"]
FOUND = "SELECT item FROM orders ORDER BY item"
ALL_ROWS = {"options": "-c row_security=off"}


@pytest.fixture(scope="module")
def server():
    """A server of its own, for wal_level."""
    server = server_of(server_tool("start", str(MAJOR), NAME, "--preload", "wal_level=logical", RETRY))
    try:
        server.create_roles()
        server.run(f"CREATE ROLE {BYPASSER} LOGIN BYPASSRLS IN ROLE pg_read_all_data")
        yield server
    finally:
        server_tool("stop", NAME)


@pytest.fixture(scope="module")
def db(db):
    """`parents` and `children` of an owner under row-level security, and `roots` and `leaves` of a superuser."""
    for role, parent, child in ((OWNER, "parents", "children"), ("postgres", "roots", "leaves")):
        db.run(
            f"CREATE TABLE {parent} (tenant_id text, id integer, PRIMARY KEY (tenant_id, id))",
            f"CREATE TABLE {child} (tenant_id text, parent integer,"
            f" FOREIGN KEY (tenant_id, parent) REFERENCES {parent} ON DELETE CASCADE ON UPDATE CASCADE)",
            f"SELECT tenancy.protect('{parent}'), tenancy.protect('{child}')",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {parent}, {child} TO it_data",
            role=role,
        )
    db.run(REFUSE.format(db.name), f"GRANT SELECT ON SEQUENCE orders_id_seq TO {APP}")
    return db


def refuses(connection, statement):
    with refused("TENANT_ACCESS_DENIED") as caught:
        if statement.startswith("COPY"):
            with connection.cursor().copy(statement) as copy:
                copy.read()
        else:
            connection.execute(statement)
    assert caught.detail["bypass_guard"] == "refuse"


def all_items(database, role="postgres"):
    with database.connect(role, **ALL_ROWS) as connection:
        return items(connection)


def options(db, role):
    return ["--host", db.server.host, "--port", db.server.port, "-U", role]


@pytest.mark.parametrize("role", ["postgres", BYPASSER])
def test_who_does_not_say_so_is_refused(connect, role):
    connection = connect(role)
    refuses(connection, FOUND)
    refuses(connection, "COPY orders TO STDOUT")
    refuses(connection, "COPY (SELECT * FROM orders) TO STDOUT")
    with connection.transaction():
        connection.execute("SET LOCAL row_security = off")
        assert items(connection) == ALL_ITEMS
    refuses(connection, FOUND)


def test_an_application_does_not_notice(app):
    app.execute("SET row_security = on")
    for tenant, rows in (("acme", ["a1", "a2", "a3"]), ("globex", ["g1", "g2"])):
        with app.transaction():
            set_local(app, tenant)
            assert items(app) == rows


@pytest.mark.parametrize("form", [["-Fc"], ["-Fd", "-j2"], ["-Fp", "--inserts"]], ids=" ".join)
@pytest.mark.parametrize("role", ["postgres", BYPASSER])
def test_a_dump_holds_all_rows(db, tmp_path, role, form):
    file = str(tmp_path / "dump")
    pg_program("pg_dump", *options(db, role), *form, "-f", file, db.name)
    copy = Database(db.server, "it_exempt_copy", extension=False)
    try:
        db.run(REFUSE.format(copy.name))  # restoring is exempt as well
        restore = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"] if "-Fp" in form else ["pg_restore", "-e"]
        pg_program(restore[0], *options(db, "postgres"), "-d", copy.name, *restore[1:], file)
        assert all_items(copy) == ALL_ITEMS
        with copy.connect("postgres") as dba:
            refuses(dba, FOUND)
    finally:
        copy.drop()


def test_a_dump_of_an_application_holds_its_own_rows(db):
    dumped = pg_program(
        "pg_dump", *options(db, APP), "--data-only", "--table=orders", "--enable-row-security",
        "-d", f"dbname={db.name} options='-c tenancy.tenant_id=acme'",
    )  # fmt: skip
    script = "\n".join(line for line in dumped.stdout.splitlines() if "restrict" not in line)
    assert all(item in script for item in ("a1", "a2", "a3"))
    assert not any(item in script for item in ("g1", "g2", "i1", "globex", "initech"))


@pytest.mark.parametrize("parent, child", [("parents", "children"), ("roots", "leaves")])
def test_foreign_keys_are_checked_and_cascade(app, dba, parent, child):
    count = f"SELECT count(*) FROM {child}"
    insert = f"INSERT INTO {parent} (id) VALUES (1), (2)", f"INSERT INTO {child} (parent) VALUES (1), (1), (2)"
    for tenant in ("acme", "globex"):
        with app.transaction():
            set_local(app, tenant)
            for statement in insert:
                app.execute(statement)
            with pytest.raises(psycopg.errors.ForeignKeyViolation), app.transaction():
                app.execute(f"INSERT INTO {child} (parent) VALUES (3)")
    with app.transaction():
        set_local(app, "acme")
        app.execute(f"UPDATE {parent} SET id = 4 WHERE id = 2")
        assert value(app, f"{count} WHERE parent = 4") == 1
        app.execute(f"DELETE FROM {parent} WHERE id = 1")
        assert value(app, count) == 1
    # A superuser as well, once he has said that he means all rows; his own statement is refused otherwise.
    refuses(dba, f"DELETE FROM {parent}")
    with dba.transaction():
        dba.execute("SET LOCAL row_security = off")
        assert value(dba, count) == 4
        with pytest.raises(psycopg.errors.ForeignKeyViolation), dba.transaction():
            dba.execute(f"INSERT INTO {child} VALUES ('initech', 1)")
        dba.execute(f"DELETE FROM {parent} WHERE tenant_id = 'globex'")
        assert value(dba, count) == 1
        dba.execute(f"DELETE FROM {parent}")
        assert value(dba, count) == 0


class Subscription:
    """A database that subscribes to `orders` of another of the same server, as superusers unless told otherwise."""

    def __init__(self, db, owner):
        self.publisher, self.server, self.owner = db, db.server, owner
        self.database = Database(self.server, "it_exempt_subscriber")
        self.database.run(
            "SELECT tenancy.create_tenant(id) FROM unnest('{acme,globex,initech,umbrella}'::text[]) AS id",
            f"GRANT CREATE ON SCHEMA public TO {OWNER}",
            REFUSE.format(self.database.name),
        )
        self.database.run(
            "CREATE TABLE orders (id bigint PRIMARY KEY, tenant_id text, item text, amount integer)",
            "SELECT tenancy.protect('orders')",
            "GRANT SELECT ON orders TO it_data",
            role=owner,
        )

    def start(self, *options, publication="it_exempt", user="postgres"):
        # Its slot is made by itself, because a subscription waits for the transactions of its own server, of which it is one.
        self.publisher.run("SELECT pg_create_logical_replication_slot('it_exempt', 'pgoutput')")
        source = f"host={self.server.host} port={self.server.port} user={user} dbname={self.publisher.name}"
        options = ["create_slot = false", "slot_name = it_exempt", *options]
        # PostgreSQL applies changes as the owner of a table, but none where policies apply to that role; or as its own.
        if self.owner != "postgres" and MAJOR >= 16:
            options.append("run_as_owner = true")
        self.database.run(
            f"CREATE SUBSCRIPTION it_exempt CONNECTION '{source}' PUBLICATION {publication} WITH ({', '.join(options)})"
        )

    def failures(self):
        ((failures,),) = self.database.run("SELECT sum(sync_error_count + apply_error_count) FROM pg_stat_subscription_stats")
        return failures

    def await_items(self, expected):
        """Waits for these rows; fails where a worker does."""

        def are_there():
            assert not self.failures(), "a worker of the subscription failed: see the server's log"
            return all_items(self.database) == expected

        eventually(are_there)

    def end(self):
        if self.database.run("SELECT 1 FROM pg_subscription WHERE subname = 'it_exempt'"):
            for change in ("DISABLE", "SET (slot_name = NONE)"):
                self.database.run(f"ALTER SUBSCRIPTION it_exempt {change}")
            self.database.run("DROP SUBSCRIPTION it_exempt")
        self.database.drop()
        eventually(lambda: not self.server.run("SELECT 1 FROM pg_stat_replication"))
        self.server.run("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


@pytest.fixture(scope="module")
def published(db):
    db.run(
        "CREATE PUBLICATION it_exempt FOR TABLE orders",
        "CREATE PUBLICATION it_exempt_some FOR TABLE orders WHERE (id <> 1)",  # copied by a query
    )
    return db


@pytest.fixture(params=["postgres", OWNER])
def subscription(published, request):
    """To a table of a superuser, and to one whose owner is under row-level security."""
    subscription = Subscription(published, request.param)
    try:
        yield subscription
    finally:
        subscription.end()


def change(db, *statements):
    with db.connect("postgres", **ALL_ROWS) as dba, dba.transaction():
        for statement in statements:
            dba.execute(statement)


def test_changes_are_replicated(published, subscription):
    subscription.start("copy_data = false")
    change(
        published,
        "INSERT INTO orders (tenant_id, item) VALUES ('acme', 'new'), ('globex', 'gone'), ('umbrella', 'moved')",
        "UPDATE orders SET item = 'changed' WHERE item = 'new'",
        "DELETE FROM orders WHERE item = 'gone'",
        "UPDATE orders SET tenant_id = 'globex' WHERE item = 'moved'",
    )
    subscription.await_items(["changed", "moved"])
    with subscription.database.connect(APP) as app:
        for tenant, rows in (("acme", ["changed"]), ("globex", ["moved"]), ("umbrella", [])):
            set_session(app, tenant)
            assert items(app) == rows
    with subscription.database.connect("postgres") as dba:
        refuses(dba, FOUND)  # the guard is at work there, and for all but the workers
    change(published, "DELETE FROM orders WHERE item IN ('changed', 'moved')")
    subscription.await_items([])


@pytest.mark.parametrize("publication", ["it_exempt", "it_exempt_some"])
def test_the_initial_copy_is_replication(subscription, publication):
    subscription.start(publication=publication)
    subscription.await_items(ALL_ITEMS if publication == "it_exempt" else ALL_ITEMS[1:])


@pytest.mark.parametrize("publication", ["it_exempt", "it_exempt_some"])
def test_the_initial_copy_by_a_role_that_says_so(subscription, copier, publication):
    subscription.start(publication=publication, user=copier)
    subscription.await_items(ALL_ITEMS if publication == "it_exempt" else ALL_ITEMS[1:])


@pytest.fixture
def copier(server):
    name = "it_copier"
    server.drop_roles(name)
    server.run(
        f"CREATE ROLE {name} LOGIN REPLICATION BYPASSRLS IN ROLE pg_read_all_data",
        f"ALTER ROLE {name} SET row_security = off",
    )
    yield name
    server.drop_roles(name)


def test_truncate_is_replicated(published, subscription):
    subscription.start("copy_data = false")
    change(published, "INSERT INTO orders (tenant_id, item) VALUES ('acme', 'new')")
    subscription.await_items(["new"])
    saved = published.run("SET row_security = off", "SELECT id, tenant_id, item FROM orders WHERE item <> 'new'")
    change(published, "TRUNCATE orders")
    for row in saved:
        change(published, "INSERT INTO orders (id, tenant_id, item) VALUES ({}, '{}', '{}')".format(*row))
    subscription.await_items(ALL_ITEMS)


def copied(connection, table):
    """What COPY of a row into a table comes to."""
    try:
        with connection.cursor() as cursor, cursor.copy(f"COPY {table} (tenant_id, item) FROM STDIN") as copy:
            copy.write("globex\tcopied\n")
    except psycopg.Error as error:
        return error.sqlstate, error.diag.message_primary.replace(table, "..."), error.diag.message_hint
    return "copied"


def test_copy_where_another_may_run_it():
    """Another extension may take COPY over, so it is refused before; as PostgreSQL refuses it for a table with a policy by hand."""
    with own_server(f"{NAME}-copy", "shared_preload_libraries=pg_stat_statements,tenancy") as server:
        database = Database(server, "it_copy")
        database.create_shop()
        database.run(
            "CREATE TABLE manual (tenant_id text, item text)",
            "ALTER TABLE manual ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "CREATE POLICY mine ON manual USING (tenant_id = tenancy.current_tenant())",
            role=OWNER,
        )
        server.run("CREATE ROLE it_nobody LOGIN")
        outcomes = []
        for role, settings in ((APP, {}), (APP, {"row_security": "off"}), (OWNER, {}), (OWNER, {"row_security": "off"}), ("it_nobody", {}), ("postgres", {})):
            with database.connect(role, settings=settings) as connection:
                outcomes.append((copied(connection, "orders"), copied(connection, "manual")))
        assert [ours for ours, _ in outcomes] == [by_hand for _, by_hand in outcomes]
        assert [ours if ours == "copied" else ours[0] for ours, _ in outcomes] == ["0A000", "42501", "0A000", "42501", "42501", "copied"]
        server.run("DROP ROLE it_nobody")
