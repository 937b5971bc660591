"""Tables that Citus distributes, on a coordinator and two nodes: the same isolation there."""

import psycopg
import pytest
from distribute import COUNTED, HIDDEN, UNSAFE, app, as_tenant, cluster, dba, kept_out, make, shards  # noqa: F401
from support import APP, OWNER, column, refused, sqlstate, value


def test_by_hand_it_is_open(cluster, app, dba):
    """Citus makes all policies PERMISSIVE on the nodes: without distribute(), a tenant writes rows of another there. It is found, nothing is done with such a
    table here, and it is mended."""
    make(cluster, "by_hand")
    with cluster.connect() as owner:
        owner.execute(UNSAFE)
        owner.execute("SELECT create_distributed_table('by_hand', 'tenant_id')")
    with cluster.nodes[0].connect(APP, settings=HIDDEN) as other:
        assert as_tenant(other, "acme", f"INSERT INTO {shards(other, 'by_hand')[0]} VALUES ('globex', 900, 'planted')") == 1
    for statement in ("INSERT INTO by_hand VALUES ('globex', 902, 'planted')", "SELECT count(*) FROM by_hand", "DELETE FROM by_hand"):
        with refused("PROTECTION_WEAKENED"):
            as_tenant(app, "acme", statement)
    assert column(dba, "SELECT remedy FROM tenancy.lint() WHERE rule = 'distributed_open'") == ["SELECT tenancy.distribute('public.by_hand');"]
    cluster.run("SELECT tenancy.distribute('by_hand')", role=OWNER)
    with refused("TENANT_ACCESS_DENIED"):
        as_tenant(app, "acme", "INSERT INTO by_hand VALUES ('globex', 901, 'planted')")
    with cluster.nodes[0].connect(APP, settings=HIDDEN) as other, refused("TENANT_ACCESS_DENIED"):
        as_tenant(other, "acme", f"INSERT INTO {shards(other, 'by_hand')[0]} VALUES ('globex', 903, 'planted')")
    assert column(dba, "SELECT object FROM tenancy.lint() WHERE rule = 'distributed_open'") == []


def test_it_is_not_opened_again(cluster, dba):
    """A policy that narrows here is an alternative there."""
    with cluster.connect(OWNER) as owner:
        for statement in (
            "CREATE POLICY mine ON orders AS RESTRICTIVE USING (true)",
            "CREATE POLICY mine ON orders USING (true)",
            "ALTER POLICY tenancy_access ON orders WITH CHECK (true)",
            "ALTER TABLE orders NO FORCE ROW LEVEL SECURITY",
        ):
            with refused("PROTECTION_WEAKENED"):
                owner.execute(statement)
    test_every_shard(dba)


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


def isolation_of_shards(dba, table):
    """Of each shard: whether row-level security is enabled and forced, how many policies isolate by themselves, and how many there are; and the trigger."""
    return dba.execute(
        """SELECT DISTINCT result FROM run_command_on_placements(%s, $$
           SELECT concat(c.relrowsecurity, c.relforcerowsecurity,
                         (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid
                          AND pg_get_expr(p.polqual, p.polrelid) = '(tenant_id = tenancy.current_tenant())'
                          AND pg_get_expr(p.polwithcheck, p.polrelid) = '((tenant_id = tenancy.current_tenant()) OR tenancy.deny_write())'),
                         (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid),
                         (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname ~ '^tenancy_guard' AND t.tgenabled = 'A'))
           FROM pg_class c WHERE c.oid = '%%s'::regclass$$)""",
        [table],
    ).fetchall()


def test_every_shard(dba):
    """Has both policies, each of which isolates, forced; and the trigger."""
    assert isolation_of_shards(dba, "orders") == [("tt221",)]


