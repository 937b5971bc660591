"""Metrics as the real programs read them: promtool, the exporter of Debian with our queries, and a server of Prometheus."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml
from support import APP, eventually, set_session, value

MONITORING = Path(__file__).resolve().parents[2] / "docs" / "monitoring"
MONITOR = "it_monitoring"


def program(package, name=None):
    """A program of one of Debian's packages, see tests/tools/setup.sh."""
    return Path(os.environ["TENANCY_CACHE"]) / "prometheus" / package / "usr" / "bin" / (name or package)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def busy(db):
    """Two tenants that have done something, a quota that is nearly used up, metrics of an application; a role that monitors."""
    db.server.drop_roles(MONITOR)
    db.server.run(f"CREATE ROLE {MONITOR} LOGIN IN ROLE pg_monitor")
    with db.connect("postgres") as dba:
        dba.execute("SELECT tenancy.set_quota('acme', 'calls', 20, 'month'), tenancy.set_quota('acme', 'files', NULL)")
    with db.connect(APP) as app:
        for tenant in ("acme", "globex"):
            set_session(app, tenant)
            app.execute("SELECT count(*) FROM orders")
            app.execute("SELECT tenancy.record_metric('agent_executions_total', %s, 3)", (json.dumps({"type": 'a "b" \\ c\nd', "status": "ok"}),))
            app.execute("SELECT tenancy.record_metric('queue_length', '{}', 2.5)")
        set_session(app, "acme")
        app.execute("SELECT tenancy.track_usage('calls', 19)")
        with pytest.raises(Exception, match="quota"):
            app.execute("SELECT tenancy.track_usage('calls', 19)")
        app.execute("SELECT tenancy.report_health('mail', 'integration', 'degraded', 'slow')")
    yield db
    db.server.drop_roles(MONITOR)


def promtool(text):
    checked = subprocess.run([program("prometheus", "promtool"), "check", "metrics"], input=text, text=True, capture_output=True, timeout=60)
    return checked.returncode, checked.stdout + checked.stderr


def test_promtool_finds_nothing(busy):
    for role, tenant in (("postgres", None), (MONITOR, None), (APP, "acme")):
        with busy.connect(role) as connection:
            if tenant:
                set_session(connection, tenant)
            text = value(connection, "SELECT tenancy.metrics()")
        assert promtool(text) == (0, ""), role
        assert ("globex" in text) == (tenant is None)
    # A test that cannot fail: promtool sees a counter with a wrong name, and a label that is not closed.
    assert promtool("# HELP a_x X\n# TYPE a_x counter\na_x 1\n")[0] != 0
    assert promtool('# HELP a_total X\n# TYPE a_total counter\na_total{b="c} 1\n')[0] != 0


@pytest.fixture(scope="module")
def exporter(busy):
    """The port of an exporter with the queries that we ship."""
    port = free_port()
    source = f"host={busy.server.host} port={busy.server.port} user={MONITOR} dbname={busy.name} sslmode=disable"
    process = subprocess.Popen(
        [program("prometheus-postgres-exporter"), f"--web.listen-address=127.0.0.1:{port}", f"--extend.query-path={MONITORING}/queries.yml",
         "--disable-default-metrics", "--disable-settings-metrics",
         "--no-collector.bgwriter"],  # which asks for a column that went with PostgreSQL 17
        env={"DATA_SOURCE_NAME": source}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        eventually(lambda: answers(port, "/metrics"))
        yield port
    finally:
        process.terminate()
        said = process.communicate(timeout=30)[0]
    assert "error" not in said.lower(), said


def answers(port, path):
    try:
        get(port, path)
        return True
    except OSError:
        return False


def samples(text, prefix):
    """The names and labels of samples, and their values."""
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if match and match[1].startswith(prefix):
            labels = {k: v for k, v in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or "") if k != "server"}
            found[match[1], tuple(sorted(labels.items()))] = float(match[3])
    return found


