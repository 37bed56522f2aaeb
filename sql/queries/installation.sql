-- name: operates
SELECT app.operates();

-- name: find_operating_tenant
SELECT id, name, settings FROM app.find_operating_tenant();
