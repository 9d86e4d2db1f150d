// Pure functions: from numbers and words to elements. Text is always a text node, never markup.

/** An element: h("td", {class: "plus", "data-at": "1,2"}, "text", child). */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined));
  return element;
}

/** A number with three digits that count, a true minus sign, and a plus where the sign matters. */
function number(value, signed = true) {
  if (value === null || value === undefined || Number.isNaN(value)) return "no value";
  const size = Math.abs(value);
  const text = size === 0 ? "0" : size >= 1000 || size < 0.0005 ? size.toExponential(1) : String(Number(size.toPrecision(3)));
  return (value < 0 ? "−" : signed && value > 0 ? "+" : "") + text;
}

/** A number as short as a cell: two decimals, without the zero before the point. */
function short(value) {
  const text = Math.abs(value).toFixed(Math.abs(value) >= 10 ? 1 : 2).replace(/^0\./, ".");
  return (value < 0 && Number(text) !== 0 ? "−" : "") + text;
}

/** "95 % interval 0.2 to 0.4", or nothing. */
function interval(low, high, level) {
  const known = [low, high].every((end) => typeof end === "number" && !Number.isNaN(end));
  return known ? `${+(100 * level).toPrecision(4)} % interval ${number(low)} to ${number(high)}` : "";
}

/** The largest |value|, or 1 where there is none. */
function largest(values) {
  return values.reduce((most, value) => (Number.isNaN(value) ? most : Math.max(most, Math.abs(value))), 0) || 1;
}

/**
 * Where a colour scale ends: at the largest |value|, unless one cell in a hundred (or a single one) is more than three
 * times all others: then at the largest of the others. beyond: the cells that lie past the end.
 */
function endOf(values) {
  const sizes = values.map((value, i) => [Math.abs(value), i]).filter(([size]) => !Number.isNaN(size)).sort((a, b) => b[0] - a[0]);
  const few = Math.max(1, Math.floor(sizes.length / 100)), [rest] = sizes[few] ?? [0];
  const most = largest(values);
  return rest > 0 && sizes[few - 1][0] > 3 * rest ? { end: rest, beyond: sizes.slice(0, few).map(([, i]) => i) } : { end: most, beyond: [] };
}

/** Class and strength of a cell's colour; its text is black or white by page.css, whichever can be read on it. */
function colour(value, end) {
  if (Number.isNaN(value)) return { class: "none" };
  const share = Math.min(100, Math.round((100 * Math.abs(value)) / end));
  return { class: value < 0 ? "minus" : "plus", "--t": share };
}

/**
 * A map whose cells can be walked with the arrows: rows, columns, value(r, c), say(r, c) → sentence.
 * chosen: [r, c] or null. open(r, c, byKey): a click or Enter. back(): Escape. numbers: write them in.
 * beyond(r, c): no such cell. marks: row numbers to stress.
 */
