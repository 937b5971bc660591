"""What `speed.py` measures: the columns, and the workloads with the statements that each column gets for them."""

from dataclasses import dataclass

from wire import execute, query


@dataclass(frozen=True)
class Column:
    name: str  # that of its role and databases, a copy for each: who shares one finds it in the processor's caches
    label: str
    parameter: str  # which holds the tenant
    by_hand: bool = False  # the statement has the tenant in its WHERE
    fills: bool = False  # the tenant column fills itself in

    @property
    def role(self):
        return f"bench_{self.name}"

    @property
    def reads(self):
        return f"speed_{self.name}"

    @property
    def writes(self):
        return f"speed_orders_{self.name}"


HAND, CONTROL, OURS = "hand", "again", "tenancy"
COLUMNS = [
    Column(HAND, "by hand", "app.tenant_id", by_hand=True),
    # The same again, in connections and a copy of its own, as ours is: how far its ratio is from 1 is what the luck of a copy and noise do.
    Column(CONTROL, "again", "app.tenant_id", by_hand=True),
    Column("plain", "current_setting", "app.tenant_id"),
    Column("wrapped", "(SELECT ...)", "app.tenant_id"),
    Column("library", "rls-tenants", "rls.current_tenant"),
    Column(OURS, "tenancy", "tenancy.tenant_id", fills=True),
]
OTHERS = ["plain", "wrapped", "library"]
POLICIES = {
    "plain": "{column} = current_setting('app.tenant_id')::{type}",
    "wrapped": "{column} = (SELECT current_setting('app.tenant_id')::{type})",
    # What django-rls-tenants makes (RLSConstraint in rls/constraints.py, with rls/policy_sql.py, of 2026-08). Its managers add
    # the WHERE that is our first column to what passes through them; this is what SQL beside the ORM gets.
    "library": "CASE WHEN (SELECT current_setting('rls.is_admin', true)) = 'true' THEN true "
               "ELSE {column} = nullif((SELECT current_setting('rls.current_tenant', true)), '')::{type} END",
}

# Relations and their tenant columns, by the database that they are in.
READ_TABLES = {
    "flights": ("carrier", "text"), "fleet": ("carrier", "text"), "routes": ("carrier", "text"),
    "documents": ("tenant_id", "bigint"), "embeddings": ("tenant_id", "bigint"),
}
WRITE_TABLES = {"orders": ("tenant_id", "bigint"), "stock": ("tenant_id", "bigint")}
# A large tenant, one in the middle and a small one: rows are compared for each of them.
TENANTS = {"flights": ("UA", "VX", "OO"), "documents": ("1", "40", "900"), "embeddings": ("1", "40", "900"), "orders": ("1", "40", "900")}


@dataclass(frozen=True)
class Workload:
    title: str
    table: str  # a row of it is drawn for each transaction
    values: tuple  # SQL expressions over that row: the parameters
    # {0}, {1}, … are the parameters; {where} is what is written by hand, {column} and {value} where a tenant is given.
    sql: str
    where: str = ""
    tenant: str = ""  # whose rows are drawn; empty: those of all tenants, each as often as it has rows
    needs: str = ""  # an extension
    writes: bool = False
    cliff: bool = False  # has to be 50 times faster than the policy that people write

    def statement(self, column, tenant, values):
        where = self.where if column.by_hand else ""
        given = ("", "") if column.fills else ("tenant_id, ", "{tenant}, ")
        sql = self.sql.replace("{where}", where).replace("{column}", given[0]).replace("{value}", given[1])
        return sql.replace("{tenant}", tenant).format(*values)

    def prepare(self, connection, column):
        dollars = [f"${n + 1}" for n in range(len(self.values) + 1)]
        connection.prepare("begin", "BEGIN")
        connection.prepare("set", f"SELECT set_config('{column.parameter}', $1, true)")
        connection.prepare("statement", self.statement(column, dollars[-1], dollars[:-1]))
        connection.prepare("commit", "COMMIT")

    def transaction(self, column, protocol, tenant, values):
        """The messages of a transaction: it sets its tenant, runs one statement and commits."""
        if protocol == "simple":
            quoted = ["'" + value.replace("'", "''") + "'" for value in (tenant, *values)]
            set_tenant = f"SET LOCAL {column.parameter} = {quoted[0]}"
            return [query(sql) for sql in ("BEGIN", set_tenant, self.statement(column, quoted[0], quoted[1:]), "COMMIT")]
        # SET takes no parameters, so that a function sets the tenant.
        names_it = "{tenant}" in self.sql + (self.where if column.by_hand else "") or ("{value}" in self.sql and not column.fills)
        return [execute("begin"), execute("set", tenant), execute("statement", *values, *[tenant] * names_it), execute("commit")]


