// What stands beside the board, the time line, the buttons and the keys.

function sentence() {
  const { moments, end } = episode();
  const { q, reward } = moment();
  const told = [];
  if (reward < 0) told.push(`Bumped going ${ACTIONS[cameBy(moments, now.step)]}.`);
  if (changedDoors(moments, now.step).length) told.push("Doors changed.");
  if (!q) told.push(end === "goal" ? `Goal reached in ${times(now.step, "step")}.` : timeUp(moments));
  else told.push(`${now.stage < S ? "Would go" : "Goes"} ${ACTIONS[best(q[now.stage - 1])]}.`);
  return told.join(" ");
}

function timeUp(moments) {
  const cut = moments.filter((m) => m.q && !m.path.length).length;
  return `Time is up after ${times(now.step, "step")}${cut ? `; no way led to the goal at ${cut} of them` : ""}.`;
}

function drawSide() {
  const { moments, end } = episode();
  const { q, reward, path } = moment();
  const last = moments.length - 1;
  const sum = moments.slice(0, now.step + 1).reduce((total, m) => total + m.reward, 0);
  at("step").textContent = `${now.step} of ${last}`;
  at("reward").textContent = reward.toFixed(2);
  at("return").textContent = sum.toFixed(2);
  at("shortest").textContent = path.length ? times(path.length - 1, "step") : q ? "cut off" : "–";
  at("said").textContent = sentence();
  at("said").className = q ? "" : end === "goal" ? "goal" : "missed";
  at("qtitle").textContent = now.stage < S && q ? `Q values after ${data.unit} ${now.stage}` : "Q values";
  [...at("q").rows].forEach((line, action) => {
    const value = q ? q[now.stage - 1][action] : 0;
    line.className = q && action === best(q[now.stage - 1]) ? "chosen" : "";
    line.querySelector(".bar").style.width = `${100 * Math.min(Math.max(value, 0), 1)}%`;
    line.lastElementChild.textContent = q ? value.toFixed(3) : "–";
  });
}

const PLOT = { width: 308, height: 150, left: 38, right: 10, top: 8, bottom: 24 };
const everyAway = data.episodes.flatMap((e) => e.moments.flatMap((m) => (m.away || []).flat()));
const logs = everyAway.filter((v) => v > 0).map(Math.log10);
const [low, high] = logs.length ? [Math.floor(Math.min(...logs)), Math.ceil(Math.max(...logs) + 1e-9)] : [0, 1];

function plotX(k) {
  return PLOT.left + ((PLOT.width - PLOT.left - PLOT.right) * k) / S;
}

function plotY(value) {
  const share = (Math.log10(value) - low) / Math.max(high - low, 1);
  return PLOT.height - PLOT.bottom - (PLOT.height - PLOT.top - PLOT.bottom) * share;
}

/** The points of a curve that a logarithmic axis can show. */
function curve(values) {
  return values.flatMap((v, k) => (v > 0 ? [[plotX(k), plotY(v)]] : []));
}

function drawPlot() {
  const plot = at("plot");
  plot.replaceChildren();
  plot.setAttribute("class", "plot");
  plot.setAttribute("viewBox", `0 0 ${PLOT.width} ${PLOT.height}`);
  const step = Math.max(1, Math.ceil((high - low) / 4));
  for (let power = low; power <= high; power += step) {
    const y = plotY(10 ** power);
    svg("line", { class: "axis", x1: PLOT.left, x2: PLOT.width - PLOT.right, y1: y, y2: y }, plot);
    svg("text", { x: PLOT.left - 5, y: y + 4, "text-anchor": "end" }, plot, power < -3 || power > 3 ? `1e${power}` : `${10 ** power}`.slice(0, 5));
  }
  for (let k = 0; k <= S; k += Math.ceil(S / 8)) {
    svg("text", { x: plotX(k), y: PLOT.height - 8, "text-anchor": "middle" }, plot, k || "start");
  }
  const { away, q } = moment();
  for (const other of episode().moments) {
    for (const values of other.away || []) svg("polyline", { class: "faint", points: curve(values).join(" ") }, plot);
  }
  if (!q) return plot.setAttribute("aria-label", "The episode has ended: nothing to decide.");
  svg("line", { class: "now", x1: plotX(now.stage), x2: plotX(now.stage), y1: PLOT.top, y2: PLOT.height - PLOT.bottom }, plot);
  ["H", "L"].forEach((level, i) => {
    const points = curve(away[i]);
    svg("polyline", { class: `curve ${level}`, points: points.join(" ") }, plot);
    for (const [cx, cy] of points) svg("circle", { class: `dot ${level}`, cx, cy, r: 3 }, plot);
  });
  const told = ["z_H", "z_L"].map((z, i) => `${z} ${away[i].map((v) => v.toPrecision(2)).join(", ")}`);
  plot.setAttribute("aria-label", `Mean squared distance to the last ${data.unit}'s value, from the start on: ${told.join("; ")}`);
}

