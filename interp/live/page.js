// The live page: one state, questions by kind and arguments, and panels that are drawn from the answers.

/** Put the page into an element. */
async function mount(root, ask, title) {
  const meta = await ask("meta", {});
  root.classList.add("interp");
  if (meta.error) { root.replaceChildren(sentence(meta.error, "error")); return; }
  const first = meta.results[0];
  const state = { result: first?.id, metric: first?.metrics[0].name, at: {}, mean: true, prompt: 0, cell: null, weighting: "plain",
    text: "", exact: false, circuit: meta.circuits[0]?.id, edge: null, toggles: new Set(),
    direction: meta.directions[0]?.id, steered: 0, steeredText: "", coefficient: null };
  const page = { root, ask, meta, state, answers: new Map(), panels: [] };
  page.set = (change, focus) => update(page, change, focus);
  choose(page, {});
  const slot = (panel) => { const element = h("section", { "aria-label": panel.name }); page.panels.push({ ...panel, element, serial: 0 }); return element; };
  root.replaceChildren(h("main", {},
    h("h1", {}, title ?? `${meta.model} on ${meta.task}`),
    ...(first ? [slot(CHOICES), h("div", { class: "columns" }, slot(MAP), slot(CELL))] : []),
    ...SECTIONS.filter((section) => section.there(meta)).map(slot)));
  root.dataset.ready = "";
  await update(page, {});
  root.dataset.ready = "true";
}


/** Change the state, ask what the panels need, and draw those whose answers are the newest. */
async function update(page, change, focus) {
  choose(page, change);
  await Promise.all(page.panels.map(async (panel) => {
    const serial = ++panel.serial;
    const wanted = () => serial === panel.serial;
    const answers = await Promise.all(panel.questions(page).map((question) => (question ? known(page, ...question, wanted) : undefined)));
    if (serial !== panel.serial) return;
    const kept = focus ? null : place(document.activeElement, panel.element);
    panel.element.replaceChildren(...[panel.draw(page, ...answers)].flat().filter(Boolean));
    if (kept) panel.element.querySelector(kept)?.focus();
  }));
  if (focus) {
    const target = page.root.querySelector(focus);
    target?.focus();
    target?.scrollIntoView({ block: "nearest" });
  }
}

/** The answer to a question, asked once while the page is open. Errors are asked again, and at once what gave way but is wanted. */
async function known(page, kind, args, wanted) {
  const name = `${kind} ${key(args)}`;
  if (!page.answers.has(name)) page.answers.set(name, page.ask(kind, args));
  const answer = await page.answers.get(name);
  if (answer.error) page.answers.delete(name);
  return answer.superseded && wanted() ? known(page, kind, args, wanted) : answer;
}

/** Where the focus is, as a selector inside a panel that is about to be drawn anew. */
function place(element, within) {
  if (!element || !within.contains(element)) return null;
  const name = ["data-at", "data-key"].find((attribute) => element.hasAttribute(attribute));
  return name ? `${element.tagName.toLowerCase()}[${name}="${CSS.escape(element.getAttribute(name))}"]` : null;
}

/** The state after a change: a choice that the new result does not have falls back on its first. */
function choose({ meta, state }, change) {
  Object.assign(state, change);
  const result = resultOf(meta, state);
  if (!result) return;
  if (!result.metrics.some((metric) => metric.name === state.metric)) state.metric = result.metrics[0].name;
  state.at = Object.fromEntries(result.choices.map(({ dim, labels }) => [dim, Math.min(state.at[dim] ?? 0, labels.length - 1)]));
  if (!result.by_prompt) state.mean = true;
}

const resultOf = (meta, state) => meta.results.find((result) => result.id === state.result);
const unitOf = (meta, state) => resultOf(meta, state).metrics.find((metric) => metric.name === state.metric).unit;
const gridQuestion = ({ state }) => ["grid", { result: state.result, metric: state.metric, at: state.at }];

