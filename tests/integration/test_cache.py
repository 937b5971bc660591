"""Caches: a version tells of what a snapshot sees, neither more nor less, whatever happens to transactions and servers."""

import os
import random
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import psycopg
import pytest
import redis
from support import APP, MAJOR, OWNER, Database, eventually, pg_program, refused, server_of, server_tool, set_local, set_session, value
from test_standby import standby, wait_for_replay  # noqa: F401 — a fixture

TENANTS = ("acme", "globex")
VERSION = "SELECT tenancy.cache_version('tick')"
# What there is, and its version, as one snapshot sees them.
STATE = "SELECT tenancy.cache_version('tick'), (SELECT (count(*), sum(id * id), max(note)) FROM tick)::text"


@pytest.fixture(scope="module", autouse=True)
def ticks(db):
    db.run("CREATE TABLE tick (id bigserial PRIMARY KEY, tenant_id text, note text)", role=OWNER)
    db.run("SELECT tenancy.protect('tick')", role=OWNER)
    db.run("SELECT tenancy.cache_watch('tick', 'tick')")


def versions(source, tenants=TENANTS):
    found = {}
    for tenant in tenants:
        with source.transaction():
            set_local(source, tenant)
            found[tenant] = value(source, VERSION)
    return found


def insert(source, tenant, note=None):
    with source.transaction():
        set_local(source, tenant)
        source.execute("INSERT INTO tick (note) VALUES (%s)", [note])


class Traffic:
    """Writers that commit, roll back, prepare and nest, and readers that compare."""

    def __init__(self, db):
        self.db, self.stop, self.wrong = db, threading.Event(), []
        self.kept, self.known, self.threads = {}, {}, []
        self.lock = threading.Lock()
        self.commits = 0

    def start(self, work, *arguments):
        def run():
            try:
                with self.db.connect(APP) as connection:
                    work(connection, *arguments)
            except Exception as error:  # noqa: BLE001 — told by the test
                self.wrong.append(repr(error))

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def write(self, connection, seed, level):
        chance, number = random.Random(seed), 0
        connection.execute(f"SET default_transaction_isolation = '{level}'")
        while not self.stop.is_set():
            number += 1
            try:
                is_committed = self.transaction(connection, chance, f"tick-{seed}-{number}")
            except psycopg.errors.SerializationFailure:
                connection.execute("ROLLBACK")
                continue
            with self.lock:
                self.commits += is_committed

    def transaction(self, connection, chance, name):
        connection.execute("BEGIN")
        set_local(connection, chance.choice(TENANTS))
        connection.execute("INSERT INTO tick DEFAULT VALUES")
        for _ in range(chance.randrange(3)):
            connection.execute("SAVEPOINT s")
            connection.execute("INSERT INTO tick DEFAULT VALUES")
            connection.execute(chance.choice(["ROLLBACK TO s", "RELEASE s"]))
        if chance.random() < 0.2:
            connection.execute("DELETE FROM tick WHERE id IN (SELECT id FROM tick ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)")
        end = chance.random()
        if end < 0.2:
            connection.execute("ROLLBACK")
            return False
        if end > 0.3:
            connection.execute("COMMIT")
            return True
        connection.execute(f"PREPARE TRANSACTION '{name}'")
        time.sleep(0.002)
        connection.execute(f"{'ROLLBACK' if end < 0.25 else 'COMMIT'} PREPARED '{name}'")
        return end >= 0.25

    def read(self, connection, level):
        connection.execute(f"SET default_transaction_isolation = '{level}'")
        while not self.stop.is_set():
            for tenant in TENANTS:
                with connection.transaction():
                    set_local(connection, tenant)
                    first = connection.execute(STATE).fetchone()
                    second = connection.execute(STATE).fetchone()
                if level != "read committed" and first != second:
                    self.wrong.append(f"{tenant}: {first}, then {second} in one snapshot")
                for version, state in (first, second):
                    with self.lock:
                        # What is under a version is what there is, and nothing has two.
                        if self.kept.setdefault((tenant, version), state) != state:
                            self.wrong.append(f"{tenant} {version}: {self.kept[tenant, version]}, and {state}")
                        if self.known.setdefault((tenant, state), version) != version:
                            self.wrong.append(f"{tenant} {state}: {self.known[tenant, state]}, and {version}")

    def settle(self):
        while not self.stop.is_set():
            self.db.run("SELECT tenancy.sweep_cache()")
            time.sleep(0.05)


