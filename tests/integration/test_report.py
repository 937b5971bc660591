"""The page of `tenancy.report()`, as a browser shows it: Debian's chromium, on a desk and on a phone, by day and by night."""

import re
import time

import psycopg
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from support import APP, Database, eventually, pg_program, refused, set_session, value

MONITOR = "it_reporting"
SIZES = {"desk": (1280, 900), "phone": (360, 740)}
HOSTILE = """<img src=x onerror="document.title='taken'"><script>document.title = 'taken'</script> & 'Žofie' 日本"""
PAGE = "SELECT tenancy.report()"


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def shop(db):
    """Three tenants: one above its soft limit, one suspended, one with a name that is HTML."""
    db.server.drop_roles(MONITOR)
    db.server.run(f"CREATE ROLE {MONITOR} LOGIN IN ROLE pg_monitor")
    with db.connect("postgres") as dba:
        dba.execute("SELECT tenancy.archive_tenant('umbrella'), tenancy.delete_tenant('umbrella')")
        dba.execute("SELECT tenancy.set_quota('acme', 'calls', 10, 'month', soft_limit => 5), tenancy.suspend_tenant('globex', 'not paid')")
        dba.execute("UPDATE _tenancy.tenants SET name = %s WHERE id = 'initech'", [HOSTILE])
        dba.execute("CREATE TABLE forgotten (tenant_id text)")
    with db.connect(APP) as app:
        set_session(app, "acme")
        app.execute("SELECT tenancy.track_usage('calls', 7), count(*) FROM orders")
        set_session(app, "initech")
        app.execute("SELECT tenancy.report_health('mail', 'integration', 'degraded', %s)", [HOSTILE])
    db.run("ANALYZE orders")
    yield db
    db.server.drop_roles(MONITOR)


@pytest.fixture(scope="module")
def many(server):
    """Two thousand tenants with rows, quotas and usage."""
    database = Database(server, "it_report_many")
    database.run(
        "CREATE TABLE items (id bigserial PRIMARY KEY, tenant_id text NOT NULL)",
        "SELECT count(tenancy.create_tenant('tenant-' || n)) FROM generate_series(1, 2000) n",
        "INSERT INTO items (tenant_id) SELECT 'tenant-' || n FROM generate_series(1, 2000) n, generate_series(1, 1 + n % 7)",
        "SELECT tenancy.protect('items')",
        "ANALYZE items",
        "SELECT tenancy.set_plan_quota('free', r, 100) FROM unnest('{agents,calls,files}'::text[]) r",
        "UPDATE _tenancy.tenants SET plan = 'free'",
        """INSERT INTO _tenancy.usage_hourly SELECT 'tenant-' || n, 'calls', date_trunc('hour', now()) - h * interval '5 hours', n % 90, 0, 0
           FROM generate_series(1, 2000) n, generate_series(0, 99) h""",
        "INSERT INTO _tenancy.usage_totals SELECT 'tenant-' || n, 'calls', n % 101 FROM generate_series(1, 2000) n",
    )
    yield database
    database.drop()


@pytest.fixture
def show(browser, tmp_path):
    """show(page, size, dark): opens a page from a file, with nothing left of the one before."""

    def show(page, size="desk", dark=False):
        file = tmp_path / "report.html"
        file.write_text(page)
        width, height = SIZES[size]
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        for log in ("browser", "performance"):
            browser.get_log(log)
        browser.get(file.as_uri())
        # It may return before a large page is whole.
        eventually(lambda: browser.execute_script("return document.readyState") == "complete")
        return browser

    return show


def report_of(database, query=PAGE):
    """As psql writes it to a file."""
    return pg_program("psql", "-XAt", "-d", database.name, "-U", "postgres", "-c", query, PGCLIENTENCODING="LATIN1").stdout


def asked_for(browser):
    """What the page asked the network for, itself included."""
    return re.findall(r'"method":"Network.requestWillBeSent".*?"url":"([^"]*)"', " ".join(entry["message"] for entry in browser.get_log("performance")))


def texts(browser, selector):
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def shown(browser):
    """The tenants of the table, in its order."""
    return browser.execute_script("return Array.from(document.querySelectorAll('#tenants tbody tr:not([hidden]) td:first-child strong'), (cell) => cell.textContent)")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_three_tenants(shop, show, size, dark):
    browser = show(report_of(shop), size, dark)
    assert browser.title == f"Tenants of {shop.name}"
    assert shown(browser) == ["globex", "acme", "initech"]
    page = browser.find_element(By.TAG_NAME, "body").text
    for said in ("the tenant is suspended: not paid", "calls per month: 7 are used, more than the soft limit of 5", HOSTILE, "public.forgotten", "Tenants that used something", "7 of 10"):
        assert said in page, said
    assert browser.execute_script("return document.querySelectorAll('figure svg').length") >= 3
    # Nothing went wrong, and nothing came from elsewhere.
    assert browser.get_log("browser") == []
    assert [url for url in asked_for(browser) if not url.startswith("file:///") or not url.endswith("report.html")] == []
    # Nothing is wider than the page, and all of it can be read.
    wide = """return Array.from(document.querySelectorAll('body *')).filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map((e) => e.outerHTML.slice(0, 200))"""
    assert browser.execute_script(wide) == []
    assert browser.execute_script(CONTRASTS) == []
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 300) == dark


