// The chat panel: shows the trait `turns`, sends what the reader types. Everything said is text: textContent alone.

const CSS = `
.cx { --bg:#ffffff; --panel:#f5f6f8; --ink:#1b1f24; --muted:#59636f; --line:#d5dae1; --accent:#0a5fc4; --mine:#e6effa; --bad:#b3261e;
  color-scheme:light; color:var(--ink); background:var(--bg); border:1px solid var(--line); border-radius:12px; padding:14px 16px;
  font:14px/1.5 system-ui,"PingFang SC","Microsoft YaHei","Noto Sans SC","Noto Sans CJK SC",sans-serif; box-sizing:border-box;
  max-width:820px; text-align:left; }
.cx[data-theme=dark] { --bg:#14171c; --panel:#1c2128; --ink:#e7eaef; --muted:#a0aab7; --line:#38414d; --accent:#74b4ff; --mine:#1d3350;
  --bad:#ff9a90; color-scheme:dark; }
.cx * { box-sizing:border-box; }
.cx button, .cx textarea, .cx input { font:inherit; color:inherit; }
.cx :focus-visible { outline:2px solid var(--accent); outline-offset:2px; }
.cx-row { display:flex; flex-wrap:wrap; align-items:center; gap:8px 14px; }
.cx-head { justify-content:space-between; margin-bottom:10px; }
.cx-title { font-size:16px; font-weight:650; }
.cx-muted { color:var(--muted); font-size:12.5px; }
.cx-choice { display:inline-flex; border:1px solid var(--line); border-radius:8px; overflow:hidden; }
.cx .cx-choice button { border:0; background:transparent; padding:3px 10px; margin:0; cursor:pointer; }
.cx .cx-choice button[aria-pressed=true] { background:var(--accent); color:var(--bg); font-weight:600; }
.cx-talk { max-height:380px; min-height:90px; overflow-y:auto; background:var(--panel); border-radius:10px; padding:12px; display:flex;
  flex-direction:column; gap:10px; }
.cx-turn { max-width:88%; border-radius:10px; padding:7px 12px; background:var(--bg); border:1px solid var(--line); align-self:flex-start; }
.cx-turn[data-role=user] { background:var(--mine); border-color:transparent; align-self:flex-end; }
.cx-text, .cx-thought { white-space:pre-wrap; overflow-wrap:anywhere; unicode-bidi:plaintext; margin:0; }
.cx-turn details { margin:0 0 5px; color:var(--muted); font-size:12.5px; }
.cx-turn summary { cursor:pointer; }
.cx-thought { border-left:3px solid var(--line); padding-left:9px; margin-top:4px; }
.cx-state { color:var(--bad); font-size:12.5px; margin:4px 0 0; overflow-wrap:anywhere; }
.cx-form { margin-top:10px; align-items:stretch; }
.cx textarea { flex:1 1 260px; min-height:42px; resize:vertical; border:1px solid var(--line); border-radius:8px; padding:8px 10px; background:var(--bg); margin:0; }
.cx .cx-button { border:1px solid var(--line); border-radius:8px; background:transparent; padding:0 16px; min-height:34px; margin:0; cursor:pointer; }
.cx .cx-button[data-main] { background:var(--accent); color:var(--bg); border-color:transparent; font-weight:600; }
.cx .cx-button:disabled { opacity:.45; cursor:default; }
.cx label { display:inline-flex; align-items:center; gap:6px; }
.cx input[type=checkbox] { accent-color:var(--accent); margin:0; }
.cx-foot { margin-top:8px; justify-content:space-between; }
`;

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
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
  const folder = /\/(zh|en)\//.exec(decodeURIComponent(location.pathname));
  if (folder) return folder[1];
  return (document.documentElement.lang || navigator.language).startsWith("zh") ? "zh" : "en";
}

