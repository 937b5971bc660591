"""Tables that Citus distributes, on a coordinator and two nodes: the same isolation there.

Citus is in no registry, so this runs where the server that is tested has it (tests/tools/citus.sh builds one); tests/pg_regress/sql/distribute.sql runs everywhere.
"""

import os

import pytest
from support import APP, MAJOR, OWNER, column, pg_program, refused, server_of, server_tool, sqlstate, value

CONTROL = os.path.join(pg_program("pg_config", "--sharedir").stdout.strip(), "extension", "citus.control")
pytestmark = pytest.mark.skipif(not os.path.exists(CONTROL), reason="this server has no Citus, which is in no registry")

NAMES = [f"it-{name}-{os.getpid()}" for name in ("coordinator", "node1", "node2")]
PARAMETERS = ["shared_preload_libraries=citus,tenancy", "wal_level=logical", "max_prepared_transactions=100", "citus.shard_count=4"]
UNSAFE = "SET citus.enable_unsafe_triggers = on"


@pytest.fixture(scope="module")
def cluster():
    """The coordinator; two nodes have the rows."""
    servers = []
    try:
        for name in NAMES:
            servers.append(server_of(server_tool("start", str(MAJOR), name, *PARAMETERS)))
            servers[-1].run("CREATE EXTENSION citus")
        coordinator, *nodes = servers
        coordinator.run(f"SELECT citus_set_coordinator_host('127.0.0.1', {coordinator.port})")
        for node in nodes:
            coordinator.run(f"SELECT citus_add_node('127.0.0.1', {node.port})")
        coordinator.run(
            "ALTER DATABASE postgres SET citus.propagate_set_commands = 'local'",
            "CREATE EXTENSION tenancy",
            f"CREATE ROLE {OWNER} LOGIN",
            f"CREATE ROLE {APP} LOGIN",
            f"GRANT SET ON PARAMETER tenancy.tenant_id TO {APP}",
            f"GRANT CREATE ON SCHEMA public TO {OWNER}",
            f"GRANT EXECUTE ON FUNCTION tenancy.sync_nodes() TO {OWNER}",
            "SELECT tenancy.create_tenant(id) FROM unnest('{acme,globex,initech}'::text[]) AS id",
        )
        coordinator.nodes = nodes
        make(coordinator, "orders")
        coordinator.run("SELECT tenancy.distribute('orders')", role=OWNER)
        yield coordinator
    finally:
        for name in NAMES:
            server_tool("stop", name)


def make(cluster, table):
    cluster.run(
        f"CREATE TABLE {table} (tenant_id text NOT NULL, id bigint NOT NULL, item text, PRIMARY KEY (tenant_id, id))",
        f"INSERT INTO {table} SELECT t, n, t || ' ' || n FROM unnest('{{acme,globex,initech}}'::text[]) AS t, generate_series(1, 100) AS n",
        f"SELECT tenancy.protect('{table}')",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {APP}",
        role=OWNER,
    )


@pytest.fixture
def app(cluster):
    with cluster.connect(APP) as connection:
        yield connection


@pytest.fixture
def dba(cluster):
    with cluster.connect() as connection:
        yield connection


def as_tenant(connection, tenant, statement, arguments=None):
    """What a statement returns in a transaction of its own. SET LOCAL with a parameter, or set_config(), is not sent to the nodes."""
    with connection.transaction():
        connection.execute(f"SET LOCAL tenancy.tenant_id = '{tenant}'")
        cursor = connection.execute(statement, arguments)
        return cursor.fetchall() if cursor.description else cursor.rowcount


def test_by_hand_it_is_open(cluster, app, dba):
    """Citus makes all policies PERMISSIVE on the nodes: without distribute(), a tenant writes rows of another. It is found, and mended."""
    make(cluster, "by_hand")
    with cluster.connect() as owner:
        owner.execute(UNSAFE)
        owner.execute("SELECT create_distributed_table('by_hand', 'tenant_id')")
    assert as_tenant(app, "acme", "INSERT INTO by_hand VALUES ('globex', 900, 'planted')") == 1
    assert column(dba, "SELECT remedy FROM tenancy.lint() WHERE rule = 'distributed_open'") == ["SELECT tenancy.distribute('public.by_hand');"]
    cluster.run("SELECT tenancy.distribute('by_hand')", role=OWNER)
    with refused("TENANT_ACCESS_DENIED"):
        as_tenant(app, "acme", "INSERT INTO by_hand VALUES ('globex', 901, 'planted')")
    assert column(dba, "SELECT object FROM tenancy.lint() WHERE rule = 'distributed_open'") == []


