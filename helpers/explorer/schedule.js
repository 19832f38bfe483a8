// The schedule explorer: which tokens vLLM's scheduler chose in every step, the block pool, and the step in words.
// Stands behind common.js, see helpers/explorer/page.py.

const SCHEDULE_CSS = `
.sc-step { width:clamp(110px,44cqw,420px); accent-color:var(--accent); margin:0; }
.sc-now { font-weight:650; min-width:7em; font-variant-numeric:tabular-nums; }
.sc-words { margin:12px 0; min-height:9.4em; }
.sc-words ul { margin:2px 0 0; padding-left:18px; }
.sc-words li { margin:1px 0; overflow-wrap:anywhere; }
.sc-legend { display:flex; flex-wrap:wrap; gap:3px 16px; margin:0 0 8px; color:var(--muted); font-size:var(--small); }
.sc-legend span { display:inline-flex; align-items:center; gap:6px; }
.rx .sc-legend svg { width:20px; height:14px; flex:none; }
.sc-scroll { max-height:380px; overflow-y:auto; position:relative; cursor:crosshair; border-radius:8px; }
.sc-axis { position:sticky; top:0; background:var(--panel); z-index:1; }
.sc-prefill, .sc-chunk { fill:var(--first); }
.sc-decode { fill:var(--third); }
.sc-waiting { fill:var(--bg); stroke:var(--muted); stroke-width:.8; }
.sc-preempted { fill:var(--second); }
.sc-idle { fill:var(--muted); }
.sc-end { fill:var(--ink); }
.rx svg text.sc-count { fill:var(--bg); }
.sc-row { fill:var(--accent); opacity:.13; }
.sc-cursor { fill:var(--accent); opacity:.22; pointer-events:none; }
.sc-cursor-line { stroke:var(--accent); stroke-width:1.6; pointer-events:none; }
.sc-panels { display:grid; grid-template-columns:minmax(0,1.25fr) minmax(0,1fr); gap:12px; margin-top:12px; }
@container (max-width:720px) { .sc-panels { grid-template-columns:minmax(0,1fr); } }
.sc-panels .rx-muted { margin:0 0 8px; overflow-wrap:anywhere; }
.sc-pool-scroll { max-height:320px; overflow-y:auto; }
.sc-free { fill:var(--bg); stroke:var(--line); stroke-width:1; }
.sc-used { fill:var(--quiet); stroke:var(--muted); stroke-width:.7; }
.sc-gaps { fill:none; stroke:var(--panel); stroke-width:3; }
.sc-frame { fill:none; stroke:var(--ink); stroke-width:1.8; }
.sc-ring { fill:none; stroke:var(--on); stroke-width:1.2; }
.sc-coloured { stroke:rgba(0,0,0,.28); stroke-width:.8; }
.rx svg text.sc-id { fill:var(--ink); text-anchor:middle; }
.rx svg text.sc-on { fill:var(--on); text-anchor:middle; }
.rx svg text.sc-mute { fill:var(--muted); text-anchor:middle; }
.sc-choose { display:flex; flex-wrap:wrap; gap:4px; margin:0 0 8px; max-height:96px; overflow-y:auto; }
.rx .sc-choose button { border:1px solid var(--line); border-radius:6px; background:transparent; padding:1px 8px; margin:0; cursor:pointer;
  font-size:var(--small); display:inline-flex; align-items:center; gap:5px; }
.rx .sc-choose button[aria-pressed=true] { border-color:var(--accent); box-shadow:0 0 0 1px var(--accent); font-weight:650; }
.sc-choose i { width:10px; height:10px; border-radius:3px; border:1px solid rgba(0,0,0,.28); }
.sc-facts { display:flex; flex-wrap:wrap; gap:2px 20px; margin:0 0 6px; font-variant-numeric:tabular-nums; }
.sc-facts b { font-weight:650; }
.rx .sc-table { overflow-x:auto; }
.rx td:first-child, .rx th:first-child, .rx td:nth-child(2), .rx th:nth-child(2) { text-align:left; }
`;

const SCHEDULE_STEP_MS = 450; // one step while playing
const KEYFRAME = 64; // steps between two states that are kept
const NAMED = 5; // requests that a sentence names
const COLOURED = 7; // requests that have a colour each; the eighth is that of shared blocks
const NUMBERED = 160; // blocks in a pool whose ids have room

