"""Signed tokens: a role that may not set a tenant reaches the one that its token names, for as long as the token is good."""

import threading
import time

import psycopg
import pytest
from support import GUEST, detail_of, eventually, items, refused, sqlstate, value
from test_parallel import parallel, workers_launched
from token_support import KEY, OTHER, ROWS, Issuer, authenticate, base64url, reaches, sign, turned_down, use


@pytest.fixture(scope="module")
def db(db):
    db.run(f"ALTER DATABASE {db.name} SET tenancy.token_clock_skew = 0")
    return db


def opened(connect, token):
    """Sessions that use the token in each way that there is: each one's name, and a statement that the token is good for."""
    levels = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
    ways = {"reads": "TABLE orders", "writes": "UPDATE orders SET amount = 3", "FETCH": "FETCH ALL FROM c"}
    ways |= {level: "TABLE orders" for level in levels} | {mode: "EXECUTE p" for mode in ("auto", "force_generic_plan")}
    ways |= {f"{level}, COPY": "COPY orders TO STDOUT" for level in levels} | {f"{level}, EXECUTE": "EXECUTE p" for level in levels}
    sessions = []
    for name, statement in ways.items():
        session = connect(GUEST)
        session.execute("PREPARE p AS SELECT item FROM orders")
        if name in ("auto", "force_generic_plan"):
            session.execute(f"SET plan_cache_mode = {name}")
        elif name not in ("reads", "writes"):
            session.execute(f"BEGIN ISOLATION LEVEL {name.partition(',')[0]}" if "," in name or name in levels else "BEGIN")
        use(session, token, is_local=False)
        assert items(session) == ROWS["acme"]
        if name == "FETCH":
            session.execute("DECLARE c CURSOR FOR SELECT item FROM orders")
        assert answer(session, statement.replace("ALL", "1"))[0] is None
        sessions.append((name, session, statement))
    return sessions


def answer(session, statement):
    """The code of the error that a statement raises, or none; and what it returns."""
    try:
        if statement.startswith("COPY"):
            with session.cursor().copy(statement) as copy:
                return None, b"".join(copy).decode()
        return None, session.execute(statement).rowcount
    except psycopg.Error as error:
        return detail_of(error)["code"], None


def answers_other_than(sessions, code):
    return {name: code_of for name, code_of in ((n, answer(s, text)[0]) for n, s, text in sessions) if code_of != code}


