-- The outbox table in partitions by time, so that old rows go by dropping
-- tables. The columns are those of the table without partitions. The key holds
-- created_at because Postgres wants it there; that id alone is unique is then
-- for the writers to see to, and the index is for those that look for one.
--
-- outbox-relay cleanup makes further partitions. The default partition takes
-- what no other does, so that no write ever fails for lack of a partition; it
-- has to stay empty, or a partition cannot be made for what it holds.
--
-- +goose Up
CREATE SCHEMA IF NOT EXISTS outbox;

CREATE TABLE IF NOT EXISTS outbox.events (
  id              uuid         NOT NULL DEFAULT gen_random_uuid(),
  aggregatetype   varchar(255) NOT NULL CHECK (aggregatetype <> ''),
  aggregateid     varchar(255) NOT NULL,
  type            varchar(255) NOT NULL CHECK (type <> ''),
  payload         jsonb,                                            -- NULL: a tombstone, where enabled
  payload_bytes   bytea,                                            -- a payload that is not JSON
  headers         jsonb        NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(headers) = 'object'),
  topic           varchar(249) CHECK (topic ~ '^[A-Za-z0-9._-]+$'), -- else by template or setting
  message_key     varchar(1024),                                    -- else aggregateid
  kafka_partition integer      CHECK (kafka_partition >= 0),        -- else by key
  content_type    text,
  schema_version  integer,
  traceparent     varchar(55)  CHECK (traceparent ~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'),
  tracestate      varchar(512),
  created_at      timestamptz  NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (created_at, id),
  CONSTRAINT one_payload CHECK (num_nonnulls(payload, payload_bytes) <= 1)
) PARTITION BY RANGE (created_at);

CREATE INDEX IF NOT EXISTS events_id_idx ON outbox.events (id);

CREATE TABLE IF NOT EXISTS outbox.events_default PARTITION OF outbox.events DEFAULT;

-- +goose Down
DROP TABLE IF EXISTS outbox.events;
