-- What belongs to the installation and not to a tenant: queues and executors. Whoever changes them, or looks past its own tenant at
-- them, is of a tenant that operates the installation; the functions that do so ask for it themselves.

CREATE OR REPLACE FUNCTION app.require_operates() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = public, app, pg_temp AS $$
BEGIN
  IF NOT app.operates() THEN
    RAISE EXCEPTION 'this tenant does not operate the installation' USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

-- For what sees all tenants: that is the engine's, in whose transactions there is no tenant. Every function across tenants begins with this or
-- goes by app.current_tenant() (tests/sql/test_doors.py). The call costs 4 µs: where tasks are claimed and ended, the tenant is asked for first.
CREATE OR REPLACE FUNCTION app.require_no_tenant() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = public, app, pg_temp AS $$
BEGIN
  IF app.current_tenant() IS NOT NULL THEN
    RAISE EXCEPTION 'this is not for the transaction of a tenant' USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

-- The tenant as which the command line acts when none is named: the oldest that operates the installation.
CREATE OR REPLACE FUNCTION app.find_operating_tenant() RETURNS TABLE (id uuid, name text, settings jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM app.require_no_tenant();
  RETURN QUERY SELECT t.id, t.name, t.settings FROM tenants t WHERE t.operates ORDER BY t.created_at, t.id LIMIT 1;
END $$;

-- Every tenant, oldest first. For the command line.
CREATE OR REPLACE FUNCTION app.list_tenants() RETURNS TABLE (id uuid, name text, operates boolean, created_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM app.require_no_tenant();
  RETURN QUERY SELECT t.id, t.name, t.operates, t.created_at FROM tenants t ORDER BY t.created_at, t.id;
END $$;

-- Let a tenant's operators act on queues and executors, or no longer. False when there is no such tenant. For the command line.
CREATE OR REPLACE FUNCTION app.set_operates(p_name text, p_operates boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  UPDATE tenants t SET operates = p_operates WHERE t.name = p_name;
  RETURN FOUND;
END $$;

ALTER FUNCTION app.find_operating_tenant() OWNER TO galley_engine;
ALTER FUNCTION app.list_tenants() OWNER TO galley_engine;
ALTER FUNCTION app.set_operates(text, boolean) OWNER TO galley_engine;
