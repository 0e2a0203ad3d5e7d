// The document of a status.
import { $, h, put, text, type, shape, bytes, span, whole, count, ago, toneWord, clock } from "./dom.js";
import { delivering, disk, behind, matters, way, insert, slotSQL, slotOf, read, paused } from "./verdict.js";

function answer(id, a) {
  const el = $(id);
  el.dataset.tone = a.tone;
  text(el.querySelector(".say"), a.say);
  text(el.querySelector(".sub"), a.sub.trim());
}

let announced = "";

export function show(s) {
  const now = Date.parse(s.time);
  const state = delivering(s, ago(s.since, now).replace(" ago", "").replace(/^now$/, ""));
  state.sub = state.sub.replace(/since (.+)$/, (_, t) => `For ${t}.`);
  answer("answer-state", state);
  const d = disk(s), l = behind(s);
  answer("answer-disk", d);
  answer("answer-lag", l);

  text($("who"), `${s.relay} on ${s.instance || "this host"} · ${s.version}`);
  document.title = `${{ ok: "●", warn: "▲", bad: "■", none: "○" }[worst(state.tone, d.tone, l.tone)]} ${state.say} · ${s.relay}`;
  const news = `${s.relay}: ${paused(s) ? "paused" : s.halted ? "halted" : s.state}${s.trouble ? `, ${s.trouble.code} ${s.trouble.name}` : ""}`;
  if (news !== announced) { announced = news; text($("announce"), news); }

  showMatters(matters(s));
  const empty = s.state === "streaming" && s.totals.rows === 0 && !paused(s);
  $("first").hidden = !empty;
  if (empty) put($("first-type"), s.names.table, type(insert(s.names)), h("p", { class: "lead" }, "and to see it in Kafka:"),
    type(`kafka-console-consumer.sh --bootstrap-server <broker> --topic ${s.names.events_topic} --from-beginning --isolation-level read_committed`));
  showWay(way(s));
  showSlot(s, d);
  showFacts(s, now);
}

const order = ["none", "ok", "warn", "bad"];
const worst = (...tones) => tones.reduce((a, b) => (order.indexOf(b) > order.indexOf(a) ? b : a));

function showMatters(all) {
  $("matters").hidden = all.length === 0;
  put($("matters-list"), JSON.stringify(all), all.map((m) => {
    const about = h("div", { class: "about", hidden: true });
    const more = h("button", { type: "button", class: "quiet", "aria-expanded": "false" }, `About ${m.code}`);
    more.addEventListener("click", () => { void toggle(more, about, m.code); });
    const detail = (m.detail ?? "").replace(`${m.code} `, "");
    return h("article", { class: "matter", "data-tone": m.tone },
      h("header", { "data-tone": m.tone }, shape(), h("span", { class: "visually-hidden" }, `${toneWord(m.tone)}: `), h("span", { class: "code" }, m.code), h("h3", {}, m.name?.replaceAll("_", " ") ?? ""), more),
      detail && h("p", {}, detail),
      m.why && h("p", { class: "why" }, `Why: ${m.why}`),
      m.fix && h("div", {}, h("p", { class: "lead" }, "What to do"), type(m.fix)), about);
  }));
}

// toggle opens what the manual says of a code; it comes from the relay itself.
async function toggle(button, box, code) {
  const open = box.hidden;
  box.hidden = !open;
  button.setAttribute("aria-expanded", String(open));
  if (!open || box.childElementCount) return;
  try {
    const r = await fetch(`api/codes/${encodeURIComponent(code)}`);
    if (r.ok) { box.replaceChildren(...manual(await r.text())); return; }
  } catch { /* said below */ }
  box.replaceChildren(h("p", {}, `There is nothing more to say than the lines above. All codes: docs/errors.md.`));
}

