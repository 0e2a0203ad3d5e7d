// Elements and words. Text from outside goes in as text and nothing else: there is
// no innerHTML here, and the server's Trusted Types policy would refuse it.

export const $ = (id) => document.getElementById(id);

// h makes an element: attributes by name, "on…" as listeners, children as text or elements.
export function h(tag, attrs, ...children) {
  const el = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs ?? {})) {
    if (v === null || v === undefined || v === false) continue;
    if (k.startsWith("on")) el.addEventListener(k.slice(2), v);
    else el.setAttribute(k, v === true ? "" : v);
  }
  el.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return el;
}

// put replaces the children of an element, unless they say the same already: what
// somebody selects or has in focus stays.
export function put(el, key, ...children) {
  if (el.dataset.key === key) return;
  el.dataset.key = key;
  el.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

export function text(el, s) {
  if (el.textContent !== s) el.textContent = s;
}

// typed tells a command, a statement or a setting from advice in words.
const typed = /^(outbox-relay |[a-z-]+\.sh |[A-Z][A-Z_]+=|(SELECT|INSERT|ALTER|CREATE|GRANT|DROP|BEGIN|SET|PGPASSWORD)\b|(curl|psql|export|kubectl|nc|openssl|getent|ip|date|cat|kafka-\S+) )/;

// type is something to type, with a button that copies it.
export function type(command, label = "Copy") {
  const button = h("button", { type: "button", "aria-label": `Copy: ${command.slice(0, 80)}` }, label);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = "Copied";
    } catch { // no clipboard without TLS or localhost: select it instead
      const range = document.createRange();
      range.selectNodeContents(box.firstChild);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = label; }, 1600);
  });
  const box = h("div", { class: `type${command.includes("\n") ? " lines" : ""}${typed.test(command) ? "" : " prose"}` }, h("pre", {}, command), button);
  return box;
}

export const shape = () => h("span", { class: "shape small", "aria-hidden": "true" });

const words = { ok: "well", warn: "warning", bad: "failure", none: "not known" };
export const toneWord = (tone) => words[tone];

const sizes = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
export function bytes(n) {
  if (n === null || n === undefined) return "–";
  let i = 0, v = Math.abs(n);
  while (v >= 1024 && i < sizes.length - 1) { v /= 1024; i++; }
  return `${n < 0 ? "−" : ""}${i === 0 || v >= 100 ? Math.round(v) : v.toFixed(1)} ${sizes[i]}`;
}

// span is a duration in two units at most.
export function span(s) {
  if (s === null || s === undefined) return "–";
  if (s < 0.00005) return "0 s";
  if (s < 0.0995) return `${s < 0.00995 ? (s * 1000).toFixed(1) : Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  const m = Math.floor(s / 60);
  if (m < 120) return m < 10 ? `${m} min ${Math.round(s % 60)} s` : `${m} min`;
  const hours = Math.floor(m / 60);
  if (hours < 48) return hours < 10 ? `${hours} h ${m % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} days`;
}

// whole is a span in whole seconds.
export const whole = (s) => (s < 10 ? `${Math.max(0, Math.round(s))} s` : span(Math.round(s)));

const group = new Intl.NumberFormat("en-US");
export const count = (n) => (n === null || n === undefined ? "–" : group.format(n));
export const rate = (n) => (n === 0 ? "0" : n < 9.95 ? n.toFixed(1) : group.format(Math.round(n)));

export function ago(iso, now) {
  const t = Date.parse(iso);
  return Number.isNaN(t) || t < 0 ? "" : `${whole((now - t) / 1000)} ago`;
}

export function clock(iso) {
  const t = new Date(iso);
  if (Number.isNaN(t.getTime())) return iso ?? "";
  const sameDay = t.toDateString() === new Date().toDateString();
  const p = (n, w = 2) => String(n).padStart(w, "0");
  return `${sameDay ? "" : `${t.getFullYear()}-${p(t.getMonth() + 1)}-${p(t.getDate())} `}${p(t.getHours())}:${p(t.getMinutes())}:${p(t.getSeconds())}.${p(t.getMilliseconds(), 3)}`;
}

// short is the begin and the end of a long text.
export const short = (s, n = 40) => (s.length > n ? `${s.slice(0, n - 8)}…${s.slice(-7)}` : s);