const CHOICES = {
  name: "What is shown",
  questions: () => [],
  draw({ meta, state, set }) {
    const result = resultOf(meta, state), n = meta.prompts.length;
    const text = (prompt, i) => `${i}: ${prompt.tokens.join(" ").slice(0, 60)}`;
    return [
      h("div", { class: "controls" },
        meta.results.length > 1 ? select("Result", meta.results.map(({ id, label }) => [id, label]), state.result, (id) => set({ result: id, cell: null }), "result") : null,
        result.metrics.length > 1 ? select("Metric", result.metrics.map(({ name, unit }) => [name, `${name} (${unit})`]), state.metric, (metric) => set({ metric }), "metric") : null,
        result.choices.map(({ dim, labels }) => select(dim === "pos" ? "Position" : dim, labels.map((label, i) => [i, label]), state.at[dim],
          (index) => set({ at: { ...state.at, [dim]: Number(index) } }), `at ${dim}`)),
        n ? select("Prompt", meta.prompts.map((prompt, i) => [i, text(prompt, i)]), state.prompt, (prompt) => set({ prompt: Number(prompt) }), "prompt") : null,
        n && result.by_prompt ? toggles("The map shows", [[true, "Mean over prompts"], [false, "This prompt"]], state.mean, (mean) => set({ mean })) : null),
      n ? tokens(meta.prompts[state.prompt]) : null,
    ];
  },
};

/** The numbers of the map as it is shown, and what it says of a cell. */
function shown({ meta, state }, grid) {
  const values = state.mean || !grid.value ? unpack(grid.mean) : unpack(atPrompt(grid.value, state.prompt));
  const [low, high, p] = ["low", "high", "p"].map((name) => (grid[name] ? unpack(grid[name]) : null));
  const width = grid.columns.length, unit = unitOf(meta, state);
  const say = (r, c) => {
    const i = r * width + c, parts = [`${nameOf(meta, state, grid, r, c)}: ${number(values[i])} ${unit}`];
    if (!state.mean) parts.push(`on prompt ${state.prompt}`);
    else if (low) parts.push(interval(low[i], high[i], grid.level));
    if (state.mean && p && !Number.isNaN(p[i])) parts.push(`p ${+p[i].toPrecision(2)} with all ${grid.family} cells allowed for`);
    return parts.filter(Boolean).join(", ");
  };
  return { values, width, unit, say, low, high };
}

/** L9H6, or L3.resid_pre@5 ·Mary. */
function nameOf(meta, state, grid, r, c) {
  const result = resultOf(meta, state), layer = `L${grid.layers[r]}`;
  if (result.across === "head") return `${layer}${grid.columns[c]}`;
  return result.across ? `${layer}.${result.site}@${grid.columns[c]}` : `${layer}.${result.site}`;
}

const MAP = {
  name: "Map of effects",
  questions: (page) => [gridQuestion(page)],
  draw(page, grid) {
    const { meta, state, set } = page;
    if (grid.error) return sentence(grid.error, "error");
    const result = resultOf(meta, state), { values, width, unit, say } = shown(page, grid);
    const { end, beyond } = endOf(values);
    const past = beyond.map((i) => `${nameOf(meta, state, grid, Math.floor(i / width), i % width)} ${number(values[i])}`);
    const open = (r, c, byKey) => set({ cell: [r, c] }, byKey ? "[data-panel=cell] h2" : undefined);
    return [
      h("h2", {}, result.name),
      sentence(result.words),
      result.why ? sentence(`No values by prompt: ${result.why}.`) : null,
      map({ name: `${result.name}: rows are layers. Arrows move, Enter opens.`, rows: grid.rows, columns: grid.columns,
        value: (r, c) => values[r * width + c], say, end, chosen: state.cell, open,
        back: () => set({ cell: null }), numbers: width <= 16, size: width <= 16 ? "34px" : width <= 40 ? "20px" : "12px" }),
      scale(end, unit, true, past),
      sentence(result.convention),
    ];
  },
};

const headOf = ({ meta, state }, grid) =>
  (state.cell && resultOf(meta, state).across === "head" && grid ? { layer: grid.layers[state.cell[0]], head: state.cell[1] } : null);

const CELL = {
  name: "The chosen cell",
  questions(page) {
    const { meta, state } = page, layers = resultOf(meta, state).layers;
    if (!state.cell) return [];
    if (resultOf(meta, state).across !== "head") return [gridQuestion(page)];
    const head = { layer: layers[state.cell[0]], head: state.cell[1] }, { prompt, weighting, metric, text } = state;
    return [gridQuestion(page),
      ["head", meta.prompts.length ? { ...head, prompt } : head],
      text ? ["attention", { ...head, weighting, text }] : meta.prompts[prompt]?.shown ? ["attention", { ...head, weighting, prompt }] : null,
      state.exact ? ["measure", { ...head, prompt, metric }] : null];
  },
  draw(page, grid, head, attention, exact) {
    const { meta, state } = page;
    if (!state.cell) return sentence("Choose a cell of the map: click it, or move with the arrows and press Enter.");
    if (grid.error) return sentence(grid.error, "error");
    const view = shown(page, grid), [r, c] = state.cell;
    return h("div", { "data-panel": "cell", onkeydown: (event) => { if (event.key === "Escape") { event.stopPropagation(); back(page); } } },
      h("h2", { tabindex: -1 }, nameOf(meta, state, grid, r, c)),
      sentence(`${view.say(r, c)}.`, "fact"),
      head ? attentionPart(page, grid, attention) : null,
      h("div", { class: "pair" },
        head ? h("div", {}, positionsPart(page, head, exact)) : null,
        grid.value ? h("div", {}, promptsPart(page, grid, r * view.width + c)) : null,
        head ? h("div", {}, tokensPart(page, head)) : null,
        head ? h("div", {}, elsewherePart(page, head)) : null));
  },
};

