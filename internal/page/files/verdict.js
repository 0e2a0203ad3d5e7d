// What the numbers mean: words and tones, without a document.
import { bytes, span, count } from "./dom.js";

const GiB = 1024 ** 3;

// slot of a status, or null when nobody has looked at the server yet.
export function slotOf(s) {
  const v = s.slot;
  return v && v.slot && !String(v.taken_at).startsWith("0001") ? v : null;
}

// read tells whether somebody reads the slot. The view of it is some seconds old,
// and a replica that streams knows better.
export const read = (s, x) => x.active || s.state === "streaming";

export function paused(s) { return s.state === "paused" || Boolean(s.slot?.paused); }

export function delivering(s, since) {
  const t = s.trouble;
  const from = since ? `since ${since}` : "";
  if (s.halted) return { tone: "bad", say: "Halted", sub: `${t ? `${t.code} ${t.name}. ` : ""}It waits for a person's decision; nothing is lost or skipped. ${from}` };
  if (s.state === "disabled") return { tone: "none", say: "Switched off", sub: "KAFKA_ENABLED is false: this replica holds no slot. Rows stay in the table, unless another replica relays." };
  if (paused(s)) {
    const by = s.slot?.paused_by ? ` by ${s.slot.paused_by}` : "";
    return { tone: "warn", say: "Paused", sub: `On purpose${by}${s.slot?.paused_reason ? `: ${s.slot.paused_reason}` : ""}. Postgres keeps the WAL meanwhile. ${from}` };
  }
  switch (s.state) {
    case "streaming":
      if (s.breaker && s.breaker !== "closed") return { tone: "warn", say: "Waiting", sub: `Kafka is left alone: the breaker is ${s.breaker}. ${from}` };
      return s.guarantee === "degraded"
        ? { tone: "warn", say: "Yes", sub: `Exactly once but for one case that brokers below Kafka 4.0 leave open. Streaming ${from}` }
        : { tone: "ok", say: "Yes", sub: `Streaming, exactly once, as the leader. ${from}` };
    case "standby":
      return { tone: t ? "warn" : "ok", say: "Standby", sub: `Another replica holds the slot and delivers; this one takes over when it ends. ${from}` };
    case "starting":
      return { tone: "none", say: "Starting", sub: `The slot is taken, then Kafka is asked how far it is. ${from}` };
    case "backoff":
      return { tone: "warn", say: "Waiting", sub: `${t ? `${t.code} ${t.name}. ` : ""}It tries again by itself. ${from}` };
    case "stopped":
      return { tone: "none", say: "Stopping", sub: `What is under way is finished. ${from}` };
  }
  return { tone: t ? "warn" : "none", say: s.state || "Not known", sub: from };
}

