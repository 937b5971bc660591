"""What isolation costs in instructions of the server's process, and in cache lines of code that a transaction runs through.

Neither depends on neighbours or on luck, as time does, so that a difference of a hundredth is one: for the workloads of `speed.py` that are
short, with less data, a backend under callgrind runs the same transactions by hand, with the policy that people write, and with ours. A
statement runs once, so its time follows the lines of code that the processor has to fetch rather than the instructions in them.

INSTRUCTIONS_OF='lower(x) =' measures those workloads only, INSTRUCTIONS_FUNCTIONS=30 prints where ours runs through more lines than by hand,
and INSTRUCTIONS_PROTOCOL=prepared runs prepared statements.
"""

import collections
import os
import re
import subprocess
import sys
import time

import speed
from support import print_results, heading, psql, result, say
from wire import Connection, query, rows
from workloads import COLUMNS, HAND, OURS, WORKLOADS

SHORT = ["point read", "the last 20", "full text", "jsonb containment", "lower(x) =", "array overlap", "insert", "update", "upsert"]
OF = os.environ.get("INSTRUCTIONS_OF")
PROTOCOL = os.environ.get("INSTRUCTIONS_PROTOCOL", "simple")
FUNCTIONS = int(os.environ.get("INSTRUCTIONS_FUNCTIONS", "0"))
MEASURED = [HAND, "plain", OURS]
SETTLED, COUNTED = 30, 40
LINE = 6  # bits of an address within a cache line
POSTGRES = os.environ["TENANCY_PG_BIN"]
DIRECTORY = os.environ["PGHOST"]
AS_SERVER = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []


def as_server(*command, **options):
    return subprocess.run([*AS_SERVER, *command], cwd="/", check=True, capture_output=True, text=True, **options).stdout


def stop():
    subprocess.run([*AS_SERVER, f"{POSTGRES}/pg_ctl", "-D", f"{DIRECTORY}/data", "-s", "-w", "-m", "fast", "stop"], cwd="/", check=True)


def start():
    """The server once more, with each of its processes under callgrind."""
    stop()
    # PostgreSQL writes over the environment that valgrind names its pipes by, so it has none.
    valgrind = ["valgrind", "--tool=callgrind", "-q", "--vgdb=no", "--trace-children=yes", "--dump-instr=yes", "--compress-strings=no",
                "--compress-pos=no", f"--callgrind-out-file={DIRECTORY}/callgrind.%p"]
    with open(f"{DIRECTORY}/server.log", "a") as log:
        server = subprocess.Popen([*AS_SERVER, *valgrind, f"{POSTGRES}/postgres", "-D", f"{DIRECTORY}/data"], cwd="/",
                                  stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    for _ in range(120):
        if subprocess.run([f"{POSTGRES}/pg_isready", "-q"]).returncode == 0:
            return server
        time.sleep(0.5)
    sys.exit(f"the server does not start under callgrind: {DIRECTORY}/server.log")


def run(workload, column, drawn, count):
    """How often each instruction was run by a backend in its life, by the function that it is of."""
    connection = Connection(column.role, column.writes if workload.writes else column.reads)
    pid = re.match(rb"D.{10}(\d+)", rows(connection.ask(query("SELECT pg_backend_pid()"))), re.S)[1].decode()
    if PROTOCOL == "prepared":
        workload.prepare(connection, column)
    for number in range(count):
        for answer in connection.run(workload.transaction(column, PROTOCOL, *drawn[number % len(drawn)]))[0]:
            rows(answer)
    connection.close()
    file = f"{DIRECTORY}/callgrind.{pid}"
    # It is written when the process ends.
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.01)
    counted = read(file)
    os.remove(file)
    return counted


def read(file):
    """What callgrind has counted: `0xaddress line cost`, below `ob=` and `fn=`. What follows `calls=` is what was called."""
    counted = collections.Counter()
    thing, function, is_call = "", "", False
    with open(file, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("0x"):
                if not is_call:
                    address, _, cost = line.split()
                    counted[thing, int(address, 16), function] += int(cost)
                is_call = False
            elif line.startswith("ob="):
                thing = os.path.basename(line[3:].strip())
            elif line.startswith("fn="):
                function = line[3:].strip()
            elif line.startswith("calls="):
                is_call = True
    return counted


def measure(workload, column, drawn):
    """Instructions of a transaction by function, and the lines of code that each runs through with the function that they are of."""
    run(workload, column, drawn, SETTLED + COUNTED)  # what is read is in memory then
    begun = run(workload, column, drawn, SETTLED)
    run_more = run(workload, column, drawn, SETTLED + COUNTED)
    run_more.subtract(begun)
    lines = {(thing, address >> LINE): function for (thing, address, function), times in run_more.items() if times >= COUNTED}
    functions = collections.Counter()
    for (thing, _, function), times in run_more.items():
        functions[thing, function] += times / COUNTED
    return functions, lines


def tell(ours, hand):
    """The functions in which ours runs through more lines than by hand, or fewer; and by how many instructions."""
    more = collections.Counter()
    for sign, (_, lines) in ((1, ours), (-1, hand)):
        for (thing, _), function in lines.items():
            more[thing, function] += sign
    for name in sorted(more, key=lambda name: -abs(more[name]))[:FUNCTIONS]:
        print(f"    {more[name]:+5} {ours[0][name] - hand[0][name]:+10,.0f}  {': '.join(name)[:120]}")


def main():
    extensions = [name for name in ("pg_trgm",) if speed.available(name)]
    speed.COPIES, speed.DOCUMENTS, speed.ORDERS = 1, 100_000, 20_000
    speed.set_up(extensions)
    chosen = [w for w in WORKLOADS if (w.title in OF.split(",") if OF else w.title in SHORT)]
    drawn = {workload.title: speed.draw(workload, workload.tenant, 200) for workload in chosen}
    server = start()
    for workload in chosen:
        of = {}
        for column in COLUMNS:
            if column.name in MEASURED:
                say(f"{workload.title}, {column.label} …")
                of[column.name] = measure(workload, column, drawn[workload.title])
        heading(workload.title)
        by_hand = of[HAND]
        for name in MEASURED[1:]:
            counted = of[name]
            result(f"instructions, {name}", counted[0].total() / by_hand[0].total(),
                   figures=f"{by_hand[0].total():,.0f} by hand, {counted[0].total():,.0f}")
            result(f"lines of code, {name}", len(counted[1]) / len(by_hand[1]), figures=f"{len(by_hand[1]):,} by hand, {len(counted[1]):,}")
        if FUNCTIONS:
            print(workload.title)
            tell(of[OURS], by_hand)
    print_results()
    stop()
    server.wait()


if __name__ == "__main__":
    main()
