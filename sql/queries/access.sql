-- name: find_api_keys
-- $1 ids
SELECT id, tenant_id, tenant, name, role, secret_hash, seldom_used FROM app.find_api_keys($1);

-- name: touch_api_keys
-- $1 ids
SELECT app.touch_api_key(id) FROM unnest($1::uuid[]) AS used (id);

-- name: find_session
-- $1 hash of the token
SELECT id, tenant_id, tenant, user_id, email, role, csrf_token, seldom_used FROM app.find_session($1);

-- name: touch_session
-- $1 id
SELECT app.touch_session($1);

-- name: find_login
-- $1 e-mail
SELECT id, tenant_id, email, role, password_hash FROM app.find_login($1);

-- name: find_tenant
-- $1 name
SELECT id, name, settings FROM app.find_tenant($1);

-- name: ensure_tenant
-- $1 name
SELECT app.ensure_tenant($1);

-- name: create_user
-- $1 tenant, $2 e-mail, $3 name, $4 password hash, $5 role
INSERT INTO users (tenant_id, email, name, password_hash, role)
VALUES ($1, $2, $3, $4, $5)
RETURNING id;

-- name: set_password
-- Every session of the user ends with the old password. $1 tenant, $2 user, $3 password hash
WITH ended AS (
  DELETE FROM sessions WHERE tenant_id = $1 AND user_id = $2
)
UPDATE users SET password_hash = $3 WHERE tenant_id = $1 AND id = $2
RETURNING id;

-- name: create_api_key
-- $1 tenant, $2 name, $3 role, $4 hash of the secret, $5 actor, $6 expires at (NULL: never)
INSERT INTO api_keys (tenant_id, name, role, secret_hash, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6)
RETURNING id, tenant_id, name, role, created_by, created_at, expires_at, revoked_at, last_used_at;

-- name: list_api_keys
-- $1 tenant
SELECT id, tenant_id, name, role, created_by, created_at, expires_at, revoked_at, last_used_at
FROM api_keys
WHERE tenant_id = $1
ORDER BY id DESC;

-- name: revoke_api_key
-- $1 tenant, $2 id
UPDATE api_keys SET revoked_at = app.now()
WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL
RETURNING id;

-- name: open_session
-- $1 tenant, $2 user, $3 hash of the token, $4 csrf token, $5 how long at most
INSERT INTO sessions (tenant_id, user_id, token_hash, csrf_token, expires_at)
VALUES ($1, $2, $3, $4, app.now() + $5::interval);

-- name: close_session
-- $1 tenant, $2 id
DELETE FROM sessions WHERE tenant_id = $1 AND id = $2;