// The replay of helpers/schedule.py: the state of the scheduler in any step, from what each step changed.
function schedule({ requests, steps, settings }) {
  const byStep = (name) => {
    const found = new Map();
    for (const [number, request] of requests.entries()) {
      if (request[name] === null) continue;
      if (!found.has(request[name])) found.set(request[name], []);
      found.get(request[name]).push(number);
    }
    return found;
  };
  const coming = byStep("arrived"), going = byStep("gone");
  const numbered = (values) => Object.entries(values ?? {}).map(([request, value]) => [Number(request), value]);
  const entries = steps.map((step) => ({ free: null, preempted: [], ...step, tokens: numbered(step.tokens), blocks: numbered(step.blocks),
    computed: numbered(step.computed), drafts: new Map(numbered(step.drafts)), accepted: new Map(numbered(step.accepted)) }));

  const start = () => ({ index: 0, free: settings.num_blocks - 1, alive: new Set(), known: new Map(), tokens: new Map(), computed: new Map(),
    tables: new Map(), drafts: new Map(), accepted: new Map() });
  const copy = (state) => ({ ...state, alive: new Set(state.alive), known: new Map(state.known), tokens: new Map(state.tokens),
    computed: new Map(state.computed), tables: new Map(state.tables) });

  function settle({ tokens, computed, known, drafts, accepted }) {
    for (const [request, number] of tokens) {
      computed.set(request, computed.get(request) + number);
      const rejected = (drafts.get(request) ?? 0) - (accepted.get(request) ?? 0);
      known.set(request, Math.max(known.get(request), computed.get(request) + 1 - rejected));
    }
  }

  // One step further; `released` gets how many blocks of whoever left are free then, and how many others still hold.
  function advance(state, released = null) {
    const entry = entries[state.index];
    const release = (request) => {
      const blocks = state.tables.get(request) ?? [];
      for (const part of [state.tables, state.computed, state.tokens]) part.delete(request);
      if (!released) return;
      const held = new Set([...state.tables.values()].flat()), stay = blocks.filter((block) => held.has(block)).length;
      released.set(request, { free: blocks.length - stay, stay });
    };
    settle(state);
    for (const request of going.get(state.index) ?? []) {
      state.alive.delete(request);
      release(request);
    }
    for (const request of coming.get(state.index) ?? []) state.alive.add(request);
    for (const request of entry.preempted) release(request);
    for (const [request, blocks] of entry.blocks) {
      state.tables.set(request, [...(state.tables.get(request) ?? []), ...blocks]);
      if (!state.computed.has(request)) state.computed.set(request, 0);
      if (!state.known.has(request)) state.known.set(request, requests[request].prompt);
    }
    for (const [request, number] of entry.computed) state.computed.set(request, number);
    for (const [request, number] of entry.tokens)
      if (number) state.tokens.set(request, number);
      else state.tokens.delete(request);
    Object.assign(state, { drafts: entry.drafts, accepted: entry.accepted, free: entry.free ?? state.free, index: state.index + 1 });
  }

  // What a step looks like from the state behind it: see `Step` in helpers/schedule.py.
  function look(state, before) {
    const index = state.index - 1, { preempted } = entries[index];
    const fresh = (request) => !before.tables.has(request) || preempted.includes(request);
    const kind = (request) => {
      const computed = state.computed.get(request), known = state.known.get(request);
      if (computed >= Math.max(requests[request].prompt, known - 1)) return "decode";
      return fresh(request) && computed + state.tokens.get(request) >= known ? "prefill" : "chunk";
    };
    const began = [...state.tables.keys()].filter(fresh), ran = (request) => before.known.has(request);
    return { ...state, index, preempted, arrived: coming.get(index) ?? [], gone: going.get(index) ?? [],
      kinds: new Map([...state.tokens.keys()].map((request) => [request, kind(request)])),
      waiting: [...state.alive].filter((request) => !state.tables.has(request)),
      started: began.filter((request) => !ran(request)), resumed: began.filter(ran), ran };
  }

  // `see(step)` for each step from one up to another; the kept states make it quick to begin anywhere.
  const kept = [start()];
  function walk(from, to, see) {
    const state = copy(kept[Math.min(Math.floor(from / KEYFRAME), kept.length - 1)]);
    while (state.index < to) {
      if (state.index % KEYFRAME === 0 && state.index / KEYFRAME === kept.length) kept.push(copy(state));
      const wanted = state.index >= from, before = wanted ? { tables: new Set(state.tables.keys()), known: new Set(state.known.keys()) } : null;
      const released = wanted ? new Map() : null;
      advance(state, released);
      if (wanted) see({ ...look(state, before), released });
    }
  }
  const at = (index) => {
    let found = null;
    walk(index, index + 1, (step) => {
      found = copy(step);
    });
    return found;
  };
  return { walk, at };
}

