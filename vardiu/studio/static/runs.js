// The list of runs, live.
import { act, ask, chip, el, number, pages, tell, time, trying } from "./app.js";

export function spark(values) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 30");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", values.length ? `from ${number(values[0])} to ${number(values.at(-1))}` : "not measured yet");
  if (values.length > 1) {
    const all = values.every((v) => v > 0) ? values.map(Math.log) : values;
    const low = Math.min(...all), high = Math.max(...all);
    const points = all.map((v, i) => `${(100 * i) / (all.length - 1)},${28 - (26 * (v - low)) / (high - low || 1)}`);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("points", points.join(" "));
    line.setAttribute("class", "spark");
    svg.append(line);
  }
  return svg;
}

export const hue = (method) => `--c:var(--m-${String(method).replace(/[^a-zA-Z0-9]/g, "-")})`;

// A run that cannot be gone on with says so after some seconds.
async function watch(job) {
  for (let i = 0; i < 60 && job.status === null; i += 1) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    job = await ask("job", { job: job.job });
  }
  if (job.status) tell(job.text.trim().split("\n").at(-1));
}

function line(run, again) {
  const link = el("a", { href: `#/run/${run.id}`, "data-key": `${run.id}-open` }, run.name);
  if (run.state === "unreadable") {
    return el("li", {}, el("div", {}, link, el("p", { className: "soft" }, run.why)));
  }
  const word = run.verdict ? run.verdict.name : run.state;
  const share = run.steps ? Math.min(100, (100 * (run.step || 0)) / run.steps) : 0;
  const left = run.state === "running" && run.left ? `, ${time(run.left)} left` : "";
  const stage = run.of > 1 ? `stage ${run.index} of ${run.of}: ${run.stage || ""}` : run.stage || "";
  const act_on = (name, text) =>
    el("button", { "data-key": `${run.id}-act`, ariaLabel: `${text} ${run.name}`, onclick: trying(async () => { const job = await act(name, { id: run.id }); setTimeout(again, 600); if (job.job) watch(job); }) }, text);
  const buttons = el("div", { className: "bar" });
  if (run.state === "running") buttons.append(act_on("stop", "Stop"));
  if (run.state === "stopped" || run.state === "failed") buttons.append(act_on("resume", "Resume"));
  if (run.state === "finished") buttons.append(el("a", { href: `#/ship/${run.id}`, "data-key": `${run.id}-ship` }, "Ship"));
  const item = el("li", { style: hue(run.method) },
    el("div", {}, link, el("p", { className: "soft" }, `${run.preset}, ${run.method}, seed ${run.seed}${run.alarms ? `, ${run.alarms} warnings` : ""}`)),
    el("div", {}, el("span", { className: `chip ${run.verdict ? chip(word) : "unjudged"}`, title: run.verdict?.sentence || run.why || "" }, word), ` ${number(run.value)}`,
      el("p", { className: "soft" }, `${stage}${left}`),
      el("div", { className: "progress", role: "progressbar", "aria-valuenow": Math.round(share), "aria-label": "steps taken" }, el("i", { style: `width:${share}%` }))),
    spark(run.spark || []),
    buttons);
  return item;
}

export async function runs(place) {
  let shown = "";
  const list = el("ul", { className: "runs" });
  const paged = pages(async (at) => {
    const found = await ask("runs", at);
    const text = JSON.stringify(found);
    if (text === shown) return found;
    shown = text;
    const focused = document.activeElement?.dataset?.key;
    list.replaceChildren(...found.runs.map((run) => line(run, paged.go)));
    if (focused) list.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
    return found;
  });
  place.append(el("h2", {}, "Runs"), paged.bar, list);
  await paged.go();
  const timer = setInterval(() => paged.go().catch((error) => tell(error.message)), 2000);
  return () => clearInterval(timer);
}