// disk answers whether the database's disk will fill.
export function disk(s) {
  const v = slotOf(s);
  if (!v) return { tone: "none", say: "Not known", sub: "Nobody has looked at the server yet." };
  const x = v.slot, held = bytes(x.retained_bytes);
  if (!v.reachable) return { tone: "warn", say: "Not known", sub: `Postgres does not answer. ${x.exists ? `When it last did, the slot held ${held}.` : ""}` };
  if (!x.exists) return { tone: s.halted ? "bad" : "none", say: "No slot", sub: "No WAL is kept for this relay: rows written now can only be found in the table." };
  if (x.wal_status === "lost" || x.invalidation_reason) return { tone: "bad", say: "Slot is lost", sub: `Postgres gave it up${x.invalidation_reason ? ` (${x.invalidation_reason})` : ""}: the disk is safe, and WAL that the relay needed is gone.` };
  if (x.wal_status === "unreserved") return { tone: "bad", say: "Slot goes next", sub: `The next checkpoint of Postgres may remove WAL that the slot needs. It holds ${held}.` };
  // A slot that is not read, or not moved, holds back all that the server writes.
  const idle = !read(s, x), stuck = idle || s.halted || s.state === "backoff" || paused(s);
  const meanwhile = idle ? "Nobody reads the slot. " : stuck ? "It is not moved meanwhile. " : "";
  const pace = v.wal_bytes_per_second > 0 ? v.wal_bytes_per_second : 0;
  if (x.limit_bytes === null || x.limit_bytes === undefined) {
    const limit = "max_slot_wal_keep_size sets no limit: the disk is the limit.";
    if (stuck) {
      const sub = `${meanwhile}The slot holds ${held}${pace ? ` and grows by ${bytes(pace * 86400)} a day` : ""}; ${limit}`;
      return { tone: x.retained_bytes >= 10 * GiB ? "bad" : "warn", say: pace ? "Yes, in time" : "It may", sub };
    }
    const sub = `The slot holds ${held}; ${limit}`;
    if (x.retained_bytes >= 10 * GiB) return { tone: "bad", say: "It may", sub };
    return x.retained_bytes > GiB ? { tone: "warn", say: "Not soon", sub } : { tone: "ok", say: "No", sub };
  }
  const part = x.limit_bytes > 0 ? x.retained_bytes / x.limit_bytes : 1;
  const of = `The slot holds ${held} of ${bytes(x.limit_bytes)}, ${Math.round(part * 100)} %.`;
  const left = v.seconds_to_loss ?? (stuck && pace ? Math.max(0, x.limit_bytes - x.retained_bytes) / pace : null);
  if (left !== null && left < 86400) {
    return {
      tone: left < 3600 || part > 0.8 ? "bad" : "warn", say: left < 1 ? "Slot goes next" : `Slot lost in ${span(left)}`,
      sub: `${meanwhile}${of} At this pace Postgres then gives the slot up, before its disk fills.`,
    };
  }
  return { tone: part >= 0.8 ? "bad" : part >= 0.5 || idle ? "warn" : "ok", say: part >= 0.5 ? "Not yet" : stuck ? "Not soon" : "No", sub: `${meanwhile}${of} Beyond that Postgres gives the slot up.` };
}

export function behind(s) {
  const l = s.lag, rows = s.positions.checkpoint_seq ? `${count(s.totals.rows)} events since init` : "";
  if (s.state === "standby") {
    return { tone: l.bytes > GiB ? "warn" : "ok", say: l.bytes === null ? "Not known" : bytes(l.bytes), sub: "WAL that is written and not confirmed; the leader knows more." };
  }
  if (l.seconds === null) {
    if (l.bytes === null) return { tone: "none", say: "Not known", sub: rows };
    const tone = l.bytes > GiB ? "bad" : l.bytes > 64 * 1024 ** 2 ? "warn" : "ok";
    return { tone, say: bytes(l.bytes), sub: `of WAL that is not confirmed. ${rows}` };
  }
  const say = l.seconds < 1 ? (l.seconds === 0 ? "Not at all" : "Under 1 s") : span(l.seconds);
  const p = s.latency.p50_seconds;
  return {
    tone: l.seconds > 300 ? "bad" : l.seconds > 60 ? "warn" : "ok", say,
    sub: `${l.bytes === null ? "" : `${bytes(l.bytes)} of WAL not confirmed. `}${p === null ? rows : `${span(p)} from commit to Kafka, median of a minute.`}`,
  };
}

// matters is what a person should know of, the worst first, each once.
export function matters(s) {
  const all = [], seen = new Set();
  const add = (tone, m) => {
    if (!m?.code || seen.has(m.code + (m.detail ?? ""))) return;
    seen.add(m.code + (m.detail ?? ""));
    all.push({ tone, ...m });
  };
  add(s.halted ? "bad" : "warn", s.trouble);
  for (const f of s.slot?.findings ?? []) add(f.severity === "fail" ? "bad" : "warn", f);
  if (s.slot && !s.slot.reachable && s.slot.error && s.slot.error.code !== s.trouble?.code) add("warn", s.slot.error);
  return all.sort((a, b) => (a.tone === b.tone ? 0 : a.tone === "bad" ? -1 : 1));
}

