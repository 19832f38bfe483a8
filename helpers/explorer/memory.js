// The memory calculator: the arithmetic of helpers/catalogue.py::fits with every quantity to set.
// Stands behind common.js, see helpers/explorer/page.py.

const MEMORY_CSS = `
.rx-controls { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(370px,100%),1fr)); gap:10px 30px; margin:2px 0 14px; }
.rx-control { display:grid; grid-template-columns:8.5em minmax(0,1fr); align-items:center; gap:8px; min-width:0; }
.rx-control > span:last-child { display:flex; align-items:center; gap:10px; min-width:0; }
.rx select { font:inherit; color:var(--ink); background:var(--bg); border:1px solid var(--line); border-radius:8px; padding:4px 8px;
  min-width:0; max-width:100%; margin:0; }
.rx input[type=range] { flex:1; min-width:80px; accent-color:var(--accent); margin:0; }
.rx .rx-choice button:disabled { color:var(--muted); cursor:not-allowed; opacity:.5; }
.rx-value { min-width:3.6em; text-align:right; font-weight:650; font-variant-numeric:tabular-nums; }
.rx-verdict { font-size:16px; font-weight:650; margin:0 0 2px; display:flex; gap:8px; }
.rx-verdict::before { content:"✓"; color:var(--good); }
.rx-verdict.rx-no::before { content:"✗"; color:var(--bad); }
.rx-memory { margin:8px 0 4px; }
.rx-memory rect { stroke:var(--bg); stroke-width:1; }
.rx-memory text { font-size:13px; }
.rx svg.rx-memory text.rx-in { fill:var(--on); font-weight:650; }
.rx-memory .rx-room { fill:none; stroke:var(--line); }
.rx-memory line { stroke:var(--ink); stroke-width:2; }
.rx-memory line.rx-usable { stroke-dasharray:6 4; }
.rx-legend { display:flex; flex-wrap:wrap; gap:3px 18px; font-size:13px; }
.rx-legend i { display:inline-block; width:11px; height:11px; border-radius:3px; margin-right:6px; border:1px solid rgba(0,0,0,.25); }
.rx-narrow { display:none; }
.rx-slim .rx-narrow { display:inline; }
.rx .rx-note { margin:12px 0 0; }
.rx-facts { display:grid; grid-template-columns:repeat(auto-fit,minmax(210px,1fr)); gap:12px; margin:12px 0 0; }
.rx-fact { font-size:19px; font-weight:650; font-variant-numeric:tabular-nums; display:flex; flex-wrap:wrap; align-items:center; gap:2px 8px; }
.rx .rx-largest { font-size:var(--small); font-weight:400; padding:2px 8px; margin-left:auto; }
.rx-fact small { font-size:var(--small); font-weight:400; color:var(--muted); }
.rx td:first-child, .rx th:first-child { text-align:left; }
`;

const GIB = 2 ** 30;
const AT_ONCE = [1, 2, 4, 8, 16, 32, 64, 128, 256];
const CONTEXT_STEP = 256;

