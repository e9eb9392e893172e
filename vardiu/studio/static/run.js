// One run: samples over time, teacher beside student, noise, the map of latents, modes, curves.
import { ask, chip, el, figures, number, trying } from "./app.js";
import { hue } from "./runs.js";

// A part of the page that may be missing: a line says why, and the others go on.
async function part(place, title, work) {
  const section = el("section", {}, el("h2", {}, title));
  place.append(section);
  try {
    await work(section);
  } catch (error) {
    section.append(el("p", { className: "soft" }, error.message));
  }
}

// The latest of values that come faster than the server answers.
function latest(work) {
  let busy = false, waiting = null;
  return async function go(value) {
    if (busy) { waiting = value; return; }
    busy = true;
    try { await work(value); } finally { busy = false; }
    if (waiting !== null) { const next = waiting; waiting = null; go(next); }
  };
}

async function overTime(section, id) {
  const found = await ask("samples", { id });
  if (!found.moments.length) throw new Error("no samples yet: they are kept at each measurement");
  const shown = el("div"), at = el("output", { className: "soft" });
  const slider = el("input", { type: "range", min: 0, max: found.moments.length - 1, value: found.index, ariaLabel: "Moment of the training" });
  const draw = (moment) => {
    shown.replaceChildren(figures(moment.html));
    const where = moment.moments[moment.index];
    at.textContent = `${where.stage}, step ${where.step.toLocaleString("en")}: the same latents at every moment`;
  };
  draw(found);
  const go = latest(async (index) => draw(await ask("samples", { id, index })));
  slider.oninput = trying(() => go(Number(slider.value)));
  section.append(slider, at, shown);
}

async function noiseLevels(section, id) {
  const shown = el("div"), at = el("output", { className: "soft" });
  const slider = el("input", { type: "range", min: 0, max: 100, value: 45, ariaLabel: "Noise level" });
  const go = latest(async (share) => {
    const found = await ask("noise", { id, share: share / 100 });
    at.textContent = `σ = ${number(found.sigma)}${found.missing ? `. ${found.missing}` : ""}`;
    shown.replaceChildren(figures(found.html));
  });
  slider.oninput = trying(() => go(Number(slider.value)));
  section.append(slider, at, shown);
  await go(45);
}

async function latentMap(section, id) {
  const map = await ask("map", { id });
  const left = el("canvas", { width: 440, height: 440, tabIndex: 0, role: "slider", ariaLabel: "Latent: drag it, or move it with the arrow keys", ariaValueText: "0, 0" });
  const right = el("canvas", { width: 440, height: 440, role: "img", ariaLabel: "Where the student takes the latent, and a lattice of latents" });
  const words = el("output", { className: "soft" });
  section.append(el("div", { className: "panes" }, left, right), words);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const all = map.samples.flat().map(Math.abs).sort((a, b) => a - b);
  const reach = 1.2 * (all[Math.floor(0.99 * all.length)] || 1);
  const spot = (context, point, span, size, fill) => {
    context.fillStyle = fill;
    context.beginPath();
    context.arc(220 + (220 * point[0]) / span, 220 - (220 * point[1]) / span, size, 0, 7);
    context.fill();
  };
  const lattice = (context, at, span) => {
    context.strokeStyle = colour("rule");
    for (let i = 0; i < map.lines; i += 1) {
      for (const across of [true, false]) {
        context.beginPath();
        for (let j = 0; j < map.lines; j += 1) {
          const [x, y] = at(across ? i * map.lines + j : j * map.lines + i);
          context.lineTo(220 + (220 * x) / span, 220 - (220 * y) / span);
        }
        context.stroke();
      }
    }
  };
  const grid = (k) => [Math.floor(k / map.lines), k % map.lines].map((i) => -map.reach + (2 * map.reach * i) / (map.lines - 1));
  let z = [0, 0];
  const draw = (x) => {
    const [a, b] = [left.getContext("2d"), right.getContext("2d")];
    a.clearRect(0, 0, 440, 440);
    b.clearRect(0, 0, 440, 440);
    lattice(a, grid, map.reach * 1.05);
    lattice(b, (k) => map.x[k], reach);
    for (const point of map.samples) spot(b, point, reach, 2, colour("soft"));
    spot(a, z, map.reach * 1.05, 9, colour(map.colour));
    spot(b, x, reach, 9, colour(map.colour));
    words.textContent = `z = (${z.map(number).join(", ")}) goes to x = (${x.map(number).join(", ")})`;
    left.setAttribute("aria-valuetext", words.textContent);
  };
  const go = latest(async () => draw((await ask("map", { id, z1: z[0], z2: z[1] })).x[0]));
  const move = (event) => {
    if (!(event.buttons & 1)) return;
    const box = left.getBoundingClientRect();
    const span = map.reach * 1.05;
    z = [((event.clientX - box.left) / box.width) * 2 * span - span, span - ((event.clientY - box.top) / box.height) * 2 * span];
    go(z);
  };
  left.onpointerdown = (event) => { left.setPointerCapture(event.pointerId); move(event); };
  left.onpointermove = move;
  left.onkeydown = (event) => {
    const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
    if (!step) return;
    event.preventDefault();
    z = [z[0] + step[0], z[1] + step[1]];
    go(z);
  };
  await go(z);
}