function render({ model, el }) {
  let lang = pageLanguage();
  const label = (name) => model.get("labels")[lang][name];

  const title = element("span", { className: "cx-title" });
  const name = element("span", { className: "cx-muted", textContent: model.get("model") });
  const languages = element("span", { className: "cx-choice" });
  languages.setAttribute("role", "group");
  languages.setAttribute("aria-label", "中 / EN");
  for (const [value, text] of [["zh", "中"], ["en", "EN"]])
    languages.append(element("button", { value, textContent: text, onclick: () => { lang = value; translate(); draw(); } }));
  const talk = element("div", { className: "cx-talk" });
  talk.setAttribute("role", "log");
  talk.setAttribute("aria-live", "polite");
  const box = element("textarea", { rows: 2 });
  const main = element("button", { className: "cx-button cx-send" });
  main.dataset.main = "";
  const clear = element("button", { className: "cx-button cx-clear", onclick: () => model.send({ type: "clear" }) });
  const think = element("input", { type: "checkbox", checked: true });
  const thinkText = element("span");
  const root = element("div", { className: "cx" },
    element("style", { textContent: CSS }),
    element("div", { className: "cx-row cx-head" }, element("span", { className: "cx-row" }, title, name), languages),
    talk,
    element("div", { className: "cx-row cx-form" }, box, main),
    element("div", { className: "cx-row cx-foot" }, element("label", {}, think, thinkText), clear));

  function send() {
    if (model.get("busy")) return model.send({ type: "stop" });
    if (!box.value.trim()) return;
    model.send({ type: "send", text: box.value, thinking: think.checked });
    box.value = "";
  }
  main.onclick = send;
  box.addEventListener("keydown", (event) => {
    event.stopPropagation(); // the notebook has shortcuts of its own
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!model.get("busy")) send();
    }
  });

  const shown = []; // one node per turn, so that a reader's open thought stays open while the answer grows
  function draw() {
    const turns = model.get("turns"), atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 40;
    while (shown.length > turns.length) shown.pop().node.remove();
    turns.forEach((turn, place) => {
      if (!shown[place]) {
        const thought = element("div", { className: "cx-thought" }), summary = element("summary");
        const fold = element("details", {}, summary, thought);
        const text = element("div", { className: "cx-text" }), state = element("div", { className: "cx-state" });
        const node = element("div", { className: "cx-turn" }, fold, text, state);
        talk.append(node);
        shown[place] = { node, fold, summary, thought, text, state };
      }
      const part = shown[place], open = turn.state === "open";
      part.node.dataset.role = turn.role;
      part.fold.hidden = !turn.thought.trim();
      part.summary.textContent = label(open && !turn.text.trim() ? "thinking" : "thought");
      part.thought.textContent = turn.thought.trim();
      part.text.textContent = turn.text.trim() || (open && !turn.thought ? "…" : "");
      part.state.textContent = open || turn.state === "done" ? "" : model.get("labels")[lang][turn.state] ?? turn.state;
      part.state.hidden = !part.state.textContent;
    });
    if (atEnd) talk.scrollTop = talk.scrollHeight;
  }
  function showBusy() {
    main.textContent = label(model.get("busy") ? "stop" : "send");
    clear.disabled = model.get("busy");
  }
  function translate() {
    root.lang = lang;
    title.textContent = label("title");
    box.placeholder = label("placeholder");
    box.setAttribute("aria-label", label("placeholder"));
    clear.textContent = label("clear");
    thinkText.textContent = label("think");
    for (const button of languages.children) button.setAttribute("aria-pressed", button.value === lang);
    showBusy();
  }
  const paint = () => { root.dataset.theme = isDark() ? "dark" : "light"; };
  const themeWatcher = new MutationObserver(paint);
  for (const node of [document.body, document.documentElement])
    themeWatcher.observe(node, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-vscode-theme-kind", "data-theme"] });
  const preference = matchMedia("(prefers-color-scheme: dark)");
  preference.addEventListener("change", paint);

  model.on("change:turns", draw);
  model.on("change:busy", showBusy);
  el.append(root);
  paint();
  translate();
  draw();
  return () => {
    model.off("change:turns", draw);
    model.off("change:busy", showBusy);
    themeWatcher.disconnect();
    preference.removeEventListener("change", paint);
  };
}

export default { render };