def test_what_does_not_reach_the_nodes(cluster, dba):
    """What plays or visits tenants here says so, or is refused: nothing is done to rows that it would not see."""
    assert dba.execute(f"SELECT check_name, result FROM tenancy.prove('{APP}', 'orders') WHERE relation = 'orders'::regclass").fetchall() == [("rows", "could not be tested")]
    for statement in ("SELECT tenancy.export_tenant('acme')", "SELECT tenancy.clone_tenant('acme', 'acme-too')"):
        with refused("TENANT_CONTEXT_MISSING"):
            dba.execute(statement)
    dba.execute("SELECT tenancy.archive_tenant('initech')")
    with refused("TENANT_CONTEXT_MISSING"):
        dba.execute("SELECT tenancy.delete_tenant('initech')")
    dba.execute("SELECT tenancy.resume_tenant('initech')")
    assert value(dba, "SELECT count(*) FROM orders WHERE tenant_id = 'initech'") == 100


def test_every_shard(dba):
    """Has both policies, each of which isolates, forced; and the trigger."""
    shown = dba.execute(
        """SELECT result, count(*) FROM run_command_on_placements('orders', $$
           SELECT concat(c.relrowsecurity, c.relforcerowsecurity,
                         (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid
                          AND pg_get_expr(p.polqual, p.polrelid) = '(tenant_id = tenancy.current_tenant())'
                          AND pg_get_expr(p.polwithcheck, p.polrelid) = '((tenant_id = tenancy.current_tenant()) OR tenancy.deny_write())'),
                         (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid),
                         (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname ~ '^tenancy_guard' AND t.tgenabled = 'A'))
           FROM pg_class c WHERE c.oid = '%s'::regclass$$) GROUP BY 1"""
    ).fetchall()
    assert shown == [("tt221", 4)]


def test_reads(app):
    for statement in (
        "SELECT tenant_id FROM orders",
        "SELECT a.tenant_id FROM orders a JOIN orders b USING (tenant_id, id)",
        "WITH w AS MATERIALIZED (SELECT * FROM orders) SELECT tenant_id FROM w",
        "SELECT tenant_id FROM (SELECT * FROM orders ORDER BY id LIMIT 1000 OFFSET 0) s",
        "SELECT tenant_id FROM orders WHERE tenant_id IN ('acme', 'globex')",
        "SELECT tenant_id FROM orders UNION ALL SELECT tenant_id FROM orders WHERE tenant_id = 'globex'",
    ):
        for tenant in ("acme", "globex"):
            assert set(as_tenant(app, tenant, statement)) == {(tenant,)}, statement
    assert as_tenant(app, "acme", "SELECT count(*) FROM orders WHERE tenant_id = 'globex'") == [(0,)]
    assert as_tenant(app, "acme", "SELECT count(*) FROM orders a, orders b WHERE a.tenant_id = 'globex' AND b.tenant_id = 'globex' AND a.id = b.id") == [(0,)]
    app.execute("PREPARE counted AS SELECT count(*), min(tenant_id) FROM orders")
    for tenant in ("acme", "globex", "acme", "initech", "acme", "globex", "initech"):
        assert as_tenant(app, tenant, "EXECUTE counted") == [(100, tenant)]
    with app.transaction(), app.cursor() as cursor:
        app.execute("SET LOCAL tenancy.tenant_id = 'acme'")
        with cursor.copy("COPY (SELECT * FROM orders) TO STDOUT") as copy:
            assert {bytes(line).split(b"\t")[0] for line in copy} == {b"acme"}
    # By connections of its own, which no tenant reaches.
    with refused("TENANT_CONTEXT_MISSING"), app.transaction(), app.cursor() as cursor:
        app.execute("SET LOCAL tenancy.tenant_id = 'acme'")
        with cursor.copy("COPY orders TO STDOUT") as copy:
            list(copy)


