"""What isolation costs each kind of statement: against a hand-written WHERE and policies that people write, on the same data.

Every column has the same bytes: the data, its indexes and its statistics are made once, in a database that is then copied
file by file. Columns take turns by lot, in connections of their own, a few milliseconds each, with the same parameters; a
ratio is the median of those of the same transaction in neighbouring turns. Their rows are compared. By hand, by hand again and ours
take turns among themselves for a while, then the policies catch up: the fewer columns take turns, the less each of them finds the
processor's caches full of another's.

Where things lie in memory is worth several hundredths here, and stays for as long as a server or a process does (Mytkowicz et al.,
"Producing Wrong Data Without Doing Anything Obviously Wrong!", 2009). So it is left to chance, and chance is given many draws: the
copies' pages are read into the server's memory by turns, each process begins with a heap of another size, and ours is compared to
both copies by hand.

SPEED_OF='insert,upsert' takes those workloads only, without the policies, with less data, for longer.
"""

import contextlib
import gc
import hashlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time

from support import HERE, QUICK, STARTED, awake, psql, say
from wire import Connection, query, rows, run_all
from workloads import COLUMNS, CONTROL, HAND, OTHERS, OURS, POLICIES, READ_TABLES, TENANTS, WORKLOADS, WRITE_TABLES

COPIES = 1 if QUICK else 9  # of 336,776 flights
DOCUMENTS = 100_000 if QUICK else 1_000_000
EMBEDDINGS = 10_000 if QUICK else 50_000
ORDERS = 20_000 if QUICK else 200_000
DRAWS = 100 if QUICK else 400  # of parameters for a workload
CLIENTS = 8
SECONDS = 0.4 if QUICK else 6  # for a row of the table
SESSIONS = 1 if QUICK else 8  # in which connections are made anew, so that the luck of a process does not stay
HEAVY = 0.1  # a transaction that takes so long has no such luck, and would leave no time: one session
PADDING = 128 << 10  # bytes by which the heaps of processes differ: what the C library leaves at the top of one
# A statement that takes so many bytes, as any process of a real server has run: before the first, the C library gives memory back to
# the system after each join, and asks for it again, as often as luck has it.
MEMORY = 4 << 20
CHUNK = 64  # pages of a copy that are read into memory before those of the next
LEAST = {1: 4, CLIENTS: 2}  # times that all columns have their turns in a session
TURN, MOST = {1: 0.004, CLIENTS: 0.05}, {1: 24, CLIENTS: 100}  # seconds that a column has before the next, transactions of a connection
# Transactions of a connection that are not counted: PostgreSQL decides on the plan of a prepared statement by its first six.
SETTLED, WARM_SECONDS = {"simple": 0, "prepared": 7}, 0.03
# Columns that may differ by hundredths, and how many turns they have of their own before the others have theirs.
NEAR, REPEATED = (HAND, CONTROL, OURS), 5
# A column that is far off needs no decimals, and would leave no time for the others.
SLOW, SLOW_TURNS = 0.01, {1: 2 if QUICK else 5, CLIENTS: 1 if QUICK else 2}
AIM, AIM_OF_ONE, AIM_OF_CLIFF = 1.05, 1.15, 50
OF = os.environ.get("SPEED_OF")
if OF:
    COLUMNS = [column for column in COLUMNS if column.name in (HAND, CONTROL, OURS)]
    OTHERS = []
    COPIES, DOCUMENTS, EMBEDDINGS, ORDERS, SECONDS = 3, 300_000, 30_000, 100_000, 8
OUT = os.path.join(HERE, "../../target/bench/speed.json")
PROTOCOLS = ("simple", "prepared")


# The databases ---------------------------------------------------------------------------------------------------


def available(extension):
    return psql("postgres", text=f"SELECT 1 FROM pg_available_extensions WHERE name = '{extension}';").strip() == "1"


def run_file(database, name, **variables):
    options = [option for key, value in variables.items() for option in ("-v", f"{key}={value}")]
    psql(database, *options, "-f", os.path.join(HERE, "speed", name))


