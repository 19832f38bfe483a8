// The sampling explorer: sliders for temperature, top-k, top-p and min-p over a model's next-token distribution.
// Stands behind common.js and the engine's sample.js, see helpers/explorer/page.py.

const SAMPLING_CSS = `
.sx-panels { display:grid; grid-template-columns:minmax(0,1fr); gap:12px; }
.sx-panels .rx-muted { margin:0 0 8px; min-height:1.4em; overflow-wrap:anywhere; }
.sx-controls { display:grid; grid-template-columns:repeat(4,minmax(0,1fr)); gap:8px 22px; margin:10px 0 12px; }
@container (max-width:720px) { .sx-controls { grid-template-columns:repeat(2,minmax(0,1fr)); } }
.sx-control { display:block; }
.sx-control span { display:flex; justify-content:space-between; font-size:13px; }
.sx-control output { font-weight:650; font-variant-numeric:tabular-nums; }
.sx-control input { width:100%; accent-color:var(--accent); margin:4px 0 0; display:block; }
@container (min-width:721px) { .sx-panels { grid-template-columns:minmax(0,2.4fr) minmax(0,1fr); } }
.rx .sx-context { border:1px solid var(--line); border-radius:8px; background:transparent; padding:4px 11px; margin:0; cursor:pointer; }
.rx .sx-context[aria-pressed=true] { border-color:var(--accent); box-shadow:0 0 0 1px var(--accent); font-weight:650; }
.sx-model { fill:var(--muted); opacity:.35; }
.sx-used { fill:var(--accent); }
.sx-drawn { fill:var(--bg); stroke:var(--ink); stroke-width:1.6; }
.rx svg text.sx-name { fill:var(--ink); font-size:13px; white-space:pre; }
.rx svg text.sx-gone { fill:var(--muted); opacity:.6; }
.sx-numbers { margin:0; font-variant-numeric:tabular-nums; }
.sx-numbers dt { color:var(--muted); font-size:var(--small); margin-top:8px; }
.rx .sx-numbers dd[class] { margin:0; font-size:15px; font-weight:600; }
.sx-draw { margin-top:14px; }
.rx th:first-child, .rx td:first-child { text-align:left; white-space:pre; }
`;

const BARS = 12, DRAWS = 100;
const SLIDERS = [["temperature", 0, 2, 0.05], ["topK", 0, 50, 1], ["topP", 0.05, 1, 0.01], ["minP", 0, 1, 0.01]];

function floats(base64) {
  const view = new DataView(Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer);
  return Float64Array.from({ length: view.byteLength / 4 }, (_, place) => view.getFloat32(4 * place, true));
}

// The probabilities that sampling uses, how many tokens they leave, and the mass that was cut.
function settle(logprobs, { temperature, minP, topK, topP }) {
  const used = distribution(logprobs, { temperature, minP, topK, topP });
  const cut = distribution(logprobs, { temperature }).reduce((sum, value, place) => (used[place] > 0 ? sum : sum + value), 0);
  return { used, kept: used.filter((value) => value > 0).length, cut };
}

function entropy(probabilities) {
  return probabilities.reduce((sum, value) => sum - (value > 0 ? value * Math.log2(value) : 0), 0);
}

