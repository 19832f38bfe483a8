// The chat panel: shows the trait `turns`, sends what the reader types. Everything said is text: textContent alone.
// Stands behind common.js, see helpers/explorer/page.py.

const CHAT_CSS = `
.cx { --mine:#e6effa; --bad:#b3261e; max-width:820px; }
.cx[data-theme=dark] { --mine:#1d3350; --bad:#ff9a90; }
.cx textarea { font:inherit; color:inherit; }
.cx-talk { max-height:380px; min-height:90px; overflow-y:auto; background:var(--panel); border-radius:10px; padding:12px; display:flex;
  flex-direction:column; gap:10px; }
.cx-turn { max-width:88%; border-radius:10px; padding:7px 12px; background:var(--bg); border:1px solid var(--line); align-self:flex-start; }
.cx-turn[data-role=user] { background:var(--mine); border-color:transparent; align-self:flex-end; }
.cx-text, .cx-thought { white-space:pre-wrap; overflow-wrap:anywhere; unicode-bidi:plaintext; margin:0; }
.cx-turn details { margin:0 0 5px; color:var(--muted); font-size:12.5px; }
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

function render({ model, el }) {
  const state = { lang: pageLanguage(model.get("lang")) };
  const page = explorerPage(model.get("labels"), state, update);
  const { root, label, said, languages } = page;
  root.classList.add("cx");

  const talk = element("div", { className: "cx-talk" });
  talk.setAttribute("role", "log");
  talk.setAttribute("aria-live", "polite");
  const box = element("textarea", { rows: 2 });
  const main = said(element("button", { className: "cx-button cx-send" }), () => label(model.get("busy") ? "stop" : "send"));
  main.dataset.main = "";
  const clear = said(element("button", { className: "cx-button cx-clear", onclick: () => model.send({ type: "clear" }) }), () => label("clear"));
  const think = element("input", { type: "checkbox", checked: true });
  root.append(
    element("style", { textContent: COMMON_CSS + CHAT_CSS }),
    element("div", { className: "rx-row rx-head" },
      element("span", { className: "rx-row" }, said(element("span", { className: "rx-title" }), () => label("title")),
        element("span", { className: "rx-muted", textContent: model.get("model") })),
      languages),
    talk,
    element("div", { className: "rx-row cx-form" }, box, main),
    element("div", { className: "rx-row cx-foot" }, element("label", {}, think, said(element("span"), () => label("think"))), clear));

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
        const text = element("div", { className: "cx-text" }), ending = element("div", { className: "cx-state" });
        const node = element("div", { className: "cx-turn", role: "group" }, fold, text, ending);
        talk.append(node);
        shown[place] = { node, fold, summary, thought, text, ending };
      }
      const part = shown[place], open = turn.state === "open";
      part.node.dataset.role = turn.role;
      part.node.ariaLabel = turn.role === "user" ? label("you") : model.get("model");
      part.fold.hidden = !turn.thought.trim();
      part.summary.textContent = label(open && !turn.text.trim() ? "thinking" : "thought");
      part.thought.textContent = turn.thought.trim();
      part.text.textContent = turn.text.trim() || (open && !turn.thought ? "…" : "");
      part.ending.textContent = open || turn.state === "done" ? "" : model.get("labels")[state.lang][turn.state] ?? turn.state;
      part.ending.hidden = !part.ending.textContent;
    });
    if (atEnd) talk.scrollTop = talk.scrollHeight;
  }
  function showBusy() {
    clear.disabled = model.get("busy");
    page.translate();
  }
  function update(changes) {
    Object.assign(state, changes);
    page.takeTheme();
    box.placeholder = label("placeholder");
    box.setAttribute("aria-label", label("placeholder"));
    showBusy();
    draw();
  }

  model.on("change:turns", draw);
  model.on("change:busy", showBusy);
  el.append(root);
  update({});
  return () => {
    model.off("change:turns", draw);
    model.off("change:busy", showBusy);
    page.leave();
  };
}

export default { render };
