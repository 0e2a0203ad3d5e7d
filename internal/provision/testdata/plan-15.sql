CREATE SCHEMA IF NOT EXISTS "outbox";

CREATE TABLE IF NOT EXISTS "outbox"."events" (
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
  PRIMARY KEY (id),
  CONSTRAINT one_payload CHECK (num_nonnulls(payload, payload_bytes) <= 1)
);

CREATE PUBLICATION "outbox_pub" FOR TABLE "outbox"."events" WITH (publish = 'insert', publish_via_partition_root = true);

SELECT lsn::text FROM pg_create_logical_replication_slot('outbox_relay', 'pgoutput', false, false);
