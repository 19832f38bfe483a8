/** A table that says in words what a figure shows, folded beneath it. */

/** heads(): the column's titles; rows(): lists of cells. Returns {root, draw}; it is filled only while it is open. */
export function foldedTable(app, heads, rows) {
  const table = element("table"), root = element("details", { ontoggle: draw });
  root.append(app.said(element("summary"), () => app.say("table")), element("div", { className: "scroll", tabIndex: 0 }, table));
  app.said(root.lastChild, () => app.say("table"), "aria-label");
  root.lastChild.setAttribute("role", "region");

  function draw() {
    if (!root.open) return table.replaceChildren();
    const cell = (tag) => (text) => element(tag, tag === "th" ? { scope: "col" } : {}, String(text));
    const line = (tag, cells) => element("tr", {}, ...cells.map(cell(tag)));
    table.replaceChildren(element("thead", {}, line("th", heads())), element("tbody", {}, ...rows().map((cells) => line("td", cells))));
  }
  return { root, draw };
}
