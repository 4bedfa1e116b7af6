"use strict";
// All text is inserted as text, through textContent and attributes, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const collator = new Intl.Collator("en", { numeric: true });

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
const make = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const colour = (sign) => ["muted", "up", "down"].at(sign * data.better); // "up" means better
const signed = (value, digits) => {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : (value > 0 ? "+" : "") + text;
};

// The table

const order = { column: null, descending: true }; // column: an index, "method", or null for the data's order

function chosen() {
  const { value: search } = at("search");
  const has = (kind, name) => !at(kind).value || at(kind).value === name;
  const rows = data.rows
    .map((row, place) => ({ ...row, place }))
    .filter((row) => has("kind", row.kind) && row.label.toLowerCase().includes(search.toLowerCase()));
  const columns = data.columns
    .map((column, place) => ({ ...column, place }))
    .filter((column) => ["dataset", "pair", "recipe"].every((kind) => has(kind, column[kind])));
  return { rows, columns };
}

function sorted(rows) {
  if (order.column === null) return rows;
  const sign = order.descending ? -1 : 1;
  const score = (row) => data.cells[row.place][order.column]?.mean ?? null;
  return [...rows].sort((a, b) => {
    if (order.column === "method") return sign * collator.compare(a.label, b.label);
    if (score(a) === null || score(b) === null) return (score(a) === null) - (score(b) === null);
    return sign * (score(a) - score(b));
  });
}

function sortBy(column) {
  const first = column !== "method"; // scores start with the highest, names with a
  if (order.column !== column) Object.assign(order, { column, descending: first });
  else if (order.descending === first) order.descending = !first;
  else order.column = null;
  show();
}

function heading(label, key, teachers = [], digits = 1) {
  const active = order.column === key;
  const arrow = active ? (order.descending ? "▼" : "▲") : "";
  const button = make("button", { type: "button", "data-sort": key }, label);
  button.append(make("span", { class: "order", "aria-hidden": "true" }, arrow));
  button.addEventListener("click", () => {
    sortBy(key);
    document.querySelector(`[data-sort="${key}"]`).focus();
  });
  const sort = active ? (order.descending ? "descending" : "ascending") : "none";
  const cell = make("th", { scope: "col", "aria-sort": sort }, button);
  if (teachers.length) {
    cell.append(make("span", { class: "teacher" }, `teacher ${mean(teachers).toFixed(digits)}`));
  }
  return cell;
}

function cellButton(cell, row, column) {
  const score = make("span", { class: cell.bold ? "score best" : "score" }, cell.score || "failed");
  const button = make("button", { type: "button", "data-row": row, "data-column": column }, score);
  const kind = colour(cell.effect);
  const failed = cell.failed && cell.score ? ` ${cell.failed} failed` : "";
  const text = cell.difference + (cell.unproven ? "†" : "") + failed;
  if (text) button.append(make("span", { class: `difference ${kind}` }, text));
  return button;
}

function tableRow(row, columns) {
  const line = make("tr", {}, make("th", { scope: "row" }, row.label));
  for (const column of columns) {
    const cell = data.cells[row.place][column.place];
    line.append(make("td", {}, ...(cell ? [cellButton(cell, row.place, column.place)] : [])));
  }
  return line;
}

function show() {
  const { rows, columns } = chosen();
  const head = make("tr", {}, heading("method", "method"));
  for (const column of columns) {
    head.append(heading(column.label, column.place, column.teachers, column.digits));
  }
  const bodies = [];
  for (const group of new Set(rows.map((row) => row.group))) {
    const body = make("tbody");
    if (group) {
      const name = make("th", { scope: "rowgroup", class: "group", colspan: columns.length + 1 }, group);
      body.append(make("tr", {}, name));
    }
    body.append(...sorted(rows.filter((row) => row.group === group)).map((row) => tableRow(row, columns)));
    bodies.push(body);
  }
  at("results").querySelector("thead").replaceChildren(head);
  at("results").querySelectorAll("tbody").forEach((body) => body.remove());
  at("results").append(...bodies);
  at("shown").textContent =
    `${rows.length} of ${plural(data.rows.length, "row")}, ` +
    `${columns.length} of ${plural(data.columns.length, "column")}`;
  compare(columns);
}

