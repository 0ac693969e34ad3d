// The filters: folders as a tree, dates as a histogram to brush, cameras, and captions.

import {$, h, toast} from "./dom.js";
import {get} from "./api.js";
import {NO_FILTERS} from "./state.js";

let overview = null;

export function forgetOverview() {
  overview = null;
}

// Draw the panel for a query. changed(part): what the user chooses.
export async function drawFilters(query, changed) {
  const panel = $("filters");
  if (!overview) {
    panel.replaceChildren(h("p", {class: "quiet"}, "Loading…"));
    try {
      overview = await get("/api/v1/overview");
    } catch (error) {
      panel.replaceChildren(h("p", {}, error.message));
      return;
    }
  }
  const open = new Set([...panel.querySelectorAll("details[open]")].map((d) => d.dataset.id));
  const focus = panel.contains(document.activeElement) ? document.activeElement.id : null;
  panel.replaceChildren(
    h("div", {class: "top"}, h("h2", {}, "Filters"),
      h("button", {
        type: "button",
        onclick: () => changed(NO_FILTERS),
      }, "Clear all"),
      h("button", {type: "button", class: "close", "aria-label": "Close the filters", onclick: () => $("filters-open").click()}, "×")),
    dates(query, changed),
    h("fieldset", {}, h("legend", {}, "Folder"), tree(query, changed, open)),
    ...(overview.places.length || query.place ? [places(query, changed)] : []),
    ...(overview.cameras.length ? [cameras(query, changed)] : []),
    ...(overview.captioned ? [captions(query, changed)] : []));
  if (focus) $(focus)?.focus();
}

function toggled(list, value, on) {
  const others = list.filter((other) => other !== value);
  return on ? [...others, value] : others;
}

function check(id, label, count, checked, onchange) {
  return h("label", {class: "check"},
    h("input", {type: "checkbox", id, checked, onchange: (event) => onchange(event.target.checked)}),
    h("span", {class: "name", title: label}, label),
    h("span", {class: "count"}, count.toLocaleString()));
}

function tree(query, changed, open) {
  const below = new Map();
  for (const folder of overview.folders) {
    const known = folder.parent && overview.folders.some((other) => other.id === folder.parent);
    const parent = known ? folder.parent : "";
    below.set(parent, [...(below.get(parent) || []), folder]);
  }
  const isOpen = (folder, depth) => depth === 0 || open.has(folder.id) ||
    (below.get(folder.id) || []).some((child) => query.folders.includes(child.id));
  const level = (parent, depth) => h("ul", {class: "tree"}, ...(below.get(parent) || []).map((folder) => {
    const box = check(`folder-${folder.id}`, folder.name || folder.path, folder.photos,
      query.folders.includes(folder.id),
      (on) => changed({folders: toggled(query.folders, folder.id, on)}));
    if (!below.has(folder.id)) return h("li", {}, box);
    return h("li", {}, box, h("details", {"data-id": folder.id, open: isOpen(folder, depth)},
      h("summary", {"aria-label": `Folders in ${folder.name}`}, "folders in it"),
      level(folder.id, depth + 1)));
  }));
  return level("", 0);
}

function cameras(query, changed) {
  return h("fieldset", {}, h("legend", {}, "Camera"),
    h("ul", {class: "tree"}, ...overview.cameras.slice(0, 50).map((camera, at) => h("li", {},
      check(`camera-${at}`, camera.name, camera.photos, query.cameras.includes(camera.name),
        (on) => changed({cameras: toggled(query.cameras, camera.name, on)}))))));
}

function places(query, changed) {
  return h("fieldset", {}, h("legend", {}, "Place"),
    h("input", {
      id: "place", type: "search", list: "places", maxlength: 200, value: query.place,
      "aria-label": "City, region or country", placeholder: "City, region or country",
      onchange: (event) => changed({place: event.target.value.trim()}),
    }),
    h("datalist", {id: "places"}, ...overview.places.map((place) =>
      h("option", {value: place.name}, place.photos.toLocaleString()))));
}

