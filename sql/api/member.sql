-- Users, and who is a member of which tenant. Re-runnable.
-- The functions that change something run with the rights of the extension's owner and are granted to nobody: a DBA grants EXECUTE to
-- the role that provisions users.

CREATE VIEW tenancy.users WITH (security_barrier) AS
    SELECT u.id, u.email, u.name, u.created_at FROM _tenancy.users u;
COMMENT ON VIEW tenancy.users IS 'The users of all tenants. Granted to nobody.';

-- A view for each case, because PostgreSQL takes a UNION ALL apart, and then the conditions of whoever asks stand beside its own. OFFSET 0 keeps them
-- out of that of a tenant: PostgreSQL would compare with what they say the tenant is equal to, or ask first what is cheap. The current
-- tenant in a sub-SELECT, so that the planner does not ask for it.
CREATE VIEW _tenancy.shown_members AS
    SELECT m.tenant_id, m.user_id, m.role, CASE WHEN m.invited_until <= now() THEN 'expired' ELSE m.status END AS status,
           m.invited_until, m.created_at, m.changed_at
    FROM _tenancy.members m;
COMMENT ON VIEW _tenancy.shown_members IS 'the members as they are shown';
CREATE VIEW _tenancy.all_members WITH (security_barrier) AS
    SELECT * FROM _tenancy.shown_members WHERE _tenancy.sees_all_tenants();
COMMENT ON VIEW _tenancy.all_members IS 'the members of all tenants, for those who see them';
CREATE VIEW _tenancy.own_members WITH (security_barrier) AS
    SELECT * FROM _tenancy.shown_members WHERE NOT _tenancy.sees_all_tenants() AND tenant_id = (SELECT tenancy.current_tenant()) OFFSET 0;
COMMENT ON VIEW _tenancy.own_members IS 'the members of the current tenant, for everybody else';
CREATE VIEW tenancy.members AS
    SELECT * FROM _tenancy.all_members UNION ALL SELECT * FROM _tenancy.own_members;
COMMENT ON VIEW tenancy.members IS
'Who is a member of which tenant, in which role. status is active, suspended, invited, or expired: an invitation that was not accepted
in time. A tenant sees its own; superusers, roles with BYPASSRLS and members of pg_monitor see all where no tenant is set. PUBLIC may
read it.';

CREATE FUNCTION tenancy.current_user_id() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE LEAKPROOF
    AS 'MODULE_PATHNAME', 'tenancy_current_user_id';
COMMENT ON FUNCTION tenancy.current_user_id() IS
'Returns the user on whose behalf the current statement runs: that of the token, or of tenancy.user_id; NULL where none is known.
Errors: those of current_tenant(), but none where no tenant is set. Stable. PUBLIC may call it.';

-- Not LEAKPROOF: a policy is as fast without, and a caller's own has_role(<column>) is evaluated on rows that are seen only.
CREATE FUNCTION tenancy.has_role(VARIADIC roles text[]) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'tenancy_has_role';
COMMENT ON FUNCTION tenancy.has_role(text[]) IS
'Returns whether the current user is an active member of the current tenant, in one of these roles; false where no user is known. For
policies: it costs one lookup in a transaction. Errors: those of current_tenant(). Stable. PUBLIC may call it.';

COMMENT ON FUNCTION tenancy.is_member(text, text) IS
'Returns whether a user is an active member of a tenant. In the context of a tenant, about that tenant only; without one, for a role
that was granted SET ON PARAMETER tenancy.tenant_id, is exempt from row-level security, or inherits pg_monitor. Errors: 42501
TENANT_ACCESS_DENIED, 22023 TENANT_ID_INVALID, those of current_tenant(). Stable. PUBLIC may call it.';

CREATE FUNCTION _tenancy.check_text(argument text, value text, longest integer) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(octet_length(value) NOT BETWEEN 1 AND longest, true) THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('%s must have 1 to %s bytes', argument, longest),
            jsonb_build_object('argument', argument));
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.check_text(text, text, integer) IS 'raises an error unless an argument is a text of some bytes';