def test_a_version_is_of_a_snapshot(db):
    # More rows than are deleted, so that no state comes twice.
    db.run("INSERT INTO tick (tenant_id) SELECT t FROM unnest('{acme,globex}'::text[]) AS t, generate_series(1, 5000)")
    traffic = Traffic(db)
    for seed, level in enumerate(("read committed",) * 3 + ("repeatable read", "serializable")):
        traffic.start(traffic.write, seed, level)
    for level in ("read committed", "repeatable read", "serializable"):
        traffic.start(traffic.read, level)
    settler = threading.Thread(target=traffic.settle)
    settler.start()
    time.sleep(4)
    traffic.stop.set()
    for thread in [*traffic.threads, settler]:
        thread.join(60)
    # A reader may be told that its transaction cannot be serializable, as PostgreSQL tells it of the rows alone.
    assert [wrong for wrong in traffic.wrong if not wrong.startswith("SerializationFailure")] == []
    assert traffic.commits > 200 and len(traffic.kept) > 100
    assert db.run("SELECT max(n) < 500 FROM (SELECT count(*) AS n FROM _tenancy.cache_changes GROUP BY tenant_id, resource_type) AS c") == [(True,)]


def test_keys_are_those_of_a_library(db, app):
    """Whoever makes the same key elsewhere has a function for it."""
    from urllib.parse import quote

    chance = random.Random(5)
    set_session(app, "acme")
    for _ in range(200):
        kind, number = ("".join(chr(chance.choice([*range(1, 127), 233, 0x20AC, 0x1F600])) for _ in range(chance.randrange(12))) for _ in "ab")
        made = value(app, "SELECT tenancy.cache_key(%s::text, %s::text)", [kind, number])
        assert made == f"tenant:acme:{quote(kind, safe='')}:{quote(number, safe='')}"


def test_bypassing_roles_and_many_tenants(db, dba):
    before = versions(dba)
    dba.execute("INSERT INTO tick (tenant_id) SELECT t FROM unnest('{acme,globex,acme,initech}'::text[]) AS t")
    after = versions(dba)
    assert all(before[tenant] != after[tenant] for tenant in TENANTS)
    dba.execute("TRUNCATE tick")
    assert all(after[tenant] != now for tenant, now in versions(dba).items())


def test_a_crash_keeps_versions_and_empties_the_cache(db):
    """What was committed is there, and a version is none that has been."""
    env = server_tool("start", str(MAJOR), f"it-cache-{os.getpid()}", "--preload", "max_prepared_transactions=5")
    shop = object.__new__(Database)
    shop.server, shop.name = server_of(env), "postgres"
    try:
        shop.server.create_roles()
        shop.run("CREATE EXTENSION tenancy", "SELECT tenancy.create_tenant('acme')", "CREATE TABLE tick (id bigserial PRIMARY KEY, tenant_id text)",
                 f"SELECT tenancy.protect('tick'), tenancy.cache_watch('tick', 'tick')")  # fmt: skip
        seen = set()
        with shop.connect("postgres") as dba:
            set_session(dba, "acme")
            dba.execute("SELECT tenancy.cache_set('k', '1')")
            for _ in range(5):
                dba.execute("INSERT INTO tick DEFAULT VALUES")
                seen.add(value(dba, VERSION))
            last = value(dba, VERSION)
            dba.execute("BEGIN")
            dba.execute("INSERT INTO tick DEFAULT VALUES")
            seen.add(value(dba, VERSION))
            dba.execute("PREPARE TRANSACTION 'kept'")
        server_tool("crash", f"it-cache-{os.getpid()}")
        with shop.connect("postgres") as dba:
            set_session(dba, "acme")
            assert value(dba, VERSION) == last
            assert value(dba, "SELECT tenancy.cache_get('k')") is None
            dba.execute("COMMIT PREPARED 'kept'")
            assert value(dba, VERSION) not in seen
            # Dropped and made again, versions are others.
            old = value(dba, VERSION)
            dba.execute("RESET tenancy.tenant_id")
            with dba.transaction():
                dba.execute("INSERT INTO tick (tenant_id) VALUES ('acme')")
                dba.execute("DROP EXTENSION tenancy CASCADE")
            dba.execute("CREATE EXTENSION tenancy")
            dba.execute("SELECT tenancy.create_tenant('acme')")
            dba.execute("SELECT tenancy.protect('tick'), tenancy.cache_watch('tick', 'tick')")
            set_session(dba, "acme")
            assert value(dba, VERSION) != old
    finally:
        server_tool("stop", f"it-cache-{os.getpid()}")