class TestContext:
    @pytest.mark.parametrize("factory", [psycopg.Cursor, psycopg.ClientCursor], ids=["extended", "simple"])
    def test_for_the_transaction(self, guest, issuer, factory):
        guest.cursor_factory = factory
        for tenant, rows in ROWS.items():
            token = issuer.token(tenant)
            with guest.transaction():
                guest.execute(f"SET LOCAL tenancy.token = '{token}'")
                assert items(guest) == rows
                assert value(guest, "SELECT count(*) FROM orders WHERE tenant_id <> %s", [tenant]) == 0
                assert value(guest, "SELECT tenancy.current_tenant()") == tenant
            with refused("TENANT_CONTEXT_MISSING"):
                items(guest)
            assert reaches(guest, token, rows)

    def test_for_the_session(self, guest, issuer):
        for tenant, rows in ROWS.items():
            guest.execute(f"SET tenancy.token = '{issuer.token(tenant)}'")
            assert items(guest) == rows
        for tenant, rows in ROWS.items():
            told = authenticate(guest, issuer.token(tenant, sub="ada"), is_local=False)
            assert (told["tenant_id"], told["user_id"], told["issuer"]) == (tenant, "ada", issuer.name)
            assert items(guest) == rows
        for back in ("RESET tenancy.token", "RESET ALL", "DISCARD ALL", "SET tenancy.token = ''"):
            use(guest, issuer.token("globex"), is_local=False)
            assert items(guest) == ROWS["globex"]
            guest.execute(back)
            with refused("TENANT_CONTEXT_MISSING"):
                items(guest)

    def test_a_prepared_statement_authenticates(self, guest, issuer):
        for _ in range(3):
            for tenant, rows in ROWS.items():
                with guest.transaction():
                    authenticate(guest, issuer.token(tenant), prepare=True)
                    assert guest.execute("SELECT item FROM orders ORDER BY 1", prepare=True).fetchall() == [
                        (item,) for item in rows
                    ]

    def test_writes(self, guest, issuer, dba):
        with guest.transaction(force_rollback=True):
            authenticate(guest, issuer.token("initech"))
            guest.execute("INSERT INTO orders (item) VALUES ('i2')")
            assert items(guest) == ["i1", "i2"]
            assert guest.execute("UPDATE orders SET amount = 5").rowcount == 2
            assert guest.execute("DELETE FROM orders").rowcount == 2
            with refused("TENANT_ACCESS_DENIED"):
                guest.execute("INSERT INTO orders (tenant_id, item) VALUES ('acme', 'x')")
        assert value(dba, "SELECT count(*) FROM orders") == 6

    def test_user(self, guest, issuer, dba):
        authenticate(guest, issuer.token("acme", sub="ada"), is_local=False)
        context = value(guest, "SELECT tenancy.context()")
        assert (context["tenant_id"], context["user_id"], context["source"], context["error"]) == (
            "acme", "ada", "token", None,
        )  # fmt: skip
        guest.execute("SELECT tenancy.track_usage('calls', 7)")
        recorded = "SELECT tenant_id, actor, amount FROM tenancy.usage_records WHERE resource = 'calls'"
        assert dba.execute(recorded).fetchall() == [("acme", "ada", 7)]

    def test_the_user_is_that_of_the_token(self, dba, issuer):
        dba.execute("SET tenancy.user_id = 'mallory'")
        for claims, user in (({"sub": "ada"}, "ada"), ({}, None), ({"sub": ""}, None)):
            use(dba, issuer.token(**claims), is_local=False)
            assert value(dba, "SELECT tenancy.context()")["user_id"] == user

    def test_another_tenant_than_that_of_the_parameter(self, app, issuer):
        app.execute("SET tenancy.tenant_id = 'globex'")
        with refused("TENANT_ACCESS_DENIED"), app.transaction():
            use(app, issuer.token("acme"))
            items(app)
        assert reaches(app, issuer.token("globex"), ROWS["globex"])

    def test_status(self, db, guest, issuer, dba):
        tenant = db.new_tenant("one")
        use(guest, issuer.token(tenant), is_local=False)
        assert items(guest) == ["one"]
        dba.execute("SELECT tenancy.suspend_tenant(%s)", [tenant])
        with refused("TENANT_SUSPENDED"):
            items(guest)
        with refused("TENANT_NOT_FOUND"), guest.transaction():
            authenticate(guest, issuer.token("nobody"))

    @pytest.mark.parametrize("is_once", [False, True], ids=["many uses", "one use"])
    def test_parallel_query(self, connect, issuer, once, is_once):
        guest = parallel(connect(GUEST))
        query = "SELECT count(*) FROM orders"
        for tenant in ROWS:
            with guest.transaction():
                authenticate(guest, (once if is_once else issuer).token(tenant, jti=tenant))
                assert workers_launched(guest, query) >= 1
                assert value(guest, query) == len(ROWS[tenant])
                assert items(guest) == ROWS[tenant]


