// The page: the address holds the query, the query asks the server, the grid shows the hits.

import {$, h, toast} from "./dom.js";
import {cameWithPage, send} from "./api.js";
import {NO_FILTERS, body, filterCount, format, parse, withoutPhoto} from "./state.js";
import {Grid} from "./grid.js";
import {added, drawTerms, typed, uploaded} from "./terms.js";
import {drawFilters, forgetOverview} from "./filters.js";
import {hideDetail, showDetail} from "./detail.js";
import {clear, isSelected, select} from "./selection.js";
import {followIndex} from "./indexing.js";

const FIRST = 60; // as `HITS` in first_page.py
const NEXT = 200;
const SOON = 300; // milliseconds in which the first photos arrive before more are asked for
const KEPT = 6; // results that Back shows again at once
const kept = new Map(); // address → {items, next, verdict, likely, scroll}
const CLEAR_FILTERS = {label: "Clear the filters", run: () => go({...query, ...NO_FILTERS})};
let query = parse(location.search);
let results = null;
let loading = null; // what aborts the request that is under way
let waiting = 0;

const grid = new Grid($("grid"), {
  open: (hit) => go({...query, photo: hit.id}, "detail"),
  address: (hit) => format({...query, photo: hit.id}),
  more: (hit) => addTerm(hit, true),
  less: (hit) => addTerm(hit, false),
  similar: (hit) => go({...query, terms: [{kind: "photo", id: hit.id, wanted: true, weight: 1}], photo: null, sort: "relevance"}),
  select: (hit, extend) => select(hit, extend, grid.items, () => grid.refresh()),
  isSelected,
});

// The address --------------------------------------------------------------------------------

history.scrollRestoration = "manual";

function go(next, state = null) {
  remember();
  history.pushState(state, "", format(next));
  follow();
}

function addTerm(hit, wanted) {
  const term = {kind: "photo", id: hit.id, wanted, weight: 1};
  if (!wanted && !query.terms.length) {
    toast("First search for something; then photos like this one can be left out.");
    return;
  }
  go({...query, terms: added(query.terms, term), photo: null});
}

function remember() {
  if (results) results.scroll = scrollY;
}

// Bring the page in line with the address.
function follow() {
  const before = results ? results.address : null;
  query = parse(location.search);
  const address = withoutPhoto(query);
  drawControls();
  if (address !== before) load(address);
  drawDetail();
}

addEventListener("popstate", () => { remember(); follow(); });

// Results ------------------------------------------------------------------------------------

async function load(address, fresh = false) {
  loading?.abort();
  const known = fresh ? null : kept.get(address);
  if (known) {
    show(known);
    scrollTo(0, known.scroll);
    return;
  }
  loading = new AbortController();
  setBusy(true);
  try {
    const asked = body(query, FIRST, null);
    const found = cameWithPage(asked) ?? await send("/api/v1/search", asked, loading.signal);
    loading = null;
    results = {address, items: found.hits.map(slim), next: found.next, verdict: found.verdict, likely: found.likely, scroll: 0};
    kept.delete(address);
    kept.set(address, results);
    for (const old of [...kept.keys()].slice(0, -KEPT)) kept.delete(old);
    show(results);
    scrollTo(0, 0);
  } catch (error) {
    if (error.name === "AbortError") return;
    loading = null;
    results = null;
    setBusy(false);
    grid.reset([], null, false);
    const filtered = [400, 422].includes(error.status) && filterCount(query);
    notice(error.message, filtered ? CLEAR_FILTERS : {label: "Try again", run: () => load(address, true)});
    $("summary").textContent = "";
  }
  drawDetail();
}

// What the page needs of a hit: many are kept.
function slim(hit) {
  const {id, rank, score, relevance, name, path, width, height, caption} = hit;
  return {id, rank, score, relevance, name, path, width, height, caption};
}

function show(found) {
  results = found;
  setBusy(false);
  const byRelevance = query.terms.length > 0 && query.sort === "relevance";
  const weak = found.verdict === "weak";
  grid.reset(found.items, byRelevance && !weak ? found.likely : null, weak);
  describe(found, weak);
  setTimeout(loadMore, SOON);
}

