// Before the first paint, so that a dark page does not flash in white.
(() => {
  try {
    const t = localStorage.getItem("outbox-relay-theme");
    if (t === "light" || t === "dark") document.documentElement.dataset.theme = t;
  } catch { /* a browser that keeps nothing follows the system */ }
})();