class TestTime:
    def test_expiry_in_open_sessions(self, connect, issuer):
        token = issuer.token(seconds=4)
        end = time.time() + 4
        sessions = opened(connect, token)
        time.sleep(max(0, end - time.time()))
        assert answers_other_than(sessions, "TOKEN_EXPIRED") == {}
        assert turned_down(connect(GUEST), token, "TOKEN_EXPIRED")

    def test_bounds(self, guest, issuer):
        for seconds in (0, -1, -(10**9), -(2**53) // 2):
            assert turned_down(guest, issuer.token(seconds=seconds), "TOKEN_EXPIRED")
        assert turned_down(guest, issuer.token(nbf=time.time() + 5))
        assert reaches(guest, issuer.token(nbf=int(time.time())), ROWS["acme"])
        assert reaches(guest, issuer.token(seconds=2**52), ROWS["acme"])

    def test_issued_later(self, guest, issuer):
        assert turned_down(guest, issuer.token(iat=time.time() + 5))
        assert reaches(guest, issuer.token(iat=int(time.time())), ROWS["acme"])

    def test_max_lifetime(self, connect, make_role, issuer):
        limited = connect(make_role("it_limited", token_max_lifetime="60"))
        assert reaches(limited, issuer.token(seconds=60), ROWS["acme"])
        assert turned_down(limited, issuer.token(seconds=120))
        for attempt in ("SET tenancy.token_max_lifetime = 600", "RESET tenancy.token_max_lifetime"):
            with sqlstate("42501"):
                limited.execute(attempt)
        assert reaches(connect(make_role("it_skewed_limit", token_max_lifetime="60", token_clock_skew="60")),
                       issuer.token(seconds=115), ROWS["acme"])

    def test_clock_skew_widens_both(self, connect, make_role, issuer):
        skewed = connect(make_role("it_skewed", token_clock_skew="300"))
        assert reaches(skewed, issuer.token(seconds=-290), ROWS["acme"])
        assert turned_down(skewed, issuer.token(seconds=-300), "TOKEN_EXPIRED")
        assert reaches(skewed, issuer.token(nbf=time.time() + 290), ROWS["acme"])
        assert turned_down(skewed, issuer.token(nbf=time.time() + 310))
        for attempt in ("SET tenancy.token_clock_skew = 600", "RESET tenancy.token_clock_skew"):
            with sqlstate("42501"):
                skewed.execute(attempt)


class TestTrust:
    @pytest.mark.parametrize("withdraw", [
        lambda issuer: issuer.trust(OTHER, audience=["app"]),
        lambda issuer: issuer.distrust(),
        lambda issuer: issuer.trust(audience=["another app"]),
        lambda issuer: issuer.trust(),
        lambda issuer: issuer.trust(audience=["app"], tenant_claim="org"),
        lambda issuer: issuer.trust(audience=["app"], tenant_claim="other"),
        lambda issuer: issuer.trust(audience=["app"], single_use=True),
    ], ids=["key", "issuer", "audience", "no audience", "claim", "tenant", "single use"])  # fmt: skip
    def test_withdrawal_in_open_sessions(self, connect, db, withdraw):
        issuer = Issuer(db).trust(audience=["app"])
        sessions = opened(connect, issuer.token(aud="app", other="globex"))
        withdraw(issuer)
        assert answers_other_than(sessions, "TOKEN_INVALID") == {}
        issuer.trust(audience=["app"])
        assert items(sessions[0][1]) == ROWS["acme"]

    def test_withdrawal_takes_effect_at_commit(self, guest, issuer, dba):
        use(guest, issuer.token(), is_local=False)
        with dba.transaction(force_rollback=True):
            dba.execute("SELECT tenancy.remove_issuer(%s)", [issuer.name])
            assert items(guest) == ROWS["acme"]
        assert items(guest) == ROWS["acme"]

    def test_keys_are_exchanged_without_a_refusal(self, connect, db):
        issuer = Issuer(db).trust(KEY)
        stop, seen, failures = threading.Event(), [], []
        session, newcomer = connect(GUEST), connect(GUEST)
        keys = {"now": KEY}

        def work():
            try:
                while not stop.is_set():
                    key = keys["now"]
                    token = issuer.token(key=key, header={"kid": key[:1].decode()})
                    reaches(newcomer, token, ROWS["acme"])
                    use(session, token, is_local=False)
                    seen.append(items(session))
            except BaseException as failure:  # noqa: BLE001 — whatever it was, the test has to see it
                failures.append(failure)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for old, new in [(KEY, OTHER), (OTHER, KEY)] * 10:
                issuer.trust(old, new)
                keys["now"] = new
                done = len(seen)
                eventually(lambda: len(seen) > done + 1 or failures)  # noqa: B023 — called at once
                issuer.trust(new)
        finally:
            stop.set()
            thread.join(60)
        assert not failures, failures
        assert len(seen) >= 20

    def test_not_of_this_key(self, guest, issuer):
        good = issuer.token()
        header, claims, signature = good.split(".")
        other = issuer.token("globex").split(".")[1]
        none = base64url(b'{"alg":"none"}')
        for token in (
            issuer.token(key=OTHER), f"{header}.{other}.{signature}", f"{none}.{claims}.", f"{none}.{claims}.{signature}",
            f"{header}.{claims}.", f"{header}.{claims}", f"{good}.", good[:-1], good + "=", " " + good, good + "\n", "x",
            sign({"iss": "nobody", "tenant_id": "acme", "exp": time.time() + 60}), issuer.token(header={"kid": "x"}),
            issuer.token(header={"alg": "HS512"}), issuer.token(header={"crit": ["exp"]}), issuer.token(pad="x" * 9000),
        ):  # fmt: skip
            assert turned_down(guest, token)
        assert reaches(guest, good, ROWS["acme"])


class TestClaims:
    def test_nested(self, db, guest):
        issuer = Issuer(db).trust(tenant_claim="app_metadata.tenant_id", user_claim="user.name")
        token = issuer.token("globex", app_metadata={"tenant_id": "acme"}, user={"name": "ada"})
        assert reaches(guest, token, ROWS["acme"])
        use(guest, token, is_local=False)
        assert value(guest, "SELECT tenancy.context()")["user_id"] == "ada"
        guest.execute("RESET tenancy.token")
        for wrong in (None, "acme", {}, {"tenant_id": None}, {"tenant_id": {"tenant_id": "acme"}}, [{"tenant_id": "acme"}]):
            assert turned_down(guest, issuer.token("acme", app_metadata=wrong))

    def test_org_id(self, db, guest):
        issuer = Issuer(db).trust(tenant_claim="org_id")
        assert reaches(guest, issuer.token("globex", org_id="acme"), ROWS["acme"])
        assert turned_down(guest, issuer.token("acme"))

    def test_forms_of_a_tenant_id(self, db, guest, issuer):
        uuid = "6f1ed0c4-3f7a-4c51-9d3b-aa0000000001"
        db.run(f"SELECT tenancy.create_tenant(id) FROM unnest('{{4711,{uuid}}}'::text[]) AS id",
               f"INSERT INTO orders (tenant_id, item) VALUES ('4711', 'n1'), ('{uuid}', 'u1')")  # fmt: skip
        try:
            for claim, rows in ((4711, ["n1"]), ("4711", ["n1"]), (uuid, ["u1"]), (uuid.upper(), ["u1"])):
                assert reaches(guest, issuer.token(claim), rows)
            for wrong in (4711.0, 4711.5, -4711, True, ["4711"], {"id": 4711}):
                with refused("TENANT_NOT_FOUND" if wrong == -4711 else "TOKEN_INVALID"), guest.transaction():
                    authenticate(guest, issuer.token(wrong))
        finally:
            db.run("DELETE FROM orders WHERE item IN ('n1', 'u1')")

    def test_no_tenant(self, guest, issuer):
        for wrong in (None, "", "a/b", "acme ", "acme\n", "acme'--", "x" * 300, " ", False, [], ["acme"], {}):
            assert turned_down(guest, issuer.token(wrong))
        assert turned_down(guest, sign({"iss": issuer.name, "tenant_id": None, "exp": time.time() + 60}))

    def test_trusted_for_one_tenant(self, db, guest):
        issuer = Issuer(db).trust(tenant_id="globex")
        assert reaches(guest, issuer.token("globex"), ROWS["globex"])
        # A provider may sign for others by the same key: a token that does not say whose it is may be anybody's.
        for claimed in ("acme", "a/b", None, True, ["globex"], {"id": "globex"}):
            assert turned_down(guest, issuer.token(claimed))
        issuer.trust(tenant_id="globex", tenant_claim=None)
        for claimed in ("globex", "acme", None):
            assert reaches(guest, issuer.token(claimed), ROWS["globex"])

    def test_a_claim_in_two_places(self, db, guest):
        issuer = Issuer(db).trust(tenant_claim="app.tenant")
        assert reaches(guest, issuer.token(None, app={"tenant": "acme"}), ROWS["acme"])
        assert reaches(guest, issuer.token(None, **{"app.tenant": "globex"}), ROWS["globex"])
        assert turned_down(guest, issuer.token(None, app={"tenant": "acme"}, **{"app.tenant": "globex"}))

    def test_two_tenants_of_one_issuer(self, db, guest):
        issuer = Issuer(db)
        for tenant in ("acme", "globex"):
            issuer.trust(tenant_id=tenant, tenant_claim=None, audience=[f"of {tenant}", "of all"])
        for tenant in ("acme", "globex"):
            for claimed in (tenant, None):
                assert reaches(guest, issuer.token(claimed, aud=f"of {tenant}"), ROWS[tenant])
                assert reaches(guest, issuer.token(claimed, aud=["of nobody", f"of {tenant}"]), ROWS[tenant])
        for audience in ("of all", ["of acme", "of globex"]):
            assert turned_down(guest, issuer.token(None, aud=audience))
        for audience in (None, "of nobody", "", "of acm", []):
            assert turned_down(guest, issuer.token("acme", aud=audience))

    def test_audience(self, db, guest, issuer):
        assert turned_down(guest, issuer.token(aud="anybody"))
        issuer.trust(audience=["one", "two"])
        for audience in ("one", ["x", "two"]):
            assert reaches(guest, issuer.token(aud=audience), ROWS["acme"])
        for audience in (None, "One", ["x"], [], 1):
            assert turned_down(guest, issuer.token(aud=audience))

    def test_registered_claims(self, guest, issuer):
        for wrong in ({"exp": None}, {"exp": "2099"}, {"iss": None}, {"iss": ""}, {"nbf": "0"}, {"iat": "0"}, {"jti": 1}):
            assert turned_down(guest, issuer.token(**wrong))