function modeMap(section, modes, method) {
  if (!modes.steps.length) throw new Error("this run counts no modes or classes");
  const bars = el("div", { className: "shares", style: hue(method), role: "img" });
  const at = el("output", { className: "soft" });
  const slider = el("input", { type: "range", min: 0, max: modes.steps.length - 1, value: modes.steps.length - 1, ariaLabel: "Moment" });
  const draw = () => {
    const shares = modes.shares[slider.value];
    const most = Math.max(...shares, 1e-9);
    bars.replaceChildren(...shares.map((share, i) => el("i", { style: `height:${(100 * share) / most}%`, title: `${i}: ${number(share)}` })));
    const empty = shares.filter((share) => share === 0).length;
    at.textContent = `step ${modes.steps[slider.value]}: ${shares.length} modes or classes, ${empty} without a sample`;
    bars.setAttribute("aria-label", at.textContent);
  };
  slider.oninput = draw;
  draw();
  section.append(slider, at, bars);
}

export async function run(place, [id]) {
  const found = await ask("run", { id });
  const word = found.verdict ? found.verdict.name : found.state;
  place.append(
    el("h2", {}, found.name),
    el("p", { className: "soft" }, `${found.preset}, ${found.method}, seed ${found.seed}, step ${found.step ?? 0} of ${found.steps ?? "?"}`),
    el("p", { className: `verdict ${found.verdict ? chip(word) : "unjudged"}` }, el("b", {}, word), found.verdict ? `: ${found.verdict.sentence}` : found.why ? `: ${found.why}` : ""),
    el("div", { className: "bar" }, el("a", { href: `#/ship/${id}` }, "Ship it"), el("a", { href: `#/compare/${id}` }, "Compare it")),
  );
  for (const alarm of found.warnings) {
    place.append(el("div", { className: "warning" }, el("p", {}, el("b", {}, alarm.name), `: ${alarm.message}. To try: ${alarm.cure}`)));
  }
  await part(place, "Samples over time", (section) => overTime(section, id));
  await part(place, "Curves", async (section) => section.append(figures(found.charts, "row")));
  await part(place, "Modes or classes", async (section) => modeMap(section, found.modes, found.method));
  if (found.state !== "finished") {
    place.append(el("p", { className: "soft" }, "Teacher beside student, noise and the map of latents are shown when the run is finished."));
    return;
  }
  await part(place, "Teacher | student", async (section) => {
    const both = await ask("beside", { id });
    section.append(el("p", { className: "soft" }, both.note), figures(both.html));
  });
  await part(place, "Noise", (section) => noiseLevels(section, id));
  await part(place, "Map of latents", (section) => latentMap(section, id));
}