// nodes are the stations of an event, and wires what is between them.
export function way(s) {
  const v = slotOf(s), x = v?.slot, lost = x && (x.wal_status === "lost" || x.invalidation_reason);
  const flowing = s.state === "streaming" && !paused(s) ? s.rates.rows_per_second : 0;
  const flow = flowing <= 0 ? "0" : flowing < 20 ? "1" : flowing < 1000 ? "2" : "3";
  const code = s.trouble?.code ?? "";
  const pgDown = v ? !v.reachable : code.startsWith("OBX-30");
  const kafkaDown = (s.breaker && s.breaker !== "closed") || code.startsWith("OBX-5") && s.state === "backoff";
  const streaming = s.state === "streaming" && !pgDown;
  const known = s.positions.checkpoint_seq > 0; // else this replica has not seen a checkpoint
  const wal = v ? (v.wal_bytes_per_second > 0 ? `WAL grows ${bytes(v.wal_bytes_per_second)}/s` : "WAL rests") : "";
  return {
    nodes: [
      { name: "Postgres", tone: pgDown ? "bad" : v ? "ok" : "none", count: pgDown ? "no answer" : s.positions.server_lsn || "–", note: pgDown ? "not reached from here" : wal },
      { name: "Slot", tone: !x ? "none" : pgDown ? "none" : !x.exists || lost ? "bad" : read(s, x) ? "ok" : "warn",
        count: !x ? "–" : !x.exists ? "missing" : lost ? "lost" : bytes(x.retained_bytes), note: x?.exists ? (read(s, x) ? "held, WAL kept for it" : "nobody reads it") : s.names.slot },
      { name: "Relay", tone: s.halted ? "bad" : s.ready && !paused(s) ? "ok" : s.state === "disabled" || s.state === "starting" ? "none" : "warn",
        count: s.state === "streaming" && !paused(s) ? `${rate1(s.rates.rows_per_second)}/s` : paused(s) ? "paused" : s.halted ? "halted" : s.state, note: s.role === "standby" ? "another one leads" : s.state === "streaming" && !paused(s) ? "rows, mean of 10 s" : "" },
      { name: "Kafka", tone: kafkaDown ? "bad" : streaming ? "ok" : "none", count: kafkaDown ? "no session" : known ? count(s.totals.rows - s.totals.dead_letters) : "–",
        note: !known ? uncounted(s) : s.totals.dead_letters > 0 ? `events, and ${count(s.totals.dead_letters)} dead letters` : "events since init" },
      { name: "Consumers", tone: "none", count: s.latency.p50_seconds === null ? "–" : span(s.latency.p50_seconds), note: "until read_committed readers see it" },
    ],
    wires: [pgDown ? "cut" : flow, pgDown || lost || x?.exists === false ? "cut" : streaming ? flow : "0", kafkaDown ? "cut" : flow, flow],
  };
}

// uncounted is why this replica has no totals.
export const uncounted = (s) => (s.role === "standby" ? "counted by the replica that leads" : "no checkpoint seen yet");

const rate1 = (n) => (n === 0 ? "0" : n < 9.95 ? n.toFixed(1) : count(Math.round(n)));

export function insert(names) {
  return `INSERT INTO ${names.table} (aggregatetype, aggregateid, type, payload)\nVALUES ('order', '4711', 'OrderPlaced', '{"total": 12.50}');`;
}

export function slotSQL(names) {
  const q = `'${String(names.slot).replaceAll("'", "''")}'`;
  return `SELECT slot_name, active, wal_status,\n  pg_size_pretty(pg_current_wal_lsn() - restart_lsn) AS retained,\n  pg_size_pretty(\n    pg_current_wal_lsn() - confirmed_flush_lsn) AS lag,\n  current_setting('max_slot_wal_keep_size') AS "limit"\nFROM pg_replication_slots WHERE slot_name = ${q};`;
}