function map({ name, rows, columns, value, say, end, chosen, open, back, numbers, size, beyond = () => false, marks = [], corner = "" }) {
  const line = h("p", { class: "line", "aria-hidden": "true" });
  const tall = columns.some((column) => column.length > (numbers ? 7 : 3));
  const first = chosen ?? [0, 0];
  const cell = (r, c) => {
    if (beyond(r, c)) return h("td", { class: "beyond" });
    const here = value(r, c);
    const { class: kind, ...strength } = colour(here, end);
    const is = chosen !== null && chosen !== undefined && chosen[0] === r && chosen[1] === c;
    return h("td", {
      class: kind, ...strength, role: "gridcell", "data-at": `${r},${c}`, "data-value": here, "aria-label": say(r, c),
      tabindex: r === first[0] && c === first[1] ? 0 : -1, "aria-selected": open ? String(is) : null,
    }, numbers && !Number.isNaN(here) ? short(here) : "");
  };
  const table = h("table", { class: `map ${numbers ? "full" : ""} ${columns.length > 6 ? "many" : ""}`, role: "grid", "aria-label": name,
    "--size": size, "--height": numbers ? "26px" : size, "--across": columns.length },
    h("thead", {}, h("tr", {}, h(corner ? "th" : "td", { class: corner ? null : "beyond" }, corner), columns.map((column) => h("th", { scope: "col", class: tall ? "tall" : null }, column)))),
    h("tbody", {}, rows.map((row, r) =>
      h("tr", {}, h("th", { scope: "row", class: marks.includes(r) ? "mark" : null }, row), columns.map((_, c) => cell(r, c))))));
  const at = (target) => target.closest?.("td[data-at]")?.dataset.at.split(",").map(Number);
  const show = (event) => { const where = at(event.target); if (where) line.textContent = say(...where); };
  table.addEventListener("mouseover", show);
  table.addEventListener("focusin", show);
  table.addEventListener("click", (event) => { const where = at(event.target); if (where && open) open(...where, false); });
  table.addEventListener("keydown", (event) => walk(event, table, at(event.target), rows.length, columns.length, open, back));
  return h("div", {}, h("div", { class: "wide" }, table), line);
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** Arrows, Home and End move the focus over the cells there are; Enter opens, Escape goes back. */
function walk(event, table, from, nRows, nColumns, open, back) {
  if (event.key === "Escape" && back) { event.preventDefault(); back(); return; }
  if (!from) return;
  if ((event.key === "Enter" || event.key === " ") && open) { event.preventDefault(); open(...from, true); return; }
  const ends = { Home: [from[0], 0], End: [from[0], nColumns - 1] };
  const step = STEPS[event.key];
  let to = ends[event.key] ?? (step ? [from[0] + step[0], from[1] + step[1]] : null);
  if (!to) return;
  event.preventDefault();
  const find = (r, c) => table.querySelector(`td[data-at="${r},${c}"]`);
  while (event.key === "End" && to[1] > 0 && !find(...to)) to = [to[0], to[1] - 1];
  const next = find(...to);
  if (!next) return;
  table.querySelectorAll('td[tabindex="0"]').forEach((cell) => { cell.tabIndex = -1; });
  next.tabIndex = 0;
  next.focus();
}

/** What the colours of a map mean. */
function scale(end, unit, two, beyond = []) {
  const more = beyond.length ? `; beyond: ${beyond.join(", ")}` : "";
  return h("div", { class: "scale" }, h("span", {}, two ? number(-end) : "0"), h("i", { class: two ? "two" : "one" }),
    h("span", {}, `${number(end, two)} ${unit}${more}`));
}

/** A bar around 0 on a track that ends at ±end, with its interval. */
function bar(value, end, low, high) {
  const place = (x) => 50 + (50 * Math.max(-end, Math.min(end, x))) / end;
  const known = typeof low === "number" && typeof high === "number" && !Number.isNaN(low + high);
  return h("span", { class: "track" },
    Number.isNaN(value) ? null : h("b", { class: value < 0 ? "minus" : null,
      "--from": `${Math.min(50, place(value))}%`, "--width": `${Math.abs(place(value) - 50)}%` }),
    known ? h("u", { "--low": `${place(low)}%`, "--span": `${place(high) - place(low)}%` }) : null);
}

/** Named bars, one below the other. */
function bars(rows, end) {
  return h("ul", { class: "bars" }, rows.map(({ name, value, low, high, title }) =>
    h("li", { title, "data-value": value },
      h("span", { class: "name" }, name), bar(value, end, low, high), h("span", { class: "number" }, number(value)))));
}

/** What may be wider than the page: the keyboard can scroll it where it is. */
function wide(name, content) {
  const box = h("div", { class: "wide" }, content);
  new ResizeObserver(() => {
    const reach = { tabindex: "0", role: "region", "aria-label": name };
    for (const [attribute, value] of Object.entries(reach))
      if (box.scrollWidth > box.clientWidth) box.setAttribute(attribute, value); else box.removeAttribute(attribute);
  }).observe(box);
  return box;
}

/** A table of words and numbers. */
function plainTable(header, rows, name) {
  return wide(name, h("table", { class: "plain", "aria-label": name },
    h("thead", {}, h("tr", {}, header.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((part) =>
      part instanceof Node ? h("td", {}, part) : h("td", { class: typeof part === "number" ? "number" : null },
        typeof part === "number" ? number(part) : part)))))));
}

