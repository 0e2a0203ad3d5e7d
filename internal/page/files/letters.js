// Dead letters and the verbs: what needs the admin listener and its token. The
// token is kept for this tab alone.
import { $, h, put, text, type, count, clock } from "./dom.js";
import { uncounted } from "./verdict.js";

const KEY = "outbox-relay-admin-token";
const admin = { here: false, tokenSet: false, state: "open", letters: [], chosen: new Set(), lastTotal: -1 };

const token = () => sessionStorage.getItem(KEY) ?? "";

// find asks whether this is the admin listener.
export async function find() {
  try {
    const r = await fetch("api/admin");
    const a = await r.json();
    admin.here = a.admin;
    admin.tokenSet = Boolean(a.token_set);
    $("metrics-link").hidden = a.admin;
  } catch { /* the next status tells that nobody answers */ }
}

async function call(path, body) {
  const headers = { Authorization: `Bearer ${token()}` };
  if (body !== undefined) { headers["Content-Type"] = "application/json"; headers["X-Outbox-By"] = "page"; }
  const r = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: body === undefined ? undefined : JSON.stringify(body) });
  let answer;
  try { answer = await r.json(); } catch { throw new Error(`the answer is no JSON (status ${r.status})`); }
  if (r.ok) return answer;
  if (r.status === 401) { sessionStorage.removeItem(KEY); admin.key = ""; }
  const e = answer.error ?? {};
  throw new Error(`${e.code ?? r.status} ${e.detail ?? ""}${e.why ? ` – ${e.why}` : ""}${e.fix ? `. To do: ${e.fix}` : ""}`);
}

function outcome(id, tone, message) {
  $(id).dataset.tone = tone;
  text($(id), message);
}

// show is called with each status.
export function show(s) {
  const n = s.totals.dead_letters, parked = s.totals.parked_keys;
  text($("letters-count"), !s.positions.checkpoint_seq ? uncounted(s) : `${count(n)} written since init${parked ? `, ${count(parked)} keys parked behind one` : ""}`);
  const open = admin.here && admin.tokenSet && token() !== "";
  const key = [admin.here, admin.tokenSet, open, s.admin?.addr, s.admin?.token_set].join();
  if (key !== admin.key) {
    admin.key = key;
    gate(s, open);
    if (open) void load();
  } else if (open && n !== admin.lastTotal && admin.state === "open") void load();
  admin.lastTotal = n;
  hand(s, open);
}

function gate(s, open) {
  const at = $("letters-gate"), body = $("letters-body");
  body.hidden = !open;
  at.dataset.key = "";
  if (open) {
    const select = h("select", { "aria-label": "Which letters" }, ["open", "replayed", "purged", "released", "all"].map((v) => h("option", { value: v, selected: v === admin.state }, v)));
    select.addEventListener("change", () => { admin.state = select.value; admin.chosen.clear(); void load(); });
    put(at, "open", h("div", { class: "gate" }, select, h("button", { type: "button", onclick: () => void load() }, "Look again"),
      h("button", { type: "button", class: "main", id: "replay-chosen", disabled: true, onclick: () => confirmReplay([...admin.chosen], $("letters-ask")) }, "Replay chosen"),
      h("button", { type: "button", class: "quiet", onclick: () => { sessionStorage.removeItem(KEY); outcome("letters-outcome", "ok", "The token is forgotten."); show(s); } }, "Forget the token")), h("div", { id: "letters-ask" }));
    return;
  }
  if (admin.here && admin.tokenSet) {
    const input = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", size: "36" });
    const form = h("form", { class: "gate" }, h("label", { for: "token" }, "Admin token"), input, h("button", { type: "submit", class: "main" }, "Unlock"));
    form.addEventListener("submit", (e) => {
      e.preventDefault();
      if (!input.value.trim()) return;
      sessionStorage.setItem(KEY, input.value.trim());
      outcome("letters-outcome", "ok", "");
      show(s);
    });
    put(at, "locked", h("p", {}, "To see their payload and to replay them, unlock with the relay's ADMIN_TOKEN. It is kept in this tab only."), form);
    return;
  }
  const list = "outbox-relay dlq list";
  if (admin.here) {
    put(at, "unset", h("p", {}, "No ADMIN_TOKEN is set, so nothing can be replayed from here. On the command line:"), type(list), h("p", { class: "lead" }, "or set a token and restart the relay"), type("export ADMIN_TOKEN=$(openssl rand -hex 32)"));
    return;
  }
  const local = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname) && s.admin;
  put(at, "elsewhere", h("p", {}, "This listener only reads. Look at them, and replay them, on the command line:"), type(list),
    s.admin && h("p", { class: "lead" }, "or on the admin listener, with its token: ", local ? h("a", { href: `http://${s.admin.addr}/` }, `http://${s.admin.addr}/`) : h("span", { class: "mono" }, s.admin.addr)));
}

async function load() {
  try {
    const got = await call(`api/dlq?state=${admin.state}&max=100&payload=true`);
    admin.letters = got.letters;
    admin.chosen = new Set([...admin.chosen].filter((id) => admin.letters.some((l) => l.id === id && l.state === "open")));
    table(got);
  } catch (e) {
    outcome("letters-outcome", "bad", e.message);
    table({ letters: [], more: false, failed: true });
  }
}