// How a request is in a step, for its row.
function conditionOf(step, request) {
  if (step.kinds.has(request)) return step.kinds.get(request);
  if (step.tables.has(request)) return "idle";
  return step.ran(request) ? "preempted" : "waiting";
}

// The outline of boxes [x, y, width, height] as one path.
const tenth = (value) => Math.round(value * 10) / 10;
const boxes = (all) => all.map(([x, y, width, height]) => `M${tenth(x)} ${tenth(y)}h${tenth(width)}v${tenth(height)}h${-tenth(width)}z`).join("");

// Draws [key, how it is drawn] one behind the other into a drawing; what has its key at its place already stays.
function refill(parent, wanted) {
  for (const [place, [key, draw]] of wanted.entries()) {
    const there = parent.childNodes[place];
    if (there?.drawnFor === key) continue;
    const node = Object.assign(draw(), { drawnFor: key });
    if (there) there.replaceWith(node);
    else parent.append(node);
  }
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}

function render({ model, el }) {
  const data = model.get("data");
  const { requests, settings } = data.trace, count = data.trace.steps.length;
  const replay = schedule(data.trace), few = requests.length <= COLOURED;
  const state = { step: data.step, request: data.request, view: count > 90 ? "whole" : "close", lang: pageLanguage(data.lang) };
  const page = explorerPage(data.labels, state, update);
  const { root, label, said, named, choice, languages, player } = page;
  const colourOf = (request) => data.colours[request % COLOURED], sharedColour = data.colours[COLOURED];
  let now = stepAt(state.step);

  const runs = requests.map(() => []); // by request [first step, end, condition]
  replay.walk(0, count, (step) => {
    for (const request of step.alive) {
      const condition = conditionOf(step, request), last = runs[request].at(-1);
      if (last && last[1] === step.index && last[2] === condition) last[1]++;
      else runs[request].push([step.index, step.index + 1, condition]);
    }
  });

  function stepAt(index) { // with who holds each block that is in use
    const step = replay.at(index), holders = new Map();
    for (const [request, blocks] of step.tables)
      for (const block of blocks) {
        if (holders.has(block)) holders.get(block).push(request);
        else holders.set(block, [request]);
      }
    return { ...step, holders };
  }

  // ------------------------------------------------------------------------------------------ the page, once

  const slider = named(element("input", { className: "sc-step", type: "range", min: 0, max: count - 1, step: 1,
    oninput: () => update({ step: Number(slider.value) }) }), () => label("step"));
  const stepBy = (sign, by) => element("button", { type: "button", className: "rx-step", ariaHidden: "true", tabIndex: -1, textContent: sign,
    onclick: () => move({ step: state.step + by }) });
  const nowShown = element("output", { className: "sc-now" });
  const play = player("sc-play", SCHEDULE_STEP_MS, {
    isLast: () => state.step === count - 1, rewind: () => update({ step: 0 }), next: () => update({ step: state.step + 1 }),
  });
  const views = choice([["whole", () => label("whole")], ["close", () => label("close")]], (view) => update({ view }));
  const words = element("ul");
  const legend = element("div", { className: "sc-legend" });
  const axis = drawing("svg", { class: "sc-axis", "aria-hidden": "true" });
  const rows = drawing("svg", { class: "sc-rows", role: "img" });
  const scroll = element("div", { className: "sc-scroll", tabIndex: 0 }, axis, rows);
  scroll.setAttribute("role", "group");
  named(scroll, () => label("keys"));
  const facts = element("p", { className: "sc-facts" });
  const poolNote = element("p", { className: "rx-muted" });
  const poolBoxes = drawing("g", {}), poolIds = drawing("g", {});
  const pool = drawing("svg", { role: "img", class: "sc-pool" }, poolBoxes, poolIds);
  const choose = element("div", { className: "sc-choose" }, ...requests.map((_, request) => {
    const button = element("button", { type: "button", value: request, onclick: () => update({ request }) });
    if (few) {
      const swatch = element("i");
      swatch.style.background = colourOf(request);
      button.append(swatch);
    }
    button.append(`r${request}`);
    return button;
  }));
  const tableNote = element("p", { className: "rx-muted sc-about" });
  const blockTable = drawing("svg", { role: "img", class: "sc-blocks" });
  const table = element("table");
  const captions = element("ul", { className: "rx-captions" });
  const live = element("div", { className: "rx-live" });
  live.setAttribute("aria-live", "polite");
  const heading = (name) => said(element("h4"), () => label(name));

  root.append(
    element("style", { textContent: COMMON_CSS + SCHEDULE_CSS }),
    element("div", { className: "rx-row rx-head" },
      element("div", {}, said(element("div", { className: "rx-title" }), () => label("title")),
        said(element("div", { className: "rx-muted" }), () => label(data.about.vllm ? "summary" : "summaryPlanned", { ...data.about, requests: requests.length, steps: count,
          blocks: settings.num_blocks - 1, size: settings.block_size }))),
      languages),
    element("div", { className: "rx-row" },
      element("span", { className: "rx-set" }, stepBy("−", -1), slider, stepBy("+", 1)), nowShown, play.button, views),
    element("div", { className: "rx-panel sc-words" }, facts, words),
    element("div", { className: "rx-panel" }, heading("timeline"), legend, scroll),
    element("div", { className: "sc-panels" },
      element("div", { className: "rx-panel" }, heading("pool"), poolNote, element("div", { className: "sc-pool-scroll" }, pool)),
      element("div", { className: "rx-panel" }, heading("blockTable"), choose, tableNote, blockTable)),
    element("details", { ontoggle: fillTable }, said(element("summary"), () => label("table")), element("div", { className: "sc-table" }, table)),
    captions, live);

  // ------------------------------------------------------------------------------------------ what changes

  function update(changes) {
    const before = { ...state }, first = root.dataset.theme === undefined;
    Object.assign(state, changes);
    page.takeTheme();
    const changed = (...names) => first || names.some((name) => state[name] !== before[name]);
    if (changed("step")) now = stepAt(state.step);
    if (changed("lang")) translate();
    if (changed("view", "lang", "request") || (state.view === "close" && changed("step"))) drawRows();
    if (changed("step", "lang", "view", "request")) show();
    if (changed("request")) reveal();
  }

  function translate() {
    page.translate();
    captions.replaceChildren(...data.captions[state.lang].map((line) => element("li", { textContent: line })));
    legend.replaceChildren(...["prefill", "decode", "waiting", "preempted", "idle", "end"].filter(occurs).map((name) => {
      const sample = drawing("svg", { viewBox: "0 0 20 14" }, ...mark(name, 0, 0, 20, 14));
      return element("span", {}, sample, label(name));
    }));
  }

  function occurs(name) {
    return name === "end" || runs.some((all) => all.some(([, , condition]) => condition === name || (name === "prefill" && condition === "chunk")));
  }

  function show() {
    const poolWidth = pool.clientWidth, tableWidth = blockTable.clientWidth; // before anything is written: a layout less
    slider.value = state.step;
    slider.setAttribute("aria-valuetext", String(state.step));
    nowShown.textContent = label("now", { step: state.step, last: count - 1 });
    page.press(views, state.view);
    for (const button of choose.children) button.setAttribute("aria-pressed", Number(button.value) === state.request);
    const total = [...now.tokens.values()].reduce((sum, number) => sum + number, 0);
    facts.replaceChildren(...[["factTokens", total, settings.max_num_batched_tokens], ["factRunning", now.tables.size, settings.max_num_seqs],
      ["factFree", now.free, settings.num_blocks - 1], ["factWaiting", now.waiting.length, null]].map(([name, value, most]) =>
      element("span", {}, `${label(name)} `, element("b", { textContent: most === null ? value : `${value} / ${most}` }))));
    const lines = sentences(now);
    words.replaceChildren(...lines.map((textContent) => element("li", { textContent })));
    if (!play.isPlaying()) live.textContent = `${nowShown.textContent}: ${lines.join(" ")}`;
    placeCursor();
    drawPool(poolWidth);
    drawTable(tableWidth);
    fillTable();
  }

  // ------------------------------------------------------------------------------------------ the step in words

  const names = (all) => all.length <= NAMED + 1 ? all.map((request) => `r${request}`).join(label("comma"))
    : label("more", { names: names(all.slice(0, NAMED)), count: all.length - NAMED });
  const each = (all, sentence, rest) => [...all.slice(0, NAMED).map(sentence),
    ...(all.length > NAMED ? [label(rest, { names: names(all.slice(NAMED)) })] : [])];
  const blocksOf = (number) => label(number === 1 ? "oneBlock" : "blocks", { count: number });

  function givenBack(step, request) {
    const { free, stay } = step.released.get(request);
    return label("gives", { blocks: blocksOf(free) }) + (stay ? label("stay", { count: stay }) : "");
  }

  function sentences(step) {
    const { tokens, computed, known } = step;
    const hit = (request) => step.started.concat(step.resumed).includes(request) ? computed.get(request) : 0;
    const fill = (request) => ({ request: `r${request}`, tokens: tokens.get(request), hit: hit(request), prompt: requests[request].prompt,
      known: known.get(request), from: computed.get(request), to: computed.get(request) + (tokens.get(request) ?? 0) });
    const onward = [...tokens.keys()].filter((request) => step.kinds.get(request) !== "decode" && !step.started.concat(step.resumed).includes(request));
    const decoding = [...tokens.keys()].filter((request) => step.kinds.get(request) === "decode");
    const plain = decoding.filter((request) => !step.drafts.has(request)), guessing = decoding.filter((request) => step.drafts.has(request));
    const reason = (request) => data.labels[state.lang][`reason_${requests[request].reason}`] ? label(`reason_${requests[request].reason}`) : "";
    return [
      ...each(step.gone, (request) => label("gone", { request: `r${request}`, reason: reason(request), outputs: requests[request].outputs,
        gives: givenBack(step, request) }), "goneMore"),
      ...(step.arrived.length ? [label("arrived", { names: names(step.arrived) })] : []),
      ...each(step.preempted, (request) => label("preemptedNow", { request: `r${request}`, gives: givenBack(step, request) }), "preemptedMore"),
      ...each(step.resumed, (request) => label(hit(request) ? "resumedHit" : "resumed", fill(request)), "resumedMore"),
      ...each(step.started, (request) => label(hit(request) ? "startedHit" : "started", fill(request)), "startedMore"),
      ...each(onward, (request) => label(computed.get(request) < requests[request].prompt ? "onward" : "again", fill(request)), "onwardMore"),
      ...(plain.length ? [label("decoding", { names: names(plain) })] : []),
      ...each(guessing, (request) => label("guessing", { ...fill(request), drafts: step.drafts.get(request), accepted: step.accepted.get(request) ?? 0 }), "guessingMore"),
      ...(step.waiting.length ? [label("waits", { names: names(step.waiting) }) + why(step)] : []),
    ];
  }

  // Why the first in the queue does not run: the scheduler's own order of reasons.
  function why(step) {
    const first = step.waiting[0], total = [...step.tokens.values()].reduce((sum, number) => sum + number, 0);
    const needs = Math.ceil((step.known.get(first) ?? requests[first].prompt) / settings.block_size);
    if (step.preempted.length) return label("whyPreempted");
    if (step.tables.size >= settings.max_num_seqs) return label("whySeats", { count: settings.max_num_seqs });
    if (total >= settings.max_num_batched_tokens) return label("whyBudget", { count: settings.max_num_batched_tokens });
    return needs > step.free ? label("whyBlocks", { request: `r${first}`, needs, free: step.free }) : label("whyNot");
  }

  // ------------------------------------------------------------------------------------------ requests and steps

  const LEFT = 42, TOP = 20;
  const rowHeight = requests.length <= 12 ? 22 : 16;
  let shown = { from: 0, to: count, width: 1, left: LEFT };

  // A condition as boxes: a prompt fills the height, new tokens a part of it, so that it shows without colour.
  function mark(condition, x, y, width, height) {
    if (condition === "end") return [drawing("path", { class: "sc-end", d: boxes([[x + width / 2 - 1.1, y + height * 0.1, 2.2, height * 0.8]]) })];
    return [drawing("path", { class: `sc-${condition}`, d: boxes([[x, ...heightOf(condition, y, height), width]].map(([a, b, c, d]) => [a, b, d, c])) })];
  }
  function heightOf(condition, y, height) { // its y and its height
    const part = { prefill: 0.82, chunk: 0.82, decode: 0.4, waiting: 0.22, preempted: 0.22, idle: 0.1 }[condition];
    return [y + (height * (1 - part)) / 2, height * part];
  }

  function drawRows() {
    const full = unitsOf(rows, requests.length * rowHeight + 4), room = full - LEFT - 8;
    const most = Math.max(8, Math.floor(room / 24)), close = state.view === "close" && count > most;
    const from = close ? Math.max(0, Math.min(count - most, state.step - Math.floor(most / 2))) : 0;
    const to = close ? from + most : count, width = room / Math.max(to - from, 8);
    shown = { from, to, width };
    const x = (step) => LEFT + (step - from) * width, gap = width > 6 ? 1 : 0;
    const paths = { waiting: [], preempted: [], idle: [], prefill: [], decode: [] }, ends = [], counts = [];
    for (const [request, all] of runs.entries()) {
      const y = request * rowHeight + 2;
      for (const [first, end, condition] of all) {
        const name = condition === "chunk" ? "prefill" : condition, [top, height] = heightOf(condition, y, rowHeight);
        const [begin, stop] = [Math.max(first, from), Math.min(end, to)];
        const single = gap && !["waiting", "preempted", "idle"].includes(condition); // a box a step
        for (let step = begin; step < stop; step += single ? 1 : stop - begin)
          paths[name].push([x(step), top, (single ? 1 : stop - step) * width - gap, height]);
      }
      const gone = requests[request].gone;
      if (gone !== null && gone > from && gone <= to) ends.push([x(gone) - (gap ? 0 : 1), y + rowHeight * 0.15, 2.2, rowHeight * 0.7]);
    }
    if (width >= 22 && rowHeight >= 16) replay.walk(from, to, (step) => {
      for (const [request, number] of step.tokens)
        if (step.kinds.get(request) !== "decode")
          counts.push(drawing("text", { class: "sc-count", x: x(step.index) + (width - gap) / 2, y: request * rowHeight + 2 + rowHeight / 2 + 4, "text-anchor": "middle" }, String(number)));
    });
    const labels = requests.map((_, request) => drawing("text", { x: LEFT - 8, y: request * rowHeight + 2 + rowHeight / 2 + 4, "text-anchor": "end",
      class: request === state.request ? "rx-strong" : "" }, `r${request}`));
    rows.replaceChildren(
      drawing("rect", { class: "sc-row", x: 0, width: full, y: state.request * rowHeight + 2, height: rowHeight }),
      ...Object.entries(paths).map(([name, all]) => drawing("path", { class: `sc-${name}`, d: boxes(all) })),
      drawing("path", { class: "sc-end", d: boxes(ends) }), ...counts, ...labels,
      drawing("rect", { class: "sc-cursor", y: 0, height: requests.length * rowHeight + 4 }),
      drawing("line", { class: "sc-cursor-line", y1: 0, y2: requests.length * rowHeight + 4 }));
    rows.setAttribute("aria-label", label("rows", { requests: requests.length, steps: count }));
    unitsOf(axis, TOP);
    const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000, 100000].find((step) => step * width >= 48) ?? 1e6;
    const ticks = [];
    for (let step = Math.ceil(from / every) * every; step < to; step += every)
      ticks.push(drawing("text", { x: x(step) + width / 2, y: 14, "text-anchor": "middle" }, String(step)));
    axis.replaceChildren(drawing("text", { x: LEFT - 8, y: 14, "text-anchor": "end" }, label("step")), ...ticks);
    placeCursor();
  }

  function placeCursor() {
    const box = rows.querySelector(".sc-cursor"), line = rows.querySelector(".sc-cursor-line"), width = Math.max(shown.width, 3);
    const left = LEFT + (state.step - shown.from + 0.5) * shown.width;
    box.setAttribute("x", left - width / 2);
    box.setAttribute("width", width);
    for (const name of ["x1", "x2"]) line.setAttribute(name, left);
    line.style.display = shown.width < 6 ? "" : "none";
    for (const tick of axis.querySelectorAll("text")) tick.classList.toggle("rx-strong", tick.textContent === String(state.step));
  }

  function reveal() { // scrolls the rows alone, never the page
    const top = state.request * rowHeight;
    if (top < scroll.scrollTop || top + rowHeight + TOP > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = top - scroll.clientHeight / 2;
  }

  // ------------------------------------------------------------------------------------------ blocks

  // of a large pool, from the first block that is ever used to the last
  const ever = (pick, start) => data.trace.steps.reduce((most, step) => Object.values(step.blocks ?? {}).flat().reduce((a, b) => pick(a, b), most), start);
  const whole = settings.num_blocks - 1 <= NUMBERED, base = whole ? 0 : ever(Math.min, settings.num_blocks - 1) - 1;
  const drawn = whole ? settings.num_blocks - 1 : ever(Math.max, base + 1) - base;
  function drawPool(poolWidth) {
    const { holders } = now, mine = new Set(now.tables.get(state.request) ?? []);
    const shared = [...holders].filter(([, all]) => all.length > 1).map(([block]) => block);
    const numbered = drawn <= NUMBERED, width = numbered ? 34 : drawn <= 1200 ? 12 : 8, height = numbered ? 24 : width;
    const across = Math.max(1, Math.floor(Math.max(260, poolWidth || 640) / width)), lines = Math.ceil(drawn / across);
    unitsOf(pool, lines * height + 2, poolWidth);
    const place = (block) => [((block - 1 - base) % across) * width + 1.5, Math.floor((block - 1 - base) / across) * height + 1.5, width - 3, height - 3];
    const groups = new Map(), keyOf = (block) => holders.has(block) ? fillOf(block, holders.get(block), mine) : "sc-free";
    let key = null, run = null;
    for (let block = base + 1; block <= base + drawn; block++) { // neighbours that look alike are one box in a large pool
      const before = key;
      key = keyOf(block);
      if (!numbered && key === before && (block - 1 - base) % across) run[2] += width;
      else {
        run = place(block);
        if (!groups.has(key)) groups.set(key, []);
        groups.get(key).push(run);
      }
    }
    const gaps = numbered ? "" : Array.from({ length: across - 1 }, (_, before) => `M${(before + 1) * width} 0v${lines * height}`).join("");
    const ids = !numbered ? [] : Array.from({ length: drawn }, (_, place_) => {
      const block = base + place_ + 1, [x, y] = place(block), all = holders.get(block) ?? [], ink = inkOf(block, holders, mine);
      const about = all.length ? label("heldBy", { block, names: names(all) }) : label("isFree", { block });
      return [`${x} ${y} ${ink} ${about}`, () => drawing("text", { class: ink, x: x + (width - 3) / 2, y: y + 15, "data-block": block }, String(block), drawing("title", {}, about))];
    });
    const inner = shared.map((block) => place(block).map((value, part) => value + [2, 2, -4, -4][part]));
    poolBoxes.replaceChildren(...[...groups].map(([key, all]) => key.startsWith("#") ? drawing("path", { class: "sc-coloured", fill: key, d: boxes(all) })
      : drawing("path", { class: key, d: boxes(all) })),
      drawing("path", { class: "sc-gaps", d: gaps }), drawing("path", { class: "sc-ring", d: boxes(inner) }), drawing("path", { class: "sc-frame", d: boxes([...mine].map(place)) }));
    refill(poolIds, ids);
    const unused = settings.num_blocks - 1 - drawn;
    poolNote.textContent = label("poolNote", { used: holders.size, free: now.free }) + (shared.length ? label("poolShared", { count: shared.length }) : "") + (unused ? label("poolRest", { count: unused }) : "");
    pool.setAttribute("aria-label", poolNote.textContent);
    Object.assign(root.dataset, { step: state.step, used: holders.size, free: now.free, shared: shared.length });
  }

  const fillOf = (block, all, mine) => {
    if (few) return all.length > 1 ? sharedColour : colourOf(all[0]);
    return mine.has(block) ? data.colours[0] : "sc-used";
  };
  const inkOf = (block, holders, mine) => {
    if (!holders.has(block)) return "sc-mute";
    if (few) return "sc-on";
    return mine.has(block) ? "sc-on" : "sc-id";
  };

  function drawTable(tableWidth) {
    const request = state.request, blocks = now.tables.get(request) ?? [], { holders } = now, size = settings.block_size;
    const held = (now.computed.get(request) ?? 0) + (now.tokens.get(request) ?? 0), condition = now.alive.has(request) ? conditionOf(now, request) : null;
    const entry = requests[request], about = condition ?? (entry.arrived > now.index ? "notYet" : "isGone");
    tableNote.textContent = label("about", { request: `r${request}`, state: label(`is_${about}`), prompt: entry.prompt })
      + (entry.gone === null ? "" : label("aboutEnd", { outputs: entry.outputs }))
      + (blocks.length ? label("aboutBlocks", { held, blocks: blocksOf(blocks.length), size }) : label("noBlocks"));
    const width = 40, height = 30, across = Math.max(1, Math.floor(Math.max(260, tableWidth || 300) / width));
    unitsOf(blockTable, Math.max(1, Math.ceil(blocks.length / across)) * height + 2, tableWidth);
    blockTable.setAttribute("aria-label", tableNote.textContent);
    refill(blockTable, blocks.map((block, place) => {
      const x = (place % across) * width + 1.5, y = Math.floor(place / across) * height + 1.5, all = holders.get(block), share = Math.min(1, Math.max(0, held / size - place));
      const colour = few ? (all.length > 1 ? sharedColour : colourOf(request)) : data.colours[0], until = Math.min(held, (place + 1) * size);
      const about = [label("holds", { block, from: place * size, to: until - 1 }), ...(all.length > 1 ? [label("sharedBy", { names: names(all) })] : [])].join(" ");
      return [`${x} ${y} ${share} ${colour} ${about}`, () => {
        const box = { x, y, width: width - 4, height: height - 5, rx: 3 };
        const fill = drawing("rect", { ...box, width: (width - 4) * share, fill: colour });
        const behind = drawing("rect", { ...box, fill: `color-mix(in srgb, ${colour} 35%, white)`, class: "sc-coloured" });
        const ring = all.length > 1 ? [drawing("rect", { x: x + 2, y: y + 2, width: width - 8, height: height - 9, rx: 2, class: "sc-ring" })] : [];
        const text = drawing("text", { class: "sc-on", x: x + (width - 4) / 2, y: y + 17, "data-block": block }, String(block), drawing("title", {}, about));
        return drawing("g", {}, behind, fill, ...ring, text);
      }];
    }));
  }

  function fillTable() {
    if (!table.parentNode.parentNode.open) return;
    const head = element("tr", {}, ...["request", "state", "tokens", "held", "blocksIds"].map((name) => element("th", { textContent: label(name) })));
    table.replaceChildren(head, ...[...now.alive].map((request) => {
      const held = (now.computed.get(request) ?? 0) + (now.tokens.get(request) ?? 0);
      const cells = [`r${request}`, label(`is_${conditionOf(now, request)}`), now.tokens.get(request) ?? 0, held, (now.tables.get(request) ?? []).join(" ")];
      return element("tr", { className: request === state.request ? "rx-lit" : "" }, ...cells.map((textContent) => element("td", { textContent })));
    }));
  }

  // ------------------------------------------------------------------------------------------ what the reader does

  const clamp = (value, most) => Math.min(most, Math.max(0, value));
  const move = ({ step = state.step, request = state.request }) => update({ step: clamp(step, count - 1), request: clamp(request, requests.length - 1) });

  scroll.onkeydown = (event) => {
    const moves = { ArrowLeft: { step: state.step - 1 }, ArrowRight: { step: state.step + 1 }, Home: { step: 0 }, End: { step: count - 1 },
      PageUp: { step: state.step - 10 }, PageDown: { step: state.step + 10 }, ArrowUp: { request: state.request - 1 }, ArrowDown: { request: state.request + 1 } };
    const to = moves[event.key];
    if (!to || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    move(to);
  };
  const pointed = (event) => {
    const place = rows.getBoundingClientRect(), scale = rows.viewBox.baseVal.width / place.width;
    const step = Math.floor(((event.clientX - place.left) * scale - LEFT) / shown.width) + shown.from;
    return { step, request: Math.floor(((event.clientY - place.top) * scale - 2) / rowHeight) };
  };
  rows.onpointerdown = (event) => {
    if (event.pointerType === "mouse") rows.setPointerCapture(event.pointerId);
    move(pointed(event));
  };
  rows.onpointermove = (event) => { // scrubs; in the close view the steps would run away below the pointer
    if (event.buttons === 1 && event.pointerType === "mouse" && state.view === "whole") move({ step: pointed(event).step });
  };

  el.append(root);
  update({});
  const stopWatching = onWidth(rows, () => {
    drawRows();
    show();
  });
  return () => {
    play.stop();
    stopWatching();
    page.leave();
  };
}

export default { render };