/** The value of the chosen action along the episode, changes of doors and bumps. */
function drawValue() {
  const { moments } = episode();
  const [strip, last] = [at("value"), moments.length - 1];
  const x = (step) => (1000 * step) / last;
  const decided = moments.filter((m) => m.q);
  const points = decided.map((m, i) => [x(i), 44 - 40 * Math.min(Math.max(Math.max(...m.q[S - 1]), 0), 1)]);
  strip.setAttribute("viewBox", "0 0 1000 46");
  strip.setAttribute("preserveAspectRatio", "none");
  strip.replaceChildren();
  const end = points[points.length - 1];
  svg("polygon", { class: "area", points: `0,44 ${points.join(" ")} ${end[0]},44` }, strip);
  svg("polyline", { class: "ridge", points: points.join(" ") }, strip);
  moments.forEach((m, i) => {
    if (changedDoors(moments, i).length) svg("line", { class: "mark doormark", x1: x(i), x2: x(i), y1: 0, y2: 44 }, strip);
    if (m.reward < 0) svg("line", { class: "mark bumpmark", x1: x(i), x2: x(i), y1: 36, y2: 44 }, strip);
  });
  svg("line", { class: "now", x1: x(now.step), x2: x(now.step), y1: 0, y2: 46 }, strip);
}

function draw(arriving) {
  const { moments } = episode();
  at("episode").value = now.episode;
  at("time").max = moments.length - 1;
  at("time").value = now.step;
  at("time").setAttribute("aria-valuetext", `step ${now.step} of ${moments.length - 1}`);
  at("stage").value = now.stage;
  at("stage").setAttribute("aria-valuetext", `${data.unit} ${now.stage} of ${S}`);
  at("stagelabel").textContent = `Q values after ${data.unit} ${now.stage} of ${S}`;
  const [atStart, atEnd] = [now.step === 0, now.step === moments.length - 1];
  const off = { first: atStart, back: atStart, forward: atEnd, last: atEnd };
  off.earlier = now.episode === 0;
  off.later = now.episode === data.episodes.length - 1;
  // not `disabled`, which would take the focus away from under the finger
  for (const [id, is] of Object.entries(off)) at(id).setAttribute("aria-disabled", is);
  drawBoard(arriving);
  drawSide();
  drawPlot();
  drawValue();
}

function goTo(step, stage = S) {
  const last = episode().moments.length - 1;
  const before = now.step;
  now.step = Math.min(Math.max(step, 0), last);
  now.stage = Math.min(Math.max(stage, 1), S);
  draw(now.step === before + 1);
}

function show(index) {
  if (index < 0 || index >= data.episodes.length) return;
  now.episode = index;
  now.step = -1;
  goTo(0);
}

function tick() {
  const thinks = at("aloud").checked && now.stage < S && moment().q;
  if (thinks) goTo(now.step, now.stage + 1);
  else goTo(now.step + 1, at("aloud").checked ? 1 : S);
  if (now.step === episode().moments.length - 1) return play(false);
  const wait = at("aloud").checked ? (now.stage < S ? 130 : 450) : 450;
  now.timer = setTimeout(tick, wait / Number(at("speed").value));
}

function play(on) {
  clearTimeout(now.timer);
  now.playing = on;
  at("said").setAttribute("aria-live", on ? "off" : "polite"); // 2 steps a second are too many to read out
  at("play").setAttribute("aria-label", on ? "Pause" : "Play");
  at("play").querySelector("path").setAttribute("d", on ? "M6 4h4v16H6zM14 4h4v16h-4z" : "M7 4v16l13-8z");
  if (!on) return;
  if (now.step === episode().moments.length - 1) goTo(0, at("aloud").checked ? 1 : S);
  now.timer = setTimeout(tick, 250);
}

const KEYS = {
  ArrowLeft: () => goTo(now.step - 1),
  ArrowRight: () => goTo(now.step + 1),
  ArrowUp: () => goTo(now.step, now.stage + 1),
  ArrowDown: () => goTo(now.step, now.stage - 1),
  Home: () => goTo(0),
  End: () => goTo(Infinity),
  ShiftArrowLeft: () => show(now.episode - 1),
  ShiftArrowRight: () => show(now.episode + 1),
};