def test_what_was_changed_here_only(cluster, dba):
    """The nodes have it as well, whatever was done without telling them."""
    make(cluster, "quiet")
    dba.execute(UNSAFE)
    dba.execute("SELECT create_distributed_table('quiet', 'tenant_id')")
    with cluster.connect(OWNER) as owner:
        owner.execute("SET citus.enable_ddl_propagation = off")
        with refused("NODE_NOT_READY"):
            owner.execute("SELECT tenancy.protect('quiet')")
        owner.execute("ALTER POLICY tenancy_access ON quiet WITH CHECK (tenant_id = tenancy.current_tenant() OR tenancy.deny_write())")
        assert isolation_of_shards(dba, "quiet") == [("tt121",)]
        owner.execute("SELECT tenancy.distribute('quiet')")
        assert value(owner, "SHOW citus.enable_ddl_propagation") == "off"
    assert isolation_of_shards(dba, "quiet") == [("tt221",)]
    dba.execute("DROP TABLE quiet")


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
    with sqlstate("0A000"), app.transaction(), app.cursor() as cursor:
        app.execute("SET LOCAL tenancy.tenant_id = 'acme'")
        with cursor.copy("COPY orders TO STDOUT") as copy:
            list(copy)


def test_the_tenant_changes(app):
    """Within a transaction the nodes follow SET LOCAL; a cursor does not."""
    with app.transaction():
        for tenant in ("acme", "globex", "acme"):
            app.execute(f"SET LOCAL tenancy.tenant_id = '{tenant}'")
            assert app.execute(COUNTED).fetchall() == [(100, tenant, tenant)]
            # What comes of savepoints in which it does not change.
            with app.transaction(force_rollback=True):
                assert app.execute(COUNTED).fetchall() == [(100, tenant, tenant)]
            assert app.execute(COUNTED).fetchall() == [(100, tenant, tenant)]
    with refused("TENANT_ACCESS_DENIED"), app.transaction():
        app.execute("SET LOCAL tenancy.tenant_id = 'acme'")
        app.execute("DECLARE c CURSOR FOR SELECT tenant_id FROM orders")
        app.execute("FETCH 1 FROM c")
        app.execute("SET LOCAL tenancy.tenant_id = 'globex'")
        app.execute("FETCH 1 FROM c")


def test_tables_that_are_not_distributed(cluster, app, dba):
    """Beside those of Citus, in one statement."""
    make(cluster, "local_orders")
    joined = "SELECT DISTINCT l.tenant_id FROM local_orders l JOIN countries c ON c.id = l.id"
    for tenant in ("acme", "globex"):
        assert as_tenant(app, tenant, joined) == [(tenant,)]
    with kept_out(), app.transaction():
        app.execute("SELECT tenancy.set_tenant('globex')")
        app.execute(joined)
    for statement in (
        "INSERT INTO local_orders SELECT 'globex', id + 1000 FROM countries",
        "INSERT INTO local_orders SELECT tenant_id, id + 1000 FROM (SELECT 'globex' AS tenant_id, id FROM orders) o",
        "WITH w AS (SELECT id FROM countries) INSERT INTO local_orders SELECT 'globex', id + 1000 FROM w",
    ):
        with pytest.raises(psycopg.Error) as raised:
            as_tenant(app, "acme", statement)
        assert raised.value.sqlstate in ("0A000", "42501"), statement
    assert value(dba, "SELECT count(*) FROM local_orders") == 300
    dba.execute("DROP TABLE local_orders")


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


def test_one_shard(app):
    """What is sent by itself for a tenant goes to the shard that has its rows, although the statement does not say so."""
    said = []
    app.add_notice_handler(lambda notice: said.append(notice.message_primary))
    app.execute("SET citus.log_remote_commands = on")
    for statement in ("SELECT count(*) FROM orders", "SELECT item FROM orders WHERE id = 7", "UPDATE orders SET item = item WHERE id = 7"):
        said.clear()
        as_tenant(app, "acme", statement)
        assert sum("orders_" in text for text in said) == 1, said


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
