-- Queues as people see and set them. Each function takes the tenant from the transaction; p_installation asks for all tenants' tasks
-- together, which only a tenant that operates the installation may see. What is set is in force at once: every claim reads the row.

-- Live tasks by queue and state, exact up to p_cap; `more` says that there are more than that. Each count ends after p_cap + 1 entries of an
-- index of its own, so a backlog of millions costs what one of p_cap does. Planned for the arguments, else one plan had to fit both questions;
-- and never by reading the table, which looks cheap for a queue that most tasks are in and is not for the others. Nor by walking all of a
-- tenant's tasks for a state that few are in, which is what PostgreSQL prefers when it takes pages for as far apart as on a disk that turns.
CREATE OR REPLACE FUNCTION app.count_live(p_installation boolean, p_cap int)
RETURNS TABLE (queue text, state text, tasks bigint, more boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = public, app, pg_temp SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET random_page_cost = 1.1 AS $$
#variable_conflict use_column
DECLARE
  own uuid := app.current_tenant();
BEGIN
  IF p_installation THEN
    PERFORM app.require_operates();
  END IF;
  RETURN QUERY
    SELECT q.name, c.state, least(c.found, p_cap), c.found > p_cap
    FROM queues q CROSS JOIN LATERAL (
      SELECT 'queued' AS state, count(*) AS found FROM (
        SELECT FROM tasks t WHERE t.queue = q.name AND t.state = 'queued' AND (p_installation OR t.tenant_id = own) LIMIT p_cap + 1) x
      UNION ALL
      SELECT 'running', count(*) FROM (
        SELECT FROM tasks t WHERE t.queue = q.name AND t.state = 'running' AND (p_installation OR t.tenant_id = own) LIMIT p_cap + 1) x
      UNION ALL
      SELECT 'blocked', count(*) FROM (
        SELECT FROM tasks t WHERE t.queue = q.name AND t.state = 'blocked' AND (p_installation OR t.tenant_id = own) LIMIT p_cap + 1) x
      UNION ALL
      SELECT 'scheduled', count(*) FROM (
        SELECT FROM tasks t WHERE t.queue = q.name AND t.state = 'scheduled' AND (p_installation OR t.tenant_id = own) LIMIT p_cap + 1) x
      UNION ALL
      SELECT 'waiting', count(*) FROM (
        SELECT FROM tasks t WHERE t.queue = q.name AND t.state = 'waiting' AND (p_installation OR t.tenant_id = own) LIMIT p_cap + 1) x
    ) c
    WHERE c.found > 0;
END $$;

-- Live tasks by queue and state, for metrics: reads indexes of the small live table only.
CREATE OR REPLACE FUNCTION app.queue_depths() RETURNS TABLE (queue text, state text, tasks bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  RETURN QUERY SELECT t.queue, t.state, count(*) FROM tasks t GROUP BY 1, 2;
END $$;

-- Since when the task that has been ready longest could have run, by queue: one look into the index for each priority.
CREATE OR REPLACE FUNCTION app.oldest_ready(p_installation boolean) RETURNS TABLE (queue text, run_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
  own uuid := app.current_tenant();
BEGIN
  IF p_installation THEN
    PERFORM app.require_operates();
  END IF;
  RETURN QUERY
    SELECT q.name, min(first.run_at)
    FROM queues q CROSS JOIN generate_series(0, 9) AS p (priority) CROSS JOIN LATERAL (
      SELECT t.run_at FROM tasks t
      WHERE t.queue = q.name AND t.priority = p.priority AND t.state = 'queued' AND (p_installation OR t.tenant_id = own)
      ORDER BY t.run_at LIMIT 1) first
    GROUP BY q.name;
END $$;

-- How runs ended in the last minutes, by queue and outcome. History is not touched.
CREATE OR REPLACE FUNCTION app.recent_runs(p_installation boolean, p_minutes int)
RETURNS TABLE (queue text, minute timestamptz, outcome text, tasks bigint, waited_ms bigint, waited_max_ms bigint, ran_ms bigint, ran_max_ms bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
  own uuid := app.current_tenant();
  since timestamptz := date_trunc('minute', app.now()) - make_interval(mins => p_minutes - 1);
BEGIN
  IF p_installation THEN
    PERFORM app.require_operates();
  END IF;
  RETURN QUERY
    SELECT s.queue, s.minute, s.outcome, sum(s.tasks)::bigint, sum(s.waited_ms)::bigint, max(s.waited_max_ms), sum(s.ran_ms)::bigint, max(s.ran_max_ms)
    FROM tenants n JOIN LATERAL (
      SELECT * FROM task_statistics x WHERE x.tenant_id = n.id AND x.minute >= since) s ON true
    WHERE p_installation OR n.id = own
    GROUP BY s.queue, s.minute, s.outcome;
END $$;

-- What single tenants may have running in each queue, by the tenant's name.
CREATE OR REPLACE FUNCTION app.list_tenant_limits() RETURNS TABLE (queue text, tenant text, max_running int, updated_at timestamptz, updated_by text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM app.require_operates();
  RETURN QUERY
    SELECT l.queue, n.name, l.max_running, l.updated_at, l.updated_by
    FROM queue_tenant_limits l JOIN tenants n ON n.id = l.tenant_id
    ORDER BY l.queue, n.name;
END $$;

-- False when there is one of this name already.
CREATE OR REPLACE FUNCTION app.create_queue(p_name text, p_actor text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_operates();
  INSERT INTO queues (name, updated_at, updated_by) VALUES (p_name, app.now(), p_actor) ON CONFLICT (name) DO NOTHING;
  RETURN FOUND;
END $$;

-- Set those limits that p_changes names; JSON's null takes one away. A new rate begins with a full bucket.
CREATE OR REPLACE FUNCTION app.change_queue(p_name text, p_changes jsonb, p_actor text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
DECLARE
  moment timestamptz := app.now();
  old queues;
  wanted queues;
BEGIN
  PERFORM app.require_operates();
  SELECT * INTO old FROM queues q WHERE q.name = p_name FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  wanted := jsonb_populate_record(old, p_changes - ARRAY(SELECT k FROM jsonb_object_keys(p_changes) k
    WHERE k NOT IN ('max_running', 'max_running_per_tenant', 'rate_per_second', 'burst', 'fair')));
  UPDATE queues q
  SET max_running = wanted.max_running, max_running_per_tenant = wanted.max_running_per_tenant, fair = wanted.fair,
      rate_per_second = wanted.rate_per_second, burst = wanted.burst,
      tokens = CASE WHEN (wanted.rate_per_second, wanted.burst) IS DISTINCT FROM (old.rate_per_second, old.burst)
                    THEN coalesce(wanted.burst, 0) ELSE q.tokens END,
      tokens_at = CASE WHEN (wanted.rate_per_second, wanted.burst) IS DISTINCT FROM (old.rate_per_second, old.burst)
                       THEN moment ELSE q.tokens_at END,
      updated_at = moment, updated_by = p_actor
  WHERE q.name = p_name;
  RETURN true;
END $$;

-- Stop claiming from a queue, until p_until or until somebody resumes it. What runs goes on.
CREATE OR REPLACE FUNCTION app.pause_queue(p_name text, p_until timestamptz, p_reason text, p_actor text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_operates();
  UPDATE queues q SET paused_at = app.now(), paused_by = p_actor, pause_reason = p_reason, resume_at = p_until WHERE q.name = p_name;
  RETURN FOUND;
END $$;

CREATE OR REPLACE FUNCTION app.resume_queue(p_name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_operates();
  UPDATE queues q SET paused_at = NULL, paused_by = NULL, pause_reason = NULL, resume_at = NULL WHERE q.name = p_name;
  RETURN FOUND;
END $$;

-- Another number of running tasks for one tenant; NULL takes it away. Returns what was not found: 'queue', 'tenant', or NULL when it is done.
CREATE OR REPLACE FUNCTION app.limit_tenant(p_queue text, p_tenant text, p_max_running int, p_actor text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
DECLARE
  limited uuid := (SELECT n.id FROM tenants n WHERE n.name = p_tenant);
BEGIN
  PERFORM app.require_operates();
  PERFORM FROM queues q WHERE q.name = p_queue FOR NO KEY UPDATE;
  IF NOT FOUND THEN
    RETURN 'queue';
  ELSIF limited IS NULL THEN
    RETURN 'tenant';
  ELSIF p_max_running IS NULL THEN
    DELETE FROM queue_tenant_limits l WHERE l.queue = p_queue AND l.tenant_id = limited;
  ELSE
    INSERT INTO queue_tenant_limits AS l (queue, tenant_id, max_running, updated_by) VALUES (p_queue, limited, p_max_running, p_actor)
    ON CONFLICT (queue, tenant_id) DO UPDATE SET max_running = excluded.max_running, updated_at = app.now(), updated_by = excluded.updated_by;
  END IF;
  RETURN NULL;
END $$;

-- Raises foreign_key_violation while the queue has live tasks.
CREATE OR REPLACE FUNCTION app.delete_queue(p_name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_operates();
  DELETE FROM queues q WHERE q.name = p_name;
  RETURN FOUND;
END $$;

DO $$
DECLARE
  signature text;
BEGIN
  FOREACH signature IN ARRAY ARRAY[
    'app.count_live(boolean, int)', 'app.queue_depths()', 'app.oldest_ready(boolean)', 'app.recent_runs(boolean, int)', 'app.list_tenant_limits()',
    'app.create_queue(text, text)', 'app.change_queue(text, jsonb, text)', 'app.pause_queue(text, timestamptz, text, text)',
    'app.resume_queue(text)', 'app.limit_tenant(text, text, int, text)', 'app.delete_queue(text)'
  ] LOOP
    EXECUTE format('ALTER FUNCTION %s OWNER TO galley_engine', signature);
  END LOOP;
END $$;