def test_the_tenant_changes(app):
    """Within a transaction the nodes follow, to a savepoint as well; a cursor does not."""
    counted = "SELECT count(*), min(tenant_id) FROM orders"
    with app.transaction():
        app.execute("SET LOCAL tenancy.tenant_id = 'acme'")
        assert app.execute(counted).fetchall() == [(100, "acme")]
        with app.transaction(force_rollback=True):
            app.execute("SET LOCAL tenancy.tenant_id = 'globex'")
            assert app.execute(counted).fetchall() == [(100, "globex")]
        assert app.execute(counted).fetchall() == [(100, "acme")]
    with refused("TENANT_ACCESS_DENIED"), app.transaction():
        app.execute("SET LOCAL tenancy.tenant_id = 'acme'")
        app.execute("DECLARE c CURSOR FOR SELECT tenant_id FROM orders")
        app.execute("FETCH 1 FROM c")
        app.execute("SET LOCAL tenancy.tenant_id = 'globex'")
        app.execute("FETCH 1 FROM c")


def test_writes(app, dba):
    before = value(dba, "SELECT count(*) FROM orders WHERE tenant_id <> 'acme'")
    assert as_tenant(app, "acme", "INSERT INTO orders (id, item) VALUES (500, 'new') RETURNING tenant_id") == [("acme",)]
    assert as_tenant(app, "acme", "UPDATE orders SET item = 'changed' WHERE id = 500") == 1
    upsert = "INSERT INTO orders (id, item) VALUES (500, 'again') ON CONFLICT (tenant_id, id) DO UPDATE SET item = excluded.item RETURNING tenant_id, item"
    assert as_tenant(app, "acme", upsert) == [("acme", "again")]
    assert as_tenant(app, "acme", "DELETE FROM orders WHERE id = 500") == 1
    app.execute("PREPARE put (text, bigint) AS INSERT INTO orders (tenant_id, id) VALUES ($1, $2)")
    for statement in (
        "INSERT INTO orders VALUES ('globex', 501, 'planted')",
        "INSERT INTO orders VALUES ('acme', 502, 'mine'), ('globex', 502, 'planted')",
        "INSERT INTO orders VALUES ('globex', 1, 'planted') ON CONFLICT (tenant_id, id) DO UPDATE SET item = excluded.item",
        "EXECUTE put ('globex', 503)",
        "WITH w AS (INSERT INTO orders VALUES ('globex', 504, 'planted') RETURNING id) SELECT * FROM w",
    ):
        with refused("TENANT_ACCESS_DENIED"):
            as_tenant(app, "acme", statement)
    for statement in ("UPDATE orders SET item = 'planted' WHERE tenant_id = 'globex'", "DELETE FROM orders WHERE tenant_id = 'globex'"):
        assert as_tenant(app, "acme", statement) == 0
    with sqlstate("42501"):
        as_tenant(app, "acme", "TRUNCATE orders")
    # What is not possible is refused, not done without the policies.
    for statement in ("INSERT INTO orders SELECT 'globex', id + 1000 FROM orders", "UPDATE orders SET tenant_id = 'globex'"):
        with sqlstate("0A000"):
            as_tenant(app, "acme", statement)
    assert value(dba, "SELECT count(*) FROM orders WHERE tenant_id <> 'acme'") == before
    assert value(dba, "SELECT count(*) FROM orders WHERE item = 'planted' OR id > 499") == 0


def copied(connection, table):
    with connection.transaction(), connection.cursor() as cursor:
        connection.execute("SET LOCAL tenancy.tenant_id = 'acme'")
        with cursor.copy(f"COPY {table} (tenant_id, id) FROM STDIN") as copy:
            copy.write("globex\t600\n")