// manual shows the little Markdown that the pages of codes are written in.
function manual(md) {
  return md.split(/^( *```[\s\S]*?^ *```)$/m).flatMap((part) => {
    const fence = part.match(/^ *```\w*\n([\s\S]*?)\n? *```$/);
    if (fence) return [type(fence[1].replace(/^ {3}/gm, ""))];
    return part.split(/\n\s*\n/).filter((p) => p.trim()).map((p) => h("p", {}, p.trim().replace(/\s*\n(?![-|\d])/g, " ").split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((bit) =>
      bit.startsWith("`") ? h("code", {}, bit.slice(1, -1)) : bit.startsWith("**") ? h("strong", {}, bit.slice(2, -2)) : bit.replace(/\[([^\]]+)\]\([^)]*\)/g, "$1"))));
  });
}

let stations = null;

function showWay(w) {
  if (!stations) { // made once: an animation goes on, and does not begin anew each second
    stations = { nodes: [], wires: [] };
    w.nodes.forEach((n, i) => {
      const el = h("li", { class: "node" }, h("span", { class: "name" }, shape(), h("span", {}, n.name), h("span", { class: "visually-hidden tone" })), h("span", { class: "count" }), h("span", { class: "note" }));
      stations.nodes.push(el);
      $("path").append(el);
      if (i < w.wires.length) {
        const wire = h("li", { class: "wire", "aria-hidden": "true" });
        stations.wires.push(wire);
        $("path").append(wire);
      }
    });
  }
  w.nodes.forEach((n, i) => {
    const el = stations.nodes[i];
    el.dataset.tone = n.tone;
    el.querySelector(".name").dataset.tone = n.tone;
    text(el.querySelector(".tone"), n.tone === "none" ? "" : ` (${toneWord(n.tone)})`);
    text(el.querySelector(".count"), n.count);
    text(el.querySelector(".note"), n.note);
  });
  w.wires.forEach((f, i) => { stations.wires[i].dataset.flow = f; });
}

function showSlot(s, d) {
  const v = slotOf(s), x = v?.slot, body = $("slot-body");
  if (!body.childElementCount) {
    body.append(h("div", { id: "slot-bar" }), h("dl", { class: "facts", id: "slot-facts" }), h("p", { class: "lead" }, "See it yourself, in psql"), type(slotSQL(s.names)),
      h("p", { class: "lead" }, "or with more words"), type("outbox-relay slot inspect"));
  }
  const limit = x?.limit_bytes ?? null;
  const part = x && limit ? Math.min(1, x.retained_bytes / limit) : null;
  const words = !x || !x.exists ? "" : limit === null ? `${bytes(x.retained_bytes)} kept, no limit is set` : `${bytes(x.retained_bytes)} kept of ${bytes(limit)} (${Math.round(part * 100)} %)`;
  put($("slot-bar"), words + d.tone, words && h("p", {}, words), part !== null && bar(part, d.tone, words));
  const rows = [["Slot", s.names.slot]];
  if (x?.exists) {
    rows.push(["State", `${read(s, x) ? `held${x.holder ? ` by ${x.holder}` : ""}` : "nobody reads it"}, WAL ${x.wal_status || "not known"}`]);
    rows.push(["Not confirmed", `${bytes(x.lag_bytes)}, from ${x.confirmed_flush_lsn} to ${v.current_lsn}`]);
    rows.push(["Lost in", limit === null ? "no limit, so it is not given up" : v.seconds_to_loss === null || v.seconds_to_loss === undefined ? "not at this pace" : `${span(v.seconds_to_loss)}, at ${bytes(v.wal_bytes_per_second)}/s`]);
    if (x.failover || x.synced) rows.push(["Failover", x.synced ? "synchronised from the primary" : "is synchronised to standbys"]);
  } else if (x) rows.push(["State", "it does not exist"]);
  rows.push(["Checkpoint", s.positions.checkpoint_seq ? `${s.positions.checkpoint_lsn}, number ${count(s.positions.checkpoint_seq)}` : "none seen by this replica"]);
  for (const stray of v?.stray_slots ?? []) rows.push(["Stray slot", `${stray.name}, holds ${bytes(stray.retained_bytes)}`]);
  if (v && !v.reachable) rows.push(["As of", clock(v.taken_at)]);
  put($("slot-facts"), JSON.stringify(rows), rows.map(([k, t]) => [h("dt", {}, k), h("dd", {}, t)]));
}

