"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (name, attributes = {}, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return node;
  };
  // Golden-angle hues stay apart for any number of runs; the lightness follows the colour scheme.
  const color = (run) => `hsl(${(212 + 137.5 * run) % 360} 68% var(--light))`;
  const DASHES = { "": "", train: "", valid: "6 4", test: "2 3" };
  const shown = (value) => {
    if (value === null || value === undefined) return "not finite";
    const size = Math.abs(value);
    return size && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(+value.toPrecision(4));
  };
  document.querySelectorAll("[data-swatch]").forEach((node) => { node.style.background = color(+node.dataset.swatch); });

  // ---- curves ----
  const state = { smoothing: 0, axis: "x", log: false, hidden: new Set(), wanted: "" };
  const PAD = { left: 54, right: 22, top: 14, bottom: 26 };
  const HEIGHT = 220;

  // Exponential moving average without the pull to its start (Kingma and Ba 2015, section 3); gaps stay gaps. The
  // slider is the weight for a line of 400 points; one of fewer points forgets as fast along the axis.
  const smooth = (values, strength) => {
    if (!strength) return values;
    const weight = strength ** (400 / values.length);
    let sum = 0, mass = 0;
    return values.map((value) => {
      if (value === null) return null;
      sum = weight * sum + (1 - weight) * value;
      mass = weight * mass + (1 - weight);
      return sum / mass;
    });
  };
  const ticks = (low, high, most) => {
    const rough = (high - low) / most || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const found = [];
    for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9 && found.length < 20; at++) found.push(at * step);
    return found;
  };
  const extent = (values) => {
    let low = Infinity, high = -Infinity;
    for (const value of values) if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
    return [low, high];
  };

  class Chart {
    constructor(figure, spec) {
      this.figure = figure;
      this.spec = spec;
      this.svg = figure.querySelector("svg");
      this.readout = figure.querySelector(".readout");
      this.cursor = null;
      this.svg.addEventListener("pointermove", (event) => {
        const box = this.svg.getBoundingClientRect();
        this.point(this.unscale(event.clientX - box.left));
      });
      this.svg.addEventListener("pointerleave", () => this.point(null));
      this.svg.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
        if (!move || !this.range) return;
        event.preventDefault();
        const [low, high] = this.range;
        const from = this.cursor ?? low;
        this.point(Math.min(high, Math.max(low, from + move * (high - low) / 40)));
      });
    }

    lines() {
      return this.spec.lines
        .filter((line) => !state.hidden.has(line.run) && line[state.axis])
        .map((line) => ({ ...line, at: line[state.axis], raw: line.y, y: smooth(line.y, state.smoothing) }));
    }

    draw() {
      const width = Math.max(200, this.svg.clientWidth || 370);
      this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      this.svg.replaceChildren();
      const title = make("title", {}, this.spec.alt);
      this.svg.append(title);
      const lines = this.lines();
      this.drawn = lines;
      const kept = (value) => (value !== null && (!state.log || value > 0) ? value : null);
      const [x0, x1] = extent(lines.flatMap((line) => line.at));
      let [y0, y1] = extent(lines.flatMap((line) => [...line.raw, ...line.y, ...(line.low ?? []), ...(line.high ?? [])].map(kept)));
      if (!Number.isFinite(x0) || !Number.isFinite(y0)) {
        this.range = null;
        const reason = lines.length ? "no finite value to draw" : state.axis === "t" ? "no time was logged" : "no run is shown";
        this.svg.append(make("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, reason));
        return;
      }
      this.range = [x0, x1];
      const scaled = (value) => (state.log ? Math.log10(value) : value);
      if (y0 === y1) { y0 -= state.log ? y0 / 2 : Math.abs(y0) / 10 || 1; y1 += Math.abs(y1) / 10 || 1; }
      const [s0, s1] = [scaled(y0), scaled(y1)];
      const X = (value) => PAD.left + ((value - x0) / (x1 - x0 || 1)) * (width - PAD.left - PAD.right);
      const Y = (value) => HEIGHT - PAD.bottom - ((scaled(value) - s0) / (s1 - s0 || 1)) * (HEIGHT - PAD.top - PAD.bottom);
      this.scale = X;
      this.unscale = (pixel) => Math.min(x1, Math.max(x0, x0 + ((pixel - PAD.left) / (width - PAD.left - PAD.right)) * (x1 - x0)));
      for (const tick of ticks(s0, s1, 5)) {
        const value = state.log ? 10 ** tick : tick;
        this.svg.append(make("line", { class: "grid", x1: PAD.left, x2: width - PAD.right, y1: Y(value), y2: Y(value) }));
        this.svg.append(make("text", { x: PAD.left - 6, y: Y(value) + 4, "text-anchor": "end" }, shown(value)));
      }
      for (const tick of ticks(x0, x1, Math.max(2, width / 90))) {
        this.svg.append(make("text", { x: X(tick), y: HEIGHT - 8, "text-anchor": "middle" }, shown(tick)));
      }
      for (const finding of [...this.spec.findings].reverse()) this.mark(finding, X);
      for (const line of lines) {
        const path = (values) => {
          let drawn = "", pen = false;
          line.at.forEach((at, index) => {
            const value = kept(values[index]);
            if (value === null || at === null) { pen = false; return; }
            drawn += `${pen ? "L" : "M"}${X(at).toFixed(1)} ${Y(value).toFixed(1)}`;
            pen = true;
          });
          return drawn;
        };
        const add = (values, kind) => {
          const node = make("path", { d: path(values), fill: "none", "stroke-width": 1.6, class: kind, "stroke-linejoin": "round" });
          node.style.stroke = color(line.run);
          if (DASHES[line.split]) node.setAttribute("stroke-dasharray", DASHES[line.split]);
          this.svg.append(node);
        };
        if (line.low) {
          line.at.forEach((at, index) => {
            const [low, high] = [kept(line.low[index]), kept(line.high[index])];
            if (low === null || high === null || at === null || low === high) return;
            const bar = make("line", { x1: X(at), x2: X(at), y1: Y(low), y2: Y(high), class: "faint" });
            bar.style.stroke = color(line.run);
            this.svg.append(bar);
          });
        }
        if (state.smoothing) add(line.raw, "faint");
        add(line.y, "line");
        if (line.at.length <= 30) {
          line.at.forEach((at, index) => {
            const value = kept(line.y[index]);
            if (value === null || at === null) return;
            const dot = make("circle", { cx: X(at), cy: Y(value), r: 2.4 });
            dot.style.fill = color(line.run);
            this.svg.append(dot);
          });
        }
      }
      this.rule = make("line", { class: "cursor", y1: PAD.top, y2: HEIGHT - PAD.bottom, visibility: "hidden" });
      this.svg.append(this.rule);
    }

    mark(finding, X) {
      if (state.hidden.has(finding.run)) return;
      const [first, last] = state.axis === "t" ? finding.times ?? [null, null] : finding.steps;
      if (first === null || last === null) return;
      const link = make("a", { href: `#finding-${finding.number}`, class: `finding ${finding.level}`, "aria-label": finding.text });
      const [from, to] = [first, last].map((at) => X(Math.min(Math.max(at, this.range[0]), this.range[1])));
      link.append(make("title", {}, finding.text));
      link.append(make("rect", { x: from, y: PAD.top, width: Math.max(1, to - from), height: HEIGHT - PAD.top - PAD.bottom }));
      link.append(make("line", { x1: from, x2: from, y1: PAD.top, y2: HEIGHT - PAD.bottom }));
      link.append(make("path", { d: `M${from - 6} 2h12l-6 11z` }));
      this.svg.append(link);
    }

    point(at) {
      this.cursor = at;
      if (!this.range || at === null || !this.rule) {
        this.rule?.setAttribute("visibility", "hidden");
        this.readout.textContent = "";
        return;
      }
      this.rule.setAttribute("visibility", "visible");
      this.rule.setAttribute("x1", this.scale(at));
      this.rule.setAttribute("x2", this.scale(at));
      const values = this.drawn.map((line) => {
        let best = 0;
        line.at.forEach((other, index) => {
          if (other !== null && Math.abs(other - at) < Math.abs((line.at[best] ?? Infinity) - at)) best = index;
        });
        return `${data.runs[line.run]}${line.split ? ` ${line.split}` : ""}: ${shown(line.y[best])}`;
      });
      this.readout.textContent = `${state.axis === "t" ? "second" : "step"} ${shown(at)}   ${values.join("   ")}`;
    }
  }

  const charts = [...document.querySelectorAll(".chart")].map((figure) => new Chart(figure, data.charts[+figure.dataset.chart]));
  const visible = new Set();
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const chart = charts.find((candidate) => candidate.figure === entry.target);
      if (entry.isIntersecting) { visible.add(chart); chart.draw(); } else visible.delete(chart);
    }
  }, { rootMargin: "200px" });
  charts.forEach((chart) => observer.observe(chart.figure));
  const redraw = () => visible.forEach((chart) => chart.draw());
  window.addEventListener("resize", redraw);
  window.addEventListener("beforeprint", () => charts.forEach((chart) => chart.draw()));

  if (charts.length) {
    $("smoothing").addEventListener("input", (event) => {
      state.smoothing = +event.target.value;
      $("smoothing-value").textContent = state.smoothing.toFixed(2);
      redraw();
    });
    $("axis").addEventListener("change", (event) => { state.axis = event.target.value; redraw(); });
    $("log").addEventListener("change", (event) => { state.log = event.target.checked; redraw(); });
    $("filter").addEventListener("input", (event) => {
      const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      charts.forEach((chart) => {
        const fits = words.every((word) => chart.spec.title.toLowerCase().includes(word));
        chart.figure.hidden = !fits;
        count += fits;
      });
      $("filter-count").textContent = `${count} of ${charts.length} charts`;
    });
  }
  document.querySelectorAll("[data-run]").forEach((box) => box.addEventListener("change", () => {
    const run = +box.dataset.run;
    if (box.checked) state.hidden.delete(run); else state.hidden.add(run);
    document.querySelectorAll(`[data-of-run="${run}"]`).forEach((node) => { node.hidden = !box.checked; });
    redraw();
  }));

  // ---- the listener's checklist ----
  $("export")?.addEventListener("click", () => {
    const samples = [...document.querySelectorAll(".checklist")].map((list) => ({
      run: list.dataset.runName,
      sample: list.dataset.sample,
      ...Object.fromEntries([...list.querySelectorAll("input[type=checkbox]")].map((box) => [box.name, box.checked])),
      note: list.querySelector("input[type=text]").value,
    }));
    const text = JSON.stringify({ page: document.title, listened: new Date().toISOString(), samples }, null, 2) + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "checklist.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
})();
