// Any runs: quality against cost, paired seeds, and a blind choice between samples.
import { act, ask, el, figures, latest, number, pages, trying } from "./app.js";

function verdicts(got) {
  if (!got.pairs.length) return [];
  const rows = got.pairs.map((pair) => el("tr", {}, el("td", {}, pair.one), el("td", {}, pair.other),
    el("td", { className: "number" }, pair.mean === null ? "–" : `${number(pair.mean)}${pair.half === null ? "" : ` ± ${number(pair.half)}`}`),
    el("td", { className: "number" }, String(pair.seeds)), el("td", { className: pair.verdict }, pair.verdict)));
  const head = ["series", "less", "difference", "seeds", "verdict on the first"].map((name) => el("th", {}, name));
  return [el("h3", {}, `${got.metric} of finished runs, over common seeds, with 95 % intervals`),
    el("div", { className: "scroll" }, el("table", {}, el("tr", {}, ...head), ...rows))];
}

// Two of the chosen runs, whose samples are shown without a name until one is taken.
function blindChoice(chosen) {
  const ids = [...chosen.keys()];
  const section = el("section", {}, el("h3", {}, "Blind choice"));
  if (ids.length < 2) { section.append(el("p", { className: "soft" }, "choose two runs")); return section; }
  const pick = (which, place) => {
    const made = el("select", { ariaLabel: which }, ...ids.map((id) => el("option", { value: id }, chosen.get(id))));
    made.selectedIndex = place;
    return made;
  };
  const one = pick("One run", 0), other = pick("Another run", 1);
  const body = el("div"), told = el("p", { className: "soft", role: "status" });
  let tally = {}, trials = 0;
  one.onchange = other.onchange = () => { tally = {}; trials = 0; told.textContent = ""; body.replaceChildren(); };
  const next = trying(async () => {
    if (one.value === other.value) throw new Error("choose two different runs");
    const trial = await ask("trial", { one: one.value, other: other.value });
    const choose = (letter) => trying(async () => {
      const who = await act("verdict", { trial: trial.trial, chosen: letter });
      trials += 1;
      const winner = letter === "same" ? "neither" : who[letter];
      tally[winner] = (tally[winner] || 0) + 1;
      told.textContent = `A was ${who.A}, B was ${who.B}. Of ${trials} ${trials === 1 ? "trial" : "trials"}: ${Object.entries(tally).map(([k, n]) => `${k} ${n}`).join(", ")}`;
      await next();
    });
    body.replaceChildren(figures(trial.html), el("div", { className: "bar" }, el("button", { onclick: choose("A") }, "A is better"), el("button", { onclick: choose("B") }, "B is better"), el("button", { onclick: choose("same") }, "No difference")));
  });
  section.append(el("div", { className: "bar" }, one, "or", other, el("button", { onclick: next }, "Which samples are better?")), body, told);
  return section;
}

export async function compare(place, [first = ""]) {
  const chosen = new Map(first.split(",").filter(Boolean).map((id) => [id, id]));
  const cost = el("select", { ariaLabel: "Cost" }, ...["seconds", "calls", "updates"].map((name) => el("option", {}, name)));
  const list = el("div", { className: "choices" }), named = el("p", { className: "bar" });
  const shown = el("div"), table = el("div"), blind = el("div");
  let offered = [], most = 60;
  const mark = () => {
    for (const box of list.querySelectorAll("input")) box.checked = chosen.has(box.value);
    named.replaceChildren(el("b", {}, `${chosen.size} chosen`), ...[...chosen].map(([id, name]) =>
      el("button", { className: "small", ariaLabel: `Leave out ${name}`, onclick: trying(() => { chosen.delete(id); return draw(); }) }, `${name} ×`)));
  };
  const draw = latest(async () => {
    mark();
    history.replaceState(null, "", `#/compare/${[...chosen.keys()].join(",")}`);
    shown.replaceChildren();
    table.replaceChildren();
    const got = await ask("compare", { ids: [...chosen.keys()].join(","), cost: cost.value });
    most = got.most;
    for (const run of got.runs) if (chosen.has(run.id)) chosen.set(run.id, run.name);
    mark();
    shown.replaceChildren(figures(got.html, "row"));
    table.replaceChildren(...verdicts(got));
    blind.replaceChildren(blindChoice(chosen));
  });
  const take = (runs) => {
    const more = runs.filter((run) => !chosen.has(run.id));
    if (chosen.size + more.length > most) throw new Error(`at most ${most} runs are compared at once: ${chosen.size} are chosen, and these are ${more.length} more`);
    for (const run of more) chosen.set(run.id, run.name);
    return draw();
  };
  const all = el("button", { type: "button", onclick: trying(() => take(offered)) }, "Choose these");
  const none = el("button", { type: "button", onclick: trying(() => { chosen.clear(); return draw(); }) }, "Choose none");
  const paged = pages(async (at) => {
    const found = await ask("runs", at);
    offered = found.runs.filter((run) => run.state !== "unreadable" && run.command !== "teach");
    list.replaceChildren(...offered.map((run) => {
      const box = el("input", { type: "checkbox", value: run.id });
      box.onchange = trying(async () => {
        if (!box.checked) { chosen.delete(run.id); return draw(); }
        try { return await take([run]); } finally { mark(); }
      });
      return el("label", {}, box, el("span", {}, run.name, el("span", { className: "soft" }, ` ${run.method}, seed ${run.seed}, ${run.state}`)));
    }));
    mark();
    return found;
  }, all, none);
  cost.onchange = trying(draw);
  place.append(el("h2", {}, "Compare"), el("fieldset", {}, el("legend", {}, "Runs"), paged.bar, list), named, el("div", { className: "bar" }, "quality against", cost), shown, table, blind);
  await paged.go();
  await draw();
}