/** A choice: options are [value, label]. */
function select(label, options, value, choose, key) {
  const element = h("select", { "data-key": key, onchange: (event) => choose(event.target.value) },
    options.map(([option, text]) => h("option", { value: option, selected: String(option) === String(value) }, text)));
  return h("label", {}, label, element);
}

/** Buttons of which one is pressed. */
function toggles(label, options, value, choose) {
  return h("div", { role: "group", "aria-label": label, class: "controls" }, options.map(([option, text, why]) =>
    h("button", { type: "button", "aria-pressed": String(option === value), disabled: why ? true : null, title: why,
      "data-key": `${label}:${option}`, onclick: () => choose(option) }, text)));
}

/** A prompt's tokens; the one where the answer is read is stressed. */
function tokens(prompt) {
  return h("p", { class: "prompt" }, prompt.tokens.map((token, i) =>
    h("span", { class: i === prompt.at ? "token at" : "token", title: `position ${i}` }, token)),
    prompt.answer ? ` → ${prompt.answer}` : "", prompt.wrong ? h("span", { class: "small" }, ` (wrong: ${prompt.wrong})`) : null);
}

/** A sentence where there is no picture. */
function sentence(text, kind = "small") {
  return h("p", { class: kind }, text);
}

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element. */
function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.flat(2).filter(Boolean));
  return element;
}

const STEP = 62, RISE = 64, BOX = [54, 22];

/** Where each node of a circuit stands: the input at the bottom, the logits on top; the size of it all. */
function layout(nodes) {
  const rows = [...new Set(nodes.map((node) => node.row))].sort((a, b) => a - b);
  const inRow = (row) => nodes.filter((node) => node.row === row);
  const width = Math.max(5, ...rows.map((row) => inRow(row).length)) * STEP + 20;
  const spots = {};
  rows.forEach((row, up) => inRow(row).forEach((node, i, all) => {
    const shift = all.length === 1 && up % 2 ? STEP / 3 : 0; // so that edges of lone nodes do not lie on each other
    spots[node.name] = [width / 2 + (i - (all.length - 1) / 2) * STEP + shift, (rows.length - 1 - up) * RISE + 24];
  }));
  return { spots, width, height: (rows.length - 1) * RISE + 48 };
}

/** A circuit: boxes and curves; an edge's colour is the sign of its effect, its width the size, dashed where it is cut. */
function circuitPicture({ name, nodes, edges, effect, cut, chosen, open, say }) {
  const { spots, width, height } = layout(nodes), end = largest(edges.map((edge) => effect(edge) ?? NaN));
  const curve = (edge) => {
    const [x0, y0] = spots[edge.from], [x1, y1] = spots[edge.to], bend = Math.max(20, (y0 - y1) * 0.45);
    const side = { q: -16, k: 0, v: 16 }[edge.part] ?? 0;
    return `M${x0},${y0 - BOX[1] / 2} C${x0},${y0 - bend} ${x1 + side},${y1 + bend} ${x1 + side},${y1 + BOX[1] / 2}`;
  };
  const line = (edge) => {
    const value = effect(edge) ?? 0, kinds = [value < 0 ? "minus" : "plus", cut(edge) ? "cut" : "", edge.name === chosen ? "chosen" : ""];
    return s("g", { class: `edge ${kinds.join(" ")}`, "data-edge": edge.name, onclick: () => open(edge) },
      s("title", {}, say(edge)), s("path", { class: "reach", d: curve(edge) }),
      s("path", { class: "drawn", d: curve(edge), "stroke-width": 1 + (4 * Math.abs(value)) / end }));
  };
  const box = ({ name: node, label }) => s("g", { class: "node" },
    s("rect", { x: spots[node][0] - BOX[0] / 2, y: spots[node][1] - BOX[1] / 2, width: BOX[0], height: BOX[1], rx: 4 }),
    s("text", { x: spots[node][0], y: spots[node][1] + 4 }, label));
  return wide(name,
    s("svg", { class: "circuit", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": name },
      edges.filter((edge) => edge.name !== chosen).map(line), edges.filter((edge) => edge.name === chosen).map(line), nodes.map(box)));
}
