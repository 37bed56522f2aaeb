-- name: evaluate
-- $1 seconds between two rounds over all replicas
SELECT alert_id, tenant_id, kind, queue, type, threshold, value, opened FROM app.evaluate_alerts($1);

-- name: count_all_open
-- over all tenants, by kind
SELECT kind, alerts FROM app.open_alerts();

-- name: insert_rule
-- $1 tenant, $2 actor, $3 kind, $4 queue, $5 type, $6 threshold, $7 window_seconds, $8 minimum. No row: there is one about this.
INSERT INTO alert_rules (tenant_id, updated_by, kind, queue, type, threshold, window_seconds, minimum)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (tenant_id, kind, coalesce(queue, ''), coalesce(type, '')) DO NOTHING
RETURNING id;

-- name: ensure_rules
-- $1 tenant
SELECT app.ensure_alert_rules($1);

-- name: get_rule
-- $1 tenant, $2 id
SELECT r.*, r.muted_until > app.now() AS muted FROM alert_rules r WHERE r.tenant_id = $1 AND r.id = $2;

-- name: list_rules
-- $1 tenant; by kind, those for everything first
SELECT r.*, r.muted_until > app.now() AS muted
FROM alert_rules r
WHERE r.tenant_id = $1
ORDER BY array_position(ARRAY['dead_letters', 'dead_letter_age', 'ready_age', 'failure_rate'], r.kind), r.queue NULLS FIRST, r.type NULLS FIRST;

-- name: change_rule
-- $1 tenant, $2 id, $3 the version that was seen, $4 actor, $5 threshold, $6 window_seconds, $7 minimum, $8 enabled, $9 muted_until
UPDATE alert_rules
SET threshold = $5, window_seconds = $6, minimum = $7, enabled = $8, muted_until = $9, version = version + 1, updated_at = app.now(), updated_by = $4
WHERE tenant_id = $1 AND id = $2 AND version = $3
RETURNING id;

-- name: delete_rule
-- $1 tenant, $2 id: one for a queue or a type
DELETE FROM alert_rules WHERE tenant_id = $1 AND id = $2 AND (queue IS NOT NULL OR type IS NOT NULL) RETURNING id;

-- name: list
-- $1 tenant, $2 only open ones (true), only closed ones (false) or all (NULL), $3 before id or NULL, $4 how many; newest first
SELECT a.*
FROM alerts a
WHERE a.tenant_id = $1 AND ($2::boolean IS NULL OR (a.closed_at IS NULL) = $2) AND ($3::uuid IS NULL OR a.id < $3)
ORDER BY a.id DESC
LIMIT $4;

-- name: list_open
-- $1 tenant: what a banner shows, unless its rule is muted
SELECT a.*
FROM alerts a
JOIN alert_rules r ON r.tenant_id = $1 AND r.id = a.rule_id
WHERE a.tenant_id = $1 AND a.closed_at IS NULL AND (r.muted_until IS NULL OR r.muted_until <= app.now())
ORDER BY a.acknowledged_at IS NOT NULL, a.opened_at;

-- name: count_new
-- $1 tenant: those that nobody has acknowledged, as a banner shows them
SELECT count(*)
FROM alerts a
JOIN alert_rules r ON r.tenant_id = $1 AND r.id = a.rule_id
WHERE a.tenant_id = $1 AND a.closed_at IS NULL AND a.acknowledged_at IS NULL AND (r.muted_until IS NULL OR r.muted_until <= app.now());

-- name: get
-- $1 tenant, $2 id
SELECT a.* FROM alerts a WHERE a.tenant_id = $1 AND a.id = $2;

-- name: acknowledge
-- $1 tenant, $2 id, $3 actor; the first one stays
UPDATE alerts SET acknowledged_at = app.now(), acknowledged_by = $3 WHERE tenant_id = $1 AND id = $2 AND acknowledged_at IS NULL RETURNING id;

-- name: evaluated_at
-- when all rules were last looked at; '-infinity' before the first time
SELECT nullif(evaluated_at, '-infinity') FROM alert_rounds;
