"""What the tests of index pushdown share: two worlds that differ in the rows that a session must not see, and all that a session hears."""

import json

import psycopg
from support import APP, OWNER, Database

# What PostgreSQL says of an error or a notice; where in its source is left out.
SAID = [
    name
    for name in dir(psycopg.errors.Diagnostic)
    if not name.startswith(("_", "source_")) and name not in ("status", "encoding")
]
# An index is used wherever it can be, and a bitmap of more than some nine hundred pages forgets the rows in them.
INDEXES_ONLY = {
    "enable_seqscan": "off",
    "work_mem": "64kB",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}


class Session:
    """A session of the application, and whatever it receives."""

    def __init__(self, database, tenant="acme", role=APP, **settings):
        self.connection = database.connect(role)
        self.told = []
        self.connection.add_notice_handler(lambda said: self.told.append(_texts(said)))
        for name, value in (INDEXES_ONLY | settings).items():
            self.connection.execute("SELECT set_config(%s, %s, false)", [name, value])
        if tenant:
            self.connection.execute("SELECT set_config('tenancy.tenant_id', %s, false)", [tenant])
        self.told.clear()

    def hear(self, *statements):
        """Rows, tags, notices and errors of statements without parameters, in the order in which they come."""
        heard = []
        for statement in statements:
            try:
                cursor = self.connection.execute(statement)
                rows = cursor.fetchall() if cursor.description else None
                answer = (rows, cursor.statusmessage, cursor.rowcount)
            except psycopg.Error as error:
                answer = _texts(error.diag)
            heard.append((self.told[:], answer))
            self.told.clear()
        return heard

    def plan(self, statement):
        (plan,) = self.connection.execute("EXPLAIN (FORMAT json) " + statement).fetchone()
        self.told.clear()
        return plan if isinstance(plan, list) else json.loads(plan)

    def conditions(self, statement):
        """The index conditions of a plan, each with its index."""
        found = []

        def look(node):
            if "Index Cond" in node and "Index Name" in node:
                found.append((node["Index Name"], node["Index Cond"]))
            for child in node.get("Plans", []):
                look(child)

        for plan in self.plan(statement):
            look(plan["Plan"])
        return found

    def close(self):
        self.connection.close()


def _texts(said):
    return tuple((name, getattr(said, name)) for name in SAID)


class Worlds:
    """Two databases with the same rows of acme; of globex they have others, or one of them has none."""

    def __init__(self, server, name):
        self.databases = [Database(server, f"{name}_{which}") for which in ("one", "other")]
        self.one, self.other = self.databases
        self.sessions = []
        for database in self.databases:
            database.run(
                "SELECT tenancy.create_tenant(id) FROM unnest('{acme,globex}'::text[]) AS id",
                f"GRANT CREATE ON SCHEMA public TO {APP}",
            )

    def run(self, *statements, role="postgres"):
        for database in self.databases:
            database.run(*statements, role=role)

    def create(self, table, columns, visible, *hidden, indexes=()):
        """A protected table in both worlds. `visible` and `hidden`, of one world and of the other, are queries for its columns but the
        tenant. The index that protect() makes is dropped, so that plans do without it."""
        self.run(f"CREATE TABLE {table} (tenant_id text NOT NULL, {columns}) WITH (fillfactor = 10)", role=OWNER)
        self.run(f"INSERT INTO {table} SELECT 'acme', v.* FROM ({visible}) AS v")
        for database, query in zip(self.databases, hidden, strict=False):
            database.run(f"INSERT INTO {table} SELECT 'globex', h.* FROM ({query}) AS h")
        self.run(f"SELECT tenancy.protect('{table}')", role=OWNER)
        self.run(f"DROP INDEX tenancy_{table}_tenant", *indexes, role=OWNER)
        self.run(f"VACUUM ANALYZE {table}")

    def set(self, parameter, value):
        """Sets a parameter of the extension's for sessions that begin from now on."""
        for database in self.databases:
            database.run(f"ALTER DATABASE {database.name} SET tenancy.{parameter} = '{value}'")

    def pair(self, **settings):
        """A session in each world."""
        pair = [Session(database, **settings) for database in self.databases]
        self.sessions += pair
        return pair

    def hear(self, *statements, **settings):
        """What a new session in each world hears."""
        pair = self.pair(**settings)
        heard = [session.hear(*statements) for session in pair]
        for session in pair:
            session.close()
        return heard

    def drop(self):
        for session in self.sessions:
            session.close()
        for database in self.databases:
            database.drop()
