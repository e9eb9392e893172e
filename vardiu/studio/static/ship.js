// What a finished run is shipped as: forms, latency, card, adapter.
import { act, ask, el, follow, number, trying } from "./app.js";

export async function ship(place, [id]) {
  const run = await ask("run", { id });
  place.append(el("h2", {}, `Ship ${run.name}`));
  const found = await ask("ship", { id });
  const output = el("pre", { hidden: true, ariaLabel: "Output" }), told = el("p", { role: "status" });
  const latency = found.latency.map((row) => el("tr", {}, el("td", { className: "number" }, String(row.rows)), el("td", { className: "number" }, `${number(row.milliseconds)} ms`), el("td", { className: "number" }, `${Math.round((1000 * row.rows) / row.milliseconds).toLocaleString("en")} samples/s`)));
  const all = Object.entries(found.forms);
  const fit = all.filter(([, one]) => !one.refusal);
  const form = el("select", { ariaLabel: "Form" }, ...fit.map(([name, one]) => el("option", { value: name }, `${name}: ${one.about}`)));
  const refused = all.filter(([, one]) => one.refusal).map(([name, one]) => el("li", {}, el("b", {}, name), ` does not fit: ${one.refusal}`));
  const adapter = found.adapter;
  const written = el("p", {}, found.exports.length ? `written: ${found.exports.join(", ")}` : "nothing is exported yet");
  const card = el("pre", {}, found.card || "a card is written with an export");
  const go = trying(async () => {
    told.textContent = "";
    await follow(await act("export", { id, form: form.value }), output, async (over) => {
      const now = over.status === 0 ? await ask("exports", { id }) : { exports: [] };
      if (now.exports.length) { written.textContent = `written: ${now.exports.join(", ")}`; card.textContent = now.card; }
    });
  });
  const check = trying(async () => {
    told.textContent = "";
    const name = form.value;
    await follow(await act("export", { id, form: name, trial: true }), output, (over) => {
      const last = over.text.trim().split("\n").at(-1);
      told.textContent = over.status === 0 ? `${name} fits: it was written, loaded again and compared (${(/largest difference [^)]*/.exec(over.text) || [""])[0]}), and nothing of it is kept` : `${name} does not fit: ${last}`;
    });
  });
  place.append(
    el("h3", {}, "Latency on this machine"), found.slow ? el("p", { className: "soft" }, found.slow) : el("div", { className: "scroll" }, el("table", {}, el("tr", {}, ...["samples at once", "median of five", "rate"].map((name) => el("th", {}, name))), ...latency)),
    el("h3", {}, "Export"), el("div", { className: "bar" }, form, fit.length ? el("button", { className: "first", onclick: go }, "Export") : null, fit.length ? el("button", { onclick: check }, "Check that it fits") : null),
    el("p", { className: "soft" }, "These forms fit as far as is known before the network is traced; the check writes one to a place of its own, loads it again and compares its samples."),
    el("ul", { className: "soft" }, ...refused), told, output, written,
    el("p", {}, adapter ? `Adapter ${adapter.name}: rank ${adapter.rank}, alpha ${adapter.alpha}, on ${adapter.layers} layers, ${adapter.bytes}. The form lora writes it alone.` : "This run has no adapter."),
    el("h3", {}, "Card"), card);
}
