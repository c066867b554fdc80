"use strict";
(() => {
  const trace = JSON.parse(document.getElementById("trace").textContent);
  const COLOURS = { step: "#5d6d7e", state: "#3f6fd1", work: "#1f9aa8", message: "#8757c9", journal: "#b98a1d",
    command: "#2e9e5b" };
  const LABELS = 250, AXIS = 26, ROW = 18, LUN_ROW = 13, HEAD = 24;
  const SVG = "http://www.w3.org/2000/svg";
  const chart = document.getElementById("chart");
  const tip = document.body.appendChild(document.createElement("div"));
  tip.id = "tip";
  const whole = [-0.02 * trace.length, 1.02 * trace.length || 1];
  let view = whole.slice();
  let together = trace.rows.filter((row) => row.lun).length > 64;

  const make = (name, attributes, text) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const width = () => Math.max(chart.clientWidth, 600);
  const scale = () => (width() - LABELS) / (view[1] - view[0]);
  const x = (at) => LABELS + (at - view[0]) * scale();
  const time = (value, step) => {
    const digits = Math.max(0, Math.min(4, -Math.floor(Math.log10(step || 1))));
    return Math.abs(value) >= 10000 && step >= 100 ? `${(value / 1000).toFixed(Math.max(0, digits + 1))} s`
      : `${value.toFixed(digits)} ms`;
  };

  // rows of LUNs drawn over one another, where there are many
  const rows = () => {
    if (!together) return trace.rows;
    const found = [];
    for (const row of trace.rows) {
      const last = found[found.length - 1];
      if (!row.lun) found.push(row);
      else if (last && last.folded && last.host === row.host) {
        last.bars = last.bars.concat(row.bars.map((bar) => bar.concat(row.title)));
        last.count += 1;
        last.title = `${last.count} rows of LUNs`;
      } else {
        found.push({ ...row, lun: false, folded: true, count: 1, title: "1 row of LUNs",
          bars: row.bars.map((bar) => bar.concat(row.title)) });
      }
    }
    return found;
  };

  const ticks = () => {
    const rough = (view[1] - view[0]) / Math.max(3, (width() - LABELS) / 110);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((each) => each * power >= rough);
    const found = [];
    for (let at = Math.ceil(view[0] / step) * step; at <= view[1]; at += step) found.push([at, time(at, step)]);
    return found;
  };

  const draw = () => {
    const shown = rows();
    let y = AXIS, host = "";
    const svg = make("svg", { width: width() });
    const plot = make("g", {}), labels = make("g", {}), axis = make("g", { class: "axis" });
    for (const row of shown) {
      if (row.host !== host) {
        host = row.host;
        labels.append(make("line", { class: "edge", x1: 0, x2: width(), y1: y + 2, y2: y + 2 }));
        labels.append(make("text", { class: "host", x: 10, y: y + HEAD - 6 }, host));
        y += HEAD;
      }
      const high = row.lun ? LUN_ROW : ROW;
      labels.append(make("text", { class: row.lun ? "quiet" : "label", x: 22, y: y + high - 4 }, row.title));
      for (const bar of row.bars) {
        if (bar[1] < view[0] || bar[0] > view[1]) continue;
        const left = Math.max(x(bar[0]), LABELS - 2), right = Math.min(x(bar[1]), width() + 2);
        const box = make("rect", { x: left, y: y + 1, width: Math.max(right - left, 1.2), height: high - 3, rx: 2,
          fill: COLOURS[bar[3]], "fill-opacity": row.folded ? 0.35 : 1 });
        box.bar = bar;
        box.row = row;
        plot.append(box);
        const name = bar[2].replace(/^(state|work|message) /, "");
        if (!row.folded && right - left > 7 * name.length + 8) {
          const kind = row.lun ? "inside small" : "inside";
          plot.append(make("text", { class: kind, x: left + 5, y: y + high - (row.lun ? 4 : 6) }, name));
        }
      }
      row.marks.forEach((mark, number) => {
        const at = x(mark[0]);
        if (at < LABELS - 1 || at > width()) return;
        const sign = make("path", { d: `M${at} ${y + 2}l4.5 ${high - 5}h-9z`, fill: "#d3623f" });
        sign.mark = mark;
        sign.row = row;
        plot.append(sign);
        const name = mark[2] || mark[1];
        const next = number + 1 < row.marks.length ? x(row.marks[number + 1][0]) : Infinity;
        if (next > at + 12 + 6.4 * name.length) {
          plot.append(make("text", { class: "quiet", x: at + 7, y: y + high - 5 }, name));
        }
      });
      y += high;
    }
    const height = y + 8;
    if (trace.standstill) {
      const [begin, end] = trace.standstill.map((at) => Math.min(Math.max(x(at), LABELS), width()));
      axis.append(make("rect", { x: begin, y: 0, width: Math.max(end - begin, 1), height, fill: "var(--still)",
        "fill-opacity": 0.18 }));
    }
    for (const [at, text] of ticks()) {
      axis.append(make("line", { x1: x(at), x2: x(at), y1: AXIS - 6, y2: height }));
      if (x(at) > LABELS + 3.5 * text.length) {
        axis.append(make("text", { x: x(at), y: 14, "text-anchor": "middle" }, text));
      }
    }
    labels.prepend(make("rect", { class: "back", x: 0, y: 0, width: LABELS - 1, height }));
    svg.setAttribute("height", height);
    svg.append(axis, plot, labels);
    chart.replaceChildren(svg);
  };

  let waiting = false;
  const redraw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
  const show = (begin, end) => {
    const least = 0.002;
    const middle = (begin + end) / 2, half = Math.max(end - begin, least) / 2;
    view = [middle - half, middle + half];
    redraw();
  };
  const around = (begin, end) => show(begin - 0.05 * (end - begin), end + 0.05 * (end - begin));
  const zoom = (factor, at) => show(at - (at - view[0]) * factor, at + (view[1] - at) * factor);
  const middle = () => (view[0] + view[1]) / 2;
  const under = (event) => view[0] + (event.clientX - chart.getBoundingClientRect().left - LABELS) / scale();

  chart.addEventListener("wheel", (event) => {
    if (event.shiftKey || event.clientX - chart.getBoundingClientRect().left < LABELS) return;
    event.preventDefault();
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      show(view[0] + event.deltaX / scale(), view[1] + event.deltaX / scale());
    } else zoom(1.0015 ** event.deltaY, under(event));
  }, { passive: false });
  let held = null;
  chart.addEventListener("pointerdown", (event) => {
    held = { x: event.clientX, y: event.clientY, view: view.slice(), scroll: window.scrollY };
  });
  window.addEventListener("pointermove", (event) => {
    if (!held) return;
    const moved = (event.clientX - held.x) / scale();
    show(held.view[0] - moved, held.view[1] - moved);
    window.scrollTo(window.scrollX, held.scroll - (event.clientY - held.y));
  });
  window.addEventListener("pointerup", () => { held = null; });
  chart.addEventListener("dblclick", (event) => {
    if (event.target.bar) around(event.target.bar[0], event.target.bar[1]);
  });
  chart.addEventListener("mousemove", (event) => {
    const { bar, mark, row } = event.target;
    tip.style.display = (bar || mark) && !held ? "block" : "none";
    if (!bar && !mark) return;
    const lines = bar
      ? [bar[2], row.host, bar[5] || (row.lun ? row.title : ""), bar[4],
        `${(bar[1] - bar[0]).toFixed(3)} ms, from ${bar[0].toFixed(3)} to ${bar[1].toFixed(3)}`]
      : [mark[1], row.host, mark[2], `at ${mark[0].toFixed(3)} ms`];
    tip.textContent = lines.filter((line) => line).join("\n");
    tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - 320)}px`;
    tip.style.top = `${event.clientY + 14}px`;
  });
  chart.addEventListener("mouseleave", () => { tip.style.display = "none"; });
  window.addEventListener("keydown", (event) => {
    const step = 0.15 * (view[1] - view[0]);
    const keys = {
      "+": () => zoom(0.7, middle()), "=": () => zoom(0.7, middle()), "-": () => zoom(1 / 0.7, middle()),
      ArrowLeft: () => show(view[0] - step, view[1] - step), ArrowRight: () => show(view[0] + step, view[1] + step),
      0: () => show(...whole),
    };
    if (keys[event.key]) {
      keys[event.key]();
      event.preventDefault();
    }
  });
  window.addEventListener("resize", redraw);

  const tools = document.getElementById("tools");
  const button = (text, action) => {
    const made = document.createElement("button");
    made.textContent = text;
    made.addEventListener("click", action);
    tools.append(made);
    return made;
  };
  button("All", () => show(...whole));
  for (const [title, begin, end] of trace.views) button(title, () => around(begin, end));
  button("+", () => zoom(0.6, middle()));
  button("−", () => zoom(1 / 0.6, middle()));
  if (trace.rows.some((row) => row.lun)) {
    const words = () => (together ? "Each LUN in its row" : "LUNs in one row");
    const toggle = button(words(), () => {
      together = !together;
      toggle.textContent = words();
      redraw();
    });
  }
  const key = document.createElement("span");
  key.className = "key";
  const names = { step: "step of the driver", state: "state", work: "work on all LUNs", message: "message",
    journal: "journal", command: "round trip to a LUN" };
  for (const [kind, name] of Object.entries(names)) {
    const colour = document.createElement("i");
    colour.style.background = COLOURS[kind];
    key.append(colour, name);
  }
  tools.append(key);
  draw();
})();