/** From the chosen cell back to it on the map. */
function back(page) {
  page.root.querySelector(`table[role=grid] td[data-at="${page.state.cell.join(",")}"]`)?.focus();
}

const WEIGHTINGS = { plain: "Attention", value: "Weighted by what is written", difference: "Clean − corrupt" };

function attentionPart(page, grid, attention) {
  const { meta, state, set } = page, prompt = meta.prompts[state.prompt];
  if (!prompt) return sentence("Attention needs the model and the task: give model= and task= to interp.explore.");
  if (!attention) return sentence(`The attention of prompt ${state.prompt} is not on this page.`);
  const choice = toggles("Attention as", Object.entries(meta.weightings).map(([name, why]) => [name, WEIGHTINGS[name], why]), state.weighting, (weighting) => set({ weighting }));
  const own = meta.live ? ownPrompt(page) : null;
  if (attention.error) return [choice, own, sentence(attention.error, "error")];
  const words = attention.tokens ?? prompt.tokens, at = attention.tokens ? [] : [prompt.at];
  const n = words.length, width = attention.matrix.shape[1], values = unpack(attention.matrix);
  const value = (r, c) => values[r * width + c];
  const say = (r, c) => `from ${r} ${words[r]} to ${c} ${words[c]}: ${number(value(r, c), state.weighting === "difference")}`;
  const cells = Array.from({ length: n * n }, (_, i) => value(Math.floor(i / n), i % n));
  const end = state.weighting === "plain" ? 1 : largest(cells);
  return [
    h("h3", {}, `${WEIGHTINGS[state.weighting]} on ${state.text ? "your prompt" : `prompt ${state.prompt}`}`), choice, own,
    map({ name: "Attention: rows attend, columns are attended to", rows: words, columns: words, value, say, end,
      beyond: (r, c) => meta.causal && c > r, back: () => back(page), numbers: false, marks: at,
      size: n <= 16 ? "24px" : n <= 28 ? "18px" : n <= 48 ? "13px" : "9px" }),
    scale(end, state.weighting === "value" ? "attention × ‖v W_O‖" : "attention", state.weighting === "difference"),
    sentence(`Rows attend to columns${at.length ? "; the answer is read in the row in bold" : ""}. Kept to ±${attention.matrix.error.toPrecision(1)}.`),
  ];
}

/** A prompt of the reader's own, whose attention the model is asked for. */
function ownPrompt({ state, set }) {
  const field = h("input", { type: "text", value: state.text, size: 40, "data-key": "text", autocomplete: "off" });
  return h("form", { class: "controls", onsubmit: (event) => { event.preventDefault(); set({ text: field.value.trim() }); } },
    h("label", {}, "A prompt of your own", field), h("button", { type: "submit", "data-key": "ask" }, "Ask the model"),
    state.text ? h("button", { type: "button", "data-key": "task", onclick: () => set({ text: "" }) }, "Back to the task") : null);
}

/** The button that asks the model for exact effects. */
function measure({ meta, state, set }, source) {
  if (!meta.live || source === "exact patching") return null;
  return h("button", { type: "button", "data-key": "measure", onclick: () => set({ exact: true }) }, "Measure exactly");
}

function positionsPart(page, head, exact) {
  const { meta, state } = page, title = h("h3", {}, "Effect by position");
  if (exact?.error) return [title, sentence(exact.error, "error")];
  if (exact) head = { ...head, positions: exact.positions };
  if (!head.positions) return head.no_positions ? [title, sentence(head.no_positions), measure(page)] : null;
  const row = head.positions.find(({ metric }) => metric === state.metric) ?? head.positions[0];
  const values = unpack(row.value), prompt = meta.prompts[state.prompt];
  const rows = prompt.tokens.map((token, i) => ({ name: `${i} ${token}`, value: values[i] ?? NaN, title: `${number(values[i])} ${row.unit}` }));
  return [title, sentence(`${row.source}, ${row.metric} (${row.unit}), prompt ${state.prompt}`), bars(rows, largest(values)), measure(page, row.source)];
}

