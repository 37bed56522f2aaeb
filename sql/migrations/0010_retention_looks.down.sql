SET ROLE galley_owner;
DROP TABLE retention_looks;
RESET ROLE;