def make_data(extensions):
    psql("postgres", text="CREATE DATABASE speed_data; CREATE DATABASE speed_orders;")
    # The indexes are made at once, by as much memory as they take.
    psql("speed_data", text="ALTER DATABASE speed_data SET maintenance_work_mem = '1GB';")
    say(f"{COPIES * 336_776:,} flights …")
    demo = os.path.join(HERE, "../../demo")
    psql("speed_data", "-f", os.path.join(demo, "schema.sql"))
    with contextlib.chdir(os.environ["TENANCY_FLIGHTS"]):
        psql("speed_data", "-f", os.path.join(demo, "load.sql"))
    run_file("speed_data", "flights.sql", copies=COPIES)
    say(f"{DOCUMENTS:,} documents …")
    run_file("speed_data", "documents.sql", rows=DOCUMENTS)
    if "pg_trgm" in extensions:
        run_file("speed_data", "trigrams.sql")
    if "vector" in extensions:
        say(f"{EMBEDDINGS:,} embeddings …")
        run_file("speed_data", "embeddings.sql", rows=EMBEDDINGS)
    say(f"{ORDERS:,} orders …")
    run_file("speed_orders", "orders.sql", rows=ORDERS)
    for database in ("speed_data", "speed_orders"):
        psql(database, text="VACUUM (FREEZE, ANALYZE);")


def copy(source, database):
    # What is copied are files, so that an approximate index is the same one, too.
    psql("postgres", text=f"CREATE DATABASE {database} TEMPLATE {source} STRATEGY file_copy;")
    # Such an index is searched until enough rows of the tenant are found. Without pgvector these are parameters of nobody.
    psql("postgres", text=f"""
        ALTER DATABASE {database} SET hnsw.iterative_scan = strict_order;
        ALTER DATABASE {database} SET hnsw.ef_search = 100;
        ALTER DATABASE {database} SET hnsw.max_scan_tuples = 1000000;""")


def isolate(database, tables, name):
    """Sets up what isolates a column in a database of its own."""
    lines = []
    if name == OURS:
        lines.append("CREATE EXTENSION tenancy; GRANT SET ON PARAMETER tenancy.tenant_id TO bench_tenancy;")
        lines += [f"SELECT count(tenancy.create_tenant(id)) FROM (SELECT DISTINCT {column}::text AS id FROM {table}) AS t;"
                  for table, (column, _) in tables.items() if table in ("flights", "documents", "orders")]
        lines += [f"SELECT tenancy.protect('{table}', tenant_column => '{column}');" for table, (column, _) in tables.items()]
    elif name in POLICIES:
        for table, (column, type_) in tables.items():
            lines += [f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;",
                      f"CREATE POLICY {name} ON {table} USING ({POLICIES[name].format(column=column, type=type_)});"]
    lines.append(f"GRANT SELECT, INSERT, UPDATE ON {', '.join(tables)} TO bench_{name};")
    psql(database, text="\n".join(lines))


def set_up(extensions):
    make_data(extensions)
    read_tables = {table: of for table, of in READ_TABLES.items() if table != "embeddings" or "vector" in extensions}
    say("copies of the data, one for each way to isolate it …")
    psql("postgres", text="".join(f"CREATE ROLE {column.role} LOGIN;" for column in COLUMNS))
    for column in COLUMNS:
        for of, database, tables in (("speed_data", column.reads, read_tables), ("speed_orders", column.writes, WRITE_TABLES)):
            copy(of, database)
            isolate(database, tables, column.name)
    # The parameters are drawn from a copy, so that what they were copied from takes no memory.
    psql("postgres", text="CHECKPOINT; DROP DATABASE speed_data;")
    if available("pg_prewarm"):
        warm()


