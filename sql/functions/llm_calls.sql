-- Write off what nobody will settle: the reserved calls of tasks whose run has just been taken away or has ended. Called in
-- the transaction that does so. Runs as the caller: the web role reaches its own tenant, the engine all. Returns how many rows.
CREATE OR REPLACE FUNCTION app.mark_unknown_calls(task_ids uuid[]) RETURNS int
LANGUAGE sql VOLATILE SECURITY INVOKER SET search_path = public, app, pg_temp AS $$
  WITH marked AS (
    UPDATE llm_calls c
    SET state = 'unknown', finished_at = app.now(), error = 'its run ended before the answer was booked'
    WHERE c.task_id = ANY (task_ids) AND c.state = 'reserved'
    RETURNING 1)
  SELECT count(*)::int FROM marked
$$;
REVOKE EXECUTE ON FUNCTION app.mark_unknown_calls(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.mark_unknown_calls(uuid[]) TO galley_web, galley_engine;