const MOST = 6;

function promptsPart(page, grid, cell) {
  const { meta, state, set } = page, size = grid.value.shape[1] * grid.value.shape[2];
  const all = unpack(grid.value), values = meta.prompts.map((_, i) => all[i * size + cell]);
  const order = values.map((_, i) => i).filter((i) => !Number.isNaN(values[i])).sort((a, b) => values[b] - values[a]);
  const ends = order.length > 2 * MOST ? [...order.slice(0, MOST), null, ...order.slice(-MOST)] : order;
  const end = largest(values);
  return [
    h("h3", {}, "Prompts, by effect"),
    h("ul", { class: "bars choices" }, ends.map((i) => (i === null
      ? h("li", { class: "small" }, `… ${order.length - 2 * MOST} between …`)
      : h("li", { "data-prompt": i, "data-value": values[i] },
        h("button", { type: "button", "aria-pressed": String(i === state.prompt), "data-key": `prompt ${i}`, title: meta.prompts[i].tokens.join(" "),
          onclick: () => set({ prompt: i }) }, `${i} ${meta.prompts[i].tokens.join(" ")}`),
        bar(values[i], end), h("span", { class: "number" }, number(values[i])))))),
  ];
}

function tokensPart({ state }, head) {
  if (!head.tokens) return head.no_tokens ? [h("h3", {}, "Top tokens"), sentence(head.no_tokens)] : null;
  const rows = head.tokens.up.map((pair, i) => [...pair, ...head.tokens.down[i]]);
  return [h("h3", {}, "Top tokens"), sentence(`Written straight to the logits on prompt ${state.prompt}, where the answer is read`),
    plainTable(["raises", "logits", "lowers", "logits"], rows, "Top tokens")];
}

function elsewherePart({ meta, state }, head) {
  const label = (id) => meta.results.find((result) => result.id === id).label;
  const others = head.elsewhere.filter(({ result, metric }) => result !== state.result || metric !== state.metric);
  const rows = others.map(({ result, metric, unit, mean, low, high }) => [label(result), mean, `${metric === unit ? "" : metric} (${unit})`, interval(low, high, meta.level)]);
  const scores = head.scores.map(({ name, mean, low, high }) => [name, mean, interval(low, high, meta.level)]);
  return [
    rows.length ? [h("h3", {}, "The same head elsewhere"), plainTable(["result", "mean", "metric and unit", "interval"], rows, "Other results of this head")] : null,
    scores.length ? [h("h3", {}, "Scores"), plainTable(["score", "mean", "interval"], scores, "Scores of this head")] : null,
  ].flat();
}

/** The metric of circuits that is shown: the map's, where circuits have it. */
const metricOf = (state, rows) => Math.max(0, rows.findIndex(({ metric }) => metric === state.metric));
const circuitOf = ({ meta, state }) => meta.circuits.find(({ id }) => id === state.circuit) ?? meta.circuits[0];
const toggledOf = ({ state }) => [...state.toggles].sort();

