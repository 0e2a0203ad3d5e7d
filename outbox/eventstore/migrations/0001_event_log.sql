-- The log of the event stores Database and Hybrid. The outbox table beside it
-- is a queue whose rows may be deleted at any time; this one is kept.
--
-- xid is the transaction that appended the row. Readers go by (xid, seq) and
-- stop at the oldest transaction that is still open, because seq alone is
-- handed out before a transaction commits and would become visible out of
-- order.
--
-- +goose Up
CREATE SCHEMA IF NOT EXISTS outbox;

CREATE TABLE IF NOT EXISTS outbox.event_log (
  stream       varchar(255) NOT NULL CHECK (stream <> ''),
  version      bigint       NOT NULL CHECK (version > 0),
  id           uuid         NOT NULL UNIQUE,
  type         varchar(255) NOT NULL CHECK (type <> ''),
  payload      bytea        NOT NULL,
  content_type text         NOT NULL,
  headers      json         NOT NULL,                               -- object, in the order given
  traceparent  text         NOT NULL DEFAULT '',
  tracestate   text         NOT NULL DEFAULT '',
  created_at   timestamptz  NOT NULL DEFAULT date_trunc('milliseconds', clock_timestamp()),
  seq          bigint       NOT NULL GENERATED ALWAYS AS IDENTITY,
  xid          xid8         NOT NULL DEFAULT pg_current_xact_id(),
  PRIMARY KEY (stream, version),
  UNIQUE (xid, seq)
);

-- +goose Down
DROP TABLE IF EXISTS outbox.event_log;
