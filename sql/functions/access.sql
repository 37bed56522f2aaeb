-- Finding out who calls happens before the tenant is known. These functions are the only way to look across tenants for it:
-- each takes what only the caller can know and returns one row or none; once there is a tenant it refuses. They belong to
-- galley_engine. PL/pgSQL keeps their plans; before PostgreSQL 18 a function in SQL is planned again for every request.

-- Those of the keys that may be used now. The caller compares the hash of the secret itself, in constant time.
-- seldom_used asks for app.touch_api_key, so that last_used_at costs a write at most once a minute.
CREATE OR REPLACE FUNCTION app.find_api_keys(p_ids uuid[])
RETURNS TABLE (id uuid, tenant_id uuid, tenant text, name text, role text, secret_hash bytea, seldom_used boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
BEGIN
  IF app.current_tenant() IS NOT NULL THEN
    PERFORM app.require_no_tenant();
  END IF;
  RETURN QUERY
    SELECT k.id, k.tenant_id, t.name, k.name, k.role, k.secret_hash,
           k.last_used_at IS NULL OR k.last_used_at < app.now() - interval '1 minute'
    FROM api_keys k
    JOIN tenants t ON t.id = k.tenant_id
    WHERE k.id = ANY (p_ids) AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > app.now());
END $$;

-- The same for one key, as the release before asks.
CREATE OR REPLACE FUNCTION app.find_api_key(p_id uuid)
RETURNS TABLE (id uuid, tenant_id uuid, tenant text, name text, role text, secret_hash bytea, seldom_used boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
  SELECT * FROM app.find_api_keys(ARRAY[p_id])
$$;

CREATE OR REPLACE FUNCTION app.touch_api_key(p_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  UPDATE api_keys SET last_used_at = app.now() WHERE id = p_id;
END $$;

-- A session that lives: not past its end, used within the last 12 hours, its user not disabled.
CREATE OR REPLACE FUNCTION app.find_session(p_token_hash bytea)
RETURNS TABLE (id uuid, tenant_id uuid, tenant text, user_id uuid, email text, role text, csrf_token text, seldom_used boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
BEGIN
  IF app.current_tenant() IS NOT NULL THEN
    PERFORM app.require_no_tenant();
  END IF;
  RETURN QUERY
    SELECT s.id, s.tenant_id, t.name, u.id, u.email, u.role, s.csrf_token, s.last_seen_at < app.now() - interval '1 minute'
    FROM sessions s
    JOIN users u ON u.id = s.user_id AND u.tenant_id = s.tenant_id
    JOIN tenants t ON t.id = s.tenant_id
    WHERE s.token_hash = p_token_hash AND s.expires_at > app.now() AND s.last_seen_at > app.now() - interval '12 hours'
      AND u.disabled_at IS NULL;
END $$;

CREATE OR REPLACE FUNCTION app.touch_session(p_id uuid) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  UPDATE sessions SET last_seen_at = app.now() WHERE id = p_id;
END $$;

-- Who signs in with this address, whatever case it is written in.
CREATE OR REPLACE FUNCTION app.find_login(p_email text)
RETURNS TABLE (id uuid, tenant_id uuid, email text, role text, password_hash text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM app.require_no_tenant();
  RETURN QUERY
    SELECT u.id, u.tenant_id, u.email, u.role, u.password_hash
    FROM users u
    WHERE lower(u.email) = lower(p_email) AND u.disabled_at IS NULL;
END $$;

-- The tenant whose public site is asked for by name.
CREATE OR REPLACE FUNCTION app.find_tenant(p_name text)
RETURNS TABLE (id uuid, name text, settings jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM app.require_no_tenant();
  RETURN QUERY
    SELECT t.id, t.name, t.settings FROM tenants t WHERE t.name = p_name;
END $$;

-- The tenant of this name, made where it is new. For the command line. The first one operates the installation.
CREATE OR REPLACE FUNCTION app.ensure_tenant(p_name text) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  INSERT INTO tenants (name, operates) SELECT p_name, NOT EXISTS (SELECT FROM tenants) ON CONFLICT (name) DO NOTHING;
  RETURN (SELECT t.id FROM tenants t WHERE t.name = p_name);
END $$;

-- Whether the current tenant's operators may act on what belongs to the installation: queues and executors.
CREATE OR REPLACE FUNCTION app.operates() RETURNS boolean
LANGUAGE sql STABLE SET search_path = public, app, pg_temp AS $$
  SELECT coalesce((SELECT t.operates FROM tenants t WHERE t.id = app.current_tenant()), false)
$$;

DO $$
DECLARE
  signature text;
BEGIN
  FOREACH signature IN ARRAY ARRAY[
    'app.find_api_keys(uuid[])', 'app.find_api_key(uuid)', 'app.touch_api_key(uuid)', 'app.find_session(bytea)', 'app.touch_session(uuid)',
    'app.find_login(text)', 'app.find_tenant(text)', 'app.ensure_tenant(text)'
  ] LOOP
    EXECUTE format('ALTER FUNCTION %s OWNER TO galley_engine', signature);
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', signature);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO galley_web', signature);
  END LOOP;
END $$;
