-- Alerts: what is watched is read from dead letters, the numbers per minute and the index of ready tasks. History is never counted.

-- The rules that every tenant has: its defaults are made where they are missing. NULL: of all tenants.
CREATE OR REPLACE FUNCTION app.ensure_alert_rules(p_tenant uuid) RETURNS void
LANGUAGE sql SET search_path = public, app, pg_temp AS $$
  INSERT INTO alert_rules (tenant_id, kind, threshold, window_seconds, minimum, updated_by)
  SELECT n.id, d.kind, d.threshold, d.window_seconds, d.minimum, 'system:alerts'
  FROM tenants n
  CROSS JOIN (VALUES ('dead_letters', 10, NULL, NULL), ('dead_letter_age', 86400, NULL, NULL), ('ready_age', 900, NULL, NULL),
                     ('failure_rate', 0.5, 900, 20)) AS d (kind, threshold, window_seconds, minimum)
  WHERE (p_tenant IS NULL OR n.id = p_tenant)
    AND NOT EXISTS (SELECT FROM alert_rules r WHERE r.tenant_id = n.id AND r.kind = d.kind AND r.queue IS NULL AND r.type IS NULL)
  ON CONFLICT DO NOTHING
$$;

-- When the oldest ready task of each tenant and queue came due. Walks the index from one (queue, tenant, priority) to the next, so it costs
-- as many steps as there are of these, however many tasks are ready.
CREATE OR REPLACE FUNCTION app.ready_ages() RETURNS TABLE (tenant_id uuid, queue text, oldest_at timestamptz)
LANGUAGE sql STABLE SET search_path = public, app, pg_temp AS $$
  WITH RECURSIVE walk AS (
    (SELECT t.queue, t.tenant_id, t.priority, t.run_at
     FROM tasks t
     WHERE t.state = 'queued'
     ORDER BY t.queue, t.tenant_id, t.priority, t.run_at
     LIMIT 1)
    UNION ALL
    SELECT further.queue, further.tenant_id, further.priority, further.run_at
    FROM walk w
    CROSS JOIN LATERAL (
      SELECT t.queue, t.tenant_id, t.priority, t.run_at
      FROM tasks t
      WHERE t.state = 'queued' AND (t.queue, t.tenant_id, t.priority) > (w.queue, w.tenant_id, w.priority)
      ORDER BY t.queue, t.tenant_id, t.priority, t.run_at
      LIMIT 1
    ) AS further
  )
  SELECT w.tenant_id, w.queue, min(w.run_at) FROM walk w GROUP BY w.tenant_id, w.queue
$$;

-- What each enabled rule measures now: one row per rule, of ready_age one per queue that has ready tasks. No row: nothing to measure.
CREATE OR REPLACE FUNCTION app.alert_values() RETURNS TABLE (rule_id uuid, subject text, value double precision)
LANGUAGE sql STABLE SET search_path = public, app, pg_temp AS $$
  WITH moment AS MATERIALIZED (
    SELECT app.now() AS at
  ), ready AS MATERIALIZED (
    SELECT a.tenant_id, a.queue, extract(epoch FROM moment.at - a.oldest_at)::double precision AS age FROM app.ready_ages() a, moment
  )
  -- Counted no further than ten times the threshold: beyond that it is enough to know that there are many.
  SELECT r.id, r.queue, c.n::double precision
  FROM alert_rules r CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM (
      SELECT FROM dead_letters d
      WHERE d.tenant_id = r.tenant_id AND d.handled_at IS NULL AND (r.queue IS NULL OR d.queue = r.queue) AND (r.type IS NULL OR d.type = r.type)
      LIMIT least(ceil(r.threshold) * 10, 100000)::int
    ) AS counted
  ) AS c
  WHERE r.enabled AND r.kind = 'dead_letters'
  UNION ALL
  SELECT r.id, r.queue, extract(epoch FROM moment.at - d.failed_at)::double precision
  FROM moment, alert_rules r CROSS JOIN LATERAL (
    SELECT d.failed_at FROM dead_letters d
    WHERE d.tenant_id = r.tenant_id AND d.handled_at IS NULL AND (r.queue IS NULL OR d.queue = r.queue) AND (r.type IS NULL OR d.type = r.type)
    ORDER BY d.failed_at
    LIMIT 1
  ) AS d
  WHERE r.enabled AND r.kind = 'dead_letter_age'
  UNION ALL
  SELECT r.id, a.queue, a.age
  FROM alert_rules r
  JOIN ready a ON a.tenant_id = r.tenant_id AND (r.queue IS NULL OR a.queue = r.queue)
  WHERE r.enabled AND r.kind = 'ready_age'
  UNION ALL
  SELECT r.id, r.queue, s.bad::double precision / s.ends
  FROM moment, alert_rules r CROSS JOIN LATERAL (
    SELECT coalesce(sum(m.tasks), 0) AS ends, coalesce(sum(m.tasks) FILTER (WHERE m.outcome <> 'succeeded'), 0) AS bad
    FROM task_statistics m
    WHERE m.tenant_id = r.tenant_id
      AND m.minute > moment.at - make_interval(secs => r.window_seconds + 60)  -- every minute of which a part lies within the window
      AND m.outcome IN ('succeeded', 'failed', 'timed_out')
      AND (r.queue IS NULL OR m.queue = r.queue) AND (r.type IS NULL OR m.type = r.type)
  ) AS s
  WHERE r.enabled AND r.kind = 'failure_rate' AND s.ends >= r.minimum
