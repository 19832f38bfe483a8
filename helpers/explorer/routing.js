// The routing explorer: one trace as token chips, an expert grid, a load histogram and a layer x expert map.
// Stands behind common.js, see helpers/explorer/page.py.

const ROUTING_CSS = `
.rx-layer { width:clamp(80px,38cqw,190px); accent-color:var(--accent); margin:0; }
.rx-now { font-weight:650; min-width:5.5em; font-variant-numeric:tabular-nums; }
.rx-weights { margin-top:8px; }
.rx-weights:empty { display:none; }
.rx-scale { width:110px; height:10px; border-radius:5px; display:inline-block; }
.rx-text { max-height:300px; overflow-y:auto; background:var(--panel); border-radius:10px; padding:10px 12px 12px; margin:12px 0; }
.rx-part { font-size:var(--smallest); font-weight:650; color:var(--muted); margin:0 0 5px; }
.rx-part + .rx-chips + .rx-part { margin-top:12px; }
.rx-chips { display:flex; flex-wrap:wrap; gap:4px 3px; align-items:flex-end; }
.rx-written { border-left:3px solid var(--accent); padding-left:9px; }
.rx .rx-chip { border:1px solid rgba(0,0,0,.18); border-radius:6px; min-width:27px; height:40px; padding:2px 5px 0; margin:0;
  cursor:pointer; text-align:center; line-height:1.3; color:var(--on); unicode-bidi:isolate; white-space:pre;
  font-size:14px; transition:opacity .15s; }
.rx-chip small { display:block; height:14px; margin:0 -4px; contain:strict; font-size:var(--smallest); opacity:.85; font-variant-numeric:tabular-nums; }
.rx-chip:hover { border-color:var(--ink); }
.rx .rx-chip[aria-pressed=true] { border-color:transparent; box-shadow:0 0 0 2px var(--panel),0 0 0 4.5px var(--ink); position:relative; z-index:1; }
.rx-chip.rx-dim { opacity:.22; }
.rx-chip.rx-dim[aria-pressed=true] { opacity:.5; }
.rx-group { display:inline-flex; flex-direction:column; border:1.5px dashed var(--muted); border-radius:8px; padding:1px 3px 3px; }
.rx-group > span:first-child { text-align:center; font-size:13px; line-height:1.5; }
.rx-group > span:last-child { display:flex; gap:3px; }
.rx-group .rx-chip { font-size:var(--smallest); }
.rx-panels { display:grid; grid-template-columns:minmax(0,1fr) minmax(0,1fr); gap:12px; }
.rx-wide { grid-column:1 / -1; }
@container (max-width:720px) { .rx-panels { grid-template-columns:minmax(0,1fr); } }
.rx-panel .rx-muted { margin:0 0 8px; min-height:1.4em; overflow-wrap:anywhere; }
.rx-grid { display:grid; gap:4px; grid-template-columns:repeat(var(--columns),minmax(0,1fr)); --columns:4; }
.rx-many { --columns:16; }
@container (max-width:720px) { .rx-many { --columns:8; } }
.rx .rx-tile { border:1px solid transparent; border-bottom:4px solid; border-radius:6px; background:var(--tile); height:68px; padding:2px 0 0; margin:0;
  cursor:pointer; font-size:15px; line-height:1.3; font-variant-numeric:tabular-nums; transition:background .15s,opacity .15s; min-width:0; color:var(--muted); }
.rx-many .rx-tile { height:27px; font-size:var(--smallest); border-bottom-width:3px; }
.rx-tile small { display:block; height:17px; font-size:var(--small); }
.rx-many .rx-tile small { display:none; }
.rx .rx-tile.rx-lit { box-shadow:0 0 0 1.5px var(--ink); font-weight:650; }
.rx .rx-tile[aria-pressed=true] { box-shadow:0 0 0 3px var(--accent); }
.rx-chosen { display:flex; flex-wrap:wrap; gap:3px 16px; margin:9px 0 0; padding:0; list-style:none; font-variant-numeric:tabular-nums; }
.rx-chosen li { display:flex; align-items:center; gap:7px; margin:0; }
.rx-chosen i { display:inline-block; height:9px; border-radius:3px; }
.rx { --edge:var(--muted); } .rx[data-theme=dark] { --edge:var(--bg); }
${Array.from({ length: 8 }, (_, expert) => `.rx .e${expert} { --colour:var(--expert-${expert}); }`).join(" ")}
.rx-own { display:flex; gap:8px; margin-top:12px; flex-wrap:wrap; align-items:center; }
.rx-own input { flex:1 1 270px; min-width:0; text-overflow:ellipsis; max-width:34em; padding:5px 12px; border:1px solid var(--line); border-radius:8px; background:var(--panel); }
.rx-bar { fill:var(--muted); opacity:.55; cursor:pointer; }
.rx-bar:hover { opacity:.9; }
.rx-bar.rx-lit { opacity:1; }
.rx-uniform { stroke:var(--ink); stroke-dasharray:5 4; stroke-width:1.3; }
.rx-line { fill:var(--tile); cursor:pointer; }
.rx-line:hover { opacity:.75; }
.rx-here { fill:none; stroke:var(--ink); stroke-width:1.6; pointer-events:none; }
.rx-cell { pointer-events:none; }
@media print { .rx-text { max-height:none; } }
`;

