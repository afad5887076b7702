// Draws the charts, keeps the overview live, prints. The data is in the page's JSON blocks.
(() => {
  const REFRESH_MS = 5000;
  const charts = new Map();

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // As many decimals as the smallest step on the axis needs, two at least.
  const usd = (value, step = Math.abs(value)) => {
    const digits = step > 0 && step < 0.01 ? 4 : 2;
    return new Intl.NumberFormat("en-US", {
      style: "currency", currency: "USD", minimumFractionDigits: digits, maximumFractionDigits: digits,
    }).format(value);
  };
  const onAxis = (value, _index, ticks) => usd(value, ticks.length > 1 ? ticks[1].value - ticks[0].value : value);

  const dataset = (series, index, isLine) => ({
    label: series.label,
    data: series.values,
    backgroundColor: colour(`--series-${index + 1}`),
    borderColor: isLine ? colour(`--series-${index + 1}`) : colour("--card"),
    borderWidth: 1,
    fill: isLine,
    pointRadius: 0,
    pointHitRadius: 12,
    pointStyle: "rect",
    stack: series.stack ?? "models",
  });

  const limit = (line, count) => ({
    type: "line",
    label: line.label,
    data: Array(count).fill(line.value),
    borderColor: colour("--limit"),
    borderWidth: 2,
    borderDash: [6, 4],
    pointRadius: count === 1 ? 12 : 0,
    pointStyle: "line",
    fill: false,
    stack: line.label,
    order: -1,
  });

  // What was spent in the span before, all models together: a dotted line, so that it is no colour's business alone.
  const before = (values) => ({
    type: "line",
    label: "All, before",
    data: values,
    borderColor: colour("--strong"),
    backgroundColor: colour("--strong"),
    borderWidth: 2,
    borderDash: [2, 4],
    pointRadius: values.length === 1 ? 4 : 0,
    pointStyle: "line",
    fill: false,
    stack: "before",
    order: -1,
    isAmount: true,
  });

  const config = (data) => {
    const isLine = data.type === "line";
    const grid = { color: colour("--line") };
    const ticks = { color: colour("--subtle") };
    return {
      type: data.type,
      data: {
        labels: data.labels,
        datasets: [
          ...data.series.map((series, index) => dataset(series, index, isLine)),
          ...(data.before.length ? [before(data.before)] : []),
          ...data.lines.map((line) => limit(line, data.labels.length)),
        ],
      },
      options: {
        animation: false,
        maintainAspectRatio: false,
        interaction: { mode: "index", intersect: false },
        scales: {
          x: { stacked: true, grid: { display: false }, ticks: { ...ticks, maxRotation: 0, autoSkipPadding: 16 } },
          y: { stacked: true, beginAtZero: true, grid, border: { display: false }, ticks: { ...ticks, maxTicksLimit: 6, callback: onAxis } },
        },
        plugins: {
          legend: { position: "bottom", align: "start", labels: { color: colour("--text"), usePointStyle: true, boxHeight: 10, padding: 16 } },
          tooltip: {
            itemSort: (a, b) => b.datasetIndex - a.datasetIndex,
            callbacks: { label: (item) => item.dataset.type === "line" && !item.dataset.isAmount ? item.dataset.label : `${item.dataset.label}: ${usd(item.parsed.y)}` },
          },
        },
      },
    };
  };

  // A part of a chart is chosen by dragging over it; by keyboard the form "Other days" does the same.
  const choosable = (canvas, chart, slots) => {
    const band = canvas.parentElement.querySelector(".chosen");
    let begun = null;
    const indexAt = (event) => {
      const index = chart.scales.x.getValueForPixel(event.clientX - canvas.getBoundingClientRect().left);
      return Math.max(0, Math.min(slots.length - 1, Math.round(index)));
    };
    const ends = (event) => [begun, indexAt(event)].sort((a, b) => a - b);
    const edge = (index, side) => {
      const { left, right } = chart.chartArea;
      const half = (right - left) / Math.max(1, chart.options.scales.x.offset ? slots.length : slots.length - 1) / 2;
      return Math.max(left, Math.min(right, chart.scales.x.getPixelForValue(index) + side * half));
    };
    const show = (event) => {
      const [from, to] = ends(event);
      const left = edge(from, -1);
      Object.assign(band.style, {
        left: `${left}px`, width: `${edge(to, 1) - left}px`,
        top: `${chart.chartArea.top}px`, height: `${chart.chartArea.bottom - chart.chartArea.top}px`,
      });
      band.hidden = false;
    };
    const stop = () => { begun = null; band.hidden = true; };
    canvas.onpointerdown = (event) => {
      if (event.button || event.pointerType === "touch") return;
      begun = indexAt(event);
      canvas.setPointerCapture(event.pointerId);
    };
    canvas.onpointermove = (event) => { if (begun !== null) show(event); };
    canvas.onpointercancel = stop;
    canvas.onpointerup = (event) => {
      if (begun === null) return;
      const [from, to] = ends(event);
      const wasDragged = !band.hidden;
      stop();
      if (!wasDragged) return;
      const { first, first_time } = slots[from];
      const { last, last_time } = slots[to];
      const asked = Object.entries({ first, first_time, last, last_time }).filter(([, value]) => value);
      location.search = new URLSearchParams(asked).toString();
    };
    canvas.onkeydown = (event) => { if (event.key === "Escape") stop(); };
  };

  const draw = () => {
    Chart.defaults.font.family = "Inter, sans-serif";
    for (const canvas of document.querySelectorAll("canvas[data-chart]")) {
      charts.get(canvas)?.destroy();
      const data = JSON.parse(document.getElementById(canvas.dataset.chart).textContent);
      const chart = new Chart(canvas, config(data));
      charts.set(canvas, chart);
      if (data.slots.length) choosable(canvas, chart, data.slots);
    }
  };

  const live = document.getElementById("live");
  const stale = document.getElementById("stale");
  // The answer that would say so cannot be had. The next one that comes replaces this.
  const showDatabaseDown = () => {
    const database = live.querySelector('[data-service="Database"]');
    if (!database) return;
    database.querySelector(".dot").className = "dot dot-down";
    database.querySelector("strong").textContent = "unavailable";
  };
  const setStale = (is) => {
    stale.hidden = !is;
    live.classList.toggle("is-stale", is);
    if (is) showDatabaseDown();
  };

  if (live) {
    setInterval(() => { if (!document.hidden) htmx.trigger(document.body, "refresh"); }, REFRESH_MS);
    document.addEventListener("visibilitychange", () => { if (!document.hidden) htmx.trigger(document.body, "refresh"); });
    live.addEventListener("htmx:afterRequest", (event) => setStale(!event.detail.successful));
    // Who was logged out meanwhile is sent the login page, which is no figure to show here.
    live.addEventListener("htmx:beforeSwap", (event) => {
      if (!event.detail.xhr.responseURL.includes("/live/")) { event.detail.shouldSwap = false; location.reload(); }
    });
  }

  document.addEventListener("click", (event) => { if (event.target.closest("[data-print]")) print(); });
  document.addEventListener("theme", draw);
  // A table that fits needs no stop for the keyboard.
  const settle = () => {
    for (const box of document.querySelectorAll(".scroll")) {
      box.tabIndex = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight ? 0 : -1;
    }
  };
  addEventListener("resize", settle);
  document.addEventListener("toggle", settle, true);
  settle();
  // The chart's letters are drawn once, so in a font that is there.
  document.fonts.load("1em Inter").finally(draw);
})();
