// The little that the operators' pages do in the browser.
"use strict";

// Says what a limit would do while it is typed, beside the budget's bar. The server says it again at save.

const TICKS_PER_USD = 1e10; // A hint may be a float's breadth off; what is saved never passes through here.

function effectOf(who, limit, softCap, hardCap, spent, held) {
  if (!(limit >= 0 && softCap > 0 && hardCap > 0)) return "";
  const usd = (ticks) => (ticks / TICKS_PER_USD).toFixed(2);
  const start = `${usd(spent)} spent; with ${limit.toFixed(2)} `;
  const ticks = limit * TICKS_PER_USD;
  if (spent >= ticks * hardCap) return start + `${who} is stopped at once.`;
  if (spent + held >= ticks * softCap) return start + "it is past the soft cap at once.";
  return start + `${usd(ticks * hardCap - spent - held)} is left.`;
}

function explain(row) {
  const input = (name) => row.querySelector(`input[name$="-${name}"]`);
  const field = (name) => Number(input(name)?.value || NaN);
  const bar = row.querySelector("[data-spent]");
  if (!bar) return;
  const scope = row.querySelector('select[name$="-scope"]')?.value || "tenant";
  // What the limit in force is above the saved one is topped up, and comes on top of any other.
  const topUp = Number(bar.dataset.limit) / TICKS_PER_USD - Number(input("limit_ticks").defaultValue);
  let words = bar.querySelector("[data-effect]");
  if (!words) {
    words = document.createElement("p");
    words.dataset.effect = "";
    words.setAttribute("role", "status");
    words.className = "font-medium text-important";
    bar.append(words);
  }
  words.textContent = effectOf(
    scope === "tenant" ? "the tenant" : `this ${scope}`,
    field("limit_ticks") + topUp,
    field("soft_cap"),
    field("hard_cap"),
    Number(bar.dataset.spent),
    Number(bar.dataset.held),
  );
}

document.addEventListener("input", (event) => {
  if (/^budgets-\d+-(limit_ticks|soft_cap|hard_cap)$/.test(event.target.name)) explain(event.target.closest("tr"));
});

// select2 leaves its search field without a label, names a choice by its value alone, which may be empty, and marks
// chips up as a list that has more than items. Django's icons have a name, but are nothing that can have one.
function describeWidgets() {
  for (const field of document.querySelectorAll(".select2-search__field")) field.setAttribute("aria-label", "Search");
  for (const choice of document.querySelectorAll("[role=combobox].select2-selection, [role=textbox].select2-selection__rendered")) {
    const select = choice.closest(".select2-container").previousElementSibling;
    choice.setAttribute("aria-label", select?.labels?.[0]?.textContent.trim() || "Choice");
  }
  for (const icon of document.querySelectorAll("span.help-tooltip[aria-label]")) icon.setAttribute("role", "img");
  for (const chips of document.querySelectorAll("ul.select2-selection__rendered")) {
    chips.setAttribute("role", "group");
    chips.setAttribute("aria-label", "Chosen");
    for (const chip of chips.children) chip.setAttribute("role", "none");
  }
}

// unfold measures what scrolls sideways before the page's fonts are there, and leaves a bar where nothing scrolls.
window.addEventListener("load", async () => {
  await document.fonts.ready;
  for (const part of document.querySelectorAll("[data-simplebar]")) SimpleBar.instances.get(part)?.recalculate();
});

// select2 builds its fields after the page is loaded, and the chips anew at each choice.
window.addEventListener("load", () => {
  setTimeout(describeWidgets);
  document.addEventListener("click", () => setTimeout(describeWidgets));
  document.addEventListener("keyup", () => setTimeout(describeWidgets));
});