def warm():
    """Reads the copies into memory by turns, so that none of them has the better part of it."""
    groups = [[column.reads for column in COLUMNS], [column.writes for column in COLUMNS]]
    for database in sum(groups, []):
        psql(database, text="CREATE EXTENSION pg_prewarm;")
    subprocess.run([os.environ["TENANCY_SERVER_TOOL"], "restart", os.environ["TENANCY_SERVER"]], check=True, stdout=subprocess.DEVNULL)
    lot = random.Random(1)
    for databases in groups:
        connections = [Connection("postgres", database) for database in databases]
        # Copies have the same files, of as many pages.
        for line in psql(databases[0], text="""
                SELECT pg_relation_size(oid) / current_setting('block_size')::integer, oid::regclass FROM pg_class
                WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i');""").splitlines():
            pages, relation = line.split("|", 1)
            for first in range(0, int(pages), CHUNK):
                last = min(first + CHUNK, int(pages)) - 1
                for connection in lot.sample(connections, len(connections)):
                    rows(connection.ask(query(f"SELECT pg_prewarm('{relation}', 'buffer', 'main', {first}, {last})")))
        for connection in connections:
            connection.close()


# Parameters ------------------------------------------------------------------------------------------------------


def draw(workload, tenant, number):
    """Tenants and parameters, from rows of the workload's table, in an order that is the same in each run."""
    database = "speed_orders" if workload.writes else COLUMNS[0].reads
    column = (WRITE_TABLES if workload.writes else READ_TABLES)[workload.table][0]
    of_tenant = f"WHERE {column} = '{tenant}'" if tenant else f"TABLESAMPLE BERNOULLI ({1_000_000 / DOCUMENTS}) REPEATABLE (1)"
    fields = ", ".join(f"({expression})::text" for expression in workload.values)
    out = psql(database, text=f"""
        SELECT json_build_array({column}::text{fields and ', '}{fields})
        FROM (SELECT * FROM {workload.table} {of_tenant} ORDER BY hashint8(id), id LIMIT {number}) AS t;""")
    drawn = [json.loads(line) for line in out.splitlines()]
    random.Random(1).shuffle(drawn)
    return [(tenant, values) for tenant, *values in drawn]


# Measuring -------------------------------------------------------------------------------------------------------

UNEQUAL = []
compared = 0


def compare(workload, column, drawn, answer, expected):
    """Whether two answers have the same rows; the first of them has been looked at."""
    global compared
    compared += 1
    if answer != expected and rows(answer) != rows(expected):
        UNEQUAL.append(f"{workload.title}, {column.label}, {drawn}: {rows(answer)!r:.300} is not {rows(expected)!r:.300}")


def verify(workload):
    """Compares the rows of all columns, for a large tenant, one in the middle and a small one, and for one with the parameters of
    another's rows."""
    found = 0
    drawn = [item for tenant in TENANTS[workload.table] for item in draw(workload, tenant, 2)]
    drawn.append((TENANTS[workload.table][1], drawn[0][1]))
    connections = {column: Connection(column.role, column.reads) for column in COLUMNS}
    for item in drawn:
        expected = None
        for column, connection in connections.items():
            answer = connection.run(workload.transaction(column, "simple", *item))[0][2]
            expected = answer if expected is None else expected
            compare(workload, column, item, answer, expected)
        found += 0 if rows(expected).startswith(b"C") else 1
    for connection in connections.values():
        connection.close()
    if found < 3:
        UNEQUAL.append(f"{workload.title}: nothing was found, so nothing was compared")


