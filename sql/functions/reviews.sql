-- Reviews end with the task that asked for them. Runs as the caller: a web transaction stays inside its tenant, the engine's
-- functions reach the tenants of the tasks they end.

-- Close what the given tasks, which the caller has locked and ended other than well, still wait for. The item goes back to
-- draft: its text stays and can be submitted again by a person. Items are locked before reviews, by id, as everywhere.
CREATE OR REPLACE FUNCTION app.close_reviews(p_task_ids uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path = public, app, pg_temp AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM reviews r WHERE r.task_id = ANY (p_task_ids) AND r.state = 'pending') THEN
    RETURN;
  END IF;
  PERFORM c.id
  FROM content_items c
  JOIN reviews r ON r.tenant_id = c.tenant_id AND r.content_id = c.id
  WHERE r.task_id = ANY (p_task_ids) AND r.state = 'pending'
  ORDER BY c.id
  FOR NO KEY UPDATE OF c;
  -- A statement of its own, so it sees the review that an edit put in the place of another while we waited for the item.
  WITH closed AS (
    UPDATE reviews r
    SET state = 'closed', ended_at = app.now(), closed_reason = 'its task ended'
    WHERE r.task_id = ANY (p_task_ids) AND r.state = 'pending'
    RETURNING r.tenant_id, r.content_id
  )
  UPDATE content_items c
  SET state = 'draft', updated_at = app.now()
  FROM closed
  WHERE c.tenant_id = closed.tenant_id AND c.id = closed.content_id AND c.state = 'in_review';
END $$;

-- Lock the items that app.close_reviews will need, for those who end many tasks at once and wait for nobody. Returns the tasks that cannot be
-- ended now: somebody else is writing to an item of theirs.
CREATE OR REPLACE FUNCTION app.lock_reviewed(p_task_ids uuid[]) RETURNS uuid[]
LANGUAGE plpgsql SET search_path = public, app, pg_temp AS $$
DECLARE
  free uuid[];
BEGIN
  IF NOT EXISTS (SELECT FROM reviews r WHERE r.task_id = ANY (p_task_ids) AND r.state = 'pending') THEN
    RETURN '{}';
  END IF;
  free := ARRAY(
    SELECT c.id
    FROM content_items c
    JOIN reviews r ON r.tenant_id = c.tenant_id AND r.content_id = c.id
    WHERE r.task_id = ANY (p_task_ids) AND r.state = 'pending'
    ORDER BY c.id
    FOR NO KEY UPDATE OF c SKIP LOCKED);
  RETURN ARRAY(SELECT DISTINCT r.task_id FROM reviews r WHERE r.task_id = ANY (p_task_ids) AND r.state = 'pending' AND r.content_id <> ALL (free));
END $$;

ALTER FUNCTION app.close_reviews(uuid[]) OWNER TO galley_owner;
ALTER FUNCTION app.lock_reviewed(uuid[]) OWNER TO galley_owner;
REVOKE EXECUTE ON FUNCTION app.close_reviews(uuid[]), app.lock_reviewed(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.close_reviews(uuid[]), app.lock_reviewed(uuid[]) TO galley_web, galley_engine;
