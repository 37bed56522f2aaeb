-- The tasks that a bulk operation is about, in the order of their ids, after p_after: what its preview counts and its batches visit.
-- Nothing that was made after p_newest, nothing that ended after p_seen_at, nothing that somebody has handled. Runs as the caller.
-- p_filter: state, type, queue, ids; of tasks also id_from, id_to, text (a search that was read), of dead letters those of
-- app.dead_letter_fits. Plans are made for the values at hand: which index serves depends on them.
CREATE OR REPLACE FUNCTION app.bulk_matches(
  p_tenant uuid, p_action text, p_target text, p_filter jsonb, p_newest uuid, p_seen_at timestamptz, p_after uuid, p_limit int)
RETURNS TABLE (id uuid, state text, type text)
LANGUAGE plpgsql STABLE SET search_path = public, app, pg_temp SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
  after uuid := coalesce(p_after, '00000000-0000-0000-0000-000000000000');
  chosen uuid[] := CASE WHEN p_filter ? 'ids' THEN ARRAY(SELECT i::uuid FROM jsonb_array_elements_text(p_filter -> 'ids') i) END;
  wanted_state text := p_filter ->> 'state';
  wanted_type text := p_filter ->> 'type';
  wanted_queue text := p_filter ->> 'queue';
  id_from uuid := p_filter ->> 'id_from';
  id_to uuid := p_filter ->> 'id_to';
  text_wanted text := p_filter ->> 'text';
BEGIN
  IF p_target = 'dead_letters' THEN
    RETURN QUERY
      SELECT d.task_id, d.state, d.type
      FROM dead_letters d JOIN task_history h ON h.tenant_id = d.tenant_id AND h.id = d.task_id
      WHERE d.tenant_id = p_tenant AND d.handled_at IS NULL AND d.task_id > after AND d.task_id <= p_newest AND d.failed_at <= p_seen_at
        AND (chosen IS NULL OR d.task_id = ANY (chosen))
        AND app.dead_letter_fits(d, h.error ->> 'message', p_filter)
      ORDER BY d.task_id
      LIMIT p_limit;
  ELSIF p_action = 'cancel' THEN
    RETURN QUERY
      SELECT t.id, t.state, t.type
      FROM tasks t
      WHERE t.tenant_id = p_tenant AND t.id > after AND t.id <= p_newest
        AND (chosen IS NULL OR t.id = ANY (chosen))
        AND (wanted_state IS NULL OR t.state = wanted_state)
        AND (wanted_type IS NULL OR t.type = wanted_type)
        AND (wanted_queue IS NULL OR t.queue = wanted_queue)
        AND (id_from IS NULL OR t.id BETWEEN id_from AND id_to OR t.retry_of BETWEEN id_from AND id_to)
        AND (text_wanted IS NULL OR starts_with(t.type, text_wanted) OR t.concurrency_key = text_wanted)
      ORDER BY t.id
      LIMIT p_limit;
  ELSE
    -- By a filter, success is not repeated unless it is asked for; and what has a successor already is not requeued again.
    RETURN QUERY
      SELECT h.id, h.state, h.type
      FROM task_history h
      WHERE h.tenant_id = p_tenant AND h.id > after AND h.id <= p_newest AND h.finished_at <= p_seen_at
        AND (chosen IS NULL OR h.id = ANY (chosen))
        AND (h.state <> 'succeeded' OR chosen IS NOT NULL OR wanted_state = 'succeeded')
        AND (wanted_state IS NULL OR h.state = wanted_state)
        AND (wanted_type IS NULL OR h.type = wanted_type)
        AND (wanted_queue IS NULL OR h.queue = wanted_queue)
        AND (id_from IS NULL OR h.id BETWEEN id_from AND id_to OR h.retry_of BETWEEN id_from AND id_to)
        AND (text_wanted IS NULL OR starts_with(h.type, text_wanted) OR h.concurrency_key = text_wanted)
        AND NOT EXISTS (SELECT FROM dead_letters d WHERE d.task_id = h.id AND d.handled_at IS NOT NULL)
        AND NOT EXISTS (SELECT FROM tasks r WHERE r.tenant_id = h.tenant_id AND r.retry_of = h.id)
        AND NOT EXISTS (SELECT FROM task_history r WHERE r.tenant_id = h.tenant_id AND r.retry_of = h.id)
      ORDER BY h.id
      LIMIT p_limit;
  END IF;
END $$;

-- What is locked (pg_advisory_xact_lock) by whoever requeues a task, before looking whether somebody has: ended tasks have no row to lock.
-- Locked before a dead letter is. Bulk operations pass over what others have locked, and over what has a successor then.
CREATE OR REPLACE FUNCTION app.requeue_lock(p_task uuid) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
  RETURN uuid_hash_extended(p_task, 5521);

-- What there is to carry out, of all tenants, oldest first: each of them gets a batch in turn.
CREATE OR REPLACE FUNCTION app.find_bulk_operations() RETURNS TABLE (id uuid, tenant_id uuid, created_by text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, app, pg_temp AS $$
BEGIN
  PERFORM app.require_no_tenant();
  RETURN QUERY
    SELECT b.id, b.tenant_id, b.created_by FROM bulk_operations b
    WHERE b.state = 'running' AND b.resume_at <= app.now() ORDER BY b.created_at LIMIT 50;
END $$;

ALTER FUNCTION app.find_bulk_operations() OWNER TO galley_engine;