function captions(query, changed) {
  const value = query.captioned === null ? "" : query.captioned ? "yes" : "no";
  const options = [["", "any"], ["yes", "with a caption"], ["no", "without a caption"]];
  return h("fieldset", {}, h("legend", {}, "Caption"), h("select", {
    id: "captioned",
    "aria-label": "Caption",
    onchange: (event) => changed({captioned: {yes: true, no: false}[event.target.value] ?? null}),
  }, ...options.map(([key, label]) => h("option", {value: key, selected: key === value}, label))));
}

// Dates ---------------------------------------------------------------------------------------

function dates(query, changed) {
  const bars = inBars(overview.months);
  const set = (after, before) => {
    if (after && before && after >= before) {
      toast("The first day has to be before the last.");
      return;
    }
    changed({after, before});
  };
  const field = h("fieldset", {}, h("legend", {}, "Date"));
  if (bars.length > 1) field.append(histogram(bars, query, set));
  field.append(
    h("label", {class: "date"}, "from ", h("input", {
      type: "date", id: "after", value: full(query.after),
      onchange: (event) => set(event.target.value, query.before),
    })),
    h("label", {class: "date"}, "before ", h("input", {
      type: "date", id: "before", value: full(query.before),
      onchange: (event) => set(query.after, event.target.value),
    })));
  return field;
}

function full(date) {
  return date.length === 4 ? `${date}-01-01` : date.length === 7 ? `${date}-01` : date.slice(0, 10);
}

// Months, or years if there are many, without gaps: {from, to, photos, label}.
function inBars(months) {
  if (!months.length) return [];
  const count = new Map(months.map(({month, photos}) => [month, photos]));
  const [first, last] = [months[0].month, months[months.length - 1].month];
  const years = Number(last.slice(0, 4)) - Number(first.slice(0, 4)) + 1;
  if (!(years > 0 && years < 300)) return [];
  const bars = [];
  const pad = (number) => String(number).padStart(2, "0");
  for (let year = Number(first.slice(0, 4)); year <= Number(last.slice(0, 4)); year += 1) {
    if (years > 6) {
      let photos = 0;
      for (let month = 1; month <= 12; month += 1) photos += count.get(`${year}-${pad(month)}`) || 0;
      bars.push({from: `${year}-01-01`, to: `${year + 1}-01-01`, photos, label: String(year)});
      continue;
    }
    for (let month = 1; month <= 12; month += 1) {
      const key = `${year}-${pad(month)}`;
      if (key < first || key > last) continue;
      const next = month === 12 ? `${year + 1}-01` : `${year}-${pad(month + 1)}`;
      bars.push({from: `${key}-01`, to: `${next}-01`, photos: count.get(key) || 0, label: key});
    }
  }
  return bars;
}

// Bars to drag over. The two fields below it do the same from the keyboard.
function histogram(bars, query, set) {
  const most = Math.max(...bars.map((bar) => bar.photos));
  const [after, before] = [full(query.after), full(query.before)];
  const chosen = (bar) => (!after || bar.from >= after) && (!before || bar.to <= before);
  const columns = bars.map((bar) => h("span", {
    class: `bar${chosen(bar) ? " on" : ""}`,
    title: `${bar.label}: ${bar.photos.toLocaleString()}`,
    style: {height: `${bar.photos ? Math.max(4, 100 * Math.sqrt(bar.photos / most)) : 0}%`},
  }));
  const place = h("div", {class: "histogram", "aria-hidden": "true"}, ...columns);
  let start = null;
  const at = (event) => {
    const box = place.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    return Math.min(bars.length - 1, Math.max(0, Math.floor(share * bars.length)));
  };
  const mark = (one, other) => columns.forEach((column, number) => {
    column.classList.toggle("on", number >= Math.min(one, other) && number <= Math.max(one, other));
  });
  place.addEventListener("pointerdown", (event) => {
    start = at(event);
    place.setPointerCapture(event.pointerId);
    mark(start, start);
  });
  place.addEventListener("pointermove", (event) => { if (start !== null) mark(start, at(event)); });
  place.addEventListener("pointerup", (event) => {
    if (start === null) return;
    const [low, high] = [start, at(event)].sort((a, b) => a - b);
    start = null;
    set(bars[low].from, bars[high].to);
  });
  return h("div", {}, place, h("div", {class: "scale", "aria-hidden": "true"},
    h("span", {}, bars[0].label), h("span", {}, bars[bars.length - 1].label)));
}