# Elements with a text of their own whose colour is too near to that behind it, by the formula of WCAG 2 (4.5 is its level AA).
CONTRASTS = """
const light = (color) => {
  const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (e) => {
  for (; e; e = e.parentElement) {
    const color = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$|transparent/.test(color)) return color;
  }
};
return Array.from(document.querySelectorAll('body *')).filter((e) => Array.from(e.childNodes).some((n) => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length)
  .map((e) => {
    const style = getComputedStyle(e);
    const [a, b] = [light(e.closest('svg') ? style.fill : style.color), light(behind(e))];
    return [e.outerHTML.slice(0, 120), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
  }).filter(([, contrast]) => contrast < 4.5);
"""


def test_what_is_injected_does_not_run(shop, show):
    """Were a value written as HTML after all, the browser would refuse it; without the page's policy it runs."""
    injected = "<script>document.title = 'taken'</script><img src='https://example.invalid/x.png'>"
    page = report_of(shop).replace("</main>", injected + "</main>")
    browser = show(page)
    assert browser.title != "taken"
    assert len([entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]]) >= 2
    assert [url for url in asked_for(browser) if "example.invalid" in url] == []
    assert show(re.sub("<meta http-equiv[^>]*>", "", page)).title == "taken"


@pytest.mark.parametrize("size", list(SIZES))
def test_two_thousand_tenants(many, show, size):
    began = time.monotonic()
    page = report_of(many)
    print(f"{len(page) / 1e6:.1f} MB in {time.monotonic() - began:.1f} s")
    browser = show(page, size)
    assert len(shown(browser)) == 2000
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.get_log("browser") == []
    find = browser.find_element(By.ID, "find")
    find.send_keys("tenant-199")
    assert sorted(shown(browser)) == sorted(["tenant-199", *(f"tenant-199{n}" for n in range(10))])
    assert texts(browser, "#found") == ["11 shown"]
    find.clear()
    find.send_keys(" ")
    browser.find_element(By.ID, "attention").click()
    ill = shown(browser)
    # Those that have used up their quota of calls.
    assert sorted(ill) == sorted(f"tenant-{n}" for n in range(1, 2001) if n % 101 == 100)
    browser.find_element(By.ID, "attention").click()


def test_sorting(many, show):
    browser = show(report_of(many, "SELECT tenancy.report(300)"))
    names = shown(browser)
    button = browser.find_elements(By.CSS_SELECTOR, "#tenants th button")
    numbers = "return Array.from(document.querySelectorAll('#tenants tbody tr'), (row) => Number(row.cells[{}].dataset.value))"
    button[0].click()
    assert shown(browser) == sorted(names)
    button[0].click()
    assert shown(browser) == sorted(names, reverse=True)
    for column in (2, 6):
        button[column].click()
        values = browser.execute_script(numbers.format(column))
        assert values == sorted(values, reverse=True) and values[0] > values[-1]
        button[column].click()
        assert browser.execute_script(numbers.format(column)) == sorted(values)
    assert browser.execute_script("return document.querySelectorAll('th[aria-sort]').length") == 1


def test_fewer_tenants_and_days(many, show):
    browser = show(report_of(many, "SELECT tenancy.report(max_tenants => 5, days => 7)"))
    # Those that need attention are the first.
    assert len(shown(browser)) == 5 and all(int(name.split("-")[1]) % 101 == 100 for name in shown(browser))
    assert texts(browser, "#found") == ["5 shown, 1995 left out"]
    assert "The last 7 days" in texts(browser, "h2")
    for arguments in ("max_tenants => -1", "max_tenants => NULL", "days => 0", "days => 367", "days => NULL"):
        with refused("PARAMETER_INVALID"):
            many.run(f"SELECT tenancy.report({arguments})")


def test_rows_are_estimated(shop, many):
    def rows(database):
        return dict(database.run("SELECT tenant_id, rows FROM _tenancy.estimated_rows()"))

    assert rows(shop) == {"acme": 3, "globex": 2, "initech": 1}
    of_many = rows(many)
    ((total,),) = many.run("SELECT count(*) FROM items")
    assert len(of_many) == 2000 and abs(sum(of_many.values()) / total - 1) < 0.2


def test_a_database_without_anything(server, show):
    database = Database(server, "it_report_empty")
    browser = show(report_of(database))
    assert shown(browser) == [] and browser.get_log("browser") == []
    assert "None." in browser.find_element(By.TAG_NAME, "body").text
    database.drop()


def test_who_may_see_it(shop):
    with shop.connect(MONITOR) as monitor:
        assert value(monitor, PAGE).startswith("<!DOCTYPE html>")
    with shop.connect(APP) as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(PAGE)
    with shop.connect("postgres") as dba:
        set_session(dba, "acme")
        with refused("TENANT_ACCESS_DENIED"):
            dba.execute(PAGE)
