"""What protection costs, as ratios measured in one run on one server.

Variants take turns: transactions of one connection, each of a variant drawn by lot, and scans one after the other. So
whatever else the machine does touches all of them alike.
"""

import glob
import os
import re
import statistics
import subprocess
import sys

from support import HERE, QUICK, SCRIPTS, awake, heading, print_results, psql, ratio, result, say

ROWS = 20_000 if QUICK else 200_000
SCAN_ROWS = 200_000 if QUICK else 1_000_000
REGISTRIES = (10, 1_000, 20_000) if QUICK else (10, 10_000, 1_000_000)
SECONDS = 3 if QUICK else 40  # for each mix of transactions
PARTS = 10  # of a mix; a ratio is the median of theirs
WARM = 0.5  # of a mix comes first and is not counted: in it the connection meets its tenants
SCAN_ROUNDS = 7 if QUICK else 25


# Requests --------------------------------------------------------------------------------------------------------

# A request is a transaction of one tenant. In simple protocol the tenant is set as an application sets it; SET takes
# no parameters, so with prepared statements a function does it.
SET = {
    "simple": "SET LOCAL {parameter} = :tenant;",
    "prepared": "SELECT set_config('{parameter}', :tenant::text, true);",
}
READ = {
    "protected": ("tenancy.tenant_id", "SELECT body FROM protected WHERE id = :id;"),
    "handwritten": (
        "app.tenant_id",
        "SELECT body FROM handwritten WHERE id = :id AND tenant_id = {tenant};",
    ),
    "policy": ("app.tenant_id", "SELECT body FROM policy WHERE id = :id;"),
}
INSERT = {
    "protected": ("tenancy.tenant_id", "INSERT INTO protected_log (body) VALUES ('new');"),
    "handwritten": (
        "app.tenant_id",
        "INSERT INTO handwritten_log (tenant_id, body) VALUES ({tenant}, 'new');",
    ),
    "policy": ("app.tenant_id", "INSERT INTO policy_log (tenant_id, body) VALUES ({tenant}, 'new');"),
}
TENANT = {"simple": "':tenant'", "prepared": ":tenant::text"}


def script(name, work, variant, mode, tenants, rows):
    """The pgbench script of a variant; returns its path."""
    parameter, statement = work[variant]
    path = os.path.join(SCRIPTS, f"{name}-{variant}-{mode}-{tenants}")
    with open(path, "w") as file:
        file.write(
            f"\\set id random(0, {rows - 1})\n\\set tenant :id % {tenants}\nBEGIN;\n"
            f"{SET[mode].format(parameter=parameter)}\n{statement.format(tenant=TENANT[mode])}\nCOMMIT;\n"
        )
    return path