function table(got) {
  const body = $("letters-body");
  if (got.failed) { body.replaceChildren(); return; }
  if (got.letters.length === 0) { body.replaceChildren(h("p", { class: "empty" }, `No letter is ${admin.state === "all" ? "there" : admin.state}.`)); choose(); return; }
  put(body, String(performance.now()), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Dead letters" }, h("table", { class: "stack" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "visually-hidden" }, "Choose")), ["Event", "Aggregate", "Reason", "Meant for", "Written", "State", ""].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, got.letters.map(row)))), got.more && h("p", { class: "empty" }, "These are the oldest 100; outbox-relay dlq list has them all."));
  choose();
}

function row(l) {
  const box = h("td", { colspan: "8" });
  const details = h("tr", { hidden: true }, box);
  const show = h("button", { type: "button", class: "quiet", "aria-expanded": "false" }, "Show");
  show.addEventListener("click", () => {
    details.hidden = !details.hidden;
    show.setAttribute("aria-expanded", String(!details.hidden));
    show.textContent = details.hidden ? "Show" : "Hide";
    if (!box.childElementCount) box.append(content(l));
  });
  const ask = h("div");
  const open = l.state === "open", parked = l.reason === "parked";
  const check = h("input", { type: "checkbox", "aria-label": `Choose ${l.id}`, disabled: !open || parked, checked: admin.chosen.has(l.id) });
  check.addEventListener("change", () => { check.checked ? admin.chosen.add(l.id) : admin.chosen.delete(l.id); choose(); });
  return [h("tr", {}, h("td", {}, check), h("td", {}, h("span", { class: "id" }, l.id)), h("td", { class: "text" }, `${l.aggregate_type}:${l.aggregate_id} ${l.type}`),
    h("td", { class: "text" }, h("span", { class: "badge" }, l.reason), ` ${l.code}`), h("td", { class: "text", "data-label": "meant for" }, l.topic), h("td", { title: l.time }, clock(l.time)),
    h("td", {}, parked && open ? "waits for its turn" : l.state), h("td", { class: "actions" }, show, open && !parked && h("button", { type: "button", onclick: () => confirmReplay([l.id], ask) }, "Replay"), ask)), details];
}

function content(l) {
  const facts = [["Because", `${l.code} ${l.message}`], ["Attempts", String(l.attempts)], ["Letter", `${l.letter.topic}, partition ${l.letter.partition}, offset ${l.letter.offset}`], ["Key", l.key ?? (l.key_base64 ? `base64 ${l.key_base64}` : "none")]];
  if (l.next_retry) facts.push(["Next retry", clock(l.next_retry)]);
  let payload = l.payload;
  if (payload === undefined) payload = l.omitted?.payload ? `left out, ${l.payload_bytes} bytes: it is in the outbox table` : l.payload_base64 ? `base64 ${l.payload_base64}` : "none: a tombstone";
  return h("div", { class: "letter" }, h("dl", { class: "facts" }, facts.map(([k, v]) => [h("dt", {}, k), h("dd", {}, v)]), (l.headers ?? []).map((x) => [h("dt", { class: "mono" }, x.name), h("dd", { class: "mono" }, x.value ?? `base64 ${x.value_base64 ?? ""}`)])),
    h("div", {}, h("p", { class: "lead" }, "Payload"), h("pre", {}, payload)), type(`outbox-relay dlq replay ${quote(l.id)}`));
}

const quote = (s) => (/^[A-Za-z0-9._-]+$/.test(s) ? s : `'${s.replaceAll("'", "'\\''")}'`);

function choose() {
  const b = $("replay-chosen");
  if (!b) return;
  b.disabled = admin.chosen.size === 0;
  text(b, admin.chosen.size ? `Replay ${admin.chosen.size} chosen` : "Replay chosen");
}

function confirmReplay(ids, where) {
  const yes = h("button", { type: "button", class: "main" }, ids.length === 1 ? "Yes, replay it" : `Yes, replay ${ids.length}`);
  const no = h("button", { type: "button", class: "quiet", onclick: () => where.replaceChildren() }, "Cancel");
  yes.addEventListener("click", async () => {
    yes.disabled = true;
    yes.textContent = "Replaying…";
    try {
      const r = await call("api/dlq/replay", { ids });
      const stays = (r.letters ?? []).map((l) => `${l.id} stays: ${l.detail}`).concat(r.parked ? [`${r.parked} parked: the relay sends them on`] : [], r.waiting ? [`${r.waiting} wait for an earlier letter of their key`] : []);
      outcome("letters-outcome", r.refused || stays.length ? "bad" : "ok", `${r.done} of ${ids.length} replayed${r.closed_meanwhile ? `, ${r.closed_meanwhile} closed by somebody else` : ""}. ${stays.join("; ")}`);
      admin.chosen.clear();
    } catch (e) { outcome("letters-outcome", "bad", e.message); }
    where.replaceChildren();
    await load();
    $("letters-outcome").scrollIntoView({ block: "nearest" });
  });
  where.replaceChildren(h("div", { class: "gate" }, yes, no));
  yes.focus();
}

// hand shows pause and resume.
function hand(s, open) {
  $("hand").hidden = !open;
  if (!open) return;
  const is = s.state === "paused" || Boolean(s.slot?.paused);
  const go = async (path, body) => {
    try { await call(path, body); outcome("hand-outcome", "ok", is ? "Resumed; it streams again in a moment." : "Paused; what is under way is finished first."); }
    catch (e) { outcome("hand-outcome", "bad", e.message); }
  };
  const reason = h("input", { type: "text", id: "reason", maxlength: "200", placeholder: "why, for whoever finds it paused", size: "36" });
  put($("hand-body"), String(is), is
    ? h("div", { class: "gate" }, h("button", { type: "button", class: "main", onclick: () => go("api/resume", {}) }, "Resume"), h("span", {}, "The relay is paused, whatever replica leads."))
    : h("div", { class: "gate" }, h("label", { for: "reason" }, "Reason"), reason, h("button", { type: "button", onclick: () => go("api/pause", { reason: reason.value }) }, "Pause")),
  h("p", { class: "lead" }, "While it is paused, the slot is held and Postgres keeps the WAL: watch the disk."));
}
