// A justified grid of any number of photos: rows as wide as the page, in the shapes of the photos.
// Only the rows near the window are elements, so that memory does not grow with scrolling. Sizes
// are known before the pictures are: nothing moves when they arrive.

import {$, h, percent} from "./dom.js";
import {thumbnail} from "./api.js";

const GAP = 6;
const LINE = 44; // pixels of the line "less likely"
const NEAR = 1.2; // windows above and below that are kept as elements

export class Grid {
  // actions: open(hit), more(hit), less(hit), similar(hit), select(hit, extend), isSelected(id)
  constructor(place, actions) {
    this.place = place;
    this.actions = actions;
    this.items = [];
    this.rows = [];
    this.shown = new Map();
    this.focused = 0;
    this.likely = null;
    let asked = false;
    const later = () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => { asked = false; this.draw(); });
    };
    addEventListener("scroll", later, {passive: true});
    this.width = 0;
    new ResizeObserver(() => {
      if (this.place.clientWidth !== this.width) this.layout(true);
    }).observe(place);
    place.addEventListener("keydown", (event) => this.key(event));
    place.addEventListener("focusin", (event) => {
      const tile = event.target.closest("[data-at]");
      if (tile) this.setFocused(Number(tile.dataset.at), false);
    });
  }

  // likely: hits of a lower relevance come under a line; null for no line. weak: all are dimmed.
  reset(items, likely, weak) {
    this.items = items;
    this.likely = likely;
    this.weak = weak;
    this.focused = 0;
    this.layout(true);
  }

  append(items) {
    this.items = this.items.concat(items);
    this.layout(false);
  }

  // Put items into rows; `all`, or from the last row on, which may have been incomplete.
  layout(all) {
    this.width = this.place.clientWidth;
    if (!this.width) return;
    const target = this.width < 600 ? 118 : this.width < 1100 ? 190 : 220;
    let at = 0;
    let top = 0;
    if (all) {
      this.rows = [];
      this.clear();
    } else {
      const last = this.rows.pop();
      if (last) {
        this.hide(this.rows.length);
        at = last.from;
        top = last.top;
      }
    }
    let line = this.rows.some((row) => row.line);
    while (at < this.items.length) {
      if (!line && this.isLess(at)) {
        line = true;
        this.rows.push({line: true, from: at, to: at, top, height: LINE});
        top += LINE;
        continue;
      }
      let sum = 0;
      let to = at;
      let full = false;
      while (to < this.items.length && !(to > at && !line && this.isLess(to))) {
        sum += ratio(this.items[to]);
        to += 1;
        if (sum * target + (to - at - 1) * GAP >= this.width) { full = true; break; }
      }
      const free = this.width - (to - at - 1) * GAP;
      const height = full ? free / sum : Math.min(target, free / sum);
      this.rows.push({from: at, to, top, height});
      top += height + GAP;
      at = to;
    }
    this.place.style.height = `${Math.ceil(top)}px`;
    this.draw();
  }

  isLess(at) {
    const {relevance} = this.items[at];
    return this.likely !== null && relevance !== null && relevance < this.likely;
  }

  // Make elements of the rows near the window, and of no others.
  draw() {
    if (!this.rows.length) return;
    const above = this.place.getBoundingClientRect().top;
    const from = -above - innerHeight * NEAR;
    const to = -above + innerHeight * (1 + NEAR);
    const keep = this.rowOf((row) => row.from <= this.focused);
    const first = Math.max(0, this.rowOf((row) => row.top <= from));
    const wanted = new Set(this.place.contains(document.activeElement) ? [keep] : []);
    for (let at = first; at < this.rows.length && this.rows[at].top < to; at += 1) wanted.add(at);
    for (const at of [...this.shown.keys()]) if (!wanted.has(at)) this.hide(at);
    for (const at of wanted) if (!this.shown.has(at)) this.show(at);
  }

  // The last row for which `before` is true; rows are in order.
  rowOf(before) {
    let low = 0;
    let high = this.rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (before(this.rows[middle])) low = middle + 1; else high = middle;
    }
    return low - 1;
  }

  show(number) {
    const row = this.rows[number];
    const elements = [];
    if (row.line) {
      elements.push(h("p", {class: "line", role: "listitem", style: {top: `${row.top}px`}}, "Less likely"));
    }
    let left = 0;
    for (let at = row.from; at < row.to; at += 1) {
      const width = ratio(this.items[at]) * row.height;
      elements.push(this.tile(at, left, row.top, width, row.height));
      left += width + GAP;
    }
    const after = [...this.shown.keys()].filter((at) => at > number).sort((a, b) => a - b)[0];
    const before = after === undefined ? null : this.shown.get(after)[0];
    for (const element of elements) this.place.insertBefore(element, before);
    this.shown.set(number, elements);
  }

  hide(number) {
    for (const element of this.shown.get(number) || []) element.remove();
    this.shown.delete(number);
  }

  clear() {
    for (const number of [...this.shown.keys()]) this.hide(number);
  }

  tile(at, left, top, width, height) {
    const hit = this.items[at];
    const chosen = this.actions.isSelected(hit.id);
    const pixels = Math.max(width, height) * Math.min(devicePixelRatio || 1, 2);
    const label = hit.caption || hit.name;
    const act = (name) => (event) => { event.preventDefault(); this.actions[name](hit); };
    const less = this.weak || this.isLess(at);
    return h("div", {
      class: `tile${less ? " less" : ""}${chosen ? " chosen" : ""}`,
      role: "listitem",
      "data-at": at,
      "data-id": hit.id,
      style: {left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px`},
    },
    h("a", {
      href: this.actions.address(hit),
      tabindex: at === this.focused ? 0 : -1,
      "aria-label": hit.relevance === null ? label : `${label}, ${percent(hit.relevance)} relevant`,
      onclick: (event) => {
        if (event.ctrlKey || event.metaKey || event.button) return;
        event.preventDefault();
        if (event.shiftKey) this.actions.select(hit, true);
        else this.actions.open(hit);
      },
    }, h("img", {
      src: thumbnail(hit.id, pixels <= 170 ? 160 : pixels <= 340 ? 320 : 640),
      alt: "",
      decoding: "async",
      draggable: "false",
      onerror: (event) => event.target.replaceWith(h("span", {class: "broken"}, hit.name)),
    })),
    h("label", {class: "pick", title: "Select (x)"}, h("input", {
      type: "checkbox",
      tabindex: -1,
      "aria-label": `Select ${hit.name}`,
      checked: chosen,
      onclick: (event) => this.actions.select(hit, event.shiftKey),
    })),
    hit.relevance === null ? null : h("span", {class: "badge", "aria-hidden": "true", title: "how likely the photo matches"}, percent(hit.relevance)),
    h("div", {class: "acts"},
      h("button", {type: "button", tabindex: -1, title: "More like this (m)", "aria-label": "More like this", onclick: act("more")}, "+"),
      h("button", {type: "button", tabindex: -1, title: "Less like this (l)", "aria-label": "Less like this", onclick: act("less")}, "−"),
      h("button", {type: "button", tabindex: -1, title: "Find similar (s)", "aria-label": "Find similar", onclick: act("similar")}, "≈")));
  }

  // Bring what is selected in line with the selection.
  refresh() {
    for (const tile of this.place.querySelectorAll("[data-id]")) {
      const chosen = this.actions.isSelected(tile.dataset.id);
      tile.classList.toggle("chosen", chosen);
      tile.querySelector("input").checked = chosen;
    }
  }

  setFocused(at, move = true) {
    if (at < 0 || at >= this.items.length) return;
    const link = (number) => this.place.querySelector(`[data-at="${number}"] > a`);
    link(this.focused)?.setAttribute("tabindex", "-1");
    this.focused = at;
    if (move) {
      const row = this.rows[this.rowOf((r) => r.from <= at)];
      const top = this.place.getBoundingClientRect().top + row.top;
      const head = $("search").closest("header").offsetHeight + GAP;
      if (top < head) scrollBy(0, top - head);
      else if (top + row.height > innerHeight) scrollBy(0, top + row.height - innerHeight + GAP);
      this.draw();
    }
    link(at)?.setAttribute("tabindex", "0");
    if (move) link(at)?.focus({preventScroll: true});
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.focused;
    const moves = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: this.items.length - 1};
    let to = moves[event.key];
    if (event.key === "ArrowDown") to = this.across(at, 1);
    if (event.key === "ArrowUp") to = this.across(at, -1);
    if (to !== undefined) {
      event.preventDefault();
      this.setFocused(Math.max(0, Math.min(to, this.items.length - 1)));
      return;
    }
    const acts = {m: "more", l: "less", s: "similar"};
    const hit = this.items[at];
    if (!hit) return;
    if (acts[event.key]) {
      event.preventDefault();
      this.actions[acts[event.key]](hit);
    } else if (event.key === "x" || event.key === "X") {
      event.preventDefault();
      this.actions.select(hit, event.shiftKey);
    }
  }

  // The item in the row above or below that lies nearest.
  across(at, step) {
    let number = this.rowOf((row) => row.from <= at && !row.line);
    const here = this.rows[number];
    const middle = center(this.items, here, at);
    number += step;
    if (this.rows[number]?.line) number += step;
    const row = this.rows[number];
    if (!row) return at;
    let best = row.from;
    for (let other = row.from; other < row.to; other += 1) {
      const distance = Math.abs(center(this.items, row, other) - middle);
      if (distance < Math.abs(center(this.items, row, best) - middle)) best = other;
    }
    return best;
  }
}

// Width by height, within what can be shown in a row.
function ratio(item) {
  return Math.min(Math.max(item.width / item.height || 1, 0.4), 3.5);
}

function center(items, row, at) {
  let left = 0;
  for (let before = row.from; before < at; before += 1) left += ratio(items[before]) * row.height + GAP;
  return left + ratio(items[at]) * row.height / 2;
}
