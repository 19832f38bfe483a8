/** The way of a token through the experts: a column for each layer, ribbons as wide as the weights. */

const TRAIL = 3; // tokens before this one whose ribbons are still seen, fading

/** layers, experts: how many. Returns {svg, show(tokens, place, seconds), label(text of a layer)}. */
export function flowFigure({ layers, experts }) {
  const svg = drawing("svg", { class: "flow", role: "img" });
  const ribbons = drawing("g", { class: "ribbons" }), columns = drawing("g", {});
  svg.append(ribbons, columns);
  let size = null, shown = { tokens: [], place: -1 }, nodes = [], titles = [], layerName = String;

  /** Places in pixels for a figure of this width, so that its text has the size of all text. */
  function measure() {
    const width = Math.max(240, svg.clientWidth || 600), height = Math.max(236, Math.min(400, Math.round(width * 0.6), Math.round(innerHeight * 0.37)));
    const gap = (height - 56) / (experts - 1), step = (width - 28) / layers;
    return { width, height, gap, radius: Math.min(14, gap / 2 - 3),
      hub: (column) => 14 + column * step, x: (layer) => 14 + (layer + 0.5) * step,
      y: (expert) => 18 + expert * gap, middle: 18 + ((experts - 1) / 2) * gap };
  }

  function draw() {
    size = measure();
    svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
    svg.style.height = `${size.height}px`;
    nodes = [];
    titles = [];
    columns.replaceChildren();
    for (let layer = 0; layer < layers; layer++) {
      for (let expert = 0; expert < experts; expert++) {
        const at = { cx: size.x(layer), cy: size.y(expert), r: size.radius }, node = drawing("g", { class: `node e${expert}` });
        const number = drawing("text", { x: at.cx, y: at.cy + 4, "text-anchor": "middle" }, String(expert));
        node.append(drawing("circle", at), number);
        columns.append(node);
        nodes.push(node);
      }
      const title = drawing("text", { class: "layer", x: size.x(layer), y: size.height - 6, "text-anchor": "middle" }, layerName(layer));
      titles.push(title);
      columns.append(title);
    }
    show(shown.tokens, shown.place, 0, true);
  }

  function ribbon(layer, expert, weight, half) {
    const [from, to] = half ? [size.x(layer), size.hub(layer + 1)] : [size.hub(layer), size.x(layer)];
    const [low, high] = half ? [size.y(expert), size.middle] : [size.middle, size.y(expert)], bend = (from + to) / 2;
    const path = drawing("path", { class: `ribbon e${expert}`, d: `M${from} ${low}C${bend} ${low} ${bend} ${high} ${to} ${high}` });
    const edge = path.cloneNode(), width = 1.5 + Math.min(22, size.gap * 0.52) * weight;
    edge.setAttribute("class", "ribbon edge");
    edge.style.strokeWidth = `${width + 1.6}px`;
    path.style.strokeWidth = `${width}px`;
    for (const drawn of [edge, path]) drawn.style.setProperty("--order", 2 * layer + half);
    return [edge, path];
  }

  function way(routes) {
    const group = drawing("g", {}), paths = [];
    for (const [layer, chosen] of routes.entries())
      for (const [expert, weight] of chosen.slice().reverse()) // the heaviest on top
        paths.push(...[0, 1].flatMap((half) => ribbon(layer, expert, weight, half)));
    group.append(...paths);
    return group;
  }

  /** Shows tokens[place], after the ways of those before it. seconds: until the next one comes; 0 draws at once. */
  function show(tokens, place, seconds = 0, anew = false) {
    const isNext = !anew && tokens === shown.tokens && place === shown.place + 1;
    shown = { tokens, place };
    if (!size && svg.clientWidth) return draw();
    if (!size || place < 0 || !tokens[place]) return ribbons.replaceChildren();
    if (!isNext) {
      const before = tokens.slice(Math.max(0, place - TRAIL), place);
      ribbons.replaceChildren(...before.map(({ routes }) => way(routes)));
    }
    const group = way(tokens[place].routes);
    for (const before of ribbons.children) before.classList.remove("drawn");
    group.classList.toggle("drawn", seconds > 0); // brightens from left to right; slow machines see it at once, too
    svg.style.setProperty("--beat", `${((0.4 * seconds) / (2 * layers + 2)).toFixed(4)}s`);
    ribbons.append(group);
    while (ribbons.children.length > TRAIL + 1) ribbons.firstChild.remove();
    for (const [age, child] of [...ribbons.children].reverse().entries()) child.setAttribute("data-age", age);
    const taken = new Set(tokens[place].routes.flatMap((chosen, layer) => chosen.map(([expert]) => layer * experts + expert)));
    for (const [index, node] of nodes.entries()) node.classList.toggle("taken", taken.has(index));
  }

  new ResizeObserver(() => {
    if (svg.clientWidth && svg.clientWidth !== size?.width) draw();
  }).observe(svg);
  return {
    svg, show,
    name(ofLayer) {
      layerName = ofLayer;
      for (const [layer, title] of titles.entries()) title.textContent = ofLayer(layer);
    },
  };
}
