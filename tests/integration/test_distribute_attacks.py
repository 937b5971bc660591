"""Ways to have Citus read or write rows of another tenant: its nodes have another tenant than the transaction, or it asks no policy."""

from contextlib import suppress

import psycopg
import pytest
from distribute import COUNTED, HERE_ONLY, HIDDEN, app, as_tenant, cluster, dba, kept_out, make, shards  # noqa: F401
from support import APP, OWNER, refused, sqlstate, value


# Each changes the tenant here, and not as the nodes are told.
UNTOLD = {
    "set_tenant": ["SELECT tenancy.set_tenant('globex')"],
    "set_config": ["SELECT set_config('tenancy.tenant_id', 'globex', true)"],
    "session": ["SET tenancy.tenant_id = 'globex'"],
    "the same": ["SELECT set_config('tenancy.tenant_id', 'globex', true)", "SELECT set_config('tenancy.tenant_id', 'acme', true)"],
    "released": ["SAVEPOINT s", "SET LOCAL tenancy.tenant_id = 'globex'", "RELEASE s"],
    "in a savepoint": ["SAVEPOINT s", "SET LOCAL tenancy.tenant_id = 'globex'"],
    "rolled back": ["SAVEPOINT s", "SET LOCAL tenancy.tenant_id = 'globex'", "ROLLBACK TO s"],
    "rolled back, otherwise": ["SAVEPOINT s", "SELECT tenancy.set_tenant('globex')", "ROLLBACK TO s"],
    "not sent": ["SET LOCAL citus.propagate_set_commands = 'none'", "SET LOCAL tenancy.tenant_id = 'globex'"],
    "a block": ["DO $$ BEGIN PERFORM set_config('tenancy.tenant_id', 'globex', true); END $$"],
    "an exception": ["DO $$ BEGIN BEGIN SET LOCAL tenancy.tenant_id = 'globex'; EXCEPTION WHEN OTHERS THEN NULL; END; END $$"],
}


@pytest.mark.parametrize("way", UNTOLD)
@pytest.mark.parametrize("begun", [False, True], ids=["fresh", "begun"])
def test_what_is_not_told(app, way, begun):
    """Nothing runs for one tenant here and for another one there. A prepared statement has its generic plan, which names no tenant."""
    app.execute("SET plan_cache_mode = force_generic_plan")
    app.execute("PREPARE counted AS " + COUNTED)
    for statement in ("EXECUTE counted", COUNTED, "INSERT INTO orders (id) VALUES (990)", "UPDATE orders SET item = 'x'", "DELETE FROM orders"):
        with refused("TENANT_CONTEXT_MISSING"), app.transaction(force_rollback=True):
            if begun:
                app.execute("SET LOCAL tenancy.tenant_id = 'acme'")
                assert app.execute("EXECUTE counted").fetchall() == [(100, "acme", "acme")]
            for change in UNTOLD[way]:
                app.execute(change)
            app.execute(statement)
    # And it is whole again with the next command.
    with app.transaction(force_rollback=True):
        for change in UNTOLD[way]:
            app.execute(change)
        if way in ("in a savepoint", "rolled back", "rolled back, otherwise"):
            app.execute("RELEASE s")
        app.execute("SET LOCAL citus.propagate_set_commands = 'local'")
        app.execute("SET LOCAL tenancy.tenant_id = 'acme'")
        assert app.execute("EXECUTE counted").fetchall() == [(100, "acme", "acme")]


TELL = "SET LOCAL tenancy.tenant_id = 'acme'"
FOR_GLOBEX = "SET LOCAL tenancy.tenant_id = 'globex'"
ON_NODES = "SELECT set_config('tenancy.tenant_id', 'globex', true) WHERE NOT citus_is_coordinator()"
IN_A_BLOCK = "DO $$ BEGIN IF NOT citus_is_coordinator() THEN SET LOCAL tenancy.tenant_id = 'globex'; END IF; END $$"
# Citus sends the text of the whole message, and puts it together with what comes after it: it is given another one. Whose rows are seen afterwards.
MESSAGES = {
    "other statements": ([FOR_GLOBEX + "; SELECT 1"], "globex"),
    "before it": (["SELECT 1; " + FOR_GLOBEX], "globex"),
    "escapes": ([r"SET LOCAL tenancy.tenant_id = E'glo\x62ex'"], "globex"),
    "a comment": ([FOR_GLOBEX + " -- first"], "globex"),
    "a comment in another": (["SET LOCAL work_mem = '8MB' -- why", FOR_GLOBEX], "globex"),
    "a comment on a number": (["SET LOCAL random_page_cost = 1.5 -- why", "SET LOCAL max_parallel_workers = 2 -- why", FOR_GLOBEX], "globex"),
    "a comment on a list": (["SET LOCAL search_path = public, \"$user\", 'a''b' -- why", FOR_GLOBEX], "globex"),
    "a default": (["SET LOCAL work_mem TO DEFAULT -- why", FOR_GLOBEX], "globex"),
    "reset": (["RESET work_mem -- why", FOR_GLOBEX], "globex"),
    "reset all": (["RESET ALL; SELECT 1 -- why", FOR_GLOBEX], "globex"),
    "two": ([FOR_GLOBEX + "; " + TELL], "acme"),
    "another's message": (["SET LOCAL work_mem = '8MB'; " + ON_NODES], "acme"),
    "a block in another's message": (["SET LOCAL work_mem = '8MB'; " + IN_A_BLOCK], "acme"),
    "a string that ends elsewhere": (
        ["SELECT set_config('standard_conforming_strings', 'off', true)", rf"SET LOCAL my.x = '\'; {FOR_GLOBEX.replace(chr(39), '$$')}; DELETE FROM orders; --'"],
        "acme",
    ),
}


