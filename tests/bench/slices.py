"""Throughput of several connections, and the time of a statement: what parts of the bench have in common that measure writes.

Variants take turns in short slices, so whatever else the machine does touches all of them alike.
"""

import os
import re
import statistics
import subprocess
import sys

from support import QUICK, SCRIPTS, psql

CLIENTS = 8
SLICE = 1 if QUICK else 2  # seconds
ROUNDS = 4 if QUICK else 20


def insertion(table):
    """A transaction of a tenant that inserts one row."""
    return f"BEGIN;\nSET LOCAL tenancy.tenant_id = 'acme';\nINSERT INTO {table} (body) VALUES ('new');\nCOMMIT;\n"


def throughput(database, name, script, commit):
    """Transactions per second of a slice, by CLIENTS connections."""
    path = os.path.join(SCRIPTS, f"{database}-{name}")
    with open(path, "w") as file:
        file.write(script)
    command = ["pgbench", "-n", "-U", "bench_app", "-c", str(CLIENTS), "-j", "1", "-T", str(SLICE), "-f", path, database]
    environment = {**os.environ, "PGOPTIONS": f"-c synchronous_commit={commit}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    if done.returncode != 0 or not found:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return float(found[1])


def alternate(database, scripts, commit, between=""):
    """The throughput of each script in each round; `between` is run before each slice."""
    taken = {name: [] for name in scripts}
    for n in range(ROUNDS):
        for name in scripts if n % 2 == 0 else reversed(scripts):
            if between:
                psql(database, text=between)
            taken[name].append(throughput(database, name, scripts[name], commit))
    return taken


def per_second(taken, *names):
    return " : ".join(f"{statistics.median(taken[name]):,.0f}/s" for name in names)


def timed(database, statement, setup=""):
    """Milliseconds of a statement."""
    out = psql(database, text=f"{setup}\n\\timing on\n{statement}\n\\timing off\n")
    return float(re.findall(r"^Time: ([0-9.]+) ms", out, re.M)[-1])


def one_call(database, call, setup=""):
    """Microseconds of a call, without those of a query that makes none."""
    calls = 20_000 if QUICK else 200_000
    # What nobody looks at is not called, unless it is volatile.
    query = "SELECT count(s.called) FROM (SELECT {} AS called FROM generate_series(1, %d) OFFSET 0) AS s;" % calls
    with_it, without = (
        min(timed(database, query.format(what), setup) for _ in range(5)) for what in (call, "random()")
    )
    return (with_it - without) / calls * 1000
