// What every explorer uses: the look, page elements, and the theme and language of the page around it.
// helpers/explorer/_page.py puts this file in front of the explorer's own.

const PAGE_CSS = `
.rx { --bg:#ffffff; --panel:#f5f6f8; --ink:#1b1f24; --muted:#59636f; --line:#d5dae1; --accent:#0a5fc4; --tile:#e9ecf0;
  color-scheme:light; color:var(--ink); background:var(--bg); border:1px solid var(--line); border-radius:12px;
  padding:16px 18px 12px; font:14px/1.45 system-ui,"PingFang SC","Microsoft YaHei","Noto Sans SC","Noto Sans CJK SC",sans-serif;
  box-sizing:border-box; max-width:1120px; text-align:left; }
.rx[data-theme=dark] { --bg:#14171c; --panel:#1c2128; --ink:#e7eaef; --muted:#a0aab7; --line:#38414d; --accent:#74b4ff;
  --tile:#2a313b; color-scheme:dark; }
.rx * { box-sizing:border-box; }
.rx button, .rx input { font:inherit; color:inherit; }
.rx :focus-visible { outline:2px solid var(--accent); outline-offset:2px; }
.rx-row { display:flex; flex-wrap:wrap; align-items:center; gap:8px 18px; }
.rx-head { justify-content:space-between; margin-bottom:10px; }
.rx-title { font-size:17px; font-weight:650; }
.rx-muted { color:var(--muted); font-size:12.5px; }
.rx-set { display:inline-flex; align-items:center; gap:6px; }
.rx-choice { display:inline-flex; border:1px solid var(--line); border-radius:8px; overflow:hidden; }
.rx .rx-choice button, .rx .rx-step { border:0; background:transparent; padding:4px 11px; margin:0; cursor:pointer; }
.rx .rx-step { border:1px solid var(--line); border-radius:8px; min-width:32px; }
.rx .rx-choice button:hover, .rx .rx-step:hover { background:var(--panel); }
.rx .rx-choice button[aria-pressed=true] { background:var(--accent); color:var(--bg); font-weight:600; }
.rx-choice button:focus-visible { outline-offset:-3px; outline-color:currentColor; }
.rx-layer { width:190px; accent-color:var(--accent); margin:0; }
.rx-now { font-weight:650; min-width:5.5em; font-variant-numeric:tabular-nums; }
.rx details { margin-top:10px; }
.rx summary { cursor:pointer; font-size:13px; }
.rx table { border-collapse:collapse; margin:8px 0 0; font-size:12.5px; font-variant-numeric:tabular-nums; color:inherit; }
.rx th, .rx td { border:1px solid var(--line); padding:2px 9px; text-align:right; background:transparent; color:inherit; }
.rx-captions { margin:12px 0 0; padding-left:18px; color:var(--muted); font-size:12.5px; }
.rx-captions li { margin:1px 0; }
.rx-live { position:absolute; width:1px; height:1px; overflow:hidden; clip-path:inset(50%); white-space:nowrap; }
.rx svg { display:block; width:100%; height:auto; overflow:visible; font-size:11px; }
.rx svg text { fill:var(--muted); }
.rx-panel { background:var(--panel); border-radius:10px; padding:10px 12px; min-width:0; }
.rx-panel h4 { margin:0 0 2px; font-size:13.5px; font-weight:650; color:inherit; }
.rx-panel .rx-muted { margin:0 0 8px; min-height:1.4em; overflow-wrap:anywhere; }
.rx-panels { display:grid; grid-template-columns:minmax(0,1fr) minmax(0,1fr); gap:12px; }
.rx-wide { grid-column:1 / -1; }
@media (max-width:720px) { .rx-panels { grid-template-columns:minmax(0,1fr); } }
@media (prefers-reduced-motion:reduce) { .rx * { transition:none !important; } }
`;

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function drawing(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function isDark() {
  const body = document.body.dataset, page = document.documentElement.dataset;
  if (body.jpThemeLight) return body.jpThemeLight === "false"; // JupyterLab
  if (body.vscodeThemeKind) return body.vscodeThemeKind.includes("dark"); // VS Code
  if (page.theme) return page.theme === "dark"; // Sphinx
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

function pageLanguage() {
  // The lessons lie in folders zh and en, which JupyterLab and the site show in the address.
  const folder = /\/(zh|en)\//.exec(decodeURIComponent(location.pathname));
  if (folder) return folder[1];
  return (document.documentElement.lang || navigator.language).startsWith("zh") ? "zh" : "en";
}
