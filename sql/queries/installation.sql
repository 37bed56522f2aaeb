-- name: operates
SELECT app.operates();

-- name: find_operating_tenant
SELECT id, name, settings FROM app.find_operating_tenant();

-- name: list_tenants
SELECT id, name, operates, created_at FROM app.list_tenants();

-- name: set_operates
-- $1 tenant's name, $2 whether it operates the installation
SELECT app.set_operates($1, $2);
