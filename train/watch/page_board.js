"use strict";
// The recorded episodes, where the viewer stands in them, and the board. All that is shown is read
// from #data. What stands beside the board, and the keys, are in page.js.

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const ACTIONS = ["north", "east", "south", "west", "north-east", "south-east", "south-west", "north-west"];
const SIGNS = ["↑", "→", "↓", "←", "↗", "↘", "↙", "↖"];
const MOVES = [[0, -1], [1, 0], [0, 1], [-1, 0], [1, -1], [1, 1], [-1, 1], [-1, -1]];
const CELL = 10;
const S = data.episodes[0].moments[0].q.length; // thoughts of one decision
const now = { episode: 0, step: 0, stage: S, playing: false, timer: 0 };
const best = (q) => q.indexOf(Math.max(...q));
const times = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

function svg(name, attributes, parent, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

const episode = () => data.episodes[now.episode];
const moment = () => episode().moments[now.step];
const column = (cell) => cell % data.cols;
const row = (cell) => Math.floor(cell / data.cols);
const centre = (cell) => [(column(cell) + 0.5) * CELL, (row(cell) + 0.5) * CELL];
const place = (cell) => `row ${row(cell) + 1} column ${column(cell) + 1}`;
const line = (cells) => cells.map((cell) => centre(cell).join()).join(" ");

function cellsOf(board, glyph) {
  return [...board].flatMap((other, cell) => (other === glyph ? [cell] : []));
}

/** Cells whose door has opened or closed in the step that led to this moment. */
function changedDoors(moments, step) {
  if (step === 0) return [];
  const [before, after] = [moments[step - 1].board, moments[step].board];
  return [...after].flatMap((glyph, cell) => {
    const seen = glyph !== "?" && before[cell] !== "?";
    return seen && (glyph === "#") !== (before[cell] === "#") ? [cell] : [];
  });
}

/** The action that led to a moment: the best of the decision before. */
const cameBy = (moments, step) => (step > 0 ? best(moments[step - 1].q[S - 1]) : -1);

function squares(cells, kind, parent, low = 0) {
  if (!cells.length) return;
  const d = cells.map((c) => `M${column(c) * CELL} ${row(c) * CELL}h${CELL}v${CELL}h-${CELL}z`);
  svg("path", { class: kind, d: d.join(""), transform: `translate(${low}, ${low})` }, parent);
}

function star(cell, parent, arrived) {
  const [x, y] = centre(cell);
  const points = Array.from({ length: 10 }, (_, i) => {
    const [r, turn] = [(i % 2 ? 1.9 : 4.2) * (arrived ? 1.4 : 1), (i * Math.PI) / 5];
    return [x + r * Math.sin(turn), y + 0.3 - r * Math.cos(turn)].map((v) => v.toFixed(2)).join();
  });
  svg("polygon", { class: arrived ? "goal arrived" : "goal", points: points.join(" ") }, parent);
}

function door(cell, parent) {
  const group = svg("g", { class: "door", transform: `translate(${centre(cell)})` }, parent);
  svg("rect", { x: -4.2, y: -4.2, width: 8.4, height: 8.4, rx: 1 }, group);
  svg("path", { d: "M-1.4-4v8M1.4-4v8" }, group);
  svg("circle", { cx: 2.8, cy: 0.3, r: 0.6 }, group);
}

function arrows(cell, q, parent) {
  const [high, low] = [Math.max(...q), Math.min(...q)];
  q.forEach((value, action) => {
    const [dx, dy] = MOVES[action];
    const [angle, near] = [(Math.atan2(dy, dx) * 180) / Math.PI, (value - low) / (high - low || 1)];
    const [from, to] = [4.5, 5.4 + 4 * near];
    const kind = action === best(q) ? "qarrow chosen" : "qarrow";
    const turned = `translate(${centre(cell)}) rotate(${angle})`;
    const group = svg("g", { class: kind, transform: turned }, parent);
    svg("line", { x1: from, y1: 0, x2: to, y2: 0 }, group);
    svg("path", { d: `M${to + 2.2} 0l-2.6-1.7v3.4z` }, group);
  });
}

/** Every cell that could be the goal, the more coloured the more it is worth: percent. */
function field(values, board, parent) {
  values.forEach((percent, cell) => {
    if ("|#@ ?".includes(board[cell])) return;
    const [x, y] = [column(cell) * CELL, row(cell) * CELL];
    svg("rect", { class: "value", x, y, width: CELL, height: CELL, opacity: (0.8 * percent) / 100 }, parent);
  });
}

/** The board's frame, built once; `drawBoard` fills its layers. */
function buildBoard() {
  const [width, height] = [data.cols * CELL, data.rows * CELL];
  const board = at("board");
  board.setAttribute("viewBox", `-3 -3 ${width + 6} ${height + 6}`);
  svg("rect", { class: "floor", width, height }, board);
  for (let i = 1; i < data.cols; i++) svg("line", { class: "grid", x1: i * CELL, x2: i * CELL, y2: height }, board);
  for (let i = 1; i < data.rows; i++) svg("line", { class: "grid", y1: i * CELL, y2: i * CELL, x2: width }, board);
  svg("rect", { width, height }, svg("clipPath", { id: "inside" }, board)); // shadows end at the frame
  for (const layer of ["ground", "ways", "above"]) svg("g", { id: layer }, board);
  at("ground").setAttribute("clip-path", "url(#inside)");
  svg("rect", { class: "frame", x: -0.2, y: -0.2, width: width + 0.4, height: height + 0.4 }, board);
  const agent = svg("g", { id: "agent" }, board);
  const body = svg("g", { id: "body" }, agent);
  svg("circle", { class: "body", r: 3.3 }, body);
  svg("circle", { class: "glint", cx: -1, cy: -1.1, r: 0.8 }, body);
  svg("g", { id: "arrows" }, board);
}

function drawBoard(arriving) {
  const { moments } = episode();
  const { board, path, q, reward, values } = moment();
  for (const layer of ["ground", "ways", "above", "arrows"]) at(layer).replaceChildren();
  if (values && at("show-values").checked) field(values[now.stage - 1], board, at("ground"));
  squares(cellsOf(board, "|"), "shadow", at("ground"), 1.1);
  squares(cellsOf(board, "|"), "wall", at("ground"));
  squares(cellsOf(board, " "), "rock", at("ground"));
  squares(cellsOf(board, "?"), "unseen", at("ground"));
  for (const cell of data.doorways.filter((d) => !"#|?".includes(board[d]))) {
    const [x, y] = centre(cell);
    svg("rect", { class: "open", x: x - 4.2, y: y - 4.2, width: 8.4, height: 8.4, "stroke-dasharray": "2 4.4 2 0" }, at("ground"));
  }
  for (const cell of cellsOf(board, "#")) door(cell, at("ground"));
  const begun = moments[0].board.indexOf("@");
  const [cx, cy] = centre(begun);
  svg("circle", { class: "start", cx, cy, r: 2.6 }, at("ground"));
  const agent = board.indexOf("@");
  if (at("show-shortest").checked && path.length) svg("polyline", { class: "route", points: line(path) }, at("ways"));
  const walked = moments.slice(0, now.step + 1).map((m) => m.board.indexOf("@"));
  if (at("show-path").checked) svg("polyline", { class: "walked", points: line(walked) }, at("ways"));
  const won = now.step === moments.length - 1 && episode().end === "goal";
  for (const cell of won ? [agent] : cellsOf(board, ">")) star(cell, at("above"), won);
  for (const cell of changedDoors(moments, now.step)) {
    svg("rect", { class: "flash", x: column(cell) * CELL + 0.3, y: row(cell) * CELL + 0.3, width: CELL - 0.6, height: CELL - 0.6 }, at("above"));
  }
  if (at("show-arrows").checked && q) arrows(agent, q[now.stage - 1], at("arrows"));
  moveAgent(agent, arriving, reward < 0 && cameBy(moments, now.step));
  at("board").setAttribute("aria-label", describe(board, agent));
}

/** Glide to the cell; where the step was a bump into a wall, push against it. */
function moveAgent(cell, arriving, bumped) {
  at("agent").classList.toggle("jump", !arriving);
  at("agent").style.transform = `translate(${centre(cell).map((v) => `${v}px`).join()})`;
  const body = at("body");
  body.classList.remove("bump");
  if (!arriving || bumped === false) return;
  void body.getBoundingClientRect(); // so that the animation starts anew
  body.style.setProperty("--dx", MOVES[bumped][0]);
  body.style.setProperty("--dy", MOVES[bumped][1]);
  body.classList.add("bump");
}

function describe(board, agent) {
  const doors = cellsOf(board, "#").map(place);
  const goal = cellsOf(board, ">").map(place);
  return [
    `Board of ${data.rows} rows and ${data.cols} columns.`,
    `Agent at ${place(agent)}.`,
    goal.length ? `Goal at ${goal[0]}.` : "",
    doors.length ? `Closed doors: ${doors.join(", ")}.` : "No door is closed.",
  ].join(" ");
}
