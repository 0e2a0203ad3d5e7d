// A chart of the last 15 minutes: one or two lines, drawn as SVG.
import { h, text } from "./dom.js";

const NS = "http://www.w3.org/2000/svg";
const SPAN = 15 * 60 * 1000;
const PAD = { left: 4, right: 4, top: 14, bottom: 18 };

function s(tag, attrs) {
  const el = document.createElementNS(NS, tag);
  for (const [k, v] of Object.entries(attrs)) el.setAttribute(k, v);
  return el;
}

// ceiling is a round number above v, for the top of the axis: round in tens, of
// bytes in powers of two, of seconds in minutes and hours.
export const tens = (v) => {
  if (!(v > 0)) return 1;
  const e = 10 ** Math.floor(Math.log10(v));
  for (const m of [1, 1.5, 2, 3, 5, 7.5, 10]) if (m * e >= v) return m * e;
  return 10 * e;
};
export const twos = (v) => {
  let e = 1;
  while (v > 1024 * e) e *= 1024;
  for (let m = 1; m < 1024; m *= 2) { if (m * e >= v) return m * e; if (1.5 * m * e >= v && m > 1) return 1.5 * m * e; }
  return 1024 * e;
};
export const times = (v) => (v <= 60 ? tens(v) : [120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200].find((t) => t >= v) ?? Math.ceil(v / 86400) * 86400);

export class Chart {
  // lines: [{ key, name }], one or two; show turns a value into words; least is
  // the lowest top that the axis has; ceiling rounds it.
  constructor(title, lines, show, least, ceiling) {
    Object.assign(this, { title, lines, show, least, ceiling, data: [], at: [] });
    this.now = h("span", { class: "now" }, "–");
    this.legend = h("p", { class: "legend" }, lines.length > 1 ? lines.map((l, i) => h("span", { class: i ? "b" : "a" }, h("i"), l.name)) : lines[0].name);
    this.svg = s("svg", { role: "img" });
    this.el = h("article", { class: "card chart" }, h("div", { class: "top-line" }, h("h2", {}, title), this.now), this.legend);
    this.el.append(this.svg);
    this.svg.addEventListener("pointermove", (e) => { this.hover = e.offsetX; this.draw(); });
    this.svg.addEventListener("pointerleave", () => { this.hover = null; this.draw(); });
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  set(at, columns) { this.at = at; this.data = columns; this.draw(); }

  draw() {
    const width = this.svg.clientWidth, height = 128;
    if (!width) return;
    const end = this.at.at(-1) ?? Date.now(), begin = end - SPAN;
    const w = width - PAD.left - PAD.right, high = height - PAD.top - PAD.bottom;
    let most = 0;
    for (const col of this.data) for (const v of col) if (v !== null && v > most) most = v;
    const top = Math.max(this.least, this.ceiling(most));
    const x = (t) => PAD.left + ((t - begin) / SPAN) * w, y = (v) => PAD.top + high - (v / top) * high;
    const parts = [];
    for (const f of [0, 0.5, 1]) parts.push(s("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: y(top * f), y2: y(top * f) }));
    this.data.forEach((col, i) => {
      const { line, area } = path(this.at, col, begin, x, y, y(0), Math.max(1, Math.floor(col.length / w)));
      if (i === 0 && area) parts.push(s("path", { class: "fill", d: area }));
      if (line) parts.push(s("path", { class: i ? "b" : "a", d: line }));
    });
    const label = (t, px, py, anchor) => { const el = s("text", { x: px, y: py, "text-anchor": anchor }); el.textContent = t; parts.push(el); };
    label(this.show(top), PAD.left, PAD.top - 4, "start");
    label("15 min ago", PAD.left, height - 4, "start");
    label("now", width - PAD.right, height - 4, "end");
    let i = this.at.length - 1;
    if (this.hover !== null && this.hover !== undefined && i >= 0) {
      const t = begin + ((this.hover - PAD.left) / w) * SPAN;
      while (i > 0 && this.at[i] > t) i--;
      parts.push(s("line", { class: "cursor", x1: x(this.at[i]), x2: x(this.at[i]), y1: PAD.top, y2: PAD.top + high }));
      const d = new Date(this.at[i]);
      label(d.toTimeString().slice(0, 8), Math.min(width - 60, Math.max(60, x(this.at[i]))), height - 4, "middle");
    }
    const values = this.data.map((col) => (i >= 0 && col[i] !== null && col[i] !== undefined ? this.show(col[i]) : "–"));
    text(this.now, values.join(" / "));
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("aria-label", `${this.title}, last 15 minutes: now ${values.join(" and ")}, at most ${this.show(most)}`);
    this.svg.replaceChildren(...parts);
  }
}

// path draws runs of known values; of several samples to a pixel the highest.
function path(at, col, begin, x, y, ground, step) {
  let line = "", area = "", run = [];
  const close = () => {
    if (run.length === 1) run.push([run[0][0] + 1, run[0][1]]);
    if (run.length > 1) {
      const d = run.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join("L");
      line += `M${d}`;
      area += `M${run[0][0].toFixed(1)} ${ground}L${d}L${run.at(-1)[0].toFixed(1)} ${ground}Z`;
    }
    run = [];
  };
  let last = null;
  for (let i = 0; i < at.length; i += step) {
    let v = null;
    for (let j = i; j < Math.min(i + step, at.length); j++) if (col[j] !== null && (v === null || col[j] > v)) v = col[j];
    if (at[i] < begin) continue;
    if (v === null || (last !== null && at[i] - last > 10000)) close();
    if (v !== null) run.push([x(at[i]), y(v)]);
    last = at[i];
  }
  close();
  return { line, area };
}
