-- Schedules across tenants: which are due, and which ticks have been kept long enough. The ticks themselves are decided in the
-- transaction of their tenant (services/schedules.py).

-- Schedules whose next tick has come, the longest due first, and the seconds until the next one of all: the row without ids.
CREATE OR REPLACE FUNCTION app.due_schedules(p_limit int) RETURNS TABLE (tenant_id uuid, schedule_id uuid, next_due_seconds double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  RETURN QUERY
    (SELECT s.tenant_id, s.id, NULL::double precision
     FROM schedules s
     WHERE s.next_tick_at <= app.now()
     ORDER BY s.next_tick_at
     LIMIT p_limit)
    UNION ALL
    SELECT NULL, NULL, extract(epoch FROM min(s.next_tick_at) - app.now())::double precision
    FROM schedules s
    WHERE s.next_tick_at > app.now();
END $$;

-- Delete ticks older than p_days whose task is gone or was never made, and deleted schedules that have none left. Returns how many ticks.
-- One at a time.
CREATE OR REPLACE FUNCTION app.sweep_schedule_ticks(p_days int, p_limit int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
DECLARE
  swept int;
BEGIN
  PERFORM app.require_no_tenant();
  IF NOT pg_try_advisory_xact_lock(hashtext('galley.schedule_ticks')) THEN
    RETURN 0;
  END IF;
  WITH old AS MATERIALIZED (
    SELECT t.schedule_id, t.tick_at, t.manual
    FROM schedule_ticks t
    WHERE t.decided_at < app.now() - make_interval(days => p_days)
      AND NOT EXISTS (SELECT FROM tasks k WHERE k.id = t.task_id)
      AND NOT EXISTS (SELECT FROM task_history h WHERE h.tenant_id = t.tenant_id AND h.id = t.task_id)
    ORDER BY t.decided_at
    LIMIT p_limit
  )
  DELETE FROM schedule_ticks t USING old o
  WHERE t.schedule_id = o.schedule_id AND t.tick_at = o.tick_at AND t.manual = o.manual;
  GET DIAGNOSTICS swept = ROW_COUNT;
  DELETE FROM schedules s
  WHERE s.deleted_at < app.now() - make_interval(days => p_days)
    AND NOT EXISTS (SELECT FROM schedule_ticks t WHERE t.schedule_id = s.id);
  RETURN swept;
END $$;

ALTER FUNCTION app.due_schedules(int) OWNER TO galley_engine;
ALTER FUNCTION app.sweep_schedule_ticks(int, int) OWNER TO galley_engine;
