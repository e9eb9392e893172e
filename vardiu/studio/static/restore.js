// A picture is dropped, damaged by an operator and restored by the teacher: before | after.
import { act, ask, el, follow, tell, trying } from "./app.js";

export async function restore(place) {
  const known = await ask("start");
  let picture = null;
  const file = el("input", { type: "file", accept: "image/*", ariaLabel: "A picture" });
  const box = el("div", { className: "drop", tabIndex: -1 }, el("p", {}, "Drop a picture here, or choose one:"), file);
  const operator = el("input", { type: "text", name: "operator", value: known.operators[0], list: "operators" });
  const offers = el("datalist", { id: "operators" }, ...known.operators.map((name) => el("option", { value: name })));
  const steps = el("input", { type: "number", value: 50, min: 1, max: 2000, ariaLabel: "Steps" });
  const more = el("input", { type: "text", name: "more", placeholder: "--mask box:12 --noise 0.05" });
  const grey = el("input", { type: "checkbox" });
  const shown = el("div"), output = el("pre", { hidden: true });
  const take = trying(async (given) => {
    if (given.size > known.bytes) throw new Error(`the picture has ${given.size.toLocaleString("en")} bytes, and at most ${known.bytes.toLocaleString("en")} are read`);
    picture = await act("drop", given);
    shown.replaceChildren(el("img", { src: `/picture/${picture.picture}.png`, alt: "the picture that was dropped", width: 160 }));
  });
  file.onchange = () => file.files[0] && take(file.files[0]);
  box.ondragover = (event) => event.preventDefault();
  box.ondrop = (event) => { event.preventDefault(); if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]); };
  const go = trying(async () => {
    if (!picture) throw new Error("drop a picture first");
    const job = await act("restore", { picture: picture.picture, operator: operator.value, grey: grey.checked, steps: Number(steps.value), more: more.value });
    await follow(job, output, (over) => {
      if (over.status !== 0) { tell("the picture was not restored: its output says why"); return; }
      const after = el("img", { className: "after", src: `/picture/${job.after}`, alt: "after: restored" });
      const before = el("img", { src: `/picture/${job.before}`, alt: "before: what was measured" });
      const none = el("p", { className: "soft", hidden: true }, "What was measured is no picture: before is the picture that was dropped.");
      before.onerror = () => { none.hidden = false; before.onerror = null; before.src = `/picture/${picture.picture}.png`; before.alt = "before: the picture that was dropped"; };
      const slide = el("input", { type: "range", min: 0, max: 100, value: 50, ariaLabel: "Before and after" });
      slide.oninput = () => { after.style.clipPath = `inset(0 0 0 ${slide.value}%)`; };
      slide.oninput();
      shown.replaceChildren(el("div", { className: "slider" }, before, after), slide, none, el("img", { className: "paper", src: `/picture/${job.beside}`, alt: "measured, restored and true, side by side" }));
    });
  });
  place.append(...[el("h2", {}, "Restore"), known.teacher ? null : el("p", { className: "warning" }, "A teacher restores pictures, and none was named: start the studio with vardiu studio --teacher SOURCE."), box, el("label", {}, `Operator: ${known.operators.join(", ")}, or FILE.py:NAME`, operator), offers, el("label", {}, "Steps", steps), el("label", {}, "Further options, as one types them", more), el("label", {}, grey, " the teacher's images are grey"), el("button", { className: "first", onclick: go }, "Restore it"), shown, output].filter(Boolean));
}
