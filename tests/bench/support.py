"""What the parts of the bench have in common: how they speak to the server, and the table of their results.

A missed aim is printed, not an error: machines differ.
"""

import atexit
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

QUICK = os.environ.get("BENCH_QUICK") == "1"
STARTED = time.monotonic()
HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPTS = tempfile.mkdtemp(prefix="tenancy-bench-")
atexit.register(shutil.rmtree, SCRIPTS, ignore_errors=True)


def say(text):
    print(f"[{time.monotonic() - STARTED:4.0f}s] {text}", file=sys.stderr, flush=True)


def psql(database, *arguments, text=None, user="postgres"):
    command = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", user, "-d", database, *arguments]
    environment = {**os.environ, "PGOPTIONS": "-c client_min_messages=warning"}
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def awake():
    """Keeps the processors from sleeping, with work that gives way to any other.

    A processor that sleeps between two statements takes longer to wake than a statement takes, which would hide what
    is measured, and differently on each machine. A busy server does not sleep.
    """
    # They end with whoever has started them, also where that is killed.
    spin = (
        "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
        f"while os.getppid() == {os.getpid()}:\n  for _ in range(10_000_000): pass"
    )
    spinners = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def ratio(ours, theirs):
    return statistics.median(a / b for a, b in zip(ours, theirs))


# The table of results --------------------------------------------------------------------------------------------

RESULTS = []


def heading(text):
    RESULTS.append((text, None, None, None, None))


def result(what, value, aim=None, at_most=False, figures=""):
    verdict = "" if aim is None else ("PASS" if (value <= aim if at_most else value >= aim) else "MISS")
    sign = "" if aim is None else f"{'<=' if at_most else '>='} {aim:.2f}"
    RESULTS.append((what, f"{value:.3f}", sign, verdict, figures))


def print_results():
    print(f"\n{'':62} {'ratio':>7}  {'aim':8} {'':5} medians")
    for what, value, aim, verdict, figures in RESULTS:
        if value is None:
            print(f"\n{what}")
        else:
            print(f"  {what:60} {value:>7}  {aim:8} {verdict:5} {figures}")
    missed = sum(1 for row in RESULTS if row[3] == "MISS")
    print(f"\n{missed} aims missed" if missed else "\nevery aim reached", f"({time.monotonic() - STARTED:.0f} s)")
