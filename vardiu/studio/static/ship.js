// What a finished run is shipped as: forms, latency, card, adapter.
import { act, ask, el, follow, number, trying } from "./app.js";

export async function ship(place, [id]) {
  const run = await ask("run", { id });
  place.append(el("h2", {}, `Ship ${run.name}`));
  const found = await ask("ship", { id });
  const output = el("pre", { hidden: true });
  const latency = found.latency.map((row) => el("tr", {}, el("td", { className: "number" }, String(row.rows)), el("td", { className: "number" }, `${number(row.milliseconds)} ms`), el("td", { className: "number" }, `${number((1000 * row.rows) / row.milliseconds)} samples/s`)));
  const form = el("select", { ariaLabel: "Form" }, ...found.forms.map((name) => el("option", {}, name)));
  const go = trying(async () => follow(await act("export", { id, form: form.value }), output));
  place.append(
    el("h3", {}, "Latency on this machine"), el("table", {}, el("tr", {}, ...["samples at once", "median of five", "rate"].map((name) => el("th", {}, name))), ...latency),
    el("h3", {}, "Export"), el("div", { className: "bar" }, form, el("button", { className: "first", onclick: go }, "Export")), output,
    el("p", {}, found.exports.length ? `written: ${found.exports.join(", ")}` : "nothing is exported yet"),
    el("p", {}, found.adapter ? "This run has an adapter: export it as lora." : "This run has no adapter."),
    el("h3", {}, "Card"), el("pre", {}, found.card || "a card is written with an export"));
}