def test_standby_has_the_versions_of_what_it_shows(db, app, standby, dba):  # noqa: F811
    insert(app, "acme")
    wait_for_replay(db, standby)
    with standby.connect(APP) as replica:
        set_session(replica, "acme")
        set_session(app, "acme")
        here, there = app.execute(STATE).fetchone(), replica.execute(STATE).fetchone()
        assert here == there
        app.execute("SELECT tenancy.cache_set('k', '1')")
        assert value(app, "SELECT tenancy.cache_get('k')") == 1
        assert value(replica, "SELECT tenancy.cache_get('k')") is None
        assert value(replica, "SELECT tenancy.cache_key('tick', 1)") == "tenant:acme:tick:1"
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            replica.execute("SELECT tenancy.cache_set('k', '1')")
        app.execute("RESET tenancy.tenant_id")
        insert(app, "acme")
        wait_for_replay(db, standby)
        assert replica.execute(STATE).fetchone() != there


def test_notifications(db, app, connect):
    listener, other = connect("postgres"), connect("postgres")
    listener.execute(f"LISTEN {value(listener, 'SELECT tenancy.cache_channel()')}")

    def heard():
        other.execute("SELECT pg_notify(%s, 'end')", [value(other, "SELECT tenancy.cache_channel()")])
        told = []
        for message in listener.notifies(timeout=20):
            if message.payload == "end":
                return sorted(told)
            told.append(message.payload)
        raise AssertionError("no end")

    insert(app, "acme")
    assert heard() == []
    db.run("SELECT tenancy.cache_watch('tick', 'tick', true), tenancy.cache_watch('tick', 'clock', true), tenancy.cache_watch('tick', 'quiet')")
    both = ['{"tenant_id":"%s","resource_type":"clock"}', '{"tenant_id":"%s","resource_type":"tick"}']
    assert heard() == ['{"tenant_id":null,"resource_type":"clock"}', '{"tenant_id":null,"resource_type":"tick"}']
    with app.transaction():
        set_local(app, "acme")
        for _ in range(3):
            app.execute("INSERT INTO tick DEFAULT VALUES")
    assert heard() == [line % "acme" for line in both]
    with app.transaction(force_rollback=True):
        set_local(app, "acme")
        app.execute("INSERT INTO tick DEFAULT VALUES")
    assert heard() == []
    other.execute("INSERT INTO tick (tenant_id) VALUES ('acme'), ('globex')")
    assert heard() == sorted(line % tenant for line in both for tenant in TENANTS)
    with app.transaction():
        set_local(app, "acme")
        app.execute("SELECT tenancy.invalidate_cache()")
    assert heard() == ['{"tenant_id":"acme","resource_type":null}']
    # PostgreSQL prepares no transaction that notifies, so this one does not.
    set_session(app, "acme")
    app.execute("BEGIN")
    app.execute("INSERT INTO tick DEFAULT VALUES")
    app.execute("PREPARE TRANSACTION 'told'")
    before = versions(other)["acme"]
    app.execute("COMMIT PREPARED 'told'")
    assert heard() == [] and versions(other)["acme"] != before
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute("SELECT tenancy.cache_channel()")
    db.run("SELECT tenancy.cache_watch('tick', 'tick'), tenancy.cache_unwatch('tick', 'clock'), tenancy.cache_unwatch('tick', 'quiet')")