/** Keys act wherever the focus is, but for what they mean to the control that has it. */
function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { target } = event;
  if (target.tagName === "SELECT" || target === at("stage")) return;
  if (event.key === " ") {
    if (target.tagName === "BUTTON" || target.type === "checkbox") return;
    event.preventDefault();
    return play(!now.playing);
  }
  if (S === 1 && (event.key === "ArrowUp" || event.key === "ArrowDown")) return;
  const act = KEYS[(event.shiftKey ? "Shift" : "") + event.key];
  if (!act) return;
  event.preventDefault();
  play(false);
  act();
}

function about() {
  const [h, l] = data.cycles;
  const thinks = `${times(data.segments, "segment")} of ${h} × ${times(l, "cycle")} a decision`;
  const other = data.segments === data.trainedSegments ? "" : ` (trained with ${data.trainedSegments})`;
  const carries = { reset: "every decision starts anew", carry: "a decision starts from the last token's z of the one before", full: "a decision starts from the z of the one before" };
  const doors = data.pChange ? ` Doors are drawn again with probability ${data.pChange} a step.` : "";
  return `Trained with seed ${data.seed}: ${data.parameters.toLocaleString("en")} parameters, width ${data.width}, ${thinks}${other}; ${carries[data.carry]}. Board ${data.rows} × ${data.cols}, at most ${data.limit} steps.${doors} The strip under the board is the value of the best action; orange lines are changes of doors, short red ones bumps.`;
}

function buildThought() {
  const segment = data.unit === "segment";
  at("plottitle").textContent = "Settling of z";
  at("aloudlabel").textContent = `play every ${data.unit}`;
  at("unitkey").textContent = data.unit;
  at("aloud").checked = S > 1;
  at("stage").max = S;
  at("plotnote").textContent = segment
    ? "Mean squared distance of z to its value after the last segment."
    : "Mean squared distance of z to its value after the last L cycle. This model thinks one segment; Q and z_H are shown as if it called H after that many cycles.";
  at("thinkkeys").hidden = S === 1;
  if (S > 1) return;
  for (const child of [...at("thought").children].slice(1, -1)) child.setAttribute("hidden", ""); // SVG has no .hidden
  at("plotnote").textContent = "This model thinks one segment per decision, so there is nothing to follow: --segments N lets it think more.";
}

function build() {
  const missed = data.episodes.filter((e) => e.end !== "goal").length;
  const all = data.among - data.solved;
  const failures = `${missed === all ? "" : `${missed} of `}the ${all === 1 ? "failure" : `${all} failures`}`;
  const longest = missed < data.episodes.length ? "the longest walks" : "";
  const order = [missed ? failures : "", longest].filter(Boolean).join(", then ");
  const longer = data.segments === data.trainedSegments ? "" : ` It thinks ${times(data.segments, "segment")} a decision and was trained with ${data.trainedSegments}.`;
  at("summary").textContent = `${data.solved} of ${data.among} unseen mazes solved, greedily. Shown: ${order}.${longer}`;
  at("about").textContent = about();
  data.episodes.forEach((e, i) => {
    const steps = times(e.moments.length - 1, "step");
    const text = e.end === "goal" ? `✓ Maze ${e.number}: goal in ${steps}` : `✗ Maze ${e.number}: time limit, ${steps}`;
    at("episode").add(new Option(text, i));
  });
  data.episodes[0].moments[0].q[0].forEach((_, action) => {
    const line = at("q").tBodies[0].insertRow();
    line.innerHTML = '<th scope="row"></th><td><div class="bar"></div></td><td></td>';
    line.firstChild.textContent = `${SIGNS[action]} ${ACTIONS[action]}`;
  });
  at("valuesline").hidden = !data.episodes[0].moments[0].values;
  buildBoard();
  buildThought();
}

build();
show(0);
document.addEventListener("keydown", press);
for (const name of ["path", "shortest", "values", "arrows"]) at(`show-${name}`).addEventListener("change", () => draw(false));
const BUTTONS = {
  first: KEYS.Home,
  back: KEYS.ArrowLeft,
  forward: KEYS.ArrowRight,
  last: KEYS.End,
  earlier: KEYS.ShiftArrowLeft,
  later: KEYS.ShiftArrowRight,
};
for (const [id, act] of Object.entries(BUTTONS)) at(id).addEventListener("click", () => (play(false), act()));
at("play").addEventListener("click", () => play(!now.playing));
at("episode").addEventListener("change", (event) => (play(false), show(Number(event.target.value))));
at("time").addEventListener("input", (event) => (play(false), goTo(Number(event.target.value))));
at("stage").addEventListener("input", (event) => (play(false), goTo(now.step, Number(event.target.value))));
