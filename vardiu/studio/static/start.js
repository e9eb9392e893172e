// From what one has to the exact command, which is shown before it is carried out.
import { act, ask, el, follow, latest, tables, trying } from "./app.js";

const fields = {
  density: [["preset", "Preset"]],
  images: [["data", "Folder of your images, on this machine"], ["teacher", "Folder of the teacher, once it is trained; empty to train it"]],
  pipeline: [["teacher", "Folder, hub id or EDM pickle"], ["data", "Folder of images, if you have some"]],
  function: [["teacher", "FILE.py:NAME"], ["data", "Folder of data, if you have some"]],
};
const titles = { density: "A density", images: "My images", pipeline: "My pipeline", function: "My function" };

export async function start(place) {
  const known = await ask("start");
  const chosen = { kind: "density", preset: "mog40", method: "", out: "", more: "" };
  const form = el("div"), advice = el("p", { className: "soft" });
  const line = el("pre", { className: "copy", ariaLabel: "The exact command" }), output = el("pre", { hidden: true, ariaLabel: "Output" }), numbers = el("div");
  const given = () => {
    const names = new Set(["kind", "method", "out", "more", ...fields[chosen.kind].map(([name]) => name)]);
    return Object.fromEntries(Object.entries(chosen).filter(([name]) => names.has(name)));
  };
  // Typed faster than the server answers, the last is what is shown.
  const tell = trying(latest(async () => {
    line.textContent = "";
    line.textContent = (await act("command", { chosen: given(), action: "distill" })).command;
  }));
  const run = (action) => trying(async () => {
    numbers.replaceChildren();
    const job = await act("command", { chosen: given(), action, run: true });
    if (action === "distill") numbers.replaceChildren(el("p", { role: "status" }, "It is under way, also when you leave this page: see ", el("a", { href: "#/runs" }, "Runs"), "."));
    await follow(job, output, (over) => numbers.append(...tables(over.tables)));
  });
  // The commands of this studio, also those that were started before the page was left.
  const started = el("ul", { className: "runs started" });
  let told = "";
  const list = async () => {
    const jobs = await ask("jobs"), text = JSON.stringify(jobs);
    if (text === told) return;
    told = text;
    started.replaceChildren(...(jobs.length ? jobs.map((job) => el("li", {},
      el("code", {}, job.command),
      el("span", { className: "soft" }, job.status === null ? "under way" : job.status === 0 ? "done" : `ended with status ${job.status}`),
      el("div", { className: "bar" },
        el("button", { ariaLabel: `Show ${job.command}`, onclick: trying(async () => { numbers.replaceChildren(); await follow(await ask("job", { job: job.job }), output, (over) => numbers.replaceChildren(...tables(over.tables))); }) }, "Show"),
        job.status === null ? el("button", { ariaLabel: `Stop ${job.command}`, onclick: trying(() => act("cancel", { job: job.job })) }, "Stop") : null))) : [el("li", {}, "nothing yet")]));
  };
  const input = (name, title) => {
    const offers = { preset: Object.keys(known.presets), method: ["", ...known.methods] }[name];
    const field = offers ? el("select", {}, ...offers.map((value) => el("option", { value }, value || "the preset's own"))) : el("input", { type: "text" });
    field.value = chosen[name] || "";
    field.name = name;
    field.oninput = () => { chosen[name] = field.value; if (name === "preset") advice.textContent = known.presets[field.value]; tell(); };
    return el("label", {}, title, field);
  };
  const draw = () => {
    advice.textContent = known.kinds[chosen.kind];
    const more = [["method", "Method"], ["out", "Folder of the run; empty for the usual one"], ["more", "Further options, as one types them"]];
    form.replaceChildren(...[...fields[chosen.kind], ...more].map(([name, title]) => input(name, title)));
    tell();
  };
  const kinds = Object.keys(fields).map((kind) => {
    const radio = el("input", { type: "radio", name: "kind", checked: kind === chosen.kind, onchange: () => { chosen.kind = kind; draw(); } });
    return el("label", {}, radio, titles[kind]);
  });
  place.append(el("h2", {}, "Start"), el("fieldset", {}, el("legend", {}, "What I have"), ...kinds), advice, form, line,
    el("div", { className: "bar" }, el("button", { onclick: run("probe") }, "Probe the teacher"), el("button", { onclick: run("estimate") }, "Estimate"), el("button", { className: "first", onclick: run("distill") }, "Run it")), numbers, output,
    el("section", {}, el("h3", {}, "Started here"), started));
  draw();
  await list();
  const timer = setInterval(() => list().catch(() => {}), 3000);
  return () => clearInterval(timer);
}
