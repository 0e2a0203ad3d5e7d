SELECT pg_advisory_xact_lock(hashtext('outbox.consumed'));
CREATE SCHEMA IF NOT EXISTS outbox;
CREATE TABLE IF NOT EXISTS outbox.consumed (
  consumer text        NOT NULL,
  id       text        NOT NULL,
  at       timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (consumer, id)
);
CREATE INDEX IF NOT EXISTS consumed_at ON outbox.consumed (consumer, at);
