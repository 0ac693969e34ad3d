// The search box: every term is a chip that can be made unwanted, weighted and removed.

import {$, h, toast} from "./dom.js";
import {thumbnail, upload} from "./api.js";

const WEIGHTS = [0.25, 0.5, 1, 2, 3, 5];
const MOST = 16;
const previews = new Map(); // uploaded examples: id → address of the picture, while the page is open

// Draw the chips. changed(terms): what the user makes of them.
export function drawTerms(terms, changed) {
  const place = $("terms");
  const had = place.contains(document.activeElement);
  place.replaceChildren(...terms.map((term, at) => chip(term, (value) => {
    const others = terms.slice();
    if (value) others[at] = value; else others.splice(at, 1);
    changed(others);
  })));
  $("words").placeholder = terms.length ? "New search, + more, − without" : "Describe a photo";
  if (had) $("words").focus();
}

function chip(term, change) {
  const name = term.kind === "text" ? term.text : term.kind === "photo" ? "a photo" : "your photo";
  const weights = WEIGHTS.includes(term.weight) ? WEIGHTS : [...WEIGHTS, term.weight].sort((a, b) => a - b);
  return h("li", {class: `chip${term.wanted ? "" : " unwanted"}`},
    h("button", {
      type: "button",
      class: "sign",
      "aria-pressed": term.wanted ? "false" : "true",
      "aria-label": `Without ${name}`,
      title: term.wanted ? "Wanted. Click to leave out what fits" : "Left out. Click to want it",
      onclick: () => change({...term, wanted: !term.wanted}),
    }, term.wanted ? "+" : "−"),
    term.kind === "text" ? h("span", {class: "name"}, term.text) : picture(term, name),
    h("select", {
      "aria-label": `Weight of ${name}`,
      title: "Weight",
      onchange: (event) => change({...term, weight: Number(event.target.value)}),
    }, ...weights.map((weight) => h("option", {value: weight, selected: weight === term.weight}, `×${weight}`))),
    h("button", {type: "button", class: "remove", "aria-label": `Remove ${name}`, onclick: () => change(null)}, "×"));
}

function picture(term, name) {
  const source = term.kind === "photo" ? thumbnail(term.id, 160) : previews.get(term.id);
  return source ? h("img", {src: source, alt: name, width: 32, height: 32}) : h("span", {class: "name"}, name);
}

// The terms after the user typed words: alone they start a new search.
export function typed(words, terms) {
  const sign = /^[+\-−]/.exec(words);
  const text = (sign ? words.slice(1) : words).trim();
  if (!text) return null;
  const term = {kind: "text", text, wanted: !sign || sign[0] === "+", weight: 1};
  return sign && (terms.length || term.wanted) ? added(terms, term) : sign ? null : [term];
}

// The terms with one more; one that is there changes its sign instead.
export function added(terms, term) {
  const same = (other) => other.kind === term.kind && other.text === term.text && other.id === term.id;
  const others = terms.filter((other) => !same(other));
  if (others.length >= MOST) {
    toast(`A search has at most ${MOST} terms.`);
    return terms;
  }
  return [...others, term];
}

// Upload photos that were dropped, pasted or picked; gives their terms.
export async function uploaded(files) {
  const terms = [];
  for (const file of [...files].slice(0, 4)) {
    toast(`Reading ${file.name || "the photo"}…`, null, 60);
    try {
      const example = await upload(file);
      if (example.kind === "example") previews.set(example.id, URL.createObjectURL(file));
      terms.push({kind: example.kind, id: example.id, wanted: true, weight: 1});
      toast("", null, 0);
    } catch (error) {
      toast(error.message, null, 12);
    }
  }
  return terms;
}