class Row:
    """A row of the table: one workload by one protocol and a number of clients. Takes the times when it is made."""

    def __init__(self, workload, protocol, clients):
        self.workload, self.protocol, self.clients = workload, protocol, clients
        self.drawn = draw(workload, workload.tenant, DRAWS)
        self.messages = {column: [workload.transaction(column, protocol, *item) for item in self.drawn] for column in COLUMNS}
        self.expected = {}  # answers by the number of the draw; statements that write have those of their turn
        self.at = 0  # the next draw
        self.turns = {column: [] for column in COLUMNS}  # for each round the seconds of its transactions, or None
        self.slow = set()
        self.heavy = False
        for session in range(SESSIONS):
            if session == 0 or not self.heavy:
                self.session(session)

    def connect(self, column, lot):
        connections = []
        for _ in range(self.clients):
            connection = Connection(column.role, column.writes if self.workload.writes else column.reads)
            rows(connection.ask(query(f"SET bench.padding = '{'x' * lot.randrange(PADDING)}'")))
            rows(connection.ask(query(f"SELECT length(repeat('x', {MEMORY}))")))
            if self.protocol == "prepared":
                self.workload.prepare(connection, column)
            connections.append(connection)
        return connections

    def transactions(self, column, count):
        return [self.messages[column][(self.at + n) % len(self.drawn)] for n in range(count)]

    def run(self, column, connections, count):
        """A turn: the seconds of each transaction, or of several clients their mean, and what the statements answered."""
        transactions = self.transactions(column, count)
        if self.clients == 1:
            taken = [connections[0].run(transaction) for transaction in transactions]
            return [seconds for _, seconds in taken], [answers[2] for answers, _ in taken]
        answers, seconds = run_all(connections, transactions)
        return [seconds / count], [answer[2] for answer in answers]

    def check(self, answers):
        """Compares what the columns were answered in a round, which began at the current draw."""
        expected = {} if self.workload.writes else self.expected
        for column in COLUMNS:
            for n, answer in enumerate(answers.get(column, [])):
                number = (self.at + n) % len(self.drawn)
                if number not in expected:
                    rows(answer)  # which raises an error
                    expected[number] = answer
                compare(self.workload, column, self.drawn[number], answer, expected[number])

    def warm_up(self, connections):
        """Runs the first transactions, and returns how many make a turn of each column."""

        def run(columns, each):
            """So many of each connection: the seconds of one."""
            seconds, answers = {}, {}
            for column in columns:
                taken, answers[column] = self.run(column, connections[column], each[column] * self.clients)
                seconds[column] = statistics.median(taken)
            self.check(answers)
            self.at += max(each.values()) * self.clients
            return seconds

        def as_many(seconds):
            """How many of each connection take so long, by the first ones."""
            many = {c: max(1, min(MOST[self.clients], int(seconds / s / self.clients))) for c, s in first.items()}
            # What one column writes, all of them write.
            return dict.fromkeys(many, many[COLUMNS[0]]) if self.workload.writes else many

        first = run(connections, dict.fromkeys(connections, 1))
        far_off = [c for c, taken in first.items() if taken > SLOW / self.clients and taken > 8 * first[COLUMNS[0]]]
        self.slow |= {column for column in far_off if column.name in OTHERS and not self.workload.writes}
        fast = [column for column in connections if column not in self.slow]
        first |= run(fast, dict.fromkeys(fast, 1))  # now that PostgreSQL has read its catalogs
        self.heavy = first[COLUMNS[0]] * self.clients > HEAVY
        settled = SETTLED[self.protocol] if self.clients == 1 or not self.heavy else 0
        for column in fast:
            for n, connection in enumerate(connections[column]):
                for at in range(n * settled, (n + 1) * settled):
                    connection.run(self.messages[column][(self.at + at) % len(self.drawn)])
        self.at += settled * self.clients
        first |= run(fast, as_many(WARM_SECONDS))
        turn = as_many(TURN[self.clients])
        return {column: self.clients * (1 if column in self.slow else turn[column]) for column in connections}

    def session(self, session):
        columns = [column for column in COLUMNS if column not in self.slow]
        lot = random.Random(f"{self.workload.title}, {self.protocol}, {self.clients}, {session}")
        connections = {column: self.connect(column, lot) for column in columns}
        counts = self.warm_up(connections)
        began, number = time.perf_counter(), 0
        gc.collect()
        gc.disable()
        while True:
            slow_ones = session == 0 and number < SLOW_TURNS[self.clients]
            if not (slow_ones and self.slow) and number >= LEAST[self.clients] and time.perf_counter() - began > SECONDS / SESSIONS:
                break
            turn = [column for column in columns if column not in self.slow or slow_ones]
            self.take_turns(turn, connections, counts, lot)
            number += 1
        gc.enable()
        for some in connections.values():
            for connection in some:
                connection.close()

    def take_turns(self, columns, connections, counts, lot):
        """The next turns of each column, for the same transactions."""
        begin, step = self.at, max(counts[column] for column in columns)
        seconds, answers = [{} for _ in range(REPEATED)], [{} for _ in range(REPEATED)]

        def run(n, column):
            self.at = begin + n * step
            seconds[n][column], answers[n][column] = self.run(column, connections[column], counts[column])

        near = [column for column in columns if column.name in NEAR]
        for n in range(REPEATED):
            for column in lot.sample(near, len(near)):
                run(n, column)
        far = [column for column in columns if column.name not in NEAR]
        for n in range(REPEATED):
            for column in lot.sample(far, len(far)):
                if n == 0 or column not in self.slow:
                    run(n, column)
        for n in range(REPEATED):
            self.at = begin + n * step
            self.check(answers[n])
            for column in COLUMNS:
                self.turns[column].append(seconds[n].get(column))
        self.at = begin + REPEATED * step

    def ratios(self, column, to):
        """The times of one column : those of another, each of the same transaction in the same round."""
        for ours, theirs in zip(self.turns[column], self.turns[to]):
            if ours and theirs:
                # The first of some finds the processor's caches full of another column's.
                first = 1 if min(len(ours), len(theirs)) > 2 else 0
                yield from (a / b for a, b in zip(ours[first:], theirs[first:]))

    def ratio(self, column, *to):
        return statistics.median(value for other in to for value in self.ratios(column, other))

    def to_hand(self, column):
        """The ratio to both copies by hand, or of the second one to the first."""
        return self.ratio(column, *[other for other in COLUMNS if other.by_hand and (other.name == HAND or not column.by_hand)])

    def result(self):
        named = {column.name: column for column in COLUMNS}
        by_hand = [statistics.median(turn) for turn in self.turns[named[HAND]] if turn]
        return {
            "workload": self.workload.title, "table": self.workload.table, "protocol": self.protocol, "clients": self.clients,
            "cliff": self.workload.cliff, "milliseconds": statistics.median(by_hand) * 1000, "rounds": len(by_hand),
            "ratios": {name: self.to_hand(column) for name, column in named.items()},
            "ours_to": {name: self.ratio(named[OURS], named[name]) for name in OTHERS},
        }