@pytest.mark.parametrize("way", MESSAGES)
@pytest.mark.parametrize("begun", [False, True], ids=["fresh", "begun"])
def test_what_is_sent(app, dba, way, begun):
    """Says what it says here, and nothing else."""
    commands, tenant = MESSAGES[way]
    app.execute("SET plan_cache_mode = force_generic_plan")
    app.execute("PREPARE counted AS " + COUNTED)
    other = {"acme": "globex", "globex": "acme"}[tenant]
    for last in ([], [TELL], [FOR_GLOBEX]):
        with app.transaction():
            app.execute(TELL)
            if begun:
                assert app.execute("EXECUTE counted").fetchall() == [(100, "acme", "acme")]
            for command in commands + last:
                app.execute(command)
            expected = {"": tenant, TELL: "acme", FOR_GLOBEX: "globex"}["".join(last)]
            for statement in ("EXECUTE counted", COUNTED):
                assert app.execute(statement).fetchall() == [(100, expected, expected)]
            assert app.execute("SELECT count(*) FROM countries").fetchall() == [(20,)]
            assert app.execute("UPDATE orders SET item = item").rowcount == 100
    with kept_out(), app.transaction():
        app.execute(TELL)
        for command in commands:
            app.execute(command)
        app.execute(f"INSERT INTO orders VALUES ('{other}', 992)")
    assert as_tenant(app, "acme", COUNTED) == [(100, "acme", "acme")]
    assert value(dba, "SELECT count(*) FROM orders") == 300


def test_what_is_sent_and_turned_off_by_itself(cluster):
    """RESET ALL is sent, and has it that nothing is sent any more."""
    with cluster.connect(APP, settings={"citus.propagate_set_commands": "none", "plan_cache_mode": "force_generic_plan"}) as app:
        app.execute("PREPARE counted AS " + COUNTED)
        app.execute("SET citus.propagate_set_commands = 'local'")
        with app.transaction():
            app.execute("RESET ALL; " + FOR_GLOBEX + " --")
            app.execute("SET LOCAL citus.propagate_set_commands = 'local'")
            app.execute(TELL)
            assert app.execute("EXECUTE counted").fetchall() == [(100, "acme", "acme")]


def test_what_cannot_be_said_in_other_words(app):
    """Is refused before it is sent."""
    command = "SET LOCAL TIME ZONE INTERVAL '1' HOUR TO MINUTE"
    with sqlstate("0A000"), app.transaction():
        app.execute(command + " -- why")
    with app.transaction():
        app.execute(command)


def test_modes_of_a_transaction(app):
    with app.transaction():
        app.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY, NOT DEFERRABLE -- why")
        app.execute(TELL)
        assert app.execute(COUNTED).fetchall() == [(100, "acme", "acme")]
        with sqlstate("25006"), app.transaction():
            app.execute("DELETE FROM orders")


def test_a_client_that_calls_itself_citus(cluster):
    """Is told that the nodes were not."""
    with cluster.connect(APP, application_name="citus_internal gpid=1") as app:
        for command in (COUNTED, "DELETE FROM orders"):
            with kept_out(), app.transaction():
                app.execute(TELL)
                app.execute(command)


