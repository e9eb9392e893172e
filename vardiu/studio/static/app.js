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

export function tell(message) {
  problem.textContent = message;
  problem.hidden = !message;
}

async function answer(response) {
  const found = await response.json().catch(() => ({ error: response.statusText }));
  if (found.error) throw new Error(found.error);
  return found;
}

export async function ask(name, asked = {}) {
  return answer(await fetch(`/api/${name}?${new URLSearchParams(asked)}`));
}

export async function act(name, body) {
  const raw = body instanceof Blob;
  const headers = { "X-Studio-Token": token };
  return answer(
    await fetch(`/api/${name}`, { method: "POST", headers, body: raw ? body : JSON.stringify(body) }),
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
  for (;;) {
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

async function show() {
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
  const made = el("div");
  place.replaceChildren(made);
  try {
    leave = (await view(made, rest.map(decodeURIComponent))) || (() => {});
  } catch (error) {
    tell(error.message);
  }
  place.dataset.ready = name;
}

window.addEventListener("hashchange", show);
show();