def test_promtool_finds_nothing_in_what_is_exported(exporter):
    ours = [line for line in get(exporter, "/metrics").splitlines(keepends=True) if re.match(r"(# (HELP|TYPE) )?tenancy_", line)]
    assert len(ours) > 50 and promtool("".join(ours)) == (0, "")


def test_exporter_says_what_metrics_says(busy, exporter):
    exported = samples(get(exporter, "/metrics"), "tenancy_")
    with busy.connect("postgres") as dba:
        ours = samples(value(dba, "SELECT tenancy.metrics()"), "tenancy_")
    # What the exporter and this test do themselves is of no tenant.
    ours = {key: amount for key, amount in ours.items() if ("tenant_id", "(none)") not in key[1]}
    assert {name for name, _ in ours} >= {"tenancy_statements_total", "tenancy_errors_total", "tenancy_resource_limit"}
    assert ours and {key: exported.get(key) for key in ours} == ours
    application = {dict(labels)["name"]: amount for (name, labels), amount in exported.items() if name == "tenancy_application_value" and ("tenant_id", "acme") in labels}
    assert application == {"agent_executions_total": 3, "queue_length": 2.5}
    assert exported["tenancy_health_status", (("component", "protection"),)] == 0
    tenants = {dict(labels)["status"]: amount for (name, labels), amount in exported.items() if name == "tenancy_registered_tenants"}
    assert tenants["degraded"] == 1 and tenants["healthy"] >= 1


@pytest.fixture(scope="module")
def prometheus(exporter, tmp_path_factory):
    """The port of a server of Prometheus that has scraped the exporter, with the alerts that the documentation shows."""
    at, port = tmp_path_factory.mktemp("prometheus"), free_port()
    manual = (MONITORING.parent / "monitoring.md").read_text()
    (at / "alerts.yml").write_text(re.search(r"```yaml\n(.*?)```", manual, re.S)[1])
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [{"job_name": "postgres", "static_configs": [{"targets": [f"127.0.0.1:{exporter}"]}]}],
    }
    (at / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    with open(at / "log", "w") as log:
        process = subprocess.Popen(
            [program("prometheus"), f"--config.file={at}/prometheus.yml", f"--storage.tsdb.path={at}/data", f"--web.listen-address=127.0.0.1:{port}"],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            eventually(lambda: answers(port, "/-/ready"))
            eventually(lambda: query(port, "tenancy_statements_total"))
            yield port
        finally:
            process.terminate()
            process.wait(30)
            shutil.rmtree(at / "data", ignore_errors=True)


def query(port, expression):
    answer = json.loads(get(port, "/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
    assert answer["status"] == "success", answer
    return answer["data"]["result"]


def test_prometheus_scrapes(prometheus):
    assert query(prometheus, 'up{job="postgres"}')[0]["value"][1] == "1"
    [calls] = query(prometheus, 'tenancy_resource_usage{tenant_id="acme",resource="calls"}')
    assert calls["value"][1] == "19" and calls["metric"]["period"] == "month"


def test_alerts_of_the_documentation(prometheus):
    def alerts():
        found = json.loads(get(prometheus, "/api/v1/rules"))["data"]["groups"][0]["rules"]
        assert not [rule["lastError"] for rule in found if rule.get("lastError")]
        return {rule["name"]: rule["state"] for rule in found if rule["health"] == "ok"}

    # It waits for a quarter of an hour.
    eventually(lambda: alerts().get("TenancyQuotaNearlyUsedUp") == "pending")
    assert set(alerts()) == {"TenancyProtection", "TenancyUpkeep", "TenancyQuotaNearlyUsedUp"}
    assert alerts()["TenancyProtection"] == "inactive"


def test_every_panel_of_the_dashboard_shows_something(prometheus):
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(expressions) > 10

    def empty():
        return [e for e in expressions if not query(prometheus, e.replace("$tenant", ".*").replace("$__rate_interval", "1m"))]

    # A rate asks for two scrapes.
    eventually(lambda: not empty())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
