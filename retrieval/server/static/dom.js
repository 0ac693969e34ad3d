// Elements in one call, and sentences that appear for a while. Text is always set as text: nothing
// that a file says becomes markup.

export const $ = (id) => document.getElementById(id);

// h("button", {class: "x", onclick: f, "aria-label": "…"}, "text", child): a new element.
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(element.style, value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

let hiding = 0;

// Show a sentence for some seconds, with a button if `action` is given.
export function toast(sentence, action = null, seconds = 6) {
  const place = $("toast");
  place.replaceChildren(h("span", {}, sentence));
  if (action) {
    place.append(h("button", {
      type: "button",
      onclick: () => { place.replaceChildren(); action.run(); },
    }, action.label));
  }
  clearTimeout(hiding);
  hiding = setTimeout(() => place.replaceChildren(), seconds * 1000);
}

export function percent(share) {
  return `${Math.round(100 * share)}%`;
}

export function day(taken) {
  const date = taken ? new Date(taken) : null;
  if (!date || Number.isNaN(date.getTime())) return "";
  return date.toLocaleDateString(undefined, {year: "numeric", month: "long", day: "numeric"});
}
