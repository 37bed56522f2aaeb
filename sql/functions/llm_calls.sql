-- Write off what nobody will settle: reserved calls of *task_ids* whose run is over (its fence is gone, or the task does
-- not run). The rescuer calls it for what it takes away, and a run before its first purchase. Runs as the caller: the web
-- role reaches its own tenant, the engine all of them. Returns how many rows.
CREATE OR REPLACE FUNCTION app.mark_unknown_calls(task_ids uuid[]) RETURNS int
LANGUAGE sql VOLATILE SECURITY INVOKER SET search_path = public, app, pg_temp AS $$
  WITH marked AS (
    UPDATE llm_calls c
    SET state = 'unknown', finished_at = app.now(), error = 'its run ended before the answer was booked'
    WHERE c.task_id = ANY(task_ids) AND c.state = 'reserved'
      AND NOT EXISTS (
        SELECT 1 FROM tasks t
        WHERE t.tenant_id = c.tenant_id AND t.id = c.task_id AND t.fence = c.fence AND t.state = 'running')
    RETURNING 1)
  SELECT count(*)::int FROM marked
$$;
ALTER FUNCTION app.mark_unknown_calls(uuid[]) OWNER TO galley_owner;
REVOKE EXECUTE ON FUNCTION app.mark_unknown_calls(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.mark_unknown_calls(uuid[]) TO galley_web, galley_engine;
