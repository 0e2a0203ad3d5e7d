-- The roles of docs/operations.md, made when the database is.

-- runs serve; needs no right on any table
CREATE ROLE outbox_relay LOGIN REPLICATION PASSWORD 'relay-local';
GRANT CONNECT ON DATABASE shop TO outbox_relay;

-- the service that writes events; the schema is init's, later
CREATE ROLE shop_app LOGIN PASSWORD 'app-local';
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO shop_app;
ALTER DEFAULT PRIVILEGES GRANT INSERT ON TABLES TO shop_app;
