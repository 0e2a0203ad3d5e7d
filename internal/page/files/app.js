// The connection to the relay, and the beat of the page.
import { $, text, bytes, span, rate, whole } from "./dom.js";
import { Chart, tens, twos, times } from "./chart.js";
import * as view from "./view.js";
import * as letters from "./letters.js";

const keep = 15 * 60;
const columns = ["rows_per_second", "lag_seconds", "lag_bytes", "retained_bytes", "p50_seconds", "p99_seconds"];
let past = { time_ms: [] };
for (const c of columns) past[c] = [];

const charts = [
  { chart: new Chart("Lag", [{ name: "age of the oldest commit that is not in Kafka" }], span, 1, times), cols: ["lag_seconds"], other: { words: "WAL that is not confirmed", show: bytes, ceiling: twos, cols: ["lag_bytes"], least: 65536 } },
  { chart: new Chart("Latency", [{ name: "median" }, { name: "99 of 100" }], span, 0.01, times), cols: ["p50_seconds", "p99_seconds"] },
  { chart: new Chart("Throughput", [{ name: "rows a second" }], rate, 10, tens), cols: ["rows_per_second"] },
  { chart: new Chart("WAL kept", [{ name: "on the database's disk, for the slot" }], bytes, 1 << 20, twos), cols: ["retained_bytes"] },
];
$("charts").append(...charts.map((c) => c.chart.el));

function draw() {
  for (const c of charts) {
    // Where the age is not known, the bytes are.
    const use = c.other && past[c.cols[0]].every((v) => v === null) && past[c.other.cols[0]].some((v) => v !== null) ? c.other : c;
    if (use !== c) { Object.assign(c.chart, { show: use.show, least: use.least, ceiling: use.ceiling }); text(c.chart.legend, use.words); }
    c.chart.set(past.time_ms, use.cols.map((k) => past[k]));
  }
}

function sample(s) {
  const at = Date.parse(s.time);
  if (at <= (past.time_ms.at(-1) ?? 0)) return;
  const slot = s.slot?.slot;
  const known = s.lag.bytes !== null;
  const row = [s.rates.rows_per_second, s.lag.seconds, s.lag.bytes, known && slot ? slot.retained_bytes : null, s.latency.p50_seconds, s.latency.p99_seconds];
  past.time_ms.push(at);
  columns.forEach((c, i) => past[c].push(row[i] ?? null));
  if (past.time_ms.length > keep) for (const c of ["time_ms", ...columns]) past[c].splice(0, past[c].length - keep);
}

let newest = null, rows = -1, seen = 0, lostAt = null, retry = 0;

function take(s) {
  // The first event of a stream may be older than what was asked for before it.
  if (newest && s.instance === newest.instance && s.uptime_seconds < newest.uptime_seconds && newest.uptime_seconds - s.uptime_seconds < 5) return;
  newest = s;
  seen = Date.now();
  lostAt = null;
  link("live", "live");
  sample(s);
  if (document.hidden) return;
  view.show(s);
  letters.show(s);
  draw();
  if (s.totals.rows !== rows) { rows = s.totals.rows; void recent(); }
}

function link(state, words) {
  $("link").dataset.link = state;
  text($("link-text"), words);
}

function lost() {
  if (lostAt === null) {
    lostAt = Date.now();
    text($("announce"), "The relay does not answer any more.");
  }
  link("lost", `no answer from this replica for ${whole((Date.now() - (seen || lostAt)) / 1000)}`);
}

// connect listens to the events. A browser tries again by itself after a cut, but
// not after an answer such as 503, so this does.
let source = null;
function connect() {
  source?.close();
  source = new EventSource("api/events");
  source.addEventListener("open", () => { retry = 0; void history(); void health(); });
  source.addEventListener("status", (e) => take(JSON.parse(e.data)));
  source.addEventListener("error", () => {
    lost();
    if (source.readyState === EventSource.CLOSED) {
      void poll();
      setTimeout(connect, Math.min(10000, 2000 + 1000 * retry++));
    }
  });
}

async function get(path) {
  const r = await fetch(path);
  return r.json(); // a report of failure is a report
}

// poll is for when the stream is refused, as with too many listeners.
async function poll() {
  try { take(await get("api/status")); } catch { lost(); }
}

async function history() {
  try {
    const got = await get("api/history");
    const last = got.time_ms.at(-1) ?? 0;
    const later = past.time_ms.map((t, i) => [t, i]).filter(([t]) => t > last);
    for (const c of columns) got[c].push(...later.map(([, i]) => past[c][i]));
    got.time_ms.push(...later.map(([t]) => t));
    past = got;
    draw();
  } catch { /* the charts begin now, then */ }
}

let events = [];
async function recent() {
  try { events = (await get("api/recent")).events ?? []; view.showRecent(events, $("find").value); } catch { /* the link says so */ }
}

async function health() {
  try { view.showChecks(await get("api/health?always=200")); } catch { /* the link says so */ }
}

$("find").addEventListener("input", () => view.showRecent(events, $("find").value));

const themes = ["auto", "light", "dark"];
function theme(t) {
  if (t === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = t;
  text($("theme"), { auto: "◐ auto", light: "○ light", dark: "● dark" }[t]);
  $("theme").setAttribute("aria-label", `Colours: ${t === "auto" ? "as the system" : t}`);
}
let chosen = document.documentElement.dataset.theme ?? "auto";
theme(chosen);
$("theme").addEventListener("click", () => {
  chosen = themes[(themes.indexOf(chosen) + 1) % themes.length];
  theme(chosen);
  try { localStorage.setItem("outbox-relay-theme", chosen); } catch { /* for this page only, then */ }
});

document.addEventListener("visibilitychange", () => { if (!document.hidden && newest) { take(newest); void health(); } });
setInterval(() => { if (lostAt !== null || (seen && Date.now() - seen > 5000)) lost(); }, 1000);
setInterval(() => { if (!document.hidden && lostAt === null) void health(); }, 5000);

await letters.find();
await poll();
connect();
