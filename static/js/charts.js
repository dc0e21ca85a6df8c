// Draws the figures of <figure data-chart="{kind, stacked, labels, series, unit}"> with Chart.js, in the page's colors,
// and again when they change. The table below each chart has the same figures.

const drawn = new WeakMap(); // figure -> { chart, spec }
const PALETTE = {
  light: ["#524ed2", "#0e8a8a", "#d97706", "#c026a3", "#4d7c0f", "#0369a1", "#b45309", "#7c3aed", "#be185d", "#475569"],
  dark: ["#9d9bff", "#4fd1c5", "#fbbf5a", "#f0a3e4", "#a3d977", "#7cc8f5", "#f5a66b", "#c4a7ff", "#ff9cc0", "#a8b3c7"],
};
const number = new Intl.NumberFormat();

const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function color(one, index) {
  const named = { good: "--good", warn: "--warn", bad: "--bad", neutral: "--muted", info: "--info" }[one.level];
  if (named) return variable(named);
  const palette = PALETTE[isDark() ? "dark" : "light"];
  return palette[index % palette.length];
}

function datasets(spec) {
  if (spec.kind === "doughnut") {
    const [one] = spec.series;
    const levels = one.levels ?? [];
    return [{
      data: one.values,
      backgroundColor: spec.labels.map((_, index) => color({ level: levels[index] }, index)),
      borderColor: variable("--surface"),
      borderWidth: 2,
    }];
  }
  return spec.series.map((one, index) => ({
    label: one.name,
    data: one.values,
    backgroundColor: color(one, index),
    borderColor: color(one, index),
    borderWidth: spec.kind === "line" ? 2 : 0,
    // A day between days without a value has no line to either side.
    pointRadius: ({ dataIndex: at }) => (one.values[at - 1] == null && one.values[at + 1] == null ? 3 : 0),
    pointHitRadius: 8,
    tension: 0.25,
    maxBarThickness: 36,
    borderRadius: spec.kind === "bar" ? 2 : 0,
  }));
}

function options(spec) {
  const text = variable("--muted");
  const line = variable("--line");
  const unit = spec.unit ? ` ${spec.unit}` : "";
  const round = spec.kind === "doughnut";
  const axis = { stacked: Boolean(spec.stacked), border: { color: line }, ticks: { color: text, maxRotation: 0, autoSkipPadding: 12 } };
  return {
    animation: false,
    responsive: true,
    maintainAspectRatio: false,
    interaction: round ? undefined : { mode: "index", intersect: false },
    cutout: round ? "62%" : undefined,
    plugins: {
      legend: {
        display: round || spec.series.length > 1,
        position: round ? "right" : "bottom",
        labels: { color: text, boxWidth: 10, boxHeight: 10, padding: 10 },
      },
      tooltip: {
        callbacks: {
          label: (item) => ` ${round ? item.label : item.dataset.label}: ${number.format(round ? item.parsed : item.parsed.y)}${unit}`,
        },
      },
    },
    scales: round ? undefined : {
      x: { ...axis, grid: { display: false } },
      y: { ...axis, beginAtZero: true, grid: { color: line }, ticks: { ...axis.ticks, precision: 0, callback: (value) => number.format(value) } },
    },
  };
}

function localLabels(spec) {
  // Labels that are instants are shown in the reader's own time.
  if (!spec.instants) return spec.labels;
  const style = spec.instants === "hour" ? { hour: "2-digit", minute: "2-digit" } : { month: "short", day: "numeric" };
  const formatter = new Intl.DateTimeFormat(undefined, style);
  return spec.instants_at.map((at) => formatter.format(at * 1000));
}

function draw(figure, again) {
  const spec = figure.dataset.chart;
  const before = drawn.get(figure);
  if (before && before.spec === spec && !again) return;
  let wanted;
  try {
    wanted = JSON.parse(spec);
  } catch {
    return;
  }
  const area = figure.querySelector(".chart-area");
  area.hidden = false;
  area.setAttribute("data-js-shown", "");
  const data = { labels: localLabels(wanted), datasets: datasets(wanted) };
  if (before && before.kind === wanted.kind && !again) {
    const { chart } = before;
    chart.data.labels = data.labels;
    data.datasets.forEach((set, index) => { chart.data.datasets[index] = Object.assign(chart.data.datasets[index] ?? {}, set); });
    chart.data.datasets.length = data.datasets.length;
    chart.options = options(wanted);
    chart.update("none");
    before.spec = spec;
    return;
  }
  before?.chart.destroy();
  const chart = new window.Chart(figure.querySelector("canvas"), { type: wanted.kind, data, options: options(wanted) });
  drawn.set(figure, { chart, spec, kind: wanted.kind });
}

/** Draw the charts below `root`, those that changed, or all of them `again`. */
export function drawCharts(root, { again = false } = {}) {
  if (!window.Chart) return;
  const figures = [...root.querySelectorAll("figure[data-chart]")];
  if (root.matches?.("figure[data-chart]")) figures.push(root);
  for (const figure of figures) draw(figure, again);
}
