/** Which experts does the answer need? Each is switched off in turn, by a tap or all of them, and the model asked again. */

import { question } from "./state.js";
import { foldedTable } from "./table.js";

const SIGNS = { same: "=", detour: "≈", broken: "≠" };

export function heatmapView(app) {
  const { say, said, state, about } = app;
  const every = Array.from({ length: about.layers * about.experts }, (_, index) => [Math.floor(index / about.experts), index % about.experts]);
  const index = ([layer, expert]) => layer * about.experts + expert;
  let usual = null, found = [], chosen = null, busy = false, turn = 0, queue = [];

  const tiles = every.map((at) => {
    const tile = element("button", { type: "button", className: `tile e${at[1]}`, tabIndex: -1, onclick: () => tap(at) },
      element("i", { className: "picks" }), element("span", { className: "sign" }));
    tile.dataset.at = at.join(".");
    return tile;
  });
  tiles[0].tabIndex = 0;
  const grid = element("div", { className: "grid" });
  grid.setAttribute("role", "group");
  grid.style.setProperty("--experts", about.experts);
  grid.append(said(element("span", { className: "corner" }), () => say("layers")), ...Array.from({ length: about.experts }, (_, expert) => element("b", { className: `dot e${expert}`, ariaHidden: "true" }, String(expert))));
  for (let layer = 0; layer < about.layers; layer++)
    grid.append(said(element("span", { className: "small row" }), () => say("layer", { layer })), ...tiles.slice(layer * about.experts, (layer + 1) * about.experts));
  grid.querySelectorAll(".row").forEach((row, layer) => { row.dataset.layer = layer; });
  grid.onkeydown = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: about.experts, ArrowUp: -about.experts }[event.key], to = tiles[tiles.indexOf(event.target) + by];
    if (!to) return;
    event.preventDefault();
    rove(to);
    to.focus();
  };
  const rove = (to) => {
    for (const tile of tiles) tile.tabIndex = tile === to ? 0 : -1;
  };

  const title = element("h2"), score = element("p", { className: "score" }), summary = element("p"), most = element("p", { className: "small" });
  const sweep = said(element("button", { type: "button", className: "go", onclick: sweepAll }), () => say("sweep"));
  const clear = said(element("button", { type: "button", onclick: () => { app.put({ taps: [], swept: false }); run(); } }), () => say("clear"));
  const link = element("a", { className: "share", hidden: true }), detail = element("div", { className: "detail" });
  const legend = element("p", { className: "legend small" });
  const table = foldedTable(app, () => ["layerHead", "expertHead", "picksHead", "effectHead", "answerHead"].map((name) => say(name)), () =>
    every.map((at) => [...at, usual?.picks[at[0]][at[1]] ?? "", say(result(at)?.effect ?? "unknown"), result(at)?.answer ?? ""]));
  const root = element("div", { className: "experts-view" }, title,
    said(element("p", { className: "small" }), () => say("expertsHow")),
    element("div", { className: "two even" },
      element("div", {}, grid, legend, element("div", { className: "buttons" }, sweep, clear)),
      element("div", { className: "stage" }, score, summary, most, link, detail)),
    table.root);

  const result = (at) => found[index(at)];
  const isOver = () => every.every(result);
  const needed = () => every.filter((at) => result(at)?.effect === "broken");
  const hits = () => state.taps.filter((at) => result(at)?.effect === "broken").length;

  // ------------------------------------------------------------------------------------------ what is asked

  /** What switching off these experts does, one after the other; later ones wait for the ones before. */
  async function tryOut(experts, own) {
    await app.ask("sweep", { text: question(state), experts }, (message) => {
      if (own !== turn) return;
      found[index(message.expert)] = message;
      if (experts.length > 1) sweep.textContent = say("sweeping", { done: found.filter(Boolean).length, of: every.length });
      drawTile(message.expert);
    });
  }

  async function work() {
    const own = turn;
    if (busy || !usual) return;
    busy = true;
    while (queue.length && own === turn) {
      await tryOut(queue.splice(0).filter((at) => !result(at)), own);
      if (own === turn) draw();
    }
    if (own !== turn) return;
    busy = false;
    if (state.swept && isOver()) app.announce(summary.textContent);
  }

  function tap(at) {
    if (!usual) {
      app.put({ taps: [at] });
      return app.begin();
    }
    rove(tiles[index(at)]);
    chosen = at;
    if (!result(at) && !state.swept && !state.taps.some((tapped) => index(tapped) === index(at))) { // a guess
      app.put({ taps: [...state.taps, at] });
      queue.push(at);
    }
    draw();
    work().then(() => result(at) && chosen === at && app.announce(`${say("without", { layer: at[0], expert: at[1] })}: ${say(result(at).effect)}`));
  }

  function sweepAll() {
    app.put({ swept: true });
    if (!usual) return app.begin();
    queue = every.filter((at) => !result(at));
    draw();
    return work();
  }

  async function run() {
    const own = ++turn;
    [usual, found, chosen, busy, queue] = [null, [], state.taps.at(-1) ?? null, false, []];
    const done = await app.ask("run", {}, () => {});
    if (!done || own !== turn) return;
    usual = done;
    draw();
    queue = state.taps.slice();
    await work();
    if (state.swept && own === turn) await sweepAll();
  }

  // ------------------------------------------------------------------------------------------ what is seen

  function drawTile(at) {
    const tile = tiles[index(at)], outcome = result(at), [layer, expert] = at, picks = usual?.picks[layer][expert];
    const value = outcome?.effect === "broken" && state.text === null ? app.lastNumber(outcome.answer) : null;
    tile.dataset.effect = outcome?.effect ?? "";
    tile.classList.toggle("tapped", state.taps.some((tapped) => index(tapped) === index(at)));
    tile.setAttribute("aria-pressed", chosen !== null && index(chosen) === index(at));
    tile.firstChild.style.height = usual ? `${(100 * picks) / Math.max(...usual.picks.flat())}%` : "0";
    tile.lastChild.textContent = value ?? SIGNS[outcome?.effect] ?? "";
    const words = [say("layer", { layer }), say("expertAlone", { expert }), ...(usual ? [say("pickedTimes", { picks })] : []), say(outcome?.effect ?? "unknown")];
    tile.setAttribute("aria-label", words.join(app.comma()));
    tile.title = words.join(app.comma());
  }

  function draw() {
    title.textContent = say("expertsAsk", { count: every.length, question: app.asked() });
    every.forEach(drawTile);
    if (!usual) return;
    const over = isOver(), count = (effect) => found.filter((outcome) => outcome?.effect === effect).length;
    sweep.textContent = say("sweep");
    sweep.disabled = over || (state.swept && busy);
    const tried = state.taps.filter(result).length;
    score.textContent = tried ? say("score", { tapped: tried, found: hits() }) : over ? "" : say("scoreNone");
    summary.textContent = over ? say("swept", { count: every.length, needed: needed().length, same: count("same"), detour: count("detour") }) : "";
    most.textContent = over ? contrast() : "";
    link.hidden = !over;
    link.textContent = say("foundLink", { needed: needed().length, found: hits() });
    link.href = app.address();
    drawLegend();
    drawDetail();
    table.draw();
  }

  /** The most chosen expert that nothing needs beside the least chosen that is needed, where that is surprising. */
  function contrast() {
    const picks = ([layer, expert]) => usual.picks[layer][expert], byPicks = every.slice().sort((a, b) => picks(b) - picks(a));
    const harmless = byPicks.find((at) => result(at).effect === "same"), vital = byPicks.findLast((at) => result(at).effect === "broken");
    if (!harmless || !vital || picks(harmless) <= picks(vital)) return "";
    const name = ([layer, expert]) => say("chosenTimes", { layer, expert, picks: picks([layer, expert]) });
    return say("surprise", { harmless: name(harmless), vital: name(vital) });
  }

  function drawLegend() {
    const entry = (sign, words, className = "") => element("span", { className: "entry" }, element("span", { className: `key ${className}` }, sign), ` ${words}`);
    legend.replaceChildren(entry("", say("bar"), "key-bar e0"), entry(SIGNS.same, say("same")), entry(SIGNS.detour, say("detour")), entry(SIGNS.broken, say("broken"), "lit"));
  }

  const reply = (name, { thought, answer }, other) => element("div", { className: "reply" },
    element("h3", {}, name), element("p", { className: "thinking" }, ...differing(thought, other?.thought)), element("p", { className: "answered" }, ...differing(answer, other?.answer)));

  /** The text with a mark from where it differs from the other on. */
  function differing(text, other) {
    if (other === undefined || text === other) return [text];
    const letters = [...text], others = [...other];
    let at = 0;
    while (at < letters.length && letters[at] === others[at]) at++;
    return [letters.slice(0, at).join(""), element("mark", {}, letters.slice(at).join(""))];
  }

  function drawDetail() {
    const outcome = chosen && result(chosen);
    const without = outcome && reply(say("without", { layer: chosen[0], expert: chosen[1] }), outcome, usual);
    const verdict = outcome && element("p", { className: `verdict ${outcome.effect}` }, `${SIGNS[outcome.effect]} ${say(outcome.effect)}`);
    detail.replaceChildren(reply(say("usually"), usual), ...(outcome ? [without, verdict] : []));
  }

  const isDone = () => usual !== null && !busy && state.taps.every(result) && (!state.swept || isOver());
  return { root, run, draw, isDone, leave() {} };
}