// Curves

function statistics(cell) {
  const runs = cell.runs.map((place) => data.runs[place]).filter((run) => run.curve.length);
  if (!runs.length) return null;
  const alike = runs.filter((run) => run.epochs === runs[0].epochs);
  const columns = alike[0].curve.map((_, place) => alike.map((run) => run.curve[place]));
  return {
    epochs: data.epochs[runs[0].epochs],
    runs: alike.map((run) => run.curve),
    mean: columns.map(mean),
    low: columns.map((values) => Math.min(...values)),
    high: columns.map((values) => Math.max(...values)),
  };
}

function series(row, column) {
  const baseline = data.rows.findIndex((each) => each.label === data.baseline);
  const names = row === baseline || baseline < 0 ? [[row, "method"]] : [[baseline, "baseline"], [row, "method"]];
  return names
    .filter(([place]) => data.cells[place][column])
    .map(([place, kind]) => ({ kind, label: data.rows[place].label, ...statistics(data.cells[place][column]) }))
    .filter((each) => each.mean);
}

function chart(shown, width, height) {
  if (!shown.length) return make("p", { class: "muted" }, "No learning curves: the runs have no history.csv.");
  const last = Math.max(...shown.flatMap((each) => each.epochs));
  const late = shown.flatMap((each) => each.low.filter((_, place) => each.epochs[place] > last / 2));
  const bottom = Math.min(...late, ...shown.map((each) => each.low.at(-1)));
  const top = Math.max(...shown.flatMap((each) => each.high));
  const margin = { left: 38, right: 6, top: 6, bottom: 18 };
  const x = (epoch) =>
    margin.left + ((epoch - 1) / Math.max(last - 1, 1)) * (width - margin.left - margin.right);
  const y = (value) =>
    height - margin.bottom - ((value - bottom) / (top - bottom || 1)) * (height - margin.top - margin.bottom);
  const points = (epochs, values) => epochs.map((epoch, i) => `${x(epoch).toFixed(1)},${y(values[i]).toFixed(1)}`);
  const label = `Test accuracy by epoch: ${shown
    .map((each) => `${each.label} ends at ${each.mean.at(-1).toFixed(2)} %`)
    .join(", ")}`;
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const value of [bottom, (bottom + top) / 2, top]) {
    picture.append(draw("line", { class: "axis", x1: margin.left, x2: width - margin.right, y1: y(value), y2: y(value) }));
    picture.append(draw("text", { x: margin.left - 5, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(1)));
  }
  picture.append(draw("text", { x: margin.left, y: height - 3 }, "epoch 1"));
  picture.append(draw("text", { x: width - margin.right, y: height - 3, "text-anchor": "end" }, String(last)));
  // The first epochs are far below the others and are cut off.
  const clip = `clip-${width}`;
  const inside = { x: margin.left, y: 0, width: width - margin.left, height: height - margin.bottom + 1 };
  picture.append(draw("clipPath", { id: clip }, draw("rect", inside)));
  for (const each of shown) {
    const band = [...points(each.epochs, each.high), ...points(each.epochs, each.low).reverse()];
    const lines = each.runs.map((run) => draw("polyline", { class: "run", points: points(each.epochs, run).join(" ") }));
    picture.append(
      draw("g", { class: each.kind, "clip-path": `url(#${clip})` },
        draw("polygon", { class: "band", points: band.join(" ") }),
        ...lines,
        draw("polyline", { class: "mean", points: points(each.epochs, each.mean).join(" ") })));
  }
  return picture;
}

function legend(shown) {
  return shown.map((each) =>
    make("div", {}, make("span", { class: `key ${each.kind}`, "aria-hidden": "true" }), each.label,
      make("span", { class: "muted" }, ` mean, range of ${plural(each.runs.length, "seed")}`)));
}

