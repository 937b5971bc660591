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
-- Where tenants are few, and one after the other is met, all of them are read at once; that counts until one of them changes, and says nothing of those that are not there.
SELECT count(tenancy.create_tenant('met-' || i)) FROM generate_series(1, 9) i;
SELECT tenancy.suspend_tenant('met-5', 'before it was met');
CREATE FUNCTION meets(tenant text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('tenancy.tenant_id', tenant, true);
    RETURN tenancy.current_tenant();
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END $$;
SELECT meets('met-1'), meets('met-2'), meets('met-3'), meets('met-4'), meets('met-5'), meets('met-10');
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT tenancy.suspend_tenant('met-6', 'after it was met');
SELECT meets('met-7'), meets('met-8'), meets('met-9'), meets('met-1'), meets('met-6');
ROLLBACK;
SELECT meets('met-6'), meets('met-2'), meets('met-3'), meets('met-4'), meets('met-5'), meets('met-10');
SELECT tenancy.resume_tenant('met-5'), tenancy.archive_tenant('met-6');
SELECT meets('met-1'), meets('met-2'), meets('met-3'), meets('met-5'), meets('met-6');
DELETE FROM _tenancy.tenants WHERE id IN ('met-1', 'met-2');
SELECT meets('met-7'), meets('met-8'), meets('met-9'), meets('met-1'), meets('met-2');
DROP FUNCTION meets(text);
DELETE FROM _tenancy.tenants WHERE id LIKE 'met-%';
