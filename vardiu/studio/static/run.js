// One run: samples over time, teacher beside student, noise, the map of latents, modes, curves.
import { ask, chip, el, figures, latest, number, tell, time, trying } from "./app.js";
import { hue } from "./runs.js";

// A part of the page that may be missing: a line says why, and the others go on.
async function part(place, title, work) {
  const section = el("section", {}, el("h2", {}, title));
  const waiting = el("p", { className: "soft", role: "status" }, "reading …");
  section.append(waiting);
  place.append(section);
  try {
    await work(section);
  } catch (error) {
    section.append(el("p", { className: "soft" }, error.message));
  }
  waiting.remove();
}

// Samples of the moments of a run; while it trains, new moments are added to the slider's end.
async function overTime(section, id) {
  const shown = el("div"), at = el("output", { className: "soft" });
  const slider = el("input", { type: "range", min: 0, ariaLabel: "Moment of the training" });
  let last = -1;
  const draw = (moment) => {
    last = moment.moments.length - 1;
    slider.max = last;
    slider.value = moment.index;
    slider.disabled = last < 1;
    if (last < 0) { at.textContent = "no samples yet: they are kept at each measurement"; return; }
    const where = moment.moments[moment.index];
    at.textContent = `${where.stage}, step ${where.step.toLocaleString("en")}: the same latents at every moment`;
    slider.setAttribute("aria-valuetext", at.textContent);
    shown.replaceChildren(figures(moment.html));
  };
  const go = latest(async (index) => draw(await ask("samples", { id, index })));
  slider.oninput = trying(() => go(Number(slider.value)));
  section.append(slider, at, shown);
  await go(-1);
  return () => (Number(slider.value) === last || last < 0 ? go(-1) : undefined);
}

