-- name: take
-- $1 tenant, $2 principal, $3 route, $4 key, $5 request hash
SELECT taken, request_hash, status, headers, body
FROM app.take_idempotency_key($1, $2, $3, $4, $5);

-- name: keep
-- $1 tenant, $2 principal, $3 route, $4 key, $5 status, $6 headers, $7 body
UPDATE idempotency
SET status = $5, headers = $6, body = $7
WHERE tenant_id = $1 AND principal_id = $2 AND route = $3 AND key = $4;
