// Light or dark, before the first paint. The choice is kept under the admin's own name, so both change together.
(() => {
  const choice = () => {
    try { return JSON.parse(localStorage.getItem("adminTheme")) || "auto"; } catch { return "auto"; }
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => choice() === "dark" || (choice() === "auto" && system.matches);
  const apply = () => {
    document.documentElement.classList.toggle("dark", isDark());
    document.dispatchEvent(new CustomEvent("theme"));
  };
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-theme-switch]")) return;
    try { localStorage.setItem("adminTheme", JSON.stringify(isDark() ? "light" : "dark")); } catch { return; }
    apply();
  });
})();
