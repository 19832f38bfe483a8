// Nodes and drawings, the theme and the language of the page around. Text reaches the page through textContent alone.

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function drawing(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// The width of a drawing in CSS pixels, which become its units: text inside keeps its size at any width.
function unitsOf(svg, height, measured = svg.clientWidth) {
  const width = Math.max(260, Math.round(measured) || 640);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  return width;
}

// Draws again whenever the width changes. Returns how to stop.
function onWidth(node, draw) {
  let width = node.clientWidth;
  const watcher = new ResizeObserver(() => {
    if (node.clientWidth === width) return;
    width = node.clientWidth;
    draw();
  });
  watcher.observe(node);
  return () => watcher.disconnect();
}

function isDark() {
  const body = document.body.dataset, page = document.documentElement.dataset;
  if (body.jpThemeLight) return body.jpThemeLight === "false"; // JupyterLab
  if (body.vscodeThemeKind) return body.vscodeThemeKind.includes("dark"); // VS Code
  if (page.theme) return page.theme === "dark"; // Sphinx
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

// kernel: the language that the kernel knows for its page, if it does.
function pageLanguage(kernel) {
  if (kernel) return kernel;
  // The lessons lie in folders zh and en, which JupyterLab and the site show in the address.
  const folder = /\/(zh|en)\//.exec(decodeURIComponent(location.pathname));
  if (folder) return folder[1];
  return (document.documentElement.lang || navigator.language).startsWith("zh") ? "zh" : "en";
}