def test_copy(cluster, app, dba):
    """Citus writes rows of this server itself, and asks no policy."""
    with sqlstate("0A000"):
        copied(app, "orders")
    dba.execute(f"SELECT citus_set_node_property('127.0.0.1', {cluster.port}, 'shouldhaveshards', true)")
    try:
        make(cluster, "here")
        cluster.run("SELECT tenancy.distribute('here', colocate_with => 'none')", role=OWNER)
        here = "SELECT count(*) FROM pg_dist_placement p JOIN pg_dist_shard s USING (shardid) WHERE s.logicalrelid = 'here'::regclass AND p.groupid = 0"
        assert value(dba, here) > 0
        with sqlstate("0A000"):
            copied(app, "here")
        with refused("TENANT_ACCESS_DENIED"):
            as_tenant(app, "acme", "INSERT INTO here VALUES ('globex', 601), ('initech', 601)")
        for tenant in ("acme", "globex", "initech"):
            assert set(as_tenant(app, tenant, "SELECT tenant_id, count(*) OVER () FROM here")) == {(tenant, 100)}
        assert value(dba, "SELECT count(*) FROM here") == 300
        dba.execute("DROP TABLE here")
    finally:
        dba.execute(f"SELECT citus_set_node_property('127.0.0.1', {cluster.port}, 'shouldhaveshards', false)")


def test_one_shard(app):
    """What is sent by itself for a tenant goes to the shard that has its rows, although the statement does not say so."""
    said = []
    app.add_notice_handler(lambda notice: said.append(notice.message_primary))
    app.execute("SET citus.log_remote_commands = on")
    for statement in ("SELECT count(*) FROM orders", "SELECT item FROM orders WHERE id = 7", "UPDATE orders SET item = item WHERE id = 7"):
        said.clear()
        as_tenant(app, "acme", statement)
        assert sum("orders_" in text for text in said) == 1, said


def test_no_tenant(app, cluster):
    """Nor one that does not reach the nodes."""
    for first in (None, "SET tenancy.tenant_id = 'acme'"):
        if first:
            app.execute(first)
        with refused("TENANT_CONTEXT_MISSING"):
            app.execute("SELECT count(*) FROM orders")
    with refused("TENANT_CONTEXT_MISSING"), app.transaction():
        app.execute("SELECT tenancy.set_tenant('acme')")
        app.execute("SELECT count(*) FROM orders")
    with cluster.connect(APP, settings={"citus.propagate_set_commands": "none"}) as other, refused("TENANT_CONTEXT_MISSING"):
        as_tenant(other, "acme", "SELECT count(*) FROM orders")


def test_a_node_by_itself(cluster, dba):
    """Whoever connects to a node finds the same: in its copy of the table, and in each shard."""
    for node in cluster.nodes:
        with node.connect(APP, settings={"citus.override_table_visibility": "off"}) as other:
            shards = column(other, "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relname ~ '^orders_[0-9]+$' AND c.relkind = 'r'")
            assert shards
            for shard in shards:
                with refused("TENANT_CONTEXT_MISSING"):
                    other.execute(f"SELECT count(*) FROM {shard}")
                assert set(as_tenant(other, "acme", f"SELECT tenant_id FROM {shard}")) <= {("acme",)}
                with sqlstate("42501"):
                    as_tenant(other, "acme", f"INSERT INTO {shard} VALUES ('globex', 700)")
            assert as_tenant(other, "globex", "SELECT count(*), min(tenant_id) FROM orders") == [(100, "globex")]


def test_tenants(cluster, app, dba):
    """Are on the nodes when they are here, and out at once when they are suspended."""
    dba.execute("SELECT tenancy.create_tenant('newcomer')")
    assert as_tenant(app, "newcomer", "INSERT INTO orders (id) VALUES (1) RETURNING tenant_id") == [("newcomer",)]
    dba.execute("SELECT tenancy.suspend_tenant('newcomer', 'for a test')")
    with refused("TENANT_SUSPENDED"):
        as_tenant(app, "newcomer", "SELECT count(*) FROM orders")
    for node in cluster.nodes:
        with node.connect(APP) as other, refused("TENANT_SUSPENDED"):
            as_tenant(other, "newcomer", "SELECT count(*) FROM orders")
    dba.execute("SELECT tenancy.resume_tenant('newcomer')")
    assert as_tenant(app, "newcomer", "SELECT count(*) FROM orders") == [(1,)]
    dba.execute("DELETE FROM orders WHERE tenant_id = 'newcomer'")
    dba.execute("DELETE FROM _tenancy.tenants WHERE id = 'newcomer'")
    for node in cluster.nodes:
        assert node.run("SELECT count(*) FROM _tenancy.tenants WHERE id = 'newcomer'") == [(0,)]