function describe(found, weak) {
  const count = found.items.length;
  $("summary").textContent = count
    ? `${count.toLocaleString()}${found.next ? "+" : ""} photo${count === 1 && !found.next ? "" : "s"}`
    : "";
  if (count && weak) notice("No photo matches well. These come nearest; other words, or an example photo, may find more.");
  else if (count) $("notice").hidden = true;
  else if (query.relevance !== "all" && query.terms.length) notice("No photo is likely to match.", {label: "Show all", run: () => go({...query, relevance: "all"})});
  else if (filterCount(query)) notice("No photo passes these filters.", CLEAR_FILTERS);
  else notice("There are no photos in this index yet.", {label: "Look for new photos", run: () => { $("index-panel").hidden = false; $("index-start").click(); }});
}

function notice(sentence, action = null) {
  $("notice").hidden = false;
  $("notice").replaceChildren(h("p", {}, sentence));
  if (action) $("notice").append(h("button", {type: "button", onclick: action.run}, action.label));
}

// Said at once; seen only if it takes a while, so that quick answers do not flicker.
function setBusy(busy) {
  $("results").setAttribute("aria-busy", String(busy));
  clearTimeout(waiting);
  waiting = busy ? setTimeout(() => { $("summary").textContent = "Searching…"; }, 150) : 0;
}

async function loadMore() {
  const found = results;
  if (!found || !found.next || found.loading || !isEndNear()) return;
  found.loading = true;
  try {
    const more = await send("/api/v1/search", body(query, NEXT, found.next));
    if (results !== found) return;
    const items = more.hits.map(slim);
    found.items = found.items.concat(items);
    found.next = more.next;
    grid.append(items);
    describe(found, found.verdict === "weak");
  } catch (error) {
    toast(error.message, {label: "Try again", run: loadMore}, 30);
    return;
  } finally {
    found.loading = false;
  }
  loadMore();
}

function isEndNear() {
  return $("end").getBoundingClientRect().top < innerHeight * 3;
}

addEventListener("scroll", loadMore, {passive: true});

// Controls -----------------------------------------------------------------------------------

function drawControls() {
  drawTerms(query.terms, (terms) => go({...query, terms, photo: null}));
  $("sort").value = query.sort;
  $("relevance").value = query.relevance;
  const some = query.terms.length > 0;
  $("sort").disabled = !some;
  $("relevance").disabled = !some;
  const count = filterCount(query);
  $("filter-count").hidden = !count;
  $("filter-count").textContent = ` ${count}`;
  document.title = query.terms.filter((term) => term.text).map((term) => (term.wanted ? "" : "−") + term.text).join(", ") || "Photos";
  if (!$("filters").hidden) filters();
}

function filters() {
  drawFilters(query, (part) => go({...query, ...part, photo: null}));
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  submit($("words").value);
});

function submit(words) {
  const terms = typed(words, query.terms);
  if (!terms) {
    if (/^[+\-−]\s*$/.test(words)) toast("Type words after the sign: +at night, -people.");
    else if (/^[-−]/.test(words)) toast("First search for something; then what is not wanted can be left out.");
    return;
  }
  $("words").value = "";
  typing();
  go({...query, terms, photo: null});
}

function typing() {
  const some = $("words").value.trim() !== "" && query.terms.length > 0;
  $("add").hidden = !some;
  $("without").hidden = !some;
}

$("words").addEventListener("input", typing);
$("words").addEventListener("keydown", (event) => {
  if (event.key === "Backspace" && !event.target.value && query.terms.length) {
    go({...query, terms: query.terms.slice(0, -1), photo: null});
  }
  if (event.key === "ArrowDown" && grid.items.length) {
    event.preventDefault();
    grid.setFocused(grid.focused);
  }
});
$("add").addEventListener("click", () => submit(`+${$("words").value}`));
$("without").addEventListener("click", () => submit(`-${$("words").value}`));
$("sort").addEventListener("change", (event) => go({...query, sort: event.target.value}));
$("relevance").addEventListener("change", (event) => go({...query, relevance: event.target.value}));
$("home").addEventListener("click", (event) => { event.preventDefault(); go(parse("")); });
$("filters-open").addEventListener("click", () => {
  const panel = $("filters");
  panel.hidden = !panel.hidden;
  document.body.classList.toggle("filtering", !panel.hidden);
  $("filters-open").setAttribute("aria-expanded", String(!panel.hidden));
  if (panel.hidden) $("filters-open").focus(); else filters();
});

