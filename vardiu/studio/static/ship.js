// What a finished run is shipped as: forms, latency, card, adapter.
import { act, ask, el, follow, number, trying } from "./app.js";

export async function ship(place, [id]) {
  const run = await ask("run", { id });
  place.append(el("h2", {}, `Ship ${run.name}`));
  const found = await ask("ship", { id });
  const output = el("pre", { hidden: true });
  const latency = found.latency.map((row) => el("tr", {}, el("td", { className: "number" }, String(row.rows)), el("td", { className: "number" }, `${number(row.milliseconds)} ms`), el("td", { className: "number" }, `${Math.round((1000 * row.rows) / row.milliseconds).toLocaleString("en")} samples/s`)));
  const all = Object.entries(found.forms);
  const fit = all.filter(([, one]) => !one.refusal);
  const form = el("select", { ariaLabel: "Form" }, ...fit.map(([name, one]) => el("option", { value: name }, `${name}: ${one.about}`)));
  const refused = all.filter(([, one]) => one.refusal).map(([name, one]) => el("li", {}, el("b", {}, name), ` does not fit: ${one.refusal}`));
  const adapter = found.adapter;
  const go = trying(async () => follow(await act("export", { id, form: form.value }), output));
  place.append(
    el("h3", {}, "Latency on this machine"), found.slow ? el("p", { className: "soft" }, found.slow) : el("table", {}, el("tr", {}, ...["samples at once", "median of five", "rate"].map((name) => el("th", {}, name))), ...latency),
    el("h3", {}, "Export"), el("div", { className: "bar" }, form, fit.length ? el("button", { className: "first", onclick: go }, "Export") : null), el("ul", { className: "soft" }, ...refused), output,
    el("p", {}, found.exports.length ? `written: ${found.exports.join(", ")}` : "nothing is exported yet"),
    el("p", {}, adapter ? `Adapter ${adapter.name}: rank ${adapter.rank}, alpha ${adapter.alpha}, on ${adapter.layers} layers, ${adapter.bytes}. The form lora writes it alone.` : "This run has no adapter."),
    el("h3", {}, "Card"), el("pre", {}, found.card || "a card is written with an export"));
}
