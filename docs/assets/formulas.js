/* A formula that is wider than the page is reached by the keyboard, to be scrolled. */
"use strict";
function reachWideFormulas() {
  for (const formula of document.querySelectorAll('math[display="block"]')) {
    if (formula.scrollWidth > formula.clientWidth) formula.setAttribute("tabindex", "0");
    else formula.removeAttribute("tabindex");
  }
}
addEventListener("load", reachWideFormulas);
addEventListener("resize", reachWideFormulas);