async function noiseLevels(section, id) {
  const shown = el("div"), at = el("output", { className: "soft" });
  const slider = el("input", { type: "range", min: 0, max: 100, value: 45, ariaLabel: "Noise level" });
  const go = latest(async (share) => {
    const found = await ask("noise", { id, share: share / 100 });
    at.textContent = `σ = ${number(found.sigma)}${found.missing ? `. ${found.missing}` : ""}`;
    slider.setAttribute("aria-valuetext", at.textContent);
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
  section.append(words, el("div", { className: "panes" },
    el("figure", { className: "card" }, el("figcaption", {}, "latent z: drag it, or use the arrow keys"), left),
    el("figure", { className: "card" }, el("figcaption", {}, "sample x = G(z), and where a lattice of latents goes"), right)));
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
    context.strokeStyle = colour("soft");
    context.globalAlpha = 0.45;
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
    context.globalAlpha = 1;
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

// Of each moment, how many samples each mode or class had for one that it should have.
function modeMap(section, modes, method) {
  if (!modes.steps.length) throw new Error("this run counts no modes or classes");
  const many = modes.shares[0].length, wide = modes.steps.length;
  const expected = modes.expected || modes.shares[0].map(() => 1 / many);
  const cell = Math.max(2, Math.floor(720 / wide));
  const ratios = modes.shares.map((shares) => shares.map((share, i) => share / (expected[i] || 1 / many)));
  const map = el("canvas", { className: "modes", width: wide * cell, height: many * 12, role: "img", ariaLabel: "Modes or classes, a row each, over the moments of the training" });
  const bars = el("div", { className: "shares", style: hue(method), role: "img" });
  const at = el("output", { className: "soft" });
  const slider = el("input", { type: "range", min: 0, max: wide - 1, value: wide - 1, ariaLabel: "Moment of the map" });
  const style = getComputedStyle(document.documentElement);
  const colour = style.getPropertyValue(hue(method).slice(8, -1)).trim() || style.getPropertyValue("--accent").trim();
  const draw = () => {
    const now = Number(slider.value), pen = map.getContext("2d");
    pen.clearRect(0, 0, map.width, map.height);
    ratios.forEach((column, x) => column.forEach((ratio, y) => {
      pen.globalAlpha = Math.min(1, ratio);
      pen.fillStyle = colour;
      pen.fillRect(cell * x, 12 * y, cell - 1, 11);
    }));
    pen.globalAlpha = 1;
    pen.strokeStyle = style.getPropertyValue("--ink").trim();
    pen.lineWidth = 4;
    pen.strokeRect(cell * now + 2, 2, Math.max(1, cell - 5), map.height - 4);
    bars.replaceChildren(...ratios[now].map((ratio, i) => el("i", { style: `height:${Math.min(100, 50 * ratio)}%`, title: `${i}: ${number(modes.shares[now][i])}, ${number(ratio)} times as often as in the data` })));
    const empty = modes.shares[now].filter((share) => share === 0).length;
    at.textContent = `step ${modes.steps[now].toLocaleString("en")}: ${many} modes or classes, ${empty} without a sample; from ${number(Math.min(...ratios[now]))} to ${number(Math.max(...ratios[now]))} times as often as in the data`;
    bars.setAttribute("aria-label", at.textContent);
    slider.setAttribute("aria-valuetext", at.textContent);
  };
  slider.oninput = draw;
  draw();
  section.append(slider, at, el("div", { className: "panes" },
    el("figure", { className: "card" }, el("figcaption", {}, "a row a mode or class, a column a moment; full: as often as in the data"), map),
    el("figure", { className: "card" }, el("figcaption", {}, "at this moment; the line: as often as in the data"), bars)));
}

// Name, how far it is, verdict or state, and warnings.
function head(found, id) {
  const word = found.verdict ? found.verdict.name : found.state;
  const left = found.state === "running" && found.left ? `, ${time(found.left)} left` : "";
  const why = found.verdict ? `: ${found.verdict.sentence}` : found.why ? `: ${found.why}` : "";
  return [
    el("h2", {}, found.name),
    el("p", { className: "soft" }, `${found.preset}, ${found.method}, seed ${found.seed}, step ${found.step ?? 0} of ${found.steps ?? "?"}${left}`),
    el("p", { className: `verdict ${found.verdict ? chip(word) : "unjudged"}` }, el("b", {}, word), why),
    el("div", { className: "bar" }, el("a", { href: `#/ship/${id}` }, "Ship it"), el("a", { href: `#/compare/${id}` }, "Compare it")),
    ...found.warnings.map((alarm) => el("div", { className: "warning" }, el("p", {}, el("b", {}, alarm.name), `: ${alarm.message}. To try: ${alarm.cure}`))),
  ];
}

export async function run(place, [id]) {
  let found = await ask("run", { id }), newest = () => {};
  const top = el("div"), curves = el("div"), modes = el("div");
  const draw = async () => {
    top.replaceChildren(...head(found, id));
    curves.replaceChildren(figures(found.charts, "row"));
    modes.replaceChildren();
    await part(modes, "Modes or classes", async (section) => modeMap(section, found.modes, found.method));
  };
  place.append(top);
  await part(place, "Samples over time", async (section) => { newest = await overTime(section, id); });
  place.append(el("section", {}, el("h2", {}, "Curves"), curves), modes);
  await draw();
  const rest = el("div");
  place.append(rest);
  if (found.state === "finished") await ofStudent(rest, id);
  else rest.append(el("p", { className: "soft" }, "Teacher beside student, noise and the map of latents are shown when the run is finished."));
  if (found.state !== "running") return () => {};
  const watch = async () => {
    const now = await ask("run", { id });
    if (now.step === found.step && now.state === found.state) return;
    found = now;
    await draw();
    await newest();
    if (found.state !== "running") clearInterval(timer);
    if (found.state === "finished") { rest.replaceChildren(); await ofStudent(rest, id); }
  };
  const timer = setInterval(() => watch().catch((error) => tell(error.message)), 3000);
  return () => clearInterval(timer);
}

async function ofStudent(place, id) {
  await part(place, "Teacher | student", async (section) => {
    const both = await ask("beside", { id });
    section.append(el("p", { className: "soft" }, both.note), figures(both.html));
  });
  await part(place, "Noise", (section) => noiseLevels(section, id));
  await part(place, "Map of latents", (section) => latentMap(section, id));
}