def test_commands(app):
    """That Citus runs on the nodes: functions in them would run for the tenant there."""
    app.execute("CREATE TEMP TABLE mine (id integer)")
    for command in ("EXPLAIN SELECT * FROM countries", "COPY countries FROM STDIN", "COPY countries TO STDOUT", "TRUNCATE countries"):
        with refused("TENANT_CONTEXT_MISSING"), app.transaction():
            app.execute(FOR_GLOBEX)
            app.execute("SELECT set_config('tenancy.tenant_id', 'acme', true)")
            app.execute(command)
    with app.transaction():
        app.execute(TELL)
        app.execute("EXPLAIN SELECT * FROM countries")
        app.execute("CREATE TEMP TABLE yours (id integer)")
    # Its tenant would be left to the next transaction.
    with sqlstate("0A000"), app.transaction():
        app.execute(TELL)
        app.execute("PREPARE TRANSACTION 'x'")


# Who somebody is can be taken back here without telling the nodes: nothing runs until the transaction ends.
UNSURE = {
    "a role and back": ["SET LOCAL ROLE it_exempt", f"SELECT set_config('role', '{APP}', true)"],
    "a role": [f"SET LOCAL ROLE {APP}"],
}


@pytest.mark.parametrize("way", UNSURE)
@pytest.mark.parametrize("begun", [False, True], ids=["fresh", "begun"])
def test_what_is_unsure(app, way, begun):
    app.execute("SET plan_cache_mode = force_generic_plan")
    app.execute("PREPARE counted AS " + COUNTED)
    for last in ([], [TELL], ["SET LOCAL tenancy.tenant_id = 'globex'"]):
        for statement in ("EXECUTE counted", COUNTED, "INSERT INTO orders VALUES ('globex', 992)", "SELECT count(*) FROM countries"):
            with kept_out(), app.transaction(force_rollback=True):
                app.execute(TELL)
                if begun:
                    assert app.execute("EXECUTE counted").fetchall() == [(100, "acme", "acme")]
                for change in UNSURE[way] + last:
                    app.execute(change)
                app.execute(statement)
    assert as_tenant(app, "acme", COUNTED) == [(100, "acme", "acme")]


@pytest.mark.parametrize("is_local", ["true", "false"])
@pytest.mark.parametrize("function", ["set_config('tenancy.tenant_id', 'globex', {})", "tenancy.set_tenant('globex', {})"])
def test_a_function_on_a_node(app, function, is_local):
    """Citus sends the functions of a query along: there they must not change what only this server knows."""
    app.execute("SET plan_cache_mode = force_generic_plan")
    app.execute("PREPARE counted AS " + COUNTED)
    call = function.format(is_local)
    for statement in (f"SELECT {call} FROM countries LIMIT 1", f"SELECT count(*) FROM countries WHERE {call} IS NOT NULL", f"SELECT {call} FROM orders LIMIT 1"):
        for begin in ([TELL], []):
            with kept_out(), app.transaction(force_rollback=True):
                for command in begin:
                    app.execute(command)
                app.execute(statement)
    # By a session there that a transaction without a tenant has left one.
    with suppress(psycopg.Error):
        app.execute(f"SELECT {call} FROM countries LIMIT 1")
    app.execute("SET citus.select_opens_transaction_block = off")
    with refused("TENANT_CONTEXT_MISSING"):
        as_tenant(app, "acme", "EXECUTE counted")
    app.execute("SET citus.select_opens_transaction_block = on")
    assert as_tenant(app, "acme", "EXECUTE counted") == [(100, "acme", "acme")]


def test_a_function_that_is_delegated(cluster, app, dba):
    """Its call names no table."""
    dba.execute("CREATE FUNCTION counted(text) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM orders WHERE tenant_id = $1); END'")
    dba.execute("SELECT create_distributed_function('counted(text)', '$1', colocate_with := 'orders', force_delegation := true)")
    for node in cluster.nodes:
        with node.connect(settings=HERE_ONLY) as other:
            other.execute("ALTER DATABASE postgres SET citus.propagate_set_commands = 'local'")
    try:
        with refused("TENANT_CONTEXT_MISSING"), app.transaction():
            app.execute(TELL)
            app.execute(COUNTED)
            app.execute(TELL)
            app.execute("SELECT tenancy.set_tenant('globex')")
            app.execute("SELECT counted('acme')")
    finally:
        dba.execute("DROP FUNCTION counted(text)")


def test_a_cursor_and_the_way_back(app):
    """Between two parts of a cursor the nodes went elsewhere, and the tenant here came back."""
    with refused("TENANT_CONTEXT_MISSING"), app.transaction():
        app.execute("SET LOCAL tenancy.tenant_id = 'acme'")
        app.execute("DECLARE c CURSOR FOR SELECT tenant_id FROM orders")
        app.execute("SET LOCAL tenancy.tenant_id = 'globex'")
        app.execute("SELECT set_config('tenancy.tenant_id', 'acme', true)")
        app.execute("FETCH ALL FROM c")