function render({ model: widget, el }) {
  const data = widget.get("data");
  const state = { ...data.start, lang: pageLanguage(data.lang) };
  const page = explorerPage(data.labels, state, update);
  const { root, label, said, named, choice, languages } = page;
  const gib = (bytes) => (bytes / GIB).toFixed(1);
  const count = (number) => number.toLocaleString("en-US");

  // ------------------------------------------------------------------------------------------ the arithmetic

  const obstacle = (model, { gpus, dtype }) => model.obstacle[dtype][gpus];

  // Tokens of a piece of KV cache; with linear attention so many that it holds a state of another layer.
  const block = ({ state, layers: { full, linear } }, perToken, gpus) =>
    state ? data.kvBlock * Math.ceil(state / linear / gpus / ((data.kvBlock * perToken) / full)) : data.kvBlock;

  function fit(model, { card, context, sequences, dtype, kv, gpus }) {
    const perToken = (model.kv[kv] * Math.max(1, Math.floor(model.kvHeads / gpus))) / model.kvHeads;
    const usable = card * GIB * data.share, weights = model.weights[dtype] / gpus, room = usable - weights - data.other;
    const splits = !obstacle(model, { gpus, dtype }), piece = block(model, perToken, gpus), state = model.state / gpus;
    const pieces = Math.floor(Math.max(0, Math.trunc((room / sequences - state) / perToken)) / piece);
    const maxContext = splits ? Math.min(pieces * piece, model.maxContext) : 0;
    const atOnce = splits ? Math.max(0, Math.floor(room / (perToken * context + state))) : 0;
    const kvCache = (perToken * context + state) * sequences;
    return { usable, weights, kvCache, perToken, state, maxContext, atOnce, room, fits: context <= maxContext };
  }

  // ------------------------------------------------------------------------------------------ the page, once

  const value = () => element("output", { className: "rx-value" });
  const control = (name, ...parts) => element("div", { className: "rx-control" },
    said(element("span", { className: "rx-muted" }), () => label(name)), element("span", {}, ...parts));
  const select = (name, options, onChoose) => {
    const box = named(element("select", { onchange: () => onChoose(box.value) }), () => label(name));
    box.append(...options.map(([value, text]) => said(element("option", { value }), text)));
    return box;
  };
  const range = (name, properties, onInput) =>
    named(element("input", { type: "range", oninput: (event) => onInput(Number(event.target.value)), ...properties }), () => label(name));

  const models = select("model", Object.keys(data.models).map((name) => [name, () => name.split("/")[1]]), (model) => update({ model }));
  const cards = select("card", data.cards.map(([memory, names]) => [memory, () => label("cardName", { memory, names })]),
    (card) => update({ card: Number(card) }));
  const gpus = choice(data.gpus.map((number) => [String(number), String(number)]), (number) => update({ gpus: Number(number) }));
  const dtypes = choice([["bf16", "bf16"], ["fp8", "FP8"], ["awq", "AWQ"]], (dtype) => update({ dtype }));
  const kvs = choice([["bf16", "bf16"], ["fp8", "FP8"]], (kv) => update({ kv }));
  const contexts = range("context", { min: CONTEXT_STEP, step: CONTEXT_STEP, className: "rx-context" }, (context) => update({ context }));
  const sequences = range("sequences", { min: 0, max: AT_ONCE.length - 1, step: 1, className: "rx-sequences" },
    (place) => update({ sequences: AT_ONCE[place] }));
  const contextValue = value(), sequencesValue = value();
  const useLargest = said(element("button", { type: "button", className: "rx-step rx-largest",
    onclick: () => update({ context: now().maxContext }) }), () => label("useLargest"));

  const verdict = element("p", { className: "rx-verdict" });
  verdict.setAttribute("aria-live", "polite");
  const bar = drawing("svg", { role: "img", class: "rx-memory" });
  const legend = element("div", { className: "rx-legend" });
  const fact = () => element("div", { className: "rx-fact" });
  const facts = { largest: fact(), most: fact(), perToken: fact(), download: fact() };
  const note = element("p", { className: "rx-muted rx-note" });
  const table = element("table");
  const captions = element("ul", { className: "rx-captions" });
  const title = () => element("div", { className: "rx-muted" });
  const factTitles = { largest: title(), most: title(), perToken: title(), download: title() };
  const panel = (name) => element("div", { className: "rx-panel" }, factTitles[name], facts[name]);

  root.append(
    element("style", { textContent: COMMON_CSS + MEMORY_CSS }),
    element("div", { className: "rx-row rx-head" },
      element("div", {}, said(element("div", { className: "rx-title" }), () => label("title")),
        said(element("div", { className: "rx-muted" }), () => label("summary"))),
      languages),
    element("div", { className: "rx-controls" },
      control("model", models), control("card", cards), control("dtype", dtypes), control("gpus", gpus),
      control("context", contexts, contextValue), control("sequences", sequences, sequencesValue),
      control("kv", kvs)),
    element("div", { className: "rx-panel" }, verdict, bar, legend),
    element("div", { className: "rx-facts" }, ...Object.keys(facts).map(panel)),
    note,
    element("details", { ontoggle: fillTable }, said(element("summary"), () => label("table")), table),
    captions);

  // ------------------------------------------------------------------------------------------ what changes

  const now = () => fit(data.models[state.model], state);

  function update(changes) {
    const first = root.dataset.theme === undefined, lang = state.lang;
    Object.assign(state, changes);
    state.context = Math.max(1, Math.min(state.context, data.models[state.model].maxContext));
    page.takeTheme();
    if (first || state.lang !== lang) translate();
    show();
    fillTable();
  }

  function translate() {
    page.translate();
    captions.replaceChildren(...data.captions[state.lang].map((line) => element("li", { textContent: line })));
  }

  function show() {
    const model = data.models[state.model], result = now();
    models.value = state.model;
    cards.value = state.card;
    contexts.max = model.maxContext;
    contexts.value = state.context;
    sequences.value = AT_ONCE.indexOf(state.sequences);
    sequences.setAttribute("aria-valuetext", String(state.sequences));
    contextValue.textContent = count(state.context);
    sequencesValue.textContent = state.sequences;
    page.press(dtypes, state.dtype);
    page.press(kvs, state.kv);
    page.press(gpus, String(state.gpus));
    verdict.textContent = sentence(model, result);
    verdict.classList.toggle("rx-no", !result.fits);
    drawBar(result);

    factTitles.largest.textContent = label("largest", { sequences: state.sequences });
    const limit = result.maxContext === model.maxContext ? label("largestModel") : "";
    facts.largest.replaceChildren(element("span", { textContent: result.maxContext ? count(result.maxContext) : "–" }),
      element("small", { textContent: limit }), ...(result.maxContext ? [useLargest] : []));
    factTitles.most.textContent = label("most", { context: count(state.context) });
    facts.most.textContent = label("mostUnit", { count: count(result.atOnce) });
    factTitles.perToken.textContent = label("perToken");
    facts.perToken.replaceChildren(`${Number((result.perToken / 1024).toFixed(2))} KiB`,
      element("small", { textContent: [label("onEach"), ...(result.state ? [label("state", { size: (result.state / 2 ** 20).toFixed(1) })] : [])].join(" ") }));
    factTitles.download.textContent = label("download");
    facts.download.replaceChildren(model.download === null ? element("small", { textContent: label("uncounted") })
      : `${(model.download / 1e9).toFixed(1)} GB`);
    const suffix = state.dtype.toUpperCase(), known = state.dtype === "bf16" || model.published.includes(suffix);
    note.textContent = known ? label("published", { id: state.dtype === "bf16" ? state.model : `${state.model}-${suffix}` })
      : label("unpublished", { dtype: suffix });
    Object.assign(root.dataset, { weights: result.weights, kvCache: result.kvCache, maxContext: result.maxContext, fits: result.fits });
  }

  function sentence(model, result) {
    const { gpus } = state, need = result.kvCache, reason = obstacle(model, state);
    if (reason === "heads") return label("noHeads", { heads: model.heads, gpus });
    if (reason === "widths") return label("noWidths", { gpus });
    if (reason === "blocks") return label("noBlocks", { inner: model.inner, gpus, block: data.fp8Block });
    if (result.fits) return label("fits", { size: gib(result.room - need) });
    if (result.maxContext === 0) return label("tooBig", { size: gib(Math.max(0, -result.room)) });
    return label("tooLong", { size: gib(need - result.room), context: count(result.maxContext) });
  }

  function drawBar({ usable, weights, kvCache }) {
    const card = state.card * GIB, parts = [["weights", weights], ["kvCache", kvCache], ["other", data.other]];
    const full = unitsOf(bar, 112), scale = (full - 10) / Math.max(card, weights + kvCache + data.other), slim = full < 560;
    let left = 5;
    const boxes = parts.flatMap(([name, size]) => {
      const width = size * scale, text = `${label(name)} ${gib(size)}`, at = left;
      left += width;
      const box = drawing("rect", { x: at, y: 28, width, height: 56, fill: data.colours[name], "data-part": name },
        drawing("title", {}, `${text} GiB`));
      // about 8 pixels a letter, 14 for a Chinese one
      const room = [...text].reduce((sum, letter) => sum + (letter > "⺀" ? 14 : 8.2), 12) < width;
      return room ? [box, drawing("text", { class: "rx-in", x: at + width / 2, y: 61, "text-anchor": "middle" }, text)] : [box];
    });
    const uses = label("usable", { size: gib(usable) }), whole = label("wholeCard", { size: gib(card) });
    const mark = (size, name, y, text) => {
      const x = 5 + size * scale;
      return [drawing("line", { class: name, x1: x, x2: x, y1: 20, y2: 92 }),
        ...(slim ? [] : [drawing("text", { class: "rx-mark", x: Math.max(150, Math.min(x, full - 5)), y, "text-anchor": "end" }, text)])];
    };
    bar.replaceChildren(
      drawing("rect", { class: "rx-room", x: 5, y: 28, width: card * scale, height: 56 }), ...boxes,
      ...mark(usable, "rx-usable", 14, uses), ...mark(card, "rx-card", 108, whole));
    root.classList.toggle("rx-slim", slim);
    bar.setAttribute("aria-label", `${label("bar")}: ${parts.map(([name, size]) => `${label(name)} ${gib(size)} GiB`).join(", ")}`);
    legend.replaceChildren(element("span", { className: "rx-muted", textContent: `${label("bar")}:` }), ...parts.map(([name, size]) => {
      const swatch = element("i");
      swatch.style.background = data.colours[name];
      return element("span", {}, swatch, `${label(name)} ${gib(size)} GiB`);
    }), ...[["┆", uses], ["│", whole]].map(([sign, text]) =>
      element("span", { className: "rx-narrow", textContent: `${sign} ${text}` })));
  }

  function fillTable() {
    if (!table.parentNode.open) return;
    const columns = ["bf16", "fp8", "awq"];
    const head = element("tr", {}, element("th", { textContent: label("model") }),
      ...columns.map((dtype) => element("th", { textContent: dtype === "bf16" ? dtype : dtype.toUpperCase() })));
    table.replaceChildren(head, ...Object.entries(data.models).map(([name, model]) =>
      element("tr", { className: name === state.model ? "rx-lit" : "" }, element("td", { textContent: name.split("/")[1] }),
        ...columns.map((dtype) => {
          const setting = { ...state, dtype };
          const cannot = obstacle(model, setting);
          const longest = fit(model, setting).maxContext;
          return element("td", { textContent: cannot ? label("cannot") : longest ? count(longest) : label("none") });
        }))));
  }

  el.append(root);
  update({});
  const stopWatching = onWidth(bar, () => drawBar(now()));
  return () => {
    stopWatching();
    page.leave();
  };
}

export default { render };
