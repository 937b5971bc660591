-- Users, and who is a member of which tenant; what users' own policies make of it.
\set VERBOSITY default
-- What the rows of a tenant look like to its users: whose they are, and who may see those of others.
CREATE TABLE paper (id integer PRIMARY KEY, tenant_id text, owner text DEFAULT tenancy.current_user_id(), body text);
SET client_min_messages = warning;
SELECT tenancy.protect('paper');
RESET client_min_messages;
CREATE POLICY mine ON paper AS RESTRICTIVE USING (owner = tenancy.current_user_id() OR tenancy.has_role('admin', 'owner'));
INSERT INTO paper VALUES (1, 'acme', 'ann', 'of ann'), (2, 'acme', 'bob', 'of bob'), (3, 'beta', 'ann', 'of ann in beta'),
    (4, 'beta', 'bob', 'of bob in beta');
GRANT SELECT, INSERT, UPDATE, DELETE ON paper TO regress_app, regress_bound, regress_outsider;
CREATE ROLE regress_monitor IN ROLE pg_monitor;
GRANT SET ON PARAMETER tenancy.user_id TO regress_app;

-- The library reads these columns by number.
SELECT attnum, attname, atttypid::regtype FROM pg_attribute WHERE attrelid = '_tenancy.members'::regclass AND attnum BETWEEN 1 AND 4 ORDER BY 1;
SELECT pg_get_indexdef('_tenancy.members_pkey'::regclass);

-- Users.
SELECT tenancy.add_user('ann', 'Ann@Example.com', 'Ann'), tenancy.add_user('bob'), tenancy.add_user('eve', name => '');
SELECT tenancy.add_user(NULL) ~ '^[0-9a-f-]{36}$' AS is_uuid;
SELECT tenancy.add_user('O''Brien "the" \one'), tenancy.add_user('Jürgen 表'), tenancy.add_user(' '), tenancy.add_user('ANN');
SELECT length(tenancy.add_user(repeat('u', 255))), length(tenancy.add_user(repeat('ü', 127)));
SELECT tenancy.add_user('ann');                                -- SHOULD FAIL
SELECT tenancy.add_user('O''Brien "the" \one');                -- SHOULD FAIL
SELECT tenancy.add_user('');                                   -- SHOULD FAIL
SELECT tenancy.add_user(repeat('u', 256));                     -- SHOULD FAIL
SELECT tenancy.add_user(repeat('ü', 128));                     -- SHOULD FAIL: 256 bytes
SELECT tenancy.add_user('new', 'ann@example.COM');             -- SHOULD FAIL: whatever the case
SELECT tenancy.add_user('new', '');                            -- SHOULD FAIL
SELECT tenancy.add_user('new', repeat('e', 321));              -- SHOULD FAIL
SELECT length(tenancy.add_user('long', repeat('e', 320)));
SELECT left(id, 20) AS id, email, name FROM tenancy.users WHERE id !~ '-' AND id <> 'long' ORDER BY id;
SELECT tenancy.remove_user('long');
SELECT tenancy.remove_user('long');                            -- SHOULD FAIL
SELECT tenancy.remove_user('');                                -- SHOULD FAIL
SELECT tenancy.remove_user(NULL);                              -- SHOULD FAIL