// The card that appears beside a cell

function showCard(button) {
  const { row, column } = button.dataset;
  const shown = series(Number(row), Number(column));
  at("card").replaceChildren(chart(shown, 310, 150), ...legend(shown));
  at("card").hidden = false;
  button.setAttribute("aria-describedby", "card");
  const cell = button.getBoundingClientRect();
  const card = at("card").getBoundingClientRect();
  const fits = cell.bottom + card.height + 8 < innerHeight;
  at("card").style.top = `${Math.max(4, fits ? cell.bottom + 4 : cell.top - card.height - 4)}px`;
  at("card").style.left = `${Math.max(4, Math.min(cell.left, innerWidth - card.width - 8))}px`;
}

function hideCard() {
  at("card").hidden = true;
  document.querySelector("[aria-describedby=card]")?.removeAttribute("aria-describedby");
}

// The runs of a cell

function runLine(run) {
  if (run.reason !== undefined) {
    return make("tr", {}, make("th", { scope: "row" }, String(run.seed)),
      make("td", { colspan: 5, class: "path" }, `failed: ${run.reason} (${run.folder})`));
  }
  const teacher = run.teacher_accuracy === null ? "none" : `${run.teacher_accuracy.toFixed(2)} ${run.teacher}`;
  return make("tr", {}, make("th", { scope: "row" }, String(run.seed)),
    make("td", {}, run.last.toFixed(2)),
    make("td", {}, `${run.best.toFixed(2)} (${run.best_epoch})`),
    make("td", {}, run.seconds.toLocaleString("en")),
    make("td", { class: "path" }, teacher),
    make("td", { class: "path" }, make("a", { href: run.link }, run.folder)));
}

function showRuns(row, column) {
  hideCard();
  const cell = data.cells[row][column];
  const shown = series(row, column);
  const half = cell.half ? ` (95 % interval ± ${cell.half.toFixed(2)})` : "";
  const difference = cell.difference ? `; ${cell.difference} against the baseline${half}` : "";
  const head = ["seed", "last, %", "best, % (epoch, test-selected)", "seconds", "teacher, %", "record"];
  const table = make("table", {}, make("caption", {}, make("span", {}, "Runs")),
    make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...cell.runs.map((place) => runLine(data.runs[place]))));
  at("details-title").textContent = `${data.rows[row].label}, ${data.columns[column].label}`;
  at("details-body").replaceChildren(
    make("p", {}, `${cell.score || "all runs failed"}${difference}`), chart(shown, Math.min(700, innerWidth - 60), 260), ...legend(shown),
    make("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": "Runs" }, table));
  at("details").showModal();
}

// Two methods

function paired(first, second, column) {
  const seeds = Object.keys(first.values).filter((seed) => seed in second.values);
  if (!seeds.length) return null;
  const difference = mean(seeds.map((seed) => first.values[seed] - second.values[seed]));
  const unknown = column.spread === null || first.unlike || second.unlike;
  const half = unknown ? null : column.spread * Math.sqrt(2 / seeds.length);
  return { difference, half, sign: half !== null && Math.abs(difference) > half ? Math.sign(difference) : 0 };
}

function interval({ difference, half, sign }, scale) {
  const x = (value) => 100 + (value / scale) * 95;
  const kind = colour(sign);
  const picture = draw("svg", { viewBox: "0 0 200 20", class: `interval ${kind}`, "aria-hidden": "true" },
    draw("line", { class: "zero", x1: 100, x2: 100, y1: 0, y2: 20 }));
  if (half !== null) picture.append(draw("line", { x1: x(difference - half), x2: x(difference + half), y1: 10, y2: 10 }));
  picture.append(draw("circle", { cx: x(difference), cy: 10, r: 4 }));
  return picture;
}