def test_a_scope_of_several_tenants_has_no_version(app, dba):
    dba.execute("SELECT tenancy.grant_cross_tenant(%s, %s, 'infinity')", [APP, list(TENANTS)])
    with app.transaction(force_rollback=True):
        app.execute("SELECT tenancy.begin_cross_tenant('{acme,globex}', 'looking')")
        for call in ("cache_version('tick')", "cache_key('tick', 1)", "cache_get('k')"):
            with refused("TENANT_CONTEXT_MISSING"), app.transaction():
                app.execute(f"SELECT tenancy.{call}")
    dba.execute("SELECT tenancy.revoke_cross_tenant(%s)", [APP])


def test_dump_and_restore(db, server, app):
    """What is watched is there again; versions are others."""
    target = Database(server, "it_cache_restored", extension=False)
    try:
        before = versions(app)["acme"]
        connection = ["-h", server.host, "-p", str(server.port), "-U", "postgres"]
        dump = pg_program("pg_dump", *connection, db.name).stdout
        path = Path(f"/tmp/tenancy-cache-{os.getpid()}.sql")
        path.write_text(dump)
        pg_program("psql", *connection, "-q", "-v", "ON_ERROR_STOP=1", "-d", target.name, "-f", str(path))
        path.unlink()
        assert target.run("SELECT relation::text, resource_type, notify FROM tenancy.cache_watches") == [("tick", "tick", False)]
        assert target.run("SELECT drift FROM tenancy.protected_tables WHERE drift <> '{}'") == []
        with target.connect(APP) as there:
            first = versions(there)["acme"]
            insert(there, "acme")
            assert len({before, first, versions(there)["acme"]}) == 3
        assert "cache_changes" not in dump and "tenancy_cache_" not in dump
    finally:
        target.drop()


@pytest.fixture(scope="module")
def store():
    """A Redis server of our own."""
    socket = f"/tmp/tenancy-redis-{os.getpid()}.sock"
    # Debian's redis-tools has the server under the name of another tool, which goes by the name that it is called by.
    arguments = ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", "/tmp"]
    server = subprocess.Popen(arguments, executable=shutil.which("redis-check-rdb"), stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=socket)

    def answers():
        try:
            return client.ping()
        except redis.ConnectionError:
            return False

    try:
        eventually(answers)
        yield client
    finally:
        client.close()
        server.terminate()
        server.wait(30)


def test_redis(db, app, dba, store):
    """The example of docs/cache.md, as it stands there: never outdated, never another tenant's, and mostly found."""
    text = Path(__file__).parents[2].joinpath("docs", "cache.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(code, names)  # noqa: S102 — our own documentation
    cache = names["TenantCache"](store)
    for tenant in TENANTS:
        insert(app, tenant, f"{tenant} 0")
    query, chance = "SELECT count(*), max(note) FROM tick", random.Random(7)
    hits, asked = 0, 0
    for number in range(400):
        tenant = chance.choice(TENANTS)
        if chance.random() < 0.2:
            insert(app, tenant, f"{tenant} {number:04}")
            continue
        with app.transaction():
            set_local(app, tenant)
            before = store.dbsize()
            found = cache.get(app, "tick", "summary", query)
            asked, hits = asked + 1, hits + (store.dbsize() == before)
            assert found == [list(row) for row in app.execute(query).fetchall()]
            assert found[0][1].startswith(tenant)
    assert 0.3 * asked < hits < asked
    keys = [key.decode() for key in store.keys()]
    assert keys and all(re.fullmatch(r"tenant:(acme|globex):tick:summary:[0-9a-f]{16}", key) for key in keys), keys
    # What a transaction has not committed is under a key of its own, and told to nobody.
    with app.transaction(force_rollback=True):
        set_local(app, "acme")
        app.execute("INSERT INTO tick (note) VALUES ('not committed')")
        assert "not committed" in str(cache.get(app, "tick", "summary", query))
    with app.transaction():
        set_local(app, "acme")
        assert "not committed" not in str(cache.get(app, "tick", "summary", query))
