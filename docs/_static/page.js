// What a page adds to its text: copy buttons, code folded on a phone, flags that stay whole, figures to enlarge, wide
// tables to scroll, the sentence that was found.
"use strict";

(() => {
  const zh = document.documentElement.lang.startsWith("zh");
  const say = (chinese, english) => (zh ? chinese : english);
  const button = (className, textContent, onclick) =>
    Object.assign(document.createElement("button"), { type: "button", className, textContent, onclick });

  async function copy(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const area = Object.assign(document.createElement("textarea"), { value: text }); // http without TLS has no clipboard
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("the browser did not copy");
  }

  if (location.protocol === "file:") { // from a disk only the page that holds the model can read it
    const offline = (address) => address.replace("play.html", "play-offline.html");
    for (const link of document.querySelectorAll('a[href^="../play.html"]')) link.href = offline(link.getAttribute("href"));
    for (const frame of document.querySelectorAll(".course-play iframe")) // it cannot see the theme around it
      frame.src = `${offline(frame.getAttribute("src"))}&theme=${document.documentElement.dataset.theme}`;
  }

  for (const box of document.querySelectorAll(".bd-article div.highlight")) {
    if (box.closest(".cell_output")) continue;
    const pre = box.querySelector("pre"), text = pre.textContent;
    const node = button("course-copy", say("复制", "Copy"), async () => {
      await copy(text).then(
        () => { node.textContent = say("已复制", "Copied"); },
        () => { node.textContent = say("没有复制成", "Not copied"); });
      node.classList.add("done");
      setTimeout(() => { // back to what it does
        node.textContent = say("复制", "Copy");
        node.classList.remove("done");
      }, 2000);
    });
    box.append(node);
  }

  for (const cell of document.querySelectorAll(".bd-article .cell_input")) {
    const lines = cell.querySelector("pre").textContent.trimEnd().split("\n").length;
    if (lines < 3) continue;
    const label = (open) => (open ? say("收起代码", "Fold the code") : say(`展开代码（${lines} 行）`, `Show the code (${lines} lines)`));
    const fold = (folded) => {
      cell.classList.toggle("course-folded", folded);
      node.textContent = label(!folded);
      node.setAttribute("aria-expanded", String(!folded));
    };
    const node = button("course-unfold", "", () => fold(!cell.classList.contains("course-folded")));
    cell.append(node);
    fold(true); // the style sheet folds on a phone only
  }

  for (const figure of document.querySelectorAll(".bd-article .course-figure:not(.course-explorer *)")) {
    const enlarge = () => {
      const dialog = Object.assign(document.createElement("dialog"), { className: "course-dialog" });
      dialog.append(button("course-copy done", say("关闭", "Close"), () => dialog.close()),
        figure.firstElementChild.cloneNode(true));
      dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
      dialog.addEventListener("close", () => dialog.remove());
      document.body.append(dialog);
      dialog.showModal();
    };
    figure.firstElementChild.addEventListener("click", enlarge);
    figure.firstElementChild.style.cursor = "zoom-in";
    figure.append(button("course-enlarge", say("放大", "Enlarge"), enlarge));
  }

  const whole = (node) => node.classList.add("course-whole"); // a line does not end at a hyphen inside
  for (const word of document.querySelectorAll(".bd-article code.literal .pre")) if (word.textContent.length <= 30) whole(word);
  for (const pre of document.querySelectorAll(".bd-article pre")) {
    const walker = document.createTreeWalker(pre, NodeFilter.SHOW_TEXT), texts = [];
    while (walker.nextNode()) if (/--\w/.test(walker.currentNode.data)) texts.push(walker.currentNode);
    for (const text of texts) {
      const parts = text.data.split(/((?<![\w-])--\w[\w-]*)/);
      text.replaceWith(...parts.map((part, place) => {
        if (place % 2 === 0) return part;
        const flag = Object.assign(document.createElement("span"), { textContent: part });
        whole(flag);
        return flag;
      }));
    }
  }

  const tables = [...document.querySelectorAll(".bd-article table:not(.course-explorer *)")];
  const scrolling = [...tables, ...document.querySelectorAll(".bd-article :is(.course-figure, div.math):not(.course-explorer *)")];
  const fade = (box) => box.classList.toggle("course-more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  const long = zh ? 12 : 24; // letters of a cell that gets more room where its table scrolls anyway
  const reachTables = () => { // the keyboard scrolls what is wider than the page
    for (const table of tables) {
      table.classList.remove("course-wide");
      const wide = table.scrollWidth > table.clientWidth;
      table.classList.toggle("course-wide", wide);
      if (wide) table.tabIndex = 0;
      else table.removeAttribute("tabindex");
    }
    scrolling.forEach(fade);
  };
  for (const table of tables)
    for (const cell of table.querySelectorAll("td, th")) cell.classList.toggle("course-long", cell.textContent.trim().length > long);
  for (const box of scrolling) box.addEventListener("scroll", () => fade(box), { passive: true });
  reachTables();
  addEventListener("resize", reachTables);

  // Sphinx shows what stands around a term anywhere on the page, its menus too.
  if (typeof Search === "undefined") return;
  Search.makeSearchSummary = (page, terms, anchor) => {
    const article = new DOMParser().parseFromString(page, "text/html").querySelector("article.bd-article");
    const part = (anchor && article?.querySelector(anchor)) || article;
    if (!part) return null;
    for (const extra of part.querySelectorAll(".headerlink, script, style, svg, dialog")) extra.remove();
    const text = part.textContent.replace(/\s+/g, " "), lower = text.toLowerCase();
    const query = (new URLSearchParams(location.search).get("q") ?? "").trim().toLowerCase();
    const found = [query, ...query.split(/\s+/), ...terms].find((term) => term && lower.includes(term.toLowerCase()));
    if (!found) return null;
    const at = lower.indexOf(found.toLowerCase()), end = at + found.length;
    const from = Math.max(at - 100, ...["。", ". ", "？", "! "].filter((stop) => text.lastIndexOf(stop, at - 1) >= 0).map((stop) => text.lastIndexOf(stop, at - 1) + stop.length));
    const summary = Object.assign(document.createElement("p"), { className: "context" });
    const mark = Object.assign(document.createElement("mark"), { textContent: text.slice(at, end) });
    summary.append(`${from === at - 100 ? "… " : ""}${text.slice(Math.max(0, from), at).trimStart()}`, mark, `${text.slice(end, end + 140)} …`);
    return summary;
  };
})();
