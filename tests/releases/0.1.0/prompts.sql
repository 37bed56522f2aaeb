-- name: ensure
-- $1 tenant, $2 name, $3 actor
INSERT INTO prompts (tenant_id, name, created_by)
VALUES ($1, $2, $3)
ON CONFLICT (tenant_id, name) DO NOTHING
RETURNING id;

-- name: lock
-- $1 tenant, $2 name. Numbers and labels of one prompt change one after the other.
SELECT id, name, latest_number
FROM prompts
WHERE tenant_id = $1 AND name = $2
FOR NO KEY UPDATE;

-- name: insert_version
-- $1 tenant, $2 prompt, $3 system, $4 template, $5 variables, $6 settings, $7 output schema, $8 note, $9 hash, $10 actor
WITH counted AS (
  UPDATE prompts
  SET latest_number = latest_number + 1
  WHERE tenant_id = $1 AND id = $2
  RETURNING latest_number
)
INSERT INTO prompt_versions (tenant_id, prompt_id, number, system, template, variables, settings, output_schema, note, content_hash, created_by)
SELECT $1, $2, latest_number, $3, $4, $5, $6, $7, $8, $9, $10
FROM counted
RETURNING number;

-- name: get_version
-- $1 tenant, $2 name, $3 label or NULL, $4 number or NULL. With neither, or the label `latest`: the highest number.
SELECT v.id, v.prompt_id, p.name, v.number, v.system, v.template, v.variables, v.settings, v.output_schema, v.note, v.content_hash,
       v.created_by, v.created_at,
       ARRAY(SELECT l.label FROM prompt_labels l
             WHERE l.tenant_id = $1 AND l.prompt_id = p.id AND l.number = v.number ORDER BY l.label) AS labels
FROM prompts p
JOIN prompt_versions v ON v.tenant_id = p.tenant_id AND v.prompt_id = p.id
WHERE p.tenant_id = $1 AND p.name = $2
  AND v.number = CASE
    WHEN $4::int IS NOT NULL THEN $4
    WHEN $3::text IS NULL OR $3 = 'latest' THEN p.latest_number
    ELSE (SELECT l.number FROM prompt_labels l WHERE l.tenant_id = $1 AND l.prompt_id = p.id AND l.label = $3)
  END;

-- name: find_name
-- $1 tenant, $2 version id
SELECT p.name, v.number
FROM prompt_versions v
JOIN prompts p ON p.tenant_id = v.tenant_id AND p.id = v.prompt_id
WHERE v.tenant_id = $1 AND v.id = $2;

-- name: list
-- $1 tenant, $2 names after this one or NULL, $3 how many
SELECT p.id, p.name, p.latest_number, p.created_by, p.created_at, v.created_at AS updated_at,
       (SELECT coalesce(jsonb_object_agg(l.label, l.number), '{}') FROM prompt_labels l
        WHERE l.tenant_id = $1 AND l.prompt_id = p.id) AS labels
FROM prompts p
JOIN prompt_versions v ON v.tenant_id = p.tenant_id AND v.prompt_id = p.id AND v.number = p.latest_number
WHERE p.tenant_id = $1 AND ($2::text IS NULL OR p.name > $2)
ORDER BY p.name
LIMIT $3;

-- name: list_versions
-- $1 tenant, $2 name, $3 numbers below this one or NULL, $4 how many; newest first
SELECT v.id, v.prompt_id, p.name, v.number, v.system, v.template, v.variables, v.settings, v.output_schema, v.note, v.content_hash,
       v.created_by, v.created_at,
       ARRAY(SELECT l.label FROM prompt_labels l
             WHERE l.tenant_id = $1 AND l.prompt_id = p.id AND l.number = v.number ORDER BY l.label) AS labels
FROM prompts p
JOIN prompt_versions v ON v.tenant_id = p.tenant_id AND v.prompt_id = p.id
WHERE p.tenant_id = $1 AND p.name = $2 AND ($3::int IS NULL OR v.number < $3)
ORDER BY v.number DESC
LIMIT $4;

-- name: list_label_events
-- $1 tenant, $2 name, $3 how many; newest first
SELECT e.label, e.from_number, e.to_number, e.actor, e.reason, e.at
FROM prompts p
JOIN prompt_label_events e ON e.tenant_id = p.tenant_id AND e.prompt_id = p.id
WHERE p.tenant_id = $1 AND p.name = $2
ORDER BY e.id DESC
LIMIT $3;

-- name: set_label
-- $1 tenant, $2 prompt, $3 label, $4 number, $5 actor, $6 reason. The prompt is locked. No row: the label stood there already.
WITH before AS (
  SELECT number FROM prompt_labels WHERE tenant_id = $1 AND prompt_id = $2 AND label = $3
), moved AS (
  INSERT INTO prompt_labels (tenant_id, prompt_id, label, number, updated_by)
  SELECT $1, $2, $3, $4, $5
  WHERE NOT EXISTS (SELECT FROM before WHERE number = $4)
  ON CONFLICT (tenant_id, prompt_id, label)
  DO UPDATE SET number = excluded.number, updated_by = excluded.updated_by, updated_at = app.now()
  RETURNING label
)
INSERT INTO prompt_label_events (tenant_id, prompt_id, label, from_number, to_number, actor, reason)
SELECT $1, $2, $3, (SELECT number FROM before), $4, $5, $6
FROM moved
RETURNING id;