def contents(database):
    """A digest of what the tables that are written to hold, but for the numbers of new orders, which depend on who was first."""
    out = psql(database, text=f"""
        SELECT CASE WHEN id <= {ORDERS} THEN id END, tenant_id, customer, amount, note FROM orders ORDER BY 1, 2, 3, 4, 5;
        SELECT * FROM stock ORDER BY tenant_id, sku;""")
    return out.count("\n"), hashlib.sha256(out.encode()).hexdigest()


# The table -------------------------------------------------------------------------------------------------------


def number(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def print_table(results):
    print("\nTime of a transaction as a ratio to that with a hand-written WHERE; smaller is faster.")
    print("'again' is the second copy by hand to the first, so it shows the noise; the others are to both.")
    last = None
    for result in results:
        group = (result["protocol"], result["clients"])
        if group != last:
            clients = "1 client" if result["clients"] == 1 else f"{result['clients']} clients, wall-clock time : transactions"
            print(f"\n{result['protocol'] + ' protocol, ' + clients:<54} {'by hand':>11} "
                  + " ".join(f"{column.label:>15}" for column in COLUMNS[1:]))
            last = group
        print(f"  {result['workload'] + ' (' + result['table'] + ')':<52} {result['milliseconds']:>8.3f} ms "
              + " ".join(f"{number(result['ratios'][column.name]):>15}" for column in COLUMNS[1:]))


def judge(results):
    """The aims, each with what was reached; (text, reached) for each."""
    ours = [(result["ratios"][OURS], result) for result in results]
    name = lambda result: f"{result['workload']}, {result['protocol']}, {result['clients']} client{'s' * (result['clients'] > 1)}"  # noqa: E731
    verdicts = []
    over = [(value, result) for value, result in ours if value > AIM]
    verdicts.append((f"tenancy at most {AIM} of by hand: {len(ours) - len(over)} of {len(ours)} rows", not over,
                     [f"{value:.3f}  {name(result)}" for value, result in over]))
    far = [(value, result) for value, result in ours if value > AIM_OF_ONE]
    verdicts.append((f"over {AIM}: at most one, and that at most {AIM_OF_ONE}: {len(over)}, of which {len(far)} over {AIM_OF_ONE}",
                     len(over) <= 1 and not far, []))
    few = [(1 / r["ours_to"]["plain"], r) for r in results if r["cliff"] and r["clients"] == 1]
    if few:
        worst = min(value for value, _ in few)
        verdicts.append((f"full text and trigrams at least {AIM_OF_CLIFF} times as fast as current_setting(): {worst:.0f} times and more",
                         worst >= AIM_OF_CLIFF, [f"{value:.0f} times  {name(r)}" for value, r in few if value < AIM_OF_CLIFF]))
    # What by hand differs from itself, but for one row in twenty.
    noise = sorted(abs(math.log(result["ratios"][CONTROL])) for result in results)[len(results) * 19 // 20]
    slower = [(max(r["ours_to"].values()), r) for r in results if max(r["ours_to"].values()) > math.exp(noise)]
    verdicts.append((f"never slower than the best policy by more than the noise, {math.expm1(noise):.3f}: {len(results) - len(slower)} of "
                     f"{len(results)} rows", not slower, [f"{value:.3f}  {name(r)}" for value, r in slower]))
    return verdicts


def few():
    """Some of the workloads, with no table that is kept."""
    extensions = [extension for extension in ("pg_trgm", "vector") if available(extension)]
    chosen = [workload for workload in WORKLOADS if workload.title in OF.split(",")]
    set_up(extensions)
    hand, again, ours = COLUMNS
    print(f"{'':34} {'protocol':10} {'clients':>7} {'by hand':>10} {'again':>8} {'tenancy':>8}")
    with awake():
        for clients in (1, CLIENTS):
            for protocol in PROTOCOLS:
                for workload in chosen:
                    row = Row(workload, protocol, clients)
                    by_hand = statistics.median(statistics.median(turn) for turn in row.turns[hand] if turn)
                    print(f"{workload.title:34} {protocol:10} {clients:7} {by_hand * 1000:7.3f} ms {row.to_hand(again):8.3f} {row.to_hand(ours):8.3f}", flush=True)
    if UNEQUAL:
        sys.exit("\n".join(["the columns do not agree:", *UNEQUAL[:10]]))


def main():
    major = int(psql("postgres", text="SHOW server_version_num;")) // 10000
    extensions = [extension for extension in ("pg_trgm", "vector") if available(extension)]
    workloads = [workload for workload in WORKLOADS if not workload.needs or workload.needs in extensions]
    for workload in WORKLOADS:
        if workload not in workloads:
            say(f"PostgreSQL {major} has no {workload.needs} here: left out is {workload.title}")
    set_up(extensions)
    results = []
    with awake():
        say("comparing the rows of a large, a middle and a small tenant …")
        for workload in workloads:
            if not workload.writes:
                verify(workload)
        for clients in (1, CLIENTS):
            for protocol in PROTOCOLS:
                for workload in workloads:
                    say(f"{workload.title}, {protocol}, {clients} client{'s' * (clients > 1)} …")
                    results.append(Row(workload, protocol, clients).result())
    written = {column.name: contents(column.writes) for column in COLUMNS}
    if len(set(written.values())) != 1:
        UNEQUAL.append(f"what was written is not the same: {written}")
    print_table(results)
    verdicts = judge(results)
    print()
    for text, reached, missed in verdicts:
        print(f"{'reached' if reached else 'MISSED '}  {text}")
        for line in missed:
            print(f"           {line}")
    print(f"\n{compared:,} answers compared, row by row, and {written[HAND][0]:,} rows that were written to: "
          f"{'all are equal' if not UNEQUAL else 'NOT EQUAL'} ({time.monotonic() - STARTED:.0f} s)")
    os.makedirs(os.path.dirname(OUT), exist_ok=True)
    with open(OUT, "w") as file:
        json.dump({
            "postgresql": psql("postgres", text="SHOW server_version;").strip(), "quick": QUICK, "processors": os.cpu_count(),
            "flights": COPIES * 336_776, "documents": DOCUMENTS, "columns": {column.name: column.label for column in COLUMNS},
            "rows": results, "aims": [{"aim": text, "reached": reached} for text, reached, _ in verdicts],
            "answers_compared": compared, "equal": not UNEQUAL,
        }, file, indent=1)
    if UNEQUAL:
        sys.exit("\n".join(["the columns do not agree:", *UNEQUAL[:10]]))


if __name__ == "__main__":
    few() if OF else main()