def usual(latencies):
    """The mean without the slowest twentieth, in which the machine did something else."""
    kept = sorted(latencies)[: max(1, len(latencies) * 19 // 20)]
    return sum(kept) / len(kept)


def throughputs(database, name, work, mode, tenants, rows=ROWS):
    """Transactions per second of each variant, once for each part of the run, on the first `rows` rows.

    One connection draws a variant for every transaction, so a second of noise costs all of them the same. One,
    because with more a cheap variant waits for the processor that a dear one holds, and they look alike.
    """
    variants = list(work)
    log = os.path.join(SCRIPTS, f"log-{name}-{mode}-{tenants}")
    command = ["pgbench", "-n", "-U", "bench_app", "-M", mode, "-T", str(SECONDS), "-l", "--log-prefix", log]
    for variant in variants:
        command += ["-f", script(name, work, variant, mode, tenants, rows)]
    done = subprocess.run([*command, database], capture_output=True, text=True)
    if done.returncode != 0 or "failed transactions: 0 " not in done.stdout:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    [path] = glob.glob(f"{log}.*")
    with open(path) as file:
        # client, number, microseconds, script, …
        taken = [(int(field[3]), int(field[2])) for field in map(str.split, file)]
    os.unlink(path)
    taken = taken[int(len(taken) * WARM) :]
    size = len(taken) // PARTS
    parts = [taken[n * size : (n + 1) * size] for n in range(PARTS)]
    return {
        variant: [1e6 / usual([us for number, us in part if number == at]) for part in parts]
        for at, variant in enumerate(variants)
    }


def per_second(taken, *variants):
    return " : ".join(f"{statistics.median(taken[v]):,.0f}/s" for v in variants)


def requests():
    tenants = REGISTRIES[1]
    for title, name, work in [("Point reads", "read", READ), ("Insertions of one row", "insert", INSERT)]:
        heading(f"{title}: transactions per second of one connection, {tenants:,} tenants")
        for mode in ("simple", "prepared"):
            say(f"{title.lower()}, {mode} protocol …")
            taken = throughputs(f"requests_{tenants}", name, work, mode, tenants)
            # The aim is that of reads; what an insertion costs is told, not promised.
            aim = 0.97 if name == "read" else None
            by_hand = "a hand-written WHERE" if name == "read" else "a hand-written column"
            result(f"protected : {by_hand}, {mode}", ratio(taken["protected"], taken["handwritten"]), aim,
                   figures=per_second(taken, "protected", "handwritten"))
            result(f"protected : a policy with current_setting(), {mode}", ratio(taken["protected"], taken["policy"]),
                   figures=per_second(taken, "protected", "policy"))


def registries():
    heading("Point reads, registries of different sizes")
    smallest, middle, largest = REGISTRIES

    def relative(registered, met, rows):
        say(f"point reads with a registry of {registered:,} tenants, of which one connection meets {met:,} …")
        taken = throughputs(f"requests_{registered}", "size", READ, "simple", registered, rows)
        value = ratio(taken["protected"], taken["handwritten"])
        result(f"{registered:,} tenants, {met:,} met: protected : a hand-written WHERE", value, 0.97,
               figures=per_second(taken, "protected", "handwritten"))
        return value

    # The same rows in the same number, so that only the registry differs.
    few = relative(smallest, smallest, middle)
    some = relative(middle, middle, middle)
    many = relative(largest, middle, middle)
    result(f"the same, {middle:,} : {smallest} tenants", some / few, 0.97)
    result(f"the same, {largest:,} : {smallest} tenants", many / few, 0.97)
    # More tenants than a backend remembers: nearly every request looks its tenant up.
    relative(largest, min(largest, ROWS), ROWS)


# Scans -----------------------------------------------------------------------------------------------------------

TENANTS = {
    "text": ("tenant-1", "tenant-77"),
    "uuid": ("00000001-0000-4000-8000-000000000000", "00000077-0000-4000-8000-000000000000"),
    "bigint": ("1", "77"),
}


def scans():
    heading(f"A sequential scan of {SCAN_ROWS:,} rows, a fifth of them the tenant's: time")
    for kind, (tenant, _) in TENANTS.items():
        say(f"sequential scans, tenant column of type {kind} …")
        # All variants in one session, each statement after the others' in turn; SET SESSION AUTHORIZATION replans.
        setup = f"""SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;
            SET tenancy.tenant_id = '{tenant}'; SET app.tenant_id = '{tenant}';"""
        query = "SELECT count(*), sum(amount) FROM"
        variants = {
            "literal": ("postgres", f"{query} protected_{kind} WHERE tenant_id = '{tenant}';"),
            "protected": ("bench_app", f"{query} protected_{kind};"),
            "plain": ("bench_plain", f"{query} policy_{kind};"),
            "wrapped": ("bench_wrapped", f"{query} policy_{kind};"),
        }
        lines, order = [setup], []
        for n in range(SCAN_ROUNDS + 1):
            for variant in list(variants) if n % 2 == 0 else reversed(list(variants)):
                role, statement = variants[variant]
                lines += [f"SET SESSION AUTHORIZATION {role};", "\\timing on", statement, "\\timing off"]
                order.append((n, variant))
        out = psql("scans", text="\n".join(lines))
        answers = set(re.findall(r"^\d+\|\d+$", out, re.M))
        times = [float(ms) for ms in re.findall(r"^Time: ([0-9.]+) ms", out, re.M)]
        if len(answers) != 1 or len(times) != len(order):
            sys.exit(f"the scans do not agree: {answers}, {len(times)} times\n{out[-500:]}")
        taken = {v: [ms for (n, variant), ms in zip(order, times) if variant == v and n > 0] for v in variants}

        def medians(*names):
            return " : ".join(f"{statistics.median(taken[name]):.1f} ms" for name in names)

        result(f"{kind}: protected : a literal by a superuser", ratio(taken["protected"], taken["literal"]), 1.10, True,
               medians("protected", "literal"))
        result(f"{kind}: protected : current_setting()", ratio(taken["protected"], taken["plain"]),
               figures=medians("protected", "plain"))
        result(f"{kind}: protected : (SELECT current_setting())", ratio(taken["protected"], taken["wrapped"]),
               figures=medians("protected", "wrapped"))


def estimates():
    heading("Rows that the planner expects : rows there are")
    for kind, sizes in TENANTS.items():
        for size, tenant in zip(("big", "small"), sizes):
            for label, role, parameter, table in [
                ("protected", "bench_app", "tenancy.tenant_id", f"protected_{kind}"),
                ("(SELECT …)", "bench_wrapped", "app.tenant_id", f"policy_{kind}"),
            ]:
                out = psql("scans", text=f"""SELECT set_config('{parameter}', '{tenant}', false);
                    SET SESSION AUTHORIZATION {role}; EXPLAIN (ANALYZE, TIMING off) SELECT * FROM {table};""")
                found = re.search(r"rows=(\d+) .*?\(actual .*?rows=(\d+)", out)
                expected, actual = (int(n) for n in found.groups())
                result(f"{kind}, {size} tenant, {label}", expected / actual, figures=f"{expected:,} : {actual:,}")


def set_up():
    psql("postgres", text="CREATE ROLE bench_app LOGIN; CREATE ROLE bench_plain LOGIN; CREATE ROLE bench_wrapped LOGIN;")
    for n in REGISTRIES:
        say(f"a registry of {n:,} tenants, three tables of {ROWS:,} rows …")
        psql("postgres", text=f"CREATE DATABASE requests_{n};")
        psql(f"requests_{n}", "-v", f"tenants={n}", "-v", f"rows={ROWS}", "-f", os.path.join(HERE, "requests.sql"))
    say(f"six tables of {SCAN_ROWS:,} rows to scan …")
    psql("postgres", text="CREATE DATABASE scans;")
    psql("scans", "-v", f"rows={SCAN_ROWS}", "-f", os.path.join(HERE, "scans.sql"))
    psql("postgres", text="CHECKPOINT;")


def main():
    set_up()
    with awake():
        requests()
        registries()
    scans()
    estimates()
    print_results()


if __name__ == "__main__":
    main()
