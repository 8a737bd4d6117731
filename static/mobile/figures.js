/** What a node told of an answer that is done; what it did not tell is missing. */

import { h } from "./dom.js";

const count = (number) => number.toLocaleString();
const seconds = (digits) => (number) => `${number.toFixed(digits)} s`;
const FIGURES = [
  ["input_tokens", "Input tokens", count],
  ["output_tokens", "Output tokens", count],
  ["reasoning_tokens", "Reasoning tokens", count],
  ["tokens_per_second", "Tokens per second", (rate) => rate.toFixed(1)],
  ["first_token_seconds", "To the first token", seconds(2)],
  ["load_seconds", "Loading the model", seconds(1)],
];

export function figures(prompt) {
  if (prompt.state !== "done") return [];
  const known = FIGURES.filter(([name]) => Number.isFinite(prompt.stats?.[name]));
  const shown = known.map(([name, label, format]) => figure(label, format(prompt.stats[name])));
  const took = (Date.parse(prompt.finished_at) - Date.parse(prompt.started_at)) / 1000;
  if (Number.isFinite(took)) shown.push(figure("Took", seconds(1)(took)));
  if (!shown.length) return [];
  const title = h("h2", { class: "card-title", id: "figures-title" }, "Figures");
  return h("section", { class: "card", "aria-labelledby": "figures-title" }, title, h("dl", { class: "stats" }, shown));
}

function figure(label, value) {
  return h("div", { class: "stat" }, h("dt", {}, label), h("dd", {}, value));
}
