"""A cluster of Citus for `test_distribute.py` and `test_distribute_attacks.py`: a coordinator and two nodes.

Citus is in no registry, so they run where the server that is tested has it (tests/tools/citus.sh builds one); tests/pg_regress/sql/distribute.sql runs everywhere.
"""

import os
from contextlib import contextmanager

import psycopg
import pytest
from support import APP, MAJOR, OWNER, SQLSTATE, column, pg_program, server_of, server_tool

CONTROL = os.path.join(pg_program("pg_config", "--sharedir").stdout.strip(), "extension", "citus.control")
if not os.path.exists(CONTROL):
    pytest.skip("this server has no Citus, which is in no registry", allow_module_level=True)

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
        # What is nobody's, and who sees all.
        coordinator.run(
            "CREATE TABLE countries (id integer PRIMARY KEY, name text)",
            "INSERT INTO countries SELECT n, 'country ' || n FROM generate_series(1, 20) AS n",
            "SELECT create_distributed_table('countries', 'id')",
            f"GRANT SELECT ON countries TO {APP}",
            "CREATE ROLE it_exempt BYPASSRLS",
            f"GRANT it_exempt TO {APP}",
            "GRANT SELECT ON orders TO it_exempt",
        )
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


def shards(node, table):
    """The shards of a table that a node has, to be named by who is not to see them."""
    return column(node, "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relname ~ %s AND c.relkind = 'r' ORDER BY 1", [f"^{table}_[0-9]+$"])


HERE_ONLY = {"citus.enable_ddl_propagation": "off"}
HIDDEN = {"citus.override_table_visibility": "off"}


COUNTED = "SELECT count(*), min(tenant_id), max(tenant_id) FROM orders"


@contextmanager
def kept_out():
    """Expects that a tenant is not let in, here or on a node; of what a node refuses in a message that Citus sends along, it says no more than that."""
    with pytest.raises(psycopg.Error) as raised:
        yield
    is_refused = raised.value.sqlstate in (SQLSTATE["TENANT_CONTEXT_MISSING"], SQLSTATE["TENANT_ACCESS_DENIED"])
    assert is_refused or "failure on connection marked as essential" in str(raised.value), raised.value