const CIRCUIT = {
  name: "Circuit",
  there: (meta) => meta.circuits.length > 0,
  questions(page) {
    const { id, why } = circuitOf(page);
    if (why) return [];
    const asked = [["circuit", { circuit: id, toggles: [] }], ["circuit", { circuit: id, toggles: toggledOf(page) }]];
    return page.state.edge ? [...asked, ["edge", { circuit: id, edge: page.state.edge }]] : asked;
  },
  draw(page, whole, changed, edge) {
    const { meta, state, set } = page, circuit = circuitOf(page);
    if (whole?.error) return [h("div", { class: "band" }, h("h2", {}, circuit.name)), sentence(whole.error, "error")];
    const single = Object.fromEntries((whole?.singles ?? []).map((row) => [row.name, row]));
    const k = whole ? metricOf(state, whole.metrics) : 0;
    const effect = ({ name, score }) => single[name]?.exact[k].mean ?? score;
    const cut = ({ name, kept }) => kept === state.toggles.has(name);
    const say = (row) => `${row.label}: ${number(effect(row))}${single[row.name] ? `, ${interval(single[row.name].exact[k].low, single[row.name].exact[k].high, meta.level)}` : ""}`;
    const open = ({ name }) => set({ edge: name });
    return h("div", { class: "band" },
      h("h2", {}, `Circuit: ${circuit.name}`),
      sentence([circuit.words, circuit.how].filter(Boolean).join(" · ")),
      meta.circuits.length > 1 ? h("div", { class: "controls" }, select("Circuit", meta.circuits.map(({ id, name }) => [id, name]), circuit.id,
        (id) => set({ circuit: id, edge: null, toggles: new Set() }), "circuit")) : null,
      circuit.why ? sentence(circuit.why) : null,
      whole ? faithfulnessPart(page, whole, changed, k) : null,
      h("div", { class: "columns" },
        h("div", {}, circuitPicture({ name: `Circuit of ${circuit.words}`, nodes: circuit.nodes, edges: circuit.edges, effect, cut, chosen: state.edge, open, say }),
          sentence(`Width: size of the ${whole ? "exact effect" : "score"}; blue helps, red hurts; dashed: cut. The list has the same edges.`)),
        h("div", {}, edge && !edge.error ? edgePart(page, edge, single[edge.name], k) : edge ? sentence(edge.error, "error") : null,
          edgeList(page, circuit, single, k))));
  },
};

const ratio = ({ faithfulness, low, high }, level) => `${number(faithfulness, false)}${interval(low, high, level) && ` (${interval(low, high, level)})`}`;

function faithfulnessPart(page, whole, changed, k) {
  const { meta, state, set } = page;
  const lines = [h("p", { class: "fact" }, `Faithfulness ${ratio(whole.metrics[k], meta.level)} with its ${whole.edges} edges, ${whole.metrics[k].metric}, ${whole.ablation} ablation.`)];
  if (!state.toggles.size) return lines;
  const names = circuitOf(page).edges.filter(({ name }) => state.toggles.has(name)).map(({ label }) => label).join(", ");
  lines.push(changed.error ? sentence(changed.error, "error")
    : h("p", { class: "fact", "data-part": "toggled", "data-value": changed.metrics[k].faithfulness }, `With ${names} toggled: faithfulness ${ratio(changed.metrics[k], meta.level)}, ${changed.edges} edges. `,
      h("button", { type: "button", "data-key": "restore", onclick: () => set({ toggles: new Set() }) }, "Restore")));
  return lines;
}

function edgePart({ meta }, edge, single, k) {
  const { metric, unit, mean, low, high } = edge.exact[k];
  return h("div", { "data-part": "edge" }, h("h3", {}, edge.label),
    h("p", { class: "fact", "data-value": mean }, `Cut alone: ${number(mean)} ${unit}${metric === unit ? "" : ` of ${metric}`}${low === null || low === undefined ? "" : `, ${interval(low, high, meta.level)}`}.`
      + (edge.score === null ? "" : ` Score ${number(edge.score)}.`)),
    sentence(`${edge.kept ? "Without it" : "With it"} the circuit's faithfulness is ${number(single.toggled[k].faithfulness, false)}.`));
}

/** One edge more, or one less; a file holds single toggles, so there the last one stands alone. */
function toggle({ meta, state, set }, name) {
  const toggles = new Set(meta.live ? state.toggles : state.toggles.has(name) ? [name] : []);
  if (!toggles.delete(name)) toggles.add(name);
  set({ toggles, edge: name });
}

