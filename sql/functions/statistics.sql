-- Numbers per minute: the engine adds rows as tasks end (app.finish, app.end_tasks, app.retry, app.rescue); here they are folded.

-- Make one row of what each minute that is over has for a tenant, queue, type and outcome; drop minutes older than p_days. One at a time.
CREATE OR REPLACE FUNCTION app.fold_statistics(p_days int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, app, pg_temp SET enable_seqscan = off AS $$
DECLARE
  written int;
BEGIN
  PERFORM app.require_no_tenant();
  IF NOT pg_try_advisory_xact_lock(hashtext('galley.statistics')) THEN
    RETURN 0;
  END IF;
  WITH loose AS (
    DELETE FROM task_statistics s WHERE NOT s.folded AND s.minute < date_trunc('minute', app.now()) RETURNING s.*
  )
  INSERT INTO task_statistics (tenant_id, minute, queue, type, outcome, tasks, waited_ms, waited_max_ms, ran_ms, ran_max_ms, folded)
  SELECT l.tenant_id, l.minute, l.queue, l.type, l.outcome, sum(l.tasks), sum(l.waited_ms), max(l.waited_max_ms), sum(l.ran_ms), max(l.ran_max_ms), true
  FROM loose l
  GROUP BY l.tenant_id, l.minute, l.queue, l.type, l.outcome;
  GET DIAGNOSTICS written = ROW_COUNT;
  -- By tenant, as the index is.
  DELETE FROM task_statistics s
  WHERE s.tenant_id = ANY (ARRAY(SELECT n.id FROM tenants n)) AND s.minute < app.now() - make_interval(days => p_days);
  RETURN written;
END $$;

ALTER FUNCTION app.fold_statistics(int) OWNER TO galley_engine;