DAY = "f.time_hour >= {0}::timestamptz AND f.time_hour < {0}::timestamptz + interval '1 day'"
DAY_OF = "date_trunc('day', time_hour)"
BY_DEST = "SELECT dest, count(*), avg(arr_delay), sum(distance) FROM flights{where} GROUP BY dest ORDER BY dest"
FOUND = "SELECT id, created_at, title FROM documents WHERE "
NEAREST = "SELECT id, embedding <-> {0} AS distance FROM embeddings{where} ORDER BY embedding <-> {0} LIMIT 10"
OF_CARRIER, OF_TENANT = " AND carrier = {tenant}", " AND tenant_id = {tenant}"
LARGE, SMALL = "1", "900"

WORKLOADS = [
    Workload("point read", "flights", ("id",), "SELECT * FROM flights WHERE id = {0}{where}", OF_CARRIER),
    Workload("range: the flights of a day", "flights", (DAY_OF,),
             f"SELECT id, flight, origin, dest, dep_delay FROM flights f WHERE {DAY}{{where}} ORDER BY time_hour, id", OF_CARRIER),
    Workload("the last 20", "flights", (),
             "SELECT id, flight, dest, time_hour FROM flights{where} ORDER BY time_hour DESC, id DESC LIMIT 20", " WHERE carrier = {tenant}"),
    Workload("aggregate of a large tenant", "flights", (), BY_DEST, " WHERE carrier = {tenant}", "UA"),
    Workload("aggregate of a small tenant", "flights", (), BY_DEST, " WHERE carrier = {tenant}", "HA"),
    Workload("join of three protected tables", "flights", (DAY_OF,),
             "SELECT f.id, f.flight, p.model, p.seats, r.distance FROM flights f JOIN fleet p ON p.tailnum = f.tailnum "
             f"JOIN routes r ON r.origin = f.origin AND r.dest = f.dest WHERE {DAY}{{where}} ORDER BY f.id, r.distance",
             " AND f.carrier = {tenant} AND p.carrier = {tenant} AND r.carrier = {tenant}"),
    Workload("full text", "documents", ("split_part(body, ' ', 3) || ' & ' || split_part(body, ' ', 8)",),
             FOUND + "search @@ to_tsquery('simple', {0}){where} ORDER BY id", OF_TENANT, LARGE, cliff=True),
    Workload("jsonb containment", "documents", ("jsonb_build_object('customer', attributes -> 'customer')",),
             FOUND + "attributes @> {0}{where} ORDER BY id", OF_TENANT, LARGE),
    Workload("LIKE '%...%' by trigrams", "documents", ("'%' || substr(title, 5, 8) || '%'",),
             FOUND + "title LIKE {0}{where} ORDER BY id", OF_TENANT, LARGE, "pg_trgm", cliff=True),
    Workload("ILIKE, a prefix", "documents", ("upper(left(title, 8)) || '%'",),
             FOUND + "title ILIKE {0}{where} ORDER BY id", OF_TENANT, LARGE, "pg_trgm"),
    Workload("lower(x) =", "documents", ("lower(email)",),
             FOUND + "lower(email) = {0}{where} ORDER BY id", OF_TENANT, LARGE),
    Workload("array overlap", "documents", ("labels[1:2]",),
             FOUND + "labels && {0}{where} ORDER BY id", OF_TENANT, LARGE),
    Workload("vector neighbours, a large tenant", "embeddings", ("embedding",), NEAREST, " WHERE tenant_id = {tenant}", LARGE, "vector"),
    Workload("vector neighbours, a small tenant", "embeddings", ("embedding",), NEAREST, " WHERE tenant_id = {tenant}", SMALL, "vector"),
    Workload("insert", "orders", ("customer", "amount", "note"),
             "INSERT INTO orders ({column}customer, amount, note) VALUES ({value}{0}, {1}, {2})", writes=True),
    Workload("update", "orders", ("id", "amount"),
             "UPDATE orders SET amount = amount + {1} WHERE id = {0}{where}", OF_TENANT, writes=True),
    # The sku is there for every other row that is drawn, the first time.
    Workload("upsert", "orders", ("id", "amount"),
             "INSERT INTO stock ({column}sku, amount) VALUES ({value}{0}, {1}) "
             "ON CONFLICT (tenant_id, sku) DO UPDATE SET amount = stock.amount + excluded.amount", writes=True),
]