// Times in the reader's own zone, which only the browser knows.
window.addEventListener("load", () => {
  const parts = { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short", hourCycle: "h23" };
  for (const time of document.querySelectorAll("time[data-reader]")) {
    const at = new Date(time.dateTime);
    time.title = at.toISOString().replace("T", " ").slice(0, 19) + " UTC";
    time.textContent = new Intl.DateTimeFormat("en-CA", parts).format(at).replace(",", "");
  }
});

// A budget's ladder: the further steps, which the field has as text ("85 %: 2 downgrades, 95 %: 256 tokens"), as rows.
// Without one there is a button, and nothing else. A text that is no ladder is left as it is, with its error.

const SHORTER = "tokens";
const MOST_FURTHER_STEPS = 4;
const DOWNGRADES = ["2", "3", "4", "5", "6", "7", "8", "9"];

function stepsOf(text) {
  const found = text.split(",").map((part) => part.trim()).filter(Boolean)
    .map((part) => /^([\d.]+) ?(%?) ?: ?(\d+) (downgrade|token)s?$/.exec(part));
  if (found.includes(null)) return null;
  return found.map(([, share, sign, count, what]) => ({
    percent: sign ? share : String(Math.round(share * 1e4) / 100),
    what: what === "token" ? SHORTER : count,
    tokens: what === "token" ? count : "",
  }));
}

function ladderField(like, name, value, size) {
  const field = document.createElement("input");
  field.className = like.className.replace("min-w-72", "");
  field.inputMode = "decimal";
  field.autocomplete = "off";
  field.setAttribute("aria-label", name);
  field.value = value;
  field.style.width = size;
  return field;
}

function ladderChoice(like, chosen) {
  const choice = document.createElement("select");
  choice.className = like.className.replace("min-w-72", "");
  choice.setAttribute("aria-label", "What calls get");
  for (const count of DOWNGRADES) choice.append(new Option(`${count} downgrades`, count));
  choice.append(new Option("shorter answers", SHORTER));
  choice.value = chosen;
  return choice;
}

function ladderButton(words, label) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "ladder-button font-medium text-link";
  button.textContent = words;
  if (label) button.setAttribute("aria-label", label);
  return button;
}

function makeLadder(input) {
  const steps = stepsOf(input.value);
  if (steps === null || input.dataset.ladder) return;
  input.dataset.ladder = "made";
  input.hidden = true;
  const ladder = document.createElement("div");
  const add = ladderButton("Add a step");
  ladder.className = "ladder";
  ladder.setAttribute("role", "group");
  ladder.setAttribute("aria-label", "Steps after the soft cap");
  const rows = () => [...ladder.querySelectorAll(".ladder-step")];
  const write = () => {
    input.value = rows().map((row) => {
      const [percent, what, tokens] = row.querySelectorAll("input, select");
      tokens.parentElement.hidden = what.value !== SHORTER;
      return `${percent.value.trim()} %: ${what.value === SHORTER ? `${tokens.value.trim()} tokens` : `${what.value} downgrades`}`;
    }).join(", ");
    add.hidden = rows().length >= MOST_FURTHER_STEPS;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const addRow = ({ percent, what, tokens }) => {
    const row = document.createElement("div");
    row.className = "ladder-step";
    const from = document.createElement("span");
    from.append("from ", ladderField(input, "From percent of the limit", percent, "4.5rem"), " %");
    const length = document.createElement("span");
    length.append("at most ", ladderField(input, "Most output tokens", tokens, "5.5rem"), " tokens");
    const remove = ladderButton("Remove", `Remove the step from ${percent} percent`);
    remove.addEventListener("click", () => { row.remove(); write(); add.focus(); });
    row.append(from, ladderChoice(input, what), length, remove);
    ladder.insertBefore(row, add);
    return row;
  };
  add.addEventListener("click", () => {
    const hasDowngrade = rows().some((row) => row.querySelector("select").value !== SHORTER);
    const soft = Number(input.closest("tr, form")?.querySelector('input[name$="soft_cap"]')?.value || 0.8) * 100;
    const last = Math.max(soft, ...rows().map((row) => Number(row.querySelector("input").value) || 0));
    const percent = String(Math.min(100, Math.ceil((last + 100) / 2)));
    const row = addRow(hasDowngrade ? { percent, what: SHORTER, tokens: "256" } : { percent, what: "2", tokens: "256" });
    write();
    row.querySelector("input").focus();
  });
  ladder.addEventListener("input", write);
  ladder.append(add);
  steps.forEach(addRow);
  input.after(ladder);
  for (const row of rows()) row.querySelectorAll("span")[1].hidden = row.querySelector("select").value !== SHORTER;
  add.hidden = steps.length >= MOST_FURTHER_STEPS;
}

function makeLadders(within) {
  for (const input of within.querySelectorAll("input[data-ladder]")) {
    if (!input.name.includes("__prefix__")) makeLadder(input);
  }
}

window.addEventListener("load", () => makeLadders(document));
document.addEventListener("formset:added", (event) => makeLadders(event.target));