const STEP_MS = 400; // one token while playing

function numbers(base64, bits) {
  if (typeof base64 !== "string") return base64; // none, or numbers that were made in this page
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  if (bits === 8) return bytes;
  const view = new DataView(bytes.buffer);
  return Uint16Array.from({ length: bytes.length / 2 }, (_, place) => view.getUint16(2 * place, true));
}

// Black or white, whichever is easier to read on a colour such as #123456: the contrast is 4.58 or more.
function inkOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => {
    const part = parseInt(colour.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000000" : "#ffffff";
}

function render({ model, el, source = null }) {
  const data = model.get("data");
  if (data.live) source ??= fromSite(data.live);
  else if (model.get("takes_text") === true) source ??= fromKernel(model);
  const { layers, numExperts, topK, texts } = data;
  const tokens = texts.length;
  const experts = numbers(data.experts, data.expertBits); // [layer][token][k], the heaviest first
  const weights = numbers(data.weights, 16); // the same, 65535 is 1
  const entropy = numbers(data.entropy, 16); // [layer][token], 65535 is log(numExperts)
  const heaviest = weights ? weights.reduce((a, b) => Math.max(a, b), 0) / 65535 : 1;

  const state = { token: data.token, layer: data.layer, lang: pageLanguage(data.lang), colour: "expert", pinned: null };
  const place = (layer, token) => (layer * tokens + token) * topK;
  const chosen = (layer, token) => experts.subarray(place(layer, token), place(layer, token) + topK);
  const weight = (layer, token, k) => weights[place(layer, token) + k] / 65535;
  const share = (layer, token) => entropy[layer * tokens + token] / 65535;
  const expertColour = (expert) => data.expertColours[expert % data.expertColours.length];

  const page = explorerPage(data.labels, state, update);
  const { root, label, said, named, choice, languages, player } = page;

  // More means further from the background: dark on a light page, bright on a dark one.
  function scale(value) {
    const stops = data.scale, dark = root.dataset.theme === "dark";
    const position = 0.08 + 0.84 * Math.min(1, Math.max(0, dark ? value : 1 - value));
    return stops[Math.round(position * (stops.length - 1))];
  }

  const hasFlow = weights !== null && numExperts <= 8 && layers.length <= 8;
  const routes = (token) => layers.map((_, layer) => [...chosen(layer, token)].map((expert, k) => [expert, weight(layer, token, k)]));
  const ways = hasFlow ? texts.map((_, token) => ({ routes: routes(token) })) : [];
  const flow = hasFlow ? flowFigure({ layers: layers.length, experts: numExperts }) : null;

  // ------------------------------------------------------------------------------------------ the page, once

  const colours = choice([["expert", () => label("byExpert")], ["entropy", () => label("byEntropy")]], (colour) => update({ colour }));
  const slider = named(
    element("input", { className: "rx-layer", type: "range", min: 0, max: layers.length - 1, step: 1 }), () => label("layer"));
  slider.oninput = () => update({ layer: Number(slider.value) });
  const step = (sign, by) => element("button", { type: "button", className: "rx-step", ariaHidden: "true", tabIndex: -1,
    textContent: sign, onclick: () => moveLayer(by) });
  const now = element("output", { className: "rx-now" });
  const play = player("rx-play", STEP_MS, {
    isLast: () => state.token === tokens - 1, rewind: () => update({ token: 0 }), next: () => update({ token: state.token + 1 }),
  });
  const legend = element("span", { className: "rx-set rx-muted rx-legend" });

  const chips = [];
  const part = (from, to, name, extra) => {
    if (from === to) return [];
    const box = element("div", { className: `rx-chips ${extra}` });
    box.setAttribute("role", "group");
    named(box, () => label(name));
    for (let token = from; token < to; ) {
      const span = data.groups[token] && token + data.groups[token].length <= to ? data.groups[token] : null;
      const nodes = Array.from({ length: span ? span.length : 1 }, (_, offset) => chip(token + offset));
      box.append(span ? element("span", { className: "rx-group" },
        element("span", { textContent: span.text }), element("span", {}, ...nodes)) : nodes[0]);
      token += nodes.length;
    }
    return [said(element("p", { className: "rx-part" }), () => label(name)), box];
  };
  function chip(token) {
    const button = element("button", { type: "button", className: "rx-chip", tabIndex: -1, onclick: () => update({ token }) },
      element("span", { textContent: texts[token] }), element("small"));
    button.title = `${token} · id ${data.tokenIds[token]} · ${data.bytes[token]}`;
    button.dataset.token = token;
    chips.push(button);
    return button;
  }
  const text = element("div", { className: "rx-text" },
    ...part(0, data.promptLength, "prompt", ""), ...part(data.promptLength, tokens, "generated", "rx-written"));

  const many = numExperts > 16;
  const tiles = Array.from({ length: numExperts }, (_, expert) => {
    const tile = element("button", { type: "button", className: "rx-tile", onclick: () => pin(expert) }, String(expert), element("small"));
    tile.dataset.expert = expert;
    tile.style.borderBottomColor = expertColour(expert);
    return tile;
  });
  const grid = element("div", { className: many ? "rx-grid rx-many" : "rx-grid" }, ...tiles);
  if (numExperts < 4) grid.style.setProperty("--columns", numExperts);
  const about = element("p", { className: "rx-muted rx-about" });
  const list = element("ul", { className: "rx-chosen" });
  const loadNote = element("p", { className: "rx-muted rx-load-note" });
  const histogram = drawing("svg", { role: "img", class: "rx-load" });
  const map = drawing("svg", { role: "img", class: "rx-map" });
  const weightLegend = element("div", { className: "rx-set rx-muted rx-weights" });
  const table = element("table");
  const captions = element("ul", { className: "rx-captions" });
  const live = element("div", { className: "rx-live" });
  live.setAttribute("aria-live", "polite");
  const heading = (name) => said(element("h4"), () => label(name));
  const panel = (...children) => element("div", { className: "rx-panel" }, ...children);

  root.append(
    element("style", { textContent: COMMON_CSS + FLOW_CSS + ROUTING_CSS }),
    element("div", { className: "rx-row rx-head" },
      element("div", {}, said(element("div", { className: "rx-title" }), () => label("title")),
        said(element("div", { className: "rx-muted" }), () => label("summary", { ...data.about, layers: layers.length, tokens, topK, numExperts }))),
      languages),
    element("div", { className: "rx-row" },
      element("span", { className: "rx-set" }, step("−", -1), slider, step("+", 1), now),
      element("span", { className: "rx-set" }, said(element("span", { className: "rx-muted" }), () => label("colour")), colours),
      play.button, legend),
    ...(source ? [ownText(data, page, source, again)] : []),
    text,
    element("div", { className: "rx-panels" },
      ...(flow ? [element("div", { className: "rx-panel rx-wide" }, heading("flow"),
        said(element("p", { className: "rx-muted" }), () => label("flowNote")), flow.svg)] : []),
      panel(heading("experts"), about, grid, list),
      panel(heading("load"), loadNote, histogram),
      element("div", { className: "rx-panel rx-wide" }, heading("map"),
        said(element("p", { className: "rx-muted" }), () => label("mapNote")), map, weightLegend)),
    element("details", { ontoggle: fillTable }, said(element("summary"), () => label("table")), table),
    captions, live);
  if (!entropy) colours.lastChild.disabled = true;

  // ------------------------------------------------------------------------------------------ what changes

  function update(changes) {
    const before = { ...state };
    Object.assign(state, changes);
    const first = root.dataset.theme === undefined;
    const changed = (...names) => first || names.some((name) => state[name] !== before[name]);
    const repaint = page.takeTheme();
    if (changed("lang") || repaint) translate();
    if (changed("layer", "colour", "pinned") || repaint) inView.forEach(paintChip);
    if (changed("token")) select(before.token);
    if (flow && changed("token")) flow.show(ways, state.token, play.isPlaying() ? STEP_MS / 1000 : 0);
    if (flow && changed("lang")) flow.name((row) => label("layerNow", { layer: layers[row] }));
    if (changed("layer", "lang")) drawLoad();
    if (changed("token") || repaint) drawMap();
    if (changed("token", "layer", "lang", "pinned", "colour") || repaint) describe();
    if (changed("token", "lang", "layer")) fillTable();
  }

  function translate() {
    page.translate();
    captions.replaceChildren(...data.captions[state.lang].map((line) => element("li", { textContent: line })));
  }

  // Only the chips in view are painted, so that a text of thousands of tokens follows the slider at once.
  const inView = new Set();
  const viewWatcher = new IntersectionObserver((entries) => {
    if (inView.size === 0) reveal(); // JupyterLab draws the page after it has called render
    for (const { target, isIntersecting } of entries) {
      const token = Number(target.dataset.token);
      if (!isIntersecting) inView.delete(token);
      else {
        inView.add(token);
        paintChip(token);
      }
    }
  }, { root: text, rootMargin: "120px" });

  function paintChip(token) {
    const { layer, colour, pinned } = state, button = chips[token], expert = experts[place(layer, token)];
    const byEntropy = colour === "entropy";
    const background = byEntropy ? scale(share(layer, token)) : expertColour(expert);
    button.style.background = background;
    button.style.color = inkOn(background);
    button.lastChild.textContent = byEntropy ? share(layer, token).toFixed(2).replace(/^0/, "") : expert;
    button.classList.toggle("rx-dim", pinned !== null && !chosen(layer, token).includes(pinned));
  }

  function select(before) {
    chips[before].setAttribute("aria-pressed", "false");
    chips[before].tabIndex = -1;
    const button = chips[state.token];
    button.setAttribute("aria-pressed", "true");
    button.tabIndex = 0;
    reveal();
  }

  function reveal() {
    const button = chips[state.token], top = button.offsetTop - text.offsetTop; // scrolls the text alone, never the page
    if (top < text.scrollTop || top + button.offsetHeight > text.scrollTop + text.clientHeight)
      text.scrollTop = top - text.clientHeight / 2;
  }

  function describe() {
    const { token, layer } = state, ids = [...chosen(layer, token)];
    slider.value = layer;
    slider.setAttribute("aria-valuetext", String(layers[layer]));
    now.textContent = label("layerNow", { layer: layers[layer] });
    page.press(colours, state.colour);
    about.textContent = label("about", { token, text: texts[token], id: data.tokenIds[token], bytes: data.bytes[token] })
      + (entropy ? label("aboutEntropy", { value: (share(layer, token) * Math.log(numExperts)).toFixed(2), max: Math.log(numExperts).toFixed(2) }) : "");
    tiles.forEach((tile, expert) => {
      const k = ids.indexOf(expert), lit = k >= 0;
      const value = lit && weights ? weight(layer, token, k) : null;
      const colour = expertColour(expert);
      tile.classList.toggle("rx-lit", lit);
      tile.setAttribute("aria-pressed", state.pinned === expert);
      tile.style.background = lit ? filled(colour, value) : "";
      tile.style.color = lit ? "var(--on)" : "";
      tile.lastChild.textContent = value === null ? "" : value.toFixed(2);
      tile.title = label("tile", { expert });
      tile.setAttribute("aria-label", [label("chosen", { expert }), ...(lit ? [label("chosenHere")] : []), ...(value === null ? [] : [value.toFixed(2)])].join(", "));
    });
    list.replaceChildren(...ids.map((expert, k) => {
      const bar = element("i");
      bar.style.background = expertColour(expert);
      bar.style.width = `${weights ? Math.max(2, 90 * weight(layer, token, k)) : 0}px`;
      const item = element("li", {}, label("chosen", { expert }), bar, weights ? weight(layer, token, k).toFixed(3) : label("noWeight"));
      item.dataset.expert = expert;
      return item;
    }));
    for (const bar of histogram.querySelectorAll(".rx-bar")) {
      const lit = ids.includes(Number(bar.dataset.expert));
      bar.classList.toggle("rx-lit", lit);
      bar.style.fill = lit ? expertColour(Number(bar.dataset.expert)) : "";
    }
    map.querySelector(".rx-here").setAttribute("y", mapTop + layer * rowHeight);
    for (const name of map.querySelectorAll(".rx-name")) name.classList.toggle("rx-strong", Number(name.dataset.row) === layer);
    legend.replaceChildren(...(state.colour === "entropy" ? gradient("0", label("legendEntropy")) : [label("legendExpert")]));
    if (state.pinned !== null) legend.append(` · ${label("pinned", { expert: state.pinned, tokens, count: loadOf(layer)[state.pinned] })}`);
    weightLegend.textContent = weights ? "" : label("noWeight");
    live.textContent = label("spoken", { token, text: texts[token], layer: layers[layer],
      experts: ids.map((expert, k) => (weights ? `${expert} (${weight(layer, token, k).toFixed(2)})` : expert)).join(", ") });
  }

  // A tile of an expert's colour, filled from below as far as its weight; what is above is paler, as in the figures.
  const filled = (colour, value) => (value === null ? colour
    : `linear-gradient(to top, ${colour} ${100 * value}%, color-mix(in srgb, ${colour} 35%, white) ${100 * value}%)`);

  function gradient(low, high) {
    const bar = element("span", { className: "rx-scale" });
    bar.style.background = `linear-gradient(to right, ${Array.from({ length: 9 }, (_, place) => scale(place / 8)).join(", ")})`;
    return [low, bar, high];
  }

  function loadOf(layer) {
    const counts = new Array(numExperts).fill(0);
    for (const expert of experts.subarray(place(layer, 0), place(layer, tokens))) counts[expert]++;
    return counts;
  }

  function drawLoad() {
    const counts = loadOf(state.layer);
    const uniform = (tokens * topK) / numExperts, highest = Math.max(...counts, uniform) * 1.04;
    const full = unitsOf(histogram, many ? 290 : 190), left = 34, width = full - left, base = many ? 264 : 164, height = base - 14, slot = width / numExperts;
    const y = (count) => base - (height * count) / highest;
    const unused = counts.filter((count) => count === 0).length;
    loadNote.textContent = label("loadNote", { layer: layers[state.layer], uniform: Number(uniform.toFixed(1)), gini: data.gini[state.layer].toFixed(2), unused });
    histogram.setAttribute("aria-label", loadNote.textContent);
    const every = many ? numExperts / 8 : 1;
    histogram.replaceChildren(
      ...[0, Math.max(...counts)].map((count) => drawing("text", { x: left - 6, y: y(count) + 4, "text-anchor": "end" }, String(count))),
      ...counts.map((count, expert) => {
        const bar = drawing("rect", { class: "rx-bar", x: left + expert * slot + slot * 0.1, width: slot * 0.8, y: y(count), height: Math.max(base - y(count), 1) },
          drawing("title", {}, `${label("chosen", { expert })}: ${count}`));
        bar.dataset.expert = expert;
        bar.onclick = () => pin(expert);
        return bar;
      }),
      ...counts.map((_, expert) => expert).filter((expert) => expert % every === 0).map((expert) =>
        drawing("text", { x: left + (expert + 0.5) * slot, y: base + 15, "text-anchor": "middle" }, String(expert))),
      drawing("line", { class: "rx-uniform", x1: left, x2: left + width, y1: y(uniform), y2: y(uniform) }));
  }

  const mapTop = 18, mapLeft = 34, rowHeight = layers.length > 12 ? 9 : 22;
  function drawMap() {
    const bottom = mapTop + layers.length * rowHeight, mapWidth = unitsOf(map, bottom + 2) - mapLeft - 1;
    const slot = mapWidth / numExperts, every = many ? numExperts / 16 : 1;
    map.setAttribute("aria-label", label("map"));
    const rows = layers.map((layer, row) => {
      const line = drawing("rect", { class: "rx-line", x: mapLeft, y: mapTop + row * rowHeight + 0.5, width: mapWidth, height: rowHeight - 1, rx: 2 });
      line.onclick = () => update({ layer: row });
      const cells = [...chosen(row, state.token)].map((expert, k) => {
        const value = weights ? weight(row, state.token, k) : null;
        const cell = drawing("rect", { class: "rx-cell", x: mapLeft + expert * slot + 0.5, y: mapTop + row * rowHeight + 0.5,
          width: slot - 1, height: rowHeight - 1, rx: 2, fill: expertColour(expert), "fill-opacity": value === null ? 1 : 0.25 + 0.75 * Math.min(1, value / heaviest) });
        Object.assign(cell.dataset, { row, expert });
        return cell;
      });
      const name = rowHeight > 12 || row % 4 === 0
        ? [drawing("text", { class: "rx-name", x: mapLeft - 7, y: mapTop + (row + 0.5) * rowHeight + 4, "text-anchor": "end", "data-row": row }, String(layer))] : [];
      return [line, ...cells, ...name];
    });
    const names = Array.from({ length: numExperts }, (_, expert) => expert).filter((expert) => expert % every === 0)
      .map((expert) => drawing("text", { x: mapLeft + (expert + 0.5) * slot, y: mapTop - 5, "text-anchor": "middle" }, String(expert)));
    map.replaceChildren(...names, ...rows.flat(), drawing("rect", { class: "rx-here", x: mapLeft - 1, width: mapWidth + 2, height: rowHeight, rx: 3,
      y: mapTop + state.layer * rowHeight }));
  }

  function fillTable() {
    if (!table.parentNode.open) return;
    const head = element("tr", {}, ...["layer", "expertIds", "weights"].map((name) => element("th", { textContent: label(name) })));
    table.replaceChildren(head, ...layers.map((layer, row) => {
      const ids = [...chosen(row, state.token)];
      const cells = [layer, ids.join(", "), weights ? ids.map((_, k) => weight(row, state.token, k).toFixed(3)).join(", ") : label("noWeight")];
      return element("tr", { className: row === state.layer ? "rx-lit" : "" }, ...cells.map((textContent) => element("td", { textContent })));
    }));
  }

  // ------------------------------------------------------------------------------------------ what the reader does

  const clamp = (value, highest) => Math.min(highest, Math.max(0, value));
  const pin = (expert) => update({ pinned: state.pinned === expert ? null : expert });
  const moveLayer = (by) => update({ layer: clamp(state.layer + by, layers.length - 1) });

  text.onkeydown = (event) => {
    const moves = { ArrowLeft: { token: state.token - 1 }, ArrowRight: { token: state.token + 1 }, Home: { token: 0 },
      End: { token: tokens - 1 }, ArrowUp: { layer: state.layer - 1 }, ArrowDown: { layer: state.layer + 1 } };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    update({ token: clamp(move.token ?? state.token, tokens - 1), layer: clamp(move.layer ?? state.layer, layers.length - 1) });
    chips[state.token].focus({ preventScroll: true });
  };

  function again(answered) { // the same explorer with another text
    leave();
    root.remove();
    const anew = { ...data, ...answered, lang: state.lang };
    leave = render({ model: { get: () => anew }, el, source });
  }

  el.append(root);
  if (flow) named(flow.svg, () => label("flow"));
  update({});
  for (const button of chips) viewWatcher.observe(button);
  const stopWatching = onWidth(map, () => {
    drawLoad();
    drawMap();
    describe();
  });
  const paintAll = () => { // what was never in view is printed, too
    for (const token of chips.keys()) paintChip(token);
  };
  addEventListener("beforeprint", paintAll);
  let leave = () => {
    play.stop();
    stopWatching();
    removeEventListener("beforeprint", paintAll);
    viewWatcher.disconnect();
    page.leave();
  };
  return () => leave();
}

// ------------------------------------------------------------------------------------------ the reader's own text

let starting = null; // a promise of the model's config.json, once for all explorers of a page
let worker = null; // in which the model runs
const heard = new Map(); // by job: what to do with its messages
let jobs = 0;

// source: fromSite or fromKernel. onAnswer gets what replaces data.
function ownText(data, page, source, onAnswer) {
  const { label, said, named } = page, { labels } = data;
  const input = element("input", { type: "text", maxLength: 2000 }), note = element("span", { className: "rx-muted" });
  named(said(input, () => label("own"), "placeholder"), () => label("own"));
  note.setAttribute("role", "status");
  input.dir = "auto";
  async function submit(event) {
    event.preventDefault();
    if (!input.value.trim()) return;
    try {
      note.textContent = label("working");
      const config = await loaded(source, (share) => { note.textContent = label("fetching", { percent: Math.round(100 * share) }); });
      note.textContent = label("working");
      const tokens = [];
      await ask({ kind: "run", text: input.value }, (message) => tokens.push(...message.tokens));
      onAnswer(asTrace(tokens, config.num_experts, labels, label("here")));
    } catch (error) {
      note.textContent = label(error === SILENT ? "silent" : "failed");
    }
  }
  return element("form", { className: "rx-own", onsubmit: submit }, input,
    said(element("button", { type: "submit", className: "rx-step" }), () => label("ask")), note);
}

// Both give the address of the worker's script, and what its job `load` takes: the files or where they are.
const fromSite = ({ engine, folder, files }) => async () => ({ script: engine, asked: { files, folder, contents: null } });

const SILENT = new Error("The kernel does not answer.");
const PATIENCE_MS = 60_000; // a cell that runs keeps the kernel from answering
const fromKernel = (model) => () => new Promise((resolve, reject) => {
  const take = ({ files }, [script, ...parts]) => {
    clearTimeout(late);
    model.off("msg:custom", take);
    const own = (view) => new Uint8Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
    const contents = Object.fromEntries(Object.keys(files).map((name, place) => [name, own(parts[place])]));
    resolve({ script: URL.createObjectURL(new Blob([script], { type: "text/javascript" })), asked: { files, contents } });
  };
  const late = setTimeout(() => {
    model.off("msg:custom", take);
    reject(SILENT);
  }, PATIENCE_MS);
  model.on("msg:custom", take);
  model.send({ type: "model" });
});

function ask(message, onProgress, job = ++jobs) {
  return new Promise((resolve, reject) => {
    heard.set(job, (said) => {
      if (said.kind === "done") resolve(said);
      else if (said.kind === "error") reject(new Error(said.code));
      else onProgress(said);
    });
    worker.postMessage({ job, ...message });
  });
}

function loaded(source, onShare) {
  starting ??= start(source, onShare).catch((error) => {
    worker?.terminate();
    starting = null;
    throw error;
  });
  return starting;
}

async function start(source, onShare) {
  const { script, asked } = await source();
  worker = new Worker(script);
  worker.onmessage = ({ data }) => heard.get(data.job)?.(data);
  const broken = new Promise((_, reject) => { worker.onerror = () => reject(new Error("no worker")); });
  const load = ask({ kind: "load", cache: "default", ...asked }, ({ share }) => onShare(share));
  return (await Promise.race([load, broken])).config;
}

// What the model in the page said of its tokens, as the data of an explorer.
function asTrace(tokens, numExperts, labels, place) {
  const layers = tokens[0].routes.length, topK = tokens[0].routes[0].length;
  const each = (pick) => Array.from({ length: layers }, (_, layer) => tokens.flatMap((token) => pick(token, layer))).flat();
  const experts = Uint8Array.from(each(({ routes }, layer) => routes[layer].map(([expert]) => expert)));
  const counts = Array.from({ length: layers }, () => new Array(numExperts).fill(0));
  experts.forEach((expert, at) => { counts[Math.floor(at / (tokens.length * topK))][expert]++; });
  return {
    about: { model: "qwen3-moe-tiny", captured_with: place },
    layers: Array.from({ length: layers }, (_, layer) => layer), numExperts, topK,
    captions: { zh: [labels.zh.ownCaption], en: [labels.en.ownCaption] },
    texts: tokens.map((token) => token.label), tokenIds: tokens.map(({ id }) => id), groups: {},
    bytes: tokens.map(({ bytes }) => Array.from(bytes, (byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ")),
    promptLength: tokens.filter(({ part }) => part === "prompt").length,
    gini: counts.map(gini), experts,
    weights: Uint16Array.from(each(({ routes }, layer) => routes[layer].map(([, weight]) => Math.round(65535 * weight)))),
    entropy: Uint16Array.from(each(({ entropies }, layer) => [Math.round((65535 * entropies[layer]) / Math.log(numExperts))])),
    token: tokens.findIndex(({ part }) => part !== "prompt"), layer: 0,
  };
}

// As helpers.routing.gini: 0 where all experts are equally loaded.
function gini(counts) {
  const ordered = counts.slice().sort((a, b) => a - b), total = ordered.reduce((sum, count) => sum + count, 0), n = counts.length;
  return ordered.reduce((sum, count, rank) => sum + (2 * (rank + 1) - n - 1) * count, 0) / (n * total);
}

export default { render };
