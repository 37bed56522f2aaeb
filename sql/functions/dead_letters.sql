-- Whether a dead letter is among those asked for: `{"queue", "type", "state", "error_class", "failed_after", "failed_before", "q"}`, each
-- left out: any. q is part of an id (at least 4 digits), or of the type, error class, note, reason or p_message, which is the error's.
-- One place for lists, counts and bulk operations. Without SET, so that the planner can put it into the query.
CREATE OR REPLACE FUNCTION app.dead_letter_fits(d dead_letters, p_message text, p_filter jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT (p_filter ->> 'queue' IS NULL OR d.queue = p_filter ->> 'queue')
     AND (p_filter ->> 'type' IS NULL OR d.type = p_filter ->> 'type')
     AND (p_filter ->> 'state' IS NULL OR d.state = p_filter ->> 'state')
     AND (p_filter ->> 'error_class' IS NULL OR d.error_class = p_filter ->> 'error_class')
     AND (p_filter ->> 'failed_after' IS NULL OR d.failed_at > (p_filter ->> 'failed_after')::timestamptz)
     AND (p_filter ->> 'failed_before' IS NULL OR d.failed_at < (p_filter ->> 'failed_before')::timestamptz)
     AND (p_filter ->> 'q' IS NULL
          OR strpos(lower(concat_ws(' ', d.type, d.error_class, d.note, d.handled_reason, p_message)), lower(p_filter ->> 'q')) > 0
          OR (length(replace(p_filter ->> 'q', '-', '')) >= 4
              AND strpos(replace(d.task_id::text, '-', ''), replace(lower(p_filter ->> 'q'), '-', '')) > 0))
$$;
