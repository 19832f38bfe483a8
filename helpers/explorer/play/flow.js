/** The way of a token through the experts: a column for each layer, ribbons as wide as the weights. */

const TRAIL = 3; // tokens before this one whose ribbons are still seen, fading
// The ribbons brighten from left to right under a veil, which the compositor moves: the page's thread draws nothing for it.
const UNVEILED = { transform: ["scaleX(1)", "scaleX(0)"] };

/** layers, experts: how many. Returns {svg, show(tokens, place, seconds), label(text of a layer)}. */
export function flowFigure({ layers, experts }) {
  const svg = drawing("svg", { class: "flow", role: "img" });
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const ribbons = drawing("g", { class: "ribbons" }), veil = drawing("rect", { class: "veil" }), columns = drawing("g", {});
  svg.append(ribbons, veil, columns);
  let size = null, shown = { tokens: [], place: -1 }, nodes = [], titles = [], layerName = String, brightening = null;

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
    for (const side of ["width", "height"]) veil.setAttribute(side, size[side]);
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

  /** From the hub before the layer to the expert and on to the next hub, above an edge. */
  function ribbon(layer, expert, weight) {
    const [from, at, to] = [size.hub(layer), size.x(layer), size.hub(layer + 1)], [low, high] = [size.middle, size.y(expert)];
    const [up, down] = [(from + at) / 2, (at + to) / 2], width = 1.5 + Math.min(22, size.gap * 0.52) * weight;
    const d = `M${from} ${low}C${up} ${low} ${up} ${high} ${at} ${high}S${down} ${low} ${to} ${low}`;
    return [drawing("path", { class: "ribbon edge", d, "stroke-width": width + 1.6 }),
      drawing("path", { class: `ribbon e${expert}`, d, "stroke-width": width })];
  }

  function way(routes) {
    return drawing("g", {}, ...routes.flatMap((chosen, layer) =>
      chosen.slice().reverse().flatMap(([expert, weight]) => ribbon(layer, expert, weight)))); // the heaviest on top
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
    for (const edge of ribbons.querySelectorAll(".edge")) edge.remove(); // those of the ways before
    ribbons.append(way(tokens[place].routes));
    while (ribbons.children.length > TRAIL + 1) ribbons.firstChild.remove();
    for (const [age, child] of [...ribbons.children].reverse().entries()) child.setAttribute("data-age", age);
    brightening?.cancel();
    brightening = seconds > 0 && !still.matches ? veil.animate(UNVEILED, 400 * seconds) : null;
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
