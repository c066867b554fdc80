// Draws what the hosts say of a handover: a row for each kind of span of each host, on one axis of time.

const SVG = "http://www.w3.org/2000/svg";
const ROW = 22, LEFT = 210, WIDTH = 900, TOP = 26;

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function kind(name) {
  return name.startsWith("state ") ? "state" : name.startsWith("message ") ? "message" : "work";
}

export function timeline(handovers) {
  const spans = handovers.flatMap(each => each.spans);
  if (!spans.length) return null;
  const began = Math.min(...spans.map(each => each.began));
  const ended = Math.max(...spans.map(each => each.ended), began + 0.001);
  const at = seconds => LEFT + (seconds - began) / (ended - began) * (WIDTH - LEFT - 10);
  const rows = new Map();
  for (const span of spans) {
    const title = `${span.host}: ${span.name}`;
    if (!rows.has(title)) rows.set(title, []);
    rows.get(title).push(span);
  }
  const ordered = [...rows].sort((a, b) => a[1][0].began - b[1][0].began);
  const height = TOP + ordered.length * ROW + 8;
  const svg = shape("svg", {
    viewBox: `0 0 ${WIDTH} ${height}`, role: "img",
    "aria-label": `Timeline of the handover: ${ordered.length} kinds of work in ${ms(ended - began)}`,
  });
  for (let part = 0; part <= 4; part++) {
    const seconds = began + (ended - began) * part / 4;
    const x = at(seconds);
    svg.append(shape("line", {x1: x, x2: x, y1: TOP - 6, y2: height, stroke: "var(--line)"}));
    svg.append(shape("text", {
      x, y: 14, class: "small", "text-anchor": part === 4 ? "end" : part ? "middle" : "start",
    }, ms(seconds - began)));
  }
  ordered.forEach(([title, list], number) => {
    const y = TOP + number * ROW;
    svg.append(shape("text", {x: 0, y: y + 14, class: "small"}, title.length > 34 ? title.slice(0, 33) + "…" : title));
    for (const span of list) {
      const bar = shape("rect", {
        x: at(span.began), y: y + 3, height: ROW - 7, rx: 2, class: `span ${kind(span.name)}`,
        width: Math.max(at(span.ended) - at(span.began), 2),
      });
      bar.append(shape("title", {}, `${title}${span.lun ? " on " + span.lun : ""}: ${ms(span.ended - span.began)}`));
      svg.append(bar);
    }
  });
  return svg;
}

function ms(seconds) {
  return seconds >= 10 ? `${seconds.toFixed(1)} s` : `${(seconds * 1000).toFixed(1)} ms`;
}