def test_a_node_is_away(cluster, dba):
    """Then no tenant comes or goes; afterwards everything is as before."""
    node = cluster.nodes[0]
    node.run("ALTER DATABASE postgres ALLOW_CONNECTIONS false", dbname="template1")
    node.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres'", dbname="template1")
    try:
        with refused("NODE_NOT_READY"):
            dba.execute("SELECT tenancy.create_tenant('halfway')")
        assert value(dba, "SELECT count(*) FROM tenancy.tenants WHERE id = 'halfway'") == 0
    finally:
        node.run("ALTER DATABASE postgres ALLOW_CONNECTIONS true", dbname="template1")
    # The other one has got it.
    assert cluster.nodes[1].run("SELECT count(*) FROM _tenancy.tenants WHERE id = 'halfway'") == [(1,)]
    assert value(dba, "SELECT tenancy.sync_nodes()") == 3
    for other in cluster.nodes:
        assert other.run("SELECT string_agg(id, ',' ORDER BY id) FROM _tenancy.tenants") == [("acme,globex,initech",)]


def test_grants(cluster, dba):
    dba.execute("CREATE ROLE late_app LOGIN")
    dba.execute("GRANT SET ON PARAMETER tenancy.tenant_id TO late_app")
    may = "SELECT has_parameter_privilege('late_app', 'tenancy.tenant_id', 'SET')"
    for granted in (True, False):
        if not granted:
            dba.execute("REVOKE SET ON PARAMETER tenancy.tenant_id FROM late_app")
        dba.execute("SELECT tenancy.sync_nodes()")
        for node in cluster.nodes:
            assert node.run(may) == [(granted,)]
    dba.execute("DROP ROLE late_app")


def test_a_shard_moves(cluster, app, dba):
    """With its isolation."""
    first, second = (int(node.port) for node in cluster.nodes)
    shard = value(dba, "SELECT min(shardid) FROM citus_shards WHERE table_name = 'orders'::regclass AND nodeport = %s", [first])
    dba.execute("SELECT citus_move_shard_placement(%s, '127.0.0.1', %s, '127.0.0.1', %s, 'block_writes')", [shard, first, second])
    test_every_shard(dba)
    for tenant in ("acme", "globex", "initech"):
        assert as_tenant(app, tenant, "SELECT count(*), min(tenant_id), max(tenant_id) FROM orders") == [(100, tenant, tenant)]
        for other in {"acme", "globex", "initech"} - {tenant}:
            with refused("TENANT_ACCESS_DENIED"):
                as_tenant(app, tenant, "INSERT INTO orders VALUES (%s, 800, 'planted')", [other])


def test_the_way_back(cluster, app, dba):
    """Citus takes no change of the column by which it distributes. What undistribute_table makes isolates, but is another table, to be protected anew."""
    make(cluster, "back")
    with cluster.connect(OWNER) as owner:
        owner.execute("SELECT tenancy.distribute('back', shard_count => 2)")
        owner.execute(UNSAFE)
        with sqlstate("XX000"):
            owner.execute("SELECT tenancy.unprotect('back')")
    isolated = "SELECT count(*), min(tenant_id), max(tenant_id) FROM back"
    assert as_tenant(app, "acme", isolated) == [(100, "acme", "acme")]
    dba.execute(UNSAFE)
    dba.execute("SELECT undistribute_table('back')")
    for _ in range(2):
        assert as_tenant(app, "acme", isolated) == [(100, "acme", "acme")]
        with refused("TENANT_ACCESS_DENIED"):
            as_tenant(app, "acme", "INSERT INTO back VALUES ('globex', 900)")
        dba.execute("SELECT tenancy.protect('back')")
    assert column(dba, "SELECT rule FROM tenancy.lint() WHERE object = 'public.back'") == []