function render({ model, el }) {
  const data = model.get("data");
  const positions = data.positions.map((position) => ({ ...position, logprobs: floats(position.logprobs) }));
  const state = { ...data.presets.asIs, position: 0, lang: pageLanguage(data.lang) };
  let random = seededRandom(1), counts = [], total = 0;
  const page = explorerPage(data.labels, state, update);
  const { root, label, said, choice, languages } = page;

  // ------------------------------------------------------------------------------------------ the page, once

  const contexts = positions.map((position, number) =>
    element("button", { type: "button", className: "sx-context", textContent: `${position.text} …`, onclick: () => update({ position: number }) }));
  const presets = choice(Object.keys(data.presets).map((name) => [name, () => label(name)]), (name) => update(data.presets[name]));
  const sliders = SLIDERS.map(([name, min, max, step]) => {
    const input = element("input", { type: "range", min, max, step, name });
    input.oninput = () => update({ [name]: Number(input.value) });
    const value = element("output");
    return { name, input, value, node: element("label", { className: "sx-control" },
      element("span", {}, said(element("span"), () => label(name)), value), input) };
  });
  const bars = drawing("svg", { role: "img" });
  const numbers = element("dl", { className: "sx-numbers" });
  const draw = element("button", { type: "button", className: "rx-step", onclick: () => drawTokens(DRAWS) });
  const again = element("button", { type: "button", className: "rx-step", onclick: () => startOver() });
  const drawn = element("span", { className: "rx-muted sx-total" });
  const table = element("table");
  const captions = element("ul", { className: "rx-captions" });
  const live = element("div", { className: "rx-live" });
  live.setAttribute("aria-live", "polite");
  root.append(
    element("style", { textContent: COMMON_CSS + SAMPLING_CSS }),
    element("div", { className: "rx-row rx-head" },
      element("div", {}, said(element("div", { className: "rx-title" }), () => label("title")),
        said(element("div", { className: "rx-muted" }), () => label("summary", { model: data.model, vocab: positions[state.position].logprobs.length }))),
      languages),
    element("div", { className: "rx-row" }, said(element("span", { className: "rx-muted" }), () => label("position")), ...contexts,
      said(element("span", { className: "rx-muted" }), () => label("presets")), presets),
    element("div", { className: "sx-controls" }, ...sliders.map(({ node }) => node)),
    element("div", { className: "sx-panels" },
      element("div", { className: "rx-panel" }, said(element("h4"), () => label("bars")),
        said(element("p", { className: "rx-muted" }), () => label("barsNote")), bars),
      element("div", { className: "rx-panel" }, said(element("h4"), () => label("numbers")), numbers,
        element("div", { className: "rx-row sx-draw" }, draw, again, drawn))),
    element("details", { ontoggle: () => fillTable() }, said(element("summary"), () => label("table", { count: named().length })), table),
    captions, live);

  // ------------------------------------------------------------------------------------------ what changes

  const now = () => positions[state.position];
  const named = () => now().texts;

  function update(changes) {
    const before = { ...state };
    Object.assign(state, changes);
    page.takeTheme();
    if (Object.keys(changes).some((name) => name !== "lang" && state[name] !== before[name])) forget();
    show();
  }
  function forget() {
    random = seededRandom(1);
    counts = [];
    total = 0;
  }
  function startOver() {
    forget();
    show();
  }
  function drawTokens(number) {
    const { used } = settle(now().logprobs, state);
    for (let round = 0; round < number; round++) {
      const place = pick(used, random);
      counts[place] = (counts[place] || 0) + 1;
    }
    total += number;
    show();
  }

  function show() {
    page.translate();
    captions.replaceChildren(...data.captions.map((name) => element("li", { textContent: label(name) })));
    for (const [number, button] of contexts.entries()) button.setAttribute("aria-pressed", number === state.position);
    for (const button of presets.children) // more than one may fit
      button.setAttribute("aria-pressed", Object.entries(data.presets[button.value]).every(([name, value]) => state[name] === value));
    for (const { name, input, value } of sliders) {
      input.value = state[name];
      value.textContent = name === "temperature" ? (state[name] ? state[name].toFixed(2) : label("greedy"))
        : (name === "topP" ? state[name] === 1 : state[name] === 0) ? label("off")
        : name === "topK" ? state[name] : state[name].toFixed(2);
      input.setAttribute("aria-valuetext", value.textContent);
    }
    const { logprobs } = now(), original = logprobs.map(Math.exp), { used, kept, cut } = settle(logprobs, state);
    drawBars(original, used);
    const rows = [["kept", label("kept", { kept, vocab: logprobs.length })], ["cut", `${(100 * cut).toFixed(1)} %`],
      ["entropy", label("entropyNow", { before: entropy(original).toFixed(2), after: entropy(used).toFixed(2) })]];
    numbers.replaceChildren(...rows.flatMap(([name, value]) => [
      ...(name === "kept" ? [] : [element("dt", { textContent: label(name) })]), element("dd", { className: `sx-${name}`, textContent: value })]));
    draw.textContent = label("draw", { count: DRAWS });
    again.textContent = label("again");
    drawn.textContent = total ? label("drawn", { total }) : "";
    live.textContent = label("spoken", { kept, token: named()[0], value: used[0].toFixed(2) });
    fillTable(original, used);
  }

  function drawBars(original, used) {
    const full = unitsOf(bars, BARS * 26 + 8), narrow = full < 420, letters = narrow ? 9 : 14;
    const left = narrow ? 80 : 122, width = full - left - 116, highest = Math.max(original[0], used[0]);
    const x = (value) => (width * value) / highest;
    bars.setAttribute("aria-label", label("bars"));
    bars.replaceChildren(...named().slice(0, BARS).flatMap((text, place) => {
      const y = 4 + place * 26, gone = used[place] === 0, share = total ? (counts[place] || 0) / total : null;
      const bar = drawing("rect", { class: "sx-used", x: left, y: y + 6, height: 9, rx: 2, width: x(used[place]) }, drawing("title", {}, used[place].toFixed(4)));
      bar.dataset.probability = used[place].toFixed(6);
      return [
        drawing("text", { class: gone ? "sx-name sx-gone" : "sx-name", x: left - 8, y: y + 15, "text-anchor": "end" }, text.slice(0, letters)),
        drawing("rect", { class: "sx-model", x: left, y, height: 21, rx: 3, width: Math.max(1, x(original[place])) }), bar,
        ...(share === null || (gone && share === 0) ? [] : [drawing("circle", { class: "sx-drawn", cx: left + x(share), cy: y + 10.5, r: 4.5 }, drawing("title", {}, share.toFixed(2)))]),
        drawing("text", { x: left + x(Math.max(original[place], used[place], share || 0)) + 10, y: y + 15 },
          gone ? original[place].toFixed(3) : `${original[place].toFixed(3)} → ${used[place].toFixed(3)}`)];
    }));
  }

  function fillTable(original = now().logprobs.map(Math.exp), used = settle(now().logprobs, state).used) {
    if (!table.parentNode.open) return;
    const head = element("tr", {}, ...["token", "model", "sampling"].map((name) => element("th", { textContent: label(name) })));
    table.replaceChildren(head, ...named().map((text, place) => element("tr", { className: used[place] ? "rx-lit" : "" },
      ...[text, original[place].toFixed(5), used[place].toFixed(5)].map((textContent) => element("td", { textContent })))));
  }

  el.append(root);
  update({});
  const stopWatching = onWidth(bars, () => drawBars(now().logprobs.map(Math.exp), settle(now().logprobs, state).used));
  return () => {
    stopWatching();
    page.leave();
  };
}

export default { render };