CREATE FUNCTION tenancy.add_user(user_id text, email text DEFAULT NULL, name text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_id text := coalesce(add_user.user_id, gen_random_uuid()::text);
    violated text;
BEGIN
    PERFORM _tenancy.refuse_in_context('add_user');
    PERFORM _tenancy.check_text('user_id', the_id, 255);
    IF add_user.email IS NOT NULL THEN
        PERFORM _tenancy.check_text('email', add_user.email, 320);
    END IF;
    INSERT INTO _tenancy.users (id, email, name) VALUES (the_id, add_user.email, add_user.name);
    RETURN the_id;
EXCEPTION WHEN unique_violation THEN
    GET STACKED DIAGNOSTICS violated = CONSTRAINT_NAME;
    PERFORM _tenancy.raise('USER_ALREADY_EXISTS', CASE WHEN violated = 'users_email_key' THEN format('a user with the email "%s" already exists', add_user.email)
                                                       ELSE format('user "%s" already exists', the_id) END, jsonb_build_object('user_id', the_id));
END
$$;
COMMENT ON FUNCTION tenancy.add_user(text, text, text) IS
'Registers a user, of no tenant yet, and returns its id. user_id: what its tokens and tenancy.user_id say, 1 to 255 bytes; null: a
new UUID. email: unique whatever the case of its letters, up to 320 bytes. Errors: 42710 USER_ALREADY_EXISTS, 22023 PARAMETER_INVALID.
Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.remove_user(user_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('remove_user');
    -- First the user: who is about to become a member waits for it, and finds none.
    DELETE FROM _tenancy.users u WHERE u.id = remove_user.user_id;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise_no_user(remove_user.user_id);
    END IF;
    DELETE FROM _tenancy.members m WHERE m.user_id = remove_user.user_id;
    DELETE FROM _tenancy.passwords p WHERE p.user_id = remove_user.user_id;
END
$$;
COMMENT ON FUNCTION tenancy.remove_user(text) IS
'Removes a user with its memberships and password; what it has done stays. Errors: 42704 USER_NOT_FOUND, 22023 PARAMETER_INVALID. Volatile. Granted to
nobody; refused in the context of a tenant.';

CREATE FUNCTION _tenancy.raise_no_user(user_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF user_id IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'user_id must not be null', '{"argument": "user_id"}');
    END IF;
    PERFORM _tenancy.raise('USER_NOT_FOUND', format('user "%s" does not exist', user_id), jsonb_build_object('user_id', user_id),
        format('Register it with: SELECT tenancy.add_user(%L);', user_id));
END
$$;
COMMENT ON FUNCTION _tenancy.raise_no_user(text) IS 'raises the error of a user that does not exist';

-- Neither tenant nor user can go until the transaction ends. Returns the tenant's id in its one spelling.
CREATE FUNCTION _tenancy.hold_tenant_and_user(tenant_id text, user_id text) RETURNS text
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_tenant text := tenancy.normalize_tenant_id(hold_tenant_and_user.tenant_id);
BEGIN
    IF the_tenant IS NULL THEN
        PERFORM _tenancy.raise('TENANT_ID_INVALID', 'tenant id must not be null');
    END IF;
    PERFORM FROM _tenancy.tenants t WHERE t.id = the_tenant FOR KEY SHARE;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('TENANT_NOT_FOUND', format('tenant "%s" does not exist', the_tenant), jsonb_build_object('tenant_id', the_tenant),
            format('Register it with: SELECT tenancy.create_tenant(%L);', the_tenant));
    END IF;
    -- A lock alone would not be enough: a remove_user() at REPEATABLE READ does not see the membership that is about to come. That it
    -- finds its user written to makes it fail with 40001.
    UPDATE _tenancy.users u SET name = u.name WHERE u.id = hold_tenant_and_user.user_id;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise_no_user(hold_tenant_and_user.user_id);
    END IF;
    RETURN the_tenant;
END
$$;
COMMENT ON FUNCTION _tenancy.hold_tenant_and_user(text, text) IS 'raises an error unless a tenant and a user exist, and keeps both';

-- Makes a member, or an invitation. One that is there gives way where `replaced` names its status.
CREATE FUNCTION _tenancy.put_member(tenant_id text, user_id text, role text, status text, invitation bytea, invited_until timestamptz, replaced text)
    RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_tenant text := _tenancy.hold_tenant_and_user(put_member.tenant_id, put_member.user_id);
BEGIN
    PERFORM _tenancy.check_text('role', put_member.role, 63);
    INSERT INTO _tenancy.members AS m (tenant_id, user_id, role, status, invitation, invited_until)
    VALUES (the_tenant, put_member.user_id, put_member.role, put_member.status, put_member.invitation, put_member.invited_until)
    ON CONFLICT ON CONSTRAINT members_pkey DO UPDATE
        SET role = excluded.role, status = excluded.status, invitation = excluded.invitation, invited_until = excluded.invited_until,
            changed_at = now()
        WHERE m.status = put_member.replaced;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('MEMBER_ALREADY_EXISTS', format('user "%s" is already a member of tenant "%s"', put_member.user_id, the_tenant),
            jsonb_build_object('tenant_id', the_tenant, 'user_id', put_member.user_id),
            'To change its role: SELECT tenancy.set_member_role(''<tenant>'', ''<user>'', ''<role>'');');
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.put_member(text, text, text, text, bytea, timestamptz, text) IS 'makes a member, or an invitation';

CREATE FUNCTION tenancy.add_member(tenant_id text, user_id text, role text DEFAULT 'member') RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('add_member');
    PERFORM _tenancy.put_member(add_member.tenant_id, add_member.user_id, add_member.role, 'active', NULL, NULL, 'invited');
END
$$;
COMMENT ON FUNCTION tenancy.add_member(text, text, text) IS
'Makes a user an active member of a tenant, invited or not. role: a word of the application''s own, 1 to 63 bytes, which has_role() asks
for. Errors: 42704 TENANT_NOT_FOUND, USER_NOT_FOUND; 42710 MEMBER_ALREADY_EXISTS; 22023 PARAMETER_INVALID, TENANT_ID_INVALID. Volatile.
Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.invite_member(tenant_id text, user_id text, role text DEFAULT 'member', expires_in interval DEFAULT '7 days') RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- 244 random bits. As bytes it is the same in all encodings, which need not be convertible: whatever is no code is none.
    code text := translate(gen_random_uuid()::text || gen_random_uuid()::text, '-', '');
BEGIN
    PERFORM _tenancy.refuse_in_context('invite_member');
    IF coalesce(invite_member.expires_in NOT BETWEEN '1 microsecond' AND '100 years', true) THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'expires_in must be more than nothing, and no more than 100 years', '{"argument": "expires_in"}');
    END IF;
    PERFORM _tenancy.put_member(invite_member.tenant_id, invite_member.user_id, invite_member.role, 'invited',
                                sha256(convert_to(code, getdatabaseencoding())), clock_timestamp() + invite_member.expires_in, 'invited');
    RETURN code;
END
$$;
COMMENT ON FUNCTION tenancy.invite_member(text, text, text, interval) IS
'Invites a user to a tenant and returns the code, to be sent to that user, by which accept_invitation() makes it a member. Only the
code''s hash is kept; a new invitation makes an earlier one void. expires_in: from now on. Errors: those of add_member(). Volatile.
Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.accept_invitation(code text) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    accepted jsonb;
    known_user text;
BEGIN
    PERFORM _tenancy.refuse_in_context('accept_invitation');
    -- Not current_user_id(): in a single-tenant deployment, whoever is about to become a member is not let into the tenant yet. Only now,
    -- because the library, which judges the parameter, may have been loaded by the line above. A token would have named a tenant.
    known_user := nullif(current_setting('tenancy.user_id', true), '');
    UPDATE _tenancy.members m SET status = 'active', invitation = NULL, invited_until = NULL, changed_at = now()
    WHERE m.invitation = sha256(convert_to(accept_invitation.code, getdatabaseencoding())) AND m.invited_until > clock_timestamp()
      AND m.user_id = coalesce(known_user, m.user_id)
    RETURNING jsonb_build_object('tenant_id', m.tenant_id, 'user_id', m.user_id, 'role', m.role) INTO accepted;
    IF accepted IS NULL THEN
        PERFORM _tenancy.raise('INVITATION_INVALID', 'invitation is not accepted', '{}',
            'It may have been accepted, withdrawn or replaced, have expired, or be for another user. Ask for another one.');
    END IF;
    RETURN accepted;
END
$$;
COMMENT ON FUNCTION tenancy.accept_invitation(text) IS
'Makes the user who was invited with that code an active member; where the session''s user is known, only that one. Returns tenant_id,
user_id and role. Error: 28000 INVITATION_INVALID, whatever is wrong. Volatile. Granted to nobody; refused in the context of a tenant.';

-- Changes a member; raises an error where there is none of a status that it may have before.
CREATE FUNCTION _tenancy.change_member(tenant_id text, user_id text, role text, status text, earlier text[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_tenant text := tenancy.normalize_tenant_id(change_member.tenant_id);
BEGIN
    UPDATE _tenancy.members m
    SET role = coalesce(change_member.role, m.role), status = coalesce(change_member.status, m.status), changed_at = now()
    WHERE m.tenant_id = the_tenant AND m.user_id = change_member.user_id AND m.status = ANY (change_member.earlier);
    IF NOT FOUND THEN
        PERFORM _tenancy.raise_no_member(the_tenant, change_member.user_id);
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.change_member(text, text, text, text, text[]) IS 'changes role or status of a member';

CREATE FUNCTION _tenancy.raise_no_member(tenant_id text, user_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF tenant_id IS NULL THEN
        PERFORM _tenancy.raise('TENANT_ID_INVALID', 'tenant id must not be null');
    END IF;
    IF user_id IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'user_id must not be null', '{"argument": "user_id"}');
    END IF;
    PERFORM _tenancy.raise('MEMBER_NOT_FOUND', format('user "%s" is not a member of tenant "%s"', user_id, tenant_id),
        jsonb_build_object('tenant_id', tenant_id, 'user_id', user_id), 'Members are in the view tenancy.members.');
END
$$;
COMMENT ON FUNCTION _tenancy.raise_no_member(text, text) IS 'raises the error of a user that is not a member';

CREATE FUNCTION tenancy.set_member_role(tenant_id text, user_id text, role text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('set_member_role');
    PERFORM _tenancy.check_text('role', set_member_role.role, 63);
    PERFORM _tenancy.change_member(set_member_role.tenant_id, set_member_role.user_id, set_member_role.role, NULL, '{active,suspended,invited}');
END
$$;
COMMENT ON FUNCTION tenancy.set_member_role(text, text, text) IS
'Gives a member another role, from the next statement of every session on. Errors: 42704 MEMBER_NOT_FOUND, 22023 PARAMETER_INVALID,
TENANT_ID_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.suspend_member(tenant_id text, user_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('suspend_member');
    PERFORM _tenancy.change_member(suspend_member.tenant_id, suspend_member.user_id, NULL, 'suspended', '{active,suspended}');
END
$$;
COMMENT ON FUNCTION tenancy.suspend_member(text, text) IS
'Keeps a user out of a tenant until resume_member(): from the next statement of every session on it is no active member. Errors:
42704 MEMBER_NOT_FOUND (one that is invited only: remove_member()), 22023 PARAMETER_INVALID, TENANT_ID_INVALID. Volatile. Granted to
nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.resume_member(tenant_id text, user_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('resume_member');
    PERFORM _tenancy.change_member(resume_member.tenant_id, resume_member.user_id, NULL, 'active', '{active,suspended}');
END
$$;
COMMENT ON FUNCTION tenancy.resume_member(text, text) IS
'Lets a suspended member in again. Errors: 42704 MEMBER_NOT_FOUND, 22023 PARAMETER_INVALID, TENANT_ID_INVALID. Volatile. Granted to
nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.remove_member(tenant_id text, user_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_tenant text := tenancy.normalize_tenant_id(remove_member.tenant_id);
BEGIN
    PERFORM _tenancy.refuse_in_context('remove_member');
    DELETE FROM _tenancy.members m WHERE m.tenant_id = the_tenant AND m.user_id = remove_member.user_id;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise_no_member(the_tenant, remove_member.user_id);
    END IF;
END
$$;
COMMENT ON FUNCTION tenancy.remove_member(text, text) IS
'Takes a user out of a tenant, or withdraws its invitation. Errors: 42704 MEMBER_NOT_FOUND, 22023 PARAMETER_INVALID, TENANT_ID_INVALID.
Volatile. Granted to nobody; refused in the context of a tenant.';