-- Members.
SELECT tenancy.add_member('acme', 'ann', 'admin'), tenancy.add_member('acme', 'bob'), tenancy.add_member('beta', 'ann', 'viewer');
SELECT tenancy.add_member('acme', 'O''Brien "the" \one', 'it''s a "role"'), tenancy.add_member('acme', 'Jürgen 表', 'Prüfer');
SELECT tenancy.add_member('acme', 'bob', 'owner');             -- SHOULD FAIL
SELECT tenancy.add_member('nobody', 'bob');                    -- SHOULD FAIL
SELECT tenancy.add_member('no such', 'bob');                   -- SHOULD FAIL
SELECT tenancy.add_member('', 'bob');                          -- SHOULD FAIL
SELECT tenancy.add_member(NULL, 'bob');                        -- SHOULD FAIL
SELECT tenancy.add_member('acme', 'nobody');                   -- SHOULD FAIL
SELECT tenancy.add_member('acme', 'Bob');                      -- SHOULD FAIL: ids are what they are, to the letter
SELECT tenancy.add_member('acme', '');                         -- SHOULD FAIL
SELECT tenancy.add_member('acme', NULL);                       -- SHOULD FAIL
SELECT tenancy.add_member('acme', 'eve', '');                  -- SHOULD FAIL
SELECT tenancy.add_member('acme', 'eve', NULL);                -- SHOULD FAIL
SELECT tenancy.add_member('acme', 'eve', repeat('r', 64));     -- SHOULD FAIL
SELECT tenancy.add_member('gone', 'eve', repeat('r', 63));     -- a suspended tenant keeps its members
SELECT tenancy.remove_member('gone', 'eve');
SELECT tenancy.set_member_role('acme', 'bob', 'editor');
SELECT tenancy.set_member_role('acme', 'nobody', 'editor');    -- SHOULD FAIL
SELECT tenancy.set_member_role('nobody', 'bob', 'editor');     -- SHOULD FAIL
SELECT tenancy.set_member_role('no such', 'bob', 'editor');    -- SHOULD FAIL
SELECT tenancy.set_member_role(NULL, 'bob', 'editor');         -- SHOULD FAIL
SELECT tenancy.set_member_role('acme', NULL, 'editor');        -- SHOULD FAIL
SELECT tenancy.set_member_role('acme', 'bob', NULL);           -- SHOULD FAIL
SELECT tenancy.set_member_role('acme', 'bob', '');             -- SHOULD FAIL
SELECT tenancy.set_member_role('acme', 'bob', repeat('ü', 32));-- SHOULD FAIL: 64 bytes
SELECT tenancy.suspend_member('acme', 'bob');
SELECT tenancy.suspend_member('acme', 'bob');
SELECT tenancy.add_member('acme', 'bob');                      -- SHOULD FAIL: one that is suspended stays so
SELECT tenancy.invite_member('acme', 'bob');                   -- SHOULD FAIL
SELECT tenancy.set_member_role('acme', 'bob', 'viewer');
SELECT tenant_id, user_id, role, status, invited_until FROM tenancy.members ORDER BY 1, 2;
SELECT tenancy.resume_member('acme', 'bob');
SELECT tenancy.resume_member('acme', 'bob');
SELECT role, status FROM tenancy.members WHERE tenant_id = 'acme' AND user_id = 'bob';
SELECT tenancy.suspend_member('acme', 'eve');                  -- SHOULD FAIL
SELECT tenancy.suspend_member(NULL, 'bob');                    -- SHOULD FAIL
SELECT tenancy.resume_member('acme', NULL);                    -- SHOULD FAIL
SELECT tenancy.remove_member('acme', 'eve');                   -- SHOULD FAIL
SELECT tenancy.remove_member('acme', NULL);                    -- SHOULD FAIL
SELECT tenancy.remove_member('no such', 'bob');                -- SHOULD FAIL
-- A UUID is one tenant, however it is written.
BEGIN;
SELECT tenancy.create_tenant('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
SELECT tenancy.add_member('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'bob');
SELECT tenancy.is_member('bob', 'A0EEBC99-9c0b-4EF8-BB6D-6BB9BD380A11'), tenancy.is_member('bob', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
SELECT tenancy.suspend_member('A0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'bob');
SELECT tenant_id, status FROM tenancy.members WHERE user_id = 'bob' ORDER BY 1;
SELECT tenancy.remove_member('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'bob');
ROLLBACK;

-- Invitations. The code is shown once, and kept nowhere.
SELECT tenancy.invite_member('acme', 'eve', 'guest') AS code \gset
SELECT :'code' ~ '^[0-9a-f]{64}$' AS is_code, invitation = sha256(convert_to(:'code', 'UTF8')) AS is_hashed,
       invited_until - changed_at BETWEEN '7 days' AND '7 days 1 hour' AS is_in_time, tenancy.is_member('eve', 'acme')
FROM _tenancy.members WHERE user_id = 'eve';
SELECT tenant_id, role, status FROM tenancy.members WHERE user_id = 'eve';
SELECT tenancy.suspend_member('acme', 'eve');                  -- SHOULD FAIL: invited only
SELECT tenancy.resume_member('acme', 'eve');                   -- SHOULD FAIL
SELECT tenancy.accept_invitation(upper(:'code'));              -- SHOULD FAIL
SELECT tenancy.accept_invitation('');                          -- SHOULD FAIL
SELECT tenancy.accept_invitation('ü');                         -- SHOULD FAIL
SELECT tenancy.accept_invitation(NULL);                        -- SHOULD FAIL
SELECT tenancy.accept_invitation((SELECT invitation::text FROM _tenancy.members WHERE user_id = 'eve'));   -- SHOULD FAIL
-- A known user accepts what is its own.
SET tenancy.user_id = 'bob';
SELECT tenancy.accept_invitation(:'code');                     -- SHOULD FAIL
SET tenancy.user_id = 'eve';
BEGIN;
SELECT tenancy.accept_invitation(:'code');
SELECT tenancy.is_member('eve', 'acme');
ROLLBACK;
RESET tenancy.user_id;
-- Whoever shows it, where nobody is known; once.
SELECT tenancy.accept_invitation(:'code');
SELECT tenancy.accept_invitation(:'code');                     -- SHOULD FAIL
SELECT role, status, invited_until FROM tenancy.members WHERE user_id = 'eve';
SELECT tenancy.invite_member('acme', 'eve');                   -- SHOULD FAIL: a member already
SELECT tenancy.remove_member('acme', 'eve');
-- Replaced, with another role.
SELECT tenancy.invite_member('acme', 'eve', 'guest') AS code \gset
SELECT tenancy.set_member_role('acme', 'eve', 'viewer');
SELECT tenancy.invite_member('acme', 'eve', 'editor', '1 day') AS other \gset
SELECT tenancy.accept_invitation(:'code');                     -- SHOULD FAIL
SELECT tenancy.accept_invitation(:'other');
SELECT tenancy.remove_member('acme', 'eve');
-- Expired: it says so, and makes room for another, or for membership without.
SELECT tenancy.invite_member('acme', 'eve', expires_in => '10 milliseconds') AS code \gset
SELECT pg_sleep(0.05);
SELECT tenancy.accept_invitation(:'code');                     -- SHOULD FAIL
SELECT role, status, tenancy.is_member(user_id, tenant_id) FROM tenancy.members WHERE user_id = 'eve';
SELECT tenancy.invite_member('acme', 'eve') IS NOT NULL AS invited;
SELECT tenancy.add_member('acme', 'eve');
SELECT role, status, invited_until FROM tenancy.members WHERE user_id = 'eve';
SELECT tenancy.remove_member('acme', 'eve');
-- In the middle of a transaction it expires as well.
BEGIN;
SELECT tenancy.invite_member('acme', 'eve', expires_in => '10 milliseconds') AS code \gset
SELECT pg_sleep(0.05);
SELECT tenancy.accept_invitation(:'code');                     -- SHOULD FAIL
ROLLBACK;
-- Withdrawn; or gone with the user.
SELECT tenancy.invite_member('acme', 'eve') AS code \gset
SELECT tenancy.remove_member('acme', 'eve');
SELECT tenancy.accept_invitation(:'code');                     -- SHOULD FAIL
SELECT tenancy.invite_member('acme', 'eve') AS code \gset
SELECT tenancy.remove_user('eve');
SELECT tenancy.add_user('eve');
SELECT tenancy.accept_invitation(:'code');                     -- SHOULD FAIL
SELECT tenancy.invite_member('acme', 'nobody');                -- SHOULD FAIL
SELECT tenancy.invite_member('nobody', 'eve');                 -- SHOULD FAIL
SELECT tenancy.invite_member('acme', 'eve', NULL);             -- SHOULD FAIL
SELECT tenancy.invite_member('acme', 'eve', expires_in => NULL);       -- SHOULD FAIL
SELECT tenancy.invite_member('acme', 'eve', expires_in => '0');        -- SHOULD FAIL
SELECT tenancy.invite_member('acme', 'eve', expires_in => '-1 day');   -- SHOULD FAIL
-- What the table itself refuses.
\set VERBOSITY terse
INSERT INTO _tenancy.members (tenant_id, user_id, role, status) VALUES ('acme', 'eve', 'x', 'pending');   -- SHOULD FAIL
INSERT INTO _tenancy.members (tenant_id, user_id, role, status) VALUES ('acme', 'eve', 'x', 'invited');   -- SHOULD FAIL
INSERT INTO _tenancy.members (tenant_id, user_id, role, invitation) VALUES ('acme', 'eve', 'x', 'code');  -- SHOULD FAIL
\set VERBOSITY default
SELECT count(*) FROM tenancy.members WHERE status IN ('invited', 'expired');

-- A user that goes takes its memberships along.
SELECT tenancy.add_member('acme', 'eve'), tenancy.add_member('gone', 'eve');
SELECT tenancy.remove_user('eve');
SELECT count(*) FROM tenancy.members WHERE user_id = 'eve';
SELECT tenancy.add_user('eve');
SELECT tenancy.is_member('eve', 'acme');

-- Nothing of it is granted; and whoever is granted it cannot use it from within a tenant.
SET ROLE regress_app;
SELECT tenancy.add_user('mallory');                            -- SHOULD FAIL
SELECT tenancy.remove_user('ann');                             -- SHOULD FAIL
SELECT tenancy.add_member('acme', 'eve');                      -- SHOULD FAIL
SELECT tenancy.invite_member('acme', 'eve');                   -- SHOULD FAIL
SELECT tenancy.accept_invitation('x');                         -- SHOULD FAIL
SELECT tenancy.set_member_role('acme', 'bob', 'owner');        -- SHOULD FAIL
SELECT tenancy.suspend_member('acme', 'ann');                  -- SHOULD FAIL
SELECT tenancy.resume_member('acme', 'bob');                   -- SHOULD FAIL
SELECT tenancy.remove_member('acme', 'ann');                   -- SHOULD FAIL
SELECT * FROM tenancy.users;                                   -- SHOULD FAIL
SELECT * FROM _tenancy.users;                                  -- SHOULD FAIL
SELECT * FROM _tenancy.members;                                -- SHOULD FAIL
SELECT _tenancy.put_member('acme', 'eve', 'x', 'active', NULL, NULL, '');   -- SHOULD FAIL
SELECT _tenancy.change_member('acme', 'bob', 'owner', NULL, '{active}');    -- SHOULD FAIL
SELECT _tenancy.hold_tenant_and_user('acme', 'bob');           -- SHOULD FAIL
DELETE FROM tenancy.members;                                   -- SHOULD FAIL
RESET ROLE;
SELECT format('GRANT EXECUTE ON FUNCTION %s TO regress_app', oid::regprocedure) FROM pg_proc
WHERE pronamespace = 'tenancy'::regnamespace AND prosecdef AND proname ~ 'user|member|invitation' ORDER BY 1 \gexec
SET ROLE regress_app;
BEGIN;
SELECT tenancy.add_user('mallory'), tenancy.add_member('acme', 'mallory', 'admin');
ROLLBACK;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.add_user('mallory');                            -- SHOULD FAIL
SELECT tenancy.remove_user('ann');                             -- SHOULD FAIL
SELECT tenancy.add_member('acme', 'eve');                      -- SHOULD FAIL
SELECT tenancy.invite_member('acme', 'eve');                   -- SHOULD FAIL
SELECT tenancy.accept_invitation('x');                         -- SHOULD FAIL
SELECT tenancy.set_member_role('acme', 'bob', 'owner');        -- SHOULD FAIL
SELECT tenancy.suspend_member('acme', 'ann');                  -- SHOULD FAIL
SELECT tenancy.resume_member('acme', 'bob');                   -- SHOULD FAIL
SELECT tenancy.remove_member('acme', 'ann');                   -- SHOULD FAIL
RESET tenancy.tenant_id;
RESET ROLE;
SELECT format('REVOKE EXECUTE ON FUNCTION %s FROM regress_app', oid::regprocedure) FROM pg_proc
WHERE pronamespace = 'tenancy'::regnamespace AND prosecdef AND proname ~ 'user|member|invitation' ORDER BY 1 \gexec

-- Who sees whom. A superuser, and whoever may monitor: all, where no tenant is set.
SELECT tenant_id, user_id FROM tenancy.members WHERE user_id IN ('ann', 'bob') ORDER BY 1, 2;
SELECT tenancy.is_member('ann', 'beta'), tenancy.is_member('bob', 'beta'), tenancy.is_member('nobody', 'beta'),
       tenancy.is_member('ann', 'nobody'), tenancy.is_member('', 'acme');
SELECT tenancy.is_member(NULL, 'acme') IS NULL AND tenancy.is_member('ann', NULL) IS NULL AS strict;
SELECT tenancy.is_member('ann', 'no such');                    -- SHOULD FAIL
SELECT tenancy.is_member('ann', '');                           -- SHOULD FAIL
SET ROLE regress_monitor;
SELECT tenant_id, user_id FROM tenancy.members WHERE user_id IN ('ann', 'bob') ORDER BY 1, 2;
SELECT tenancy.is_member('ann', 'beta'), tenancy.is_member('bob', 'beta');
RESET ROLE;
-- In the context of a tenant: its own.
SET tenancy.tenant_id = 'beta';
SELECT tenant_id, user_id FROM tenancy.members ORDER BY 1, 2;
SELECT tenancy.is_member('ann', 'beta'), tenancy.is_member('bob', 'beta');
SELECT tenancy.is_member('ann', 'acme');                       -- SHOULD FAIL
SELECT tenancy.is_member('ann', 'nobody');                     -- SHOULD FAIL: in the same words
RESET tenancy.tenant_id;
-- A role that may be any tenant: each in its turn; and is_member() without.
SET ROLE regress_app;
SELECT * FROM tenancy.members;                                 -- SHOULD FAIL
SELECT tenancy.is_member('ann', 'beta'), tenancy.is_member('bob', 'beta'), tenancy.is_member('ann', 'nobody');
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenant_id, user_id, role FROM tenancy.members ORDER BY 1, 2;
SELECT count(*) FROM tenancy.members WHERE tenant_id = 'beta';
SELECT tenancy.is_member('bob', 'acme');
SELECT tenancy.is_member('ann', 'beta');                       -- SHOULD FAIL
ROLLBACK;
BEGIN;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT tenant_id, user_id, role FROM tenancy.members ORDER BY 1, 2;
ROLLBACK;
SET tenancy.missing_tenant = 'empty';
SELECT count(*) FROM tenancy.members;
RESET tenancy.missing_tenant;
RESET ROLE;
-- What it asks for is not asked of others, however PostgreSQL plans it: a function or a cast could tell them.
CREATE FUNCTION peep(tenant_id text, user_id text) RETURNS boolean LANGUAGE plpgsql COST 0.000001 AS $$
BEGIN
    RAISE NOTICE 'seen: % in %', user_id, tenant_id;
    RETURN true;
END $$;
SET enable_indexscan = off;
SET enable_bitmapscan = off;
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT count(*) FROM tenancy.members WHERE peep(tenant_id, user_id);
SELECT count(*) FROM tenancy.members WHERE user_id <> 'ann' AND user_id::integer > 0;
ROLLBACK;
SET tenancy.missing_tenant = 'empty';
SELECT count(*) FROM tenancy.members WHERE peep(tenant_id, user_id);
RESET tenancy.missing_tenant;
RESET ROLE;
RESET enable_indexscan;
RESET enable_bitmapscan;
DROP FUNCTION peep;
-- A role without any: nothing, and no answer.
SET ROLE regress_outsider;
SELECT * FROM tenancy.members;                                 -- SHOULD FAIL
SELECT tenancy.is_member('ann', 'acme');                       -- SHOULD FAIL
SELECT tenancy.is_member('nobody', 'nobody');                  -- SHOULD FAIL
SELECT tenancy.has_role('admin');                              -- SHOULD FAIL
SELECT tenancy.current_user_id() IS NULL AS unknown;
RESET ROLE;
-- A role that is bound to one.
\c - regress_bound
SELECT tenant_id, user_id FROM tenancy.members ORDER BY 1, 2;
SELECT tenancy.is_member('ann', 'acme'), tenancy.is_member('eve', 'acme');
SELECT tenancy.is_member('ann', 'beta');                       -- SHOULD FAIL
SELECT tenancy.current_user_id() IS NULL AS unknown, tenancy.has_role('admin');
SET tenancy.user_id = 'ann';                                   -- SHOULD FAIL
SELECT * FROM paper;
\c - postgres
\set VERBOSITY default

-- The current user, and its role.
SELECT tenancy.current_user_id() IS NULL AS unknown;
SET tenancy.user_id = 'ann';
SELECT tenancy.current_user_id();
SELECT tenancy.has_role('admin');                              -- SHOULD FAIL: no tenant is set
SET tenancy.tenant_id = 'acme';
SELECT tenancy.current_user_id(), tenancy.has_role('admin'), tenancy.has_role('viewer', 'admin');
SELECT tenancy.has_role('Admin'), tenancy.has_role(''), tenancy.has_role('adm');
SELECT tenancy.has_role(NULL), tenancy.has_role(NULL, 'admin'), tenancy.has_role(VARIADIC '{}'),
       tenancy.has_role(VARIADIC '{{a,b},{c,admin}}'), tenancy.has_role(VARIADIC NULL) IS NULL AS strict;
SELECT tenancy.has_role();                                     -- SHOULD FAIL
-- Arrays of every make: of a table (short, compressed, elsewhere), of a variable.
CREATE TABLE wanted (id integer, roles text[]);
INSERT INTO wanted VALUES (1, '{admin}'), (2, '{viewer}'), (3, NULL), (4, array_fill('viewer'::text, '{3000}') || '{admin}'),
    (5, ARRAY(SELECT md5(n::text) FROM generate_series(1, 3000) n) || '{admin}'), (6, ARRAY(SELECT md5(n::text) FROM generate_series(1, 3000) n));
SELECT id, tenancy.has_role(VARIADIC roles) FROM wanted ORDER BY id;
SELECT id FROM wanted WHERE tenancy.has_role(VARIADIC roles) ORDER BY id;
DO $$
DECLARE
    roles text[] := '{viewer}';
    asked boolean := tenancy.has_role(VARIADIC roles);
BEGIN
    roles := roles || 'admin'::text;
    RAISE NOTICE 'before: %, after: %', asked, tenancy.has_role(VARIADIC roles);
    roles[2] := 'editor';
    RAISE NOTICE 'then: %', tenancy.has_role(VARIADIC roles);
END $$;
DROP TABLE wanted;
-- More questions than are remembered.
SELECT count(*) FILTER (WHERE tenancy.has_role('r' || n, 'admin')), count(*) FILTER (WHERE tenancy.has_role('r' || n)) FROM generate_series(1, 50) n;
SET tenancy.user_id = 'O''Brien "the" \one';
SELECT tenancy.current_user_id(), tenancy.has_role('it''s a "role"');
SET tenancy.user_id = 'Jürgen 表';
SELECT tenancy.current_user_id(), tenancy.has_role('Prüfer'), tenancy.has_role('Prufer');
SET tenancy.user_id = 'eve';                                   -- of no tenant
SELECT tenancy.has_role('admin', 'member');
SET tenancy.user_id = 'nobody';
SELECT tenancy.has_role('admin', 'member');
SELECT set_config('tenancy.user_id', repeat('x', 256), true);  -- SHOULD FAIL
BEGIN;
SELECT set_config('tenancy.user_id', repeat('x', 255), true) IS NOT NULL AS set;
SELECT length(tenancy.current_user_id()), tenancy.has_role('admin', 'member'), tenancy.is_member(tenancy.current_user_id(), 'acme');
ROLLBACK;
RESET tenancy.user_id;
SELECT tenancy.has_role('admin', 'member');
SET tenancy.user_id = 'ann';
SET tenancy.tenant_id = 'gone';
SELECT tenancy.has_role('admin');                              -- SHOULD FAIL
SELECT tenancy.current_user_id();                              -- SHOULD FAIL
SET tenancy.tenant_id = 'nobody';
SELECT tenancy.has_role('admin');                              -- SHOULD FAIL
SET tenancy.missing_tenant = 'empty';
RESET tenancy.tenant_id;
SELECT tenancy.has_role('admin'), tenancy.current_user_id();
RESET tenancy.missing_tenant;
RESET tenancy.user_id;

-- In policies, for users and tenants in turn.
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT * FROM paper;                                           -- nobody is known
SET LOCAL tenancy.user_id = 'bob';
SELECT * FROM paper;
SET LOCAL tenancy.user_id = 'ann';
SELECT * FROM paper ORDER BY id;
SET LOCAL tenancy.user_id = 'bob';
INSERT INTO paper (id, body) VALUES (5, 'new') RETURNING *;
UPDATE paper SET body = 'x' RETURNING id;
DELETE FROM paper RETURNING id;
SAVEPOINT s;
INSERT INTO paper (id, owner) VALUES (6, 'ann');               -- SHOULD FAIL
ROLLBACK TO s;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT * FROM paper;
SET LOCAL tenancy.user_id = 'ann';                             -- a viewer here
SELECT * FROM paper;
ROLLBACK;
PREPARE asks AS SELECT id, body FROM paper ORDER BY id;
PREPARE asks_role AS SELECT tenancy.current_tenant(), tenancy.current_user_id(), tenancy.has_role('admin') AS admin,
    tenancy.has_role('viewer') AS viewer;
PREPARE visits AS SELECT count(*) FROM paper WHERE owner = tenancy.current_user_id();
SET plan_cache_mode = force_generic_plan;
BEGIN; SET LOCAL tenancy.tenant_id = 'acme'; SET LOCAL tenancy.user_id = 'ann'; EXECUTE asks; EXECUTE asks_role; EXECUTE visits; COMMIT;
BEGIN; SET LOCAL tenancy.tenant_id = 'acme'; SET LOCAL tenancy.user_id = 'bob'; EXECUTE asks; EXECUTE asks_role; EXECUTE visits; COMMIT;
BEGIN; SET LOCAL tenancy.tenant_id = 'beta'; SET LOCAL tenancy.user_id = 'ann'; EXECUTE asks; EXECUTE asks_role; EXECUTE visits; COMMIT;
BEGIN; SET LOCAL tenancy.tenant_id = 'acme'; EXECUTE asks; EXECUTE asks_role; COMMIT;
EXECUTE asks_role;                                             -- SHOULD FAIL
RESET plan_cache_mode;

-- Savepoints bring user and tenant back.
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SET LOCAL tenancy.user_id = 'bob';
SELECT tenancy.current_user_id(), tenancy.has_role('admin'), count(*) FROM paper;
SAVEPOINT s;
SET LOCAL tenancy.user_id = 'ann';
SELECT tenancy.current_user_id(), tenancy.has_role('admin'), count(*) FROM paper;
ROLLBACK TO s;
SELECT tenancy.current_user_id(), tenancy.has_role('admin'), count(*) FROM paper;
SAVEPOINT s;
SET LOCAL tenancy.tenant_id = 'beta';
SET LOCAL tenancy.user_id = 'ann';
SELECT tenancy.current_user_id(), tenancy.has_role('admin'), tenancy.has_role('viewer'), count(*) FROM paper;
ROLLBACK TO s;
SELECT tenancy.current_user_id(), tenancy.has_role('admin'), tenancy.has_role('viewer'), count(*) FROM paper;
SAVEPOINT s;
SET LOCAL tenancy.user_id = 'ann';
RELEASE s;
SELECT tenancy.current_user_id(), tenancy.has_role('admin'), count(*) FROM paper;
DO $$
BEGIN
    PERFORM set_config('tenancy.user_id', 'bob', true);
    RAISE NOTICE '% %', tenancy.current_user_id(), tenancy.has_role('admin');
    RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
    RAISE NOTICE '% %', tenancy.current_user_id(), tenancy.has_role('admin');
END $$;
COMMIT;
SELECT tenancy.current_user_id() IS NULL AS unknown;
-- A function that names the user for itself.
RESET ROLE;
CREATE FUNCTION as_ann() RETURNS text LANGUAGE plpgsql SET tenancy.user_id = 'ann' AS $$
BEGIN
    RETURN tenancy.current_user_id() || ' ' || tenancy.has_role('admin');
END $$;
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SET LOCAL tenancy.user_id = 'bob';
SELECT tenancy.current_user_id(), tenancy.has_role('admin'), as_ann(), tenancy.current_user_id(), tenancy.has_role('admin');
ROLLBACK;
RESET ROLE;
DROP FUNCTION as_ann;

-- A change of membership counts from the next statement of the same transaction, and its rollback as well.
SET tenancy.user_id = 'bob';
BEGIN;
SET LOCAL ROLE regress_app;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.has_role('viewer') AS viewer, tenancy.has_role('admin') AS admin, count(*) FROM paper;
SAVEPOINT s;
RESET ROLE;
RESET tenancy.tenant_id;
SELECT tenancy.set_member_role('acme', 'bob', 'admin');
SET LOCAL ROLE regress_app;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.has_role('viewer') AS viewer, tenancy.has_role('admin') AS admin, count(*) FROM paper;
ROLLBACK TO s;
SELECT tenancy.has_role('viewer') AS viewer, tenancy.has_role('admin') AS admin, count(*) FROM paper;
RESET ROLE;
UPDATE _tenancy.members SET status = 'suspended' WHERE user_id = 'bob';
SELECT tenancy.has_role('viewer') AS viewer, tenancy.is_member('bob', 'acme');
TRUNCATE _tenancy.members;
SELECT tenancy.has_role('viewer') AS viewer, tenancy.is_member('ann', 'acme');
ROLLBACK TO s;
SELECT tenancy.has_role('viewer') AS viewer, tenancy.is_member('ann', 'acme');
ROLLBACK;
BEGIN;
SELECT tenancy.add_member('beta', 'bob', 'admin');
SET LOCAL tenancy.tenant_id = 'beta';
SELECT tenancy.has_role('admin') AS admin, tenancy.is_member('bob', 'beta');
ROLLBACK;
BEGIN;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT tenancy.has_role('admin') AS admin, tenancy.is_member('bob', 'beta');
ROLLBACK;
SELECT tenancy.is_member('bob', 'acme') AS before, tenancy.suspend_member('acme', 'bob'), tenancy.is_member('bob', 'acme') AS after;
SELECT tenancy.resume_member('acme', 'bob');
RESET tenancy.user_id;

-- At the speed of an index.
CREATE TABLE sheet (tenant_id text, owner text, id integer, PRIMARY KEY (tenant_id, id));
INSERT INTO sheet SELECT CASE WHEN n % 10 = 0 THEN 'acme' ELSE 'beta' END, 'user-' || n / 10 % 100, n FROM generate_series(1, 20000) n;
INSERT INTO sheet SELECT 'acme', 'ann', -n FROM generate_series(1, 10) n;
CREATE INDEX sheet_owner ON sheet (tenant_id, owner);
ANALYZE sheet;
SET client_min_messages = warning;
SELECT tenancy.protect('sheet');
RESET client_min_messages;
CREATE POLICY mine ON sheet AS RESTRICTIVE USING (owner = tenancy.current_user_id());
GRANT SELECT, DELETE ON sheet TO regress_app;
CREATE POLICY guarded ON sheet AS RESTRICTIVE FOR DELETE USING (tenancy.has_role('viewer', 'admin'));
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SET tenancy.user_id = 'ann';
EXPLAIN (COSTS OFF) SELECT id FROM sheet;
SELECT count(*) FROM sheet;
EXPLAIN (COSTS OFF) DELETE FROM sheet WHERE id = -1;
PREPARE of_mine AS SELECT count(*) FROM sheet;
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS OFF) EXECUTE of_mine;
EXECUTE of_mine;
SET tenancy.user_id = 'user-7';
EXECUTE of_mine;
RESET tenancy.user_id;
EXECUTE of_mine;
RESET plan_cache_mode;
RESET tenancy.tenant_id;
RESET ROLE;
DROP TABLE sheet;

-- Wherever an expression may ask: a default, a CHECK, the WHEN of a trigger; not where PostgreSQL would keep the answer.
CREATE TABLE register (id integer, tenant_id text, who text DEFAULT tenancy.current_user_id(),
    CONSTRAINT admins CHECK (id < 10 OR tenancy.has_role('admin')));
SET client_min_messages = warning;
SELECT tenancy.protect('register');
RESET client_min_messages;
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'not by an admin'; RETURN NEW; END $$;
CREATE TRIGGER tell BEFORE INSERT ON register FOR EACH ROW WHEN (NOT tenancy.has_role('admin')) EXECUTE FUNCTION tell();
GRANT SELECT, INSERT ON register TO regress_app;
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SET LOCAL tenancy.user_id = 'bob';
INSERT INTO register (id) VALUES (1);
SAVEPOINT s;
\set VERBOSITY terse
INSERT INTO register (id) VALUES (10);                         -- SHOULD FAIL
\set VERBOSITY default
ROLLBACK TO s;
SET LOCAL tenancy.user_id = 'ann';
INSERT INTO register (id) VALUES (10), (11);
RESET tenancy.user_id;
INSERT INTO register (id) VALUES (2);
SELECT id, who FROM register ORDER BY id;
ROLLBACK;
RESET ROLE;
DROP TABLE register;
DROP FUNCTION tell;
CREATE TABLE refused (admin boolean GENERATED ALWAYS AS (tenancy.has_role('admin')) STORED);   -- SHOULD FAIL
CREATE TABLE refused (who text GENERATED ALWAYS AS (tenancy.current_user_id()) STORED);        -- SHOULD FAIL
CREATE INDEX ON paper ((tenancy.current_user_id()));           -- SHOULD FAIL
CREATE INDEX ON paper (id) WHERE tenancy.has_role('admin');    -- SHOULD FAIL
CREATE TABLE refused (who text) PARTITION BY LIST ((tenancy.current_user_id()));               -- SHOULD FAIL

-- As it was.
SELECT count(tenancy.remove_user(id)) FROM tenancy.users;
SELECT (SELECT count(*) FROM _tenancy.users) AS users, (SELECT count(*) FROM _tenancy.members) AS members;
REVOKE SET ON PARAMETER tenancy.user_id FROM regress_app;
DROP TABLE paper;
DROP ROLE regress_monitor;
