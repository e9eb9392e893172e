// Any runs: quality against cost, paired seeds, and a blind choice between samples.
import { act, ask, el, figures, number, trying } from "./app.js";

export async function compare(place, [first]) {
  const found = (await ask("runs", {})).runs.filter((run) => run.state !== "unreadable");
  const chosen = new Set(first ? [first] : []);
  const cost = el("select", { ariaLabel: "Cost" }, ...["seconds", "calls", "updates"].map((name) => el("option", {}, name)));
  const shown = el("div"), table = el("div"), blind = el("section");
  const names = new Map(found.map((run) => [run.id, run.name]));
  const draw = async () => {
    const got = await ask("compare", { ids: [...chosen].join(","), cost: cost.value });
    shown.replaceChildren(figures(got.html, "row"));
    table.replaceChildren();
    if (got.pairs.length) {
      const rows = got.pairs.map((pair) => el("tr", {}, el("td", {}, pair.one), el("td", {}, pair.other),
        el("td", { className: "number" }, pair.mean === null ? "–" : `${number(pair.mean)}${pair.half === null ? "" : ` ± ${number(pair.half)}`}`),
        el("td", { className: "number" }, String(pair.seeds)), el("td", { className: pair.verdict }, pair.verdict)));
      table.append(el("h3", {}, `${got.metric} over common seeds, 95 % intervals`), el("div", { className: "scroll" },
        el("table", {}, el("tr", {}, ...["series", "less", "difference", "seeds", "verdict"].map((name) => el("th", {}, name))), ...rows)));
    }
    offer();
  };
  const boxes = found.map((run) => {
    const box = el("input", { type: "checkbox", checked: chosen.has(run.id) });
    box.onchange = trying(async () => { if (box.checked) chosen.add(run.id); else chosen.delete(run.id); await draw(); });
    return el("label", {}, box, run.name);
  });
  const tally = { trials: 0 };
  const offer = () => {
    const ids = [...chosen];
    blind.replaceChildren(el("h3", {}, "Blind choice"));
    if (ids.length !== 2) { blind.append(el("p", { className: "soft" }, "choose exactly two runs")); return; }
    const body = el("div"), told = el("p", { className: "soft", role: "status" });
    const next = trying(async () => {
      const trial = await ask("trial", { one: ids[0], other: ids[1] });
      const choose = (letter) => trying(async () => {
        const who = await act("verdict", { trial: trial.trial, chosen: letter });
        tally.trials += 1;
        const winner = letter === "same" ? "neither" : who[letter];
        tally[winner] = (tally[winner] || 0) + 1;
        told.textContent = `A was ${who.A}, B was ${who.B}. Of ${tally.trials} trials: ${Object.entries(tally).filter(([k]) => k !== "trials").map(([k, n]) => `${k} ${n}`).join(", ")}`;
        await next();
      });
      body.replaceChildren(figures(trial.html), el("div", { className: "bar" }, el("button", { onclick: choose("A") }, "A is better"), el("button", { onclick: choose("B") }, "B is better"), el("button", { onclick: choose("same") }, "No difference")));
    });
    blind.append(el("button", { onclick: next }, `Which samples are better: ${names.get(ids[0])} or ${names.get(ids[1])}?`), body, told);
  };
  cost.onchange = trying(draw);
  place.append(el("h2", {}, "Compare"), el("fieldset", {}, el("legend", {}, "Runs"), ...boxes), el("div", { className: "bar" }, "against", cost), shown, table, blind);
  await draw();
}
