// The photos that are selected, and what can be done with them.

import {$, h, toast} from "./dom.js";
import {send} from "./api.js";
import {copy} from "./detail.js";
import {noteForm} from "./notes.js";

const MOST = 1000;
const chosen = new Map(); // id → hit, in the order of selection
let last = null;

export function isSelected(id) {
  return chosen.has(id);
}

// Select a photo or take it out; extend: with all between it and the last one.
export function select(hit, extend, items, changed) {
  const [from, to] = [last, hit.id].map((id) => items.findIndex((item) => item.id === id));
  if (extend && from >= 0 && to >= 0) {
    for (const item of items.slice(Math.min(from, to), Math.max(from, to) + 1)) chosen.set(item.id, item);
  } else if (chosen.has(hit.id)) chosen.delete(hit.id);
  else chosen.set(hit.id, hit);
  last = hit.id;
  if (chosen.size > MOST) {
    toast(`At most ${MOST.toLocaleString()} photos can be selected.`);
    for (const id of [...chosen.keys()].slice(MOST)) chosen.delete(id);
  }
  drawSelection(changed);
}

export function clear(changed) {
  const any = chosen.size > 0;
  chosen.clear();
  drawSelection(changed);
  return any;
}

function drawSelection(changed) {
  const place = $("selection");
  place.hidden = chosen.size === 0;
  place.replaceChildren(
    h("strong", {role: "status"}, `${chosen.size.toLocaleString()} selected`),
    h("button", {type: "button", onclick: () => copy([...chosen.values()].map((hit) => hit.path).join("\n"))}, "Copy paths"),
    h("button", {type: "button", onclick: () => download("zip")}, "Download zip"),
    h("button", {type: "button", onclick: () => download("csv")}, "Download list"),
    h("button", {type: "button", onclick: () => download("sidecars")}, "Download sidecars"),
    h("button", {type: "button", onclick: () => clear(changed)}, "Clear"),
    noteForm(() => [...chosen.keys()], () => {}));
  changed();
}

async function download(kind) {
  try {
    const found = await send("/api/v1/exports", {ids: [...chosen.keys()]});
    if (found.left_out) toast(`${found.left_out} of these photos are no longer in the index.`);
    const link = h("a", {href: found[kind], download: ""});
    document.body.append(link);
    link.click();
    link.remove();
  } catch (error) {
    toast(error.message);
  }
}
