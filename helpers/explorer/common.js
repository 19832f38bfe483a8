// What every explorer has: its style, two languages, light and dark. helpers/explorer/page.py puts dom.js and this file
// before an explorer's own. All run as an anywidget and in the page that `to_html` writes, and need nothing but the
// trait `data`.

const COMMON_CSS = `
${DESIGN_CSS}
.rx { color:var(--ink); background:var(--bg); border:1px solid var(--line); border-radius:var(--radius);
  padding:16px 18px 12px; font:var(--text)/1.45 var(--font); box-sizing:border-box; width:100%; max-width:1120px; text-align:left;
  container-type:inline-size; }
.rx * { box-sizing:border-box; }
.rx button, .rx input { font:inherit; color:inherit; }
.rx :focus-visible { outline:2px solid var(--accent); outline-offset:2px; }
.rx-row { display:flex; flex-wrap:wrap; align-items:center; gap:8px 18px; }
.rx-head { justify-content:space-between; margin-bottom:10px; }
.rx-title { font-size:17px; font-weight:650; }
.rx-muted { color:var(--muted); font-size:var(--small); }
.rx-set { display:inline-flex; align-items:center; gap:6px; }
.rx-choice { display:inline-flex; border:1px solid var(--line); border-radius:8px; overflow:hidden; }
.rx .rx-choice button, .rx .rx-step { border:0; background:transparent; padding:4px 11px; margin:0; cursor:pointer; }
.rx .rx-step { border:1px solid var(--line); border-radius:8px; min-width:32px; }
.rx .rx-choice button:hover, .rx .rx-step:hover { background:var(--panel); }
.rx .rx-choice button[aria-pressed=true] { background:var(--accent); color:var(--bg); font-weight:600; }
.rx .rx-languages { border-color:transparent; color:var(--muted); font-size:var(--small); } /* a page speaks one already */
.rx .rx-languages button[aria-pressed=true] { background:none; color:var(--ink); }
.rx-choice button:focus-visible { outline-offset:-3px; outline-color:currentColor; }
.rx-panel { background:var(--panel); border-radius:10px; padding:10px 12px; min-width:0; }
.rx-panel h4 { margin:0 0 2px; font-size:13.5px; font-weight:650; color:inherit; }
.rx svg { display:block; width:100%; height:auto; overflow:visible; font-size:var(--smallest); }
.rx svg text { fill:var(--muted); }
.rx svg text.rx-strong { fill:var(--ink); font-weight:650; }
.rx.rx :is(dl, dt, dd) { float:none; width:auto; } /* JupyterLab sets the terms of a list beside it */
.rx details { margin-top:10px; }
.rx summary { cursor:pointer; font-size:13px; }
.rx table { border-collapse:collapse; margin:8px 0 0; font-size:var(--small); font-variant-numeric:tabular-nums; color:inherit; }
.rx th, .rx td { border:1px solid var(--line); padding:2px 9px; text-align:right; background:transparent; color:inherit; }
.rx tr.rx-lit td { font-weight:650; background:var(--panel); }
.rx-captions { margin:12px 0 0; padding-left:18px; color:var(--muted); font-size:var(--small); }
.rx-captions li { margin:1px 0; }
.rx-live { position:absolute; width:1px; height:1px; overflow:hidden; clip-path:inset(50%); white-space:nowrap; }
@media (prefers-reduced-motion:reduce) { .rx * { transition:none !important; } }
`;

// The root element and what its parts share. labels: {zh: {name: text}, en: ...}, `{key}` in a text is filled in.
// state.lang is the language shown; update(changes) is the explorer's, called for a language or a theme chosen.
function explorerPage(labels, state, update) {
  const translated = []; // [node, function that gives its text, attribute]
  function said(node, text, attribute) {
    translated.push([node, text, attribute]);
    return node;
  }
  const named = (node, text) => said(node, text, "aria-label");
  const root = element("section", { className: "rx" });
  root.dataset.lmSuppressShortcuts = "true"; // the arrow keys are ours, not JupyterLab's

  root.addEventListener("keydown", (event) => { // a notebook in JupyterLab would swallow the arrow keys of a slider
    if (event.target.closest("input, select, textarea")) event.stopPropagation();
  });

  function label(name, values = {}) {
    return labels[state.lang][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
  }
  const choice = (options, onChoose) =>
    element("span", { className: "rx-choice" }, ...options.map(([value, name]) => {
      const button = element("button", { type: "button", value, onclick: () => onChoose(value) });
      if (typeof name !== "string") return said(button, name);
      button.append(name);
      return button;
    }));
  const press = (box, value) => {
    for (const button of box.children) button.setAttribute("aria-pressed", button.value === value);
  };
  const languages = choice([["zh", "中"], ["en", "EN"]], (lang) => update({ lang }));
  languages.classList.add("rx-languages");
  languages.setAttribute("role", "group");
  languages.setAttribute("aria-label", "中 / EN");

  // A button that goes on by itself: `next` every `pace` ms, until `isLast`; pressed there, it begins with `rewind`.
  function player(className, pace, { isLast, rewind, next }) {
    let timer = null;
    const text = () => label(timer === null ? "play" : "pause");
    const button = said(element("button", { type: "button", className: `rx-step ${className}` }), text);
    const player = { button, stop, isPlaying: () => timer !== null };
    button.onclick = () => (player.isPlaying() ? stop() : start());

    function start() {
      if (isLast()) rewind();
      timer = setInterval(() => (!root.isConnected || isLast() ? stop() : next()), pace);
      button.textContent = text();
    }
    function stop() {
      clearInterval(timer);
      timer = null;
      button.textContent = text();
    }
    return player;
  }

  function translate() {
    root.lang = state.lang;
    press(languages, state.lang);
    for (const [node, text, attribute] of translated) {
      if (attribute) node.setAttribute(attribute, text());
      else node.textContent = text();
    }
  }
  function takeTheme() { // whether it differs from the one before
    const theme = isDark() ? "dark" : "light", differs = root.dataset.theme !== theme;
    root.dataset.theme = theme;
    return differs;
  }

  const onTheme = () => update({});
  const watcher = new MutationObserver(onTheme);
  for (const node of [document.body, document.documentElement])
    watcher.observe(node, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-vscode-theme-kind", "data-theme"] });
  const preference = matchMedia("(prefers-color-scheme: dark)");
  preference.addEventListener("change", onTheme);
  function leave() {
    watcher.disconnect();
    preference.removeEventListener("change", onTheme);
  }

  return { root, label, said, named, choice, press, languages, player, translate, takeTheme, leave };
}