function edgeList(page, circuit, single, k) {
  const { meta, state, set } = page;
  const rows = circuit.edges.map((edge) => {
    const row = single[edge.name], exact = row?.exact[k], on = state.toggles.has(edge.name);
    return h("tr", { class: edge.name === state.edge ? "chosen" : null, "data-edge": edge.name },
      h("td", {}, h("button", { type: "button", "data-key": `edge ${edge.name}`, "aria-pressed": String(edge.name === state.edge), onclick: () => set({ edge: edge.name }) }, edge.label)),
      h("td", { class: "number", "data-value": exact?.mean, title: exact ? interval(exact.low, exact.high, meta.level) : null }, exact ? number(exact.mean) : ""),
      h("td", { class: "number" }, edge.score === null ? "" : number(edge.score)),
      h("td", { class: "number", "data-value": row?.toggled[k].faithfulness }, row ? number(row.toggled[k].faithfulness, false) : ""),
      h("td", {}, row ? h("button", { type: "button", "data-key": `toggle ${edge.name}`, "aria-pressed": String(on), onclick: () => toggle(page, edge.name) }, edge.kept ? "cut" : "keep") : null));
  });
  const header = ["edge", "cut alone", "score", "faithfulness, toggled", "toggle"];
  return h("div", { class: "edges" }, h("table", { class: "plain", "aria-label": "Edges" },
    h("thead", {}, h("tr", {}, header.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows)));
}

const RUNS = { steered: "steered", random: "random direction", shuffled: "shuffled labels" };
const directionOf = ({ meta, state }) => meta.directions.find(({ id }) => id === state.direction) ?? meta.directions[0];

const STEERING = {
  name: "Steering",
  there: (meta) => meta.directions.length > 0,
  questions(page) {
    const { state } = page, { id } = directionOf(page), { steered, steeredText, coefficient } = state;
    const args = { direction: id, ...(steeredText ? { text: steeredText } : { prompt: steered }) };
    return [["generate", coefficient === null ? args : { ...args, coefficient }]];
  },
  draw(page, ladder) {
    const { meta, state, set } = page, direction = directionOf(page), prompts = meta.prompts.slice(0, direction.prompts);
    return h("div", { class: "band" },
      h("h2", {}, `Steering: ${direction.name}`), sentence(direction.words),
      h("div", { class: "controls" },
        meta.directions.length > 1 ? select("Direction", meta.directions.map(({ id, name }) => [id, name]), direction.id, (id) => set({ direction: id }), "direction") : null,
        select("Steered prompt", prompts.map(({ tokens }, i) => [i, `${i}: ${tokens.join(" ").slice(0, 60)}`]), state.steered,
          (prompt) => set({ steered: Number(prompt), steeredText: "" }), "steered")),
      meta.live ? ownRung(page) : null,
      ladder.error ? sentence(ladder.error, "error") : rungTable(ladder),
      sentence("KL: of the next token from the unsteered run, in nats. Loss: of the text under the unsteered model, in nats a token; far above that of the unsteered text, steering has broken it."));
  },
};

/** A prompt and a coefficient of the reader's own. */
function ownRung({ state, set }) {
  const text = h("input", { type: "text", value: state.steeredText, size: 40, "data-key": "steered text", autocomplete: "off" });
  const step = h("input", { type: "number", step: "any", value: state.coefficient ?? "", "data-key": "coefficient" });
  return h("form", { class: "controls", onsubmit: (event) => {
    event.preventDefault();
    set({ steeredText: text.value.trim(), coefficient: step.value === "" ? null : Number(step.value) });
  } }, h("label", {}, "A prompt of your own", text), h("label", {}, "A coefficient of your own", step),
    h("button", { type: "submit", "data-key": "steer" }, "Ask the model"));
}

/** One row a coefficient: what is written, and what the controls of equal length write. */
function rungTable({ rungs }) {
  const runs = Object.keys(RUNS).filter((run) => rungs[0].runs[run]);
  const words = ({ text, kl, loss }) => [h("span", { class: "written" }, text || "(nothing)"), h("span", { class: "small" }, ` KL ${number(kl, false)}, loss ${number(loss, false)}`)];
  const base = rungs[0].runs.base;
  const row = (name, cells) => h("tr", {}, h("th", { scope: "row", class: "number" }, name), cells);
  const rows = [...rungs].sort((a, b) => a.coefficient - b.coefficient).map(({ coefficient, runs: all }) => [coefficient,
    row(number(coefficient), runs.map((run) => h("td", { "data-rung": `${coefficient} ${run}`, "data-value": all[run].kl }, words(all[run]))))]);
  const still = [0, row("0", h("td", { colspan: runs.length, "data-rung": "0 base" }, h("span", { class: "written" }, base.text || "(nothing)"), h("span", { class: "small" }, ` loss ${number(base.loss, false)}`)))];
  const ordered = [...rows, still].sort((a, b) => a[0] - b[0]).map(([, element]) => element);
  return wide("Texts by coefficient", h("table", { class: "plain texts", "aria-label": "Texts by coefficient" },
    h("thead", {}, h("tr", {}, ["coefficient", ...runs.map((run) => RUNS[run])].map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, ordered)));
}

const SECTIONS = [CIRCUIT, STEERING];

const start = document.getElementById("data");
if (start) {
  const { stored } = JSON.parse(start.textContent);
  mount(document.getElementById("interp"), stored ? storedAsk(stored) : servedAsk(location.pathname.replace(/\/$/, "")), document.title);
}

/** What anywidget calls. */
export default { render: ({ model, el }) => { mount(el, messageAsk(model)); } };