// Photos as terms: picked, dropped, pasted -----------------------------------------------------

async function take(files) {
  const photos = [...files].filter((file) => file.type.startsWith("image/") || /\.(heic|heif|avif)$/i.test(file.name));
  if (!photos.length) {
    toast("That is not a photo.");
    return;
  }
  const terms = (await uploaded(photos)).reduce(added, query.terms);
  if (terms !== query.terms) go({...query, terms, photo: null});
}

$("pick").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", (event) => { take(event.target.files); });
addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) {
    event.preventDefault();
    take(event.clipboardData.files);
  }
});
let over = 0;
const hasFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
addEventListener("dragenter", (event) => { if (hasFiles(event)) { over += 1; $("drop").hidden = false; } });
addEventListener("dragleave", (event) => { if (hasFiles(event)) { over -= 1; $("drop").hidden = over > 0 ? false : true; } });
addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  over = 0;
  $("drop").hidden = true;
  take(event.dataTransfer.files);
});

// A photo in full ------------------------------------------------------------------------------

function drawDetail() {
  if (!query.photo) {
    if ($("detail").open) {
      hideDetail();
      grid.setFocused(grid.focused);
    }
    return;
  }
  const at = grid.items.findIndex((item) => item.id === query.photo);
  if (at >= 0) grid.setFocused(at, false);
  const hit = at >= 0 ? grid.items[at] : {id: query.photo, relevance: null};
  showDetail(hit, query, {
    close: closeDetail,
    step,
    more: (chosen) => addTerm(chosen, true),
    less: (chosen) => addTerm(chosen, false),
    similar: grid.actions.similar,
    select: grid.actions.select,
    folder: (id) => go({...query, folders: [id], photo: null}),
  });
}

function closeDetail() {
  if (history.state === "detail") {
    history.back();
    return;
  }
  history.replaceState(null, "", format({...query, photo: null}));
  follow();
}

function step(by) {
  const at = grid.items.findIndex((item) => item.id === query.photo) + by;
  const hit = grid.items[at];
  if (!hit) return;
  history.replaceState(history.state, "", format({...query, photo: hit.id}));
  grid.setFocused(at, false);
  follow();
  if (at > grid.items.length - 10) loadMore();
}

$("detail").addEventListener("cancel", (event) => { event.preventDefault(); closeDetail(); });
$("detail").addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea")) return;
  if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else {
    const hit = grid.items.find((item) => item.id === query.photo);
    const acts = {m: "more", l: "less", s: "similar"};
    if (hit && acts[event.key]) grid.actions[acts[event.key]](hit);
    if (hit && event.key === "x") grid.actions.select(hit, false);
  }
});

// Keys -----------------------------------------------------------------------------------------

$("help-open").addEventListener("click", () => $("help").showModal());
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input:not([type=checkbox]), select, textarea, dialog")) {
    if (event.key === "Escape" && event.target === $("words")) $("words").blur();
    return;
  }
  if (event.key === "/") {
    event.preventDefault();
    $("words").focus();
    $("words").select();
  } else if (event.key === "f") $("filters-open").click();
  else if (event.key === "?") $("help").showModal();
  else if (event.key === "Escape") {
    if (!clear(() => grid.refresh()) && !$("filters").hidden) $("filters-open").click();
  }
});

// Start ----------------------------------------------------------------------------------------

follow();
followIndex(() => {
  forgetOverview();
  kept.clear();
  toast("The photos have changed.", {label: "Show", run: () => load(withoutPhoto(query), true)}, 20);
});
