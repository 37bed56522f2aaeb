-- Creating tasks. Runs as the caller, in the caller's transaction: a tenant creates its own, and whatever else the transaction changes
-- commits with them. Other programs that share the database may call it too; what they create is found within a second.

-- Create as many tasks as the longest array has entries, and return them in that order; none when a queue is unknown. An array that would
-- hold nothing but NULL may be NULL itself. What comes back is what only the database knows: the caller knows the rest.
DROP FUNCTION IF EXISTS app.enqueue(uuid, text, text, uuid[], text[], smallint[], jsonb[], text[], smallint[], timestamptz[], int[], smallint[], text[], text[],
                                    smallint[], timestamptz[], int[]);  -- of an unreleased state: two of one name could not be told apart
CREATE OR REPLACE FUNCTION app.enqueue(
  p_tenant uuid, p_actor text, p_request_ids text[], p_retry_ofs uuid[], p_types text[], p_type_versions smallint[], p_payloads jsonb[], p_queues text[],
  p_priorities smallint[], p_run_ats timestamptz[], p_timeouts int[], p_max_attempts smallint[], p_on_crash text[], p_keys text[],
  p_key_limits smallint[], p_start_befores timestamptz[], p_total_timeouts int[])
RETURNS TABLE (id uuid, state text, run_at timestamptz, created_at timestamptz)
LANGUAGE plpgsql SET search_path = public, app, pg_temp AS $$
#variable_conflict use_column
DECLARE
  moment timestamptz := app.now();
BEGIN
  IF EXISTS (SELECT FROM unnest(p_queues) AS named (queue) LEFT JOIN queues q ON q.name = named.queue WHERE q.name IS NULL) THEN
    RETURN;
  END IF;
  RETURN QUERY
    INSERT INTO tasks (tenant_id, created_by, request_id, retry_of, type, type_version, payload, queue, priority, run_at, timeout_seconds,
      max_attempts, on_crash, concurrency_key, concurrency_limit, start_before, total_deadline_at, created_at, state)
    SELECT p_tenant, p_actor, n.request_id, n.retry_of, n.type, n.type_version, n.payload, n.queue, n.priority, coalesce(n.run_at, moment),
      n.timeout_seconds, n.max_attempts, n.on_crash, n.concurrency_key, n.concurrency_limit, n.start_before,
      moment + make_interval(secs => n.total_timeout_seconds), moment, CASE WHEN n.run_at > moment THEN 'scheduled' ELSE 'queued' END
    FROM unnest(p_request_ids, p_retry_ofs, p_types, p_type_versions, p_payloads, p_queues, p_priorities, p_run_ats, p_timeouts, p_max_attempts, p_on_crash,
                p_keys, p_key_limits, p_start_befores, p_total_timeouts)
      AS n (request_id, retry_of, type, type_version, payload, queue, priority, run_at, timeout_seconds, max_attempts, on_crash, concurrency_key,
            concurrency_limit, start_before, total_timeout_seconds)
    RETURNING tasks.id, tasks.state, tasks.run_at, tasks.created_at;
END $$;
