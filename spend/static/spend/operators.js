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
