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

CREATE SCHEMA IF NOT EXISTS "outbox";

-- What the relay that holds the slot said last. It writes when its state has
-- changed, and when a count has, at most every 10 seconds.
CREATE TABLE IF NOT EXISTS outbox.relay_state (
  relay           text        NOT NULL,
  slot            text        NOT NULL,
  state           text        NOT NULL,
  code            text,
  instance        text        NOT NULL,
  version         text        NOT NULL,
  checkpoint_seq  bigint,
  checkpoint_lsn  pg_lsn,
  checkpoint_at   timestamptz,
  last_commit_lsn pg_lsn,
  last_commit_at  timestamptz,
  rows_total      bigint,
  dlq_total       bigint,
  since           timestamptz NOT NULL,
  updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (relay, slot)
);

-- A row pauses the relay of that name, '*' every relay of this database.
CREATE TABLE IF NOT EXISTS outbox.relay_pause (
  relay  text        PRIMARY KEY,
  reason text        NOT NULL,
  by     text        NOT NULL,
  since  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Rows that prove that the publication publishes, where OUTBOX_CANARY is set: one
-- for each slot, until it was seen in the stream. lsn is behind its commit.
CREATE TABLE IF NOT EXISTS outbox.canary (
  id   text        PRIMARY KEY,
  slot text        NOT NULL,
  at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  lsn  pg_lsn
);

CREATE VIEW outbox.relay_slots AS
SELECT s.slot_name,
       (SELECT r.relay FROM outbox.relay_state r WHERE r.slot = s.slot_name ORDER BY r.updated_at DESC LIMIT 1) AS relay,
       s.active,
       s.active_pid,
       s.wal_status,
       to_jsonb(s)->>'invalidation_reason' AS invalidation_reason,
       s.restart_lsn,
       s.confirmed_flush_lsn,
       w.lsn AS server_lsn,
       greatest(pg_wal_lsn_diff(w.lsn, s.restart_lsn), 0)::bigint AS retained_bytes,
       greatest(pg_wal_lsn_diff(w.lsn, s.confirmed_flush_lsn), 0)::bigint AS lag_bytes,
       s.safe_wal_size AS safe_wal_bytes,
       w.limit_bytes,
       (to_jsonb(s)->>'inactive_since')::timestamptz AS inactive_since,
       CASE
         WHEN s.wal_status = 'lost' OR to_jsonb(s)->>'invalidation_reason' IS NOT NULL OR s.restart_lsn IS NULL
           THEN 'lost: events that were not delivered have to be found by hand (OBX-3103)'
         WHEN s.wal_status = 'unreserved'
           THEN 'lost at the next checkpoint of the server: raise max_slot_wal_keep_size now (OBX-4203)'
         WHEN NOT s.active AND w.limit_bytes IS NULL
           THEN 'nobody reads it: WAL is kept until the disk is full (OBX-4206)'
         WHEN NOT s.active
           THEN 'nobody reads it: lost after another ' || pg_size_pretty(s.safe_wal_size) || ' of WAL (OBX-4206)'
         WHEN pg_wal_lsn_diff(w.lsn, s.restart_lsn) > w.limit_bytes / 2
           THEN 'is read and behind: lost after another ' || pg_size_pretty(s.safe_wal_size) || ' of WAL (OBX-4200)'
         ELSE 'is read'
       END AS outlook
  FROM pg_catalog.pg_replication_slots s
 CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn,
                    nullif(pg_size_bytes(current_setting('max_slot_wal_keep_size')), -1) AS limit_bytes) w
 WHERE s.slot_type = 'logical' AND s.plugin = 'pgoutput' AND s.database = current_database();

CREATE VIEW outbox.relay_status AS
SELECT r.relay,
       r.slot,
       CASE WHEN r.state IN ('streaming', 'paused', 'starting', 'backoff') AND NOT coalesce(s.active, false)
            THEN 'not running' ELSE r.state END AS state,
       r.code,
       p.relay IS NOT NULL AS paused,
       p.by AS paused_by,
       p.reason AS paused_reason,
       p.since AS paused_since,
       r.instance,
       r.version,
       s.confirmed_flush_lsn,
       s.server_lsn,
       s.lag_bytes,
       CASE WHEN s.lag_bytes = 0 THEN 0
            WHEN s.active THEN extract(epoch FROM a.flush_lag)
            ELSE extract(epoch FROM clock_timestamp() - coalesce(s.inactive_since, r.updated_at)) END::double precision AS lag_seconds,
       r.checkpoint_seq,
       r.checkpoint_lsn,
       r.checkpoint_at,
       r.last_commit_lsn,
       r.last_commit_at,
       r.rows_total,
       r.dlq_total,
       s.outlook,
       r.since,
       r.updated_at
  FROM (SELECT DISTINCT ON (relay) * FROM outbox.relay_state ORDER BY relay, updated_at DESC) r
  LEFT JOIN outbox.relay_slots s ON s.slot_name = r.slot
  LEFT JOIN pg_catalog.pg_stat_replication a ON a.pid = s.active_pid
  LEFT JOIN LATERAL (SELECT * FROM outbox.relay_pause p WHERE p.relay IN (r.relay, '*') ORDER BY p.since LIMIT 1) p ON true;

CREATE FUNCTION outbox.lag(OUT relay text, OUT slot text, OUT lag_bytes bigint, OUT lag_seconds double precision)
RETURNS SETOF record LANGUAGE sql STABLE AS $$
  SELECT s.relay, s.slot, s.lag_bytes, s.lag_seconds FROM outbox.relay_status s ORDER BY 1
$$;

CREATE FUNCTION outbox.pause(reason text, relay text DEFAULT '*', by text DEFAULT session_user)
RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO outbox.relay_pause AS p (relay, reason, by) VALUES ($2, coalesce(nullif($1, ''), 'no reason given'), $3)
  ON CONFLICT (relay) DO UPDATE SET reason = excluded.reason, by = excluded.by
  RETURNING CASE WHEN p.relay = '*' THEN 'every relay of this database' ELSE 'relay ' || p.relay END || ' is paused since ' || p.since
$$;

CREATE FUNCTION outbox.resume(relay text DEFAULT '*')
RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH gone AS (DELETE FROM outbox.relay_pause p WHERE p.relay = $1 OR $1 = '*' RETURNING p.relay)
  SELECT CASE
    WHEN $1 <> '*' AND EXISTS (SELECT FROM outbox.relay_pause p WHERE p.relay = '*')
      THEN 'every relay of this database is still paused: SELECT outbox.resume()'
    WHEN count(*) = 0 THEN 'nothing was paused'
    ELSE 'not paused any more: ' || string_agg(CASE WHEN g.relay = '*' THEN 'every relay' ELSE g.relay END, ', ' ORDER BY g.relay) END
    FROM gone g
$$;

REVOKE ALL ON FUNCTION outbox.pause(text, text, text), outbox.resume(text) FROM PUBLIC;

-- Says that this file was applied.
CREATE FUNCTION outbox.relay_surface() RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 1 $$;

CREATE PUBLICATION "outbox_pub" FOR TABLE "outbox"."events" WITH (publish = 'insert', publish_via_partition_root = true);

SELECT lsn::text FROM pg_create_logical_replication_slot('outbox_relay', 'pgoutput', false, false, true);