function compare(columns) {
  const places = ["first", "second"].map((id) => Number(at(id).value));
  const [first, second] = places.map((place) => data.cells[place]);
  const [name, other] = places.map((place) => data.rows[place].label);
  at("first-name").textContent = name;
  at("second-name").textContent = other;
  const found = columns
    .filter((column) => first[column.place]?.score && second[column.place]?.score)
    .map((column) => ({ column, ...paired(first[column.place], second[column.place], column) }));
  const known = found.filter((each) => each.difference !== undefined);
  const scale = Math.max(1e-9, ...known.map((each) => Math.abs(each.difference) + (each.half ?? 0)));
  at("comparison").querySelector("tbody").replaceChildren(...found.map((each) => {
    const { column, difference, half } = each;
    const width = half === null || half === undefined ? "" : ` ± ${half.toFixed(column.digits)}`;
    const text = difference === undefined ? "no common seed" : signed(difference, column.digits) + width;
    return make("tr", {}, make("th", { scope: "row" }, column.label),
      make("td", {}, first[column.place].score), make("td", {}, second[column.place].score),
      make("td", {}, text), make("td", {}, ...(difference === undefined ? [] : [interval(each, scale)])));
  }));
  const count = (test) => known.filter(test).length;
  at("verdict").textContent = known.length
    ? `Of ${plural(known.length, "column")}, ${name} is higher than ${other} in ${count((e) => e.difference > 0)} ` +
      `(the interval excludes 0 in ${count((e) => e.sign > 0)}) and lower in ${count((e) => e.difference < 0)} ` +
      `(${count((e) => e.sign < 0)}). Mean difference: ${signed(mean(known.map((e) => e.difference)), 2)}.`
    : "The two methods share no seed in any shown column.";
}

// The page

function options(id, names) {
  at(id).append(make("option", { value: "" }, "all"), ...names.map((name) => make("option", { value: name }, name)));
}

function start() {
  const distinct = (key) => [...new Set(data.columns.map((column) => column[key]))].sort(collator.compare);
  options("kind", data.kinds);
  for (const kind of ["dataset", "pair", "recipe"]) options(kind, distinct(kind));
  for (const id of ["first", "second"]) {
    at(id).append(...data.rows.map((row, place) => make("option", { value: place }, row.label)));
  }
  const baseline = data.rows.findIndex((row) => row.label === data.baseline);
  at("second").value = Math.max(baseline, 0);
  at("first").value = data.rows.length > 1 && baseline <= 0 ? 1 : 0;
  at("summary").textContent =
    `${plural(data.rows.length, "row")}, ${plural(data.columns.length, "column")}, ` +
    `${plural(data.runs.length, "run")} from ${data.source}`;
  at("notes").append(...data.caption.map((sentence) => make("li", {}, sentence)));
  at("caveats").append(...data.caveats.map((sentence) => make("li", {}, sentence)));
  at("footer").textContent = `Made by kd-bench ${data.version}: ${data.command}`;
  for (const id of ["search", "kind", "dataset", "pair", "recipe", "first", "second"]) at(id).addEventListener("input", show);
  for (const form of document.querySelectorAll("main form")) form.addEventListener("submit", (event) => event.preventDefault());

  const table = at("results");
  const button = (event) => event.target.closest("td button");
  for (const type of ["mouseover", "focusin"]) {
    table.addEventListener(type, (event) => {
      const cell = button(event);
      if (cell && (type === "mouseover" || cell.matches(":focus-visible"))) showCard(cell);
      else hideCard();
    });
  }
  for (const type of ["mouseleave", "focusout"]) table.addEventListener(type, hideCard);
  addEventListener("scroll", hideCard, { capture: true, passive: true });
  addEventListener("keydown", (event) => event.key === "Escape" && hideCard());
  table.addEventListener("click", (event) => {
    const pressed = button(event);
    if (pressed) showRuns(Number(pressed.dataset.row), Number(pressed.dataset.column));
  });
  at("details").addEventListener("click", (event) => event.target === at("details") && at("details").close());
  show();
}

start();
