-- What belongs to the installation and not to a tenant: queues and executors. Whoever changes them, or looks past its own tenant at
-- them, is of a tenant that operates the installation; the functions that do so ask for it themselves.

CREATE OR REPLACE FUNCTION app.require_operates() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = public, app, pg_temp AS $$
BEGIN
  IF NOT app.operates() THEN
    RAISE EXCEPTION 'this tenant does not operate the installation' USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

-- For what clears away in all tenants at once and is told how much to keep: that is the engine's, in whose transactions there is no tenant.
CREATE OR REPLACE FUNCTION app.require_no_tenant() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = public, app, pg_temp AS $$
BEGIN
  IF app.current_tenant() IS NOT NULL THEN
    RAISE EXCEPTION 'this is not for the transaction of a tenant' USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

-- The tenant as which the command line acts when none is named: the oldest that operates the installation.
CREATE OR REPLACE FUNCTION app.find_operating_tenant() RETURNS TABLE (id uuid, name text, settings jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
  SELECT t.id, t.name, t.settings FROM tenants t WHERE t.operates ORDER BY t.created_at, t.id LIMIT 1
$$;

ALTER FUNCTION app.find_operating_tenant() OWNER TO galley_engine;