def test_a_tenant_of_the_role(cluster, dba):
    """Would be that of connections which Citus makes for itself, to the nodes."""
    dba.execute(f"ALTER ROLE {APP} SET tenancy.tenant_id = 'globex'")
    try:
        with cluster.connect(APP) as app:
            for statement in (COUNTED, "INSERT INTO orders (id) VALUES (991)"):
                with refused("TENANT_CONTEXT_MISSING"):
                    as_tenant(app, "acme", statement)
            with sqlstate("0A000"), app.transaction(), app.cursor() as cursor:
                app.execute("SET LOCAL tenancy.tenant_id = 'acme'")
                with cursor.copy("COPY orders TO STDOUT") as copy:
                    list(copy)
    finally:
        dba.execute(f"ALTER ROLE {APP} RESET tenancy.tenant_id")
    with cluster.nodes[1].connect(settings=HERE_ONLY) as node:
        node.execute("ALTER DATABASE postgres SET tenancy.tenant_id = 'globex'")
        try:
            with refused("NODE_NOT_READY"):
                dba.execute("SELECT tenancy.sync_nodes()")
        finally:
            node.execute("ALTER DATABASE postgres RESET tenancy.tenant_id")


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
        for statement in (
            "INSERT INTO here SELECT t, 602, 'planted' FROM unnest('{globex,initech}'::text[]) AS t",
            "INSERT INTO here SELECT 'globex', id + 1000, 'planted' FROM orders",
            "INSERT INTO here SELECT 'globex', id + 1000, 'planted' FROM here LIMIT 5",
            "INSERT INTO here SELECT 'globex', id + 1000, 'planted' FROM here ON CONFLICT (tenant_id, id) DO UPDATE SET item = 'planted'",
            "WITH w AS MATERIALIZED (SELECT 'globex' AS t, id FROM here) INSERT INTO here SELECT t, id + 2000 FROM w RETURNING *",
            "MERGE INTO here h USING (SELECT 'globex' AS t, id FROM orders) o ON h.tenant_id = o.t AND h.id = o.id WHEN MATCHED THEN UPDATE SET item = 'planted'",
            "MERGE INTO here h USING (VALUES ('globex', 5)) AS o (t, id) ON h.tenant_id = o.t AND h.id = o.id WHEN NOT MATCHED THEN INSERT VALUES (o.t, o.id + 5000)",
        ):
            with pytest.raises(psycopg.errors.Error) as raised:
                as_tenant(app, "acme", statement)
            # By us, by the policies, or by Citus, which knows no other code.
            assert raised.value.sqlstate in ("0A000", "42501") or "not yet supported" in str(raised.value), (statement, raised.value)
        with refused("TENANT_ACCESS_DENIED"):
            as_tenant(app, "acme", "INSERT INTO here VALUES ('globex', 601), ('initech', 601)")
        for tenant in ("acme", "globex", "initech"):
            assert set(as_tenant(app, tenant, "SELECT tenant_id, count(*) OVER () FROM here")) == {(tenant, 100)}
        assert value(dba, "SELECT count(*) FROM here WHERE item <> 'planted'") == 300
        assert value(dba, "SELECT count(*) FROM here") == 300
        dba.execute("DROP TABLE here")
    finally:
        dba.execute(f"SELECT citus_set_node_property('127.0.0.1', {cluster.port}, 'shouldhaveshards', false)")


def test_no_tenant(app, cluster):
    """Nor one that does not reach the nodes."""
    for first in (None, "SET tenancy.tenant_id = 'acme'"):
        if first:
            app.execute(first)
        with refused("TENANT_CONTEXT_MISSING"):
            app.execute("SELECT count(*) FROM orders")
    with cluster.connect(APP, settings={"citus.propagate_set_commands": "none"}) as other, refused("TENANT_CONTEXT_MISSING"):
        as_tenant(other, "acme", "SELECT count(*) FROM orders")


def test_a_node_by_itself(cluster, dba):
    """Whoever connects to a node finds the same: in its copy of the table, and in each shard."""
    for node in cluster.nodes:
        with node.connect(APP, settings=HIDDEN) as other:
            found = shards(other, "orders")
            assert found
            for shard in found:
                with refused("TENANT_CONTEXT_MISSING"):
                    other.execute(f"SELECT count(*) FROM {shard}")
                assert set(as_tenant(other, "acme", f"SELECT tenant_id FROM {shard}")) <= {("acme",)}
                with sqlstate("42501"):
                    as_tenant(other, "acme", f"INSERT INTO {shard} VALUES ('globex', 700)")
            assert as_tenant(other, "globex", "SELECT count(*), min(tenant_id) FROM orders") == [(100, "globex")]