$$;

-- Look at every rule of every tenant, unless another replica is at it or has been within p_rest_seconds. An alert opens when its value
-- reaches the threshold, and closes once it has been below four fifths of it for a minute: in between it stays as it is. A muted rule
-- opens none. Returns what opened and what closed.
CREATE OR REPLACE FUNCTION app.evaluate_alerts(p_rest_seconds int)
RETURNS TABLE (alert_id uuid, tenant_id uuid, kind text, queue text, type text, threshold double precision, value double precision, opened boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
DECLARE
  moment timestamptz := app.now();
BEGIN
  PERFORM app.require_no_tenant();
  IF NOT pg_try_advisory_xact_lock(hashtext('galley.alerts')) THEN
    RETURN;
  END IF;
  UPDATE alert_rounds SET evaluated_at = moment WHERE evaluated_at <= moment - make_interval(secs => p_rest_seconds) OR evaluated_at > moment;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  PERFORM app.ensure_alert_rules(NULL);
  RETURN QUERY
    WITH measured AS MATERIALIZED (
      SELECT v.rule_id, v.subject, v.value FROM app.alert_values() v
    ), looked AS (
      -- A value that cannot be measured any more (nothing waits, too few ends, switched off) is as calm as one far below.
      SELECT a.id, coalesce(m.value, 0) AS value, coalesce(m.value, 0) < 0.8 * r.threshold AS calm
      FROM alerts a
      JOIN alert_rules r ON r.id = a.rule_id
      LEFT JOIN measured m ON m.rule_id = a.rule_id AND m.subject IS NOT DISTINCT FROM a.queue
      WHERE a.closed_at IS NULL
    ), kept AS (
      UPDATE alerts a
      SET value = l.value, worst = greatest(a.worst, l.value), checked_at = moment,
          calm_since = CASE WHEN l.calm THEN coalesce(a.calm_since, moment) END,
          closed_at = CASE WHEN l.calm AND coalesce(a.calm_since, moment) <= moment - interval '1 minute' THEN moment END
      FROM looked l
      WHERE a.id = l.id
      RETURNING a.*
    ), made AS (
      INSERT INTO alerts (tenant_id, rule_id, kind, queue, type, threshold, opened_at, opened_value, value, worst, checked_at)
      SELECT r.tenant_id, r.id, r.kind, m.subject, r.type, r.threshold, moment, m.value, m.value, m.value, moment
      FROM measured m JOIN alert_rules r ON r.id = m.rule_id
      WHERE m.value >= r.threshold AND (r.muted_until IS NULL OR r.muted_until <= moment)
        AND NOT EXISTS (SELECT FROM alerts a WHERE a.rule_id = r.id AND a.closed_at IS NULL AND a.queue IS NOT DISTINCT FROM m.subject)
      RETURNING alerts.*
    )
    SELECT k.id, k.tenant_id, k.kind, k.queue, k.type, k.threshold, k.value, false FROM kept k WHERE k.closed_at IS NOT NULL
    UNION ALL
    SELECT n.id, n.tenant_id, n.kind, n.queue, n.type, n.threshold, n.value, true FROM made n;
END $$;

-- How many alerts are open, by kind, over all tenants: for the gauge.
CREATE OR REPLACE FUNCTION app.open_alerts() RETURNS TABLE (kind text, alerts int)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  RETURN QUERY
    SELECT k.kind, (SELECT count(*)::int FROM alerts a WHERE a.closed_at IS NULL AND a.kind = k.kind)
    FROM unnest(ARRAY['dead_letters', 'dead_letter_age', 'ready_age', 'failure_rate']) AS k (kind);
END $$;

ALTER FUNCTION app.evaluate_alerts(int) OWNER TO galley_engine;
ALTER FUNCTION app.open_alerts() OWNER TO galley_engine;
