// The page: which view is shown, and how the server is asked.
import { start } from "./start.js";
import { runs } from "./runs.js";
import { run } from "./run.js";
import { compare } from "./compare.js";
import { restore } from "./restore.js";
import { ship } from "./ship.js";

const views = { start, runs, run, compare, restore, ship };
const token = document.querySelector("meta[name=token]").content;
const place = document.getElementById("view");
const problem = document.getElementById("problem");
let leave = () => {};
let visit = 0;

export function tell(message) {
  problem.textContent = message;
  problem.hidden = !message;
}

// What the server says, or why it says nothing: always one line.
async function answer(asked) {
  const response = await asked.catch(() => { throw new Error("the studio does not answer: is it still running in its terminal?"); });
  const text = await response.text();
  if (!(response.headers.get("content-type") || "").includes("json")) throw new Error(text.trim() || response.statusText);
  const found = JSON.parse(text);
  if (found.error) throw new Error(found.error);
  return found;
}

export async function ask(name, asked = {}) {
  return answer(fetch(`/api/${name}?${new URLSearchParams(asked)}`));
}

export async function act(name, body) {
  const raw = body instanceof Blob;
  const headers = { "X-Studio-Token": token };
  return answer(
    fetch(`/api/${name}`, { method: "POST", headers, body: raw ? body : JSON.stringify(body) }),
  );
}

// An element of a name, properties and children; text is never read as HTML.
export function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Figures that the server drew: what comes from a run's files is escaped there.
export function figures(html, kind = "panes") {
  const made = el("div", { className: kind });
  made.innerHTML = html;
  return made;
}

// Does something that may fail: one line says why.
export function trying(work) {
  return async (event) => {
    if (event?.preventDefault) event.preventDefault();
    try {
      tell("");
      await work(event);
    } catch (error) {
      tell(error.message);
    }
  };
}

// The latest of values that come faster than the server answers.
export function latest(work) {
  let busy = false, waiting = [];
  return async function go(...values) {
    if (busy) { waiting = [values]; return; }
    busy = true;
    try { await work(...values); } finally { busy = false; }
    if (waiting.length) { const [next] = waiting; waiting = []; await go(...next); }
  };
}

// A choice of several pages of runs: search, count, newer and older; `load` is told where.
export function pages(load, ...more) {
  const at = { start: 0, q: "" };
  const search = el("input", { type: "search", placeholder: "name, preset or method", ariaLabel: "Runs whose name, preset or method has these words" });
  const count = el("span", { className: "soft", role: "status" });
  const newer = el("button", { type: "button" }, "Newer"), older = el("button", { type: "button" }, "Older");
  const go = latest(async () => {
    const found = await load(at);
    const last = at.start + found.runs.length;
    count.textContent = found.total ? `${at.start + 1} to ${last} of ${found.total}` : at.q ? "no run has these words" : "no runs here yet: see Start";
    newer.disabled = at.start === 0;
    older.disabled = last >= found.total;
    newer.onclick = trying(() => { at.start = Math.max(0, at.start - found.page); return go(); });
    older.onclick = trying(() => { at.start += found.page; return go(); });
  });
  search.oninput = trying(() => { at.start = 0; at.q = search.value; return go(); });
  return { go, bar: el("div", { className: "bar" }, search, count, newer, older, ...more) };
}

export function time(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const s = Math.round(seconds);
  if (s >= 3600) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return s >= 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s} s`;
}

export const number = (x) => (x === null || x === undefined ? "–" : Number(x).toPrecision(3));
export const chip = (name) =>
  ({ GOOD: "good", "STILL IMPROVING": "improving", STUCK: "stuck", COLLAPSED: "collapsed" })[name] ||
  "unjudged";

// Numbers of a command as tables, each with a title, a head, rows and a note.
export function tables(found) {
  const state = { ok: "better", fails: "worse" };
  return found.map((one) => el("div", { className: "scroll" },
    el("h3", {}, one.title),
    el("table", {},
      one.head.length ? el("tr", {}, ...one.head.map((name) => el("th", {}, name || "verdict"))) : null,
      ...one.rows.map((row) => el("tr", {}, ...row.map((cell) => el("td", { className: state[cell] || (/^[-\d]/.test(cell) ? "number" : "") }, cell))))),
    one.note ? el("p", {}, one.note) : null));
}

// Follows a command until it is over.
export async function follow(job, output, done = () => {}) {
  output.dataset.job = job.job;
  for (;;) {
    if (output.dataset.job !== String(job.job)) return; // another one is shown there now
    output.hidden = false;
    output.textContent = `$ ${job.command}\n${job.text}`;
    output.scrollTop = output.scrollHeight;
    if (job.status !== null || !output.isConnected) break;
    await new Promise((resolve) => setTimeout(resolve, 700));
    job = await ask("job", { job: job.job });
  }
  if (job.status !== null) {
    output.textContent += job.status === 0 ? "\ndone" : `\nended with status ${job.status}`;
    done(job);
  }
}

async function show(event) {
  visit += 1;
  const mine = visit;
  const [name, ...rest] = (location.hash.slice(2) || "runs").split("/");
  leave();
  leave = () => {};
  tell("");
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const view = views[name] || runs;
  document.title = `${name}: vardiu studio`;
  const made = el("div"), waiting = el("p", { className: "soft", role: "status" }, "reading …");
  delete place.dataset.ready;
  place.replaceChildren(waiting, made);
  if (event) place.focus();
  try {
    const left = (await view(made, rest.map(decodeURIComponent))) || (() => {});
    if (mine === visit) leave = left;
    else left(); // another view was asked for meanwhile
  } catch (error) {
    if (mine === visit) tell(error.message);
  }
  if (mine !== visit) return;
  waiting.remove();
  place.dataset.ready = name;
}

window.addEventListener("hashchange", show);
show();