function bar(part, tone, words) {
  const i = h("i");
  i.style.width = `${(part * 100).toFixed(1)}%`;
  return h("div", { class: "bar", "data-tone": tone, role: "img", "aria-label": words }, i);
}

export function showChecks(report) {
  const tones = { pass: "ok", warn: "warn", fail: "bad", disabled: "none" };
  const list = Object.entries(report.checks ?? {}).sort(([a], [b]) => a.localeCompare(b));
  put($("checks"), JSON.stringify(list.map(([k, c]) => [k, { ...c, latency_seconds: 0 }])), list.map(([name, c]) => {
    const found = Object.entries(c).filter(([k, v]) => !["status", "code", "hint", "fix", "why", "detail", "name", "latency_seconds", "since", "threshold_seconds", "host", "read_at", "newest", "current_lsn", "timeline", "clock_skew_seconds"].includes(k) && v !== null && typeof v !== "object")
      .map(([k, v]) => `${k.replace(/_(seconds|bytes)$/, "").replaceAll("_", " ")} ${k.endsWith("_bytes") || k === "bytes" ? bytes(v) : k.endsWith("seconds") ? span(v) : v}`);
    return h("li", {}, h("div", { class: "line", "data-tone": tones[c.status] ?? "none" }, shape(), h("span", { class: "name" }, name), h("span", { class: "word" }, c.status), c.code && h("span", { class: "code" }, c.code)),
      found.length > 0 && h("p", { class: "found" }, found.join(" · ")),
      name !== "relay" && (c.detail || c.why) && h("p", { class: "found" }, c.detail || c.why),
      name !== "relay" && (c.hint || c.fix) && type(c.fix || c.hint));
  }));
}

export function showRecent(events, filter) {
  const want = filter.trim().toLowerCase();
  const shown = want ? events.filter((e) => [e.id, e.type, e.aggregatetype, e.topic, e.letter_reason].some((t) => (t ?? "").toLowerCase().includes(want))) : events;
  const now = Date.now();
  put($("recent").tBodies[0], want + shown.map((e) => e.id + e.topic + e.offset).join(), shown.map((e) => h("tr", {},
    h("td", {}, h("span", { class: "id" }, e.id), e.letter_reason && h("span", {}, " ", h("span", { class: "badge" }, `✉ dead letter: ${e.letter_reason}`))),
    h("td", { class: "text" }, e.aggregatetype ? `${e.aggregatetype} ${e.type}` : e.type),
    h("td", { class: "text", "data-label": "topic" }, e.topic), h("td", { class: "num", "data-label": "partition" }, String(e.partition)), h("td", { class: "num", "data-label": "offset" }, String(e.offset)),
    h("td", { class: "mono", "data-label": "LSN" }, e.commit_lsn), h("td", { class: "num", title: e.commit_time }, clock(e.commit_time)))));
  $("recent-empty").hidden = shown.length > 0;
  text($("recent-empty"), events.length === 0 ? "None yet in this process." : `None of the last ${events.length} has “${filter.trim()}” in it. Older ones: look for the id in the topic.`);
  return now;
}

function showFacts(s, now) {
  const rows = [["table", s.names.table], ["publication", s.names.publication], ["topic", s.names.events_topic], ["up", whole(s.uptime_seconds)], ["settings", s.config_fingerprint],
    ["last commit", s.positions.last_commit_time ? ago(s.positions.last_commit_time, now) : "none seen"]];
  put($("facts"), JSON.stringify(rows), rows.map(([k, t]) => h("div", {}, h("dt", {}, k), h("dd", { class: "mono" }, t || "–"))));
}
