-- The accessors return pointers into a cache of tenants that lives longer than a query: nothing may dangle where a
-- transaction ends while a value of it is still in use.
SET client_min_messages = warning;
SELECT count(tenancy.create_tenant('many-' || i)) FROM generate_series(1, 3000) i;
CREATE PROCEDURE visit(argument text, tenants integer, INOUT kept text DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
    mine text := tenancy.current_tenant();
BEGIN
    FOR i IN 1 .. tenants LOOP
        PERFORM set_config('tenancy.tenant_id', 'many-' || i, false);
        IF tenancy.current_tenant() <> 'many-' || i THEN
            RAISE 'wrong tenant %', tenancy.current_tenant();
        END IF;
        IF i % 50 = 0 THEN
            COMMIT;                                            -- the cache may be trimmed here, and is full by then
        END IF;
    END LOOP;
    kept := argument || ' ' || mine;
END $$;
SET tenancy.tenant_id = 'acme';
CALL visit(tenancy.current_tenant(), 3000);
SET tenancy.tenant_id = 'beta';
DO $$
DECLARE
    mine text := tenancy.current_tenant();
BEGIN
    CALL visit(tenancy.current_tenant(), 2000, mine);
    RAISE WARNING '%', mine;
END $$;
-- A holdable cursor and a temporary table keep what they took.
SET tenancy.tenant_id = 'acme';
BEGIN;
DECLARE held CURSOR WITH HOLD FOR SELECT tenancy.current_tenant() FROM generate_series(1, 2);
COMMIT;
CALL visit('x', 1500);
FETCH ALL FROM held;
CLOSE held;
RESET tenancy.tenant_id;
DROP PROCEDURE visit;
DELETE FROM _tenancy.tenants WHERE id LIKE 'many-%';
